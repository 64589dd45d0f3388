"""What the commands share of PAM: its options, what is kept of a fit, its figure and its lines of text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from mcjax import plotting
from mcjax.curves import PamConfig, PamFit

REPORTED = ("objective", "proposed", "proximal", "accepted", "moved")


@dataclass(frozen=True)
class PamOptions:
    """How to learn permutations with the curve, with --pam alone."""

    iterations: int = field(default=PamConfig.iterations)
    """Iterations of a permutation half-step and a curve half-step; --epochs are shared out among them, rounded up."""
    permutation_epochs: int | None = None
    """Epochs of one permutation half-step (None: half of those of a curve half-step, as in the paper)."""
    permutation_learning_rate: float | None = None
    """Learning rate of the matrices (None: found from the gradient's size)."""
    nu_p: float = PamConfig.nu_P
    """Proximal parameter of the permutations: a unit that moves costs 1 / nu."""
    nu_phi: float = PamConfig.nu_phi
    """Proximal parameter of the control points."""
    projection: Literal["alternating", "sinkhorn"] = PamConfig.projection
    """How matrices are kept doubly stochastic."""
    rounding: Literal["assignment", "sampled"] = PamConfig.rounding
    """How matrices become permutations."""
    lookahead: bool = PamConfig.lookahead
    """Take a new permutation only if the curve half-step ends better with it."""

    def config(self, fit: Mapping[str, Any]) -> PamConfig:
        """The PamConfig that spends as many curve epochs in all as `fit`, the arguments of a FitConfig, would."""
        iterations = max(1, self.iterations)
        epochs = -(-fit["epochs"] // iterations)
        halved = -(-epochs // 2) if self.permutation_epochs is None else self.permutation_epochs
        own = {name: value for name, value in vars(self).items() if name != "nu_p"}
        return PamConfig(**{**fit, **own, "nu_P": self.nu_p, "epochs": epochs, "permutation_epochs": halved})


def results_of(fit: PamFit) -> dict[str, Any]:
    """What is kept of a fit beside its curve, for JSON: an array of every pair, or one where there is one pair."""
    return {name: np.asarray(getattr(fit, name)).tolist() for name in REPORTED}


def figure(fits: Mapping[str, PamFit], title: str) -> Figure:
    """The objective after every half-step of some fits: those whose names end in `unaligned` in its colour."""
    steps = {
        name: plotting.HalfSteps(fit.objective, fit.proposed, fit.accepted, color_of(name))
        for name, fit in fits.items()
    }
    return plotting.alternation(steps, title)


def training_figure(fits: Mapping[str, PamFit], config: PamConfig, title: str) -> Figure:
    """The train loss over the half-steps of some fits, in the same colours."""
    losses = {name: (fit.history["loss"], color_of(name)) for name, fit in fits.items()}
    return plotting.alternating_training(losses, (config.permutation_epochs, config.epochs), title)


def color_of(name: str) -> str:
    """The colour of a class of paths: one for those whose names end in `unaligned`, one for all others."""
    return plotting.UNALIGNED if name.endswith("unaligned") else plotting.ALIGNED


def lines(name: str, results: Mapping[str, Any]) -> str:
    """The objective after every half-step, mean over pairs, and what was refused, in two lines."""
    objective, accepted, moved = (np.atleast_2d(results[key]) for key in ("objective", "accepted", "moved"))
    half_steps = [f"{which}{k + 1}" for k in range(accepted.shape[1] // 2) for which in ("P", "c")]
    values = ", ".join(f"{n} {value:.4f}" for n, value in zip(["start", *half_steps], objective.mean(0), strict=True))
    refused = [" ".join(map(str, (~accepted[:, half::2]).sum(0))) for half in range(2)]
    units = " ".join(f"{count:g}" for count in np.round(moved[:, ::2].mean(0), 1))
    return (
        f"{name}: Q + R {values}\n  of {len(accepted)}, iteration by iteration: P refused {refused[0]}; "
        f"curves refused {refused[1]}; units that P would move {units}"
    )
