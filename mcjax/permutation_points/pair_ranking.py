"""Pairs of units of a layer, ranked by the barriers of their permutation paths, or by their similarity."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import check_network, on_host
from mcjax.constructions.unit_layers import UnitLayer, Values, check_units, unit_layer
from mcjax.errors import InputError, check_whole
from mcjax.models.base import Model
from mcjax.permutation_points import mergers
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.problem import define_problem
from mcjax.shown import short_repr
from mcjax.training.task import Task


@short_repr
class PairBarriers(NamedTuple):
    """The barriers of many pairs of units, the lowest first, by the minima of their permutation paths.

    Attributes:
        units: The pairs, int (pairs, 2).
        barrier: Loss of the highest minimum of each path above that of theta (pairs,).
        point: Loss of each permutation point (pairs,).
        gradient_norm: Gradient norm at each permutation point (pairs,).
        converged: Whether every minimisation of the pair converged, bool (pairs,).
        distances: Distance of the two units at theta, at every minimum, and at the point, zero (pairs, steps + 2).
        loss: Loss at the same places (pairs, steps + 2).
    """

    units: np.ndarray
    barrier: np.ndarray
    point: np.ndarray
    gradient_norm: np.ndarray
    converged: np.ndarray
    distances: np.ndarray
    loss: np.ndarray


def rank_pairs(
    task: Task,
    theta: trees.Tree,
    group: str,
    pairs: Any = None,
    config: PermutationConfig | None = None,
    *,
    chunk: int = 1,
) -> PairBarriers:
    """Rank pairs of units by the highest minimum on their permutation paths, in one compiled program.

    The minima are those of `permutation_path`. No knots are kept, so that only `chunk` pairs are in memory. The loss
    between the minima, which can be higher, is not measured.

    Args:
        task: The task, with a model; its loss in evaluation mode is minimised.
        theta: The network.
        group: The group of a hidden layer, as `print(task.model.spec)` names it.
        pairs: The pairs, int (pairs, 2). None: all.
        config: Steps, tolerances and precision. None: `PermutationConfig()`.
        chunk: Number of pairs computed at once. At every distance all of them wait for the slowest, which on a CPU
            takes twenty times as long as one pair after another.

    Returns:
        The pairs, the lowest barrier first. If the config requires convergence, a pair with a minimisation that did
        not converge has an infinite barrier; otherwise it is ranked by the losses that were reached.

    Raises:
        InputError: As `permutation_path`, and for pairs that are not of two units each, or a chunk below 1.
        SpecError: As `permutation_path`.

    Example::

        best = rank_pairs(task, theta, "dense_0").units[0]
    """
    problem = define_problem(task, theta, group, config)
    config, layer = problem.config, problem.layer
    check_whole("chunk", chunk)
    units = _check_pairs(layer, pairs)
    with problem.precision:
        start = float(problem.loss(trees.nest(problem.start)))
        given = (jnp.zeros(layer.size, bool), jnp.asarray(np.inf, config.precision), jnp.asarray(units))
        found = mergers.approach_pairs(layer, config, False, chunk, problem.loss, problem.start, *given)
        distances, minima = jax.tree.map(np.asarray, (found.distances, found.minima))
        first = np.linalg.norm(np.diff(_vectors(layer, problem.start)[units], axis=1)[:, 0], axis=1)
    converged = minima.converged.all(1)
    barrier = np.maximum(minima.loss.max(1) - start, 0)
    if config.require_convergence:
        barrier = np.where(converged, barrier, np.inf)
    ranked = PairBarriers(
        units=units,
        barrier=barrier,
        point=minima.loss[:, -1],
        gradient_norm=minima.gradient_norm[:, -1],
        converged=converged,
        distances=np.concatenate([first[:, None], distances], 1),
        loss=np.concatenate([np.full((len(units), 1), start), minima.loss], 1),
    )
    order = np.argsort(barrier, kind="stable")
    return PairBarriers(*(column[order] for column in ranked))


def similar_pairs(model: Model, theta: trees.Tree, group: str) -> np.ndarray:
    """All pairs of units of a layer, in decreasing order of the cosine of their parameter vectors: int (pairs, 2).

    Source: Brea et al. 2019, Figure 3, where the pair for MNIST is chosen by its cosine similarity.

    Raises:
        InputError: As `permutation_path`.
        SpecError: As `permutation_path`.

    Example::

        likely = rank_pairs(task, theta, "dense_0", similar_pairs(model, theta, "dense_0")[:10])
    """
    check_network(model, theta)
    layer = unit_layer(model, group)
    vectors = _vectors(layer, trees.widened(on_host(theta)))
    directions = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(vectors.dtype).tiny)
    first, second = _check_pairs(layer, None).T
    cosines = (directions[first] * directions[second]).sum(1)
    return np.stack([first, second], 1)[np.argsort(-cosines, kind="stable")]


def _vectors(layer: UnitLayer, values: Values) -> np.ndarray:
    """The parameter vectors of all units (n, p)."""
    return np.asarray(jax.vmap(lambda unit: layer.parameters(values, unit))(jnp.arange(layer.size)))


def _check_pairs(layer: UnitLayer, pairs: Any) -> np.ndarray:
    """The pairs, checked, as int32 (pairs, 2); all pairs for None."""
    if pairs is None:
        return np.stack(np.triu_indices(layer.size, 1), 1).astype(np.int32)
    try:
        chosen = np.asarray(pairs)
    except ValueError:  # pairs of different lengths
        chosen = np.asarray(pairs, object)
    if chosen.ndim != 2 or chosen.shape[1:] != (2,) or len(chosen) == 0 or chosen.dtype.kind not in "iu":
        raise InputError(
            f"got pairs {chosen.dtype} {chosen.shape}, expected whole numbers (pairs, 2): [(0, 1), (0, 2)]."
        )
    for pair in chosen.tolist():
        check_units(layer, tuple(pair))
    return chosen.astype(np.int32)
