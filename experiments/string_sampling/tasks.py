"""The tasks that strings are sampled on: networks, data, thresholds, and how everything is trained."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mcjax import Dataset, Model, TrainConfig, data, models
from mcjax.errors import InputError
from mcjax.strings import StringConfig


@dataclass(frozen=True)
class Task:
    """One row of Figure 1.

    thresholds: of config's criterion, from low to high. ends, config: how networks and beads are trained. paper:
    what the paper says of it in words; the numbers are in a figure.
    """

    name: str
    title: str
    model: Model
    data: Dataset
    thresholds: tuple[float, ...]
    pairs: int
    ends: TrainConfig
    config: StringConfig
    paper: str = ""

    @property
    def of(self) -> str:
        """What the thresholds are of, in words."""
        of = "mean absolute error" if self.name in ("quadratic", "cubic") else self.config.metric
        return f"{self.config.split} {of}"


@dataclass(frozen=True)
class Sources:
    """Where the data of the larger tasks are."""

    mnist: str = "mnist"
    """MNIST: a TFDS name or the path of an .npz."""
    cifar10: str = "cifar10"
    """CIFAR-10: a TFDS name or the path of an .npz."""
    ptb: str | None = None
    """A folder with the texts of the Penn Treebank: ptb.train.txt, ptb.valid.txt, ptb.test.txt."""
    data_dir: str | None = None
    """Where TFDS keeps its sets (None: TFDS's own default)."""


@dataclass(frozen=True)
class Size:
    """How much of a task is done: `paper` is as in the published scripts, where they say; `small` is for two cores."""

    thresholds: tuple[float, ...]
    pairs: int
    width: float = 1.0
    train_images: int | None = None
    images: int | None = None
    vocabulary: int | None = None
    config: dict[str, Any] = field(default_factory=dict)


POLYNOMIALS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "quadratic": ("0.5 x² + 0.25 x + 0.1", lambda x: 0.5 * x**2 + 0.25 * x + 0.1),
    "cubic": ("8 x³ - 10 x² + 3 x", lambda x: 8 * x**3 - 10 * x**2 + 3 * x),
}

SIZES: dict[str, dict[str, Size]] = {
    "quadratic": {
        "small": Size((0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1), 5),
        "paper": Size((0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125), 20),
    },
    "cubic": {
        "small": Size((0.05, 0.07, 0.1, 0.12, 0.14, 0.15, 0.16, 0.17), 5),
        "paper": Size((0.05, 0.1, 0.14, 0.15, 0.152, 0.154, 0.156, 0.158, 0.16, 0.164, 0.168, 0.17), 20),
    },
    "mnist": {
        "small": Size((0.03,), 1, width=0.25, train_images=20_000, images=1000),
        "paper": Size((0.00725, 0.01, 0.02, 0.05), 3),
    },
    "cifar10": {
        "small": Size((0.45,), 1, width=0.25, train_images=10_000, images=1000),
        "paper": Size((0.2, 0.35, 0.4, 0.6, 0.8), 3),
    },
    "ptb": {
        "small": Size((150.0,), 1, width=0.2, train_images=4000, images=400, vocabulary=2000),
        "paper": Size((135.0, 200.0, 300.0, 500.0), 3),
    },
}

SAID = {
    "quadratic": "length and beads grow as a power law towards low thresholds",
    "cubic": "straight down to 0.15, where the length rises first and the beads stay few",
    "mnist": "very short strings, even of networks that are nearly as good as any",
    "cifar10": "far from convex even at an accuracy of 80%",
    "ptb": "easily connected at high perplexity; longer and longer below a threshold",
    "permutation": "a network and its copy with two units exchanged: not connected",
}


def make(
    name: str,
    preset: str,
    sources: Sources,
    changes: dict[str, Any],
    hold_out: int | None,
    string: dict[str, Any],
) -> Task:
    """The task of this name. changes: of its size, string: of its StringConfig; None is the preset's.

    hold_out: how many training images become the validation split.
    """
    size = replace(SIZES[name][preset], **{key: value for key, value in changes.items() if value is not None})
    config = {**size.config, **{key: value for key, value in string.items() if value is not None}}
    made = _regression(name, size, config) if name in POLYNOMIALS else _larger(name, size, sources, config)
    if hold_out is not None and name not in POLYNOMIALS:
        made = replace(made, data=made.data.hold_out(hold_out))
    return replace(made, thresholds=tuple(sorted(size.thresholds)), pairs=size.pairs, paper=SAID[name])


