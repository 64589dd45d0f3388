"""The training of networks and curves, and the alternating training of PAM."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mcjax.plotting.style import (
    ALIGNED,
    MARKERS,
    STYLES,
    legend_below,
    log_if_wide,
    mean_and_band,
    new_figure,
    style_axes,
)

MAX_COLORS = 8
"""The maximum number of fits with a colour of their own in one panel."""


def training(history: Mapping[str, np.ndarray], title: str, *, labels: Sequence[str] | None = None) -> Figure:
    """Draw the loss, the accuracy and other metrics against the epoch, a panel for each and one line per fit.

    More than eight fits are drawn in one colour, with their mean.

    Args:
        history: "loss", "accuracy" as a share if there is one, and other metrics by name, ([fits,] epochs) each.
        title: The title of the figure.
        labels: Names of the fits for a legend (None: no legend).
    """
    names = sorted(history, key=lambda name: (name != "loss", name != "accuracy", name))
    figure, (panels,) = new_figure(1, len(names), (4.5 * len(names), 3.4 if labels is None else 3.8), title, dpi=120)
    for axes, name in zip(panels, names, strict=True):
        values = (100 if name == "accuracy" else 1) * np.atleast_2d(history[name])
        fits, epochs = values.shape
        at, marker = np.arange(1, epochs + 1), "o" if epochs == 1 else ""
        if fits > MAX_COLORS:
            for row in values:
                axes.plot(at, row, color=ALIGNED, linewidth=0.7, alpha=0.35, marker=marker)
            axes.plot(at, values.mean(0), color="k", linewidth=1.8, marker=marker, label=f"mean of {fits}")
        else:
            # The lightest colours of the map have too little contrast on white.
            colors = colormaps["viridis"](np.linspace(0, 0.85, fits)) if fits > 1 else [ALIGNED]
            for i, row in enumerate(values):
                label = None if labels is None else labels[i]
                axes.plot(at, row, STYLES[i % 4], color=colors[i], linewidth=1.3, marker=marker, label=label)
    # Losses of classes are in nats, others in units that are not known.
    units = {"loss": " (nats)", "accuracy": " (%)"} if "accuracy" in history else {}
    epoch_axes(panels, [f"train {name}{units.get(name, '')}" for name in names])
    log_if_wide(panels[0], history["loss"])
    if panels[0].get_legend_handles_labels()[1]:
        legend_below(figure, panels[0])
    return figure


def epoch_axes(panels: Sequence[Axes], labels: Sequence[str] = ("train loss (nats)", "train accuracy (%)")) -> None:
    """Label panels of values against the epoch."""
    for axes, label in zip(panels, labels, strict=True):
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=(1, 2, 2.5, 5, 10), integer=True))
        style_axes(axes, xlabel="epoch", ylabel=label)


class HalfSteps(NamedTuple):
    """The half-steps of PAM's fits in n iterations.

    Attributes:
        objective: The objective at the start and after every half-step, ([pairs,] 1 + 2 n).
        proposed: The objective of every proposal, ([pairs,] 2 n).
        refused: Whether each proposal was refused, ([pairs,] 2 n).
        color: The colour.
    """

    objective: np.ndarray
    proposed: np.ndarray
    refused: np.ndarray
    color: str


def pam_objective(fits: Mapping[str, HalfSteps], title: str) -> Figure:
    """PAM's objective after every half-step, mean over pairs; a cross for every proposal of a pair that was refused."""
    figure, ((axes,),) = new_figure(1, 1, (7.0, 4.3), title)
    reasons = {"x": False, "+": False}
    for number, (name, fit) in enumerate(fits.items()):
        values = np.atleast_2d(fit.objective)
        at = np.arange(values.shape[1])
        style, dot = STYLES[number % 4], MARKERS[number % 6]
        axes.plot(at, values.mean(0), style, marker=dot, markersize=4, color=fit.color, label=name, linewidth=1.6)
        proposed, refused = np.atleast_2d(fit.proposed), np.atleast_2d(fit.refused)
        lower = proposed <= values[:, :-1]
        for which, marker in ((refused & ~lower, "x"), (refused & lower, "+")):
            pairs, steps = np.nonzero(which)
            axes.plot(steps + 1, proposed[pairs, steps], marker, color=fit.color, markersize=6, alpha=0.7, linestyle="")
            reasons[marker] |= bool(len(steps))
    for marker, reason in (("x", "refused: higher"), ("+", "refused: lower, but the curve was better without")):
        if reasons[marker]:
            axes.plot([], [], marker, color="0.4", label=reason, linestyle="")
    half = [f"{which} {k // 2 + 1}" for k in range(len(at) - 1) for which in (("P", "curve")[k % 2],)]
    many = len(at) > 5
    axes.set_xticks(at, ["start", *half], rotation=45 if many else 0, ha="right" if many else "center")
    log_if_wide(axes, *(fit.objective for fit in fits.values()))
    legend_below(figure, axes, most=2)
    style_axes(axes, ylabel="$Q + R$ (nats)")
    return figure


def pam_training(losses: Mapping[str, tuple[np.ndarray, str]], epochs: tuple[int, int], title: str) -> Figure:
    """Draw the train loss against the epoch over PAM's half-steps: means over pairs, with a band of one deviation.

    Vertical lines separate the half-steps.
    Source: Neuron Alignment, Figure 10.

    Args:
        losses: Values ([pairs,] epochs) and a colour, by name.
        epochs: The epochs of a half-step of the permutation (shaded), and of a half-step of the curve.
        title: The title of the figure.
    """
    figure, ((axes,),) = new_figure(1, 1, (7.0, 4.1), title)
    for number, (name, (values, color)) in enumerate(losses.items()):
        at = np.arange(1, np.shape(values)[-1] + 1)
        mean_and_band(axes, at, values, color, STYLES[number % 4], name)
    for start in range(0, len(at), sum(epochs)):
        shaded = None if start else "learning P"
        axes.axvspan(start + 0.5, start + epochs[0] + 0.5, color="0.9", linewidth=0, label=shaded, zorder=0)
        for change in (start, start + epochs[0]):
            if 0 < change < len(at):
                axes.axvline(change + 0.5, color="0.55", linewidth=0.8, zorder=1)
    log_if_wide(axes, *(values for values, _ in losses.values()))
    legend_below(figure, axes)
    style_axes(axes, xlabel="epoch", ylabel="train loss (nats)", xlim=(0.5, len(at) + 0.5))
    return figure
