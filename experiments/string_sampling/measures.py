"""Strings between pairs of networks: how they are sampled and relaxed, and their lengths and beads."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.string_sampling.laws import laws
from experiments.string_sampling.tasks import Problem
from experiments.study import Parts
from mcjax import match_activations, match_straight_through, match_weights, permute, train_endpoints, trees
from mcjax.runs.tables import mean_and_std
from mcjax.strings import String, relax_string, sample_strings

VARIANTS = ("unmatched", "matched")
Strings = Mapping[str, Sequence[String]]
"""Variant -> the strings of all pairs of networks that reached their threshold, in the order of thresholds."""


def sample(parts: Parts, problem: Problem, key: jax.Array, matching: str) -> tuple[Strings, list[bool]]:
    """The strings of every pair of networks that reached its threshold.

    Args:
        parts: the parts of the row.
        problem: the row of Figure 1.
        key: a typed key.
        matching: activations, weights or straight_through.

    Returns:
        The strings, unmatched and matched, and which pairs reached their threshold, in the order of thresholds.
    """
    ends_key, match_key, string_key = jax.random.split(key, 3)
    first, second, reached = _ends(parts, problem, ends_key)
    thresholds = np.repeat(problem.thresholds, problem.pairs)[reached]
    strings: dict[str, list[String]] = {}
    for name in VARIANTS:
        # A part that is not kept: sampling resumes by itself from the last complete depth.
        with parts.timed(parts.named(name)):
            strings[name] = []
            if any(reached):
                P = None if name == "unmatched" else _match(matching, match_key, problem, first, second)
                ends, recorder = (first, second, thresholds, P), parts.recorder(name)
                strings[name] = sample_strings(string_key, problem.task, *ends, problem.config, recorder=recorder)
    return strings, reached


def relax(parts: Parts, problem: Problem, strings: Strings) -> dict[str, list[float | None]]:
    """The normalised length of every string after relaxation; None for those that are not connected or not relaxed."""

    def length(string: String) -> float | None:
        if not (string.connected and problem.sweeps):
            return None
        effort = {"splits": problem.splits, "sweeps": problem.sweeps}
        return relax_string(problem.task, string, problem.config, **effort).normalized_length

    def all_of(found: Sequence[String]) -> list[float | None]:
        return [length(string) for string in found]

    return {name: parts.numbers(f"{name}_relaxed", partial(all_of, found)) for name, found in strings.items()}


def _ends(parts: Parts, problem: Problem, key: jax.Array) -> tuple[trees.Tree, trees.Tree, list[bool]]:
    """Networks trained to the thresholds, two a pair, of those pairs whose networks reached it; which pairs did."""
    permuted = problem.name == "permutation"
    each = 1 if permuted else 2
    targets = np.repeat(problem.thresholds, each * problem.pairs)

    def train() -> trees.Tree:
        keys, recorder = jax.random.split(key, len(targets)), parts.recorder("networks")
        until: dict[str, Any] = {"target": targets, "criterion": problem.config.criterion}
        ends = train_endpoints(keys, problem.task, problem.ends, recorder=recorder, **until)
        return {"theta": ends.theta, "criterion": ends.criterion}

    ends = parts.arrays("networks", train)
    reached = np.all((np.asarray(ends["criterion"]) <= targets).reshape(-1, each), axis=1)
    first, second = (trees.index(ends["theta"], slice(side, None, each)) for side in (0, each - 1))
    first, second = trees.index(first, reached), trees.index(second, reached)
    if permuted:
        swap = {"dense_0": np.array([1, 0, 2], np.int32)}
        second = jax.vmap(lambda theta: permute(problem.model.spec, swap, theta))(first)
    return first, second, reached.tolist()


def _match(how: str, key: jax.Array, problem: Problem, first: trees.Tree, second: trees.Tree) -> Any:
    if how == "weights" or problem.name == "permutation":  # three points are too few to tell units apart
        return match_weights(key, problem.model.spec, first, second).P
    if how == "activations":
        return match_activations(problem.task, first, second).P
    return match_straight_through(key, problem.task, first, second).P


def gather(
    problem: Problem, strings: Strings, relaxed: Mapping[str, Sequence[float | None]], reached: Sequence[bool]
) -> dict[str, Any]:
    """The findings of one row, as results.json holds them: all pairs at every threshold, and fitted power laws."""
    levels = []
    for number, threshold in enumerate(problem.thresholds):
        pairs = reached[number * problem.pairs : (number + 1) * problem.pairs]
        before = sum(reached[: number * problem.pairs])
        level: dict[str, Any] = {"threshold": threshold, "pairs": problem.pairs, "reached": sum(pairs)}
        for name, found in strings.items():
            here = slice(before, before + sum(pairs))
            level[name] = _summary(found[here], relaxed[name][here])
        levels.append(level)
    fitted = {name: {what: laws(levels, name, what) for what in ("length", "beads")} for name in strings}
    return {
        "title": problem.title,
        "of": problem.criterion,
        "tolerance": problem.config.tolerance,
        "paper": problem.paper,
        "model": problem.model.name,
        "levels": levels,
        "laws": fitted,
    }


def _summary(strings: Sequence[String], relaxed: Sequence[float | None]) -> dict[str, Any]:
    """Length and beads of connected strings; why the others were given up, their size then, and the worst segment."""
    connected = [string for string in strings if string.connected]
    failed = [string for string in strings if not string.connected]
    shorter = [length for length in relaxed if length is not None]
    beads = sum(string.beads for string in strings)
    steps = sum(string.steps for string in strings)
    return {
        "connected": len(connected),
        "length": mean_and_std([string.normalized_length for string in connected]) if connected else None,
        "beads": mean_and_std([string.beads for string in connected]) if connected else None,
        "relaxed": mean_and_std(shorter) if shorter else None,
        "resolution": max((float(string.resolution.max()) for string in connected), default=None),
        "depth": max((string.depth for string in strings), default=0),
        "failed": [
            {"reason": each.reason, "length": each.normalized_length, "beads": each.beads, **each.worst._asdict()}
            for each in failed
        ],
        "steps": steps,
        "measured": sum(string.evaluations for string in strings),
        "steps_per_bead": steps / beads if beads else None,
    }
