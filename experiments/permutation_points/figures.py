"""The figures: two units brought together, moves at constant loss, barriers against width."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.permutation_points.spectrum_figures import COLORS, densities, eigenvalues, growth
from experiments.permutation_points.tables import PAPER_BARRIERS
from experiments.study import Drawing
from mcjax.plotting import ALIGNED, UNALIGNED, ParameterPanel, Series, against_parameter
from mcjax.plotting.style import STYLES, legend_below, log_if_wide, new_figure, style_axes

POINT = "#b2182b"
"""The colour of permutation points and of the units that are merged."""


def draw(tasks: Mapping[str, Any]) -> Iterator[Drawing]:
    """The figures of all tasks."""
    for name, found in tasks.get("toy", {}).items():
        caption = (
            f"Figure 1, {name}. Above: the input weights of the five units, of the teacher and at the permutation "
            "point; the numbers of the two merged ones are red; vectors of units whose bias is nearly zero are cut. "
            "Below: the loss at the minima; the dot is at d = 0."
        )
        yield Drawing(f"toy_{name}", mergers(found["paths"], f"Merging two units of a network 2-5-1, {name}"), caption)
        caption = f"{name}: with the output weights of the two units free, as published, and held to their norm."
        yield Drawing(f"toy_{name}_bound", _free(name, found), caption)
    if "toy" in tasks:
        caption = "The loss on the way from theta to its copy with all units in reverse order (section 4.2, ii)."
        yield Drawing("toy_orders", rearranged(tasks["toy"]), caption)
    if "mnist" in tasks:
        found = tasks["mnist"]
        yield Drawing("mnist", _mnist(found), "Figure 3: loss and training accuracy on the way, a line a teacher.")
        caption = "The barrier against the number of hidden units, mean and deviation."
        yield Drawing("mnist_barrier", _barriers(found["levels"]), caption)
    if "spectrum" in tasks:
        toys, mnist = tasks["spectrum"]["toy"], tasks["spectrum"]["mnist"]
        yield Drawing("spectrum_toy", eigenvalues(toys), "The Hessian's eigenvalues at permutation points of toys.")
        yield Drawing("spectrum_mnist", densities(mnist), "The density of the Hessian's eigenvalues, MNIST.")
    if "count" in tasks:
        caption = "The lower bound over its limit; dotted: with the lemma's constant."
        yield Drawing("count", growth(tasks["count"]), caption)


def mergers(paths: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Input weights before and after above the loss against the distance, a column a pair. Brea et al., Figure 1.

    Args:
        paths: the paths A, B, ... of pairs of units.
        title: the title of the figure.
    """
    figure, rows = new_figure(2, len(paths), (3.4 * len(paths), 6.4), title, height_ratios=(1.15, 1))
    for above, below, letter, path in zip(*rows, "ABC"[: len(paths)], paths, strict=True):
        _vectors(above, path)
        first, second = path["pair"]
        above.set_title(f"{letter}: units {first + 1} and {second + 1}", fontsize=10, loc="left")
        _approach(below, path["distances"], path["loss"], ALIGNED, "-", "minima at every distance")
        below.axhline(path["barrier"], color="0.35", linewidth=1, linestyle=(0, (4, 3)), label="barrier of the path")
        label = "the paper's barrier (another teacher)"
        below.axhline(PAPER_BARRIERS[letter], color=UNALIGNED, linewidth=1, linestyle=":", label=label)
        style_axes(below, xlabel="distance $d$ of the two units")
    rows[0, 0].set_ylabel(r"$W_{i2} / b_i$")
    rows[1, 0].set_ylabel("loss $L$ (mean squared error)")
    legend_below(figure, *rows[:, 0], most=3)
    return figure


def _vectors(axes: Axes, path: Mapping[str, Any]) -> None:
    teacher, at_point = np.array(path["teacher"]), np.array(path["at_point"])
    # A bias that comes near zero takes a vector out of sight.
    ends = np.concatenate([np.zeros((1, 2)), teacher, at_point])
    seen = ends[np.abs(ends).max(1) <= 2 * np.abs(teacher).max()]
    low, high = seen.min(0), seen.max(0)
    limits = (low + high)[:, None] / 2 + 0.65 * (high - low).max() * np.array([-1, 1])
    for vectors, color, label, width in (
        (teacher, ALIGNED, "teacher", 2.6),
        (at_point, POINT, "permutation point", 1.3),
    ):
        for i, vector in enumerate(vectors):
            axes.plot([0, vector[0]], [0, vector[1]], color=color, linewidth=width, label=label if i == 0 else None)
            axes.plot(*vector, "o", color=color, markersize=2 + width)
    for i, vector in enumerate(teacher):
        # The two that are merged stand out.
        merged = i in path["pair"]
        axes.annotate(
            str(i + 1), vector, xytext=11 * vector / max(float(np.linalg.norm(vector)), 1e-9), ha="center", va="center",
            textcoords="offset points", fontsize=10, fontweight="bold" if merged else "normal",
            color=POINT if merged else "0.25",
        )  # fmt: skip
    style_axes(axes, xlabel=r"$W_{i1} / b_i$", xlim=limits[0], ylim=limits[1], aspect="equal")


