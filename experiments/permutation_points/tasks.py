"""The tasks: teachers, the data of their students, and how much is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro

from experiments.optimizers import Adam
from experiments.options import capped, check_all_positive, check_choices, check_increasing, filled
from mcjax import Dataset, Model, Task, TrainConfig, data, models, supervised, trees
from mcjax.errors import InputError
from mcjax.permutation_points import PermutationConfig
from mcjax.permutation_points.config import Precision
from mcjax.training.loop import epoch_plan

INPUTS, UNITS = 2, 5
"""Inputs and hidden units of the toy of Figure 1."""
TOYS: dict[str, dict[str, Any]] = {
    "relu": {"tolerance": 1e-4, "point_tolerance": 1e-4, "knots": 20_000},
    "tanh": {"tolerance": 1e-7, "point_tolerance": 1e-9, "knots": 40_000},
}
"""Activations of the toy, ReLU as published; its loss has kinks, at which gradients do not get smaller than this."""


class Merged(NamedTuple):
    """Networks of which units are merged.

    Attributes:
        widths: the units of every hidden layer.
        outputs: the number of outputs.
        layer: the hidden layer whose units are merged, from 0.
        clusters: how many units become one, of every cluster.
    """

    widths: tuple[int, ...]
    outputs: int
    layer: int
    clusters: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of its parts."""
        return "merged_" + "_".join(map(str, (*self.widths, self.outputs, "layer", self.layer + 1, *self.clusters)))


MERGED = (
    *(Merged((UNITS,), 1, 0, clusters) for clusters in ((3,), (2, 2), (4,), (3, 2))),
    *(Merged((UNITS,), 3, 0, clusters) for clusters in ((3,), (2, 2))),
    *(Merged((4, 4), 1, layer, (2,)) for layer in (0, 1)),
    *(Merged((4, 4, 4), 1, 1, clusters) for clusters in ((2,), (3,))),
)
"""Orders above one, and networks of two and three hidden layers."""


@dataclass(frozen=True)
class Size:
    """Amount of work; None is the preset's value."""

    toys: tuple[Literal["relu", "tanh"], ...] = ("relu", "tanh")
    """Activations of the toy."""
    toy_steps: int = 100
    """Distances of a path of the toy."""
    toy_samples: int = 1000
    """Points that the toy is trained on."""
    toy_tolerance: float | None = None
    """Tolerance of the gradient's norm on the way, of the toy."""
    toy_iterations: int = 100
    """Newton steps of the toy at a distance, at most."""
    toy_knots: int | None = None
    """The most points of a path of the toy."""
    toy_bump: float = 0.1
    """Find a path of the toy again where it rises above its minima by more than this share of their height."""
    toy_networks: int = 6
    """Toys whose spectra are computed, of every number of outputs."""
    toy_outputs: tuple[int, ...] = (1, 3)
    """These numbers of outputs."""
    merged_networks: int = 3
    """Toys of every network and order whose units are merged."""
    pool: int = 4
    """Average the images of MNIST over squares of so many pixels."""
    train_images: int | None = 5000
    """Use the first so many training images."""
    widths: tuple[int, ...] = (10, 15, 20, 25)
    """H, units of both hidden layers."""
    seeds: int = 6
    """Teachers of every width."""
    epochs: int = 30
    """Epochs of a teacher."""
    steps: int = 40
    """Distances of a path of MNIST."""
    tolerance: float = 3e-4
    """Tolerance of the gradient's norm on the way."""
    point_tolerance: float = 1e-4
    """Tolerance of the gradient's norm at the permutation point."""
    iterations: int = 15
    """Newton steps at a distance, at most."""
    products: int = 30
    """Products of the Hessian a Newton step, at most."""
    knots: int = 2000
    """The most points of a path."""
    precision: Precision = "float32"
    """Precision of MNIST's paths; the toy has float64."""
    draws: tyro.conf.Suppress[int] = 4
    """Random vectors of a spectral density."""
    lanczos: tyro.conf.Suppress[int] = 60
    """Lanczos steps of a spectral density."""


# `paper` is as published; `small` is for two cores.
SIZES = {
    "small": Size(),
    "paper": Size(
        toy_steps=200, toy_networks=20, merged_networks=20, pool=1, train_images=None, steps=100, tolerance=1e-4,
        point_tolerance=1e-5, iterations=100, products=100, knots=10_000, precision="float64", draws=8, lanczos=100,
    ),
}  # fmt: skip


