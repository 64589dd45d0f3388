"""Paths to permutation points, the networks at the minima of every distance, and the paths of MNIST (Figure 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from experiments.permutation_points.tasks import Problem, Setting
from experiments.study import Parts
from mcjax import evaluate, supervised, trees
from mcjax.constructions.chain import UnitAxis
from mcjax.constructions.unit_layers import unit_layer
from mcjax.permutation_points import PermutationPath, permutation_path, similar_pairs
from mcjax.runs.tables import mean_and_std

APART = 1e-3
"""Distances that differ by less than this share are equal."""
SETTLED = 1e-3
"""A fall of the loss by less than this share of the highest does not count: minimisations end at a tolerance."""


def pair_path(setting: Setting, pair: Any, **changes: Any) -> tuple[PermutationPath, dict[str, Any]]:
    """The path of a pair of units, and its numbers as results.json holds them."""
    first, second = (int(unit) for unit in pair)
    config = replace(setting.config, **changes)
    found = permutation_path(setting.task, setting.theta, setting.group, (first, second), config)
    return found, {
        "pair": [first, second],
        "distances": found.distances,
        "loss": found.loss,
        "gradient_norm": float(found.gradient_norm[-1]),
        "minimised": int(found.converged[1:].sum()),
        "steps": len(found.converged) - 1,
        "barrier": found.barrier,
        "point": float(found.loss[-1]),
        "rises": rises(found.loss),
        "knots": len(jax.tree.leaves(found.knots)[0]),
        "products": found.products,
    }


def rises(loss: np.ndarray) -> bool:
    """Whether the losses of the minima never fall on the way to the permutation point."""
    fall = np.maximum.accumulate(loss) - loss
    return bool(fall.max() <= SETTLED * (loss.max() - loss[0]))


def unit_weights(networks: trees.Tree, unit_axes: Sequence[UnitAxis], unit: int) -> np.ndarray:
    """The weights of a unit along some unit axes, of networks along a leading axis: (networks, n)."""
    leaves = {name: np.asarray(leaf) for name, leaf in trees.flatten(networks).items()}
    pairs = [(axis, leaves[axis.name]) for axis in unit_axes]
    parts = [np.take(leaf, axis.rows(leaf[0])[unit], axis.position + 1) for axis, leaf in pairs]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def minima(setting: Setting, found: PermutationPath) -> trees.Tree:
    """The networks at the minima of all distances, along a leading axis: theta first, the permutation point last."""
    count = len(found.heights) + 1
    makes = unit_layer(setting.model, setting.group).incoming
    one, two = (unit_weights(found.knots, makes, unit)[:count] for unit in found.units)
    apart = np.linalg.norm(two - one, axis=1)
    # Distances never grow along the path: the minimum of a distance is the last knot that is no closer.
    at = [int(np.flatnonzero(apart >= (1 - APART) * distance)[-1]) for distance in found.distances[:-1]]
    return jax.tree.map(lambda leaf: leaf[[*at, count - 1]], found.knots)


@dataclass(frozen=True)
class Networks:
    """Teachers of MNIST and the paths of their students, each made once."""

    problem: Problem
    key: jax.Array
    parts: Parts

    def teachers(self, width: int) -> trees.Tree:
        """Teachers of one width along a leading axis, trained side by side."""
        problem, key = self.problem, jax.random.fold_in(self.key, width)
        name, task = f"mnist_{width}_teachers", supervised(problem.model(width), problem.data)
        return self.parts.trained(name, key, problem.size.seeds, task, problem.training)

    def setting(self, width: int, seed: int) -> Setting:
        """The student of one teacher."""
        return self.problem.setting(width, trees.index(self.teachers(width), seed))

    def path(self, width: int, seed: int) -> tuple[dict[str, Any], trees.Tree]:
        """The numbers of the path that merges the two most similar units, and its permutation point."""
        name, setting = f"mnist_{width}_path_{seed}", self.setting(width, seed)
        points: list[trees.Tree] = []

        def make() -> dict[str, Any]:
            numbers, point = _similar_path(self.problem, setting)
            points.append(point)
            return numbers

        def point() -> trees.Tree:
            # Made with the numbers, or by the same path again where a run was stopped between the two.
            return points[0] if points else _similar_path(self.problem, setting)[1]

        numbers = self.parts.numbers(name, make)
        return numbers, self.parts.arrays(f"{name}_point", point)


def _similar_path(problem: Problem, setting: Setting) -> tuple[dict[str, Any], trees.Tree]:
    pair = similar_pairs(setting.model, setting.theta, setting.group)[0]
    found, numbers = pair_path(setting, pair)
    # In float32; the accuracy is that on images and labels, which the students never saw.
    networks = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), minima(setting, found))
    accuracy = evaluate(supervised(setting.model, problem.data), networks)[0]["accuracy"]
    scale = problem.data.num_classes
    numbers |= {name: scale * numbers[name] for name in ("barrier", "point")}
    loss = scale * np.asarray(found.loss, np.float64)
    return numbers | {"loss": loss, "accuracy": accuracy}, found.point


def mnist(networks: Networks) -> dict[str, Any]:
    """Loss and accuracy of all paths, and the barrier by width."""
    problem, levels = networks.problem, []
    for width in problem.size.widths:
        paths = [networks.path(width, seed)[0] for seed in range(problem.size.seeds)]
        levels.append({
            "width": width,
            "parameters": trees.parameter_count(trees.index(networks.teachers(width), 0)),
            "barrier": mean_and_std([path["barrier"] for path in paths]),
            "point": mean_and_std([path["point"] for path in paths]),
            "teacher_accuracy": mean_and_std([path["accuracy"][0] for path in paths]),
            "point_accuracy": mean_and_std([path["accuracy"][-1] for path in paths]),
            "rising": sum(path["rises"] for path in paths),
            "minimised": sum(path["minimised"] for path in paths),
            "steps": sum(path["steps"] for path in paths),
            "paths": paths,
        })  # fmt: skip
    return {"images": len(problem.data.train_labels), "activation": problem.activation, "levels": levels}


def parts_of(widths: tuple[int, ...], seeds: int) -> list[str]:
    """The parts of the paths of MNIST."""
    paths = [f"mnist_{width}_path_{seed}{of}" for width in widths for seed in range(seeds) for of in ("", "_point")]
    return [*(f"mnist_{width}_teachers" for width in widths), *paths]