def _regression(name: str, size: Size, config: dict[str, Any]) -> Task:
    formula, function = POLYNOMIALS[name]
    x = np.random.default_rng(0).uniform(size=(1000, 1)).astype(np.float32)
    images = data.regression(x[:500], function(x[:500]), x[500:], function(x[500:]), name)
    # As published: a sigmoid at the output too, and no biases.
    options = {"widths": (4, 4), "activation": "sigmoid", "output": "sigmoid", "bias": False}
    model = models.create("mlp", 1, (1,), **options)
    training: dict[str, Any] = {"batch_size": 500, "steps_per_epoch": 20, "learning_rate": 1e-2}
    ends = TrainConfig(epochs=1000, optimizer="adam", schedule="constant", weight_decay=0.0, **training)
    string = {"epochs": 400, "metric": "error", "tolerance": 0.1, "insert": "middle", "chunk": 64, **training, **config}
    return Task(name, formula, model, images, (), 0, ends, StringConfig(**string))


def _larger(name: str, size: Size, sources: Sources, config: dict[str, Any]) -> Task:
    if name == "ptb":
        if sources.ptb is None:
            raise InputError("the task ptb needs --ptb: a folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt.")
        if not Path(sources.ptb).is_dir():
            raise InputError(f"no folder at {sources.ptb}: expected one with train, valid and test texts.")
        images, kind = data.load(sources.ptb, vocabulary=size.vocabulary), "lstm"
        # Beads that take the steps of the networks leave their segment far behind before they are looked at.
        own: dict[str, Any] = {"metric": "perplexity", "insert": "middle", "tolerance": 0.1, "learning_rate": 2e-3}
        training: dict[str, Any] = {"batch_size": 20, "learning_rate": 1e-2, "clip": 5.0, "steps_per_epoch": 20}
    else:
        source = sources.mnist if name == "mnist" else sources.cifar10
        images = data.load(source, sources.data_dir)
        kind, own = ("mnist_convnet", {"tolerance": 0.02}) if name == "mnist" else ("cifar_convnet", {"tolerance": 0.1})
        own |= {"metric": "error", "alpha": 0.98 if name == "mnist" else 0.9, "points": 11}
        training = {"batch_size": 100, "learning_rate": 1e-3, "steps_per_epoch": 20}
    images = images.take(train=size.train_images)
    model = models.create(kind, images.num_classes, images.image_shape, width=size.width)
    ends = TrainConfig(epochs=1000, optimizer="adam", schedule="constant", weight_decay=0.0, **training)
    string = {"epochs": 200, "images": size.images, **training, **own, **config}
    title = {"mnist": "MNIST, convolutional", "cifar10": "CIFAR-10, convolutional", "ptb": "Penn Treebank, LSTM"}[name]
    return Task(name, title, model, images, (), 0, ends, StringConfig(**string))


def permuting(thresholds: tuple[float, ...] | None, pairs: int | None, string: dict[str, Any]) -> Task:
    """Appendix E.1: 2-3-2 without biases, to send three points to one another in a circle, and thresholds for it.

    The points surround the origin: a positive combination of them is zero. So no vector of nonnegative entries but
    zero is a combination of the rows of the targets, and at zero loss the hidden outputs at the three points are
    a 3x3 matrix of full rank. Exchanging two hidden units changes the sign of its determinant, which along a path
    of zero loss would have to pass zero: the network and its copy are not connected.
    """
    points = np.array([[1.0, 0.1], [-0.4, 0.9], [-0.7, -0.8]], np.float32)
    targets = points[[1, 2, 0]]
    images = data.regression(points, targets, points, targets, "permutation")
    model = models.create("mlp", 2, (2,), widths=(3,), bias=False)
    training: dict[str, Any] = {"batch_size": 3, "steps_per_epoch": 50, "learning_rate": 1e-2}
    ends = TrainConfig(epochs=400, optimizer="adam", schedule="constant", weight_decay=0.0, **training)
    given = {key: value for key, value in string.items() if value is not None}
    config = StringConfig(**{"epochs": 400, "tolerance": 0.1, "insert": "middle", "noise": 0.1, **training, **given})
    thresholds = tuple(sorted(thresholds or (0.003, 0.01, 0.03, 0.05, 0.1, 0.2)))
    # Many starts end with a unit that is zero at all points, and do not learn it.
    return Task(
        "permutation", "2-3-2, three points", model, images, thresholds, pairs or 8, ends, config, SAID["permutation"]
    )
