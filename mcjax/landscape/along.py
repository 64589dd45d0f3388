"""Metrics along any path, and their barriers, lengths and integrals."""

import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.curve import PairwiseCurve, check_path
from mcjax.errors import InputError, InputWarning, check_kind, check_whole, unknown_name
from mcjax.landscape.points import (
    evaluate_points,
    evaluation_config,
    value_of,
)
from mcjax.models.base import has_leading_axis
from mcjax.runtime.compiling import jit
from mcjax.shown import short, short_repr
from mcjax.training.loss import Metric
from mcjax.training.measure import compare_scalings
from mcjax.training.task import Task, check_task


@short_repr
class PathMetrics(NamedTuple):
    """Metrics at points of a path; arrays have a leading pair axis if the path has one.

    Attributes:
        ts: The points, float32 (n,).
        values: Every metric at the points, float32 ([pairs,] n), by name: "train_loss", "test_loss", and so on for all
            metrics of the task, means over the examples of the split. They are attributes too: `metrics.train_loss`.
        distance: The Euclidean length of the path up to each t, in parameter space, float32 ([pairs,] n).
        stored: The same metrics at both ends by the batch statistics that the networks hold, float32 ([pairs,] 2), of
            a path from t = 0 to 1 along which they are re-estimated; otherwise empty.
    """

    ts: np.ndarray
    values: dict[str, np.ndarray]
    distance: np.ndarray
    stored: dict[str, np.ndarray] = {}  # noqa: RUF012  (nothing writes into it)

    def __getattr__(self, name: str) -> np.ndarray:
        return value_of(self.values, name)

    def summary(self) -> dict[str, dict[str, Any]]:
        """The start, end, min, max, mean over ts, and integral of every metric.

        The integral is the trapezoid over arc length, divided by the length (the plain trapezoid over t if the path
        has no length): the average of Neuron Alignment, eq. 1.
        """
        return {name: self._columns(values) for name, values in self.values.items()}

    def _columns(self, values: np.ndarray) -> dict[str, Any]:
        length = self.distance[..., -1:]
        at = np.where(length > 0, self.distance / np.where(length > 0, length, 1), self._share())
        return {
            "start": values[..., 0],
            "end": values[..., -1],
            "min": values.min(-1),
            "max": values.max(-1),
            "mean": values.mean(-1),
            "integral": np.trapezoid(values, at, axis=-1),
        }

    def _share(self) -> np.ndarray:
        span = self.ts[-1] - self.ts[0]
        share = (self.ts - self.ts[0]) / (span if span else 1)
        return np.broadcast_to(share, self.distance.shape)


