"""The figures of the Hessian's spectrum at permutation points, and of the number of these points."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from mcjax.plotting.style import ALIGNED, STYLES, UNALIGNED, legend_below, new_figure, style_axes

COLORS = ("#e0791e", "#2f8f6b", "#1c5f9e", "#7a3f98", "#111111", "#b2182b")


def eigenvalues(toys: Sequence[Mapping[str, Any]]) -> Figure:
    """All eigenvalues at the permutation points of toys, a panel a number of outputs, a column of marks a toy."""
    panels = sorted({toy["outputs"] for toy in toys})
    title = "The Hessian at permutation points of random toys, tanh"
    figure, (row,) = new_figure(1, len(panels), (4.6 * len(panels), 4.2), title)
    for axes, outputs in zip(row, panels, strict=True):
        here = [toy for toy in toys if toy["outputs"] == outputs]
        zero = max(toy["zero_tolerance"] for toy in here)
        for i, toy in enumerate(here):
            values = np.array(toy["eigenvalues"])
            for chosen, color, label in (
                (values < -zero, "#b2182b", "negative"),
                (np.abs(values) <= zero, "black", "zero"),
                (values > zero, ALIGNED, "positive"),
            ):
                at = np.where(np.abs(values) <= zero, 0, values)[chosen]
                axes.plot(np.full(len(at), i + 1), at, "_", color=color, markersize=9, label="_" if i else label)
        axes.set_yscale("symlog", linthresh=10 * zero)
        axes.set_xticks(range(1, len(here) + 1))
        # A tick every two decades: at every decade of so wide a range they would be too many.
        span = np.log10(max(np.abs(toy["eigenvalues"]).max() for toy in here) / zero)
        decades = 10.0 ** np.arange(np.ceil(np.log10(zero)) + 2, np.ceil(np.log10(zero) + span) + 1, 2)
        axes.yaxis.set_major_locator(FixedLocator([*-decades[::-1], 0, *decades]))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
        style_axes(axes, f"2-5-{outputs}", xlabel="network", ylabel="eigenvalue of the Hessian")
    legend_below(figure, row[-1])
    return figure


def densities(found: Mapping[str, Any]) -> Figure:
    """The density of the Hessian's eigenvalues of MNIST's teacher and permutation point, on a logarithmic scale."""
    title = f"Hessian of {found['parameters']:,} parameters, MNIST, H = {found['width']}"
    figure, ((axes,),) = new_figure(1, 1, (6.5, 4.1), title)
    most = max(max(at["density"]) for at in found["at"].values())
    for name, label, color, style in (
        ("theta", "teacher", ALIGNED, "-"),
        ("point", "permutation point", UNALIGNED, "--"),
    ):
        at = found["at"][name]
        axes.plot(at["grid"], np.maximum(at["density"], 1e-8 * most), style, color=color, label=label)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set(yscale="log", ylim=(1e-6 * most, 2 * most))
    style_axes(axes, xlabel="eigenvalue of the Hessian", ylabel="density")
    legend_below(figure, axes)
    return figure


def growth(found: Mapping[str, Any]) -> Figure:
    """The lower bound over its limit against the width, a line an order K; dotted the limit by the lemma's constant."""
    figure, ((axes,),) = new_figure(1, 1, (6.2, 4.0), "How fast permutation points multiply (Lemma 1)")
    units = found["large"]
    for each, color, style in zip(found["growth"], COLORS, STYLES, strict=False):
        order, published = each["order"], float(np.exp(-each["order"]))
        axes.plot(units, each["ratio"], style, color=color, marker="o", markersize=3.5, label=f"K = {order}")
        axes.axhline(published, color=color, linewidth=1, linestyle=":")
        said = f"$e^{{-{order}}}$: the lemma's"
        axes.annotate(said, (units[-1], published), ha="right", va="bottom", fontsize=9, color=color)
    axes.set(xscale="log", ylim=(0, 1.1))
    style_axes(axes, xlabel="units $n$ of the layer", ylabel=r"lower bound of $T(K, n)$ over $n^K / (2^K K!)$")
    legend_below(figure, axes)
    return figure
