"""The tasks of the dropout-stability experiments: networks, data, rates, and how much is done on how many images."""

from dataclasses import dataclass, replace
from typing import Any

from mcjax import Dataset, FitConfig, Model, TrainConfig, data, models
from mcjax.constructions import chain_of
from mcjax.strings import StringConfig


@dataclass(frozen=True)
class Sources:
    """Where the data are."""

    mnist: str = "mnist"
    """MNIST: a TFDS name or the path of an .npz."""
    cifar10: str = "cifar10"
    """CIFAR-10: a TFDS name or the path of an .npz."""
    data_dir: str | None = None
    """Where TFDS keeps its sets (None: TFDS's own default)."""


@dataclass(frozen=True)
class Size:
    """How much of a task is done: `paper` as published, as far as it is said; `small` for two cores.

    measured, tested: training and test images that paths are measured on, and that epsilon is of. search_images:
    training images by which subsets of units are compared. stability_images: those of cushions and the like. shares,
    narrow_widths: of filters dropped, and filters of narrow networks, of Figure 2, left and right.
    """

    width: float = 1.0
    train_images: int | None = None
    test_images: int | None = None
    epochs: int = 4
    curve_epochs: int = 4
    draws: int = 20
    measured: int = 2000
    tested: int = 1000
    search_images: int = 256
    stability_images: int = 32
    string_beads: int = 8
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    narrow_widths: tuple[int, ...] = (1, 2, 4, 6, 8, 10)


@dataclass(frozen=True)
class Task:
    """One network on one data set.

    rates: what dropout drops of every hidden layer in the paths by way of a narrow network (Theorem 3). narrow: the
    narrow model. measured: the data that paths are measured on.
    """

    name: str
    title: str
    model: Model
    narrow: Model
    data: Dataset
    measured: Dataset
    rates: dict[str, float]
    size: Size
    networks: TrainConfig
    curve: FitConfig
    string: StringConfig


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
}  # fmt: skip

SHARE = 0.2
"""Of filters dropped, Figure 2, centre, and in the path by way of a narrow network."""
HALF = 0.5
"""Of units dropped in the paths of Theorems 1 and 2."""
CHANNELS = (0.25, 0.25, 0.25, 0.5)
"""What channel-wise dropout drops of VGG11: of its first three layers, and of all that follow."""
TRAINED = {"small": (0.1, 0.1, 0.1, 0.2), "paper": CHANNELS}
"""Rates of channel-wise dropout in training: a narrow VGG11 does not learn in a few epochs at the published ones."""


def make(name: str, preset: str, sources: Sources, changes: dict[str, Any]) -> Task:
    """The task of this name. changes: of its size; None is the preset's."""
    images = data.load(sources.mnist if name == "mnist" else sources.cifar10, sources.data_dir)
    size = _within(SIZES[name][preset], images)
    size = replace(size, **{key: value for key, value in changes.items() if value is not None})
    images = images.take(size.train_images, size.test_images)
    size = _within(size, images)
    shape = (images.num_classes, images.image_shape)
    training: dict[str, Any] = {"batch_size": 64, "weight_decay": 0.0, "learning_rate": 0.02}
    if name == "mnist":
        model = models.create("filters_convnet", *shape, width=size.width)
        rates = dict.fromkeys(chain_of(model).groups, SHARE)
        # What is dropped of every layer: 6 of 32 filters.
        narrow = models.create("filters_convnet", *shape, width=size.width * 6 / 32)
        title = f"{images.name}, three layers of filters"
    else:
        model = models.create("vgg11", *shape, width=size.width, channel_dropout=TRAINED[preset])
        groups = chain_of(model).groups
        rates = dict.fromkeys(groups, CHANNELS[-1]) | dict(zip(groups, CHANNELS, strict=False))
        # Without the model's dropout in front of dense layers, which a few units do not learn with.
        narrow = models.create("vgg11", *shape, width=size.width / 4, channel_dropout=(0.0,))
        title = f"{images.name}, VGG11 with channel-wise dropout"
        training |= {"batch_size": 128, "weight_decay": 5e-4, "learning_rate": 0.1}
    return Task(
        name=name,
        title=title,
        model=model,
        narrow=narrow,
        data=images,
        measured=images.take(size.measured, size.tested),
        rates=rates,
        size=size,
        networks=TrainConfig(epochs=size.epochs, **training),
        curve=FitConfig(epochs=size.curve_epochs, **training),
        string=StringConfig(
            batch_size=training["batch_size"], steps_per_epoch=20, epochs=50, images=size.measured,
            calibration_images=size.measured, scan_points=7, beads=size.string_beads, depth=4, tolerance=0.05,
            scan_tolerance=0.05, verification_density=2,
        ),
    )  # fmt: skip


def _within(size: Size, images: Dataset) -> Size:
    """The size, no more images than there are."""
    train, test = len(images.train_labels), len(images.test_labels)
    return replace(
        size,
        train_images=min(size.train_images or train, train),
        test_images=min(size.test_images or test, test),
        measured=min(size.measured, train),
        tested=min(size.tested, test),
        search_images=min(size.search_images, size.measured, train),
        stability_images=min(size.stability_images, size.measured, train),
    )
