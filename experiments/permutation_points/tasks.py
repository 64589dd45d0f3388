"""The tasks of the permutation-point experiments: teachers, what their students are trained on, how much is done."""

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from mcjax import Dataset, Model, TrainConfig, data, models, trees
from mcjax.errors import InputError
from mcjax.permutation_points import PermutationConfig
from mcjax.permutation_points.config import Precision

INPUTS, UNITS = 2, 5
"""The toy of Figure 1."""
TOYS: dict[str, dict[str, Any]] = {
    "relu": {"tolerance": 1e-4, "point_tolerance": 1e-4, "knots": 20_000},
    "tanh": {"tolerance": 1e-7, "point_tolerance": 1e-9, "knots": 40_000},
}
"""Activations of the toy, ReLU as published. Its loss has kinks, at which gradients do not get smaller than this."""


@dataclass(frozen=True)
class Sources:
    """Where the data are."""

    mnist: str = "mnist"
    """MNIST: a TFDS name or the path of an .npz."""
    data_dir: str | None = None
    """Where TFDS keeps its sets (None: TFDS's own default)."""


@dataclass(frozen=True)
class Size:
    """How much is done: `paper` as published; `small` for two cores.

    toys: its activations. toy_steps, toy_samples: distances of a path of the toy, and points that it is trained on.
    toy_tolerance, toy_iterations, toy_knots, toy_bump: of its paths; None is what `TOYS` has. toy_networks,
    toy_outputs: toys of every number of outputs whose spectra are computed, and these numbers. pool: images of MNIST
    are averaged over squares of so many pixels. widths: H, units of both hidden layers. seeds, epochs: teachers of
    every width. steps: distances of a path. tolerance, point_tolerance: of the gradient's norm. iterations, products:
    Newton steps at a distance, and products of the Hessian a step, at most. knots: what there is room for. precision:
    of MNIST's paths; the toy has float64. draws, lanczos: of the densities.
    """

    toys: tuple[str, ...] = tuple(TOYS)
    toy_steps: int = 100
    toy_samples: int = 1000
    toy_tolerance: float | None = None
    toy_iterations: int = 100
    toy_knots: int | None = None
    toy_bump: float = 0.1
    toy_networks: int = 6
    toy_outputs: tuple[int, ...] = (1, 3)
    pool: int = 4
    train_images: int | None = 5000
    widths: tuple[int, ...] = (10, 15, 20, 25)
    seeds: int = 6
    epochs: int = 30
    steps: int = 40
    tolerance: float = 3e-4
    point_tolerance: float = 1e-4
    iterations: int = 15
    products: int = 30
    knots: int = 2000
    precision: Precision = "float32"
    draws: int = 4
    lanczos: int = 60


SIZES = {
    "small": Size(),
    "paper": Size(
        toy_steps=200, toy_networks=20, pool=1, train_images=None, steps=100, tolerance=1e-4, point_tolerance=1e-5,
        iterations=100, products=100, knots=10_000, precision="float64", draws=8, lanczos=100,
    ),
}  # fmt: skip


class Setting(NamedTuple):
    """What all paths of one teacher have: the student, which starts as the teacher, its data and the config."""

    model: Model
    theta: trees.Tree
    data: Dataset
    group: str
    config: PermutationConfig


def toy(key: jax.Array, activation: str, outputs: int, size: Size) -> Setting:
    """A random teacher 2-5-outputs, and its outputs at normal points.

    Weights are normal; biases have absolute values from 0.5 to 1.5, so that W / b can be drawn.
    """
    model = models.create("mlp", outputs, (INPUTS,), widths=(UNITS,), activation=activation)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    signs = rng.choice([-1, 1], UNITS)
    theta = {
        "params": {
            "Dense_0": {"kernel": rng.normal(size=(INPUTS, UNITS)), "bias": signs * rng.uniform(0.5, 1.5, UNITS)},
            "Dense_1": {"kernel": rng.normal(size=(UNITS, outputs)), "bias": np.zeros(outputs)},
        }
    }
    theta = trees.map_with_name(lambda _, leaf: leaf.astype(np.float32), theta)
    own = {"tolerance": size.toy_tolerance, "knots": size.toy_knots}
    given = TOYS[activation] | {name: value for name, value in own.items() if value is not None}
    config = PermutationConfig(
        steps=size.toy_steps,
        iterations=size.toy_iterations,
        rise_tolerance=size.toy_bump,
        require_convergence=False,
        **given,
    )
    inputs = rng.normal(size=(size.toy_samples, INPUTS))
    return Setting(model, theta, taught(model, theta, inputs), "dense_0", config)


