"""The figures: length and beads against the threshold, strings on their principal axes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from mpl_toolkits.mplot3d.art3d import Line3DCollection

from experiments.string_sampling.measures import Strings
from experiments.string_sampling.tasks import Problem
from experiments.study import Drawing
from mcjax import Task, trees
from mcjax.curves.polyline import Polyline
from mcjax.plotting import ALIGNED, UNALIGNED
from mcjax.plotting.style import legend_below, new_figure, style_axes
from mcjax.runtime.compiling import jit
from mcjax.strings import String
from mcjax.training import Criterion

LOOKS = {"unmatched": (UNALIGNED, "-"), "matched": (ALIGNED, "--")}
MANY, FEW = 400, 60
"""Points of a string whose loss is drawn, for small networks and for large ones."""


def draw(tasks: Mapping[str, Any], strings: Sequence[tuple[Problem, Strings]]) -> Iterator[Drawing]:
    """Figure 1 of all tasks with several thresholds but the counter-example; Figures 3 and 4 of every task."""
    rows = {
        f"{name}: {task['title']}": task
        for name, task in tasks.items()
        if len(task["levels"]) > 1 and name != "permutation"
    }
    if rows:
        caption = (
            "Normalised length and segments against the threshold (Figure 1). Triangles are strings that were not "
            "connected, at the size at which they were given up, which is a lower bound. Thin lines are power laws: "
            "dotted of the connected strings, dash-dotted of all, the others as censored. Numbers are their exponents."
        )
        yield Drawing("thresholds", against_threshold(rows), caption)
    for problem, found in strings:
        for variant, of_variant in found.items():
            yield from _string(problem, variant, of_variant)


def _string(problem: Problem, variant: str, strings: Sequence[String]) -> Iterator[Drawing]:
    """Figures 3 and 4: a string of many beads at several depths, on its principal axes."""
    if not strings:
        return
    # A connected one; where a network is not connected to its copy, one that shows it.
    wanted = problem.name != "permutation"
    string = max(strings, key=lambda each: (each.connected == wanted, each.beads))
    if string.beads < 2:  # three axes need four knots
        return
    state = "connected" if string.connected else "not connected"
    figure = string_stages(
        stages(problem, string), f"{problem.title}: {variant}, {state}", problem.criterion, string.threshold
    )
    caption = (
        f"{problem.title}, {variant}: a string of many beads at several depths, on the three principal axes of "
        "its last knots (Figures 3 and 4)."
    )
    yield Drawing(f"string_{problem.name}_{variant}", figure, caption)


class Stage(NamedTuple):
    """A string at some depth, on three axes.

    Attributes:
        label: the title of the panel.
        points: points of the string, (points, 3).
        loss: the criterion at these points, (points,).
        knots: its knots, (knots, 3).
    """

    label: str
    points: np.ndarray
    loss: np.ndarray
    knots: np.ndarray


def stages(problem: Problem, string: String, count: int = 4) -> list[Stage]:
    """The string as it was at `count` depths, the first one and the last among them."""
    scores = principal(string.knots)
    depths = sorted({round(depth) for depth in np.linspace(1, string.depth, count)})
    found = []
    for depth in depths:
        there = string.depths <= depth
        polyline = Polyline(trees.index(string.knots, np.flatnonzero(there)))
        path, at = polyline.path, polyline.ts.astype(np.float64)
        # Knots are among the points: between two points the string is straight.
        even = np.linspace(0, 1, MANY if trees.parameter_count(path(0.0)) < 10_000 else FEW)
        ts = np.unique(np.concatenate([even, at]).astype(np.float32))
        value = np.asarray(_along(problem.config.criterion, problem.task, path, ts))
        knots = scores[there]
        points = np.stack([np.interp(ts, at, knots[:, axis]) for axis in range(3)], 1)
        label = f"depth {depth}, beads: {int(there.sum()) - 2}, at most {value.max():.3g}"
        found.append(Stage(label, points, value, knots))
    return found


@jit(static_argnames=("criterion",))
def _along(criterion: Criterion, task: Task, path: Any, ts: Any) -> jax.Array:
    return jax.lax.map(lambda t: criterion(task, path(t)), ts)


def principal(knots: trees.Tree) -> np.ndarray:
    """Knots on the three principal axes of all of them: float64 (knots, 3)."""
    flat = [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(trees.params(knots))]
    centred = [part - part.mean(0) for part in flat]
    # By the Gram matrix: there are few knots, and many parameters.
    values, vectors = np.linalg.eigh(sum(part @ part.T for part in centred))
    best = np.argsort(values)[::-1][:3]
    return vectors[:, best] * np.sqrt(np.maximum(values[best], 0))


def against_threshold(tasks: Mapping[str, Any]) -> Figure:
    """Normalised length and segments against the threshold, both logarithmic. Freeman and Bruna, Figure 1.

    Bars are deviations over connected pairs; small circles are lengths after relaxation; triangles are strings that
    were given up, at their size then. Power laws are thin lines with their exponents: dotted, of the connected strings;
    dash-dotted, of all, those given up being censored.

    Args:
        tasks: title of a row -> the findings of a task, as `gather` returns them.
    """
    figure, rows = new_figure(len(tasks), 2, (9.5, 0.9 + 3.0 * len(tasks)), "")
    for (title, task), (left, right) in zip(tasks.items(), rows, strict=True):
        thresholds = np.array([level["threshold"] for level in task["levels"]])
        for number, (variant, fitted) in enumerate(task["laws"].items()):
            color, style = LOOKS[variant]
            # Zero beads are below every logarithmic scale: there is one more segment than beads.
            for axes, what, more in ((left, "length", 0), (right, "beads", 1)):
                values, deviation = _summaries(task["levels"], variant, what)
                # A bar that would reach below the least possible value, 1, ends there.
                bars = np.stack([np.minimum(deviation, values + more - 1), deviation])
                axes.errorbar(
                    thresholds, values + more, bars, color=color, linestyle=style, marker="o", markersize=4,
                    linewidth=1.6, elinewidth=0.9, capsize=2.5, label=variant,
                )  # fmt: skip
                given_up = [
                    (level["threshold"], each[what] + more)
                    for level in task["levels"]
                    for each in level[variant]["failed"]
                ]
                if given_up:
                    axes.plot(
                        *np.transpose(given_up), color=color, linestyle="", marker="^", markersize=6,
                        markerfacecolor="none", markeredgewidth=0.9, label=f"{variant}: at least",
                    )  # fmt: skip
                if fitted[what]["connected"] is not None:
                    _laws(axes, fitted[what], color, number)
            relaxed, _ = _summaries(task["levels"], variant, "relaxed")
            if not np.isnan(relaxed).all():
                left.plot(
                    thresholds, relaxed, color=color, linestyle=style, marker="o", markersize=3,
                    markerfacecolor="white", linewidth=0.8, label=f"{variant}: relaxed",
                )  # fmt: skip
        for axes, name in ((left, "normalised length"), (right, "segments (beads + 1)")):
            style_axes(axes, xlabel=f"threshold ({task['of']})", ylabel=name, xscale="log", yscale="log")
            # Exponents stand above all values.
            top = axes.get_ylim()[1]
            axes.set_ylim(0.97, top * (top / 0.97) ** 0.25)
            for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
                wide = high > 5 * low
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(6, steps=[1, 2, 5, 10]))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_locator(NullLocator())
            if len(thresholds) <= 4:
                axes.set_xticks(thresholds)
        left.set_title(f"{title}; segments up to {1 + task['tolerance']:g} thresholds", fontsize=10, loc="left")
    legend_below(figure, *rows[:, 0], most=3)
    return figure


def _summaries(levels: Sequence[Mapping[str, Any]], variant: str, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations at all thresholds, NaN where no string is connected."""
    found = [level[variant][what] or {"mean": np.nan, "std": np.nan} for level in levels]
    return np.array([each["mean"] for each in found]), np.array([each["std"] for each in found])


