"""Loss and accuracy at many points of parameter space, a chunk at a time, within the device's memory."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.data import Augmentation, Dataset
from mcjax.errors import InputError, unknown_name
from mcjax.models.base import Model
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import default_chunk, over_models, over_points
from mcjax.runtime.memory import check_memory, program_memory
from mcjax.runtime.mesh import AXES, Placement, check_mesh, on_mesh
from mcjax.training.batch_statistics import estimate_statistics
from mcjax.training.objective import evaluate_images, evaluate_splits

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
Splits = Literal["both", "train", "test"]


class EvaluationConfig(NamedTuple):
    """The static arguments of an evaluation: a program is compiled for each.

    Attributes:
        model: The model of the networks.
        pairs: Whether every point is several networks along a leading axis.
        reestimate: Whether batch statistics are re-estimated at every point.
        batch_size: Images in memory at once.
        calibration_images: The number of training images, the first ones, that batch statistics are re-estimated on.
        augmentation: The augmentation of these images.
        chunk: Points in a device's memory at once.
        splits: The images that are measured on.
    """

    model: Model
    pairs: bool
    reestimate: bool
    batch_size: int
    calibration_images: int
    augmentation: Augmentation
    chunk: int
    splits: Splits

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, in the order of the results."""
        return tuple(name for name in METRICS if self.splits == "both" or name.startswith(self.splits))


def evaluation_config(
    model: Model,
    data: Dataset,
    *,
    pairs: bool,
    reestimate: bool,
    batch_size: int,
    calibration_images: int | None,
    augmentation: Augmentation | None,
    chunk: int | None,
    splits: Splits = "both",
) -> EvaluationConfig:
    """An `EvaluationConfig`, checked, with defaults in place of None.

    Args:
        model: The model of the networks.
        data: The data set.
        pairs: Whether every point is several networks along a leading axis.
        reestimate: Whether batch statistics are re-estimated at every point.
        batch_size: Images in memory at once.
        calibration_images: Training images to re-estimate batch statistics on, the first ones. None: all.
        augmentation: The augmentation of these images. None: the data set's default.
        chunk: Points in memory at once. None: 16, or 1 where convolutions run faster one after another.
        splits: The images that are measured on.

    Returns:
        The config.

    Raises:
        InputError: For numbers of images out of range, batches or chunks below 1, or unknown splits.
    """
    if splits not in ("both", "train", "test"):
        raise unknown_name("splits", str(splits), ("both", "train", "test"))
    n = len(data.train_labels)
    calibration_images = n if calibration_images is None else calibration_images
    if not 0 < calibration_images <= n or batch_size < 1 or (chunk is not None and chunk < 1):
        raise InputError(
            f"got calibration_images={calibration_images}, batch_size={batch_size}, chunk={chunk}, expected "
            f"1 to {n} calibration images, batches and chunks of at least 1."
        )
    augmentation = data.default_augmentation() if augmentation is None else augmentation
    chunk = chunk or default_chunk(model.convolutions)
    return EvaluationConfig(model, pairs, reestimate, batch_size, calibration_images, augmentation, chunk, splits)


@jit(static_argnames=("config", "mesh"))
def _values(config: EvaluationConfig, at: Any, data: Dataset, points: jax.Array, mesh: Mesh | None) -> jax.Array:
    """`config.metrics` of the network at(point), for every entry of `points`: (points, metrics[, pairs])."""
    model, size = config.model, config.batch_size

    def many(at: Any, data: Dataset, points: jax.Array) -> jax.Array:
        def one(theta: trees.Tree) -> jax.Array:
            # New batch statistics first, then the metrics.
            if config.reestimate:
                calibration = data.train_images[: config.calibration_images]
                theta = estimate_statistics(model, theta, calibration, data.mean, data.std, size, config.augmentation)
            if config.splits == "both":
                train, test = evaluate_splits(model, theta, data, size)
                return jnp.stack([*train, *test])
            images, labels = (getattr(data, f"{config.splits}_{what}") for what in ("images", "labels"))
            return jnp.stack(evaluate_images(model, theta, images, labels, data.mean, data.std, size))

        def point(where: jax.Array) -> jax.Array:
            theta = at(where)
            return over_models(one, model.convolutions)(theta).T if config.pairs else one(theta)

        return over_points(point, points, model.convolutions, config.chunk)

    return on_mesh(many, mesh, everywhere=2, axes=AXES)(at, data, points)


def evaluate_points(
    config: EvaluationConfig, at: Any, data: Dataset, points: np.ndarray, mesh: Mesh | None = None
) -> np.ndarray:
    """The metrics of the network at every point, in one compiled program.

    Args:
        config: Which metrics, and how they are computed.
        at: point -> theta, a `jax.tree_util.Partial`.
        data: The data set.
        points: Points along the leading axis.
        mesh: Devices to distribute the points over. None: one device.

    Returns:
        `config.metrics` at every point, float32 (points, metrics[, pairs]).

    Raises:
        InputError: If the compiled program does not fit into the device's memory; the message names a chunk that does.
    """
    if mesh is not None:
        check_mesh(mesh)
    placement = Placement(mesh, len(points), AXES)
    arguments = (*placement.put_everywhere((at, data)), placement.put(jnp.asarray(points)))

    def needed(chunk: int) -> float:
        return program_memory(_values, config._replace(chunk=chunk), *arguments, mesh)

    check_memory(needed, config.chunk, len(points), "points", f"give a batch_size below {config.batch_size}.")
    return np.asarray(placement.get(_values(config, *arguments, mesh)))