def taught(model: Model, theta: trees.Tree, inputs: Any) -> Dataset:
    """The teacher's outputs as targets."""
    inputs = np.asarray(inputs, np.float32)
    outputs = model.apply(theta, inputs)
    return data.regression(inputs, outputs, inputs, outputs, "teacher")


@dataclass(frozen=True)
class Task:
    """MNIST, its networks and how much is done. activation: of the hidden layers, which the paper does not say."""

    data: Dataset
    size: Size
    activation: str

    def model(self, width: int) -> Model:
        """The network with H = width."""
        shape = (self.data.num_classes, self.data.image_shape)
        return models.create("mlp", *shape, widths=(width, width), activation=self.activation)

    @property
    def training(self) -> TrainConfig:
        """How teachers are trained."""
        return TrainConfig(
            epochs=self.size.epochs, batch_size=100, optimizer="adam", learning_rate=3e-3, weight_decay=0.0
        )

    @property
    def config(self) -> PermutationConfig:
        """How a path is walked."""
        size = self.size
        return PermutationConfig(
            steps=size.steps, tolerance=size.tolerance, point_tolerance=size.point_tolerance, knots=size.knots,
            iterations=size.iterations, products=size.products, require_convergence=False, precision=size.precision,
            batch_size=min(len(self.data.train_labels), 10_000),
        )  # fmt: skip

    def setting(self, width: int, teacher: trees.Tree) -> Setting:
        """The student of a teacher, whose outputs are divided by their root mean square.

        Then the paper's loss, which divides by <y_i^2>, is as many times the mean squared error as there are outputs,
        and one tolerance does for all teachers. Which class is the largest output stays the same.
        """
        model = self.model(width)
        images = data.normalize(self.data.train_images, self.data.mean, self.data.std)
        scale = np.sqrt(np.square(np.asarray(model.apply(teacher, images))).mean())
        theta = trees.map_with_name(
            lambda name, leaf: np.asarray(leaf) / (scale if "Dense_2" in name else np.float32(1)), teacher
        )
        return Setting(model, theta, taught(model, theta, images), "dense_1", self.config)


def make(preset: Literal["small", "paper"], sources: Sources, activation: str, changes: dict[str, Any]) -> Task:
    """MNIST at a size. changes: of that; None is the preset's. Raises InputError for what cannot be."""
    size = sized(preset, changes)
    images = pooled(data.load(sources.mnist, sources.data_dir), size.pool)
    there = len(images.train_labels)
    if changes.get("train_images") is None:
        size = replace(size, train_images=min(size.train_images or there, there))
    task = Task(images.take(size.train_images), size, activation)
    for width in size.widths:
        task.model(width)
    return task


def sized(preset: Literal["small", "paper"], changes: dict[str, Any]) -> Size:
    """How much is done. Raises InputError for numbers that cannot be."""
    size = replace(SIZES[preset], **{name: value for name, value in changes.items() if value is not None})
    for field in fields(size):
        values = getattr(size, field.name)
        for value in values if isinstance(values, tuple) else (values,):
            if isinstance(value, int | float) and not value > 0:
                raise InputError(f"got {field.name}={value}, expected a positive number.")
    for name, values in (("toys", size.toys), ("toy_outputs", size.toy_outputs)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"got {name}={values}, expected at least one, each once.")
    if not size.widths or any(b <= a for a, b in pairwise(size.widths)):
        raise InputError(f"got widths={size.widths}, expected at least one, increasing.")
    if size.widths[0] < 2:
        raise InputError(f"got widths={size.widths}, expected at least two units a layer.")
    return size


def pooled(images: Dataset, pool: int) -> Dataset:
    """Images averaged over squares of pixels. Raises InputError if their sides are no multiples of it."""
    height, width, channels = images.image_shape
    if height % pool or width % pool:
        raise InputError(f"got pool={pool} for images of {height} x {width}, expected a divisor of both.")

    def mean(part: Any) -> np.ndarray:
        squares = np.asarray(part).reshape(-1, height // pool, pool, width // pool, pool, channels)
        return squares.mean((2, 4)).round().astype(np.uint8)

    splits = (mean(images.train_images), images.train_labels, mean(images.test_images), images.test_labels)
    return data.from_arrays(*splits, num_classes=images.num_classes, name=images.name)
