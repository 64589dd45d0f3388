"""Cross-correlations of the units of one layer, and their means in every layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mcjax.plotting.style import ALIGNED, MARKERS, STYLES, UNALIGNED, deviation, legend_below, new_figure, style_axes

Signature = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Layer -> mean correlation of the units with equal index before and after matching, (pairs,) each."""


def correlation(
    before: np.ndarray,
    after: np.ndarray,
    signature: Signature,
    title: str,
    *,
    group: str | None = None,
    method: str | None = None,
) -> Figure:
    """Draw the cross-correlations of one layer before and after matching, and their means in every layer.

    Source: Neuron Alignment, Figure 1.

    Args:
        before: Correlations (units of theta_1, units of theta_2) of the networks as trained.
        after: The same after matching.
        signature: The mean correlations in every layer.
        title: The title of the figure.
        group: The group of `before` and `after`, for their titles.
        method: The method of matching, for the legend.

    Returns:
        The figure.
    """
    figure, (axes,) = new_figure(1, 3, (11.0, 4.0), title, width_ratios=(1, 1, 1.15))
    bound = max(float(np.abs(before).max()), 1e-6)
    matched = f"matched by {method}" if method else "matched"
    which = f"{_short(group)}, " if group else ""
    for panel, matrix, name in ((axes[0], before, "as trained"), (axes[1], after, matched)):
        image = panel.imshow(matrix, vmin=-bound, vmax=bound, cmap="RdBu_r", interpolation="nearest")
        panel.set_title(f"{which}{name}", fontsize=10)
    axes[0].set(xlabel=r"unit of $\theta_2$", ylabel=r"unit of $\theta_1$")
    axes[1].set(xlabel=r"unit of $P\theta_2$", yticklabels=[])
    figure.colorbar(image, ax=list(axes[:2]), label="cross-correlation", shrink=0.85)
    axes[2].set_title("every layer" if len(signature) > 1 else "the layer", fontsize=10)
    before_and_after(axes[2], signature, matched)
    axes[2].set_ylabel("mean correlation of paired units")
    legend_below(figure, axes[2], right=True)
    return figure


def before_and_after(axes: Axes, layers: Signature, matched: str) -> None:
    """Draw the mean correlations in every layer before and after matching; `matched` is the label of the latter."""
    for which, name, color in ((0, "as trained", UNALIGNED), (1, matched, ALIGNED)):
        layer_means(axes, [np.atleast_1d(pair[which]) for pair in layers.values()], color, name, which, 2)
    layer_axis(axes, list(layers))


def layer_means(axes: Axes, values: Sequence[np.ndarray], color: str, label: str, index: int, count: int) -> None:
    """Draw the means over pairs in every layer, with standard deviations as bars.

    Args:
        axes: The panel.
        values: The values (pairs,) of every layer.
        color: The colour.
        label: The label in the legend.
        index: The index of this line in the panel.
        count: The number of lines in the panel.
    """
    # Shift the lines horizontally, so that their bars do not overlap.
    at = np.arange(len(values)) + 0.08 * (index - (count - 1) / 2)
    means, stds = [v.mean() for v in values], [deviation(v) for v in values]
    style: dict[str, Any] = {"marker": MARKERS[index], "linestyle": STYLES[(count - index) % count], "color": color}
    axes.errorbar(at, means, yerr=stds, markersize=4, capsize=2.5, elinewidth=1, label=label, linewidth=1.5, **style)


def layer_axis(axes: Axes, names: Sequence[str]) -> None:
    """Label the horizontal axis of a panel with the names of the layers, or with numbers for more than ten."""
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xlim(-0.4, len(names) - 0.6)
    style_axes(axes)
    if len(names) > 10:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.xaxis.set_major_formatter(lambda at, _: f"{at + 1:.0f}")
        axes.set_xlabel("layer")
        return
    many = len(names) > 3
    axes.set_xticks(
        np.arange(len(names)), list(map(_short, names)), rotation=45 if many else 0, ha="right" if many else "center"
    )


def _short(name: str) -> str:
    # The full name of a deeply nested layer would leave no room for the panels.
    return name if len(name) <= 20 else f"{name[:10]}…{name[-9:]}"