def evaluate_path(
    task: Task,
    path: Callable[[Any], trees.Tree],
    ts: Any = 61,
    *,
    metric: Metric | None = None,
    reestimate: bool = True,
    batch_size: int = 500,
    calibration_examples: int | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> PathMetrics:
    """The metrics of the network at every point of a path, on all training and test examples.

    One compiled program evaluates all points. For a path that is a `jax.tree_util.Partial`, as every fit returns, the
    program is compiled once per kind of path.

    Args:
        task: The task of the networks. Without test examples, only metrics on the training examples are measured.
        path: Any function t -> theta. If theta has a leading pair axis, the metrics have it too.
        ts: Increasing values in [0, 1], or how many equally spaced ones.
        metric: A further `metric(theta, batch) -> scalar`, the mean over the examples of the batch; it is measured on
            the same examples, and named by its `__name__`. None: the metrics of the task alone.
        reestimate: Whether batch statistics are re-estimated at every point, on training examples that are augmented as
            in training. Metrics are measured without augmentation.
        batch_size: Examples in memory at once.
        calibration_examples: The number of training examples, evenly spaced, that batch statistics are re-estimated
            on. None: all.
        chunk: Points in a device's memory at once. None: 16, or 1 where convolutions run faster one after another.
        mesh: Devices to distribute the points over (`make_mesh`). None: one device.

    Returns:
        The metrics at every t.

    Raises:
        InputError: For t outside [0, 1], a metric that is no scalar, or a chunk that does not fit into memory.
        SpecError: If the path leaves the parameter space of the task's networks.

    Example::

        metrics = evaluate_path(task, fit.path)
        print(barrier(metrics), metrics.summary()["test_accuracy"]["min"])

        def entropy(theta, batch):
            p = jax.nn.softmax(model.apply(theta, task.model_inputs(batch)))
            return -jax.scipy.special.xlogy(p, p).sum(-1).mean()

        print(evaluate_path(task, fit.path, metric=entropy).test_entropy)
    """
    task = check_task(task, arrays=())
    ts, path = _points(ts), check_path(path)
    theta = jax.eval_shape(path, jnp.float32(0))
    pairs = has_leading_axis(theta, task)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), theta) if pairs else theta
    task = check_task(task, one, arrays=())
    config = evaluation_config(
        task,
        pairs=pairs,
        reestimate=reestimate,
        batch_size=batch_size,
        calibration_examples=calibration_examples,
        chunk=chunk,
    )
    task = task.with_metric(metric, one)
    # The networks at both ends are measured by the batch statistics that they hold too.
    held = reestimate and (ts[0], ts[-1]) == (0, 1) and bool(jax.tree.leaves(trees.batch_stats(one)))
    points, keep = (np.append(ts, [0, 1]).astype(ts.dtype), np.arange(len(ts) + 2) >= len(ts)) if held else (ts, None)
    values = evaluate_points(config, task, path, points, mesh, keep)
    # From points first to pairs first and points last.
    values = {name: np.moveaxis(value, 0, -1) for name, value in values.items()}
    distance = np.moveaxis(np.asarray(_lengths(path, jnp.asarray(ts), pairs)), 0, -1)
    along = {name: value[..., : len(ts)] for name, value in values.items()}
    stored = {name: value[..., -2:] for name, value in values.items()} if held else {}
    metrics = PathMetrics(ts, along, distance, stored)
    _compare_statistics(metrics)
    if ts[0] == 0 and "train_accuracy" in along:

        def first() -> trees.Tree:
            return trees.index(path(jnp.float32(0)), 0) if pairs else path(jnp.float32(0))

        compare_scalings(task, first, (stored or along)["train_accuracy"][..., 0])
    return metrics


def _compare_statistics(metrics: PathMetrics) -> None:
    """Warn if the networks at the ends are other ones by their batch statistics and by re-estimated ones."""
    for name, most in (("train_accuracy", 0.05), ("train_loss", 0.25)):
        if name not in metrics.stored:
            continue
        held, now = metrics.stored[name], metrics.values[name][..., [0, -1]]
        if (np.abs(held - now) > most * (1 if name == "train_accuracy" else 0.1 + np.minimum(held, now))).any():
            warnings.warn(
                f"{name} at the ends is {np.array2string(held, precision=3)} by the batch statistics of the networks, "
                f"and {np.array2string(now, precision=3)} by re-estimated ones, as all values along the path. "
                "Other data, images in other units, or stale statistics may be the cause.",
                InputWarning,
                stacklevel=3,
            )
        return


def _points(ts: Any) -> np.ndarray:
    """The points, float32 (n,). Raises InputError unless they are increasing in [0, 1], or a number of points."""
    if isinstance(ts, Integral):
        check_whole("ts", ts)
        return np.linspace(0, 1, int(ts), dtype=np.float32)
    given = np.asarray(None if trees.is_key(ts) or hasattr(ts, "_fields") else ts)
    numbers = given.ndim == 1 and len(given) > 0 and given.dtype.kind in "iuf"
    if not numbers or not ((given >= 0) & (given <= 1)).all() or (np.diff(given) <= 0).any():
        raise InputError(f"got ts={short(ts)}, expected increasing values in [0, 1], or a whole number of points.")
    return given.astype(np.float32)


