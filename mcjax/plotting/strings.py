"""Strings between networks: length and beads against the threshold, and their shape in parameter space."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from mpl_toolkits.mplot3d.art3d import Line3DCollection

from mcjax.plotting.style import RC, SMALL, legend_below, plain


class PowerLaw(NamedTuple):
    """The law value = factor * threshold ** exponent.

    Attributes:
        exponent: The exponent.
        factor: The value at threshold 1.
        low: The lowest threshold that it was fitted to.
        high: The highest one.
    """

    exponent: float
    factor: float
    low: float
    high: float


class Thresholds(NamedTuple):
    """One class of strings at several thresholds, and its look; NaN where no string is connected.

    Attributes:
        label: The entry in the legend.
        thresholds: float (thresholds,).
        length: The mean normalised length, (thresholds,).
        length_deviation: Its standard deviation.
        beads: The mean number of beads, (thresholds,).
        beads_deviation: Its standard deviation.
        color: A matplotlib colour.
        style: A matplotlib line style.
        length_law: A power law of the length (None: not fitted).
        beads_law: A power law of the number of segments (None: not fitted).
    """

    label: str
    thresholds: np.ndarray
    length: np.ndarray
    length_deviation: np.ndarray
    beads: np.ndarray
    beads_deviation: np.ndarray
    color: str
    style: str = "-"
    length_law: PowerLaw | None = None
    beads_law: PowerLaw | None = None


class Stage(NamedTuple):
    """A string at one depth of sampling, in three coordinates.

    Attributes:
        label: The title of the panel.
        points: Points along the string, (points, 3).
        loss: Their loss, (points,).
        knots: Its knots, (knots, 3).
    """

    label: str
    points: np.ndarray
    loss: np.ndarray
    knots: np.ndarray


def against_threshold(tasks: Sequence[tuple[str, str, Sequence[Thresholds]]]) -> Figure:
    """Normalised length and number of segments against the threshold (Freeman and Bruna 2017, Figure 1).

    Both axes are logarithmic. Bars are standard deviations over pairs; a thin line with its exponent is a power law.

    Args:
        tasks: (title, name of the criterion, classes of strings) of each row.
    """
    figure = Figure(figsize=(9.0, 0.6 + 2.9 * len(tasks)), **RC)
    rows = figure.subplots(len(tasks), 2, squeeze=False)
    for (title, of, classes), (left, right) in zip(tasks, rows, strict=True):
        for number, each in enumerate(classes):
            length = (each.length, each.length_deviation, each.length_law)
            # Segments instead of beads: a logarithmic scale cannot show zero.
            beads = (each.beads + 1, each.beads_deviation, each.beads_law)
            for axes, (values, deviation, law) in ((left, length), (right, beads)):
                # Bars end at 1, the least possible value.
                bars = np.stack([np.minimum(deviation, values - 1), deviation])
                axes.errorbar(
                    each.thresholds, values, bars, color=each.color, linestyle=each.style, marker="o", markersize=4,
                    linewidth=1.6, elinewidth=0.9, capsize=2.5, label=each.label,
                )  # fmt: skip
                if law is not None:
                    _law(axes, law, each.color, above=number % 2 == 0)
        for axes, name in ((left, "normalised length"), (right, "segments (beads + 1)")):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.95)
            for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
                fine = (1, 1.2, 1.5, 2, 3, 5, 7) if high < 5 * low else (1, 2, 5)
                axis.set_major_locator(LogLocator(subs=fine))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_locator(NullLocator())
            axes.set_xlabel(f"threshold ({of})")
            axes.set_ylabel(name)
            plain(axes)
        left.set_title(title, fontsize=10, loc="left")
    legend_below(figure, rows[0][0])
    return figure


def _law(axes: Axes, law: PowerLaw, color: str, above: bool) -> None:
    at = np.array([law.low, law.high])
    values = law.factor * at**law.exponent
    axes.plot(at, values, color=color, linewidth=0.9, linestyle=(0, (1, 1)))
    middle = np.sqrt(at.prod())
    axes.annotate(
        f"{law.exponent:+.2f}",
        (middle, law.factor * middle**law.exponent),
        color=color,
        fontsize=9,
        xytext=(3, 12 if above else -20),
        textcoords="offset points",
    )


def string_stages(stages: Sequence[Stage], title: str, *, of: str = "loss", threshold: float) -> Figure:
    """A string at several stages, on the principal axes of its last knots (Freeman and Bruna 2017, Figures 3 and 4).

    The colour is the loss on a logarithmic scale, from blue at the threshold to red high above it. Black curves are
    projections onto pairs of axes.

    Args:
        stages: The string at each stage.
        title: The title of the figure.
        of: The label of the colour bar.
        threshold: The threshold of the string.
    """
    figure = Figure(figsize=(4.1 * len(stages), 4.3), **SMALL)
    every = np.concatenate([stage.points for stage in stages])
    low, high = every.min(0), every.max(0)
    margin = 0.08 * np.maximum(high - low, 1e-9)
    low, high = low - margin, high + margin
    highest = max(float(stage.loss.max()) for stage in stages)
    norm = LogNorm(threshold / 2, max(highest, 2 * threshold), clip=True)
    shown = ScalarMappable(norm, "coolwarm")
    for i, stage in enumerate(stages):
        axes = figure.add_subplot(1, len(stages), i + 1, projection="3d")
        for axis, wall in ((0, low[0]), (1, high[1]), (2, low[2])):
            shadow = stage.points.copy()
            shadow[:, axis] = wall
            axes.plot(*shadow.T, color="black", linewidth=0.6)
        pieces = np.stack([stage.points[:-1], stage.points[1:]], 1)
        lines = Line3DCollection(list(pieces), cmap="coolwarm", norm=norm, linewidths=2.2)
        lines.set_array((stage.loss[:-1] + stage.loss[1:]) / 2)
        axes.add_collection3d(lines)
        axes.scatter(*stage.knots.T, color="black", s=7, depthshade=False)
        for name, (a, b) in zip("xyz", zip(low, high, strict=True), strict=True):
            getattr(axes, f"set_{name}lim")(a, b)
            getattr(axes, f"set_{name}ticklabels")([])
            getattr(axes, f"set_{name}label")(f"axis {'xyz'.index(name) + 1}", fontsize=8, labelpad=-10)
            getattr(axes, f"{name}axis").set_pane_color("0.97")
        axes.grid(False)
        axes.set_title(stage.label, fontsize=9)
    figure.colorbar(shown, ax=figure.axes, label=f"{of} (threshold {threshold:g})", shrink=0.7, pad=0.04)
    figure.suptitle(title, fontsize=11)
    return figure
