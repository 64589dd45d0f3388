"""How strings are sampled: what their beads must reach, how they are trained, when to stop."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from mcjax.errors import InputError, unknown_name
from mcjax.training.config import Optimizer, Schedule, TrainConfig
from mcjax.training.criterion import Criterion, Metric, SplitName

Insert = Literal["maximum", "middle"]


@dataclass(frozen=True)
class StringConfig(TrainConfig):
    """`TrainConfig` of a bead, and the rest of dynamic string sampling (Freeman and Bruna, Algorithm 1).

    metric, split, images, calibration_images: the criterion that the threshold is of (`Criterion`). alpha: beads are
    trained to alpha * threshold. tolerance: a segment may rise to (1 + tolerance) * threshold. insert: a new
    bead starts at the maximum of its segment or in its middle, displaced at random by `noise` times the
    segment's length, so that it does not stay on a ridge. zeta: weight of the distances to both neighbours in
    what a bead descends. kappa: stiffness of the hyperplane equidistant from them, in which a bead then starts;
    inf holds it there. Neighbours are those that it was inserted between.

    points, scan_tolerance: of the first grid over a segment, ends included, and how well its highest value is
    to be known, as a share of it. certify: how many times as dense as that grid is the one on which a
    connected string is measured anew. evaluation_batch_size: inputs measured at a time.

    epochs, beads, depth: what may be spent: epochs a bead, beads a string, rounds of insertion.
    chunk: beads and segments on the device at once (None: 16, or 1 where convolutions run faster one after
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
    points: int = 21
    scan_tolerance: float = 0.01
    certify: int = 10
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
            ("kappa", self.kappa >= 0, "not negative; inf holds beads in the hyperplane"),
            ("points", isinstance(self.points, int) and self.points >= 3, "a whole number of at least 3"),
            ("scan_tolerance", 0 < self.scan_tolerance < 1, "between 0 and 1"),
            ("certify", isinstance(self.certify, int) and self.certify >= 1, "a whole number of at least 1"),
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
        """Raises InputError: the presets are of networks and curves."""
        raise InputError(f"got preset {name!r}, expected none: strings have none. Give StringConfig(...).")

    @property
    def criterion(self) -> Criterion:
        """What is measured of every network on a string."""
        return Criterion(self.metric, self.split, self.images, self.evaluation_batch_size, self.calibration_images)


def string_config(config: TrainConfig | None) -> StringConfig:
    """The config of a string: the default, what was given, or one with the training of a TrainConfig."""
    if config is None or isinstance(config, StringConfig):
        return config or StringConfig()
    if not isinstance(config, TrainConfig):
        raise InputError(f"got {type(config).__name__} for config, expected a StringConfig, or a TrainConfig.")
    training = {field.name for field in fields(TrainConfig)}
    return StringConfig(**{name: value for name, value in vars(config).items() if name in training})
