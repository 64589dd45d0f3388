"""Which two units of a layer have the lowest permutation point between them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import check_network, on_host
from mcjax.constructions.unit_layers import UnitLayer, Values, check_units, unit_layer
from mcjax.data import Dataset
from mcjax.errors import InputError, check_whole
from mcjax.models.base import Model
from mcjax.permutation_points import mergers
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.walk import cast, checked, computing, whole_loss


class PairBarriers(NamedTuple):
    """The height of the knots of the permutation paths of many pairs of units, the lowest first.

    units: int (pairs, 2). barrier: how far the highest knot of each is above theta (pairs,). point: the loss of each
    permutation point. gradient_norm, converged: there, and whether every minimisation converged. distances, loss:
    (pairs, steps + 2).
    """

    units: np.ndarray
    barrier: np.ndarray
    point: np.ndarray
    gradient_norm: np.ndarray
    converged: np.ndarray
    distances: np.ndarray
    loss: np.ndarray


def rank_pairs(
    model: Model,
    theta: trees.Tree,
    data: Dataset,
    group: str,
    pairs: Any = None,
    config: PermutationConfig | None = None,
    *,
    chunk: int = 1,
) -> PairBarriers:
    """Which two units of a layer have the lowest minima between them, all pairs in one compiled run.

    Every pair is walked as in `permutation_path`, once, and no knots are kept, so that memory is that of `chunk` pairs:
    the barrier is that of the minima at all distances, and a path may rise above them on the way from one to the next.
    pairs: int (pairs, 2), or None for all of them. chunk: how many run side by side; each of them then waits for the
    slowest at every distance, which on a CPU takes twenty times as long as one after another. A pair whose
    minimisations do not converge is ranked by what was reached, unless it was to stop there (`config.stop`): then it
    comes last, with a barrier of infinity. Raises InputError as `permutation_path` does.

        best = rank_pairs(model, theta, data, "dense_0").units[0]
    """
    config = config or PermutationConfig()
    layer = checked(model, theta, group, config)
    check_whole("chunk", chunk)
    chosen = _pairs(layer, pairs)
    with computing(config):
        values, silent = cast(theta, config), jnp.zeros(layer.size, bool)
        loss = whole_loss(model, data, config)
        start = float(loss(trees.nest(values)))
        given = (loss, values, silent, jnp.asarray(np.inf, config.precision), jnp.asarray(chosen))
        found = mergers.approaches(layer, config, False, chunk, *given)
        distances, steps = jax.tree.map(np.asarray, (found.distances, found.steps))
        first = np.linalg.norm(np.diff(_vectors(layer, values)[chosen], axis=1)[:, 0], axis=1)
    whole = steps.converged.all(1)
    barrier = np.maximum(steps.loss.max(1) - start, 0)
    if config.stop:
        barrier = np.where(whole, barrier, np.inf)
    order = np.argsort(barrier, kind="stable")
    ranked = PairBarriers(
        units=chosen,
        barrier=barrier,
        point=steps.loss[:, -1],
        gradient_norm=steps.gradient_norm[:, -1],
        converged=whole,
        distances=np.concatenate([first[:, None], distances], 1),
        loss=np.concatenate([np.full((len(chosen), 1), start), steps.loss], 1),
    )
    return PairBarriers(*(column[order] for column in ranked))


def similar_pairs(model: Model, theta: trees.Tree, group: str) -> np.ndarray:
    """All pairs of units of a layer, int (pairs, 2), those whose parameter vectors have the largest cosine first.

    How the paper chooses a pair for MNIST. Raises InputError as `permutation_path` does.

        likely = rank_pairs(model, theta, data, "dense_0", similar_pairs(model, theta, "dense_0")[:10])
    """
    check_network(model, theta)
    layer = unit_layer(model, group)
    vectors = _vectors(layer, on_host(theta))
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(vectors.dtype).tiny)
    every = _pairs(layer, None)
    return every[np.argsort(-(units[every[:, 0]] * units[every[:, 1]]).sum(1), kind="stable")]


def _vectors(layer: UnitLayer, values: Values) -> np.ndarray:
    return np.asarray(jax.vmap(lambda unit: layer.parameters(values, unit))(jnp.arange(layer.size)))


def _pairs(layer: UnitLayer, pairs: Any) -> np.ndarray:
    if pairs is None:
        return np.stack(np.triu_indices(layer.size, 1), 1).astype(np.int32)
    try:
        chosen = np.asarray(pairs)
    except ValueError:  # of several lengths
        chosen = np.asarray(pairs, object)
    if chosen.ndim != 2 or chosen.shape[1:] != (2,) or len(chosen) == 0 or chosen.dtype.kind not in "iu":
        raise InputError(
            f"got pairs {chosen.dtype} {chosen.shape}, expected whole numbers (pairs, 2): [(0, 1), (0, 2)]."
        )
    for pair in chosen.tolist():
        check_units(layer, tuple(pair))
    return chosen.astype(np.int32)
