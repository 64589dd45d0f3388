"""The tasks that strings are sampled on: networks, data, thresholds, and how everything is trained."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro

from experiments.optimizers import Adam
from experiments.options import Sources, filled
from mcjax import Dataset, Model, Task, TrainConfig, data, models, supervised
from mcjax.errors import InputError
from mcjax.strings import StringConfig
from mcjax.training import Criterion


@dataclass(frozen=True)
class Size:
    """Amount of work on a task; None is the preset's value."""

    thresholds: tuple[float, ...]
    """Thresholds, for one task."""
    pairs: int
    """Pairs of networks at every threshold."""
    width: float = 1.0
    """Multiplier of the widths of mnist, cifar10 and ptb."""
    train_images: int | None = None
    """Use the first so many training images (or sequences)."""
    images: int | None = None
    """Measure thresholds on so many images (or sequences) of the split, evenly spaced."""
    splits: int = 2
    """How many times every segment of a string is split while the string is relaxed."""
    sweeps: int = 200
    """The most sweeps of relaxation after each split; 0: strings are not relaxed."""
    vocabulary: tyro.conf.Suppress[int | None] = None
    """The most frequent words of ptb that are told apart (None: all)."""


@dataclass(frozen=True)
class Data:
    """The data of the larger tasks."""

    sources: Sources = field(default_factory=Sources)
    ptb: str | None = None
    """A folder with the texts of the Penn Treebank: ptb.train.txt, ptb.valid.txt, ptb.test.txt."""
    hold_out: int | None = None
    """Take so many training images as the validation split, where there is none."""


@dataclass(frozen=True)
class StringOptions:
    """Settings of strings; None is the task's value."""

    split: Literal["train", "validation", "test"] | None = None
    """The split that thresholds are measured on (None: train)."""
    metric: Literal["loss", "error", "perplexity"] | None = None
    """Metric of the thresholds."""
    alpha: float | None = None
    """Beads are trained to alpha times the threshold."""
    tolerance: float | None = None
    """Segments may rise to 1 + tolerance times the threshold."""
    insert: Literal["maximum", "middle"] | None = None
    """The place on its segment at which a new bead starts."""
    certify: Literal["slopes"] | None = None
    """Refine the grid of connected strings where measured slopes leave room for a wall between its points."""
    zeta: float | None = None
    """Strength of the springs between neighbours."""
    kappa: float | None = None
    """Stiffness of the hyperplane between neighbours; inf holds beads in it."""
    epochs: int | None = None
    """The most epochs of a bead."""
    beads: int | None = None
    """The most beads of a string."""
    depth: int | None = None
    """The most rounds of insertion."""

    def changed(self, config: StringConfig) -> StringConfig:
        """A config with the options that are not None."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if "certify" in given:
            given["lipschitz"] = given.pop("certify")
        for part, name in (("criterion", "split"), ("criterion", "metric"), ("training", "epochs")):
            if name in given:
                given[part] = replace(given.get(part, getattr(config, part)), **{name: given.pop(name)})
        return replace(config, **given)


@dataclass(frozen=True)
class Problem:
    """One row of Figure 1.

    Attributes:
        name: the name on the command line.
        title: the task in words.
        model: the network.
        data: its data.
        task: the network on these data.
        thresholds: the thresholds of the criterion, from low to high.
        pairs: pairs of networks at every threshold.
        splits: how many times segments are split while strings are relaxed.
        sweeps: the most sweeps of relaxation after each split; 0: none.
        ends: how networks are trained.
        config: how strings are sampled; its criterion is that of the thresholds.
        paper: the paper's words on it; the paper's numbers are in a figure.
    """

    name: str
    title: str
    model: Model
    data: Dataset
    task: Task
    thresholds: tuple[float, ...]
    pairs: int
    splits: int
    sweeps: int
    ends: TrainConfig
    config: StringConfig
    paper: str

    @property
    def criterion(self) -> str:
        """The criterion of the thresholds in words."""
        criterion = self.config.criterion
        absolute = self.name in POLYNOMIALS and criterion.metric == "error"
        return f"{criterion.split} mean absolute error" if absolute else criterion.label


POLYNOMIALS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "quadratic": ("0.5 x² + 0.25 x + 0.1", lambda x: 0.5 * x**2 + 0.25 * x + 0.1),
    "cubic": ("8 x³ - 10 x² + 3 x", lambda x: 8 * x**3 - 10 * x**2 + 3 * x),
}
LARGER = {"mnist": "MNIST, convolutional", "cifar10": "CIFAR-10, convolutional", "ptb": "Penn Treebank, LSTM"}

# `paper` is as in the published scripts, where they say; `small` is for two cores.
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
        "small": Size((0.05, 0.1, 0.15, 0.2), 1, width=0.0625, train_images=2000, images=200, sweeps=0),
        "paper": Size((0.00725, 0.01, 0.02, 0.05), 3),
    },
    "cifar10": {
        "small": Size((0.6, 0.65, 0.7, 0.75), 1, width=0.0625, train_images=2000, images=200, sweeps=0),
        "paper": Size((0.2, 0.35, 0.4, 0.6, 0.8), 3),
    },
    "ptb": {
        "small": Size(
            (120.0, 150.0, 200.0, 250.0),
            1,
            width=0.1,
            train_images=2000,
            images=200,
            splits=0,
            sweeps=20,
            vocabulary=1000,
        ),
        "paper": Size((135.0, 200.0, 300.0, 500.0), 3),
    },
    # Many starts end with a unit that is zero at all points, and do not learn the task.
    "permutation": dict.fromkeys(("small", "paper"), Size((0.003, 0.01, 0.03, 0.05, 0.1, 0.2), 8)),
}
PAPER = {
    "quadratic": "length and beads grow as a power law towards low thresholds",
    "cubic": "straight down to 0.15, where the length rises first and the beads stay few",
    "mnist": "very short strings, even of networks that are nearly as good as any",
    "cifar10": "far from convex even at an accuracy of 80%",
    "ptb": "easily connected at high perplexity; longer and longer below a threshold",
    "permutation": "a network and its copy with two units exchanged: not connected",
}
"""The paper's words on every task."""


