"""`mcjax connect`: fit and measure a low-loss curve between two networks."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import tyro
from jax.sharding import Mesh

from mcjax import plotting, trees
from mcjax.commands.devices import DeviceOptions
from mcjax.commands.match import check_groups, match_units
from mcjax.commands.networks import Network, read_networks
from mcjax.commands.options import DataOptions, ModelOptions, Out, TrainOptions, as_json, open_run, seed_key
from mcjax.commands.pam import PamOptions, pam_figure, pam_results, pam_training_figure
from mcjax.commands.paths import EvaluateOptions, finish_path, report_path, save_curve
from mcjax.curves import Curve, FitConfig, PamConfig, bezier, fit_curve, fit_pam, linear, polygonal_chain
from mcjax.errors import InputError
from mcjax.runs import Recorder
from mcjax.runs.folder import RunFolder
from mcjax.symmetry import Permutation, identity_permutation, load_permutation
from mcjax.symmetry.permutation import check_permutation, is_hard, save_permutation
from mcjax.training import Task, supervised
from mcjax.training.loop import epoch_plan

Problem = tuple[jax.Array, Task, Curve, trees.Tree, trees.Tree, Permutation]
"""The arguments of `fit_curve` and `fit_pam`: key, task, curve, theta_1, theta_2, P."""


@dataclass(frozen=True)
class CurveTraining(TrainOptions):
    """Training of curves."""

    preset: Literal["fast", "paper"] = "fast"
    """fast: 30 epochs in one cycle, or with --pam 4 iterations of 4 epochs of the permutation and 8 of the curve.
    paper: 200 epochs, learning rate halved every 20, or with --pam 4 iterations of 20 and 40 epochs."""
    epochs: int | None = None
    """Passes over the training images; with --pam those of the curve in all iterations together, shared out among
    them, rounded up (None: the preset's)."""


@dataclass(frozen=True)
class Connect:
    """Fit a curve between network A and network B, and measure loss and accuracy along it."""

    a: tyro.conf.Positional[str]
    """Checkpoint or run folder of theta_1; RUN/0 is the first network of a run."""
    b: tyro.conf.Positional[str]
    """Checkpoint or run folder of theta_2."""
    images: DataOptions = field(default_factory=DataOptions)
    architecture: ModelOptions = field(default_factory=ModelOptions)
    training: CurveTraining = field(default_factory=CurveTraining)
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
    """An .npz with a permutation of B, one array for each group, int32 (n) or float (n, n), instead of matching (None:
    match, or the identity with --no-align)."""
    seed: int = 0
    """Seed of the fit."""
    out: Out = None

    def run(self) -> None:
        """Run the command, resume it, or report its results."""
        mesh = self.devices.start(self.training.batch_size)
        key = seed_key(self.seed)
        (a, b), dataset, images = read_networks((self.a, self.b), self.architecture, self.images)
        given = self._given_permutation(a)
        curve = self._curve(a)
        config = self._config(a, b, curve)
        augmentation = self.training.augmentation(dataset)
        task = supervised(a.model, dataset, augmentation=augmentation)
        self.measuring.check(task)
        if curve.control_points:
            fitted = config.curve if isinstance(config, PamConfig) else config
            epoch_plan(task, fitted.batch_size, fitted.steps_per_epoch)
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
                "config": as_json(config, augmentation),
                "measuring": vars(self.measuring),
                "P": trees.fingerprint(given) if given is not None else ("activations" if self.align else "identity"),
            },
        )
        if run.results is None:
            P = given if given is not None else self._match(a, b, task)
            problem = (key, task, curve, a.theta, b.theta, P)
            path, learned = self._fit(run, problem, config, mesh)
            about = {
                "model": a.about["model"],
                "data": images,
                "curve": {"kind": curve.kind, "control_points": curve.control_points},
                "augmentation": vars(augmentation),
            }
            save_curve(run, path, about)
            metrics = self.measuring.evaluate(task, path, mesh)
            finish_path(run, metrics, f"{task.name}: {self.curve}, {self._how()}", **learned)
        run.report(partial(report_path, run.path))

    def _given_permutation(self, a: Network) -> Permutation | None:
        """The permutation of --permutation, checked; None without the option."""
        if not self.permutation:
            if self.align:
                check_groups(a.model)
            return None
        given = load_permutation(self.permutation)
        check_permutation(a.model.spec, given, a.model.spec.group_sizes(a.theta))
        if soft := [group for group, p in given.items() if self.pam and not is_hard(p)]:
            raise InputError(f"--pam starts from a hard permutation: got matrices for {', '.join(soft)}.")
        return given

    def _curve(self, a: Network) -> Curve:
        for option, value, curve in (("--degree", self.degree, "bezier"), ("--bends", self.bends, "chain")):
            if value is not None and self.curve != curve:
                raise InputError(f"{option} is for --curve {curve}: got --curve {self.curve}.")
        spec = a.model.spec
        if self.curve == "line":
            # Augmentation is read when batch statistics are re-estimated along the line.
            fitting = replace(self.training, flip="auto", crop=None, rotate=None) != CurveTraining()
            if not self.pam and (fitting or self.points_per_step != 1):
                raise InputError(
                    "--preset, --epochs, --batch-size, --points-per-step, rates and the other options of training are "
                    "for curves that are fitted: got --curve line, which is measured alone."
                )
            return linear(spec)
        if self.curve == "bezier":
            return bezier(spec, 2 if self.degree is None else self.degree)
        return polygonal_chain(spec, 1 if self.bends is None else self.bends)

    def _config(self, a: Network, b: Network, curve: Curve) -> FitConfig | PamConfig:
        if not self.pam:
            if self.alternation != PamOptions():
                raise InputError(
                    "--iterations, --permutation-epochs, --nu-p and the other options of PAM need --pam: give it too."
                )
            preset = FitConfig.preset(self.training.preset)
            return self.training.change(preset, points_per_step=self.points_per_step)
        if not curve.control_points:
            raise InputError(
                f"--pam learns a curve together with P: got a {self.curve} without control points, expected --curve "
                "bezier of a --degree of at least 2, or chain of at least one of --bends."
            )
        check_groups(a.model)
        if trees.fingerprint(a.theta) == trees.fingerprint(b.theta):
            raise InputError(f"{self.a} and {self.b} are the same network: expected two different ones to join.")
        return self.alternation.config(self.training, self.points_per_step)

    def _match(self, a: Network, b: Network, task: Task) -> Permutation:
        return match_units(task, a.theta, b.theta).P if self.align else identity_permutation(a.model.spec, a.theta)

    def _fit(
        self, run: RunFolder, problem: Problem, config: FitConfig | PamConfig, mesh: Mesh | None
    ) -> tuple[Any, dict[str, Any]]:
        """The path of the line or of the fitted curve, and the results of PAM. Writes figures, and the P of PAM."""
        _, task, curve, theta_1, theta_2, P = problem
        if not curve.control_points:
            return curve.bind(theta_1, theta_2, None, P), {}
        recorder = Recorder(f"fitting a {self.curve}", run, "fit")
        if not isinstance(config, PamConfig):
            fit = fit_curve(*problem, config, recorder=recorder, mesh=mesh)
            run.figure("training", plotting.training(fit.history, f"{self.curve} fit"))
            return fit.path, {}
        learned = fit_pam(*problem, config, recorder=recorder, mesh=mesh)
        run.write("permutation.npz", lambda file: save_permutation(file, learned.P))
        named = {self._how(): learned}
        run.figure("pam", pam_figure(named, f"{self.curve}, {task.name}"))
        run.figure("training", pam_training_figure(named, config, f"{self.curve} fit"))
        return learned.path, {"pam": pam_results(learned)}

    def _how(self) -> str:
        """The alignment of B, for titles."""
        how = "permuted as given" if self.permutation else ("aligned" if self.align else "unaligned")
        return f"PAM, {how}" if self.pam else how
