"""Figures from numpy arrays. Nothing here computes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

UNALIGNED, ALIGNED = "#c2571a", "#1f6fb2"
_RC: dict[str, Any] = {"dpi": 160, "layout": "constrained"}


class Line(NamedTuple):
    """One path in a figure: values (pairs, points) of loss and accuracy on the same ts, and its look."""

    label: str
    loss: np.ndarray
    accuracy: np.ndarray
    color: str
    style: str = "-"


def along_paths(
    ts: np.ndarray, lines: Sequence[Line], title: str, *, loss_of: str = "train", accuracy_of: str = "test"
) -> Figure:
    """Loss and accuracy along paths, mean over pairs with a band of one standard deviation (Figure 2)."""
    figure = Figure(figsize=(9.0, 3.7), **_RC)
    left, right = figure.subplots(1, 2)
    for axes, values_of, name in (
        (left, lambda line: line.loss, f"{loss_of} loss (nats)"),
        (right, lambda line: 100 * line.accuracy, f"{accuracy_of} accuracy (%)"),
    ):
        for line in lines:
            values = np.atleast_2d(values_of(line))
            mean, std = values.mean(0), values.std(0)
            axes.plot(ts, mean, line.style, color=line.color, label=line.label, linewidth=1.8)
            axes.fill_between(ts, mean - std, mean + std, color=line.color, alpha=0.13, linewidth=0)
        axes.set_xlabel(r"$t$, from $\theta_1$ to $P\theta_2$")
        axes.set_ylabel(name)
        axes.set_xlim(float(ts[0]), float(ts[-1]))
        _plain(axes)
    _log_if_wide(left, np.concatenate([np.ravel(line.loss) for line in lines]))
    columns = len(lines) if len(lines) < 5 else -(-len(lines) // 2)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def correlation(
    before: np.ndarray, after: np.ndarray, signature: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str
) -> Figure:
    """The cross-correlation of one layer before and after matching, and its mean at every layer (Figure 1).

    before, after: (units of theta_1, units of theta_2). signature: layer -> mean correlation of paired
    units (pairs,), before and after.
    """
    figure = Figure(figsize=(11.0, 3.7), **_RC)
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    bound = max(float(np.abs(before).max()), 1e-6)
    for panel, matrix, name in ((axes[0], before, "as trained"), (axes[1], after, "matched")):
        image = panel.imshow(matrix, vmin=-bound, vmax=bound, cmap="RdBu_r", interpolation="nearest")
        panel.set_title(name, fontsize=10)
        panel.set_xlabel(r"unit of $\theta_2$" if panel is axes[0] else r"unit of $P\theta_2$")
    axes[0].set_ylabel(r"unit of $\theta_1$")
    axes[1].set_yticklabels([])
    figure.colorbar(image, ax=list(axes[:2]), label="cross-correlation", shrink=0.85)
    _signature(axes[2], signature)
    figure.suptitle(title, fontsize=11)
    return figure


def _signature(axes: Axes, signature: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    at = np.arange(len(signature))
    for which, name, color in ((0, "as trained", UNALIGNED), (1, "matched", ALIGNED)):
        values = [np.atleast_1d(pair[which]) for pair in signature.values()]
        means, stds = [v.mean() for v in values], [v.std() for v in values]
        axes.errorbar(at, means, yerr=stds, marker="o", markersize=4, capsize=3, color=color, label=name, linewidth=1.6)
    axes.axhline(0, color="0.6", linewidth=0.8)
    many = len(signature) > 3
    axes.set_xticks(at, list(map(_short, signature)), rotation=45 if many else 0, ha="right" if many else "center")
    axes.set_xlim(-0.4, len(signature) - 0.6)
    axes.set_ylabel("mean correlation of paired units")
    axes.legend(frameon=False)
    _plain(axes)


def _short(name: str) -> str:
    # The path of a deeply nested layer would leave no room for the panels.
    return name if len(name) <= 20 else f"{name[:10]}…{name[-9:]}"


def training(history: Mapping[str, np.ndarray], title: str) -> Figure:
    """Loss and accuracy against epoch, one thin line a fit: values (fits, epochs)."""
    figure = Figure(figsize=(9.0, 3.4), **_RC)
    panels = figure.subplots(1, 2)
    for axes, name, factor, label in (
        (panels[0], "loss", 1, "train loss (nats)"),
        (panels[1], "accuracy", 100, "train accuracy (%)"),
    ):
        values = factor * np.atleast_2d(history[name])
        epochs = np.arange(1, values.shape[1] + 1)
        for row in values:
            axes.plot(epochs, row, color=ALIGNED, linewidth=1.0, alpha=0.6, marker="o" if len(epochs) == 1 else "")
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        _plain(axes)
    _log_if_wide(panels[0], np.ravel(history["loss"]))
    figure.suptitle(title, fontsize=11)
    return figure


class HalfSteps(NamedTuple):
    """PAM's objective (pairs, 1 + 2 n), what every half-step proposed and whether it was accepted (pairs, 2 n)."""

    objective: np.ndarray
    proposed: np.ndarray
    accepted: np.ndarray
    color: str


def alternation(fits: Mapping[str, HalfSteps], title: str) -> Figure:
    """PAM's objective after every half-step, mean over pairs; a cross for every proposal of a pair that was refused."""
    figure = Figure(figsize=(7.0, 3.9), **_RC)
    axes = figure.subplots()
    reasons = {"x": False, "+": False}
    for name, fit in fits.items():
        values = np.atleast_2d(fit.objective)
        at = np.arange(values.shape[1])
        axes.plot(at, values.mean(0), marker="o", markersize=4, color=fit.color, label=name, linewidth=1.6)
        proposed, refused = np.atleast_2d(fit.proposed), ~np.atleast_2d(fit.accepted)
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
    axes.set_ylabel("$Q + R$ (nats)")
    _log_if_wide(axes, np.concatenate([np.ravel(fit.objective) for fit in fits.values()]))
    axes.legend(frameon=False)
    _plain(axes)
    figure.suptitle(title, fontsize=11)
    return figure


def alternating_training(losses: Mapping[str, tuple[np.ndarray, str]], epochs: tuple[int, int], title: str) -> Figure:
    """Train loss against epoch over PAM's half-steps, mean over pairs with a band of one deviation (Figure 10).

    losses: name -> values (pairs, epochs) and a colour. epochs: of a permutation half-step (shaded), of a curve's.
    """
    figure = Figure(figsize=(7.0, 3.9), **_RC)
    axes = figure.subplots()
    for name, (values, color) in losses.items():
        values = np.atleast_2d(values)
        at = np.arange(1, values.shape[1] + 1)
        mean, std = values.mean(0), values.std(0)
        axes.plot(at, mean, color=color, label=name, linewidth=1.6)
        axes.fill_between(at, mean - std, mean + std, color=color, alpha=0.13, linewidth=0)
    for start in range(0, len(at), sum(epochs)):
        shaded = None if start else "learning P"
        axes.axvspan(start + 0.5, start + epochs[0] + 0.5, color="0.93", linewidth=0, label=shaded, zorder=0)
    axes.set_xlim(0.5, len(at) + 0.5)
    axes.set_xlabel("epoch")
    axes.set_ylabel("train loss (nats)")
    _log_if_wide(axes, np.concatenate([np.ravel(values) for values, _ in losses.values()]))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    _plain(axes)
    figure.suptitle(title, fontsize=11)
    return figure


def _log_if_wide(axes: Axes, values: np.ndarray) -> None:
    if values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
