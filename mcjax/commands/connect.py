"""`mcjax connect`: a low-loss curve between two networks, aligned or not, and its measurement."""

import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np
import tyro
from jax.sharding import Mesh

from mcjax import plotting, trees
from mcjax.commands.devices import DeviceOptions
from mcjax.commands.match import check_groups, matched
from mcjax.commands.networks import (
    DataOptions,
    ModelOptions,
    Network,
    Out,
    TrainOptions,
    check_key,
    open_run,
    read_pair,
)
from mcjax.commands.pam import PamOptions, figure, lines, results_of, training_figure
from mcjax.commands.train import as_json
from mcjax.curves import Curve, FitConfig, PamConfig, bezier, fit_curve, fit_pam, linear, polygonal_chain
from mcjax.data import Augmentation, Dataset
from mcjax.errors import InputError
from mcjax.landscape import PathMetrics, barrier, evaluate_path
from mcjax.models import Model
from mcjax.runs import Recorder, checkpoint
from mcjax.runs.folder import RunFolder, writing
from mcjax.runs.tables import table
from mcjax.symmetry import Permutation, identity_permutation, load_permutation
from mcjax.symmetry.permutation import check_doubly_stochastic, check_permutation, is_hard, save_permutation
from mcjax.training.loop import steps_per_epoch
from mcjax.training.objective import check_model_and_data


