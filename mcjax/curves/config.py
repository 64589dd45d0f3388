"""Settings of curve fits and of PAM. Frozen, static under jit."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.training.config import TrainConfig

Projection = Literal["alternating", "sinkhorn"]
Rounding = Literal["assignment", "sampled"]


@dataclass(frozen=True)
class FitConfig(TrainConfig):
    """Settings of a curve fit: a `TrainConfig` for the control points, and the number of t per step.

    Attributes:
        points_per_step: Number of t drawn per step; the gradient is the mean over them.
    """

    points_per_step: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points_per_step < 1:
            raise InputError(f"got points_per_step={self.points_per_step}, expected at least 1.")


@dataclass(frozen=True)
class PamConfig(FitConfig):
    """Settings of PAM. Iterations and epochs are those of the paper (Neuron Alignment, section 4.1.2).

    The fields of `FitConfig` are the settings of the curve half-steps. Their learning rate schedule extends over all
    iterations.

    Attributes:
        epochs: Epochs of one curve half-step.
        iterations: Number of iterations, each a permutation half-step and a curve half-step.
        permutation_epochs: Epochs of one permutation half-step.
        permutation_learning_rate: Learning rate of plain SGD on the matrices. It decays linearly to zero within a
            half-step, and no step moves an entry by more than 1/2. None: a rate per pair and group, from the root mean
            square of the initial gradient, averaged over the objective's images and grid and projected onto the
            tangent space of the doubly stochastic matrices. An entry with such a constant gradient would move by 15
            in the first half-step (300 in logarithms with "sinkhorn"), and by at most 0.15 (3) in the first step.
        annealing: Factor of the permutation learning rate from one iteration to the next, in (0, 1].
        nu_P: Constant of the proximal term ||P - P_k||^2 / (2 nu_P) (eq. 6), which is 1 / nu_P for every unit that
            moves.
        nu_phi: Constant of the proximal term ||theta_c - theta_c_k||^2 / (2 nu_phi) (eq. 6).
        projection: After each step on the matrices, "alternating" makes 20 alternating projections onto the doubly
            stochastic matrices (the paper); "sinkhorn" is entropic mirror descent.
        rounding: "assignment" takes the nearest permutation (the paper). "sampled" takes the best of it and of
            `samples` draws from the matrices' Birkhoff decompositions.
        samples: Number of draws of "sampled".
        lookahead: Whether, if a new P is admissible, the curve half-step is also taken from the old P, and the better
            result kept, since a lower objective before the curve half-step does not imply a better curve after it.
            This costs a second curve half-step, usually in the first iteration only.
        objective_images: Number of fixed training images in the objective, by which half-steps are accepted.
        objective_points: Number of fixed points t in the objective.
    """

    epochs: int = 40
    iterations: int = 4
    permutation_epochs: int = 20
    permutation_learning_rate: float | None = None
    annealing: float = 0.5
    nu_P: float = 1e5
    nu_phi: float = 1e5
    projection: Projection = "alternating"
    rounding: Rounding = "sampled"
    samples: int = 8
    lookahead: bool = True
    objective_images: int = 1000
    objective_points: int = 11

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "PamConfig":
        """Settings by name, with some fields replaced.

        Args:
            name: "paper", 4 iterations of 20 and 40 epochs at a rate of 0.1 halved every 20 (Neuron Alignment, section
                4.1.2); or "fast", 4 iterations of 4 and 8 epochs, in one cycle.
            **changes: Values of the fields to replace.

        Returns:
            The settings.

        Raises:
            InputError: If there is no such preset.
        """
        presets = {"paper": cls(schedule="halving"), "fast": cls(epochs=8, permutation_epochs=4)}
        if name not in presets:
            raise unknown_name("preset", name, presets)
        return replace(presets[name], **changes)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "permutation_epochs", "objective_images", "objective_points"):
            check_whole(name, getattr(self, name))
        for name in ("nu_P", "nu_phi", "permutation_learning_rate"):
            value = getattr(self, name)
            if value is None and name == "permutation_learning_rate":
                continue
            if not isinstance(value, int | float) or not value > 0:
                raise InputError(f"got {name}={value}, expected it to be positive.")
        if not 0 < self.annealing <= 1:
            raise InputError(f"got annealing={self.annealing}, expected it in (0, 1].")
        check_whole("samples", self.samples, 0)
        for name, choices in (("projection", get_args(Projection)), ("rounding", get_args(Rounding))):
            if getattr(self, name) not in choices:
                raise unknown_name(name, getattr(self, name), choices)
