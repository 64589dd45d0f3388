"""The tasks: networks, data, training, and how much is done."""

from dataclasses import dataclass, replace
from math import gcd
from typing import Any, Literal, get_args

from experiments.optimizers import Adam
from experiments.options import Sources, capped, check_all_positive, check_choices, check_increasing, filled
from mcjax import Dataset, FitConfig, InputError, Model, PamConfig, Task, TrainConfig, models, supervised
from mcjax.curves import PermutationFitConfig
from mcjax.matching import StraightThroughConfig
from mcjax.training import SGD
from mcjax.training.loop import epoch_plan

Method = Literal["activations", "weights", "straight-through", "PAM"]
METHODS = ("none", *get_args(Method))
"""Ways to match the second network to the first. Straight-through starts from activations, PAM from no match."""


@dataclass(frozen=True)
class Size:
    """Amount of work; None is the preset's value."""

    seeds: int = 3
    """Networks that are spawned from, and pairs that are matched."""
    steps: int = 1000
    """Steps of SGD of every network."""
    spawn_steps: tuple[int, ...] = (0, 20, 50, 100, 200, 500, 1000)
    """The steps after which networks are spawned."""
    snapshot_steps: tuple[int, ...] = (50, 200, 500, 1000)
    """The steps after which pairs are matched."""
    width: float = 0.25
    """Multiplier of the widths."""
    widths: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
    """Multipliers that are compared."""
    train_images: int | None = 10_000
    """Use the first so many training images."""
    test_images: int | None = 2000
    """Use the first so many test images."""
    matching_steps: int = 400
    """Steps of straight-through matching, and of PAM's permutation, which finds nothing in much fewer."""
    measured: int = 2000
    """Training images that lines are measured on."""
    tested: int = 2000
    """Test images that lines are measured on."""
    points: int = 21
    """Points of a line."""
    methods: tuple[Method, ...] = get_args(Method)
    """Ways to match that are compared."""

    @property
    def compared(self) -> tuple[str, ...]:
        """The methods whose barriers are compared, no match among them."""
        return tuple(name for name in METHODS if name == "none" or name in self.methods)

    @property
    def merged(self) -> tuple[str, ...]:
        """The methods after which networks are merged: all but PAM, which matches for a curve."""
        return tuple(name for name in self.compared if name != "PAM")


# `paper` is as published, where the papers say; `small` is for two cores.
SIZES = {
    "mnist": {
        "small": Size(),
        "paper": Size(
            steps=24_000, spawn_steps=(0, 50, 100, 500, 1000, 5000, 12_000, 24_000),
            snapshot_steps=(100, 500, 1000, 5000, 24_000), width=1.0,
            widths=(1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2), train_images=None, test_images=None,
            matching_steps=2000, measured=60_000, tested=10_000, points=25,
        ),
    },
    "cifar10": {
        "small": Size(
            seeds=2, steps=400, spawn_steps=(0, 20, 80, 200), snapshot_steps=(80, 200, 400), width=0.5,
            widths=(0.25, 0.5, 1.0), measured=1000, tested=1000, points=11,
        ),
        "paper": Size(
            steps=63_000, spawn_steps=(0, 500, 1000, 2000, 3000, 5000, 10_000, 30_000, 63_000),
            snapshot_steps=(500, 2000, 10_000, 30_000, 63_000), width=1.0, widths=(0.5, 1.0, 2.0, 4.0, 8.0),
            train_images=None, test_images=None, matching_steps=2000, measured=10_000, tested=10_000, points=25,
        ),
    },
}  # fmt: skip
MODELS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "mnist": {name: ("mlp", {"widths": (512, 512, 512)}) for name in ("small", "paper")},
    "cifar10": {"small": ("tinysix", {}), "paper": ("resnet20", {})},
}
TRAINING = {
    "mnist": TrainConfig(batch_size=100, optimizer=Adam(1e-3), weight_decay=0.0),
    "cifar10": TrainConfig(batch_size=128, optimizer=SGD(0.1), weight_decay=5e-4),
}
"""Adam at one rate, so that a network after some steps of a longer training is a network trained for so long."""


@dataclass(frozen=True)
class Problem:
    """One data set and its networks.

    Attributes:
        name: "mnist" or "cifar10".
        architecture: the name of the model.
        options: its further options.
        data: the images that networks are trained on.
        measured: the images that lines are measured on.
        size: how much is done.
    """

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

    def task(self, model: Model) -> Task:
        """A network on the images that networks are trained on."""
        return supervised(model, self.data)

    def training(self, *at: int, steps: int | None = None) -> tuple[TrainConfig, tuple[int, ...]]:
        """The config of so many steps (None: those of the size), and the epochs with which the steps `at` end."""
        steps = steps or self.size.steps
        unit = gcd(steps, *at)
        config = replace(TRAINING[self.name], epochs=steps // unit, steps_per_epoch=unit)
        return config, tuple(each // unit for each in at)

    def straight_through(self) -> StraightThroughConfig:
        """Straight-through matching, with four candidates on the way."""
        epochs = min(4, self.size.matching_steps)
        return StraightThroughConfig(
            epochs=epochs, steps_per_epoch=self.size.matching_steps // epochs, examples=self.size.measured,
            batch_size=TRAINING[self.name].batch_size,
        )  # fmt: skip

    def pam(self) -> PamConfig:
        """One half-step of the permutation; the half-step of the curve after it is short, and not used."""
        epochs = min(4, self.size.matching_steps)
        curve = FitConfig(
            epochs=1,
            batch_size=TRAINING[self.name].batch_size,
            weight_decay=0.0,
            steps_per_epoch=self.size.matching_steps // epochs,
        )
        return PamConfig(
            curve=curve,
            permutation=PermutationFitConfig(epochs=epochs),
            iterations=1,
            acceptance="descent",
            objective_examples=min(1000, self.size.measured),
        )


def make(name: str, preset: Literal["small", "paper"], sources: Sources, changes: Size) -> Problem:
    """The problem of one data set.

    Args:
        name: "mnist" or "cifar10".
        preset: the amount of work.
        sources: the data sets on disk.
        changes: changes of the preset, as `given` makes them.

    Raises:
        InputError: the data cannot be read, a number cannot be, or the networks not be made.
    """
    images, size = sources.load(name), SIZES[name][preset]
    size = filled(capped(size, images, ("train_images",), ("test_images",)), changes)
    _check(size)
    images = images.take(size.train_images, size.test_images)
    size = capped(size, images, ("measured",), ("tested",))
    problem = Problem(name, *MODELS[name][preset], images, images.take(size.measured, size.tested), size)
    config, _ = problem.training(size.steps)
    for width in (size.width, *size.widths):
        epoch_plan(problem.task(problem.model(width)), config.batch_size, config.steps_per_epoch)
    return problem


def _check(size: Size) -> None:
    check_all_positive(size, zero="spawn_steps")
    check_choices("methods", size.methods, METHODS[1:])
    if "straight-through" in size.methods and "activations" not in size.methods:
        raise InputError(f"got methods={size.methods}, expected activations too: straight-through starts from them.")
    check_increasing(size, "spawn_steps", "snapshot_steps", "widths")
    for name in ("spawn_steps", "snapshot_steps"):
        if max(getattr(size, name)) > size.steps:
            got = f"got {name}={getattr(size, name)} with steps={size.steps}"
            raise InputError(f"{got}, expected them to be at most that: give --{name.replace('_', '-')} too.")
