"""Loss and accuracy along any path, and what is read off them: barriers, lengths, integrals."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.curve import PairwiseCurve
from mcjax.data import Augmentation, Dataset
from mcjax.errors import InputError
from mcjax.landscape.points import METRICS, evaluate_points, settings_for
from mcjax.models.base import Model, has_leading_axis
from mcjax.runtime.compiling import jit
from mcjax.training.objective import check_model_and_data


class PathMetrics(NamedTuple):
    """Loss (nats) and accuracy (share) at each of `ts`, float32 ([pairs,] len(ts)).

    distance: the Euclidean length of the path up to each t, in parameter space ([pairs,] len(ts)).
    """

    ts: np.ndarray
    train_loss: np.ndarray
    train_accuracy: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    distance: np.ndarray

    def summary(self) -> dict[str, dict[str, Any]]:
        """For every metric: start, end, min, max, mean over ts, and integral.

        The integral is the trapezoid over arc length, divided by the length (the plain trapezoid
        over t if the path has no length): what eq. 1 of Neuron Alignment averages.
        """
        return {name: self._columns(getattr(self, name)) for name in METRICS}

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
    model: Model,
    path: Callable[[Any], trees.Tree],
    data: Dataset,
    ts: Any = 61,
    reestimate: bool = True,
    *,
    batch_size: int = 500,
    calibration_images: int | None = None,
    augmentation: Augmentation | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> PathMetrics:
    """Loss and accuracy of the network at every point of a path, on all train and test images.

    path: any function t -> theta; one whose theta has a leading pair axis gives metrics with that
    axis. ts: values in [0, 1], increasing, or how many equally spaced ones. reestimate: re-estimate
    batch statistics at every point on the first `calibration_images` training images (default: all),
    `batch_size` at a time, under `augmentation`, which should be that of training (default: the data
    set's own; the images that are measured on are not augmented). chunk: how many points are in
    a device's memory at once (default: 16; 1 where convolutions run faster one after another). One
    compiled program for all points, which are shared out among the devices of a mesh (`make_mesh`) if
    one is given; a path that is a `jax.tree_util.Partial`, as every fit returns, is compiled once for
    its kind. Raises InputError for t outside [0, 1] and for a chunk that does not fit into memory
    (before anything is run), SpecError if the path leaves the model's parameter space.

        metrics = evaluate_path(model, fit.path, data)
        print(barrier(metrics), metrics.summary()["test_accuracy"]["min"])
    """
    check_model_and_data(model, data)
    ts = np.linspace(0, 1, ts, dtype=np.float32) if isinstance(ts, int) else np.asarray(ts, np.float32)
    _check_ts(ts)
    path = path if isinstance(path, jax.tree_util.Partial) else jax.tree_util.Partial(path)
    pairs = has_leading_axis(jax.eval_shape(path, jnp.float32(0)), model)
    settings = settings_for(
        model,
        data,
        pairs=pairs,
        reestimate=reestimate,
        batch_size=batch_size,
        calibration_images=calibration_images,
        augmentation=augmentation,
        chunk=chunk,
    )
    # Points come first out of the programs, pairs first out of here.
    values = np.moveaxis(evaluate_points(settings, path, data, ts, mesh), 0, -1)
    distance = np.moveaxis(np.asarray(_lengths(path, jnp.asarray(ts), pairs)), 0, -1)
    train_loss, train_accuracy, test_loss, test_accuracy = values
    return PathMetrics(ts, train_loss, train_accuracy, test_loss, test_accuracy, distance)


def _check_ts(ts: np.ndarray) -> None:
    if ts.ndim != 1 or len(ts) == 0 or (ts < 0).any() or (ts > 1).any() or (np.diff(ts) <= 0).any():
        raise InputError(f"got ts={np.array2string(ts, threshold=8)}, expected increasing values in [0, 1].")


@jit(static_argnames="pairs")
def _lengths(path: Any, ts: jax.Array, pairs: bool) -> jax.Array:
    return _distances(path, ts, pairs)


def _distances(path: Any, ts: jax.Array, pairs: bool) -> jax.Array:
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


def barrier(
    metrics: PathMetrics, metric: str = "train_loss", baseline: Literal["line", "mean", "ends"] = "line"
) -> Any:
    """How far the path rises: in nats for a loss, as a share for an accuracy (which rises as error).

    baseline: the largest height above what. "line": the straight line between the two ends' values, so that
    ends of different values are no barrier by themselves (Entezari et al., 2021, Definition 2.1; Git Re-Basin's loss
    barrier). "mean": the mean of the two ends' values (Frankle et al., 2020: of the error along the straight
    line between two networks of one parent, "test_accuracy" here, this is the linear interpolation instability).
    "ends": the worse end. Never negative: the ends are part of the path, and the worse of them is on the line
    and not below the mean, above which it lies by half of what the ends differ by. A float, or an array over pairs.
    """
    if metric not in METRICS:
        raise InputError(f"got metric={metric!r}, expected one of {', '.join(METRICS)}.")
    if baseline not in ("line", "mean", "ends"):
        raise InputError(f"got baseline={baseline!r}, expected line, mean or ends.")
    values = getattr(metrics, metric) * (-1 if metric.endswith("accuracy") else 1)
    start, end = values[..., :1], values[..., -1:]
    t = metrics._share()
    bases = {"line": (1 - t) * start + t * end, "mean": (start + end) / 2, "ends": np.maximum(start, end)}
    return np.maximum((values - bases[baseline]).max(-1), 0)


def arc_length(path: Callable[[Any], trees.Tree], ts: Any = 61) -> Any:
    """The Euclidean length of the polygon through path(ts), over parameters, not batch statistics.

    ts as in `evaluate_path`. A float32, or (pairs,) for a path that a curve was bound to over pairs.
    """
    ts = np.linspace(0, 1, ts, dtype=np.float32) if isinstance(ts, int) else np.asarray(ts, np.float32)
    _check_ts(ts)
    return _distances(path, jnp.asarray(ts), _of_pairs(path))[-1]


def normalized_length(path: Callable[[Any], trees.Tree], ts: Any = 61) -> Any:
    """The arc length over the distance of the ends: 1 for a straight line. NaN if the ends coincide.

    Arguments and result as in `arc_length`.
    """
    return arc_length(path, ts) / _distances(path, jnp.array([0.0, 1.0]), _of_pairs(path))[-1]


def _of_pairs(path: Any) -> bool:
    return isinstance(getattr(path, "func", None), PairwiseCurve)
