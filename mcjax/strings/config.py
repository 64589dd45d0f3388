"""Settings of string sampling: the training of beads, the criterion, the scans of segments, and the budgets."""

import math
from dataclasses import dataclass, field
from typing import Literal

import optax

from mcjax.errors import InputError, check_fields, check_whole
from mcjax.strings.certify import Lipschitz
from mcjax.training.config import TrainConfig
from mcjax.training.criterion import Criterion

Insert = Literal["maximum", "middle"]
TRAINING = TrainConfig(epochs=100, optimizer=optax.adam(1e-3), weight_decay=0.0)
"""The default training of a bead: one object, since fits with the same optimiser share their programs."""


@dataclass(frozen=True)
class StringConfig:
    """Settings of dynamic string sampling (Freeman and Bruna 2017, Algorithm 1 and appendix A).

    Attributes:
        training: The training of a bead; `epochs` is the maximum number of epochs of one. The default is Adam at a rate
            of 1e-3 for at most 100 epochs, without weight decay.
        criterion: The criterion, which the threshold bounds.
        alpha: Beads are trained to alpha * threshold.
        tolerance: A segment may rise to (1 + tolerance) * threshold.
        insert: Where a bead starts: at the "maximum" of its segment or in its "middle" (line 7 of Algorithm 1).
        noise: Random displacement of a new bead, as a share of its segment's length, so that it does not stay
            on a ridge.
        zeta: Weight of the distances to both neighbours in a bead's objective. The neighbours are the networks
            between which it was inserted.
        kappa: Weight of the squared distance from the hyperplane equidistant from both neighbours; inf keeps a bead in
            the plane. With kappa, beads start in the middle of their segment, which lies in the plane.
        scan_points: Points of the first grid over a segment, ends included.
        scan_tolerance: Precision of the height of a segment, as a share of it.
        verification_density: Density of the grid that verifies a connected string, as a multiple of the first grid's.
        lipschitz: What must leave no room for a wall between the points of that grid, which is refined where it does: a
            bound on the slope of the criterion, per unit of distance between parameters, which is then a proof up to
            rounding; or "slopes", twice the slopes measured at the points, which finds walls whose feet reach a point,
            and proves nothing. None: the grid alone, which misses any wall between its points. `certify.py` says more.
        beads: Maximum number of beads of a string.
        depth: Maximum number of rounds of insertion.
        chunk: Beads, or segments, in memory at once (None: 16, or 1 where convolutions run faster one after
            another).

    Example::

        training = TrainConfig(epochs=200, optimizer=optax.adam(1e-2), weight_decay=0.0)
        config = StringConfig(training, Criterion("error", "test"), depth=5)
    """

    training: TrainConfig = TRAINING
    criterion: Criterion = field(default_factory=Criterion)
    alpha: float = 0.95
    tolerance: float = 0.01
    insert: Insert = "maximum"
    noise: float = 0.01
    zeta: float = 0.0
    kappa: float = 0.0
    scan_points: int = 21
    scan_tolerance: float = 0.01
    verification_density: int = 10
    lipschitz: Lipschitz = None
    beads: int = 64
    depth: int = 10
    chunk: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name, good, expected in (
            ("alpha", 0 < self.alpha < 1, "between 0 and 1, both excluded"),
            ("tolerance", 0 <= self.tolerance < math.inf, "not negative and finite"),
            ("noise", 0 <= self.noise < math.inf, "not negative and finite"),
            ("scan_tolerance", 0 < self.scan_tolerance < 1, "between 0 and 1"),
        ):
            if not good:
                raise InputError(f"got {name}={getattr(self, name)}, expected it to be {expected}.")
        check_penalties(self.zeta, self.kappa)
        for name, least in (("scan_points", 3), ("verification_density", 1), ("beads", 0), ("depth", 0)):
            check_whole(name, getattr(self, name), least)
        if self.chunk is not None:
            check_whole("chunk", self.chunk)
        if self.lipschitz not in (None, "slopes") and not (
            isinstance(self.lipschitz, int | float) and 0 < self.lipschitz < math.inf
        ):
            raise InputError(f"got lipschitz={self.lipschitz!r}, expected a positive number, 'slopes', or None.")


def check_penalties(zeta: float, kappa: float) -> None:
    """Raise InputError for weights of the penalties of a bead that are out of range."""
    if not 0 <= zeta < math.inf:
        raise InputError(f"got zeta={zeta}, expected it to be not negative and finite.")
    if not kappa >= 0:
        raise InputError(f"got kappa={kappa}, expected it to be not negative; inf keeps beads in the hyperplane.")
