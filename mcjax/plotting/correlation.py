"""Cross-correlations of units in one layer, in every layer, and along a curve (Neuron Alignment)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mcjax.plotting.style import ALIGNED, MARKERS, RC, SMALL, STYLES, UNALIGNED, deviation, legend_below, plain

Signature = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Layer -> mean correlation of units with the same index, (pairs,), before and after matching."""

CURVE_SIGNATURES = (("curve", UNALIGNED), ("straight line", "0.35"), ("curve, matched to the endpoint", ALIGNED))


def correlation(
    before: np.ndarray,
    after: np.ndarray,
    signature: Signature,
    title: str,
    *,
    group: str | None = None,
    method: str | None = None,
) -> Figure:
    """The cross-correlation of one layer before and after matching, and its mean at every layer (Figure 1).

    Args:
        before: Cross-correlations of one group as trained, (units of theta_1, units of theta_2).
        after: The same after matching.
        signature: The mean correlation at every layer, before and after.
        title: The title of the figure.
        group: The name of the group.
        method: The name of the matching method.
    """
    figure = Figure(figsize=(11.0, 4.0), **RC)
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    bound = max(float(np.abs(before).max()), 1e-6)
    matched = f"matched by {method}" if method else "matched"
    which = f"{_short(group)}, " if group else ""
    for panel, matrix, name in ((axes[0], before, "as trained"), (axes[1], after, matched)):
        image = panel.imshow(matrix, vmin=-bound, vmax=bound, cmap="RdBu_r", interpolation="nearest")
        panel.set_title(f"{which}{name}", fontsize=10)
        panel.set_xlabel(r"unit of $\theta_2$" if panel is axes[0] else r"unit of $P\theta_2$")
    axes[0].set_ylabel(r"unit of $\theta_1$")
    axes[1].set_yticklabels([])
    figure.colorbar(image, ax=list(axes[:2]), label="cross-correlation", shrink=0.85)
    axes[2].set_title("every layer" if len(signature) > 1 else "the layer", fontsize=10)
    _before_and_after(axes[2], signature, matched)
    axes[2].set_ylabel("mean correlation of paired units")
    legend_below(figure, axes[2], right=True)
    figure.suptitle(title, fontsize=11)
    return figure


def signature(panels: Mapping[str, Signature], title: str, *, method: str | None = None) -> Figure:
    """The mean cross-correlation at each layer before and after matching, one panel a model (Figure 1b).

    Points and bars are means and standard deviations over pairs.

    Args:
        panels: Model -> layer -> correlations (pairs,) before and after.
        title: The title of the figure.
        method: The name of the matching method.
    """
    figure = Figure(figsize=(max(4.5, 3.2 * len(panels)), 3.7), **SMALL)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    matched = f"matched by {method}" if method else "matched"
    for axes, (name, layers) in zip(row, panels.items(), strict=True):
        _before_and_after(axes, layers, matched)
        axes.set_title(name, fontsize=10)
    row[0].set_ylabel("mean correlation of paired units")
    legend_below(figure, row[0])
    figure.suptitle(title, fontsize=11)
    return figure


def curve_signatures(classes: Mapping[str, Sequence[np.ndarray]], groups: Sequence[str], title: str) -> Figure:
    """The correlation of a curve's midpoint with each endpoint, layer by layer (Figure 14).

    Points and bars are means and standard deviations over pairs; each class of curves has a row of two panels.

    Args:
        classes: Class of curves -> correlations ([pairs,] 2 endpoints, layers) of the curve's midpoint, of the straight
            line's midpoint, and of the curve's midpoint matched to the endpoint.
        groups: The names of the layers.
        title: The title of the figure.
    """
    figure = Figure(figsize=(7.5, 0.9 + 2.4 * len(classes)), **SMALL)
    rows = figure.subplots(len(classes), 2, sharex=True, sharey=True, squeeze=False)
    for row, (name, signatures) in zip(rows, classes.items(), strict=True):
        for endpoint, axes in enumerate(row):
            for i, (values, (label, color)) in enumerate(zip(signatures, CURVE_SIGNATURES, strict=True)):
                one = np.asarray(values)[..., endpoint, :].reshape(-1, len(groups))
                _bars(axes, list(one.T), color, label, i, 3)
            axes.set_title(f"{name}, endpoint {endpoint}", fontsize=10)
            _layers(axes, groups)
            if axes not in rows[-1]:
                axes.set_xlabel("")
        row[0].set_ylabel("mean correlation")
    legend_below(figure, rows[0, 0])
    figure.suptitle(title, fontsize=11)
    return figure


def _before_and_after(axes: Axes, layers: Signature, matched: str) -> None:
    for which, name, color in ((0, "as trained", UNALIGNED), (1, matched, ALIGNED)):
        _bars(axes, [np.atleast_1d(pair[which]) for pair in layers.values()], color, name, which, 2)
    _layers(axes, list(layers))


def _bars(axes: Axes, values: Sequence[np.ndarray], color: str, label: str, number: int, of: int) -> None:
    # Shifted sideways, so that bars at one height do not overlap.
    at = np.arange(len(values)) + 0.08 * (number - (of - 1) / 2)
    means, stds = [v.mean() for v in values], [deviation(v) for v in values]
    look: dict[str, Any] = {"marker": MARKERS[number], "linestyle": STYLES[(of - number) % of], "color": color}
    axes.errorbar(at, means, yerr=stds, markersize=4, capsize=2.5, elinewidth=1, label=label, linewidth=1.5, **look)


def _layers(axes: Axes, names: Sequence[str]) -> None:
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xlim(-0.4, len(names) - 0.6)
    plain(axes)
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
    # The full path of a deeply nested layer leaves no room for the panels.
    return name if len(name) <= 20 else f"{name[:10]}…{name[-9:]}"
