"""Metrics at many points of parameter space, a chunk at a time, within the device's memory."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.errors import check_whole, unknown_name
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models, over_points
from mcjax.runtime.memory import check_memory, program_memory
from mcjax.runtime.mesh import AXES, Placement, check_mesh, on_mesh
from mcjax.training.batch_statistics import check_calibration, estimate_statistics
from mcjax.training.measure import metrics_of
from mcjax.training.task import Task, networks_at_once

Splits = Literal["both", "train", "test"]


class EvaluationConfig(NamedTuple):
    """The static arguments of an evaluation: a program is compiled for each.

    Attributes:
        pairs: Whether every point is several networks along a leading axis.
        reestimate: Whether batch statistics are re-estimated at every point.
        batch_size: Examples in memory at once.
        calibration_examples: The number of training examples, the first ones, that batch statistics are re-estimated
            on. None: all.
        chunk: Points in a device's memory at once. None: `networks_at_once`.
        splits: The names of the splits that are measured on.
    """

    pairs: bool
    reestimate: bool
    batch_size: int
    calibration_examples: int | None
    chunk: int | None
    splits: tuple[str, ...]


def evaluation_config(
    task: Task,
    *,
    pairs: bool,
    reestimate: bool,
    batch_size: int,
    calibration_examples: int | None,
    chunk: int | None,
    splits: Splits = "both",
) -> EvaluationConfig:
    """An `EvaluationConfig`, checked, with defaults in place of None.

    Args:
        task: The task of the networks.
        pairs: Whether every point is several networks along a leading axis.
        reestimate: Whether batch statistics are re-estimated at every point.
        batch_size: Examples in memory at once.
        calibration_examples: Training examples to re-estimate batch statistics on, the first ones. None: all.
        chunk: Points in memory at once. None: 16, or 1 where convolutions run faster one after another.
        splits: The examples that are measured on; "both" is the training examples alone if there are no test examples.

    Returns:
        The config.

    Raises:
        InputError: For numbers of examples out of range, batches or chunks below 1, and splits that are unknown or that
            the task does not have.
    """
    if splits not in get_args(Splits):
        raise unknown_name("splits", str(splits), get_args(Splits))
    check_calibration(task, calibration_examples, batch_size)
    if chunk is not None:
        check_whole("chunk", chunk)
    names = ("train", "test") if splits == "both" and task.test is not None else ("train",)
    if splits == "test":
        task.split(splits)
        names = (splits,)
    return EvaluationConfig(pairs, reestimate, batch_size, calibration_examples, chunk, names)


@jit(static_argnames=("config", "mesh"))
def _values(
    config: EvaluationConfig, task: Task, at: Any, points: jax.Array, mesh: Mesh | None
) -> dict[str, jax.Array]:
    """The metrics of the network at(point), for every entry of `points`: (points[, pairs]) by name."""

    def many(task: Task, at: Any, points: jax.Array) -> dict[str, jax.Array]:
        def one(theta: trees.Tree) -> dict[str, jax.Array]:
            # New batch statistics first, then the metrics.
            if config.reestimate:
                theta = estimate_statistics(task, theta, config.calibration_examples, config.batch_size)
            return {
                f"{split}_{name}": value
                for split in config.splits
                for name, value in metrics_of(task, theta, task.split(split), config.batch_size).items()
            }

        def point(where: jax.Array) -> dict[str, jax.Array]:
            theta = at(where)
            return over_models(one)(theta) if config.pairs else one(theta)

        return over_points(point, points, config.chunk)

    return on_mesh(many, mesh, everywhere=2, axes=AXES)(task, at, points)


def evaluate_points(
    config: EvaluationConfig,
    task: Task,
    at: Any,
    points: np.ndarray,
    mesh: Mesh | None = None,
) -> dict[str, np.ndarray]:
    """The metrics of the network at every point, in one compiled program.

    Args:
        config: What is measured on, and how.
        task: The task, checked.
        at: point -> theta, a `jax.tree_util.Partial`.
        points: Points along the leading axis.
        mesh: Devices to distribute the points over. None: one device.

    Returns:
        Values at every point, float32 (points[, pairs]), by names such as "train_loss": those of the training examples
        first, and of each split the loss first.

    Raises:
        InputError: If the compiled program does not fit into the device's memory; the message names a chunk that does.
    """
    if mesh is not None:
        check_mesh(mesh)
    placement = Placement(mesh, len(points), AXES)
    fixed = placement.put_everywhere((task.replace(validation=None), at))
    arguments = (*fixed, placement.put(jnp.asarray(points)))

    def default() -> int:
        theta = jax.eval_shape(lambda where: trees.index(at(where), 0) if config.pairs else at(where), points[0])
        return networks_at_once(task, theta)

    def needed(chunk: int | None) -> float:
        return program_memory(_values, config._replace(chunk=chunk), *arguments, mesh)

    check_memory(
        needed, config.chunk or default, len(points), "points", f"give a batch_size below {config.batch_size}."
    )
    found = placement.get(_values(config, *arguments, mesh))
    # Compiled functions return dicts in the order of the alphabet.
    order = sorted(found, key=lambda name: (name.startswith("test_"), not name.endswith("_loss"), name))
    return {name: np.asarray(found[name]) for name in order}


def value_of(values: Any, name: str) -> np.ndarray:
    """A value by name, for `__getattr__`.

    Raises:
        AttributeError: If there is no such value, or `values` is none, as in a tree of axes or shardings.
    """
    if isinstance(values, Mapping) and name in values:
        return values[name]
    there = ", ".join(values) if isinstance(values, Mapping) else "none"
    raise AttributeError(f"got {name!r}, expected one of the metrics measured: {there}.")


def check_metric_name(values: Mapping[str, np.ndarray], name: str) -> None:
    """Raise InputError unless there is a metric of this name."""
    if name not in values:
        raise unknown_name("metric", str(name), values)
