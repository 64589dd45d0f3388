"""`mcjax evaluate`: networks, or the curve of a run, measured on any images."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from mcjax import trees
from mcjax.commands.connect import EvaluateOptions, finish_path, report_path
from mcjax.commands.networks import (
    DataOptions,
    ModelOptions,
    Out,
    networks_of,
    open_run,
    read_model,
    read_network,
)
from mcjax.commands.train import measure, report
from mcjax.curves import Curve
from mcjax.data import Augmentation
from mcjax.errors import InputError
from mcjax.runs import checkpoint
from mcjax.training.objective import check_model_and_data


@dataclass(frozen=True)
class Evaluate:
    """Measure a network, all networks of a run of `mcjax train`, or the curve of a run of `mcjax connect`."""

    target: tyro.conf.Positional[str]
    """Checkpoint or run folder; RUN/0 is the first network of a run."""
    images: DataOptions = field(default_factory=DataOptions)
    architecture: ModelOptions = field(default_factory=ModelOptions)
    measuring: EvaluateOptions = field(default_factory=EvaluateOptions)
    out: Out = None

    def run(self) -> None:
        """Do it, or report what was done."""
        curve = Path(self.target) / "checkpoints" / "curve"
        here = Path(self.target)
        if curve.exists():
            self._curve(curve)
        elif "curve" in (checkpoint.describe(here) if checkpoint.is_checkpoint(here) else {}):
            self._curve(here)
        else:
            self._networks()

    def _networks(self) -> None:
        several = networks_of(Path(self.target))
        paths = [str(path) for path in several] or [self.target]
        given = self.images.load() if self.images.data is not None else None
        networks = [read_network(path, self.architecture, given[0] if given else None) for path in paths]
        dataset, images = given or self.images.load(networks[0].about.get("data"))
        for network in networks:
            check_model_and_data(network.model, dataset)
        described = [n.about["model"] for n in networks]
        marks = [trees.fingerprint(n.theta) for n in networks]
        run = open_run("evaluate", self.out, {"model": described, "theta": marks, "data": images})
        if run.results is None:
            run.finish(measure([(n.model, n.theta) for n in networks], dataset))
        report(run, None if several else [self.target])

    def _curve(self, path: Path) -> None:
        tree, about = checkpoint.load(path), checkpoint.describe(path)
        if "curve" not in about:
            raise InputError(f"{path} does not say what curve it holds: expected one that `mcjax connect` wrote.")
        model = read_model(about["model"])
        dataset, images = self.images.load(about["data"])
        self.measuring.check(model, dataset)
        kind = {"model": about["model"], "curve": about["curve"], "theta": trees.fingerprint(tree)}
        run = open_run("evaluate", self.out, {**kind, "data": images, "measuring": vars(self.measuring)})
        if run.results is None:
            curve = Curve(model.spec, about["curve"]["kind"], about["curve"]["control_points"])
            bound = curve.bind(tree["theta_1"], tree["theta_2"], tree.get("theta_c"), tree.get("P"))
            augmentation = Augmentation(**about["augmentation"]) if "augmentation" in about else None
            metrics = self.measuring.evaluate(model, bound, dataset, augmentation)
            finish_path(run, metrics, f"{model.name} on {dataset.name}")
        report_path(run)
