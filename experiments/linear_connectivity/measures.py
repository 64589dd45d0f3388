"""The rise of the loss on straight lines between networks: spawned ones, and matched ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.linear_connectivity.tasks import Problem
from experiments.study import Parts
from mcjax import (
    Model,
    PathMetrics,
    barrier,
    bezier,
    evaluate_path,
    fit_pam,
    linear,
    match_activations,
    match_straight_through,
    match_weights,
    supervised,
    trees,
)
from mcjax.models.pairs import pairs_of
from mcjax.runs.tables import mean_and_std
from mcjax.symmetry import Permutation
from mcjax.training import snapshots, spawn

MEASURES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Cell:
    """A data set, its key, and its parts."""

    problem: Problem
    key: jax.Array
    parts: Parts

    def lines(self, part: str, model: Model, ends: tuple[trees.Tree, trees.Tree], P: Permutation | None) -> PathMetrics:
        """Loss and accuracy along the straight lines of all pairs: (pairs, points).

        Args:
            part: the beginning of the name of the part.
            model: the model.
            ends: the networks of all pairs, each with a leading pair axis.
            P: the permutation of the second network of every pair (None: the identity).
        """

        def make() -> Any:
            # The identity instead of None, so that the same program serves all permutations.
            pairs = pairs_of(model, model.spec, *ends, P)
            path = linear(model.spec).bind_pairs(pairs.theta_1, pairs.theta_2, None, pairs.P)
            measured = supervised(model, self.problem.measured)
            return as_numbers(evaluate_path(measured, path, self.problem.size.points))

        kept = {name: np.asarray(value) for name, value in self.parts.numbers(f"{part}_line", make).items()}
        return PathMetrics(kept["ts"], {of: kept[of] for of in MEASURES}, kept["distance"])

    def matched(
        self, part: str, model: Model, ends: tuple[trees.Tree, trees.Tree], methods: Sequence[str]
    ) -> dict[str, Permutation | None]:
        """The permutations of all pairs, by method.

        Args:
            part: the beginning of the names of the parts.
            model: the model.
            ends: the networks of all pairs, each with a leading pair axis.
            methods: names of METHODS, activations before straight-through.
        """
        key, found = jax.random.fold_in(self.key, 10), dict[str, Permutation | None]()
        problem, task = self.problem, self.problem.task(model)

        def match(method: str) -> Permutation:
            if method == "activations":
                return match_activations(task, *ends).P
            if method == "weights":
                return match_weights(key, model.spec, *ends).P
            if method == "straight-through":
                return match_straight_through(key, task, *ends, found["activations"], problem.straight_through()).P
            recorder = self.parts.recorder(f"{part}_PAM")
            return fit_pam(key, task, bezier(model.spec), *ends, None, problem.pam(), recorder=recorder).P

        for method in methods:
            found[method] = None
            if method != "none":
                found[method] = self.parts.arrays(f"{part}_{method}", partial(match, method))
        return found


def as_numbers(lines: PathMetrics) -> dict[str, Any]:
    """Metrics along paths by name, with ts and distances, as results.json holds them."""
    return {"ts": lines.ts, **lines.values, "distance": lines.distance}


def barriers(lines: PathMetrics, baseline: Any) -> dict[str, Any]:
    """The barrier of every pair in every measure, with mean and deviation."""
    return {of: mean_and_std(np.atleast_1d(barrier(lines, of, baseline)).tolist()) for of in MEASURES}


def end_metrics(lines: PathMetrics) -> dict[str, Any]:
    """Loss and accuracy of the networks themselves, over both ends of all pairs."""
    return {of: mean_and_std(getattr(lines, of)[..., [0, -1]].ravel().tolist()) for of in MEASURES}


def as_pairs(thetas: trees.Tree) -> tuple[trees.Tree, trees.Tree]:
    """Networks along a leading axis as pairs: each of even number with the next one."""
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i::2], thetas) for i in range(2))
    return first, second


def spawning(cell: Cell) -> dict[str, Any]:
    """Instability against the step at which two networks part (Frankle et al., Figure 3)."""
    problem, size = cell.problem, cell.problem.size
    model = problem.model(size.width)
    config, epochs = problem.training(*size.spawn_steps)

    def make() -> trees.Tree:
        keys = jax.random.split(jax.random.fold_in(cell.key, 0), size.seeds)
        return spawn(keys, problem.task(model), epochs, config, recorder=cell.parts.recorder("spawning")).theta

    theta = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[3:]), cell.parts.arrays("spawning", make))
    lines = cell.lines("spawning", model, as_pairs(theta), None)
    levels = []
    for i, step in enumerate(size.spawn_steps):
        each = slice(i, None, len(size.spawn_steps))
        here = PathMetrics(lines.ts, *trees.index((lines.values, lines.distance), each))
        levels.append({"step": step, "barriers": barriers(here, "mean"), "ends": end_metrics(here)})
    return {"model": model.name, "parameters": _parameters(model), "steps": size.steps, "levels": levels}


def conjecture(cell: Cell) -> dict[str, Any]:
    """Barriers before and after matching, against the width and against the steps of training."""
    problem, size = cell.problem, cell.problem.size
    times = tuple(sorted({*size.snapshot_steps, size.steps}))
    widths = [
        {"width": width, **_level(cell, width, times if width == size.width else (size.steps,), -1)}
        for width in size.widths
    ]
    steps = [{"step": step, **_level(cell, size.width, times, i)} for i, step in enumerate(times)]
    return {"model": problem.model(size.width).name, "width": size.width, "widths": widths, "steps": steps}


def _level(cell: Cell, width: float, times: tuple[int, ...], i: int) -> dict[str, Any]:
    problem = cell.problem
    model = problem.model(width)
    config, epochs = problem.training(*times)

    def make() -> trees.Tree:
        keys = jax.random.split(jax.random.fold_in(cell.key, 1), 2 * problem.size.seeds)
        recorder = cell.parts.recorder(f"width_{width:g}")
        return snapshots(keys, problem.task(model), epochs, config, recorder=recorder).theta

    theta = jax.tree.map(lambda leaf: leaf[:, i], cell.parts.arrays(f"width_{width:g}", make))
    part, ends = f"width_{width:g}_{times[i]}", as_pairs(theta)
    permutations = cell.matched(part, model, ends, problem.size.compared)
    lines = {method: cell.lines(f"{part}_{method}", model, ends, P) for method, P in permutations.items()}
    return {
        "parameters": _parameters(model),
        "ends": end_metrics(lines["none"]),
        "methods": {method: barriers(each, "line") for method, each in lines.items()},
        "unmoved": _unmoved(permutations),
    }


def _unmoved(permutations: dict[str, Permutation | None]) -> dict[str, int]:
    """Method that keeps its start where it finds nothing better -> the number of pairs where it did."""
    found = {}
    for method, start in (("straight-through", permutations.get("activations")), ("PAM", None)):
        if (P := permutations.get(method)) is not None:
            same = [
                (np.asarray(p) == (np.arange(np.shape(p)[1]) if start is None else np.asarray(start[group]))).all(1)
                for group, p in P.items()
            ]
            found[method] = int(np.all(same, axis=0).sum())
    return found


def _parameters(model: Model) -> int:
    return trees.parameter_count(jax.eval_shape(model.init, jax.random.key(0)))
