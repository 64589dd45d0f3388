"""Strings between networks: their length and beads against the threshold, and how they lie in parameter space."""

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
    """value = factor * threshold ** exponent, fitted to the thresholds between low and high."""

    exponent: float
    factor: float
    low: float
    high: float


class Thresholds(NamedTuple):
    """One class of strings: mean and deviation of length and beads at each threshold, (thresholds,), and its look.

    NaN where no string is connected. Laws: None where none was fitted.
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
    """A string at some depth, on three axes: points of it (points, 3), their loss, and its knots (knots, 3)."""

    label: str
    points: np.ndarray
    loss: np.ndarray
    knots: np.ndarray


def against_threshold(tasks: Sequence[tuple[str, str, Sequence[Thresholds]]]) -> Figure:
    """Normalised length and number of beads against the threshold, both axes logarithmic (Freeman and Bruna, Figure 1).

    tasks: the title of a row, what the threshold is of, and classes of strings. Deviations over pairs are bars; a
    fitted power law is a thin line with its exponent.
    """
    figure = Figure(figsize=(9.0, 0.6 + 2.9 * len(tasks)), **RC)
    rows = figure.subplots(len(tasks), 2, squeeze=False)
    for (title, of, classes), (left, right) in zip(tasks, rows, strict=True):
        for number, each in enumerate(classes):
            length = (each.length, each.length_deviation, each.length_law)
            # No bead is below every logarithmic scale: the number of segments is one more.
            beads = (each.beads + 1, each.beads_deviation, each.beads_law)
            for axes, (values, deviation, law) in ((left, length), (right, beads)):
                # A bar that would reach below the least possible value, 1, ends there.
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
    """A string at several stages, on the three principal axes of its last knots (Freeman and Bruna, Figures 3 and 4).

    The colour is the loss along it, on a logarithmic scale: blue at the threshold, red high above. The black curves
    are its projections on pairs of axes.
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
