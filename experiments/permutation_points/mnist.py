"""Figure 3: paths to permutation points of networks of MNIST, by their width."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.kept import Kept
from experiments.permutation_points.tasks import Setting, Task
from experiments.permutation_points.walks import minima, walked
from mcjax import Recorder, evaluate, train_endpoints, trees
from mcjax.permutation_points import similar_pairs
from mcjax.runs.tables import mean_and_std


@dataclass(frozen=True)
class Networks:
    """Teachers of MNIST and the paths of their students, each made once."""

    task: Task
    key: jax.Array
    kept: Kept

    def teachers(self, width: int) -> trees.Tree:
        """Teachers of one width along a leading axis, trained side by side."""
        name = f"mnist_{width}_teachers"

        def make() -> trees.Tree:
            recorder = Recorder(name, self.kept.run, name, self.kept.display.fit)
            keys = jax.random.split(jax.random.fold_in(self.key, width), self.task.size.seeds)
            model, config = self.task.model(width), self.task.training
            return train_endpoints(keys, model, self.task.data, config, recorder=recorder).theta

        return self.kept.arrays(name, make)

    def setting(self, width: int, seed: int) -> Setting:
        """The student of one teacher."""
        return self.task.setting(width, trees.index(self.teachers(width), seed))

    def walked(self, width: int, seed: int) -> tuple[dict[str, Any], trees.Tree]:
        """What was measured of the path that merges the two most similar units, and its permutation point."""
        name, setting = f"mnist_{width}_path_{seed}", self.setting(width, seed)
        points: list[trees.Tree] = []

        def walk() -> dict[str, Any]:
            numbers, point = _walk(self.task, setting)
            points.append(point)
            return numbers

        def point() -> trees.Tree:
            # Made with the numbers, or by the same path again if a run was stopped between the two.
            return points[0] if points else _walk(self.task, setting)[1]

        numbers = self.kept.numbers(name, walk)
        return numbers, self.kept.arrays(f"{name}_point", point)


def _walk(task: Task, setting: Setting) -> tuple[dict[str, Any], trees.Tree]:
    pair = similar_pairs(setting.model, setting.theta, setting.group)[0]
    found, numbers = walked(setting, pair)
    # In float32, as accuracies are: of images and labels, which the students never saw.
    networks = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), minima(setting, found))
    accuracy = evaluate(setting.model, networks, task.data)[0].accuracy
    scale = task.data.num_classes
    numbers |= {name: scale * numbers[name] for name in ("barrier", "point")}
    return numbers | {
        "loss": [scale * value for value in numbers["loss"]],
        "accuracy": np.asarray(accuracy).tolist(),
    }, found.point


def mnist(networks: Networks) -> dict[str, Any]:
    """Loss and accuracy of all paths, and the barrier by width."""
    levels = []
    for width in networks.task.size.widths:
        paths = [networks.walked(width, seed)[0] for seed in range(networks.task.size.seeds)]
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
    return {"images": len(networks.task.data.train_labels), "activation": networks.task.activation, "levels": levels}


def costs(task: Task, widths: tuple[int, ...], seeds: int) -> dict[str, tuple[float, int]]:
    """What every stage costs, in images that pass through the least network, roughly."""
    size, images = task.size, len(task.data.train_labels)
    stages: dict[str, tuple[float, int]] = {}
    for width in widths:
        share = width / widths[0]
        stages[f"mnist_{width}_teachers"] = (3.0 * share * images * size.epochs * size.seeds, size.epochs)
        for seed in range(seeds):
            stages[f"mnist_{width}_path_{seed}"] = (1.2 * share * images * size.steps * size.products, 0)
            stages[f"mnist_{width}_path_{seed}_point"] = (0.0, 0)
    return stages
