"""The height of straight segments between networks: the maximum on a grid that is refined where it may be exceeded."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.curves.polyline import values_on_segments
from mcjax.runtime.compiling import jit
from mcjax.shown import short_repr
from mcjax.training.batches import evenly_spaced
from mcjax.training.criterion import Criterion
from mcjax.training.supervised import SupervisedLoss
from mcjax.training.task import Task, examples, networks_at_once

MAX_ROUNDS = 4
"""Maximum number of refinements of a segment, each by as many points as the first grid has."""


@short_repr
class Scan(NamedTuple):
    """Settings of a scan over segments.

    Attributes:
        task: The task of all networks.
        criterion: The criterion to measure.
        points: Points of the first grid over [0, 1], ends included.
        tolerance: Precision of the highest value, as a share of it.
        step: The smallest step of the criterion, as from `smallest_step`; five steps bound the precision.
        chunk: Segments, and points on them, in memory at once (None: 16, or 1 where convolutions run faster one after
            another).
    """

    task: Task
    criterion: Criterion
    points: int
    tolerance: float
    step: float
    chunk: int | None


class Heights(NamedTuple):
    """The highest value found on each of many segments.

    Attributes:
        value: The highest value, float32 (segments,).
        t: Its position, as a share of the segment, float32 (segments,).
        evaluations: Networks measured on the segment, int (segments,).
        gap: The longest interval without a measured point, as a share of the segment, float32 (segments,).
        bound: What no point of the segment exceeds, by a bound on the slope, float32 (segments,); inf if none was used.
    """

    value: np.ndarray
    t: np.ndarray
    evaluations: np.ndarray
    gap: np.ndarray
    bound: np.ndarray


def smallest_step(criterion: Criterion, task: Task, theta: trees.Tree) -> float:
    """The smallest step between values of a criterion: that of one label for an error rate, else 0.

    Args:
        criterion: The criterion.
        task: The task. Of one that is not `supervised`, every example has one label.
        theta: A network, or its shapes.

    Returns:
        The step.
    """
    if criterion.metric != "error":
        return 0.0
    split = evenly_spaced(task.split(criterion.split), criterion.examples)
    metrics = jax.eval_shape(Task.measure, task, theta, split)
    # An error of the task's own is no error rate.
    if "error" in metrics or "accuracy" not in metrics:
        return 0.0
    return 1 / (split[1].size if isinstance(task.loss, SupervisedLoss) else examples(split))


def segment_heights(
    scan: Scan, starts: list[trees.Tree], ends: list[trees.Tree], limits: Sequence[float] | None = None
) -> Heights:
    """The highest value along (1 - t) * start + t * end, for each segment (Algorithm 1, lines 10 and 11).

    The grid is refined in intervals where the value may exceed the highest one so far, by a local form of Piyavskii's
    bound (see `_next_points`). A segment is done when no interval may exceed that value by more than the tolerance,
    when no interval may exceed the limit of the segment, or after `MAX_ROUNDS` refinements. All segments are measured
    together, round by round.

    Args:
        scan: The criterion and the precision.
        starts: The network at t = 0 of each segment, on the host.
        ends: The network at t = 1 of each segment, on the host.
        limits: One height per segment; a segment that cannot exceed its limit is not refined. None: no limits.

    Returns:
        The heights.
    """
    limits = [-np.inf] * len(starts) if limits is None else limits
    # Round 0: an equally spaced grid.
    ts = [np.linspace(0, 1, scan.points) for _ in starts]
    values = list(values_at(scan, starts, ends, np.stack(ts))) if starts else []
    active = list(range(len(starts)))
    for _ in range(MAX_ROUNDS):
        # Choose new points in every segment whose height is not yet precise.
        new = {i: at for i in active if (at := _next_points(ts[i], values[i], scan, limits[i])) is not None}
        active = list(new)
        if not active:
            break
        at = np.stack(list(new.values()))
        found = values_at(scan, [starts[i] for i in active], [ends[i] for i in active], at)
        # Merge them into the segment's points, in order.
        for i, t, value in zip(active, at, found, strict=True):
            order = np.argsort(np.concatenate([ts[i], t]), kind="stable")
            ts[i] = np.concatenate([ts[i], t])[order]
            values[i] = np.concatenate([values[i], value])[order]
    best = [int(np.argmax(value)) for value in values]
    return Heights(
        np.array([value[i] for value, i in zip(values, best, strict=True)], np.float32),
        np.array([t[i] for t, i in zip(ts, best, strict=True)], np.float32),
        np.array([len(t) for t in ts]),
        np.array([np.diff(t).max() for t in ts], np.float32),
        np.full(len(ts), np.inf, np.float32),
    )


def _next_points(ts: np.ndarray, values: np.ndarray, scan: Scan, limit: float) -> np.ndarray | None:
    """The next points of one segment, float64 (scan.points,), or None if its height is precise."""
    # A value that is not finite counts as 1e30, above all others, and ends the scan.
    finite = np.nan_to_num(values.astype(np.float64), nan=1e30, posinf=1e30)
    width = np.diff(ts)
    slope = np.diff(finite) / np.maximum(width, 1e-12)
    # Local Lipschitz constant L of an interval: the steepest slope in it and in its two neighbours.
    steep = np.concatenate([[0.0], np.abs(slope), [0.0]])
    steepest = np.maximum(np.maximum(steep[:-2], steep[1:-1]), steep[2:])
    # Bend at a point: the change of slope times the shorter adjacent interval. A large one hints at a spike between
    # two points.
    bend = np.concatenate([[0.0], np.abs(np.diff(slope)) * np.minimum(width[1:], width[:-1]), [0.0]])
    # Piyavskii's bound, (f(a) + f(b)) / 2 + L (b - a) / 2 on [a, b], plus twice the larger bend at a and b.
    possible = (finite[1:] + finite[:-1]) / 2 + steepest * width / 2 + 2 * np.maximum(bend[1:], bend[:-1])
    # Done: the value is not finite, or no interval reaches the limit.
    top = finite.max()
    if top >= 1e30 or possible.max() <= limit:
        return None
    # Open intervals: those whose bound exceeds the highest value by more than the tolerance.
    excess = np.where(width > 1e-5, possible - top - max(scan.tolerance * abs(top), 5 * scan.step), -1.0)
    open_ = np.flatnonzero(excess > 0)
    if not len(open_):
        return None
    # Refine those with the largest excess, by at least three points each.
    chosen = open_[np.argsort(-excess[open_], kind="stable")][: max(1, scan.points // 3)]
    return points_inside(ts, chosen, scan.points)


def points_inside(ts: np.ndarray, chosen: np.ndarray, count: int) -> np.ndarray:
    """`count` points inside the chosen intervals between `ts`, equally spaced in each, by at least one in each."""
    shares = np.full(len(chosen), count // len(chosen))
    shares[: count % len(chosen)] += 1
    inside = [ts[i] + (ts[i + 1] - ts[i]) * np.arange(1, n + 1) / (n + 1) for i, n in zip(chosen, shares, strict=True)]
    return np.concatenate(inside)


def values_at(scan: Scan, starts: list[trees.Tree], ends: list[trees.Tree], ts: np.ndarray) -> np.ndarray:
    """The criterion at points of each segment.

    Args:
        scan: The criterion.
        starts: The network at t = 0 of each segment, on the host.
        ends: The network at t = 1 of each segment, on the host.
        ts: The points of each segment (segments, points).

    Returns:
        The values, float32 (segments, points).
    """
    return _measured(scan, starts, ends, ts, slopes=False)


def values_and_slopes_at(
    scan: Scan, starts: list[trees.Tree], ends: list[trees.Tree], ts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The criterion at points of each segment and its derivatives by t, both as in `values_at`."""
    found = _measured(scan, starts, ends, ts, slopes=True)
    return found[..., 0], found[..., 1]


