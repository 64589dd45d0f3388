"""Settings of curve fits and of PAM. Frozen, composed, static under jit."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.training.config import SGD, Optimizer, check_config, check_settings, named_preset
from mcjax.training.fit import ComputeDtype

Projection = Literal["alternating", "sinkhorn"]
Rounding = Literal["assignment", "sampled"]


@dataclass(frozen=True)
class FitConfig:
    """Settings of a curve fit; `FitConfig.preset` has "paper" and "fast".

    Attributes:
        epochs: Number of epochs.
        batch_size: Examples per step.
        optimizer: Any optimiser of optax; or a function `(steps, steps_per_epoch)` that makes one, such as `SGD()`.
        weight_decay: Factor of ||params||^2 / 2 of the network r(t) in the training loss.
        steps_per_epoch: Steps per epoch. None: the number of whole batches in the training examples.
        compute_dtype: Dtype of the forward and backward pass.
        points_per_step: Number of t drawn per step; the gradient is the mean over them.
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: Optimizer = field(default_factory=SGD)
    weight_decay: float = 5e-4
    steps_per_epoch: int | None = None
    compute_dtype: ComputeDtype = "float32"
    points_per_step: int = 1

    def __post_init__(self) -> None:
        check_settings(self)
        check_whole("points_per_step", self.points_per_step)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "FitConfig":
        """Settings by name, with some fields replaced.

        Args:
            name: "paper", 200 epochs at a rate of 0.1 halved every 20 (Neuron Alignment, section 4); or "fast", 30
                epochs of one cycle.
            **changes: Values of the fields to replace.

        Returns:
            The settings.

        Raises:
            InputError: If there is no such preset.
        """
        return named_preset(name, {"paper": cls(epochs=200, optimizer=SGD(schedule="halving")), "fast": cls()}, changes)


@dataclass(frozen=True)
class PermutationFitConfig:
    """Settings of PAM's permutation half-step; batches and dtype are those of the curve half-step.

    Attributes:
        epochs: Epochs of one half-step.
        learning_rate: Learning rate of plain SGD on the matrices. It decays linearly to zero within a half-step, and no
            step moves an entry by more than 1/2. None: a rate per pair and group, from the root mean square of the
            initial gradient, averaged over the objective's examples and grid and projected onto the tangent space of
            the doubly stochastic matrices. An entry with such a constant gradient would move by 15 in the first
            half-step (300 in logarithms with "sinkhorn"), and by at most 0.15 (3) in the first step.
        annealing: Factor of the learning rate from one iteration to the next, in (0, 1].
        projection: After each step on the matrices, "alternating" makes 20 alternating projections onto the doubly
            stochastic matrices (the paper); "sinkhorn" is entropic mirror descent.
        rounding: "assignment" takes the nearest permutation (the paper). "sampled" takes the best of it and of
            `samples` draws from the matrices' Birkhoff decompositions.
        samples: Number of draws of "sampled".
    """

    epochs: int = 20
    learning_rate: float | None = None
    annealing: float = 0.5
    projection: Projection = "alternating"
    rounding: Rounding = "sampled"
    samples: int = 8

    def __post_init__(self) -> None:
        check_whole("epochs", self.epochs)
        if self.learning_rate is not None:
            _check_positive("learning_rate", self.learning_rate)
        if not 0 < self.annealing <= 1:
            raise InputError(f"got annealing={self.annealing}, expected it in (0, 1].")
        check_whole("samples", self.samples, 0)
        for name, choices in (("projection", get_args(Projection)), ("rounding", get_args(Rounding))):
            if getattr(self, name) not in choices:
                raise unknown_name(name, str(getattr(self, name)), choices)


@dataclass(frozen=True)
class PamConfig:
    """Settings of PAM. Iterations and epochs are those of the paper (Neuron Alignment, section 4.1.2).

    Attributes:
        curve: Settings of a curve half-step, whose `epochs` are those of one; its schedule extends over all iterations.
        permutation: Settings of a permutation half-step.
        iterations: Number of iterations, each a permutation half-step and a curve half-step.
        nu_P: Constant of the proximal term ||P - P_k||^2 / (2 nu_P) (eq. 6), which is 1 / nu_P for every unit that
            moves.
        nu_phi: Constant of the proximal term ||theta_c - theta_c_k||^2 / (2 nu_phi) (eq. 6).
        lookahead: Whether, if a new P is admissible, the curve half-step is also taken from the old P, and the better
            result kept, since a lower objective before the curve half-step does not imply a better curve after it.
            This costs a second curve half-step, usually in the first iteration only.
        objective_examples: Number of fixed training examples in the objective, by which half-steps are accepted.
        objective_points: Number of fixed points t in the objective.
    """

    curve: FitConfig = field(default_factory=lambda: FitConfig(epochs=40))
    permutation: PermutationFitConfig = field(default_factory=PermutationFitConfig)
    iterations: int = 4
    nu_P: float = 1e5
    nu_phi: float = 1e5
    lookahead: bool = True
    objective_examples: int = 1000
    objective_points: int = 11

    def __post_init__(self) -> None:
        check_config(self.curve, FitConfig)
        check_config(self.permutation, PermutationFitConfig)
        for name in ("iterations", "objective_examples", "objective_points"):
            check_whole(name, getattr(self, name))
        for name in ("nu_P", "nu_phi"):
            _check_positive(name, getattr(self, name))

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
        paper = cls(curve=FitConfig(epochs=40, optimizer=SGD(schedule="halving")))
        fast = cls(curve=FitConfig(epochs=8), permutation=PermutationFitConfig(epochs=4))
        return named_preset(name, {"paper": paper, "fast": fast}, changes)


def _check_positive(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or not value > 0:
        raise InputError(f"got {name}={value}, expected it to be positive.")
