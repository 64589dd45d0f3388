"""Loss or accuracy over planes in parameter space."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from mcjax.plotting.style import new_figure

_EDGE = [patheffects.withStroke(linewidth=2.5, foreground="w")]


class Plane(NamedTuple):
    """One plane in a figure.

    Attributes:
        title: the title of the panel.
        x: coordinates (nx,), Euclidean distances in parameter space.
        y: coordinates (ny,).
        values: (ny, nx), a loss in nats or an accuracy as a share.
        points: label -> (x, y) of points that are marked.
        curve: the points (m, 2) of a curve, or None.
    """

    title: str
    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    points: Mapping[str, tuple[float, float]] = {}
    curve: np.ndarray | None = None


def plane(
    rows: Sequence[Sequence[Plane]],
    title: str,
    *,
    of: str = "test loss (nats)",
    limit: float | None = None,
    levels: int = 12,
) -> Figure:
    """Filled contours of planes side by side, on one scale that is densest at the best value (Figures 3, 12, 13).

    Light is good; values worse than `limit`, or not finite, have the darkest colour.

    Args:
        rows: the planes of every row of panels, such as a row a model.
        title: the title of the figure.
        of: the name of the values, for the colour bar; those with "accuracy" in it are best where they are high, and
            are drawn in per cent.
        limit: the worst value that is told apart, in the values' own unit (None: a quarter of all points are worse).
        levels: the most contour levels.
    """
    accuracy = "accuracy" in of
    factor = 100.0 if accuracy else 1.0
    every = np.concatenate([factor * np.ravel(one.values) for row in rows for one in row])
    worst = None if limit is None else factor * limit
    boundaries = contour_levels(every, worst, levels, highest=accuracy)
    norm = BoundaryNorm(boundaries, 256, extend="min" if accuracy else "max")
    cmap = "viridis" if accuracy else "viridis_r"
    columns = max(map(len, rows))
    # Panels of the planes' own shape leave no gaps between them.
    shape = max(_shape(one) for row in rows for one in row)
    size = 1.6 + 3.0 * columns, 0.5 + (0.6 + 2.8 * min(shape, 1.2)) * len(rows)
    figure, panels = new_figure(len(rows), columns, size, title, dpi=120)
    for axes_row, row in zip(panels, rows, strict=True):
        for axes, one in zip(axes_row, row, strict=False):
            values = _within(factor * np.asarray(one.values, np.float64), boundaries, accuracy)
            extend: Any = "min" if accuracy else "max"
            filled = axes.contourf(
                one.x, one.y, values, boundaries, norm=norm, cmap=cmap, extend=extend, antialiased=False
            )
            _mark(axes, one)
            axes.set_title(one.title, fontsize=10)
            if 1 / 3 <= np.ptp(one.y) / np.ptp(one.x) <= 3:
                axes.set_aspect("equal")
        for axes in axes_row[len(row) :]:
            axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("distance in parameter space")
    for axes in panels[:, 0]:
        axes.set_ylabel("distance in parameter space")
    bar = figure.colorbar(
        filled, ax=panels, label=f"{of.replace('(nats)', '').strip()} ({'%' if accuracy else 'nats'})"
    )
    bar.set_ticks(list(boundaries), labels=[f"{value:g}" for value in boundaries])
    bar.minorticks_off()
    return figure


def _shape(one: Plane) -> float:
    shape = float(np.ptp(one.y) / np.ptp(one.x))
    return shape if 1 / 3 <= shape <= 3 else 0.75


def contour_levels(
    values: np.ndarray, limit: float | None, count: int, *, first: float = 1 / 60, highest: bool = False
) -> np.ndarray:
    """At most `count` increasing levels from the best value to `limit`, geometric in the distance to the best.

    Levels are rounded, by a quarter of their distance at most.

    Args:
        values: the values on all planes.
        limit: the worst level (None: a quarter of the values are worse).
        count: the most levels.
        first: the first step, as a share of the range.
        highest: whether the best value is the largest.
    """
    finite = np.sort(values[np.isfinite(values)])
    if highest:
        return -contour_levels(-values, None if limit is None else -limit, count, first=first)[::-1]
    if len(finite) == 0:
        return np.array([0.0, 1.0])
    best = finite[0]
    span = (float(np.quantile(finite, 0.75)) if limit is None else limit) - best
    span = span if span > 1e-9 * max(1, abs(best)) else max(1e-3, 1e-3 * abs(best))
    steps = np.concatenate([[0.0], span * np.geomspace(first, 1, count - 1)])
    rounded = []
    for here, before in zip(best + steps[1:], best + steps[:-1], strict=True):
        rounded.append(_rounded(here, here - before))
    # The first is a floor: no value lies below it.
    unit = 10.0 ** (np.floor(np.log10(steps[1])) - 1)
    return np.unique([float(f"{np.floor(best / unit) * unit:.12g}"), *rounded])


def _rounded(value: float, step: float) -> float:
    return round(float(value), int(-np.floor(np.log10(step / 2))))


def _within(values: np.ndarray, boundaries: np.ndarray, accuracy: bool) -> np.ndarray:
    # Just beyond the worst level is drawn like far beyond; contours are not drawn through what is not finite.
    if accuracy:
        return np.maximum(np.nan_to_num(values, nan=-np.inf), boundaries[0] - (boundaries[1] - boundaries[0]))
    return np.minimum(np.nan_to_num(values, nan=np.inf), boundaries[-1] + (boundaries[-1] - boundaries[-2]))


def _mark(axes: Axes, one: Plane) -> None:
    if one.curve is not None:
        axes.plot(*np.asarray(one.curve).T, color="k", linewidth=1.8, path_effects=_EDGE)
    if not one.points:
        return
    middle = np.mean(list(one.points.values()), axis=0)
    for label, point in one.points.items():
        axes.plot(*point, "o", color="k", markersize=6, markeredgecolor="w", markeredgewidth=1)
        # Away from the others, but not out of the panel.
        top = np.max(one.y) - 0.15 * np.ptp(one.y)
        up = 1 if middle[1] <= point[1] < top else -1
        axes.annotate(
            label, point, xytext=(0, 8 * up), textcoords="offset points", fontsize=10, path_effects=_EDGE,
            ha="center", va="bottom" if up > 0 else "top", annotation_clip=False,
        )  # fmt: skip
