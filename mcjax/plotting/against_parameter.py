"""Barriers and other values against a parameter, such as the step of spawning, the width or the time of training."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mcjax.plotting.style import Series, legend_below, log_if_wide, mean_and_band, new_figure, style_axes


class ParameterPanel(NamedTuple):
    """One panel: values of classes of pairs against a parameter.

    Attributes:
        title: The title of the panel.
        x_label: The label of the horizontal axis.
        y_label: The label of the vertical axis.
        x: The values of the parameter, (points,).
        lines: The values of every class, ([pairs,] points) each.
        x_scale: The horizontal scale; "symlog" is logarithmic with a place for zero.
        reference: The height of a horizontal line (None: no line).
        log_y: Whether the vertical axis is logarithmic for positive values that differ more than tenfold.
    """

    title: str
    x_label: str
    y_label: str
    x: np.ndarray
    lines: Sequence[Series]
    x_scale: Literal["linear", "log", "symlog"] = "linear"
    reference: float | None = None
    log_y: bool = False


def against_parameter(panels: Sequence[ParameterPanel], title: str) -> Figure:
    """Draw panels in one row, or in two columns if there are more than three.

    Lines are means over pairs, with a band of one standard deviation.
    """
    columns = len(panels) if len(panels) < 4 else 2
    rows = -(-len(panels) // columns)
    figure, grid = new_figure(rows, columns, (3.6 * columns + 0.6, 3.0 * rows + 0.7), title)
    for axes, panel in zip(grid.flat, panels, strict=False):
        for line in panel.lines:
            values = np.atleast_2d(line.values)
            mean_and_band(axes, panel.x, values, line.color, line.style, line.label)
            axes.plot(panel.x, values.mean(0), "o", color=line.color, markersize=3.5, clip_on=False)
        if panel.reference is not None:
            axes.axhline(panel.reference, color="0.5", linewidth=0.9, linestyle=(0, (4, 3)))
        _scale_x(axes, panel)
        if len(panel.x) > 1:
            axes.set_xlim(float(panel.x[0]), float(panel.x[-1]))
        if panel.log_y:
            log_if_wide(axes, *(line.values for line in panel.lines))
        else:
            axes.set_ylim(bottom=0)
        style_axes(axes, panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if len(panels[0].lines) > 1:
        legend_below(figure, grid[0, 0], most=5)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    return figure


def _scale_x(axes: Axes, panel: ParameterPanel) -> None:
    positive = panel.x[panel.x > 0]
    if panel.x_scale == "linear" or not len(positive):
        if len(panel.x) > 5:  # many values: the default ticks
            return
    elif panel.x_scale == "symlog":
        axes.set_xscale("symlog", linthresh=float(positive.min()), linscale=0.5)
    else:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(panel.x)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    if len(panel.x) > 5:
        axes.tick_params("x", labelrotation=60)
