"""Barriers against the step of spawning, the width or the time of training."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mcjax.plotting.style import Series, legend_below, log_if_wide, mean_and_band, new_figure, plain


class Dependence(NamedTuple):
    """One panel: a measure of classes of pairs against something else.

    Attributes:
        title: the title of the panel.
        label: the label of the horizontal axis.
        of: the measure, which labels the vertical axis.
        at: the places on the horizontal axis, (points,).
        lines: the values (pairs, points) of every class.
        scale: the horizontal scale; "symlog" is logarithmic but for a zero.
        reference: a height that is drawn across.
        ratios: whether heights are positive and compared by their ratios.
    """

    title: str
    label: str
    of: str
    at: np.ndarray
    lines: Sequence[Series]
    scale: Literal["linear", "log", "symlog"] = "linear"
    reference: float | None = None
    ratios: bool = False


def dependences(panels: Sequence[Dependence], title: str) -> Figure:
    """Panels in one row, or in two columns if they are many, mean over pairs with a band of one standard deviation."""
    columns = len(panels) if len(panels) < 4 else 2
    rows = -(-len(panels) // columns)
    figure, grid = new_figure(rows, columns, (3.6 * columns + 0.6, 3.0 * rows + 0.7), title)
    for axes, panel in zip(grid.flat, panels, strict=False):
        for line in panel.lines:
            values = np.atleast_2d(line.values)
            mean_and_band(axes, panel.at, values, line.color, line.style, line.label)
            axes.plot(panel.at, values.mean(0), "o", color=line.color, markersize=3.5, clip_on=False)
        if panel.reference is not None:
            axes.axhline(panel.reference, color="0.5", linewidth=0.9, linestyle=(0, (4, 3)))
        _scaled(axes, panel)
        if len(panel.at) > 1:
            axes.set_xlim(float(panel.at[0]), float(panel.at[-1]))
        if panel.ratios:
            log_if_wide(axes, *(line.values for line in panel.lines))
        else:
            axes.set_ylim(bottom=0)
        plain(axes, panel.title, xlabel=panel.label, ylabel=panel.of)
    if len(panels[0].lines) > 1:
        legend_below(figure, grid[0, 0], 5)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    return figure


def _scaled(axes: Axes, panel: Dependence) -> None:
    positive = panel.at[panel.at > 0]
    if panel.scale == "linear" or not len(positive):
        if len(panel.at) > 5:  # an axis of its own, not a few sizes
            return
    elif panel.scale == "symlog":
        axes.set_xscale("symlog", linthresh=float(positive.min()), linscale=0.5)
    else:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(panel.at)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    if len(panel.at) > 5:
        axes.tick_params("x", labelrotation=60)