class _Setting(NamedTuple):
    """A row without its size: how networks are trained, and how strings are sampled."""

    title: str
    model: Model
    data: Dataset
    ends: TrainConfig
    string: StringConfig


def make(name: str, preset: Literal["small", "paper"], place: Data, changes: Size, own: StringOptions) -> Problem:
    """The row of the task `name`.

    Args:
        name: one of SIZES.
        preset: how much is done.
        place: where the data are.
        changes: changes of the preset.
        own: changes of how strings are sampled.

    Raises:
        InputError: the task cannot be made, or its thresholds cannot be measured on its data.
    """
    size = filled(SIZES[name][preset], changes)
    if name in POLYNOMIALS:
        setting = _regression(name)
    elif name == "permutation":
        setting = _permutation()
    else:
        setting = _larger(name, size, place)
    config = own.changed(setting.string)
    task = supervised(setting.model, setting.data)
    config.criterion.check(task)
    return Problem(
        name, setting.title, setting.model, setting.data, task, tuple(sorted(size.thresholds)), size.pairs,
        size.splits, size.sweeps, setting.ends, config, PAPER[name],
    )  # fmt: skip


def _regression(name: str) -> _Setting:
    """A polynomial, learned at 500 points."""
    formula, function = POLYNOMIALS[name]
    x = np.random.default_rng(0).uniform(size=(1000, 1)).astype(np.float32)
    points = data.regression(x[:500], function(x[:500]), x[500:], function(x[500:]), name)
    # As published: a sigmoid at the output too, and no biases.
    options = {"widths": (4, 4), "activation": "sigmoid", "output": "sigmoid", "bias": False}
    model = models.create("mlp", 1, (1,), **options)
    ends = TrainConfig(1000, batch_size=500, optimizer=Adam(1e-2), weight_decay=0.0, steps_per_epoch=20)
    string = StringConfig(
        training=replace(ends, epochs=400), criterion=Criterion("error"), tolerance=0.1, insert="middle", chunk=64
    )
    return _Setting(formula, model, points, ends, string)


def _permutation() -> _Setting:
    """Appendix E.1: a 2-3-2 network without biases, which sends three points to one another in a circle.

    The points surround the origin: a positive combination of them is zero. So no nonnegative vector but zero is a
    combination of the rows of the targets, and at zero loss the hidden outputs at the three points are a 3x3 matrix of
    full rank. Exchanging two hidden units changes the sign of its determinant, which along a path of zero loss would
    have to pass through zero: the network and its copy are not connected.
    """
    points = np.array([[1.0, 0.1], [-0.4, 0.9], [-0.7, -0.8]], np.float32)
    targets = points[[1, 2, 0]]
    circle = data.regression(points, targets, points, targets, "permutation")
    model = models.create("mlp", 2, (2,), widths=(3,), bias=False)
    ends = TrainConfig(400, batch_size=3, optimizer=Adam(1e-2), weight_decay=0.0, steps_per_epoch=50)
    string = StringConfig(training=ends, tolerance=0.1, insert="middle", noise=0.1)
    return _Setting("2-3-2, three points", model, circle, ends, string)


def _larger(name: str, size: Size, place: Data) -> _Setting:
    """A network on images or texts."""
    if name == "ptb":
        if place.ptb is None:
            raise InputError("the task ptb needs --ptb: a folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt.")
        if not Path(place.ptb).is_dir():
            raise InputError(f"no folder at {place.ptb}: expected one with train, valid and test texts.")
        images, kind = data.load(place.ptb, vocabulary=size.vocabulary), "lstm"
        batch_size, adam, metric = 20, Adam(1e-2, clip=5.0), "perplexity"
        # With steps as long as those of the networks, beads leave their segment far behind before they are measured.
        bead = replace(adam, learning_rate=2e-3)
        own: dict[str, Any] = {"insert": "middle", "tolerance": 0.1}
    else:
        images = place.sources.load(name)
        batch_size, adam, metric = 100, Adam(1e-3), "error"
        bead, own = adam, {"scan_points": 11}
        if name == "mnist":
            kind, own = "mnist_convnet", {**own, "tolerance": 0.02, "alpha": 0.98}
        else:
            kind, own = "cifar_convnet", {**own, "tolerance": 0.1, "alpha": 0.9}
    images = images.take(train=size.train_images)
    model = models.create(kind, images.num_classes, images.image_shape, width=size.width)
    if place.hold_out is not None:
        images = images.hold_out(place.hold_out)
    ends = TrainConfig(1000, batch_size=batch_size, optimizer=adam, weight_decay=0.0, steps_per_epoch=20)
    training, criterion = replace(ends, epochs=200, optimizer=bead), Criterion(metric, examples=size.images)
    return _Setting(LARGER[name], model, images, ends, StringConfig(training=training, criterion=criterion, **own))
