"""Metrics of networks: means over the examples of a split."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakSet

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data.stream import Stream
from mcjax.errors import InputError, InputWarning
from mcjax.models.base import leading_axis
from mcjax.training.batch_statistics import estimate_statistics, statistics_of_batch, with_statistics
from mcjax.training.batches import Mean, evenly_spaced, mean_of, mean_over
from mcjax.training.loss import Batch, Metric
from mcjax.training.supervised import SupervisedLoss
from mcjax.training.task import Task, check_task
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
        at = jax.tree_util.Partial(_PointOf(points.pairs), points.at)
        points = points._replace(at=at, points=(points.points, points.keep))
        # Divided outside of the program, where XLA does not multiply by the inverse of a constant.
        return {name: total.value for name, total in on_arrays(of_network, held, points, check).items()}
    theta = jax.eval_shape(lambda points_: points.at(trees.index(points_, 0)), points.points)
    if calibration is not None and jax.tree.leaves(trees.batch_stats(theta)):
        of_batch = jax.tree_util.Partial(statistics_of_batch, functions)
        moments = totals(of_batch, task.train, calibration, points, check)
        at = jax.tree_util.Partial(_Calibrated(points.pairs), points.at)
        points = points._replace(at=at, points=(points.points, points.keep, moments))
    of_batch = jax.tree_util.Partial(_ValuesOfBatch(own), functions)
    return {name: totals(of_batch, task.split(name), reading, points, check).value for name, reading in splits.items()}


@dataclass(frozen=True)
class _MetricsOfArrays:
    """The totals of the metrics of a network on splits of arrays, after its batch statistics."""

    splits: tuple[tuple[str, Reading], ...]
    calibration: Reading | None
    own: Metric | None

    def __call__(self, task: Task, point: tuple[trees.Tree, Any], held: Any) -> dict[str, Mean]:
        theta, keep = point
        if self.calibration is not None:
            size, examples, _ = self.calibration
            theta = _unless(keep, theta, estimate_statistics(task.replace(train=held["train"]), theta, examples, size))
        of_batch = partial(_ValuesOfBatch(self.own), task, theta)
        return {name: total_of(of_batch, held[name], reading) for name, reading in self.splits}


@dataclass(frozen=True)
class _ValuesOfBatch:
    """The metrics of the task on one batch, or one of the user's own."""

    own: Metric | None

    def __call__(self, task: Task, theta: trees.Tree, batch: Batch, number: Any) -> Mean:
        return mean_of(values_of(task, theta, batch, self.own), batch)


@dataclass(frozen=True)
class _PointOf:
    """The network at a point, and whether it keeps its batch statistics, mapped over pairs like it."""

    pairs: bool

    def __call__(self, at: Any, point: tuple[Any, Any]) -> tuple[trees.Tree, Any]:
        theta, keep = at(point[0]), point[1]
        if self.pairs and keep is not None:
            keep = jnp.broadcast_to(keep, len(jax.tree.leaves(theta)[0]))
        return theta, keep


@dataclass(frozen=True)
class _Calibrated:
    """The network at a point with the batch statistics of these moments, unless it keeps its own."""

    pairs: bool

    def __call__(self, at: Any, point: tuple[Any, Any, Any]) -> trees.Tree:
        where, keep, moments = point
        theta = at(where)
        return _unless(keep, theta, (jax.vmap(with_statistics) if self.pairs else with_statistics)(theta, moments))


def _unless(keep: Any, old: trees.Tree, new: trees.Tree) -> trees.Tree:
    """The new network, or the old one where `keep` is true, a scalar or None."""
    if keep is None:
        return new

    def chosen(held: Any, estimated: Any) -> Any:
        return jnp.where(keep, held, estimated) if trees.is_floating(held) else held

    return trees.with_batch_stats(new, jax.tree.map(chosen, trees.batch_stats(old), trees.batch_stats(new)))


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
    found = metrics_at(task, Points(each_network, thetas), splits, None)
    if "accuracy" in found["train"]:
        compare_scalings(task, lambda: trees.index(thetas, 0), found["train"]["accuracy"][0])
    found = axis.remove(found)
    return found["train"], found.get("test", {})


_compared: WeakSet[Any] = WeakSet()


def compare_scalings(task: Task, network: Callable[[], trees.Tree], accuracy: Any) -> None:
    """Warn if a network of this training accuracy is far better on pixels that are scaled in another usual way.

    The network is what a function returns, which is called only if there is something to compare. Networks that were
    trained elsewhere are handed over with images in other units. Compared once for each model, and only if the accuracy
    is below 0.98.
    """
    loss, train = task.loss, task.train
    if isinstance(accuracy, jax.core.Tracer) or not isinstance(loss, SupervisedLoss) or isinstance(train, Stream):
        return
    if train[0].dtype != jnp.uint8 or not np.max(accuracy) < 0.98 or loss.model.apply in _compared:
        return
    _compared.add(loss.model.apply)
    some, theta = evenly_spaced(train, 500), network()
    pixels = np.asarray(some[0], np.float32) / 255
    axes, channels = tuple(range(pixels.ndim - 1)), pixels.shape[-1]
    usual = {
        "in [0, 1]: mean=0, std=1": (0, 1),
        "in [-1, 1]: mean=0.5, std=0.5": (0.5, 0.5),
        "from 0 to 255: mean=0, std=1/255": (0, 1 / 255),
        "of mean 0 and deviation 1: mean=None, std=None": (pixels.mean(axes), pixels.std(axes)),
    }
    found = {}
    for units, scaling in usual.items():
        mean, std = (jnp.broadcast_to(np.float32(value), (channels,)) for value in scaling)
        found[units] = float(_scaled(task.functions(), replace(loss, mean=mean, std=std, attack=None), theta, some))
    best = max(found, key=found.__getitem__)
    if 1 - found[best] < (1 - np.max(accuracy)) / 2:
        warnings.warn(
            f"got a training accuracy of {np.max(accuracy):.2f} on {task.name}, and of {found[best]:.2f} on pixels "
            f"{best}. Was the network trained on these? Then give them to data.from_arrays.",
            InputWarning,
            stacklevel=3,
        )


@jax.jit
def _scaled(task: Task, loss: SupervisedLoss, theta: trees.Tree, some: Batch) -> jax.Array:
    metrics = jax.tree_util.Partial(SupervisedLoss.evaluate, loss)
    return metrics_of(task.replace(metrics=metrics), theta, some, 500)["accuracy"]


def values_of(task: Task, theta: trees.Tree, batch: Batch, own: Metric | None) -> dict[str, jax.Array]:
    """The metrics that a criterion needs: those of the task, or one of the user's own, under an empty name."""
    if own is None:
        return task.measure(theta, batch)
    value = jnp.asarray(own(theta, batch))
    if value.shape:
        raise InputError(f"got a metric of shape {value.shape}, expected a scalar: the mean over the examples.")
    return {"": value}
