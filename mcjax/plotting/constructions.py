"""Dropout stability, noise stability, and loss along constructed paths (Kuditipudi et al. 2019)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from mcjax.plotting.style import RC, SMALL, Series, legend_below, log_if_wide, mean_and_band, plain

SHADES = {"a": "#1c5f9e", "b": "0.55", "c": "0.55", "line": "#e0791e"}
"""Colours of segments by their kind; grey segments do not change the function."""
MEANING = {"a": "(a): the top moves", "b": "(b), (c): same function", "line": "straight, all layers"}


class Against(NamedTuple):
    """One column of a figure: loss and accuracy of several classes of networks against a parameter.

    Attributes:
        title: The title of the column.
        label: The label of the horizontal axis.
        at: The parameter, float (points,).
        loss: The loss of each class, in nats, (networks, points).
        accuracy: The accuracy of each class, as a share, (networks, points).
    """

    title: str
    label: str
    at: np.ndarray
    loss: Sequence[Series]
    accuracy: Sequence[Series]


def columns(panels: Sequence[Against], title: str) -> Figure:
    """Loss above accuracy, one column a parameter, with bands over networks (Kuditipudi et al. 2019, Figure 2)."""
    figure = Figure(figsize=(3.5 * len(panels), 5.4), **RC)
    rows = figure.subplots(2, len(panels), squeeze=False)
    for j, panel in enumerate(panels):
        for axes, lines, factor in ((rows[0][j], panel.loss, 1), (rows[1][j], panel.accuracy, 100)):
            for line in lines:
                values = factor * np.atleast_2d(line.values)
                mean_and_band(axes, panel.at, values, line.color, line.style, line.label)
                if len(panel.at) < 12:
                    axes.plot(panel.at, values.mean(0), "o", color=line.color, markersize=3.5)
            plain(axes)
        log_if_wide(rows[0][j], np.concatenate([np.ravel(line.values) for line in panel.loss]))
        rows[0][j].set_title(panel.title, fontsize=10, loc="left")
        rows[1][j].set_xlabel(panel.label)
        if len(panel.loss) > 1:
            rows[0][j].legend(fontsize=8, frameon=False)
    rows[0][0].set_ylabel("train loss (nats)")
    rows[1][0].set_ylabel("test accuracy (%)")
    figure.suptitle(title, fontsize=11)
    return figure


def distributions(panels: Sequence[tuple[str, Sequence[int], np.ndarray]], title: str) -> Figure:
    """Distributions of quantities over images, one box a layer (Kuditipudi et al. 2019, Figure 3, left, and D.3).

    Boxes are quartiles, whiskers reach to the extremes, and the scale is logarithmic.

    Args:
        panels: (name, layers, values (layers, images)) of each panel.
        title: The title of the figure.
    """
    figure = Figure(figsize=(3.2 * len(panels), 3.4), **RC)
    for axes, (name, layers, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        boxes = axes.boxplot(
            list(values), positions=list(layers), widths=0.6, whis=(0, 100), patch_artist=True,
            medianprops={"color": "black"}, tick_labels=[str(layer) for layer in layers],
        )  # fmt: skip
        for box in boxes["boxes"]:
            box.set(facecolor="#c9d9ea", edgecolor="#1c5f9e")
        axes.set_yscale("log")
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_xlabel("layer")
        plain(axes)
    figure.suptitle(title, fontsize=11)
    return figure


class Constructed(NamedTuple):
    """A constructed path, and other paths between the same networks.

    Attributes:
        title: The title of the row.
        at: Positions along the path, counted in segments, float (points,).
        loss: The loss there, in nats, (points,).
        accuracy: The accuracy there, as a share, (points,).
        kinds: The kind of each segment: "a", "b", "c" or "line".
        beside: (label, loss, accuracy, colour, style) of each other path, at equally spaced points.
    """

    title: str
    at: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    kinds: Sequence[str]
    beside: Sequence[tuple[str, np.ndarray, np.ndarray, str, str]]


def constructed_paths(paths: Sequence[Constructed], title: str) -> Figure:
    """Loss and accuracy along constructed paths and others (Kuditipudi et al. 2019, Figure 3, right).

    Each segment is underlined: blue where the top layer moves (a), orange for a straight line through all layers, grey
    where the function stays the same.
    """
    figure = Figure(figsize=(9.0, 0.6 + 2.8 * len(paths)), **SMALL)
    rows = figure.subplots(len(paths), 2, squeeze=False)
    for (left, right), path in zip(rows, paths, strict=True):
        for axes, own, which, name in (
            (left, path.loss, 1, "train loss (nats)"),
            (right, 100 * path.accuracy, 2, "test accuracy (%)"),
        ):
            axes.plot(path.at, own, color="black", linewidth=1.8, label="constructed")
            for line in path.beside:
                values = np.asarray(line[which]) * (100 if which == 2 else 1)
                at = np.linspace(0, len(path.kinds), len(values))
                axes.plot(at, values, line[4], color=line[3], linewidth=1.3, label=line[0])
            _segments(axes, path.kinds)
            axes.set_ylabel(name)
            axes.set_xlabel("segment (of the others: from beginning to end)")
            plain(axes)
        every = np.concatenate([path.loss, *(line[1] for line in path.beside)])
        log_if_wide(left, every)
        left.set_title(path.title, fontsize=10, loc="left")
    for kind, meaning in MEANING.items():
        rows[0][0].plot([], [], color=SHADES[kind], linewidth=4, label=meaning)
    legend_below(figure, rows[0][0])
    figure.suptitle(title, fontsize=11)
    return figure


def _segments(axes: Axes, kinds: Sequence[str]) -> None:
    for i, kind in enumerate(kinds):
        axes.plot(
            [i + 0.08, i + 0.92], [0, 0], color=SHADES[kind], linewidth=4, solid_capstyle="butt",
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
    axes.set_xlim(0, len(kinds))


def gap_against_width(
    units: np.ndarray, gaps: np.ndarray, slope: float | None, title: str, least: float = 0.0
) -> Figure:
    """The energy gap of pairs against the number of hidden units, with a power law through the means.

    Args:
        units: Hidden units, (widths,).
        gaps: Energy gaps, (widths, pairs).
        slope: The exponent of the power law (None: no law is drawn).
        title: The title of the figure.
        least: Means at or below this are rounding errors, left out of the line and of the law.
    """
    figure = Figure(figsize=(4.6, 3.6), **RC)
    axes = figure.subplots()
    means = gaps.mean(1)
    known = means > least
    for each in gaps.T:
        axes.plot(units[each > 0], each[each > 0], "o", color="#1c5f9e", markersize=3.5, alpha=0.6)
    axes.plot(units[known], means[known], color="#1c5f9e", linewidth=1.6, label="mean of pairs")
    if slope is not None:
        offset = np.log(means[known]).mean() - slope * np.log(units[known]).mean()
        fitted = np.exp(offset + slope * np.log(units[known]))
        axes.plot(units[known], fitted, ":", color="black", linewidth=1.2, label=f"slope {slope:+.2f}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(units)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("hidden units")
    axes.set_ylabel("energy gap")
    axes.legend(frameon=False, fontsize=9)
    plain(axes)
    figure.suptitle(title, fontsize=11)
    return figure
