"""Loss and accuracy along paths."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from mcjax.plotting.style import legend_below, log_if_wide, mean_and_band, new_figure, plain


class Line(NamedTuple):
    """One class of curves in a figure.

    Attributes:
        label: the label in the legend.
        loss: the loss in nats, ([pairs,] points).
        accuracy: the accuracy as a share at the same points, ([pairs,] points).
        color: the colour.
        style: the line style.
    """

    label: str
    loss: np.ndarray
    accuracy: np.ndarray
    color: str
    style: str = "-"


def along_paths(
    ts: np.ndarray, lines: Sequence[Line], title: str, *, loss_of: str = "train", accuracy_of: str = "test"
) -> Figure:
    """Loss and accuracy along paths, mean over pairs with a band of one standard deviation (Figure 2).

    Args:
        ts: the values of t, (points,).
        lines: classes of curves.
        title: the title of the figure.
        loss_of: the split that the loss is of.
        accuracy_of: the split that the accuracy is of.
    """
    figure, ((left, right),) = new_figure(1, 2, (9.0, 3.7), title)
    for axes, values_of, name in (
        (left, lambda line: line.loss, f"{loss_of} loss (nats)"),
        (right, lambda line: 100 * line.accuracy, f"{accuracy_of} accuracy (%)"),
    ):
        for line in lines:
            mean_and_band(axes, ts, values_of(line), line.color, line.style, line.label)
        plain(axes, xlabel=r"$t$, from $\theta_1$ to $P\theta_2$", ylabel=name, xlim=(float(ts[0]), float(ts[-1])))
    log_if_wide(left, *(line.loss for line in lines))
    legend_below(figure, left)
    return figure
