"""How high straight segments between networks rise: a coarse grid, then refinement where they may rise higher."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.curves.polyline import values_on_segments
from mcjax.data import Dataset
from mcjax.models.base import Model
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import chunk_for
from mcjax.training.criterion import Criterion

ROUNDS = 4
"""Refinements at most: each looks at as many points of a segment as the first grid has."""


class Scan(NamedTuple):
    """What scans need: of which networks, by which criterion, at how many points a round, how many at once.

    points: of a grid over [0, 1], ends included. tolerance: how well the highest value is to be known, as a
    share of it, but no better than the five times `step` that values moving in such steps seem to reach. chunk:
    how many segments, and points of them, are in memory at once (None: 16, or 1 where convolutions run faster
    one after another).
    """

    model: Model
    criterion: Criterion
    data: Dataset
    points: int
    tolerance: float
    step: float
    chunk: int | None


class Heights(NamedTuple):
    """The highest value of each segment and where it is, float32 (segments,); how many networks were measured."""

    value: np.ndarray
    t: np.ndarray
    measured: np.ndarray


def highest(
    scan: Scan, starts: list[trees.Tree], ends: list[trees.Tree], limits: Sequence[float] | None = None
) -> Heights:
    """The highest value along (1 - t) * start + t * end, for each segment.

    The grid is refined in those intervals in which the value could exceed the highest one seen: as far as the
    steepest slope in and beside an interval, carried on inside it from both sides, reaches (Piyavskii's bound
    with local slopes), and by twice the bend at its ends, since where values bend from one point to the next
    there may be a spike between. It ends when no interval could by more than the tolerance, or when none
    reaches the segment's limit. All segments are measured together, a round at a time.
    """
    limits = [-np.inf] * len(starts) if limits is None else limits
    count = len(starts)
    ts = [np.linspace(0, 1, scan.points) for _ in range(count)]
    values = list(values_at(scan, starts, ends, np.stack(ts))) if count else []
    going = list(range(count))
    for _ in range(ROUNDS):
        new = {i: at for i in going if (at := _refined(ts[i], values[i], scan, limits[i])) is not None}
        going = list(new)
        if not going:
            break
        at = np.stack(list(new.values()))
        found = values_at(scan, [starts[i] for i in going], [ends[i] for i in going], at)
        for i, t, value in zip(going, at, found, strict=True):
            order = np.argsort(np.concatenate([ts[i], t]), kind="stable")
            ts[i] = np.concatenate([ts[i], t])[order]
            values[i] = np.concatenate([values[i], value])[order]
    best = [int(np.argmax(value)) for value in values]
    return Heights(
        np.array([value[i] for value, i in zip(values, best, strict=True)], np.float32),
        np.array([t[i] for t, i in zip(ts, best, strict=True)], np.float32),
        np.array([len(t) for t in ts]),
    )


def highest_on_grid(scan: Scan, starts: list[trees.Tree], ends: list[trees.Tree], times: int) -> Heights:
    """The highest value on a grid that is `times` as dense as the first one of `highest`, for each segment."""
    whole = np.linspace(0, 1, times * (scan.points - 1) + 1)
    # In parts of the length of the first grid: the same program measures them.
    parts = [whole[i : i + scan.points] for i in range(0, len(whole), scan.points)]
    parts[-1] = np.concatenate([parts[-1], np.ones(scan.points - len(parts[-1]))])
    each = [values_at(scan, starts, ends, np.tile(part, (len(starts), 1))) for part in parts]
    values, ts = np.concatenate(each, 1), np.concatenate(parts)
    best = values.argmax(1)
    return Heights(values.max(1), ts[best].astype(np.float32), np.full(len(starts), len(whole)))


def _refined(ts: np.ndarray, values: np.ndarray, scan: Scan, limit: float) -> np.ndarray | None:
    """The next points of one segment, (scan.points,); None if its highest value is known."""
    # What is not finite counts as very high: it is found, and its neighbourhood is not searched for ever.
    finite = np.nan_to_num(values.astype(np.float64), nan=1e30, posinf=1e30)
    width = np.diff(ts)
    slope = np.diff(finite) / np.maximum(width, 1e-12)
    steep = np.concatenate([[0.0], np.abs(slope), [0.0]])
    steepest = np.maximum(np.maximum(steep[:-2], steep[1:-1]), steep[2:])
    bend = np.concatenate([[0.0], np.abs(np.diff(slope)) * np.minimum(width[1:], width[:-1]), [0.0]])
    possible = (finite[1:] + finite[:-1]) / 2 + steepest * width / 2 + 2 * np.maximum(bend[1:], bend[:-1])
    top = finite.max()
    if top >= 1e30 or possible.max() <= limit:
        return None
    excess = np.where(width > 1e-5, possible - top - max(scan.tolerance * abs(top), 5 * scan.step), -1.0)
    open_ = np.flatnonzero(excess > 0)
    if not len(open_):
        return None
    # At least three points to an interval; the most promising come first.
    chosen = open_[np.argsort(-excess[open_], kind="stable")][: max(1, scan.points // 3)]
    shares = np.full(len(chosen), scan.points // len(chosen))
    shares[: scan.points % len(chosen)] += 1
    inside = [ts[i] + width[i] * np.arange(1, n + 1) / (n + 1) for i, n in zip(chosen, shares, strict=True)]
    return np.concatenate(inside)


def values_at(scan: Scan, starts: list[trees.Tree], ends: list[trees.Tree], ts: np.ndarray) -> np.ndarray:
    """The criterion of each segment at its own points: ts (segments, points) -> float32 (segments, points)."""
    chunk = scan.chunk or chunk_for(scan.model.convolutions)
    found = []
    for i in range(0, len(starts), chunk):
        a, b, at = starts[i : i + chunk], ends[i : i + chunk], ts[i : i + chunk]
        # To a power of two: few programs serve any number of segments.
        size = min(1 << (len(a) - 1).bit_length(), chunk)
        rows = np.minimum(np.arange(size), len(a) - 1)
        stacked = [trees.stack_on_host([part[row] for row in rows]) for part in (a, b)]
        values = _values(scan.model, scan.criterion, chunk, scan.data, *stacked, np.asarray(at[rows], np.float32))
        found.append(np.asarray(values)[: len(a)])
    return np.concatenate(found)


@jit(static_argnames=("model", "criterion", "chunk"))
def _values(
    model: Model, criterion: Criterion, chunk: int, data: Any, starts: trees.Tree, ends: trees.Tree, ts: jax.Array
) -> jax.Array:
    return values_on_segments(
        lambda theta: criterion(model, theta, data),
        lambda i: (trees.index(starts, i), trees.index(ends, i)),
        ts,
        chunk,
    )
