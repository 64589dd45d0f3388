"""The figures: dropout stability, noise stability, loss along all kinds of paths, and the energy gap."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from experiments.dropout_stability.coins import CHANCE, RISE
from experiments.dropout_stability.wide import ROUNDING
from experiments.study import Drawing
from mcjax.plotting import ALIGNED, UNALIGNED, Line
from mcjax.plotting.style import legend_below, log_if_wide, mean_and_band, new_figure, style_axes

COLORS = (ALIGNED, UNALIGNED, "0.35")
SHOWN = ("train_loss", "test_accuracy")
BESIDE = {
    "line": ("straight line", UNALIGNED, "-"),
    "matched line": ("straight line, matched", ALIGNED, "--"),
    "Bezier curve": ("Bezier curve", UNALIGNED, ":"),
    "matched Bezier curve": ("Bezier curve, matched", ALIGNED, ":"),
}
SEGMENTS = {
    "a": ("#1c5f9e", "(a): the top moves"),
    "b": ("0.55", "(b), (c): same function"),
    "c": ("0.55", None),
    "line": ("#e0791e", "straight, all layers"),
}
"""Kind of segment -> its colour and meaning: those that may change the loss are coloured."""


def draw(tasks: Mapping[str, Any]) -> Iterator[Drawing]:
    """The figures of all tasks."""
    for name, found in tasks.items():
        if name == "wide":
            figure = gap_against_width(found["curves"])
            yield Drawing("wide_gap", figure, "The energy gap and its bound against the width (Corollary 2.5).")
            continue
        if name == "coins":
            yield Drawing("coins", chances(found["levels"]), "The probability of a small rise by dropout (Lemma 3).")
            continue
        if "shares" in found:
            yield Drawing(f"{name}_dropout", columns(_columns(found), found["title"]), "Dropout stability (Figure 2).")
        if "stability" in found:
            figure = distributions(found["stability"], f"{found['title']}: noise stability")
            yield Drawing(f"{name}_stability", figure, "Noise stability by layer (Figure 3, left, and D.3).")
        figure = constructed_paths(found["paths"], f"{found['title']}: between the same two networks")
        yield Drawing(f"{name}_paths", figure, "Loss and accuracy along constructed paths (Figure 3, right).")


class Column(NamedTuple):
    """Loss and accuracy of classes of networks against something else.

    Attributes:
        title: the title of the column.
        label: the label of the horizontal axis.
        at: the places on the horizontal axis, (points,).
        lines: loss and accuracy of every class.
    """

    title: str
    label: str
    at: np.ndarray
    lines: Sequence[Line]


def _columns(found: Mapping[str, Any]) -> list[Column]:
    """Figure 2, left to right: dropout networks, the line to one, narrow networks."""
    looks = {"published": (UNALIGNED, "--"), "searched": (ALIGNED, "-")}

    best = []
    for subsets, look in looks.items():
        levels = [each["networks"] for each in found["shares"] if each["subsets"] == subsets]
        best.append(_line(subsets, {of: [[one[of] for one in each] for each in levels] for of in SHOWN}, *look))
    shares = np.array(sorted({each["share"] for each in found["shares"]}))
    line, narrow = found["interpolation"], found["narrow"]
    few = _line("", {of: [each[of] for each in narrow] for of in SHOWN}, ALIGNED)
    widths = np.array([each["width"] for each in narrow])
    return [
        Column("best dropout network", "share dropped", shares, best),
        Column("straight to it (0.2 dropped)", "t", np.array(line["ts"]), [_line("", line, ALIGNED)]),
        Column("narrow networks", "filters a layer", widths, [few]),
    ]


def _line(label: str, values: Mapping[str, Any], color: str, style: str = "-") -> Line:
    """Loss and accuracy (points[, networks]) as a line."""
    loss, accuracy = (np.array(values[of]).T for of in SHOWN)
    return Line(label, loss, accuracy, color, style)


def columns(panels: Sequence[Column], title: str) -> Figure:
    """Loss above accuracy, with bands over networks. Kuditipudi et al., Figure 2."""
    figure, rows = new_figure(2, len(panels), (3.5 * len(panels), 5.4), title)
    for panel, above, below in zip(panels, *rows, strict=True):
        for line in panel.lines:
            for axes, values in ((above, line.loss), (below, 100 * line.accuracy)):
                mean_and_band(axes, panel.at, values, line.color, line.style, line.label)
                if len(panel.at) < 12:
                    axes.plot(panel.at, np.atleast_2d(values).mean(0), "o", color=line.color, markersize=3.5)
        log_if_wide(above, *(line.loss for line in panel.lines))
        style_axes(above, panel.title)
        style_axes(below, xlabel=panel.label)
        if len(panel.lines) > 1:
            above.legend(fontsize=8, frameon=False)
    rows[0, 0].set_ylabel("train loss (nats)")
    rows[1, 0].set_ylabel("test accuracy (%)")
    return figure


def distributions(found: Mapping[str, Any], title: str) -> Figure:
    """The distribution of quantities over images, a box a layer. Kuditipudi et al., Figure 3, left, and D.3.

    Boxes are quartiles, whiskers reach over all images; scales are logarithmic.
    """
    panels = {
        "layer cushion": ("layer_cushion", 1),
        "activation contraction": ("contraction", 1),
        "interlayer cushion": ("interlayer_cushion", 1),
        "interlayer smoothness": ("smoothness", 2),
    }
    figure, (row,) = new_figure(1, len(panels), (3.2 * len(panels), 3.4), title)
    for axes, (said, (name, first)) in zip(row, panels.items(), strict=True):
        layers = range(first, first + len(found[name]))
        boxes = axes.boxplot(
            found[name], positions=list(layers), widths=0.6, whis=(0, 100), patch_artist=True,
            medianprops={"color": "black"}, tick_labels=[str(layer) for layer in layers],
        )  # fmt: skip
        for box in boxes["boxes"]:
            box.set(facecolor="#c9d9ea", edgecolor="#1c5f9e")
        style_axes(axes, said, xlabel="layer", yscale="log")
    return figure


def constructed_paths(paths: Mapping[str, Any], title: str) -> Figure:
    """Loss and accuracy along the paths of Theorems 1 to 3, segment by segment, beside lines and curves.

    Segments in which the top moves (a) are underlined in blue, straight lines through all layers in orange; along
    the grey ones the function stays the same. Kuditipudi et al., Figure 3, right.
    """
    constructed = {name: path for name, path in paths.items() if name.startswith("Theorem")}
    figure, rows = new_figure(len(constructed), 3, (12.0, 0.6 + 2.8 * len(constructed)), title, dpi=100)
    for (left, *right), (name, path) in zip(rows, constructed.items(), strict=True):
        kinds = path["kinds"]
        # Every segment is drawn as long as any other.
        at = np.interp(path["ts"], path["knots"], np.arange(len(kinds) + 1))
        for axes, of, factor, label in (
            (left, "train_loss", 1, "train loss (nats)"),
            (right[0], "train_accuracy", 100, "train accuracy (%)"),
            (right[1], "test_accuracy", 100, "test accuracy (%)"),
        ):
            axes.plot(at, factor * np.array(path[of]), color="black", linewidth=1.8, label="constructed")
            for other, (said, color, style) in BESIDE.items():
                values = factor * np.array(paths[other][of])
                shares = np.linspace(0, len(kinds), len(values))
                axes.plot(shares, values, style, color=color, linewidth=1.3, label=said)
            _segments(axes, kinds)
            style_axes(axes, xlabel="segment (of the others: from beginning to end)", ylabel=label)
        log_if_wide(left, path["train_loss"], *(paths[other]["train_loss"] for other in BESIDE))
        said = f"{name}: {path['segments']} segments, {len(kinds)} of them with something to do"
        left.set_title(said, fontsize=10, loc="left")
    for color, meaning in SEGMENTS.values():
        if meaning is not None:
            rows[0, 0].plot([], [], color=color, linewidth=4, label=meaning)
    legend_below(figure, rows[0, 0])
    return figure


def _segments(axes: Axes, kinds: Sequence[str]) -> None:
    for i, kind in enumerate(kinds):
        axes.plot(
            [i + 0.08, i + 0.92], [0, 0], color=SEGMENTS[kind][0], linewidth=4, solid_capstyle="butt",
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
    axes.set_xlim(0, len(kinds))


def gap_against_width(curves: Sequence[Mapping[str, Any]]) -> Figure:
    """The gaps of pairs against the number of hidden units, and what the theorem bounds them by, above rounding."""
    inputs = sorted({curve["inputs"] for curve in curves})
    figure, (row,) = new_figure(1, len(inputs), (1.2 + 3.8 * len(inputs), 3.8), "Energy gap of one hidden layer")
    for axes, n in zip(row, inputs, strict=True):
        for curve, color in zip([curve for curve in curves if curve["inputs"] == n], COLORS, strict=False):
            units = np.array([level["units"] for level in curve["levels"]])
            for name, style in (("gap", "-o"), ("promised", ":")):
                means = np.array([level[name]["mean"] for level in curve["levels"]])
                known, label = means > ROUNDING, f"{curve['ends']}: {'gap' if name == 'gap' else 'bound'}"
                axes.plot(units[known], means[known], style, color=color, linewidth=1.6, markersize=4, label=label)
        style_axes(axes, f"{n} inputs", xscale="log", yscale="log", xlabel="hidden units")
        _at_powers(axes, units)
    row[0].set_ylabel("energy above the higher end")
    legend_below(figure, row[0])
    return figure


def chances(levels: Sequence[Mapping[str, Any]]) -> Figure:
    """The probability of a rise of at most RISE against the rate, and the rise of a quarter against the width."""
    figure, ((left, right),) = new_figure(1, 2, (9.0, 3.8), "Dropout networks by rate and width")
    widths, rates = [level["width"] for level in levels], [each["rate"] for each in levels[0]["rates"]]
    shades = [str(shade) for shade in np.linspace(0.75, 0, len(widths))]
    for level, shade in zip(levels, shades, strict=True):
        at = [each["probability"] for each in level["rates"]]
        left.plot(rates, at, "o-", color=shade, markersize=4, label=f"{level['width']} units")
    left.axhline(CHANCE, linestyle=":", color="black", linewidth=1)
    for i, (rate, shade) in enumerate(zip(rates, np.linspace(0.75, 0, len(rates)), strict=True)):
        rises = np.array([level["rates"][i]["rise"] for level in levels])
        # A rise of zero has no logarithm.
        right.plot(
            np.array(widths)[rises > 0], rises[rises > 0], "o-", color=str(shade), markersize=4, label=f"p = {rate:g}"
        )
    style_axes(
        left, f"P(rise of at most {RISE:g} nats)", xlabel="rate p", xscale="log", ylabel="share of dropout networks"
    )
    left.set_ylim(-0.03, 1.03)
    style_axes(
        right, "rise that a quarter does not exceed", xscale="log", yscale="log", xlabel="units a layer", ylabel="nats"
    )
    _at_powers(left, rates)
    _at_powers(right, widths)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _at_powers(axes: Axes, values: Sequence[float] | np.ndarray) -> None:
    """Ticks of a logarithmic axis at these values alone."""
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
