"""How a path to a permutation point is walked. Frozen, static under jit."""

from dataclasses import dataclass
from typing import Literal

from mcjax.errors import InputError, check_whole, unknown_name

Precision = Literal["float64", "float32"]


@dataclass(frozen=True)
class PermutationConfig:
    """The distance of two units goes down in `steps` equal factors to `smallest` of what it was, and then to zero.

    At every distance the loss is minimised in all else by Newton's method (`training/newton.py`): to a gradient norm of
    `tolerance`, at the permutation point of `point_tolerance`, in at most `iterations` steps (three times as many at
    the point) of at most `products` products of the Hessian with a vector each. The
    first `images` training images (None: all), `batch_size` in memory at a time; weight_decay / 2 * ||params||^2 is
    added to the loss, as in training. precision: what is computed in; float64 only where the platform has it.

    bounded: keep the norm of what reads the two units (both vectors together) while they are apart. Without it,
    as published, there is often no minimum: as the distance d goes to zero, opposite output weights that grow as 1 / d
    make a third function out of two units, their derivative, and units that are positively homogeneous come as
    close as they like by shrinking, at no loss at all; both are lost at d = 0, and the path ends in a jump. With it
    everything is continuous in d, and at d = 0 the norm is let go.

    Every point that a minimisation goes to is a knot of the path, so that it follows the valley of the loss; knots:
    how many there is room for, all in memory at once. points: values of t at which the loss is measured between two
    knots, ends included. Where that is above the highest of the minima by more than the share `bump` of their height,
    the path is walked again, in smaller steps wherever the loss would rise too much at once, and that is taken if it
    is whole and lower. stop: end the path at a distance whose minimisation does not converge; otherwise it goes on from
    there, and the result tells which.
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
    bounded: bool = True
    knots: int = 5000
    bump: float = 0.1
    points: int = 5
    stop: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "iterations", "products", "batch_size"):
            check_whole(name, getattr(self, name))
        check_whole("knots", self.knots, 3)
        check_whole("points", self.points, 3)
        if self.images is not None:
            check_whole("images", self.images)
        for name, good, expected in (
            ("smallest", 0 < self.smallest < 1, "a share of the distance in (0, 1)"),
            ("tolerance", self.tolerance > 0, "positive"),
            ("point_tolerance", self.point_tolerance > 0, "positive"),
            ("bump", self.bump > 0, "positive"),
            ("weight_decay", self.weight_decay >= 0, "not negative"),
        ):
            if not good:
                raise InputError(f"got {name}={getattr(self, name)}, expected it to be {expected}.")
        if self.precision not in ("float64", "float32"):
            raise unknown_name("precision", self.precision, ("float64", "float32"))
