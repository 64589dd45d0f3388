"""Merging networks that were trained on different images (Git Re-Basin, section 5)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.linear_connectivity.measures import Cell, as_numbers
from mcjax import Model, Task, ensemble_accuracy, evaluate, repair, supervised, trees
from mcjax.data import split_by_class
from mcjax.models.pairs import pairs_of, permute_pairs
from mcjax.runs.tables import mean_and_std
from mcjax.symmetry import Permutation

SHARE = 0.8
"""Share of the images of half of the classes in each part, as in the paper."""


def merging(cell: Cell) -> dict[str, Any]:
    """Test loss and accuracy of networks trained on parts of the data, merged, together, and on all data."""
    problem, size = cell.problem, cell.problem.size
    model = problem.model(size.width)
    task = problem.task(model)
    parts = split_by_class(problem.data, SHARE)
    # As many images in both, so that one program trains on either.
    count = min(len(part.train_labels) for part in parts)
    inputs = [
        _trained(cell, f"merging_input_{i}", supervised(model, part.take(count)), i) for i, part in enumerate(parts)
    ]
    ends = inputs[0], inputs[1]
    rows = {f"trained on part {i + 1}": _measured(cell, f"merging_input_{i}", task, end) for i, end in enumerate(ends)}
    permutations = cell.matched("merging", model, ends, size.merged)
    along = {}
    for method, P in permutations.items():
        title = "plain average" if method == "none" else f"merged by {method}"
        for repaired in (False, True):
            name = f"merging_{method}_{'repaired' if repaired else 'merged'}"
            merged = cell.parts.arrays(name, partial(_merged, cell, model, ends, P, repaired))
            rows[f"{title}, repaired" if repaired else title] = _measured(cell, name, task, merged)
        lines = as_numbers(cell.lines(f"merging_{method}", model, ends, P))
        along[method] = {name: np.asarray(value).tolist() for name, value in lines.items()}
    rows["ensemble of the two"] = cell.parts.numbers("merging_ensemble", lambda: _ensemble(cell, task, ends))
    for times, said in ((1, "as many steps as one of them"), (2, "as many steps as both")):
        whole = _trained(cell, f"merging_whole_{times}", task, 2, times)
        rows[f"trained on all images, {said}"] = _measured(cell, f"merging_whole_{times}", task, whole)
    return {"model": model.name, "steps": size.steps, "images": count, "rows": rows, "along": along}


def _trained(cell: Cell, part: str, task: Task, number: int, times: int = 1) -> trees.Tree:
    size = cell.problem.size
    config, _ = cell.problem.training(size.steps, *size.snapshot_steps, steps=times * size.steps)
    return cell.parts.trained(part, jax.random.fold_in(cell.key, 20 + number), size.seeds, task, config)


def _merged(
    cell: Cell, model: Model, ends: tuple[trees.Tree, trees.Tree], P: Permutation | None, repaired: bool
) -> trees.Tree:
    """The mean of every pair after matching, and REPAIR of it if `repaired`."""
    pairs = pairs_of(model, model.spec, *ends, P)
    moved = permute_pairs(model.spec, pairs.P, pairs.theta_2)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, pairs.theta_1, moved)
    if not repaired:
        return mean
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), pairs.theta_1, moved)
    shares = np.tile(np.eye(pairs.number) / 2, 2)
    return repair(cell.problem.task(model), mean, both, shares, calibration_examples=cell.problem.size.measured)


def _measured(cell: Cell, part: str, task: Task, thetas: trees.Tree) -> dict[str, Any]:
    def make() -> Any:
        _, test = evaluate(task, thetas)
        return {f"test_{of}": mean_and_std(test[of].tolist()) for of in ("loss", "accuracy")}

    return cell.parts.numbers(f"{part}_measured", make)


def _ensemble(cell: Cell, task: Task, ends: tuple[trees.Tree, trees.Tree]) -> dict[str, Any]:
    pairs = [trees.stack([trees.index(end, i) for end in ends]) for i in range(cell.problem.size.seeds)]
    found = [ensemble_accuracy(task, each) for each in pairs]
    loss, accuracy = ([getattr(each, of) for each in found] for of in ("loss", "accuracy"))
    return {"test_loss": mean_and_std(loss), "test_accuracy": mean_and_std(accuracy)}
