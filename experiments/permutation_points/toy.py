"""The toy of Figure 1: merging units of a network of five, and everything that can be done at a permutation point."""

from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.kept import Kept
from experiments.permutation_points.tasks import UNITS, Setting, Size, toy
from experiments.permutation_points.walks import minima, unit_vectors, walked
from mcjax import evaluate_path, full_batch_loss, trees
from mcjax.constructions import Construction
from mcjax.constructions.unit_layers import unit_layer
from mcjax.permutation_points import PermutationPath, permute_units, rank_pairs

SAME = 1e-3
"""Losses of permutation points that differ by less than this share are of one configuration."""
POINTS, A_SEGMENT = 201, 5
"""Values of t of a path, and of each of its straight moves at constant loss."""


def toys(kept: Kept, key: jax.Array, size: Size) -> dict[str, Any]:
    """Of every activation: all pairs ranked, three of them in full, the exchange at constant loss, and the bound."""
    return {name: _toy(kept, name, toy(jax.random.fold_in(key, 0), name, 1, size)) for name in size.toys}


def _toy(kept: Kept, name: str, setting: Setting) -> dict[str, Any]:
    pairs = kept.numbers(f"toy_{name}_pairs", partial(_ranked, setting))
    chosen = shown(pairs["units"], pairs["point"])
    paths = [
        kept.numbers(f"toy_{name}_path_{letter}", partial(_path, setting, pair, i))
        for i, (letter, pair) in enumerate(zip("ABC", chosen, strict=True))
    ]
    free = kept.numbers(f"toy_{name}_free", partial(_free, setting, chosen[0]))
    return {"pairs": pairs, "paths": paths, "free": free}


def _ranked(setting: Setting) -> dict[str, Any]:
    found = rank_pairs(setting.model, setting.theta, setting.data, setting.group, config=setting.config)
    return {name: getattr(found, name).tolist() for name in ("units", "barrier", "point", "gradient_norm", "converged")}


def shown(units: list[list[int]], point: list[float]) -> list[list[int]]:
    """Two pairs of the lowest permutation point, and one of the next that is higher, as in Figure 1.

    If no two pairs lead to the lowest, or all do, the next in the order of their points.
    """
    order = np.argsort(point, kind="stable")
    least = point[order[0]]
    higher = [i for i in order[2:] if point[i] > (1 + SAME) * least]
    third = higher[0] if higher else order[2]
    return [units[i] for i in (order[0], order[1], third)]


def _path(setting: Setting, pair: list[int], which: int) -> dict[str, Any]:
    found, numbers = walked(setting, pair)
    assert found.point is not None
    numbers |= {
        "teacher": _drawn(setting.theta),
        "at_point": _drawn(found.point),
        "output_norm": _output_norms(setting, found),
    }
    if which == 0:
        numbers["along"] = evaluate_path(setting.model, found.path, setting.data, POINTS).train_loss.tolist()
        numbers["exchange"] = _exchanged(setting, found)
    return numbers


def _drawn(theta: trees.Tree) -> list[list[float]]:
    """W_i / b_i of all hidden units."""
    layer = theta["params"]["Dense_0"]
    return (np.asarray(layer["kernel"], np.float64) / np.asarray(layer["bias"])).T.tolist()


def _exchanged(setting: Setting, found: PermutationPath) -> dict[str, Any]:
    """The units put into reverse order at the permutation point, and the loss on the way."""
    order = np.arange(UNITS, dtype=np.int32)[::-1]
    moves = permute_units(setting.model, found.point, setting.group, found.units, order)
    with jax.enable_x64(True):
        loss = full_batch_loss(setting.model, setting.data)
        values = np.asarray(_along(loss, moves))
    return {
        "order": order.tolist(),
        "moves": len(moves.moves),
        "loss": values.tolist(),
        "deviation": float(np.abs(values / found.loss[-1] - 1).max()),
    }


def _along(loss: Any, moves: Construction) -> jax.Array:
    """The loss at `A_SEGMENT` values of every straight move: (moves * A_SEGMENT,)."""
    return jax.jit(lambda polyline: polyline.heights(loss, A_SEGMENT))(moves.polyline).ravel()


def _free(setting: Setting, pair: list[int]) -> dict[str, Any]:
    found, numbers = walked(setting, pair, hold_output_norm=False)
    return numbers | {"output_norm": _output_norms(setting, found)}


def _output_norms(setting: Setting, found: PermutationPath) -> list[float]:
    """The norm of what reads the two units, both vectors together, at the minima of all distances."""
    networks, reads = minima(setting, found), unit_layer(setting.model, setting.group).outgoing
    read = [unit_vectors(networks, [reads], unit) for unit in found.units]
    return np.linalg.norm(np.concatenate(read, 1), axis=1).tolist()


def costs(size: Size) -> dict[str, tuple[float, int]]:
    """What every stage costs, in images that pass through the least network of MNIST, roughly."""
    stages: dict[str, tuple[float, int]] = {}
    steps = size.toy_steps
    for name in size.toys:
        stages |= {f"toy_{name}_pairs": (1.5e5 * steps, 0), f"toy_{name}_free": (6e4 * steps, 0)}
        stages |= {f"toy_{name}_path_{letter}": (6e4 * steps, 0) for letter in "ABC"}
    return stages
