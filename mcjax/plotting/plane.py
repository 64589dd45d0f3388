"""Loss or accuracy on planes in parameter space."""

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
        title: The title of the panel.
        x: Coordinates of the columns (nx,), in Euclidean distance in parameter space.
        y: Coordinates of the rows (ny,).
        values: Loss in nats, or accuracy as a share, (ny, nx).
        points: Coordinates (x, y) of marked points, by label.
        curve: Points (m, 2) of a curve to draw, or None.
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
    label: str = "test loss (nats)",
    limit: float | None = None,
    levels: int = 12,
) -> Figure:
    """Draw filled contours of planes side by side, on one scale with the densest levels at the best value.

    The best values are the lightest. Values worse than `limit`, or not finite, have the darkest colour.
    Source: Neuron Alignment, Figures 3, 12 and 13.

    Args:
        rows: The planes of every row of panels.
        title: The title of the figure.
        label: The name of the values, for the colour bar. If it contains "accuracy", the highest value is the best, and
            values are drawn in per cent.
        limit: The value of the last contour, in the unit of the values (None: a quarter of all points are worse).
        levels: The maximum number of contour levels.

    Returns:
        The figure.
    """
    accuracy = "accuracy" in label
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
        filled, ax=panels, label=f"{label.replace('(nats)', '').strip()} ({'%' if accuracy else 'nats'})"
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

    Levels are rounded, by at most a quarter of the distance between them.

    Args:
        values: The values on all planes.
        limit: The worst level (None: a quarter of the values are worse).
        count: The maximum number of levels.
        first: The first step, as a share of the range.
        highest: Whether the best value is the largest.

    Returns:
        The levels, at most (count,).
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
    # The first level is rounded down, so that no value lies below it.
    unit = 10.0 ** (np.floor(np.log10(steps[1])) - 1)
    return np.unique([float(f"{np.floor(best / unit) * unit:.12g}"), *rounded])


def _rounded(value: float, step: float) -> float:
    return round(float(value), int(-np.floor(np.log10(step / 2))))


def _within(values: np.ndarray, boundaries: np.ndarray, accuracy: bool) -> np.ndarray:
    # Clip values just beyond the worst level; those that are not finite count as such, since contours need numbers.
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
        # Put the label on the side away from the other points, within the panel.
        top = np.max(one.y) - 0.15 * np.ptp(one.y)
        up = 1 if middle[1] <= point[1] < top else -1
        axes.annotate(
            label, point, xytext=(0, 8 * up), textcoords="offset points", fontsize=10, path_effects=_EDGE,
            ha="center", va="bottom" if up > 0 else "top", annotation_clip=False,
        )  # fmt: skip
