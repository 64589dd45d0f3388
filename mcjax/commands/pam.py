"""Options, results, figures and printed summary of PAM."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mcjax import plotting
from mcjax.commands.options import TrainOptions, given
from mcjax.curves import PamConfig, PamFit
from mcjax.curves.config import Acceptance, Projection
from mcjax.errors import InputError, check_positive, check_whole
from mcjax.training.config import Schedule

REPORTED = ("objective", "proposed", "distance", "accepted", "moved", "relaxed", "rounded")
"""The fields of a PamFit in results.json; with --slopes also those of its slopes."""


@dataclass(frozen=True)
class PamOptions:
    """Permutations learned with the curve; for --pam alone."""

    published: bool = False
    """The permutation half-step, proximal terms and acceptance of the paper and its code, of which other options change
    parts. The lengths and the curve half-step are the preset's: the paper's whole is --preset paper --published."""
    iterations: int = PamConfig.iterations
    """Iterations of a permutation and a curve half-step."""
    permutation_epochs: int | None = None
    """Epochs of one permutation half-step (None: the preset's; with --epochs, half of those of a curve half-step)."""
    permutation_learning_rate: tuple[float, ...] | None = None
    """Learning rates of the matrices, side by side (None: two by the size of the gradient; published: 0.05)."""
    permutation_schedule: Schedule | None = None
    """Schedule of these rates within a half-step (None: linear; published: constant)."""
    permutation_decay: float | None = None
    """Factor of these rates from epoch to epoch (None: 1; published: 0.9996)."""
    annealing: float | None = None
    """Factor of these rates from iteration to iteration (None: 0.5)."""
    regularized: bool | None = None
    """Whether the L2 term is in what the matrices descend (None: yes; published: no)."""
    projection: Projection | None = None
    """Projection that keeps matrices doubly stochastic (None: alternating)."""
    samples: int | None = None
    """Permutations drawn from the matrices, beside the nearest one (None: 8; published: 0; the paper's code: 32)."""
    partial_moves: bool | None = None
    """Whether parts of the way to a permutation are proposed too (None: yes; published: no)."""
    nu_p: float | None = None
    """Proximal parameter of the permutations: a unit that moves costs 1 / nu (None: 1e5; published: 1e3)."""
    nu_phi: float | None = None
    """Proximal parameter of the control points (None: 1e5; published: 1e3)."""
    acceptance: Acceptance | None = None
    """Half-steps that are taken: descent, those that decrease the objective; lookahead, of these a new permutation only
    if the curve half-step ends better with it; always, all (None: lookahead; published: always)."""
    norm_bound: float | None = None
    """Bound of the norm of every leaf of the control points' networks (None: no bound)."""
    slopes: bool = False
    """Measure the norms of the least subgradients after every iteration."""

    def config(self, training: TrainOptions, points_per_step: int = 1) -> PamConfig:
        """The settings of PAM: those of the preset, with the options that were given in their place.

        Epochs that were given are those of all curve half-steps together. They are shared out among the iterations,
        rounded up, and a permutation half-step has half as many as a curve half-step, as in the paper.
        """
        preset = PamConfig.preset(training.preset)
        if self.published:
            preset = PamConfig.preset("published") if training.preset == "paper" else preset.as_published()
        epochs, halved = preset.curve.epochs, preset.permutation.epochs
        check_whole("iterations", self.iterations)
        for rate in self.permutation_learning_rate or ():
            check_positive("permutation_learning_rate", rate)
        if self.permutation_learning_rate == ():
            raise InputError("got no --permutation-learning-rate, expected one or several.")
        if self.permutation_decay is not None and not 0 < self.permutation_decay <= 1:
            raise InputError(f"got permutation_decay={self.permutation_decay}, expected it in (0, 1].")
        if training.epochs is not None:
            check_whole("epochs", training.epochs)
            epochs = -(-training.epochs // self.iterations)
            halved = -(-epochs // 2)
        if self.permutation_epochs is not None:
            check_whole("permutation_epochs", self.permutation_epochs)
            halved = self.permutation_epochs
        matrices = given(
            learning_rate=self.permutation_learning_rate,
            annealing=self.annealing,
            schedule=self.permutation_schedule,
            decay=self.permutation_decay,
            regularized=self.regularized,
            projection=self.projection,
            samples=self.samples,
            partial_moves=self.partial_moves,
        )
        own = given(nu_P=self.nu_p, nu_phi=self.nu_phi, acceptance=self.acceptance)
        return replace(
            preset,
            curve=training.change(preset.curve, epochs=epochs, points_per_step=points_per_step),
            permutation=replace(preset.permutation, epochs=halved, **matrices),
            iterations=self.iterations,
            norm_bound=self.norm_bound,
            slopes=self.slopes,
            **own,
        )


def pam_results(fit: PamFit) -> dict[str, Any]:
    """The REPORTED fields of a fit as nested lists, with a leading pair axis if the fit has one."""
    slopes = {} if fit.slopes is None else {f"slope_{name}": of.tolist() for name, of in fit.slopes._asdict().items()}
    return {**{name: np.asarray(getattr(fit, name)).tolist() for name in REPORTED}, **slopes}


def pam_figure(fits: Mapping[str, PamFit], title: str) -> Figure:
    """The objective after every half-step of several fits by name, coloured by `color_of`."""
    steps = {
        name: plotting.HalfSteps(fit.objective, fit.proposed, refused(fit.accepted, fit.moved), color_of(name))
        for name, fit in fits.items()
    }
    return plotting.pam_objective(steps, title)


def refused(accepted: Any, moved: Any) -> np.ndarray:
    """Whether half-steps were refused, ([pairs,] 2 * iterations); a permutation that moves no unit is not."""
    accepted, moved = np.asarray(accepted), np.asarray(moved)
    curves = np.arange(accepted.shape[-1]) % 2 == 1
    return ~accepted & ((moved > 0) | curves)


def pam_training_figure(fits: Mapping[str, PamFit], config: PamConfig, title: str) -> Figure:
    """The train loss over the half-steps of several fits by name, coloured by `color_of`."""
    losses = {name: (fit.history["loss"], color_of(name)) for name, fit in fits.items()}
    return plotting.pam_training(losses, (config.permutation.epochs, config.curve.epochs), title)


def color_of(name: str) -> str:
    """The colour of a kind of path: one if its name ends in `unaligned`, another otherwise."""
    return plotting.UNALIGNED if name.endswith("unaligned") else plotting.ALIGNED


def pam_lines(name: str, results: Mapping[str, Any]) -> str:
    """Lines of text: the mean objective after every half-step, what was refused, and the matrices' objective."""
    objective, accepted, moved, relaxed, rounded = (
        np.atleast_2d(results[key]) for key in ("objective", "accepted", "moved", "relaxed", "rounded")
    )
    half_steps = [f"{which}{k + 1}" for k in range(accepted.shape[1] // 2) for which in ("P", "c")]
    values = ", ".join(f"{n} {value:.4f}" for n, value in zip(["start", *half_steps], objective.mean(0), strict=True))
    not_taken = refused(accepted, moved)
    counts = [" ".join(map(str, each.sum(0))) for each in (accepted[:, ::2], not_taken[:, ::2], not_taken[:, 1::2])]
    units = " ".join(f"{count:g}" for count in np.round(moved[:, ::2].mean(0), 1))
    gaps = " ".join(f"{soft:.4f}/{hard:.4f}" for soft, hard in zip(relaxed.mean(0), rounded.mean(0), strict=True))
    return (
        f"{name}: Q + R {values}\n  of {len(accepted)}, iteration by iteration: P accepted {counts[0]}; P refused "
        f"{counts[1]}; curves refused {counts[2]}; units that P would move {units}\n"
        f"  Q + R at the doubly stochastic matrices / at their nearest permutations {gaps}{_slopes(results)}"
    )


def _slopes(results: Mapping[str, Any]) -> str:
    if "slope_P" not in results:
        return ""
    curve, P = (
        " ".join(f"{norm:.4f}" for norm in np.atleast_2d(results[f"slope_{of}"]).mean(0)) for of in ("theta_c", "P")
    )
    return f"\n  norms of the least subgradients at the start and after every iteration: curve {curve}; P {P}"
