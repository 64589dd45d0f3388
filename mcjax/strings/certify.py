"""Certificates of segments: a dense grid, refined until a bound on the slope leaves no room for a wall between points.

What finitely many values certify: nothing between the points, unless more is known of the criterion. A grid alone
misses any wall that is narrower than its spacing. A given Lipschitz constant makes it a proof, up to the rounding of
the criterion. Slopes measured at the points find walls whose feet reach a point of the grid, such as narrow
Gaussians; a wall that is exactly flat at every point is not found, however high it is.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from mcjax import trees
from mcjax.curves.polyline import Polyline
from mcjax.errors import InputError
from mcjax.strings.scan import Heights, Scan, points_inside, values_and_slopes_at, values_at

Lipschitz = float | Literal["slopes"] | None
"""A bound on the slope of the criterion per unit of distance between parameters; or "slopes", measured; or None."""
MAX_ROUNDS = 100
"""Maximum number of refinements of a segment, each by as many points as the first grid has."""
SAFETY = 2.0
"""The factor on measured slopes, which bound the criterion between the points where they were measured."""


class _Grid(NamedTuple):
    """Points of one segment in increasing order, with the criterion and its derivative by t there, float64."""

    ts: np.ndarray
    values: np.ndarray
    slopes: np.ndarray

    def merged(self, other: "_Grid") -> "_Grid":
        order = np.argsort(np.concatenate([self.ts, other.ts]), kind="stable")
        return _Grid(*(np.concatenate(each)[order] for each in zip(self, other, strict=True)))


def certified_heights(
    scan: Scan,
    starts: list[trees.Tree],
    ends: list[trees.Tree],
    limits: Sequence[float],
    density: int,
    lipschitz: Lipschitz = None,
) -> Heights:
    """The highest value of each segment on a dense grid, and a bound on what it is between the points.

    On an interval [a, b] a function of slope at most L is at most (f(a) + f(b)) / 2 + L (b - a) / 2 (Piyavskii 1972).
    Intervals in which this exceeds the limit of their segment are refined, until none is left, or a value above the
    limit is found, or after `MAX_ROUNDS` refinements. With "slopes", L is twice the steepest slope of the segment,
    measured at its points or between two of them.

    Args:
        scan: The criterion and the first grid.
        starts: The network at t = 0 of each segment, on the host.
        ends: The network at t = 1 of each segment, on the host.
        limits: One height per segment: the segment is certified if its bound is at most this.
        density: The number of intervals, as a multiple of those of `scan`.
        lipschitz: The bound on the slope. None: the grid alone, whose bound is infinite.

    Returns:
        The heights. Where the bound alone is above the limit, t is the middle of the interval in which it is.

    Raises:
        InputError: The criterion is steeper between two points than the given bound.
    """
    whole = np.linspace(0, 1, density * (scan.points - 1) + 1).astype(np.float32).astype(np.float64)
    # Measure in parts as long as the first grid, with the same program; the last part is filled up with t = 1.
    parts = [whole[i : i + scan.points] for i in range(0, len(whole), scan.points)]
    parts[-1] = np.concatenate([parts[-1], np.ones(scan.points - len(parts[-1]))])
    each = [_measure(scan, starts, ends, np.tile(part, (len(starts), 1)), lipschitz) for part in parts]
    values, slopes = (np.concatenate(found, 1)[:, : len(whole)] for found in zip(*each, strict=True))
    grids = [_Grid(whole, *rows) for rows in zip(values, slopes, strict=True)]
    rates: list[float | None] = [None] * len(starts)
    if lipschitz is not None and lipschitz != "slopes":
        pairs = zip(starts, ends, strict=True)
        rates = [lipschitz * Polyline(trees.stack_on_host([*pair])).length for pair in pairs]
    active = [] if lipschitz is None else list(range(len(starts)))
    for _ in range(MAX_ROUNDS):
        new = {i: at for i in active if (at := _next_points(grids[i], rates[i], limits[i], scan.points)) is not None}
        active = list(new)
        if not active:
            break
        at = np.stack(list(new.values())).astype(np.float32).astype(np.float64)
        found = _measure(scan, [starts[i] for i in active], [ends[i] for i in active], at, lipschitz)
        for i, *rows in zip(active, at, *found, strict=True):
            grids[i] = grids[i].merged(_Grid(*rows))
    bounds = [
        np.full(len(grid.ts) - 1, np.inf) if lipschitz is None else possible(grid, rate)
        for grid, rate in zip(grids, rates, strict=True)
    ]
    tops = np.array([grid.values.max() for grid in grids])
    reaches = np.array([bound.max() for bound in bounds])
    suspected = np.isfinite(reaches) & (reaches > limits) & (tops <= limits)
    peaks = [
        (grid.ts[bound.argmax()] + grid.ts[bound.argmax() + 1]) / 2 if only else grid.ts[grid.values.argmax()]
        for grid, bound, only in zip(grids, bounds, suspected, strict=True)
    ]
    return Heights(
        tops.astype(np.float32),
        np.array(peaks, np.float32),
        np.array([len(grid.ts) for grid in grids]),
        np.array([np.diff(grid.ts).max() for grid in grids], np.float32),
        reaches.astype(np.float32),
    )


def possible(grid: _Grid, rate: float | None) -> np.ndarray:
    """Piyavskii's bound of each interval of a grid, with a slope by t of at most `rate` (None: the slopes measured)."""
    # What is not finite counts as 1e30, above all else, so that it certifies nothing.
    ts, values, slopes = (np.nan_to_num(each, nan=1e30, posinf=1e30, neginf=-1e30) for each in grid)
    width, rise = np.maximum(np.diff(ts), 1e-12), np.abs(np.diff(values))
    if rate is None:
        rate = SAFETY * max((rise / width).max(), np.abs(slopes).max())
    # Rounding: of t, to one share in a hundred of the shortest intervals, and of the criterion.
    elif (rise > 1.01 * rate * width + 1e-4 * np.abs(values).max()).any():
        raise InputError(
            f"got a lipschitz by which the criterion rises by at most {rate:.4g} over a segment, but between two "
            f"of its points it is {(rise / width).max() / rate:.3g} times as steep: expected a bound on the slope."
        )
    return (values[1:] + values[:-1]) / 2 + rate * width / 2


def _next_points(grid: _Grid, rate: float | None, limit: float, count: int) -> np.ndarray | None:
    """The next points of a segment, float64 (count,), or None if it is certified, above its limit, or too fine."""
    if not grid.values.max() <= limit:
        return None
    reach = possible(grid, rate)
    open_ = np.flatnonzero((reach > limit) & (np.diff(grid.ts) > 1e-5))
    if not len(open_):
        return None
    return points_inside(grid.ts, open_[np.argsort(-reach[open_], kind="stable")][:count], count)


def _measure(
    scan: Scan, starts: list[trees.Tree], ends: list[trees.Tree], ts: np.ndarray, lipschitz: Lipschitz
) -> tuple[np.ndarray, np.ndarray]:
    """Values and slopes, which are zero unless they are used, float64. A value that is NaN is infinite."""
    if lipschitz == "slopes":
        values, slopes = values_and_slopes_at(scan, starts, ends, ts)
    else:
        values = values_at(scan, starts, ends, ts)
        slopes = np.zeros_like(values)
    return np.where(np.isnan(values), np.inf, values).astype(np.float64), slopes.astype(np.float64)
