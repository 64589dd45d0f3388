"""Style of all figures: colours and line styles that differ in greyscale too, bands, scales and legends."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

UNALIGNED, ALIGNED = "#e0791e", "#1c5f9e"
# Of the lines of one figure, in their order, where nothing else says how they look.
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")


class Series(NamedTuple):
    """Values of one class of curves.

    Attributes:
        label: The label in the legend.
        values: The values, ([pairs,] ...).
        color: The colour.
        style: The line style.
    """

    label: str
    values: np.ndarray
    color: str
    style: str = "-"


def mean_and_band(axes: Axes, x: np.ndarray, values: np.ndarray, color: str, style: str, label: str) -> None:
    """Draw the mean over pairs, and a band of one sample standard deviation.

    Where all values are positive and the band is not, it ends at the least value: a logarithmic axis has no zero.

    Args:
        axes: The panel.
        x: The horizontal coordinates, (points,).
        values: The values, ([pairs,] points).
        color: The colour.
        style: The line style.
        label: The label in the legend.
    """
    values = np.atleast_2d(values)
    mean, std = values.mean(0), deviation(values)
    axes.plot(x, mean, style, color=color, label=label, linewidth=1.8)
    low, least = mean - std, values.min(0)
    low = np.where((low <= 0) & (least > 0), least, low)
    axes.fill_between(x, low, mean + std, color=color, alpha=0.13, linewidth=0)


def deviation(values: np.ndarray) -> np.ndarray:
    """The sample standard deviation over the leading axis; zero for a single sample."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def log_if_wide(axes: Axes, *lines: Any) -> None:
    """A logarithmic axis for lines of positive values that differ more than tenfold."""
    values = np.concatenate([np.ravel(line) for line in lines])
    if values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def new_figure(
    rows: int, columns: int, size: tuple[float, float], title: str, *, dpi: int = 160, **options: Any
) -> tuple[Figure, Any]:
    """A figure and its panels, an array of axes (rows, columns).

    Args:
        rows: rows of panels.
        columns: columns of panels.
        size: width and height in inches.
        title: the title above all panels, or "".
        dpi: dots an inch.
        **options: further options of `Figure.subplots`.
    """
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def style_axes(axes: Axes, title: str = "", **properties: Any) -> None:
    """No frame, a light grid behind what is drawn, a title on the left; `Axes.set` takes properties such as xlabel."""
    axes.set(**properties)
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def legend_below(figure: Figure, *panels: Axes, most: int = 4, right: bool = False) -> None:
    """Draw one legend below all panels.

    Args:
        figure: The figure.
        *panels: The panels whose labels are shown, every label once.
        most: The maximum number of entries in a row.
        right: Whether the legend is on the right instead of in the middle.
    """
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    rows = -(-len(handles) // most)
    place: Any = "outside lower right" if right else "outside lower center"
    figure.legend(handles.values(), handles.keys(), loc=place, ncols=-(-len(handles) // rows), frameon=False)