@dataclass(frozen=True)
class EvaluateOptions:
    """How finely to measure a path."""

    points: int = 61
    """Values of t, equally spaced from 0 to 1."""
    calibration_images: int | None = None
    """Training images to re-estimate batch statistics on at every t (None: all)."""
    eval_batch_size: int = 500
    """Images at a time."""

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise InputError if no path of this model can be measured so: before a folder is made or a curve fitted."""
        check_model_and_data(model, dataset)
        there = len(dataset.train_labels)
        if self.points < 2:
            raise InputError(f"got points={self.points}, expected at least 2.")
        if self.calibration_images is not None and not 0 < self.calibration_images <= there:
            raise InputError(f"got calibration_images={self.calibration_images}, expected 1 to {there}.")
        if self.eval_batch_size < 1:
            raise InputError(f"got eval_batch_size={self.eval_batch_size}, expected at least 1.")

    def evaluate(
        self, model: Model, path: Any, dataset: Dataset, augmentation: Augmentation | None, mesh: Mesh | None = None
    ) -> PathMetrics:
        """Measure a path, with batch statistics of images under this augmentation (None: the data set's own)."""
        images = len(dataset.train_labels) + len(dataset.test_labels)
        print(f"measuring {self.points} points of the path, {images:,} images each", file=sys.stderr, flush=True)
        return evaluate_path(
            model,
            path,
            dataset,
            self.points,
            batch_size=self.eval_batch_size,
            calibration_images=self.calibration_images,
            augmentation=augmentation,
            mesh=mesh,
        )


@dataclass(frozen=True)
class Connect:
    """Fit a curve between network A and network B, and measure loss and accuracy along it."""

    a: tyro.conf.Positional[str]
    """Checkpoint or run folder of theta_1; RUN/0 is the first network of a run."""
    b: tyro.conf.Positional[str]
    """Checkpoint or run folder of theta_2."""
    images: DataOptions = field(default_factory=DataOptions)
    architecture: ModelOptions = field(default_factory=ModelOptions)
    training: TrainOptions = field(default_factory=TrainOptions)
    measuring: EvaluateOptions = field(default_factory=EvaluateOptions)
    devices: DeviceOptions = field(default_factory=DeviceOptions)
    curve: Literal["line", "bezier", "chain"] = "bezier"
    """The family of curves; the line is measured, not fitted."""
    degree: int | None = None
    """Degree of the curve, for bezier alone (None: 2)."""
    bends: int | None = None
    """Bends of the curve, for chain alone (None: 1)."""
    points_per_step: int = 1
    """Values of t that each step averages over."""
    pam: bool = False
    """Learn the permutation of B together with the curve (proximal alternating minimisation)."""
    alternation: PamOptions = field(default_factory=PamOptions)
    align: bool = True
    """Match the units of B to those of A first, by their activations."""
    permutation: str | None = None
    """An .npz with a permutation of B, one array a group, int32 (n) or float (n, n): used instead of matching
    (None: none)."""
    seed: int = 0
    """Seed of the fit."""
    out: Out = None

    def run(self) -> None:
        """Do it, or go on with it, or report what was done."""
        mesh = self.devices.start(self.training.batch_size)
        key = check_key(self.seed)
        a, b, dataset, images = read_pair(self.a, self.b, self.architecture, self.images)
        given = load_permutation(self.permutation) if self.permutation else None
        if given is not None:
            check_permutation(a.model.spec, given, a.model.spec.group_sizes(a.theta))
            check_doubly_stochastic(given)
            if soft := [group for group, p in given.items() if self.pam and not is_hard(p)]:
                raise InputError(f"--pam starts from a hard permutation: got matrices for {', '.join(soft)}.")
        elif self.align:
            check_groups(a.model)
        curve = self._curve(a)
        config = self._config(dataset, a, b)
        self.measuring.check(a.model, dataset)
        if curve.control_points:
            steps_per_epoch(config, dataset)
        run = open_run(
            "connect",
            self.out,
            {
                "model": a.about["model"],
                "theta_1": trees.fingerprint(a.theta),
                "theta_2": trees.fingerprint(b.theta),
                "data": images,
                "seed": self.seed,
                "mesh": self.devices.mesh,
                "curve": [curve.kind, curve.control_points],
                "config": as_json(config),
                "measuring": vars(self.measuring),
                "P": trees.fingerprint(given) if given is not None else ("activations" if self.align else "identity"),
            },
        )
        if run.results is None:
            P = given if given is not None else self._permutation(a, b, dataset)
            path, learned = curve.bind(a.theta, b.theta, None, P), {}
            if curve.control_points:
                recorder = Recorder(f"fitting a {self.curve}", run, "fit")
                ends = (key, a.model, curve, a.theta, b.theta, dataset, P)
                if isinstance(config, PamConfig):
                    pam = fit_pam(*ends, config, recorder=recorder, mesh=mesh)
                    path, learned = pam.path, {"pam": results_of(pam)}
                    with writing(run.path / "permutation.npz"):
                        save_permutation(run.path / "permutation.npz", pam.P)
                    named = {self._how(given): pam}
                    run.figure("pam", figure(named, f"{self.curve} of {a.model.name}, {dataset.name}"))
                    run.figure("training", training_figure(named, config, f"{self.curve} fit"))
                else:
                    fit = fit_curve(*ends, config, recorder=recorder, mesh=mesh)
                    path = fit.path
                    run.figure("training", plotting.training(fit.history, f"{self.curve} fit"))
            about = {
                "model": a.about["model"],
                "data": images,
                "curve": {"kind": curve.kind, "control_points": curve.control_points},
                "augmentation": vars(config.augmentation),
            }
            save_curve(run, path, about)
            metrics = self.measuring.evaluate(a.model, path, dataset, config.augmentation, mesh)
            title = f"{a.model.name} on {dataset.name}: {self.curve}, {self._how(given)}"
            finish_path(run, metrics, title, **learned)
        if "pam" in (run.results or {}):
            print(lines("PAM", (run.results or {})["pam"]))
        report_path(run)

    def _config(self, dataset: Dataset, a: Network, b: Network) -> FitConfig:
        fit = self.training.config(dataset, points_per_step=self.points_per_step)
        if not self.pam:
            if self.alternation != PamOptions():
                raise InputError(
                    "--iterations, --permutation-epochs, --nu-p and their like are for --pam: give it too."
                )
            return FitConfig(**fit)
        if self.curve == "line":
            raise InputError("--pam learns a curve together with P: got --curve line, expected bezier or chain.")
        check_groups(a.model)
        if trees.fingerprint(a.theta) == trees.fingerprint(b.theta):
            raise InputError(f"{self.a} and {self.b} are the same network: expected two different ones to join.")
        return self.alternation.config(fit)

    def _curve(self, a: Network) -> Curve:
        for option, value, curve in (("--degree", self.degree, "bezier"), ("--bends", self.bends, "chain")):
            if value is not None and self.curve != curve:
                raise InputError(f"{option} is for --curve {curve}: got --curve {self.curve}.")
        spec = a.model.spec
        if self.curve == "line":
            return linear(spec)
        if self.curve == "bezier":
            return bezier(spec, 2 if self.degree is None else self.degree)
        return polygonal_chain(spec, 1 if self.bends is None else self.bends)

    def _permutation(self, a: Network, b: Network, dataset: Dataset) -> Permutation:
        return matched(a, b, dataset).P if self.align else identity_permutation(a.model.spec, a.theta)

    def _how(self, given: Permutation | None) -> str:
        how = "permuted as given" if given is not None else ("aligned" if self.align else "unaligned")
        return f"PAM, {how}" if self.pam else how


def save_curve(run: RunFolder, path: jax.tree_util.Partial, about: dict[str, Any]) -> None:
    """Keep everything that the path of a curve is made of as one checkpoint."""
    parts = zip(("theta_1", "theta_2", "theta_c", "P"), path.args, strict=True)
    checkpoint.save(run.checkpoints("curve"), {name: part for name, part in parts if part is not None}, about)


def finish_path(run: RunFolder, metrics: PathMetrics, title: str, **more: Any) -> None:
    """Write the figure and the results of a measured path, and `more` results beside them."""
    line = plotting.Line("train loss, test accuracy", metrics.train_loss, metrics.test_accuracy, plotting.ALIGNED)
    run.figure("path", plotting.along_paths(metrics.ts, [line], title))
    values = {name: np.asarray(value).tolist() for name, value in metrics._asdict().items()}
    summary = {name: {key: float(v) for key, v in columns.items()} for name, columns in metrics.summary().items()}
    barriers = {f"barrier_{name}": float(barrier(metrics, name)) for name in summary}
    run.finish({"summary": summary, **barriers, "length": values["distance"][-1], "along": values, **more})


def report_path(run: RunFolder) -> None:
    """Print the summary of a measured path."""
    results = run.results or {}
    columns = ("start", "end", "min", "max", "mean", "integral")
    rows = [
        [name.replace("_", " "), *(f"{values[column]:.4f}" for column in columns), f"{results[f'barrier_{name}']:.4f}"]
        for name, values in results["summary"].items()
    ]
    print(table(["along the path", *columns, "barrier"], rows))
    print(f"Length {results['length']:.3f}. Written to {run.path}")
