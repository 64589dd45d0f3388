"""Settings of curve fits and of PAM. Frozen, composed, static under jit."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mcjax.errors import InputError, check_fields, check_positive, check_whole
from mcjax.training.config import SGD, Optimizer, Schedule, check_settings, named_preset
from mcjax.training.fit import ComputeDtype

Projection = Literal["alternating", "sinkhorn"]
Acceptance = Literal["lookahead", "descent", "always"]


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
        learning_rate: Learning rate of plain SGD on the matrices (the paper); or several, with each of which the
            matrices are learned side by side. None: two rates per pair and group, from the root mean square of the
            initial gradient, averaged over the objective's examples and grid and projected onto the tangent space of
            the doubly stochastic matrices. An entry with such a gradient moves by 0.1 or by 0.02 in a step at the
            largest rate of the schedule (its logarithm by 1 or by 0.2 with "sinkhorn"). With "alternating", steps are
            then along the tangent space, and none moves an entry by more than 1/2.
        annealing: Factor of the learning rate from one iteration to the next, in (0, 1].
        schedule: Schedule of the rate within a half-step, as in `SGD`.
        decay: Factor of the rate from one epoch to the next, over the half-steps of all iterations.
        regularized: Whether Q + R is descended, the objective by which half-steps are accepted, rather than Q alone
            (the paper's code).
        projection: After each step on the matrices, "alternating" makes 20 alternating projections onto the doubly
            stochastic matrices (the paper); "sinkhorn" is entropic mirror descent.
        samples: Number of permutations drawn from the matrices' Birkhoff decompositions, of which, and of the nearest
            permutation, the best by Q + R is proposed, and P_k kept if none is better (32 in the paper's code, which
            compares by Q). 0: the nearest alone (the paper's text).
        partial_moves: Whether parts of the way from P_k to the best permutation P' are proposed too: single groups, and
            cycles of P_k^-1 P', alone and together in the order of their gains.
    """

    epochs: int = 20
    learning_rate: float | tuple[float, ...] | None = None
    annealing: float = 0.5
    schedule: Schedule = "linear"
    decay: float = 1.0
    regularized: bool = True
    projection: Projection = "alternating"
    samples: int = 8
    partial_moves: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        check_whole("epochs", self.epochs)
        if isinstance(self.learning_rate, list):
            object.__setattr__(self, "learning_rate", tuple(self.learning_rate))
        for rate in self.learning_rates or ():
            check_positive("learning_rate", rate)
        if self.learning_rate == ():
            raise InputError("got learning_rate=(), expected a rate, several, or None.")
        if not 0 < self.annealing <= 1:
            raise InputError(f"got annealing={self.annealing}, expected it in (0, 1].")
        check_whole("samples", self.samples, 0)
        SGD(schedule=self.schedule, decay=self.decay)  # which checks them

    @property
    def learning_rates(self) -> tuple[float, ...] | None:
        """The rates that were given. None: there were none."""
        rate = self.learning_rate
        return rate if rate is None or isinstance(rate, tuple) else (rate,)

    def rate_factor(self, iteration: int) -> float:
        """Factor of the rate at the start of an iteration: that of annealing, and of decay in all epochs before."""
        return (self.annealing * self.decay**self.epochs) ** iteration

    @property
    def optimizer(self) -> SGD:
        """The schedule of the half-step, as an optimiser whose largest rate is 1."""
        return SGD(1.0, self.schedule, momentum=0.0, decay=self.decay)


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
        acceptance: "descent" accepts a half-step only if Q + R decreases by at least the proximal term, so that part 1
            of Theorem 3.1 holds. With "lookahead" too, but if a new P is accepted, the curve half-step is also taken
            from the old P, and the better result kept, since a lower objective before the curve half-step does not
            imply a better curve after it. This costs a second curve half-step, usually in the first iteration only.
            "always" takes every half-step (the paper's code).
        objective_examples: Number of fixed training examples in the objective, by which half-steps are compared.
        objective_points: Number of fixed points t in the objective.
        norm_bound: Bound of the Euclidean norm of every leaf of the control points' networks, onto which each step is
            projected (eq. 15). None: no bound.
        slopes: Whether the norms of the least subgradients are measured after every iteration (`PamFit.slopes`).
    """

    curve: FitConfig = field(default_factory=lambda: FitConfig(epochs=40))
    permutation: PermutationFitConfig = field(default_factory=PermutationFitConfig)
    iterations: int = 4
    nu_P: float = 1e5
    nu_phi: float = 1e5
    acceptance: Acceptance = "lookahead"
    objective_examples: int = 1000
    objective_points: int = 11
    norm_bound: float | None = None
    slopes: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("iterations", "objective_examples", "objective_points"):
            check_whole(name, getattr(self, name))
        for name in ("nu_P", "nu_phi"):
            check_positive(name, getattr(self, name))
        if self.norm_bound is not None:
            check_positive("norm_bound", self.norm_bound)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "PamConfig":
        """Settings by name, with some fields replaced.

        Args:
            name: "paper", 4 iterations of 20 and 40 epochs at a rate of 0.1 halved every 20 (Neuron Alignment, section
                4.1.2); "published", as long and by the scheme of the paper and its code alone: one rate of 0.05, which
                is halved from one iteration to the next, rates that decay by 0.9996 per epoch, the nearest permutation,
                every half-step taken, nu of 1000; or "fast", 4 iterations of 4 and 8 epochs, in one cycle.
            **changes: Values of the fields to replace.

        Returns:
            The settings.

        Raises:
            InputError: If there is no such preset.
        """
        paper = cls(curve=FitConfig(epochs=40, optimizer=SGD(schedule="halving")))
        fast = cls(curve=FitConfig(epochs=8), permutation=PermutationFitConfig(epochs=4))
        published = replace(
            paper.as_published(), curve=FitConfig(epochs=40, optimizer=SGD(schedule="halving", decay=0.9996))
        )
        return named_preset(name, {"paper": paper, "published": published, "fast": fast}, changes)

    def as_published(self) -> "PamConfig":
        """The published scheme, with the lengths and the curve fit of these settings.

        The paper's rate is halved every 20 epochs, the length of its half-steps: here from each half-step to the next,
        whatever their length. The rest is described at "published" of `preset`.

        Returns:
            The settings.

        Example::

            short = PamConfig.preset("fast").as_published()
        """
        matrices = replace(
            self.permutation,
            learning_rate=0.05,
            annealing=0.5,
            schedule="constant",
            decay=0.9996,
            regularized=False,
            projection="alternating",
            samples=0,
            partial_moves=False,
        )
        return replace(self, permutation=matrices, nu_P=1e3, nu_phi=1e3, acceptance="always")
