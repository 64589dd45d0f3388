"""The tasks: networks, data, training, and how much of each is done."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import tyro

from experiments.optimizers import Adam
from experiments.options import Sources, capped, check_all_positive, check_increasing, filled
from mcjax import Dataset, FitConfig, InputError, Model, Task, TrainConfig, models, supervised
from mcjax.constructions.chain import chain_of
from mcjax.strings import StringConfig
from mcjax.training import SGD, Criterion
from mcjax.training.batches import evenly_spaced
from mcjax.training.loop import epoch_plan

SHARE = 0.2
"""Share of filters dropped in Figure 2, centre, and in MNIST's path through a narrow network."""
HALF = 0.5
"""Share of units dropped in the paths of Theorems 1 and 2."""
CHANNELS = (0.25, 0.25, 0.25, 0.5)
"""Rates of channel-wise dropout in VGG11: of the first three layers, and of all later ones."""
TRAINED = {"small": (0.1, 0.1, 0.1, 0.2), "paper": CHANNELS}
"""Rates of channel-wise dropout in training: a narrow VGG11 does not learn in a few epochs at the published ones."""


@dataclass(frozen=True)
class Size:
    """Amount of work on a task; None is the preset's value."""

    width: float = 1.0
    """Multiplier of the widths."""
    train_images: int | None = None
    """Use the first so many training images."""
    test_images: int | None = None
    """Use the first so many test images."""
    epochs: int = 4
    """Epochs of a network."""
    curve_epochs: int = 4
    """Epochs of a curve."""
    draws: int = 20
    """Random subsets of units that are compared."""
    measured: int = 2000
    """Training images that paths and epsilon are measured on, evenly spaced."""
    tested: tyro.conf.Suppress[int] = 1000
    """Test images that paths are measured on, evenly spaced."""
    search_images: int = 256
    """Training images by which subsets are compared."""
    stability_images: int = 32
    """Training images whose cushions and smoothness are measured."""
    string_beads: int = 8
    """The most beads of a string."""
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """Shares of units dropped that are compared (Figure 2, left)."""
    narrow_widths: tuple[int, ...] = (1, 2, 4, 6, 8, 10)
    """Filters of the narrow networks that are compared (Figure 2, right)."""


# `paper` is as published, where the paper says; `small` is for two cores.
SIZES = {
    "mnist": {
        "small": Size(train_images=10_000, test_images=2000, search_images=128),
        "paper": Size(epochs=6, curve_epochs=20, measured=10_000, tested=10_000, search_images=4096),
    },
    "cifar10": {
        "small": Size(
            width=0.25, test_images=2000, epochs=20, curve_epochs=6, draws=10, measured=1000, search_images=128
        ),
        "paper": Size(
            epochs=200, curve_epochs=100, measured=10_000, tested=10_000, search_images=2048, stability_images=1000
        ),
    },
}


@dataclass(frozen=True)
class Problem:
    """One network on one data set.

    Attributes:
        name: "mnist" or "cifar10".
        title: data and network in words.
        model: the network.
        narrow: the narrow network that Theorem 3's path goes through.
        data: the images that networks are trained on.
        task: the network on these images.
        measured: the network on the images that paths and epsilon are measured on.
        rates: group -> the share of its units that is dropped for Theorem 3.
        size: how much is done.
        networks: how networks are trained.
        curve: how curves are fitted.
        string: how strings are sampled.
    """

    name: str
    title: str
    model: Model
    narrow: Model
    data: Dataset
    task: Task
    measured: Task
    rates: dict[str, float]
    size: Size
    networks: TrainConfig
    curve: FitConfig
    string: StringConfig

    @property
    def narrow_widths(self) -> list[int]:
        """The filters of the narrow networks of Figure 2: those that are at most as wide as the network."""
        return [width for width in self.size.narrow_widths if width <= chain_of(self.model).sizes[0]]


