"""Options, results, figures and printed summary of PAM."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mcjax import plotting
from mcjax.commands.options import TrainOptions
from mcjax.curves import PamConfig, PamFit, PermutationFitConfig
from mcjax.curves.config import Projection, Rounding
from mcjax.errors import InputError, check_whole

REPORTED = ("objective", "proposed", "proximal", "accepted", "moved")
"""The fields of a PamFit in results.json."""


@dataclass(frozen=True)
class PamOptions:
    """Permutations learned with the curve; for --pam alone."""

    iterations: int = PamConfig.iterations
    """Iterations of a permutation and a curve half-step."""
    permutation_epochs: int | None = None
    """Epochs of one permutation half-step (None: the preset's; with --epochs, half of those of a curve half-step)."""
    permutation_learning_rate: float | None = None
    """Learning rate of the matrices (None: by the size of the gradient)."""
    nu_p: float = PamConfig.nu_P
    """Proximal parameter of the permutations: a unit that moves costs 1 / nu."""
    nu_phi: float = PamConfig.nu_phi
    """Proximal parameter of the control points."""
    projection: Projection = PermutationFitConfig.projection
    """Projection that keeps matrices doubly stochastic."""
    rounding: Rounding = PermutationFitConfig.rounding
    """Rounding of matrices to permutations."""
    lookahead: bool = PamConfig.lookahead
    """Take a new permutation only if the curve half-step ends better with it."""

    def config(self, training: TrainOptions, points_per_step: int = 1) -> PamConfig:
        """The settings of PAM: those of the preset, with the options that were given in their place.

        Epochs that were given are those of all curve half-steps together. They are shared out among the iterations,
        rounded up, and a permutation half-step has half as many as a curve half-step, as in the paper.
        """
        preset = PamConfig.preset(training.preset)
        epochs, halved = preset.curve.epochs, preset.permutation.epochs
        if training.epochs is not None:
            epochs = -(-training.epochs // max(1, self.iterations))
            halved = -(-epochs // 2)
        if self.permutation_epochs is not None:
            check_whole("permutation_epochs", self.permutation_epochs)
            halved = self.permutation_epochs
        if self.permutation_learning_rate is not None and not self.permutation_learning_rate > 0:
            raise InputError(
                f"got permutation_learning_rate={self.permutation_learning_rate}, expected it to be positive."
            )
        return replace(
            preset,
            curve=training.change(preset.curve, epochs=epochs, points_per_step=points_per_step),
            permutation=replace(
                preset.permutation,
                epochs=halved,
                learning_rate=self.permutation_learning_rate,
                projection=self.projection,
                rounding=self.rounding,
            ),
            iterations=self.iterations,
            nu_P=self.nu_p,
            nu_phi=self.nu_phi,
            lookahead=self.lookahead,
        )


def pam_results(fit: PamFit) -> dict[str, Any]:
    """The REPORTED fields of a fit as nested lists, with a leading pair axis if the fit has one."""
    return {name: np.asarray(getattr(fit, name)).tolist() for name in REPORTED}


def pam_figure(fits: Mapping[str, PamFit], title: str) -> Figure:
    """The objective after every half-step of several fits by name, coloured by `color_of`."""
    steps = {
        name: plotting.HalfSteps(fit.objective, fit.proposed, fit.accepted, color_of(name))
        for name, fit in fits.items()
    }
    return plotting.pam_objective(steps, title)


def pam_training_figure(fits: Mapping[str, PamFit], config: PamConfig, title: str) -> Figure:
    """The train loss over the half-steps of several fits by name, coloured by `color_of`."""
    losses = {name: (fit.history["loss"], color_of(name)) for name, fit in fits.items()}
    return plotting.pam_training(losses, (config.permutation.epochs, config.curve.epochs), title)


def color_of(name: str) -> str:
    """The colour of a kind of path: one if its name ends in `unaligned`, another otherwise."""
    return plotting.UNALIGNED if name.endswith("unaligned") else plotting.ALIGNED


def pam_lines(name: str, results: Mapping[str, Any]) -> str:
    """Two lines of text: the mean objective after every half-step, and the refused half-steps."""
    objective, accepted, moved = (np.atleast_2d(results[key]) for key in ("objective", "accepted", "moved"))
    half_steps = [f"{which}{k + 1}" for k in range(accepted.shape[1] // 2) for which in ("P", "c")]
    values = ", ".join(f"{n} {value:.4f}" for n, value in zip(["start", *half_steps], objective.mean(0), strict=True))
    refused = [" ".join(map(str, (~accepted[:, half::2]).sum(0))) for half in range(2)]
    units = " ".join(f"{count:g}" for count in np.round(moved[:, ::2].mean(0), 1))
    return (
        f"{name}: Q + R {values}\n  of {len(accepted)}, iteration by iteration: P refused {refused[0]}; "
        f"curves refused {refused[1]}; units that P would move {units}"
    )