def _laws(axes: Axes, fitted: Mapping[str, Mapping[str, float]], color: str, line: int) -> None:
    """Both power laws as lines, and their exponents in a line of text in the corner."""
    for which, dashes in (("connected", (1, 1)), ("censored", (6, 2, 1, 2))):
        law = fitted[which]
        at = np.array([law["low"], law["high"]])
        axes.plot(at, law["factor"] * at ** law["exponent"], color=color, linewidth=0.9, linestyle=(0, dashes))
    text = ", all ".join(f"{fitted[name]['exponent']:+.2f} ± {fitted[name]['error']:.2f}" for name in fitted)
    corner: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "top"}
    axes.text(0.99, 0.99 - 0.08 * line, f"exponent {text}", color=color, fontsize=8, **corner)


def string_stages(stages: Sequence[Stage], title: str, of: str, threshold: float) -> Figure:
    """A string at several depths, on the three principal axes of its last knots. Freeman and Bruna, Figures 3 and 4.

    The colour is the loss along it, on a logarithmic scale: blue at the threshold, red high above. The black curves
    are its projections on pairs of axes.

    Args:
        stages: the string at every depth.
        title: the title.
        of: the criterion of the loss and the threshold, in words.
        threshold: the threshold.
    """
    size, projection = (4.1 * len(stages), 4.3), {"projection": "3d"}
    figure, (row,) = new_figure(1, len(stages), size, title, dpi=120, subplot_kw=projection)
    every = np.concatenate([stage.points for stage in stages])
    low, high = every.min(0), every.max(0)
    margin = 0.08 * np.maximum(high - low, 1e-9)
    low, high = low - margin, high + margin
    highest = max(float(stage.loss.max()) for stage in stages)
    norm = LogNorm(threshold / 2, max(highest, 2 * threshold), clip=True)
    shown = ScalarMappable(norm, "coolwarm")
    for axes, stage in zip(row, stages, strict=True):
        for axis, wall in ((0, low[0]), (1, high[1]), (2, low[2])):
            shadow = stage.points.copy()
            shadow[:, axis] = wall
            axes.plot(*shadow.T, color="black", linewidth=0.6)
        pieces = np.stack([stage.points[:-1], stage.points[1:]], 1)
        lines = Line3DCollection(list(pieces), cmap="coolwarm", norm=norm, linewidths=2.2)
        lines.set_array((stage.loss[:-1] + stage.loss[1:]) / 2)
        axes.add_collection3d(lines)
        axes.scatter(*stage.knots.T, color="black", s=7, depthshade=False)
        for name, (a, b) in zip("xyz", zip(low, high, strict=True), strict=True):
            getattr(axes, f"set_{name}lim")(a, b)
            getattr(axes, f"set_{name}ticklabels")([])
            getattr(axes, f"set_{name}label")(f"axis {'xyz'.index(name) + 1}", fontsize=8, labelpad=-10)
            getattr(axes, f"{name}axis").set_pane_color("0.97")
        axes.grid(False)
        axes.set_title(stage.label, fontsize=9)
    figure.colorbar(shown, ax=row, label=f"{of} (threshold {threshold:g})", shrink=0.7, pad=0.04)
    return figure
