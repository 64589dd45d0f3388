"""Settings of string sampling: the criterion, the training of beads, the scans of segments, and the budgets."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from mcjax.errors import InputError, unknown_name
from mcjax.training.config import Optimizer, Schedule, TrainConfig
from mcjax.training.criterion import Criterion, Metric, SplitName

Insert = Literal["maximum", "middle"]


@dataclass(frozen=True)
class StringConfig(TrainConfig):
    """Settings of dynamic string sampling (Freeman and Bruna 2017, Algorithm 1 and appendix A).

    The fields of `TrainConfig`, some with other defaults, configure the training of a bead.

    Attributes:
        epochs: Maximum number of epochs of a bead.
        metric: The metric of the criterion, which the threshold bounds: "loss", "error" or "perplexity".
        split: The split of the criterion: "train", "validation" or "test".
        images: The number of inputs of the criterion, the first ones of the split (None: all).
        calibration_images: The number of inputs that batch statistics are re-estimated on, as in `Criterion`.
        evaluation_batch_size: Inputs in memory at once.
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
        beads: Maximum number of beads of a string.
        depth: Maximum number of rounds of insertion.
        chunk: Beads, or segments, in memory at once (None: 16, or 1 where convolutions run faster one after
            another).
    """

    epochs: int = 100
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    optimizer: Optimizer = "adam"
    metric: Metric = "loss"
    split: SplitName = "train"
    images: int | None = None
    calibration_images: int | None = None
    evaluation_batch_size: int = 500
    alpha: float = 0.95
    tolerance: float = 0.01
    insert: Insert = "maximum"
    noise: float = 0.01
    zeta: float = 0.0
    kappa: float = 0.0
    scan_points: int = 21
    scan_tolerance: float = 0.01
    verification_density: int = 10
    beads: int = 64
    depth: int = 10
    chunk: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, good, expected in (
            ("alpha", 0 < self.alpha < 1, "between 0 and 1, both excluded"),
            ("tolerance", 0 <= self.tolerance < math.inf, "not negative and finite"),
            ("noise", 0 <= self.noise < math.inf, "not negative and finite"),
            ("zeta", 0 <= self.zeta < math.inf, "not negative and finite"),
            ("kappa", self.kappa >= 0, "not negative; inf keeps beads in the hyperplane"),
            (
                "scan_points",
                isinstance(self.scan_points, int) and self.scan_points >= 3,
                "a whole number of at least 3",
            ),
            ("scan_tolerance", 0 < self.scan_tolerance < 1, "between 0 and 1"),
            (
                "verification_density",
                isinstance(self.verification_density, int) and self.verification_density >= 1,
                "a whole number of at least 1",
            ),
            ("beads", isinstance(self.beads, int) and self.beads >= 0, "a whole number, not negative"),
            ("depth", isinstance(self.depth, int) and self.depth >= 0, "a whole number, not negative"),
            (
                "chunk",
                self.chunk is None or (isinstance(self.chunk, int) and self.chunk >= 1),
                "a whole number of at least 1, or None",
            ),
        ):
            if not good:
                raise InputError(f"got {name}={getattr(self, name)}, expected it to be {expected}.")
        if self.insert not in ("maximum", "middle"):
            raise unknown_name("insert", self.insert, ("maximum", "middle"))
        _ = self.criterion

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "StringConfig":
        """Not available: strings have no presets.

        Raises:
            InputError: Always.
        """
        raise InputError(f"got preset {name!r}, expected none: strings have no presets. Give StringConfig(...).")

    @property
    def criterion(self) -> Criterion:
        """The criterion that the threshold bounds."""
        return Criterion(self.metric, self.split, self.images, self.evaluation_batch_size, self.calibration_images)


def string_config(config: TrainConfig | None) -> StringConfig:
    """A config as a StringConfig: the default for None, and the defaults with the fields of a TrainConfig.

    Raises:
        InputError: If `config` is of another type.
    """
    if config is None or isinstance(config, StringConfig):
        return config or StringConfig()
    if not isinstance(config, TrainConfig):
        raise InputError(f"got {type(config).__name__} for config, expected a StringConfig, or a TrainConfig.")
    training = {field.name for field in fields(TrainConfig)}
    return StringConfig(**{name: value for name, value in vars(config).items() if name in training})
