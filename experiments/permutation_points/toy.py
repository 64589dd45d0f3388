"""The toy of Figure 1: merging units of a network of five, and everything that can be done at a permutation point."""

from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.permutation_points.paths import minima, pair_path, unit_weights
from experiments.permutation_points.tasks import UNITS, Setting, Size, toy
from experiments.study import Parts
from mcjax import evaluate_path, full_batch_loss, trees
from mcjax.constructions.unit_layers import unit_layer
from mcjax.permutation_points import PermutationPath, permute_units, rank_pairs

SAME = 1e-3
"""Permutation points whose losses differ by less than this share are one configuration."""
POINTS, A_SEGMENT = 201, 5
"""Values of t on a path, and on each straight move at constant loss."""


def toys(parts: Parts, key: jax.Array, size: Size) -> dict[str, Any]:
    """All pairs ranked, three in full, the exchange at constant loss, and free output weights, by activation."""
    return {name: _toy(parts, name, toy(jax.random.fold_in(key, 0), name, 1, size)) for name in size.toys}


def _toy(parts: Parts, name: str, setting: Setting) -> dict[str, Any]:
    pairs = parts.numbers(f"toy_{name}_pairs", partial(_ranked, setting))
    chosen = figure_pairs(pairs["units"], pairs["point"])
    paths = [
        parts.numbers(f"toy_{name}_path_{letter}", partial(_path, setting, pair, i))
        for i, (letter, pair) in enumerate(zip("ABC", chosen, strict=True))
    ]
    free = parts.numbers(f"toy_{name}_free", partial(_free, setting, chosen[0]))
    return {"pairs": pairs, "paths": paths, "free": free}


def _ranked(setting: Setting) -> dict[str, Any]:
    found = rank_pairs(setting.task, setting.theta, setting.group, config=setting.config)
    return {name: getattr(found, name) for name in ("units", "barrier", "point", "gradient_norm", "converged")}


def figure_pairs(units: list[list[int]], point: list[float]) -> list[list[int]]:
    """Two pairs that lead to the lowest permutation point, and one that leads to the next higher one, as in Figure 1.

    Where there are none, the next pairs in the order of their points.
    """
    order = np.argsort(point, kind="stable")
    least = point[order[0]]
    higher = [i for i in order[2:] if point[i] > (1 + SAME) * least]
    third = higher[0] if higher else order[2]
    return [units[i] for i in (order[0], order[1], third)]


def _path(setting: Setting, pair: list[int], which: int) -> dict[str, Any]:
    found, numbers = pair_path(setting, pair)
    assert found.point is not None
    numbers |= {
        "teacher": _weights_over_biases(setting.theta),
        "at_point": _weights_over_biases(found.point),
        "output_norm": _output_norms(setting, found),
    }
    if which == 0:
        numbers["along"] = evaluate_path(setting.task, found.path, POINTS).train_loss
        numbers["exchange"] = _reordered(setting, found)
    return numbers


def _weights_over_biases(theta: trees.Tree) -> np.ndarray:
    """W_i / b_i of all hidden units."""
    layer = theta["params"]["Dense_0"]
    return (np.asarray(layer["kernel"], np.float64) / np.asarray(layer["bias"])).T


def _reordered(setting: Setting, found: PermutationPath) -> dict[str, Any]:
    """The units put into reverse order at the permutation point, and the loss on the way."""
    order = np.arange(UNITS, dtype=np.int32)[::-1]
    moves = permute_units(setting.model, found.point, setting.group, found.units, order)
    with jax.enable_x64(True):
        loss = full_batch_loss(setting.task)
        heights = jax.jit(lambda polyline: polyline.heights(loss, A_SEGMENT))(moves.polyline)
    values = np.asarray(heights).ravel()
    deviation = np.abs(values / found.loss[-1] - 1).max()
    return {"order": order, "moves": len(moves.moves), "loss": values, "deviation": deviation}


def _free(setting: Setting, pair: list[int]) -> dict[str, Any]:
    found, numbers = pair_path(setting, pair, hold_output_norm=False)
    return numbers | {"output_norm": _output_norms(setting, found)}


def _output_norms(setting: Setting, found: PermutationPath) -> np.ndarray:
    """The norm of the output weights of the two units together, at the minima of all distances."""
    networks, reads = minima(setting, found), unit_layer(setting.model, setting.group).outgoing
    read = [unit_weights(networks, [reads], unit) for unit in found.units]
    return np.linalg.norm(np.concatenate(read, 1), axis=1)


def parts_of(size: Size) -> list[str]:
    """The parts of the toys."""
    each = ("pairs", "path_A", "path_B", "path_C", "free")
    return [f"toy_{name}_{part}" for name in size.toys for part in each]
