"""The first half of a permutation path: from a network to the permutation point of two of its units (section 4.1)."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.unit_layers import Values
from mcjax.errors import InputError
from mcjax.permutation_points import mergers
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.mergers import Approach, KnotBuffer
from mcjax.permutation_points.pair_coordinates import UnitPair, unit_pair
from mcjax.permutation_points.problem import Problem

RISES = (5, 50, 500)
"""Maximum rise of the loss in one step of delta, as multiples of the tolerated rise, tried in this order.

The minimisation after a step reduces the rise to a fifth or less before the next knot, so 5 suffices. It may need more
than `config.knots` knots; larger multiples need fewer.
"""


class FirstHalf(NamedTuple):
    """The first half of a path, on the host.

    Attributes:
        knots: Whole networks by name along a leading axis.
        distances: Distance of the two units at the start, at every minimum, and at the point, zero (k,).
        loss: Loss at the same places (k,).
        gradient_norm: Gradient norm at the same places, NaN at the start (k,).
        converged: Whether each minimisation converged, True at the start, bool (k,).
        heights: Highest loss on each segment between two knots.
        iterations: Total number of Newton steps.
        products: Total number of products of the Hessian with a vector.
        warning: The rise of the path above its minima, if it exceeds the tolerance; else None.
        stopped: Place and reason of an early end; else None.
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
    """One approach of two units, with the losses along it.

    Attributes:
        approach: The approach.
        knots: Its knots.
        losses: Loss on every segment (segments, points); no segments if there were more than `config.knots` knots.
        stopped: Place and reason of an early end; else None.
    """

    approach: Approach
    knots: KnotBuffer
    losses: np.ndarray
    stopped: str | None


def first_half(problem: Problem, start: Values, units: tuple[int, int], removed: np.ndarray) -> FirstHalf:
    """Compute the path from a network to the permutation point of two of its units.

    A path that rises too high between its minima is computed again in smaller steps of delta.

    Args:
        problem: Layer, loss and config.
        start: The variables of the network, by name.
        units: The two units.
        removed: Units that were removed by earlier mergers, bool (n,); they stay unchanged.

    Returns:
        The path, with the minima and losses along it.

    Raises:
        InputError: If the path has more knots than `config.knots`.
    """
    layer, config = problem.layer, problem.config
    begin = jax.jit(unit_pair, static_argnums=(0, 4))
    pair = begin(layer, jnp.asarray(units), start, jnp.asarray(removed), config.hold_output_norm)
    # Section 4.1, with the steps of delta as configured.
    direct = _walk(problem, pair, np.inf)
    if not len(direct.losses):
        raise InputError(
            f"the path of units {units} of {layer.group!r} has {int(direct.knots.filled)} knots or more, expected "
            f"fewer than knots={config.knots}: give more knots, fewer steps, or a larger tolerance."
        )
    # The start counts as a minimum: a network that is none itself goes down first.
    minima = np.append(np.asarray(direct.approach.minima.loss), direct.losses[0, 0])
    # Where the path rises too high between its minima, compute it in smaller steps.
    tolerated = config.rise_tolerance * float(np.ptp(minima))
    chosen = direct
    if direct.stopped is None and direct.losses.max() > minima.max() + tolerated:
        chosen = _finer(direct, (_walk(problem, pair, multiple * tolerated) for multiple in RISES))
    half = _on_host(problem, pair, start, chosen)
    if chosen.stopped is None and (rise := chosen.losses.max() - max(half.loss.max(), minima.max())) > tolerated:
        remedy = "more steps lower it, or a smaller rise_tolerance with more knots"
        half = half._replace(warning=f"{rise:.2g} of it between minima: {remedy}")
    return half


def _walk(problem: Problem, pair: UnitPair, rise: float) -> Walk:
    """Merge the two units, the loss rising by at most `rise` in a step of delta, and measure the segments."""
    layer, config = problem.layer, problem.config
    units = jnp.stack([pair.first, pair.second])[None]
    given = (problem.loss, pair.start, pair.removed, jnp.asarray(rise, config.precision), units)
    found = jax.tree.map(lambda leaf: leaf[0], mergers.approach_pairs(layer, config, True, 1, *given))
    knots = found.knots
    assert knots is not None
    losses = np.asarray(mergers.heights(config.points, problem.loss, pair, knots.params, knots.distances))
    count = int(knots.filled)
    # A full buffer may have dropped knots.
    return Walk(found, knots, losses[: count - 1 if count < config.knots else 0], _failure(config, found))


def _finer(direct: Walk, walks: Iterable[Walk]) -> Walk:
    """The first complete finer walk whose knots fit, if its highest loss is below the direct one's; else the direct."""
    for finer in walks:
        if len(finer.losses) and finer.stopped is None:
            return finer if finer.losses.max() < direct.losses.max() else direct
    return direct


def _on_host(problem: Problem, pair: UnitPair, start: Values, walk: Walk) -> FirstHalf:
    """The `FirstHalf` of a walk: knots as whole networks, minima with the start before them, totals of all steps."""
    found, config = walk.approach, problem.config
    # Slice on the host: on the device every number of knots would be compiled anew.
    count = len(walk.losses) + 1
    params, at = jax.tree.map(lambda leaf: np.asarray(leaf)[:count], (walk.knots.params, walk.knots.distances))
    knots = trees.on_host(_networks(pair, params, at))
    # The first knot is bitwise the network itself.
    for name, leaf in trees.flatten(trees.floating(start)).items():
        knots[name] = np.array(knots[name])
        knots[name][0] = np.asarray(leaf)
    # If the walk ended early, keep the minima up to the one that failed.
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
    """The reason of an early end, with its remedy; None if the approach reached the point."""
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