def _approach(axes: Axes, distances: Any, values: Any, color: str, style: str, label: str) -> None:
    """A line against the distance on a logarithmic axis, and its value at distance zero as a dot at the left end."""
    distances, values = np.asarray(distances), np.asarray(values)
    apart = distances > 0
    axes.plot(distances[apart], values[apart], style, color=color, linewidth=1.6, label=label)
    axes.plot(distances[apart].min() / 2, values[~apart][-1:], "o", color=color, markersize=4, clip_on=False)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)


class Approach(NamedTuple):
    """One panel: a measure of networks against the distance of two units, d = 0 included.

    Attributes:
        title: the title of the panel.
        of: the measure, for the axis.
        lines: (label, distances, values, colour, style); lines of one label are of one class.
        logarithmic: whether the axis of values is logarithmic too if they spread over more than a decade.
    """

    title: str
    of: str
    lines: Sequence[tuple[str, Any, Any, str, str]]
    logarithmic: bool = False


def approaches(panels: Sequence[Approach], title: str) -> Figure:
    """Panels side by side; dots at the left end are permutation points, at d = 0. Brea et al., Figure 3."""
    figure, (row,) = new_figure(1, len(panels), (4.6 * len(panels), 4.2), title)
    for axes, panel in zip(row, panels, strict=True):
        named = set[str]()
        for label, distances, values, color, style in panel.lines:
            _approach(axes, distances, values, color, style, "_" if label in named else label)
            named.add(label)
        if panel.logarithmic:
            log_if_wide(axes, *(values for _, _, values, _, _ in panel.lines))
        style_axes(axes, panel.title, xlabel="distance $d$ of the two units (dots: $d = 0$)", ylabel=panel.of)
    legend_below(figure, row[0])
    return figure


def _free(name: str, found: Mapping[str, Any]) -> Figure:
    free, held = found["free"], found["paths"][0]

    def lines(what: str) -> list[tuple[str, Any, Any, str, str]]:
        return [
            ("free, as published", free["distances"], free[what], UNALIGNED, "--"),
            ("held to their norm", held["distances"], held[what], ALIGNED, "-"),
        ]

    norm = "norm of their output weights"
    panels = [
        Approach("loss", "loss $L$ (mean squared error)", lines("loss")),
        Approach("output weights", norm, lines("output_norm"), logarithmic=True),
    ]
    first, second = (unit + 1 for unit in free["pair"])
    return approaches(panels, f"Units {first} and {second}, {name}: their output weights free and held")


def _mnist(found: Mapping[str, Any]) -> Figure:
    def lines(what: str, factor: float) -> list[tuple[str, Any, Any, str, str]]:
        return [
            (f"H = {level['width']}", path["distances"], factor * np.array(path[what]), COLORS[i % 6], STYLES[i % 4])
            for i, level in enumerate(found["levels"])
            for path in level["paths"]
        ]

    loss = r"$L = \langle \|y - f\|^2 \rangle / \langle y_i^2 \rangle$"
    panels = [
        Approach("A: loss", loss, lines("loss", 1)),
        Approach("B: accuracy", "training accuracy (%)", lines("accuracy", 100)),
    ]
    return approaches(panels, f"Merging two units of the second layer, MNIST, {found['activation']}")


def _barriers(levels: Sequence[Mapping[str, Any]]) -> Figure:
    at = np.array([level["width"] for level in levels], float)
    lines = [
        Series(label, np.array([level[what]["values"] for level in levels]).T, color, style)
        for label, what, color, style in (
            ("barrier of the path", "barrier", ALIGNED, "-"),
            ("permutation point", "point", UNALIGNED, "--"),
        )
    ]
    panel = ParameterPanel("", "units H of both hidden layers", "loss $L$", at, lines)
    return against_parameter([panel], "Barrier against width, MNIST")


def rearranged(toys: Mapping[str, Any]) -> Figure:
    """The loss on the way to another order of all units: up to the permutation point, across, and down again."""
    title = "From a network to its copy in another order of units"
    figure, (panels,) = new_figure(1, len(toys), (4.8 * len(toys), 3.7), title)
    for axes, (name, found) in zip(panels, toys.items(), strict=True):
        path = found["paths"][0]
        loss, moves = np.array(path["along"]), np.array(path["exchange"]["loss"])
        half = loss[: len(loss) // 2 + 1]
        for at, values, color, label in (
            (np.linspace(0, 1, len(half)), half, ALIGNED, "two units are brought together, and apart"),
            (np.linspace(1, 2, len(moves)), moves, UNALIGNED, "all units are put into another order"),
            (np.linspace(2, 3, len(half)), half[::-1], ALIGNED, "_"),
        ):
            axes.plot(at, values, color=color, label=label, linewidth=1.8)
        axes.set_xticks([0, 1, 2, 3], [r"$\theta$", "point", "point,\npermuted", r"$P\,\theta$"])
        axes.set_ylim(bottom=0)
        style_axes(axes, name, ylabel="loss $L$ (mean squared error)")
    legend_below(figure, panels[-1], most=len(toys))
    return figure