class Setting(NamedTuple):
    """The setting of all paths of one teacher.

    Attributes:
        model: the model of teacher and student.
        theta: the variables of the teacher, at which the student starts.
        task: the teacher's outputs as targets.
        group: the units that are merged.
        config: the settings of the paths.
    """

    model: Model
    theta: trees.Tree
    task: Task
    group: str
    config: PermutationConfig


def toy(
    key: jax.Array, activation: str, outputs: int, size: Size, widths: Sequence[int] = (UNITS,), layer: int = 0
) -> Setting:
    """A random teacher, 2-5-outputs if no widths are given, and its outputs at normal points.

    Weights are normal; biases have absolute values from 0.5 to 1.5, so that W / b can be drawn.

    Args:
        key: a typed key.
        activation: the activation, one of TOYS.
        outputs: the number of outputs.
        size: the amount of work.
        widths: the units of every hidden layer.
        layer: the hidden layer whose units are merged, from 0.
    """
    model = models.create("mlp", outputs, (INPUTS,), widths=tuple(widths), activation=activation)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    params, inputs_of = {}, (INPUTS, *widths)
    for i, units in enumerate(widths):
        signs, kernel = rng.choice([-1, 1], units), rng.normal(size=(inputs_of[i], units))
        kernel = kernel / np.sqrt(inputs_of[i]) if i else kernel  # or the units of deeper layers would be at +-1
        params[f"Dense_{i}"] = {"kernel": kernel, "bias": signs * rng.uniform(0.5, 1.5, units)}
    params[f"Dense_{len(widths)}"] = {"kernel": rng.normal(size=(widths[-1], outputs)), "bias": np.zeros(outputs)}
    theta = trees.map_with_name(lambda _, leaf: leaf.astype(np.float32), {"params": params})
    own = {"tolerance": size.toy_tolerance, "knots": size.toy_knots}
    given = TOYS[activation] | {name: value for name, value in own.items() if value is not None}
    given |= {"steps": size.toy_steps, "iterations": size.toy_iterations, "rise_tolerance": size.toy_bump}
    config = PermutationConfig(require_convergence=False, **given)
    inputs = rng.normal(size=(size.toy_samples, INPUTS))
    return Setting(model, theta, taught(model, theta, inputs), f"dense_{layer}", config)


def taught(model: Model, theta: trees.Tree, inputs: Any) -> Task:
    """The teacher's outputs as targets."""
    inputs = np.asarray(inputs, np.float32)
    outputs = model.apply(theta, inputs)
    return supervised(model, data.regression(inputs, outputs, inputs, outputs, "teacher"))


@dataclass(frozen=True)
class Problem:
    """MNIST, its networks and how much is done; `activation`, of the hidden layers, is not in the paper."""

    data: Dataset
    size: Size
    activation: str

    def model(self, width: int) -> Model:
        """The network with H = width."""
        shape = (self.data.num_classes, self.data.image_shape)
        return models.create("mlp", *shape, widths=(width, width), activation=self.activation)

    @property
    def training(self) -> TrainConfig:
        """The training of teachers."""
        adam = Adam(3e-3, schedule="one_cycle")
        return TrainConfig(epochs=self.size.epochs, batch_size=100, optimizer=adam, weight_decay=0.0)

    @property
    def config(self) -> PermutationConfig:
        """The settings of a path."""
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


def make(images: Dataset, activation: str, preset: Literal["small", "paper"], changes: Size) -> Problem:
    """The problem on MNIST.

    Args:
        images: MNIST.
        activation: the activation of the hidden layers.
        preset: the amount of work.
        changes: changes of the preset, as `given` makes them.

    Raises:
        InputError: a number cannot be, or the networks not be made.
    """
    size = sized(preset, changes)
    images = pooled(images, size.pool)
    size = filled(capped(SIZES[preset], images, ("train_images",)), changes)
    problem = Problem(images.take(size.train_images), size, activation)
    for width in size.widths:
        epoch_plan(supervised(problem.model(width), problem.data), problem.training.batch_size, None)
    return problem


def sized(preset: Literal["small", "paper"], changes: Size) -> Size:
    """A preset with `changes`. Raises InputError for numbers that cannot be."""
    size = filled(SIZES[preset], changes)
    check_all_positive(size)
    check_choices("toys", size.toys, tuple(TOYS))
    if not size.toy_outputs or len(set(size.toy_outputs)) < len(size.toy_outputs):
        raise InputError(f"got toy_outputs={size.toy_outputs}, expected at least one, each once.")
    check_increasing(size, "widths")
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
