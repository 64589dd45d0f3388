"""The plots of the figures: two units brought together, moves at constant loss, spectra where the two are one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from mcjax.plotting.style import ALIGNED, RC, UNALIGNED, Series, legend_below, plain


class Merger(NamedTuple):
    """Two units of a network of two inputs brought together.

    Attributes:
        title: the title of the column.
        units: the two units.
        teacher: the input weights of all units over their biases at the start, (units, 2).
        point: the same at the permutation point.
        distances: the distances of the two units at the minima on the way, 0 at the last.
        loss: the losses there.
        barrier: the barrier of the whole path.
        published: the paper's barrier, if there is one.
    """

    title: str
    units: tuple[int, int]
    teacher: np.ndarray
    point: np.ndarray
    distances: np.ndarray
    loss: np.ndarray
    barrier: float
    published: float | None = None


def mergers(panels: Sequence[Merger], title: str) -> Figure:
    """Weight vectors before and after above the loss against the distance, a column a pair. Brea et al., Figure 1."""
    figure = Figure(figsize=(3.4 * len(panels), 6.4), **RC)
    rows = figure.subplots(2, len(panels), squeeze=False, height_ratios=(1.15, 1))
    most = max(np.abs(panel.teacher).max() for panel in panels)
    # A bias that comes near zero takes a vector out of sight.
    reach = 1.25 * min(max(most, *(np.abs(panel.point).max() for panel in panels)), 2 * most)
    for above, below, panel in zip(*rows, panels, strict=True):
        _vectors(above, panel, reach)
        above.set_title(panel.title, fontsize=10, loc="left")
        _approached(below, panel.distances, panel.loss, ALIGNED, "-", "minima at every distance")
        below.axhline(panel.barrier, color="0.35", linewidth=1, linestyle=(0, (4, 3)), label="barrier of the path")
        if panel.published is not None:
            label = "the paper's barrier (another teacher)"
            below.axhline(panel.published, color=UNALIGNED, linewidth=1, linestyle=":", label=label)
        below.set_xlabel("distance $d$ of the two units")
        plain(below)
    rows[1][0].set_ylabel("loss $L$ (mean squared error)")
    rows[0][0].set_ylabel(r"$W_{i2} / b_i$")
    handles = [rows[r][0].get_legend_handles_labels() for r in (0, 1)]
    entries, labels = ([*handles[0][k], *handles[1][k]] for k in (0, 1))
    figure.legend(entries, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _vectors(axes: Axes, panel: Merger, reach: float) -> None:
    for vectors, color, label, width in (
        (panel.teacher, ALIGNED, "teacher", 2.6),
        (panel.point, "#b2182b", "permutation point", 1.3),
    ):
        for i, vector in enumerate(vectors):
            axes.plot([0, vector[0]], [0, vector[1]], color=color, linewidth=width, label=label if i == 0 else None)
            axes.plot(*vector, "o", color=color, markersize=2 + width)
    for i, vector in enumerate(panel.teacher):
        # The two that are merged stand out.
        axes.annotate(
            str(i + 1), vector, xytext=9 * vector / max(float(np.linalg.norm(vector)), 1e-9), ha="center", va="center",
            textcoords="offset points", fontsize=10, fontweight="bold" if i in panel.units else "normal",
            color="#b2182b" if i in panel.units else "0.25",
        )  # fmt: skip
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.set_xlabel(r"$W_{i1} / b_i$")
    plain(axes)


def _approached(axes: Axes, distances: np.ndarray, loss: np.ndarray, color: str, style: str, label: str) -> None:
    """A line against the distance on a logarithmic axis, and its value at distance zero as a dot at the left end."""
    apart = distances > 0
    axes.plot(distances[apart], loss[apart], style, color=color, linewidth=1.6, label=label)
    axes.plot(distances[apart].min() / 2, loss[~apart][-1:], "o", color=color, markersize=4, clip_on=False)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)


class Approached(NamedTuple):
    """One panel: a measure of networks against the distance of two units, d = 0 included.

    Attributes:
        title: the title of the panel.
        of: the measure, for the axis.
        lines: (label, distances, values, colour, style); lines of one label are of one class.
        logarithmic: whether the values have a logarithmic axis too.
    """

    title: str
    of: str
    lines: Sequence[tuple[str, np.ndarray, np.ndarray, str, str]]
    logarithmic: bool = False


def approached(panels: Sequence[Approached], title: str) -> Figure:
    """Panels side by side; dots at the left end are permutation points, at d = 0. Brea et al., Figure 3."""
    figure = Figure(figsize=(4.6 * len(panels), 4.2), **RC)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        named = set[str]()
        for label, distances, values, color, style in panel.lines:
            _approached(axes, distances, values, color, style, "_" if label in named else label)
            named.add(label)
        if panel.logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(panel.title, fontsize=10, loc="left")
        axes.set_xlabel("distance $d$ of the two units (dots: $d = 0$)")
        axes.set_ylabel(panel.of)
        plain(axes)
    legend_below(figure, grid[0])
    figure.suptitle(title, fontsize=11)
    return figure


def rearranged(panels: Sequence[tuple[str, np.ndarray, np.ndarray]], title: str) -> Figure:
    """The loss on the way to another order of all units: up to the permutation point, across, and down again.

    Args:
        panels: (title, loss of the path of two units at equally spaced t, loss along the moves at constant loss).
        title: the title of the figure.
    """
    figure = Figure(figsize=(4.8 * len(panels), 3.7), **RC)
    for axes, (name, loss, moves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        half = loss[: len(loss) // 2 + 1]
        for at, values, color, label in (
            (np.linspace(0, 1, len(half)), half, ALIGNED, "two units are brought together, and apart"),
            (np.linspace(1, 2, len(moves)), moves, UNALIGNED, "all units are put into another order"),
            (np.linspace(2, 3, len(half)), half[::-1], ALIGNED, "_"),
        ):
            axes.plot(at, values, color=color, label=label, linewidth=1.8)
        axes.set_xticks([0, 1, 2, 3], [r"$\theta$", "point", "point,\npermuted", r"$P\,\theta$"])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("loss $L$ (mean squared error)")
        axes.set_title(name, fontsize=10, loc="left")
        plain(axes)
        shared = axes
    legend_below(figure, shared, len(panels))
    figure.suptitle(title, fontsize=11)
    return figure


def eigenvalues(panels: Sequence[tuple[str, Sequence[np.ndarray], float]], title: str) -> Figure:
    """All eigenvalues at critical points, a column of marks a network: panels of (title, eigenvalues, largest zero)."""
    figure = Figure(figsize=(4.6 * len(panels), 4.2), **RC)
    for axes, (name, networks, zero) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for i, values in enumerate(networks):
            for chosen, color, label in (
                (values < -zero, "#b2182b", "negative"),
                (np.abs(values) <= zero, "black", "zero"),
                (values > zero, ALIGNED, "positive"),
            ):
                at = np.where(np.abs(values) <= zero, 0, values)[chosen]
                axes.plot(np.full(len(at), i + 1), at, "_", color=color, markersize=9, label="_" if i else label)
        axes.set_yscale("symlog", linthresh=10 * zero)
        axes.set_xticks(range(1, len(networks) + 1))
        # Two decades a tick: every decade of a range so wide would be a fence.
        span = np.log10(max(float(np.abs(values).max()) for values in networks) / zero)
        decades = 10.0 ** np.arange(np.ceil(np.log10(zero)) + 2, np.ceil(np.log10(zero) + span) + 1, 2)
        axes.yaxis.set_major_locator(FixedLocator([*-decades[::-1], 0, *decades]))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_xlabel("network")
        axes.set_ylabel("eigenvalue of the Hessian")
        plain(axes)
        shared = axes
    legend_below(figure, shared)
    figure.suptitle(title, fontsize=11)
    return figure


def spectral_densities(lines: Sequence[Series], grids: Sequence[np.ndarray], title: str) -> Figure:
    """The density of the Hessian's eigenvalues of several networks, each on its own grid, on a logarithmic scale."""
    figure = Figure(figsize=(6.5, 4.1), **RC)
    axes = figure.subplots()
    most = max(float(line.values.max()) for line in lines)
    for line, grid in zip(lines, grids, strict=True):
        axes.plot(grid, np.maximum(line.values, 1e-8 * most), line.style, color=line.color, label=line.label)
    axes.set_yscale("log")
    axes.set_ylim(1e-6 * most, 2 * most)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_xlabel("eigenvalue of the Hessian")
    axes.set_ylabel("density")
    plain(axes)
    legend_below(figure, axes)
    figure.suptitle(title, fontsize=11)
    return figure


def growth(units: np.ndarray, ratios: Sequence[Series], published: Sequence[float], title: str) -> Figure:
    """A count over its supposed limit against the width, a line an order K, and the `published` limits."""
    figure = Figure(figsize=(6.2, 4.0), **RC)
    axes = figure.subplots()
    for line, other in zip(ratios, published, strict=True):
        axes.plot(units, line.values, line.style, color=line.color, marker="o", markersize=3.5, label=line.label)
        axes.axhline(other, color=line.color, linewidth=1, linestyle=":")
        axes.annotate(
            f"$e^{{-{line.label[-1]}}}$: the lemma's", (units[-1], other), ha="right", va="bottom", fontsize=9,
            color=line.color,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(0, 1.1)
    axes.set_xlabel("units $n$ of the layer")
    axes.set_ylabel(r"lower bound of $T(K, n)$ over $n^K / (2^K K!)$")
    plain(axes)
    legend_below(figure, axes)
    figure.suptitle(title, fontsize=11)
    return figure
