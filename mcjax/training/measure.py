"""Means over the examples of a split: metrics of networks, and one number per network for thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data.examples import few
from mcjax.data.stream import Stream
from mcjax.errors import InputError, check_fields, check_function, check_whole, unknown_name
from mcjax.models.base import leading_axis
from mcjax.training.batch_statistics import estimate_statistics, statistics_of_batch, with_statistics
from mcjax.training.batches import Mean, evenly_spaced, mean_of, mean_over
from mcjax.training.loss import Batch, Metric
from mcjax.training.task import SplitName, Task, check_task, examples, metric_name
from mcjax.training.totals import Check, Points, Reading, each_network, on_arrays, total_of, totals


def metrics_of(task: Task, theta: trees.Tree, split: Batch, batch_size: int) -> dict[str, jax.Array]:
    """The task's metrics of one network, means over a split of arrays, by the batch statistics in theta. Pure.

    Args:
        task: The task.
        theta: Variables of one network.
        split: The examples.
        batch_size: Examples in memory at once; a smaller last batch is weighted by its size.

    Returns:
        Metric name -> scalar, "loss" among them.
    """
    return mean_over(lambda batch, _: task.measure(theta, batch), split, batch_size)


def metrics_at(
    task: Task,
    points: Points,
    splits: Mapping[str, Reading],
    calibration: Reading | None,
    *,
    metric: str | Metric = "loss",
    check: Check | None = None,
) -> dict[str, dict[str, jax.Array]]:
    """The task's metrics at many points, means over splits of arrays or streams.

    Args:
        task: The task.
        points: The points, whose `at` returns networks.
        splits: The batches of each split that is measured on.
        calibration: The batches that batch statistics are re-estimated on at every point. None: those of the networks.
        metric: The name of a metric of the task, or one of the user's own, measured alone, under an empty name.
        check: As in `totals`.

    Returns:
        Split -> metric name -> values, (points[, pairs]).
    """
    functions, own = task.functions(), None if isinstance(metric, str) else metric
    names = splits if calibration is None else {**splits, "train": calibration}
    held = {name: task.split(name) for name in names}
    if not any(isinstance(split, Stream) for split in held.values()):
        of_network = jax.tree_util.Partial(_MetricsOfArrays(tuple(splits.items()), calibration, own), functions)
        # Divided outside of the program, where XLA does not multiply by the inverse of a constant.
        return {name: total.value for name, total in on_arrays(of_network, held, points, check).items()}
    theta = jax.eval_shape(lambda points_: points.at(trees.index(points_, 0)), points.points)
    if calibration is not None and jax.tree.leaves(trees.batch_stats(theta)):
        of_batch = jax.tree_util.Partial(statistics_of_batch, functions)
        moments = totals(of_batch, task.train, calibration, points, check)
        at = jax.tree_util.Partial(_calibrated_pairs if points.pairs else _calibrated, points.at)
        points = points._replace(at=at, points=(points.points, moments))
    of_batch = jax.tree_util.Partial(_ValuesOfBatch(own), functions)
    return {name: totals(of_batch, task.split(name), reading, points, check).value for name, reading in splits.items()}


@dataclass(frozen=True)
class _MetricsOfArrays:
    """The totals of the metrics of a network on splits of arrays, after its batch statistics."""

    splits: tuple[tuple[str, Reading], ...]
    calibration: Reading | None
    own: Metric | None

    def __call__(self, task: Task, theta: trees.Tree, held: Any) -> dict[str, Mean]:
        if self.calibration is not None:
            size, examples, _ = self.calibration
            theta = estimate_statistics(task.replace(train=held["train"]), theta, examples, size)
        of_batch = partial(_ValuesOfBatch(self.own), task, theta)
        return {name: total_of(of_batch, held[name], reading) for name, reading in self.splits}


@dataclass(frozen=True)
class _ValuesOfBatch:
    """The metrics of the task on one batch, or one of the user's own."""

    own: Metric | None

    def __call__(self, task: Task, theta: trees.Tree, batch: Batch, number: Any) -> Mean:
        return mean_of(_values_of(task, theta, batch, self.own), batch)


def _calibrated(at: Any, point: tuple[Any, Any]) -> trees.Tree:
    """The network at a point with the batch statistics of these moments."""
    where, moments = point
    return with_statistics(at(where), moments)


def _calibrated_pairs(at: Any, point: tuple[Any, Any]) -> trees.Tree:
    where, moments = point
    return jax.vmap(with_statistics)(at(where), moments)


