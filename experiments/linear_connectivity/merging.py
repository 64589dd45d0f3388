"""Merging networks that were trained on different images (Git Re-Basin, section 5)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.linear_connectivity.measures import Cell
from mcjax import Dataset, Model, ensemble_accuracy, evaluate, repair, trees
from mcjax.data import split_by_class
from mcjax.models.pairs import pairs_of, permute_pairs
from mcjax.runs.tables import mean_and_std
from mcjax.symmetry import Permutation

SHARE = 0.8
"""Share of the images of half of the classes in each part, as in the paper."""


def merging(cell: Cell) -> dict[str, Any]:
    """Test loss and accuracy of networks trained on parts of the data, merged, together, and on all data."""
    task, size = cell.task, cell.task.size
    model = task.model(size.width)
    parts = split_by_class(task.data, SHARE)
    # As many images in both, so that one program trains on either.
    count = min(len(part.train_labels) for part in parts)
    inputs = [_trained(cell, f"merging_input_{i}", model, part.take(count), i) for i, part in enumerate(parts)]
    ends = inputs[0], inputs[1]
    rows = {f"trained on part {i + 1}": _measured(cell, f"merging_input_{i}", model, end) for i, end in enumerate(ends)}
    permutations = cell.matched("merging", model, ends, task.data, size.merged)
    along = {}
    for method, P in permutations.items():
        title = "plain average" if method == "none" else f"merged by {method}"
        for repaired in (False, True):
            name = f"merging_{method}_{'repaired' if repaired else 'merged'}"
            merged = cell.parts.arrays(name, partial(_merged, cell, model, ends, P, repaired))
            rows[f"{title}, repaired" if repaired else title] = _measured(cell, name, model, merged)
        lines = cell.lines(f"merging_{method}", model, ends, P)
        along[method] = {name: np.asarray(value).tolist() for name, value in lines._asdict().items()}
    rows["ensemble of the two"] = cell.parts.numbers("merging_ensemble", lambda: _ensemble(cell, model, ends))
    for times, said in ((1, "as many steps as one of them"), (2, "as many steps as both")):
        whole = _trained(cell, f"merging_whole_{times}", model, task.data, 2, times)
        rows[f"trained on all images, {said}"] = _measured(cell, f"merging_whole_{times}", model, whole)
    return {"model": model.name, "steps": size.steps, "images": count, "rows": rows, "along": along}


def _trained(cell: Cell, part: str, model: Model, data: Dataset, number: int, times: int = 1) -> trees.Tree:
    size = cell.task.size
    config, _ = cell.task.training(size.steps, *size.snapshot_steps, steps=times * size.steps)
    return cell.parts.trained(part, jax.random.fold_in(cell.key, 20 + number), size.seeds, model, data, config)


def _merged(
    cell: Cell, model: Model, ends: tuple[trees.Tree, trees.Tree], P: Permutation | None, repaired: bool
) -> trees.Tree:
    """The mean of every pair after matching, and REPAIR of it if `repaired`."""
    pairs = pairs_of(model, *ends, P)
    moved = permute_pairs(model, pairs.P, pairs.theta_2)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, pairs.theta_1, moved)
    if not repaired:
        return mean
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), pairs.theta_1, moved)
    shares = np.tile(np.eye(pairs.number) / 2, 2)
    return repair(model, mean, both, cell.task.data, shares, calibration_images=cell.task.size.measured)


def _measured(cell: Cell, part: str, model: Model, thetas: trees.Tree) -> dict[str, Any]:
    def make() -> Any:
        _, test = evaluate(model, thetas, cell.task.data)
        return {"test_loss": mean_and_std(test.loss.tolist()), "test_accuracy": mean_and_std(test.accuracy.tolist())}

    return cell.parts.numbers(f"{part}_measured", make)


def _ensemble(cell: Cell, model: Model, ends: tuple[trees.Tree, trees.Tree]) -> dict[str, Any]:
    pairs = [trees.stack([trees.index(end, i) for end in ends]) for i in range(cell.task.size.seeds)]
    found = [ensemble_accuracy(model, each, cell.task.data) for each in pairs]
    loss, accuracy = ([getattr(each, of) for each in found] for of in ("loss", "accuracy"))
    return {"test_loss": mean_and_std(loss), "test_accuracy": mean_and_std(accuracy)}
