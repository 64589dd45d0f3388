"""Which two units of a layer have the lowest permutation point between them."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data import Dataset
from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.models.base import Model
from mcjax.paths import mergers
from mcjax.paths.feedforward import on_host
from mcjax.paths.permutation_config import PermutationConfig
from mcjax.paths.permutation_points import cast, checked, computing, whole_loss
from mcjax.paths.unit_layers import UnitLayer, Values, check_units


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
    by: Literal["barrier", "cosine"] = "barrier",
    count: int | None = None,
    chunk: int = 1,
) -> Any:
    """Which two units of a layer have the lowest barrier between them, all pairs in one batched run.

    pairs: int (pairs, 2), or None for all of them. by: "barrier" walks every pair's path (`permutation_path`, without
    the knots in between and without keeping any, so that memory is that of `chunk` pairs), and returns PairBarriers;
    "cosine" only compares parameter vectors, and returns int (pairs, 2), the most similar first, which is how the paper
    chooses. count: the first so many. A pair whose minimisations do not converge is ranked by what was reached, unless
    it was to stop there: then it comes last, with a barrier of infinity.

        best = rank_pairs(model, theta, data, "dense_0").units[0]
        likely = rank_pairs(model, theta, data, "dense_0", by="cosine", count=10)
    """
    config = config or PermutationConfig()
    layer = checked(model, theta, group, config)
    if by not in ("barrier", "cosine"):
        raise unknown_name("way to rank by", by, ("barrier", "cosine"))
    check_whole("chunk", chunk)
    if count is not None:
        check_whole("count", count)
    chosen = _pairs(layer, pairs)
    if by == "cosine":
        vectors = np.asarray(jax.vmap(lambda unit: layer.parameters(on_host(theta), unit))(jnp.arange(layer.size)))
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(vectors.dtype).tiny)
        return chosen[np.argsort(-(unit[chosen[:, 0]] * unit[chosen[:, 1]]).sum(1), kind="stable")][:count]
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
    order = np.argsort(barrier, kind="stable")[:count]
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


def _vectors(layer: UnitLayer, values: Values) -> np.ndarray:
    return np.asarray(jax.vmap(lambda unit: layer.parameters(values, unit))(jnp.arange(layer.size)))


def _pairs(layer: UnitLayer, pairs: Any) -> np.ndarray:
    if pairs is None:
        return np.stack(np.triu_indices(layer.size, 1), 1).astype(np.int32)
    chosen = np.asarray(pairs)
    if chosen.ndim != 2 or chosen.shape[1:] != (2,) or len(chosen) == 0 or chosen.dtype.kind not in "iu":
        raise InputError(
            f"got pairs {chosen.dtype} {chosen.shape}, expected whole numbers (pairs, 2): [(0, 1), (0, 2)]."
        )
    for pair in chosen.tolist():
        check_units(layer, tuple(pair))
    return chosen.astype(np.int32)
