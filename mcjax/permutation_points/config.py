"""Configuration of paths to permutation points."""

from dataclasses import dataclass
from typing import Literal

from mcjax.errors import InputError, check_fields, check_whole

Precision = Literal["float64", "float32"]


@dataclass(frozen=True)
class PermutationConfig:
    """Settings of a path to a permutation point: Newton's method at decreasing distances delta (section 4.1).

    The method as published fixes delta alone, and then the loss often has no minimum. As delta goes to zero, two units
    with opposite output weights that grow as 1 / delta approximate a third function, the derivative of one unit; and
    positively homogeneous units come arbitrarily close by shrinking, at no cost. At delta = 0 neither is possible, and
    the path ends in a jump. With `hold_output_norm`, all is continuous in delta; at delta = 0 the norm is free again.

    Raises InputError for numbers out of range and unknown precisions.

    Attributes:
        steps: Number of distances at which the loss is minimised before delta = 0, in equal ratios.
        smallest: The last of these distances, as a share of the distance at the start, in (0, 1).
        tolerance: Gradient norm at which a minimisation has converged.
        point_tolerance: Gradient norm at which the minimisation at delta = 0 has converged.
        iterations: Maximum number of Newton steps in one minimisation; three times as many at delta = 0.
        products: Maximum number of products of the Hessian with a vector in one Newton step.
        examples: Number of training examples in the loss, evenly spaced. None: all.
        batch_size: Examples in memory at once.
        weight_decay: weight_decay / 2 * ||params||^2 is added to the loss, as in training.
        precision: Precision of all computations; "float64" only on platforms that have it.
        hold_output_norm: Whether the joint norm of the two units' output weights is fixed while delta > 0. False: as
            published.
        knots: Maximum number of knots of a path, all in memory at once. Every iterate of a minimisation is a knot, so
            that the path follows the valley of the loss.
        rise_tolerance: How far the path may rise above its highest minimum, as a share of the difference between its
            highest and its lowest minimum. A path that rises higher is computed again in smaller steps of delta.
        points: Values of t at which the loss is measured on each segment between two knots, ends included.
        require_convergence: Whether the path ends at a distance whose minimisation does not converge. If False, it
            continues; `converged` of the result lists the minimisations that converged.
    """

    steps: int = 200
    smallest: float = 1e-4
    tolerance: float = 1e-6
    point_tolerance: float = 1e-9
    iterations: int = 100
    products: int = 100
    examples: int | None = None
    batch_size: int = 1000
    weight_decay: float = 0.0
    precision: Precision = "float64"
    hold_output_norm: bool = True
    knots: int = 5000
    rise_tolerance: float = 0.1
    points: int = 5
    require_convergence: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("steps", "iterations", "products", "batch_size"):
            check_whole(name, getattr(self, name))
        for name in ("knots", "points"):
            check_whole(name, getattr(self, name), 3)
        if self.examples is not None:
            check_whole("examples", self.examples)
        for name, good, expected in (
            ("smallest", 0 < self.smallest < 1, "a share of the distance in (0, 1)"),
            ("tolerance", self.tolerance > 0, "positive"),
            ("point_tolerance", self.point_tolerance > 0, "positive"),
            ("rise_tolerance", self.rise_tolerance > 0, "positive"),
            ("weight_decay", self.weight_decay >= 0, "not negative"),
        ):
            if not good:
                raise InputError(f"got {name}={getattr(self, name)}, expected it to be {expected}.")
