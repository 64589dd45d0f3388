"""The figures of string sampling: length and beads against the threshold, strings on their principal axes."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.string_sampling.tasks import Task
from mcjax import Model, plotting, trees
from mcjax.curves import Polyline
from mcjax.runs.folder import RunFolder
from mcjax.runtime.compiling import jit
from mcjax.strings import String
from mcjax.training import Criterion

LOOKS = {"unmatched": (plotting.UNALIGNED, "-"), "matched": (plotting.ALIGNED, "--")}
MANY, FEW = 400, 60
"""Points of a string, of small networks and of large ones, whose loss is measured for a picture."""


def draw_all(run: RunFolder, tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Figure 1: every task that has several thresholds, but the counter-example."""
    rows = [
        (f"{name}: {task['title']}", task["of"], [_series(task, variant) for variant in task["laws"]])
        for name, task in tasks.items()
        if len(task["levels"]) > 1 and name != "permutation"
    ]
    if not rows:
        return []
    path = run.figure("thresholds", plotting.against_threshold(rows))
    return [{"file": path.name, "caption": "Normalised length and segments against the threshold (Figure 1)."}]


def _series(task: Mapping[str, Any], variant: str) -> plotting.Thresholds:
    columns = {}
    for what in ("length", "beads"):
        for part in ("mean", "std"):
            values = [level[variant][what] for level in task["levels"]]
            columns[what, part] = np.array([np.nan if value is None else value[part] for value in values])
    color, style = LOOKS[variant]
    laws = {
        what: None if fitted is None else plotting.PowerLaw(**fitted) for what, fitted in task["laws"][variant].items()
    }
    return plotting.Thresholds(
        variant,
        np.array([level["threshold"] for level in task["levels"]]),
        columns["length", "mean"],
        columns["length", "std"],
        columns["beads", "mean"],
        columns["beads", "std"],
        color,
        style,
        laws["length"],
        laws["beads"],
    )


def draw(run: RunFolder, task: Task, strings: Mapping[str, Sequence[String]]) -> list[dict[str, str]]:
    """Figures 3 and 4: of each variant a string of many beads at several depths, on its principal axes."""
    figures = []
    for variant, found in strings.items():
        if not found:
            continue
        # Of the network that is not connected to its copy, one that shows it.
        first = task.name != "permutation"
        string = max(found, key=lambda each: (each.connected == first, each.beads))
        if string.beads < 2:  # three axes need four knots
            continue
        name = f"string_{task.name}_{variant}"
        state = "connected" if string.connected else "not connected"
        title = f"{task.title}: {variant}, {state}"
        figure = plotting.string_stages(stages(task, string), title, of=task.of, threshold=string.threshold)
        caption = (
            f"{task.title}, {variant}: a string of many beads at several depths, on the three principal axes of "
            "its last knots (Figures 3 and 4)."
        )
        figures.append({"file": run.figure(name, figure).name, "caption": caption})
    return figures


def stages(task: Task, string: String, count: int = 4) -> list[plotting.Stage]:
    """The string as it was at `count` depths, the first one and the last among them."""
    scores = principal(string.knots)
    depths = sorted({round(depth) for depth in np.linspace(1, string.depth, count)})
    found = []
    for depth in depths:
        there = string.depths <= depth
        path = Polyline(trees.index(string.knots, np.flatnonzero(there))).path
        at = np.asarray(path.args[1], np.float64)
        # Knots are among the points: between two points the string is straight.
        even = np.linspace(0, 1, MANY if trees.parameter_count(path(0.0)) < 10_000 else FEW)
        ts = np.unique(np.concatenate([even, at]).astype(np.float32))
        value = np.asarray(_along(task.model, task.config.criterion, path, task.data, ts))
        knots = scores[there]
        points = np.stack([np.interp(ts, at, knots[:, axis]) for axis in range(3)], 1)
        label = f"depth {depth}, beads: {int(there.sum()) - 2}, at most {value.max():.3g}"
        found.append(plotting.Stage(label, points, value, knots))
    return found


@jit(static_argnames=("model", "criterion"))
def _along(model: Model, criterion: Criterion, path: Any, data: Any, ts: Any) -> jax.Array:
    return jax.lax.map(lambda t: criterion(model, path(t), data), ts)


def principal(knots: trees.Tree) -> np.ndarray:
    """Knots on the three principal axes of all of them: float64 (knots, 3)."""
    flat = [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(trees.params(knots))]
    centred = [part - part.mean(0) for part in flat]
    # By the products of knots: their number is small, that of parameters is not.
    values, vectors = np.linalg.eigh(sum(part @ part.T for part in centred))
    best = np.argsort(values)[::-1][:3]
    return vectors[:, best] * np.sqrt(np.maximum(values[best], 0))
