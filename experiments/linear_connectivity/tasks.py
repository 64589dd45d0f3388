"""The sizes of the linear-connectivity experiments: networks, data, rates, and how much is done."""

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from math import gcd
from typing import Any

from mcjax import Dataset, InputError, Model, PamConfig, TrainConfig, data, models
from mcjax.matching import StraightThroughConfig


@dataclass(frozen=True)
class Sources:
    """Where the data are."""

    mnist: str = "mnist"
    """MNIST: a TFDS name or the path of an .npz."""
    cifar10: str = "cifar10"
    """CIFAR-10: a TFDS name or the path of an .npz."""
    data_dir: str | None = None
    """Where TFDS keeps its sets (None: TFDS's own default)."""


METHODS = ("none", "activations", "weights", "straight-through", "PAM")
"""What brings the second network next to the first. Straight-through starts from activations, PAM from no match."""


@dataclass(frozen=True)
class Size:
    """How much is done: `paper` as published, as far as it is said; `small` for two cores.

    seeds: networks that are spawned from, and pairs of networks that are matched. steps: of SGD, of every network.
    spawn_steps: after which of them networks are spawned. snapshot_steps: after which pairs are matched. width, widths:
    multipliers, of the networks of all tasks and of those that are compared. matching_steps: of straight-through
    matching and of PAM's permutation, which finds nothing in much fewer. measured, tested: training and test images
    that lines are measured on. methods: ways to match that are compared.
    """

    seeds: int = 3
    steps: int = 1000
    spawn_steps: tuple[int, ...] = (0, 20, 50, 100, 200, 500, 1000)
    snapshot_steps: tuple[int, ...] = (50, 200, 500, 1000)
    width: float = 0.25
    widths: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
    train_images: int | None = 10_000
    test_images: int | None = 2000
    matching_steps: int = 400
    measured: int = 2000
    tested: int = 2000
    points: int = 21
    methods: tuple[str, ...] = METHODS[1:]

    @property
    def compared(self) -> tuple[str, ...]:
        """What barriers are measured after: no match at all, and every method."""
        return tuple(name for name in METHODS if name == "none" or name in self.methods)

    @property
    def merged(self) -> tuple[str, ...]:
        """What networks are merged after: that but for PAM, which matches for a curve."""
        return tuple(name for name in self.compared if name != "PAM")


SIZES = {
    "mnist": {
        "small": Size(),
        "paper": Size(
            steps=24_000,
            spawn_steps=(0, 50, 100, 500, 1000, 5000, 12_000, 24_000),
            snapshot_steps=(100, 500, 1000, 5000, 24_000),
            width=1.0,
            widths=(1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2),
            train_images=None,
            test_images=None,
            matching_steps=2000,
            measured=60_000,
            tested=10_000,
            points=25,
        ),
    },
    "cifar10": {
        "small": Size(
            seeds=2,
            steps=400,
            spawn_steps=(0, 20, 80, 200),
            snapshot_steps=(80, 200, 400),
            width=0.5,
            widths=(0.25, 0.5, 1.0),
            measured=1000,
            tested=1000,
            points=11,
        ),
        "paper": Size(
            steps=63_000,
            spawn_steps=(0, 500, 1000, 2000, 3000, 5000, 10_000, 30_000, 63_000),
            snapshot_steps=(500, 2000, 10_000, 30_000, 63_000),
            width=1.0,
            widths=(0.5, 1.0, 2.0, 4.0, 8.0),
            train_images=None,
            test_images=None,
            matching_steps=2000,
            measured=10_000,
            tested=10_000,
            points=25,
        ),
    },
}
MODELS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "mnist": {name: ("mlp", {"widths": (512, 512, 512)}) for name in ("small", "paper")},
    "cifar10": {"small": ("tinysix", {}), "paper": ("resnet20", {})},
}
TRAINING: dict[str, dict[str, Any]] = {
    "mnist": {
        "batch_size": 100,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "schedule": "constant",
        "weight_decay": 0.0,
    },
    "cifar10": {"batch_size": 128, "learning_rate": 0.1, "schedule": "one_cycle", "weight_decay": 5e-4},
}
"""Adam at one rate, so that networks at several steps of one training are networks trained for so long."""