def check(size: Size) -> None:
    """Raise InputError for numbers that cannot be, of a size or of changes of one."""
    check_all_positive(size)
    check_increasing(size, *(name for name in ("shares", "narrow_widths") if getattr(size, name) is not None))
    if size.shares and size.shares[-1] >= 1:
        raise InputError(f"got shares={size.shares}, expected all of them below 1.")


def make(name: str, preset: Literal["small", "paper"], sources: Sources, changes: Size) -> Problem:
    """The problem of the task "mnist" or "cifar10".

    Args:
        name: the task.
        preset: the amount of work.
        sources: the data sets on disk.
        changes: changes of the preset, as `given` makes them.

    Raises:
        InputError: the data cannot be read, or the networks not be made.
    """
    images = sources.load(name)
    size = filled(_capped(SIZES[name][preset], images), changes)
    images = images.take(size.train_images, size.test_images)
    size = _capped(size, images)
    model, narrow, rates, title = _networks(name, preset, size, images)
    training: dict[str, Any] = {"batch_size": 64, "weight_decay": 0.0, "optimizer": SGD(0.02)}
    if name == "cifar10":
        training = {"batch_size": 128, "weight_decay": 5e-4, "optimizer": SGD(0.1)}
    beads = TrainConfig(
        epochs=50, batch_size=training["batch_size"], optimizer=Adam(1e-3), weight_decay=0.0, steps_per_epoch=20
    )
    criterion = Criterion(examples=size.measured, calibration_examples=size.measured)
    task = supervised(model, images)
    # The training images by which strings are sampled, too.
    train, test = evenly_spaced(task.train, size.measured), evenly_spaced(task.test, size.tested)
    measured = task.with_examples(train=train, test=test)
    problem = Problem(
        name, title, model, narrow, images, task, measured, rates, size,
        networks=TrainConfig(epochs=size.epochs, **training),
        curve=FitConfig(epochs=size.curve_epochs, **training),
        string=StringConfig(
            training=beads, criterion=criterion, scan_points=7, beads=size.string_beads, depth=4, tolerance=0.05,
            scan_tolerance=0.05, verification_density=2,
        ),
    )  # fmt: skip
    if name == "mnist" and not problem.narrow_widths:
        filters = chain_of(model).sizes[0]
        raise InputError(
            f"got narrow_widths={size.narrow_widths}, expected one of at most the {filters} filters of the network."
        )
    epoch_plan(task, problem.networks.batch_size, None)
    return problem


def _networks(name: str, preset: str, size: Size, images: Dataset) -> tuple[Model, Model, dict[str, float], str]:
    """The network, the narrow one, the rates dropped on the way through it, and the title."""
    shape = (images.num_classes, images.image_shape)
    if name == "mnist":
        model = models.create("filters_convnet", *shape, width=size.width)
        # At 0.2 dropped, 6 of 32 filters of every layer are free for the narrow network.
        narrow = models.create("filters_convnet", *shape, width=size.width * 6 / 32)
        return model, narrow, dict.fromkeys(chain_of(model).groups, SHARE), f"{images.name}, three layers of filters"
    model = models.create("vgg11", *shape, width=size.width, channel_dropout=TRAINED[preset])
    # Without the model's dropout before dense layers, with which a few units do not learn.
    narrow = models.create("vgg11", *shape, width=size.width / 4, channel_dropout=(0.0,))
    groups = chain_of(model).groups
    rates = dict.fromkeys(groups, CHANNELS[-1]) | dict(zip(groups, CHANNELS, strict=False))
    return model, narrow, rates, f"{images.name}, VGG11 with channel-wise dropout"


def _capped(size: Size, images: Dataset) -> Size:
    chosen = ("search_images", "stability_images")
    size = capped(size, images, ("train_images", "measured", *chosen), ("test_images", "tested"))
    return replace(size, **{name: min(getattr(size, name), size.measured) for name in chosen})
