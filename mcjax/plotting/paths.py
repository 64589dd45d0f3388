"""Loss and accuracy along paths."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from mcjax.plotting.style import legend_below, log_if_wide, mean_and_band, new_figure, style_axes


class Line(NamedTuple):
    """Loss and accuracy of one class of curves.

    Attributes:
        label: The label in the legend.
        loss: The loss in nats, ([pairs,] points).
        accuracy: The accuracy as a share, ([pairs,] points), or None for a task without one.
        color: The colour.
        style: The line style.
    """

    label: str
    loss: np.ndarray
    accuracy: np.ndarray | None
    color: str
    style: str = "-"


def along_paths(
    ts: np.ndarray, lines: Sequence[Line], title: str, *, loss_split: str = "train", accuracy_split: str = "test"
) -> Figure:
    """Draw loss and accuracy along paths: means over pairs, with a band of one standard deviation.

    Without accuracies there is one panel, that of the loss.

    Source: Neuron Alignment, Figure 2.

    Args:
        ts: The values of t, (points,).
        lines: The classes of curves.
        title: The title of the figure.
        loss_split: The split of the loss, for its label.
        accuracy_split: The split of the accuracy, for its label.

    Returns:
        The figure.
    """
    accuracies = [100 * line.accuracy for line in lines if line.accuracy is not None]
    drawn = [(f"{loss_split} loss (nats)" if accuracies else f"{loss_split} loss", [line.loss for line in lines])]
    if len(accuracies) == len(lines):
        drawn.append((f"{accuracy_split} accuracy (%)", accuracies))
    figure, (panels,) = new_figure(1, len(drawn), (4.5 * len(drawn), 3.7), title)
    for axes, (name, values) in zip(panels, drawn, strict=True):
        for line, each in zip(lines, values, strict=True):
            mean_and_band(axes, ts, each, line.color, line.style, line.label)
        style_axes(axes, xlabel=r"$t$, from $\theta_1$ to $P\theta_2$", ylabel=name, xlim=(float(ts[0]), float(ts[-1])))
    log_if_wide(panels[0], *(line.loss for line in lines))
    legend_below(figure, panels[0])
    return figure
