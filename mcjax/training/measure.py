"""Means over the examples of a split: metrics of networks, and one number per network for thresholds."""

from dataclasses import dataclass
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.models.base import leading_axis
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models
from mcjax.training.batch_statistics import estimate_statistics
from mcjax.training.batches import mean_over
from mcjax.training.loss import Batch, Metric
from mcjax.training.task import SplitName, Task, check_task, examples, metric_name


def metrics_of(task: Task, theta: trees.Tree, split: Batch, batch_size: int) -> dict[str, jax.Array]:
    """The task's metrics of one network, means over a split, by the batch statistics in theta. Pure.

    Args:
        task: The task.
        theta: Variables of one network.
        split: The examples.
        batch_size: Examples in memory at once; a smaller last batch is weighted by its size.

    Returns:
        Metric name -> scalar, "loss" among them.
    """
    return mean_over(lambda batch, _: task.measure(theta, batch), split, batch_size)


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
    axis = leading_axis(check_task(task), theta)
    task, thetas = check_task(task, theta), axis.add(theta)
    return axis.remove(_evaluate(task, thetas, batch_size))


@jit(static_argnames=("batch_size",))
def _evaluate(task: Task, thetas: trees.Tree, batch_size: int) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    def one(theta: trees.Tree) -> tuple[dict[str, jax.Array], ...]:
        return tuple(
            {} if split is None else metrics_of(task, theta, split, batch_size) for split in (task.train, task.test)
        )

    train, test = over_models(one)(thetas)
    return train, test


@dataclass(frozen=True)
class Criterion:
    """One number per network, for thresholds and early stopping: `criterion(task, theta)`, a float32 scalar. Pure.

    Batch statistics, if there are any, are re-estimated first.

    Attributes:
        metric: A metric of the task that is lower for better networks, such as "loss"; "error", one minus the accuracy
            unless the task has a metric of this name; "perplexity", the exponential of the loss; or any such
            `metric(theta, batch) -> scalar`, a mean over the examples.
        split: The split of the task: "train", "validation" or "test".
        examples: Number of examples of the split used, the first ones. None: all.
        batch_size: Examples per batch.
        calibration_examples: Number of training examples for batch statistics, the first ones. None: all.
    """

    metric: str | Metric = "loss"
    split: SplitName = "train"
    examples: int | None = None
    batch_size: int = 500
    calibration_examples: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.metric, str) or callable(self.metric)):
            raise InputError(f"got metric={self.metric!r}, expected a name, or metric(theta, batch) -> scalar.")
        if isinstance(self.metric, str) and self.metric.endswith("accuracy"):
            raise InputError(f"got metric={self.metric!r}, which is higher for better networks, expected 'error'.")
        if self.split not in get_args(SplitName):
            raise unknown_name("split", str(self.split), get_args(SplitName))
        for name in ("examples", "batch_size", "calibration_examples"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name))

    def __call__(self, task: Task, theta: trees.Tree) -> jax.Array:
        theta = estimate_statistics(task, theta, self.calibration_examples, self.batch_size)
        split = jax.tree.map(lambda leaf: leaf[: self.examples], task.split(self.split))
        return mean_metric(task, theta, split, self.metric, self.batch_size)

    def check(self, task: Task) -> None:
        """Raise InputError if the task lacks the split or the metric, or has too few examples."""
        split = task.split(self.split)
        for name, available in (("examples", examples(split)), ("calibration_examples", examples(task.train))):
            if (getattr(self, name) or 1) > available:
                raise InputError(f"got {name}={getattr(self, name)}, expected at most the {available} of {task.name}.")
        if task.init is not None:
            jax.eval_shape(self, task, jax.eval_shape(task.init, jax.random.key(0)))

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
    if not isinstance(metric, str):
        value = mean_over(lambda batch, _: jnp.asarray(metric(theta, batch)), split, batch_size)
        if value.shape:
            raise InputError(f"got a metric of shape {value.shape}, expected a scalar: the mean over the examples.")
        return value
    found = metrics_of(task, theta, split, batch_size)
    if metric in found:
        return found[metric]
    derived = {"perplexity": jnp.exp(found["loss"])}
    if "accuracy" in found:
        derived["error"] = 1 - found["accuracy"]
    if metric not in derived:
        raise unknown_name("metric", metric, [*derived, *(each for each in found if not each.endswith("accuracy"))])
    return derived[metric]


def measure_networks(criterion: Criterion, task: Task, thetas: trees.Tree) -> np.ndarray:
    """The criterion of several networks, in one compiled program.

    Args:
        criterion: The criterion.
        task: The task of the networks.
        thetas: Networks along a leading axis.

    Returns:
        float32 (networks,).
    """
    return np.asarray(_measure_networks(criterion, task, thetas))


@jit(static_argnames=("criterion",))
def _measure_networks(criterion: Criterion, task: Task, thetas: trees.Tree) -> jax.Array:
    return over_models(lambda theta: criterion(task, theta))(thetas)