@jit(static_argnames="pairs")
def _lengths(path: Any, ts: jax.Array, pairs: bool) -> jax.Array:
    return _distances(path, ts, pairs)


def _distances(path: Any, ts: jax.Array, pairs: bool) -> jax.Array:
    """The length of the polygon through the points of a path, up to each of them: (len(ts)[, pairs])."""

    def length(a: trees.Tree, b: trees.Tree) -> jax.Array:
        return trees.norm(trees.subtract(trees.params(a), trees.params(b)))

    def advance(carry: tuple, t: jax.Array) -> tuple[tuple, jax.Array]:
        before, total = carry
        here = path(t)
        total = total + (jax.vmap(length) if pairs else length)(here, before)
        return (here, total), total

    start = path(ts[0])
    zero = jnp.zeros(jax.tree.leaves(start)[0].shape[:1] if pairs else ())
    return jax.lax.scan(advance, (start, zero), ts)[1]


def check_metrics(metrics: Any, metric: Any) -> None:
    """Raise InputError unless these are the metrics of a path, and hold one of this name."""
    check_kind("metrics", metrics, PathMetrics, "evaluate_path(task, path)")
    if not isinstance(metric, str) or metric not in metrics.values:
        raise unknown_name("metric", metric, metrics.values)


def barrier(
    metrics: PathMetrics, metric: str = "train_loss", baseline: Literal["line", "mean", "ends"] = "line"
) -> Any:
    """The largest rise of a path above its ends: of a loss in its unit, or of an error as a share of the labels.

    Args:
        metrics: The metrics of a path.
        metric: A name in `metrics.values`, such as "train_loss". Lower values are better, except for names that end in
            "accuracy".
        baseline: The values that the rise is measured from. "line": the straight line between the values at the two
            ends, so that a difference between the ends alone is no barrier (Entezari et al., 2021, Definition 2.1; the
            loss barrier of Git Re-Basin). "mean": the mean of the two values (Frankle et al., 2020; for
            "test_accuracy" along the line between two networks spawned from one, the instability to SGD noise).
            "ends": the worse of the two values.

    Returns:
        A float, or an array over pairs, at least 0, since the ends are points of the path. With "mean", a path that
        does not rise has a barrier of half the difference of its ends.

    Raises:
        InputError: If the metric was not measured, or there is no such baseline.
    """
    check_metrics(metrics, metric)
    if baseline not in ("line", "mean", "ends"):
        raise InputError(f"got baseline={baseline!r}, expected line, mean or ends.")
    values = metrics.values[metric] * (-1 if metric.endswith("accuracy") else 1)
    start, end = values[..., :1], values[..., -1:]
    t = metrics._share()
    # Accuracies were negated above, so that larger values are worse for all metrics.
    bases = {"line": (1 - t) * start + t * end, "mean": (start + end) / 2, "ends": np.maximum(start, end)}
    return np.maximum((values - bases[baseline]).max(-1), 0)


def arc_length(path: Callable[[Any], trees.Tree], ts: Any = 61) -> Any:
    """The Euclidean length of the polygon through path(ts), over the parameters without batch statistics.

    `ts` is as in `evaluate_path`. The result is a float32 scalar, or (pairs,) for the path of a curve bound to many
    pairs.
    """
    return _distances(check_path(path), jnp.asarray(_points(ts)), _over_pairs(path))[-1]


def normalized_length(path: Callable[[Any], trees.Tree], ts: Any = 61) -> Any:
    """The arc length divided by the distance of the ends: 1 for a straight line, NaN if the ends coincide.

    Arguments and result are those of `arc_length`.
    """
    distance = _distances(check_path(path), jnp.array([0.0, 1.0]), _over_pairs(path))[-1]
    # The length of a path that stays where it is need not be zero to rounding.
    return jnp.where(distance > 0, arc_length(path, ts) / distance, jnp.nan)


def _over_pairs(path: Any) -> bool:
    return isinstance(getattr(path, "func", None), PairwiseCurve)
