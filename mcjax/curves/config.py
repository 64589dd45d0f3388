"""How PAM alternates: iterations, learning rates, proximal terms, projection and rounding."""

from dataclasses import dataclass, replace
from typing import Any

from mcjax.curves.fit import FitConfig
from mcjax.curves.pam_step import Projection
from mcjax.curves.rounding import Rounding
from mcjax.errors import InputError, check_whole, unknown_name

TRAVEL = {"alternating": 15.0, "sinkhorn": 300.0}
"""How far an entry of P would move in a half-step if its gradient stayed as it is at the start: well
beyond the 1 that a permutation needs, for the gradient fades. On the digits any value from 10 to 40
does, and 10 times more for logarithms."""


@dataclass(frozen=True)
class PamConfig(FitConfig):
    """`iterations` of a permutation half-step and a curve half-step, as many and as long as in the paper (4.1.2).

    epochs, points_per_step: of one curve half-step. The learning rate's schedule runs over all epochs,
    iterations * epochs, and so is annealed over iterations.
    permutation_epochs: of one permutation half-step.
    permutation_learning_rate: of plain SGD on the matrices. It goes to zero linearly within a
    half-step, and is multiplied by `annealing` from one iteration to the next. None finds it, pair by
    pair and group by group: where PAM starts, the mean gradient over the objective's images and grid is
    taken, less what the sums of rows and columns forbid, and the rate is such that an entry with the
    root mean square of it would travel a distance of 15 in the first half-step, were the gradient to
    stay (300 in logarithms with "sinkhorn"); 0.15 (3) a step at most. No step moves an entry by more
    than 1/2.
    nu_P, nu_phi: of the proximal terms ||P - P_k||^2 / (2 nu_P), which is 1 / nu_P for every unit that
    moves, and ||theta_c - theta_c_k||^2 / (2 nu_phi).
    projection: after each step, "alternating" projects 20 times in turn onto the doubly stochastic
    matrices (the paper); "sinkhorn" is entropic mirror descent.
    rounding: "assignment" (the paper), or "sampled", the best of it and of `samples` draws from the
    matrices' Birkhoff decompositions.
    lookahead: where a new P may be accepted, take the curve half-step from the old P as well, and keep
    the better of the two at its end: a lower straight line is not yet a better curve. It costs a
    second curve half-step, as a rule in the first iteration alone.
    objective_images, objective_points: the fixed images and grid of t by which steps are accepted.
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
        """`paper`: 4 iterations of 20 and 40 epochs, 0.1 halved every 20. `fast`: 4 of 4 and 8 in one cycle."""
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
        for name, choices in (("projection", tuple(TRAVEL)), ("rounding", ("assignment", "sampled"))):
            if getattr(self, name) not in choices:
                raise unknown_name(name, getattr(self, name), choices)
