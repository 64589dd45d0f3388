"""The first half of a permutation path: from a network to the point at which two of its units are one."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax.constructions.unit_layers import Values
from mcjax.errors import InputError
from mcjax.permutation_points import mergers
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.mergers import Approach, KnotBuffer
from mcjax.permutation_points.pair_coordinates import UnitPair, unit_pair
from mcjax.permutation_points.problem import Problem
from mcjax.runtime.mapping import default_chunk

RISES = (5, 50, 500)
"""How far the loss may rise in one step of a finer walk, as multiples of the rise that is tolerated, in turn.

A knot does not stand where the loss rises, but where the minimisation steps down from there: a fifth of the rise is
left, or less, so that 5 suffices. Small steps need many knots; where these find no room, those of larger steps may.
"""
SEGMENTS_AT_ONCE = 16
"""Segments measured side by side, for each network that the platform evaluates at once."""


class FirstHalf(NamedTuple):
    """The first half of a path, on the host.

    Attributes:
        knots: Whole networks by name along a leading axis.
        distances: Distances of the two units: at the start, at every minimum, and zero at the point (k,).
        loss: The loss there (k,).
        gradient_norm: Norm of the gradient there, NaN at the start (k,).
        converged: Whether the minimisation converged, True at the start, bool (k,).
        heights: The highest loss of each segment between two knots.
        iterations: Newton steps in all.
        products: Products of the Hessian with a vector in all.
        warning: How far the path rises above its minima, if that is more than is tolerated.
        stopped: Where and how the path ended early, if it did.
    """

    knots: Values
    distances: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    converged: np.ndarray
    heights: np.ndarray
    iterations: int
    products: int
    warning: str | None
    stopped: str | None


class Walk(NamedTuple):
    """One approach of two units, and what was found along it.

    Attributes:
        approach: The approach.
        knots: Its knots.
        losses: The loss on every segment (segments, points); no segments if the knots found no room.
        stopped: Where and how it ended early, if it did.
    """

    approach: Approach
    knots: KnotBuffer
    losses: np.ndarray
    stopped: str | None


def first_half(problem: Problem, start: Values, units: tuple[int, int], removed: np.ndarray) -> FirstHalf:
    """Walk from a network to the permutation point of two of its units, again and finer where the path rises too high.

    Args:
        problem: Layer, loss and config.
        start: The network, by name.
        units: The two units.
        removed: Units that nothing reads and that stay as they are, bool (n,).

    Returns:
        The path and what was measured along it.

    Raises:
        InputError: If there is no room for the knots.
    """
    layer, config = problem.layer, problem.config
    begin = jax.jit(unit_pair, static_argnums=(0, 4))
    pair = begin(layer, jnp.asarray(units), start, jnp.asarray(removed), config.hold_output_norm)
    direct = _walk(problem, pair, np.inf)
    if not len(direct.losses):
        raise InputError(
            f"the path of units {units} of {layer.group!r} has {int(direct.knots.filled)} knots or more, expected "
            f"fewer than knots={config.knots}: give room for more, fewer steps, or a larger tolerance."
        )
    # The start counts too: a network that is no minimum itself goes down first.
    minima = np.append(np.asarray(direct.approach.minima.loss), direct.losses[0, 0])
    tolerated = config.rise_tolerance * float(np.ptp(minima))
    chosen = direct
    if direct.stopped is None and direct.losses.max() > minima.max() + tolerated:
        chosen = _finer(direct, (_walk(problem, pair, multiple * tolerated) for multiple in RISES))
    half = _on_host(problem, pair, start, chosen)
    if chosen.stopped is None and (rise := chosen.losses.max() - max(half.loss.max(), minima.max())) > tolerated:
        remedy = "more steps lower it, or a smaller rise_tolerance and room for its knots"
        half = half._replace(warning=f"{rise:.2g} of it between minima: {remedy}")
    return half


def _walk(problem: Problem, pair: UnitPair, rise: float) -> Walk:
    """Bring the two units together, the loss rising by `rise` at most in a step, and measure the segments."""
    layer, config = problem.layer, problem.config
    units = jnp.stack([pair.first, pair.second])[None]
    given = (problem.loss, pair.start, pair.removed, jnp.asarray(rise, config.precision), units)
    found = jax.tree.map(lambda leaf: leaf[0], mergers.approach_pairs(layer, config, True, 1, *given))
    knots = found.knots
    assert knots is not None
    chunk = SEGMENTS_AT_ONCE * default_chunk(problem.model.convolutions)
    losses = np.asarray(mergers.heights(config.points, chunk, problem.loss, pair, knots.params, knots.distances))
    count = int(knots.filled)
    # A path that filled its room may have lost knots.
    return Walk(found, knots, losses[: count - 1 if count < config.knots else 0], _failure(config, found))


def _finer(direct: Walk, walks: Iterable[Walk]) -> Walk:
    """The first of the finer walks that finds room and arrives, if it is lower than the direct one; else that one."""
    for finer in walks:
        if len(finer.losses) and finer.stopped is None:
            return finer if finer.losses.max() < direct.losses.max() else direct
    return direct


def _on_host(problem: Problem, pair: UnitPair, start: Values, walk: Walk) -> FirstHalf:
    """The knots of a walk as whole networks, the minima after the start, and the sums of all steps."""
    found, config = walk.approach, problem.config
    # Sliced on the host: on the device every number of knots would be compiled anew.
    count = len(walk.losses) + 1
    params, at = jax.tree.map(lambda leaf: np.asarray(leaf)[:count], (walk.knots.params, walk.knots.distances))
    knots = {name: np.array(leaf) for name, leaf in _networks(pair, params, at).items()}
    # The first knot is the network itself to the last bit.
    for name, leaf in start.items():
        knots[name][0] = np.asarray(leaf)
    # Of a walk that ended early, the minima up to the one that failed.
    steps = config.steps + 1 if walk.stopped is None else int(np.argmin(np.asarray(found.minima.converged))) + 1
    minima = jax.tree.map(lambda leaf: np.asarray(leaf)[:steps], found.minima)
    return FirstHalf(
        knots=knots,
        distances=np.insert(np.asarray(found.distances)[:steps], 0, float(pair.start_distance)),
        loss=np.insert(minima.loss, 0, walk.losses[0, 0]),
        gradient_norm=np.insert(minima.gradient_norm, 0, np.nan),
        converged=np.insert(minima.converged, 0, True),
        heights=walk.losses.max(1),
        iterations=int(minima.iterations.sum()),
        products=int(minima.products.sum()),
        warning=None,
        stopped=walk.stopped,
    )


@jax.jit
def _networks(pair: UnitPair, params: Values, distances: Any) -> Values:
    return jax.vmap(pair.network_at)(params, distances)


def _failure(config: PermutationConfig, found: Approach) -> str | None:
    """The reason why an approach ended early, and what to do about it; None if it arrived."""
    minima = jax.tree.map(np.asarray, found.minima)
    if minima.converged.all() or not config.require_convergence:
        return None
    i = int(np.argmin(minima.converged))
    expected = config.tolerance if i < config.steps else config.point_tolerance
    return (
        f"step {i + 1} of {config.steps + 1}, at distance {np.asarray(found.distances)[i]:.4g}, ended with a gradient "
        f"norm of {float(minima.gradient_norm[i]):.3g} after {int(minima.iterations[i])} iterations, expected at most "
        f"{expected:g}. Give more iterations or products, a larger tolerance, or require_convergence=False to go on."
    )
