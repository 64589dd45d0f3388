"""Configuration of a walk to a permutation point: frozen, static under jit."""

from dataclasses import dataclass
from typing import Literal

from mcjax.errors import InputError, check_whole, unknown_name

Precision = Literal["float64", "float32"]


@dataclass(frozen=True)
class PermutationConfig:
    """How two units of a layer are brought together: Newton's method at a falling distance delta (section 4.1).

    The output norm is held because, as published, there is often no minimum. As delta goes to zero, opposite output
    weights that grow as 1 / delta make a third function, the derivative, out of two units; and positively homogeneous
    units come as close as they like by shrinking, at no loss. Both are lost at delta = 0, and the path ends in a jump.
    With a held norm everything is continuous in delta; at delta = 0 the norm is let go.

    Raises InputError for numbers out of range and unknown precisions.

    Attributes:
        steps: Distances at which the loss is minimised before delta = 0, in equal factors.
        smallest: The last of these distances, as a share of the distance at the start, in (0, 1).
        tolerance: Norm of the gradient at which a minimisation has converged.
        point_tolerance: The same at delta = 0, so that of the permutation point.
        iterations: Newton steps of one minimisation at most; three times as many at delta = 0.
        products: Products of the Hessian with a vector at most, in one Newton step.
        images: How many of the training images the loss is taken over, from the first; None: all.
        batch_size: Images in memory at a time.
        weight_decay: weight_decay / 2 * ||params||^2 is added to the loss, as in training.
        precision: Precision of all computations; "float64" only where the platform has it.
        hold_output_norm: Whether the norm of the two units' output weights, taken together, is held while delta > 0;
            False is as published.
        knots: Room for the knots of a path, all in memory at once. Every point that a minimisation steps to is a knot,
            so that the path follows the valley of the loss.
        rise_tolerance: How far the path may rise above its highest minimum between two minima, as a share of the height
            of that minimum over the lowest. A path that rises higher is walked again in smaller steps of delta.
        points: Values of t at which the loss is measured on the segment between two knots, ends included.
        require_convergence: End the path at a distance whose minimisation does not converge. If False, go on from
            there; the result's `converged` tells which minimisations did.
    """

    steps: int = 200
    smallest: float = 1e-4
    tolerance: float = 1e-6
    point_tolerance: float = 1e-9
    iterations: int = 100
    products: int = 100
    images: int | None = None
    batch_size: int = 1000
    weight_decay: float = 0.0
    precision: Precision = "float64"
    hold_output_norm: bool = True
    knots: int = 5000
    rise_tolerance: float = 0.1
    points: int = 5
    require_convergence: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "iterations", "products", "batch_size"):
            check_whole(name, getattr(self, name))
        for name in ("knots", "points"):
            check_whole(name, getattr(self, name), 3)
        if self.images is not None:
            check_whole("images", self.images)
        for name, good, expected in (
            ("smallest", 0 < self.smallest < 1, "a share of the distance in (0, 1)"),
            ("tolerance", self.tolerance > 0, "positive"),
            ("point_tolerance", self.point_tolerance > 0, "positive"),
            ("rise_tolerance", self.rise_tolerance > 0, "positive"),
            ("weight_decay", self.weight_decay >= 0, "not negative"),
        ):
            if not good:
                raise InputError(f"got {name}={getattr(self, name)}, expected it to be {expected}.")
        if self.precision not in ("float64", "float32"):
            raise unknown_name("precision", self.precision, ("float64", "float32"))
