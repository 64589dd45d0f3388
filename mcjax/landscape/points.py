"""Metrics at many points of parameter space, a chunk at a time, within the device's memory."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import default_chunk, over_models, over_points
from mcjax.runtime.memory import check_memory, program_memory
from mcjax.runtime.mesh import AXES, Placement, check_mesh, on_mesh
from mcjax.training.batch_statistics import check_calibration, estimate_statistics
from mcjax.training.batches import mean_over
from mcjax.training.measure import Metric, metric_name
from mcjax.training.task import Batch, Task

Splits = Literal["both", "train", "test"]


class EvaluationConfig(NamedTuple):
    """The static arguments of an evaluation: a program is compiled for each.

    Attributes:
        pairs: Whether every point is several networks along a leading axis.
        reestimate: Whether batch statistics are re-estimated at every point.
        batch_size: Examples in memory at once.
        calibration_examples: The number of training examples, the first ones, that batch statistics are re-estimated
            on. None: all.
        chunk: Points in a device's memory at once.
        splits: The names of the splits that are measured on.
    """

    pairs: bool
    reestimate: bool
    batch_size: int
    calibration_examples: int | None
    chunk: int
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
    chunk = default_chunk(task.convolutions or "none") if chunk is None else chunk
    check_whole("chunk", chunk)
    names = ("train", "test") if splits == "both" and task.test is not None else ("train",)
    if splits == "test":
        task.split(splits)
        names = (splits,)
    return EvaluationConfig(pairs, reestimate, batch_size, calibration_examples, chunk, names)


def traceable_metric(task: Task, metric: Metric | None, theta: trees.Tree) -> Metric | None:
    """A further metric as a pytree, so that its arrays are traced and its functions static.

    Args:
        task: The task.
        metric: `metric(theta, batch) -> scalar`, or None.
        theta: One network, or its shapes.

    Returns:
        The metric, or None.

    Raises:
        InputError: If it is no function, does not return a scalar, or has the name of a metric of the task.
    """
    if metric is None:
        return None
    if not callable(metric):
        raise InputError(f"got metric={metric!r}, expected a function: metric(theta, batch) -> scalar.")
    batch = jax.eval_shape(lambda split: jax.tree.map(lambda leaf: jnp.asarray(leaf)[:2], split), task.train)
    found, name = jax.eval_shape(metric, theta, batch), _name(metric)
    if not isinstance(found, jax.ShapeDtypeStruct) or found.shape:
        got = f"shape {found.shape}" if isinstance(found, jax.ShapeDtypeStruct) else f"type {type(found).__name__}"
        raise InputError(
            f"got values of {got} from the metric {name!r}, expected a scalar: the mean over the examples of the batch."
        )
    if name in jax.eval_shape(task.measure, theta, batch):
        raise InputError(f"{task.name} has a metric {name!r} already, expected a function of another name.")
    return jax.tree_util.Partial(metric) if jax.tree_util.all_leaves([metric]) else metric


def _name(metric: Metric) -> str:
    """The name of a metric, also of one with bound arguments."""
    return metric_name(metric.func if isinstance(metric, partial) else metric)


@jit(static_argnames=("config", "mesh"))
def _values(
    config: EvaluationConfig, task: Task, metric: Metric | None, at: Any, points: jax.Array, mesh: Mesh | None
) -> dict[str, jax.Array]:
    """The metrics of the network at(point), for every entry of `points`: (points[, pairs]) by name."""

    def many(task: Task, metric: Metric | None, at: Any, points: jax.Array) -> dict[str, jax.Array]:
        def one(theta: trees.Tree) -> dict[str, jax.Array]:
            # New batch statistics first, then the metrics.
            if config.reestimate:
                theta = estimate_statistics(task, theta, config.calibration_examples, config.batch_size)

            def measured(batch: Batch, number: Any) -> dict[str, jax.Array]:
                more = {} if metric is None else {_name(metric): jnp.asarray(metric(theta, batch))}
                return {**task.measure(theta, batch), **more}

            return {
                f"{split}_{name}": value
                for split in config.splits
                for name, value in mean_over(measured, task.split(split), config.batch_size).items()
            }

        def point(where: jax.Array) -> dict[str, jax.Array]:
            theta = at(where)
            return over_models(one, task.convolutions)(theta) if config.pairs else one(theta)

        return over_points(point, points, task.convolutions, config.chunk)

    return on_mesh(many, mesh, everywhere=3, axes=AXES)(task, metric, at, points)


def evaluate_points(
    config: EvaluationConfig,
    task: Task,
    at: Any,
    points: np.ndarray,
    *,
    metric: Metric | None = None,
    mesh: Mesh | None = None,
) -> dict[str, np.ndarray]:
    """The metrics of the network at every point, in one compiled program.

    Args:
        config: What is measured on, and how.
        task: The task, checked.
        at: point -> theta, a `jax.tree_util.Partial`.
        points: Points along the leading axis.
        metric: A further metric, from `traceable_metric`.
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
    fixed = placement.put_everywhere((task.with_examples(validation=None), metric, at))
    arguments = (*fixed, placement.put(jnp.asarray(points)))

    def needed(chunk: int) -> float:
        return program_memory(_values, config._replace(chunk=chunk), *arguments, mesh)

    check_memory(needed, config.chunk, len(points), "points", f"give a batch_size below {config.batch_size}.")
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