@dataclass(frozen=True)
class Task:
    """One data set and its networks. measured: the data that lines are measured on."""

    name: str
    architecture: str
    options: dict[str, Any]
    data: Dataset
    measured: Dataset
    size: Size

    def model(self, width: float) -> Model:
        """The network at a multiplier of its widths."""
        shape = (self.data.num_classes, self.data.image_shape)
        return models.create(self.architecture, *shape, **self.options, width=width)

    def training(self, *at: int, steps: int | None = None) -> tuple[TrainConfig, tuple[int, ...]]:
        """The config of so many steps (None: those of the size), and the epochs at which steps `at` end."""
        steps = steps or self.size.steps
        unit = gcd(steps, *at)
        config = TrainConfig(epochs=steps // unit, steps_per_epoch=unit, **TRAINING[self.name])
        return config, tuple(each // unit for each in at)

    def straight_through(self) -> StraightThroughConfig:
        """Four candidates on the way."""
        epochs = min(4, self.size.matching_steps)
        return StraightThroughConfig(
            epochs=epochs, steps_per_epoch=self.size.matching_steps // epochs, images=self.size.measured,
            batch_size=TRAINING[self.name]["batch_size"],
        )  # fmt: skip

    def pam(self) -> PamConfig:
        """One half-step of the permutation; the one of the curve that follows is short, and not used."""
        epochs = min(4, self.size.matching_steps)
        return PamConfig(
            iterations=1, permutation_epochs=epochs, epochs=1, steps_per_epoch=self.size.matching_steps // epochs,
            lookahead=False, batch_size=TRAINING[self.name]["batch_size"], weight_decay=0.0,
            objective_images=min(1000, self.size.measured),
        )  # fmt: skip


def make(name: str, preset: str, sources: Sources, changes: dict[str, Any]) -> Task:
    """The task of this data set. changes: of its size; None is the preset's. Raises InputError for what cannot be."""
    images = data.load(sources.mnist if name == "mnist" else sources.cifar10, sources.data_dir)
    given = {what: value for what, value in changes.items() if value is not None}
    size = replace(SIZES[name][preset], **given)
    train, test = len(images.train_labels), len(images.test_labels)
    if "train_images" not in given:
        size = replace(size, train_images=min(size.train_images or train, train))
    if "test_images" not in given:
        size = replace(size, test_images=min(size.test_images or test, test))
    _check(size)
    images = images.take(size.train_images, size.test_images)
    size = replace(size, measured=min(size.measured, len(images.train_labels)))
    size = replace(size, tested=min(size.tested, len(images.test_labels)))
    architecture, options = MODELS[name][preset]
    task = Task(name, architecture, options, images, images.take(size.measured, size.tested), size)
    for width in (size.width, *size.widths):
        task.model(width)
    return task


def _check(size: Size) -> None:
    for field in fields(size):
        values = getattr(size, field.name)
        for value in values if isinstance(values, tuple) else (values,):
            if isinstance(value, int | float) and not value > 0 and not (field.name == "spawn_steps" and value == 0):
                raise InputError(f"got {field.name}={value}, expected a positive number.")
    known = {*size.methods} <= {*METHODS[1:]}
    if not size.methods or len(set(size.methods)) < len(size.methods) or not known:
        raise InputError(f"got methods={size.methods}, expected some of {', '.join(METHODS[1:])}, each once.")
    if "straight-through" in size.methods and "activations" not in size.methods:
        raise InputError(f"got methods={size.methods}, expected activations too: straight-through starts from them.")
    for name in ("spawn_steps", "snapshot_steps", "widths"):
        values = getattr(size, name)
        if not values or any(b <= a for a, b in pairwise(values)):
            raise InputError(f"got {name}={values}, expected at least one, increasing.")
    for name in ("spawn_steps", "snapshot_steps"):
        if max(getattr(size, name)) > size.steps:
            raise InputError(
                f"got {name}={getattr(size, name)} with steps={size.steps}, expected them to be at most that: give "
                f"--{name.replace('_', '-')} too."
            )
