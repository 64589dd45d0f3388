"""Criteria: one number per network, for thresholds and early stopping."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data.examples import few
from mcjax.data.stream import Stream
from mcjax.errors import InputError, check_fields, check_function, check_whole, unknown_name
from mcjax.training.batch_statistics import estimate_statistics
from mcjax.training.batches import evenly_spaced, mean_over
from mcjax.training.loss import Batch, Metric
from mcjax.training.measure import metrics_at, values_of
from mcjax.training.task import SplitName, Task, check_task, examples, metric_name
from mcjax.training.totals import Points, Reading, each_network


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
    values = mean_over(lambda batch, _: values_of(task, theta, batch, own), split, batch_size)
    return _value_of(values, metric)


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


class EarlyStopping:
    """Early stopping of each of several fits, after the epoch in which its criterion reaches its target.

    The variables of the fits must be their networks.

    Attributes:
        running: Indices of the fits that still train, int (running,).
        values: The last measured criterion of every fit, float32 (fits,); inf before the first.
        epochs: Number of epochs of every fit so far, int (fits,).
    """

    def __init__(self, criterion: Criterion, task: Task, targets: np.ndarray) -> None:
        """Start. `targets` (fits,) are the values at which fits stop; a fit with target inf is never trained."""
        self.criterion, self.task, self.targets = criterion, task, np.asarray(targets)
        self.values = np.full(len(targets), np.inf, np.float32)
        self.epochs = np.zeros(len(targets), int)
        self.running = np.flatnonzero(np.isfinite(targets))

    def update(self, states: Any) -> None:
        """Measure the running fits, and stop those at their target."""
        networks = trees.index(states.variables, np.minimum(self.selection(), len(self.values) - 1))
        measured = measure_networks(self.criterion, self.task, networks)[: len(self.running)]
        self.values[self.running] = measured
        # `~(<=)` and not `>`: a fit with NaN keeps running, and the training loop reports the loss.
        self.running = self.running[~(measured <= self.targets[self.running])]

    def selection(self) -> np.ndarray:
        """`running` as int32, padded to a power of two with indices beyond the last fit, for few compiled programs."""
        size = min(1 << max(0, len(self.running) - 1).bit_length(), len(self.values))
        return np.concatenate([self.running, np.full(size - len(self.running), len(self.values))]).astype(np.int32)

    def record(self, metrics: dict[str, np.ndarray], history: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Count an epoch of the running fits.

        Args:
            metrics: Metrics of the selected fits, (selected,) each.
            history: Metrics of all fits in all epochs before, (fits, epochs) each.

        Returns:
            Metrics of all fits, (fits,) each; a stopped fit repeats its last metrics.
        """
        self.epochs[self.running] += 1
        filled = {}
        for name, values in metrics.items():
            now = values[: len(self.running)]
            if name in history:
                filled[name] = np.array(history[name][:, -1])
            else:
                # A fit that is never trained shows the mean of the others.
                filled[name] = np.full_like(now, now.mean(), shape=len(self.values))
            filled[name][self.running] = now
        return filled
