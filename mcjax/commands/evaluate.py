"""`mcjax evaluate`: measure networks, or the curve of a run, on any data set."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import tyro

from mcjax import trees
from mcjax.commands.networks import describe, networks_of, read_model, read_networks
from mcjax.commands.options import DataOptions, ModelOptions, Out, open_run
from mcjax.commands.paths import EvaluateOptions, finish_path, report_path
from mcjax.commands.train import measure, report
from mcjax.curves import Curve
from mcjax.data import Augmentation
from mcjax.errors import InputError
from mcjax.runs import checkpoint
from mcjax.training import supervised


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
        """Run the command, or report its results."""
        target = Path(self.target)
        curve = target / "checkpoints" / "curve"
        if curve.exists():
            self._curve(curve)
        elif checkpoint.is_checkpoint(target) and "curve" in checkpoint.describe(target):
            self._curve(target)
        else:
            self._networks()

    def _networks(self) -> None:
        several = networks_of(Path(self.target))
        paths = [str(path) for path in several] or [self.target]
        networks, dataset, images = read_networks(paths, self.architecture, self.images, one_architecture=False)
        if self.measuring != EvaluateOptions():
            raise InputError(
                "--points, --calibration-images and --eval-batch-size are for the curve of a `mcjax connect` run: "
                f"{self.target} is none."
            )
        # One copy of the images on the device for all tasks.
        dataset = jax.device_put(dataset)
        tasks = {model: supervised(model, dataset) for model in dict.fromkeys(n.model for n in networks)}
        architectures = [n.about["model"] for n in networks]
        fingerprints = [trees.fingerprint(n.theta) for n in networks]
        run = open_run("evaluate", self.out, {"model": architectures, "theta": fingerprints, "data": images})
        if run.results is None:
            run.finish(measure([(tasks[n.model], n.theta) for n in networks]))
        run.report(partial(report, run.path, names=None if several else [self.target]))

    def _curve(self, path: Path) -> None:
        tree, about = checkpoint.load(path), checkpoint.describe(path)
        if "curve" not in about:
            raise InputError(f"{path} does not name its family of curves: expected the curve of a `mcjax connect` run.")
        given = self.images.load() if self.images.data is not None else None
        described = describe(path, about, self.architecture, given[0] if given else None)
        model = read_model(described)
        dataset, images = given or self.images.load(about.get("data"))
        augmentation = Augmentation(**about["augmentation"]) if "augmentation" in about else None
        task = supervised(model, dataset, augmentation=augmentation)
        self.measuring.check(task)
        kind = {"model": described, "curve": about["curve"], "theta": trees.fingerprint(tree)}
        run = open_run("evaluate", self.out, {**kind, "data": images, "measuring": vars(self.measuring)})
        if run.results is None:
            curve = Curve(model.spec, about["curve"]["kind"], about["curve"]["control_points"])
            bound = curve.bind(tree["theta_1"], tree["theta_2"], tree.get("theta_c"), tree.get("P"))
            finish_path(run, self.measuring.evaluate(task, bound), task.name)
        run.report(partial(report_path, run.path))