def evaluate(
    task: Task, theta: trees.Tree, batch_size: int = 1000
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Training and test metrics of a network, by the batch statistics in `theta`.

    Args:
        task: The task.
        theta: Variables of one network, or of several along a leading axis.
        batch_size: Examples in memory at once.

    Returns:
        Metric name -> value on the training and on the test examples, float32 scalars, or (networks,) with a leading
        axis. The second is empty if the task has no test examples.

    Raises:
        SpecError: If theta is not of this task.
        InputError: If the task's loss does not take theta.

    Example::

        train, test = evaluate(task, theta)
        print(test["loss"], test["accuracy"])
    """
    axis = leading_axis(check_task(task, arrays=()), theta)
    task, thetas = check_task(task, theta, arrays=()), axis.add(theta)
    splits = {name: Reading(batch_size) for name in ("train", "test") if getattr(task, name) is not None}
    found = axis.remove(metrics_at(task, Points(each_network, thetas), splits, None))
    return found["train"], found.get("test", {})


@dataclass(frozen=True)
class Criterion:
    """One number per network, for thresholds and early stopping: `criterion(task, theta)`, a float32 scalar. Pure.

    Batch statistics, if there are any, are re-estimated first.

    Attributes:
        metric: A metric of the task that is lower for better networks, such as "loss"; "error", one minus the accuracy
            unless the task has a metric of this name; "perplexity", the exponential of the loss; or any such
            `metric(theta, batch) -> scalar`, a mean over the examples.
        split: The split of the task: "train", "validation" or "test".
        examples: Number of examples of the split used, evenly spaced. None: all.
        batch_size: Examples per batch.
        calibration_examples: Number of training examples for batch statistics, evenly spaced. None: all.
    """

    metric: str | Metric = "loss"
    split: SplitName = "train"
    examples: int | None = None
    batch_size: int = 500
    calibration_examples: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str):
            check_function("metric(theta, batch) -> scalar, or a name", self.metric)
        if isinstance(self.metric, str) and self.metric.endswith("accuracy"):
            raise InputError(f"got metric={self.metric!r}, which is higher for better networks, expected 'error'.")
        check_fields(self)
        for name in ("examples", "batch_size", "calibration_examples"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name))

    def __call__(self, task: Task, theta: trees.Tree) -> jax.Array:
        check_task(task, arrays=("train", self.split))
        theta = estimate_statistics(task, theta, self.calibration_examples, self.batch_size)
        split = evenly_spaced(task.split(self.split), self.examples)
        return mean_metric(task, theta, split, self.metric, self.batch_size)

    def check(self, task: Task) -> None:
        """Raise InputError if the task lacks the split or the metric, or has too few examples."""
        for name, split in (("examples", task.split(self.split)), ("calibration_examples", task.train)):
            available = None if isinstance(split, Stream) else examples(split)
            if available is not None and (getattr(self, name) or 1) > available:
                raise InputError(f"got {name}={getattr(self, name)}, expected at most the {available} of {task.name}.")
        if task.init is not None:
            used = {"test": None, "validation": None, "train": few(task.train), self.split: few(task.split(self.split))}
            held = task.replace(**used)
            criterion = replace(self, examples=None, calibration_examples=None)
            jax.eval_shape(criterion, held, jax.eval_shape(task.init, jax.random.key(0)))

    @property
    def label(self) -> str:
        """The metric and its split for messages, such as "train loss"."""
        return f"{self.split} {metric_name(self.metric)}"


def mean_metric(task: Task, theta: trees.Tree, split: Batch, metric: str | Metric, batch_size: int) -> jax.Array:
    """A metric of one network over a split. Pure.

    Args:
        task: The task.
        theta: Variables of one network.
        split: The examples.
        metric: As in `Criterion`.
        batch_size: Examples per batch.

    Returns:
        A scalar.

    Raises:
        InputError: If the task has no metric of this name, or the metric is not a scalar.
    """
    own = None if isinstance(metric, str) else metric
    values = mean_over(lambda batch, _: _values_of(task, theta, batch, own), split, batch_size)
    return _value_of(values, metric)


def _values_of(task: Task, theta: trees.Tree, batch: Batch, own: Metric | None) -> dict[str, jax.Array]:
    """The metrics that a criterion needs: those of the task, or one of the user's own, under an empty name."""
    if own is None:
        return task.measure(theta, batch)
    value = jnp.asarray(own(theta, batch))
    if value.shape:
        raise InputError(f"got a metric of shape {value.shape}, expected a scalar: the mean over the examples.")
    return {"": value}


def _value_of(values: Mapping[str, jax.Array], metric: str | Metric) -> jax.Array:
    """The value of a criterion from the means of these metrics."""
    if not isinstance(metric, str):
        return values[""]
    if metric in values:
        return values[metric]
    derived = {"perplexity": jnp.exp(values["loss"])}
    if "accuracy" in values:
        derived["error"] = 1 - values["accuracy"]
    if metric not in derived:
        raise unknown_name("metric", metric, [*derived, *(each for each in values if not each.endswith("accuracy"))])
    return derived[metric]


def measure_networks(criterion: Criterion, task: Task, thetas: trees.Tree) -> np.ndarray:
    """The criterion of several networks, on arrays or streams.

    Args:
        criterion: The criterion.
        task: The task of the networks.
        thetas: Networks along a leading axis.

    Returns:
        float32 (networks,).
    """
    metric, size = criterion.metric, criterion.batch_size
    calibration = Reading(size, criterion.calibration_examples, True)
    splits: dict[str, Reading] = {criterion.split: Reading(size, criterion.examples)}
    values = metrics_at(task, Points(each_network, thetas), splits, calibration, metric=metric)[criterion.split]
    return np.asarray(_value_of(values, metric))