def _measured(scan: Scan, starts: list[trees.Tree], ends: list[trees.Tree], ts: np.ndarray, slopes: bool) -> np.ndarray:
    chunk = scan.chunk or networks_at_once(scan.task, starts[0])
    found = []
    for i in range(0, len(starts), chunk):
        a, b, at = starts[i : i + chunk], ends[i : i + chunk], ts[i : i + chunk]
        # Fill up to a power of two, so that few programs are compiled.
        size = min(1 << (len(a) - 1).bit_length(), chunk)
        rows = np.minimum(np.arange(size), len(a) - 1)
        stacked = [trees.stack_on_host([part[row] for row in rows]) for part in (a, b)]
        values = _values(scan.criterion, chunk, slopes, scan.task, *stacked, np.asarray(at[rows], np.float32))
        found.append(np.asarray(values)[: len(a)])
    return np.concatenate(found)


@jit(static_argnames=("criterion", "chunk", "slopes"))
def _values(
    criterion: Criterion, chunk: int, slopes: bool, task: Task, starts: trees.Tree, ends: trees.Tree, ts: jax.Array
) -> jax.Array:
    return values_on_segments(
        lambda theta: criterion(task, theta),
        lambda i: (trees.index(starts, i), trees.index(ends, i)),
        ts,
        chunk,
        slopes=slopes,
    )
