"""Metrics at many points of parameter space, a chunk at a time, within the device's memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.errors import check_fields, check_whole, unknown_name
from mcjax.runtime.compiling import Compiled
from mcjax.runtime.memory import check_memory, program_memory
from mcjax.runtime.mesh import check_mesh
from mcjax.training.batch_statistics import check_calibration
from mcjax.training.measure import metrics_at
from mcjax.training.task import Task, networks_at_once
from mcjax.training.totals import Points, Reading

Splits = Literal["both", "train", "test"]


@dataclass(frozen=True)
class EvaluationConfig:
    """The settings of an evaluation.

    Attributes:
        pairs: Whether every point is several networks along a leading axis.
        reestimate: Whether batch statistics are re-estimated at every point.
        batch_size: Examples in memory at once.
        calibration_examples: The number of training examples, evenly spaced, that batch statistics are re-estimated
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

    def __post_init__(self) -> None:
        check_fields(self)


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
        calibration_examples: Training examples to re-estimate batch statistics on, evenly spaced. None: all.
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


def evaluate_points(
    config: EvaluationConfig,
    task: Task,
    at: Any,
    points: np.ndarray,
    mesh: Mesh | None = None,
    keep: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The metrics of the network at every point.

    Args:
        config: What is measured on, and how.
        task: The task, checked.
        at: point -> theta, a `jax.tree_util.Partial`.
        points: Points along the leading axis.
        mesh: Devices to distribute the points over. None: one device.
        keep: Whether the networks of each point keep their batch statistics, bool (points,). None: none do.

    Returns:
        Values at every point, float32 (points[, pairs]), by names such as "train_loss": those of the training examples
        first, and of each split the loss first.

    Raises:
        InputError: If the compiled program does not fit into the device's memory; the message names a chunk that does.
    """
    if mesh is not None:
        check_mesh(mesh)

    def default() -> int:
        theta = jax.eval_shape(lambda where: trees.index(at(where), 0) if config.pairs else at(where), points[0])
        return networks_at_once(task, theta)

    def check(program: Callable[[int | None], tuple[Compiled, tuple]]) -> None:
        def needed(chunk: int | None) -> float:
            compiled, arguments = program(chunk)
            return program_memory(compiled, *arguments)

        advice = f"give a batch_size below {config.batch_size}."
        check_memory(needed, config.chunk or default, len(points), "points", advice)

    # New batch statistics first, then the metrics.
    size = config.batch_size
    calibration = Reading(size, config.calibration_examples, True) if config.reestimate else None
    where = Points(at, points, config.pairs, config.chunk, mesh, keep)
    measured = metrics_at(task, where, dict.fromkeys(config.splits, Reading(size)), calibration, check=check)
    found = {f"{split}_{name}": value for split, values in measured.items() for name, value in values.items()}
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
