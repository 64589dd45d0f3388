"""Options, results, figures and printed summary of PAM."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from mcjax import plotting
from mcjax.curves import PamConfig, PamFit

REPORTED = ("objective", "proposed", "proximal", "accepted", "moved")
"""The fields of a PamFit in results.json."""


@dataclass(frozen=True)
class PamOptions:
    """Permutations learned with the curve; for --pam alone."""

    iterations: int = field(default=PamConfig.iterations)
    """Iterations of a permutation and a curve half-step; --epochs are shared out among them, rounded up."""
    permutation_epochs: int | None = None
    """Epochs of one permutation half-step (None: half of those of a curve half-step, as in the paper)."""
    permutation_learning_rate: float | None = None
    """Learning rate of the matrices (None: by the size of the gradient)."""
    nu_p: float = PamConfig.nu_P
    """Proximal parameter of the permutations: a unit that moves costs 1 / nu."""
    nu_phi: float = PamConfig.nu_phi
    """Proximal parameter of the control points."""
    projection: Literal["alternating", "sinkhorn"] = PamConfig.projection
    """Projection that keeps matrices doubly stochastic."""
    rounding: Literal["assignment", "sampled"] = PamConfig.rounding
    """Rounding of matrices to permutations."""
    lookahead: bool = PamConfig.lookahead
    """Take a new permutation only if the curve half-step ends better with it."""

    def config(self, fit: Mapping[str, Any]) -> PamConfig:
        """The PamConfig with as many curve epochs in all as `fit`, the arguments of a FitConfig."""
        iterations = max(1, self.iterations)
        epochs = -(-fit["epochs"] // iterations)
        halved = -(-epochs // 2) if self.permutation_epochs is None else self.permutation_epochs
        own = {name: value for name, value in vars(self).items() if name != "nu_p"}
        return PamConfig(**{**fit, **own, "nu_P": self.nu_p, "epochs": epochs, "permutation_epochs": halved})


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
    return plotting.pam_training(losses, (config.permutation_epochs, config.epochs), title)


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
