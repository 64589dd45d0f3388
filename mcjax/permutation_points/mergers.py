"""Two units of a layer brought together: the loss minimised at every distance between them, compiled whole.

Section 4.1 of Brea et al. 2019 writes theta_m = theta_l + delta e for the parameter vectors of two units l and m. delta
goes down to zero; at every delta the loss is minimised in all else; then the output weights move to their mean.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mcjax.constructions.unit_layers import UnitLayer, Values
from mcjax.curves.polyline import Polyline
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.pair_coordinates import PairCoordinates, UnitPair, unit_pair
from mcjax.runtime.compiling import jit
from mcjax.training.newton import Function, trust_region_newton

HALVINGS = 10
"""How often a step of delta is halved at most."""


class Minima(NamedTuple):
    """The minima at all distances (distances,), or at one distance, scalars.

    Attributes:
        loss: The loss there.
        gradient_norm: Norm of the gradient there.
        iterations: Newton steps on the way from the minimum before.
        products: Products of the Hessian with a vector on the way from the minimum before.
        converged: Whether the minimisation converged, bool.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    iterations: jax.Array
    products: jax.Array
    converged: jax.Array


class KnotBuffer(NamedTuple):
    """Knots of a path, in order, in arrays that have room for a fixed number of them.

    Attributes:
        params: Parameters by name (room, ...).
        distances: Distances of the two units (room,).
        filled: How many knots there are, int32; those beyond the room are lost.
    """

    params: Values
    distances: jax.Array
    filled: jax.Array

    def append(self, params: Values, distance: Any) -> "KnotBuffer":
        """The knots and one more."""
        return KnotBuffer(
            {name: leaf.at[self.filled].set(params[name], mode="drop") for name, leaf in self.params.items()},
            self.distances.at[self.filled].set(distance, mode="drop"),
            self.filled + 1,
        )


class Approach(NamedTuple):
    """Two units brought together.

    Attributes:
        distances: Distances (steps + 1,), the last of them zero.
        minima: The minima at these distances, (steps + 1,) each.
        knots: Every point that the minimisations stepped to, or None if none were to be kept.
        point: Parameters of the permutation point, by name.
    """

    distances: jax.Array
    minima: Minima
    knots: KnotBuffer | None
    point: Values


class ApproachState(NamedTuple):
    """State that is carried from distance to distance.

    Attributes:
        coordinates: The network, at the last minimum.
        distance: Distance of the two units there.
        knots: The path so far, or None.
        minimum: The last minimum, with the iterations and products since the distance before.
        active: Whether the approach goes on; once it has ended, nothing moves any more.
        halvings: How often the way to the next distance is halved for the next part of it, in the logarithm.
    """

    coordinates: PairCoordinates
    distance: jax.Array
    knots: KnotBuffer | None
    minimum: Minima
    active: jax.Array
    halvings: jax.Array


@jit(static_argnames=("layer", "config", "keep_knots", "chunk"))
def approach_pairs(
    layer: UnitLayer,
    config: PermutationConfig,
    keep_knots: bool,
    chunk: int,
    loss: Function,
    start: Values,
    removed: jax.Array,
    rise: Any,
    pairs: jax.Array,
) -> Approach:
    """Bring pairs of units of one network together (section 4.1), each of them from the same start.

    Args:
        layer: The layer of the units.
        config: Distances, tolerances and room for knots.
        keep_knots: Whether to keep every point on the way, as a knot of the path.
        chunk: How many pairs run side by side.
        loss: The loss of a whole network.
        start: The network, by name.
        removed: Units that nothing reads and that stay as they are, bool (n,).
        rise: How far the loss may rise in one step of delta, before it is minimised. Steps that would rise higher are
            halved; infinity: none is.
        pairs: The units, int (pairs, 2).

    Returns:
        The approaches along a leading axis.
    """
    one = partial(_approach, layer, config, keep_knots, loss, start, removed, rise)
    return jax.lax.map(one, pairs, batch_size=None if chunk == 1 else min(chunk, len(pairs)))


def _approach(
    layer: UnitLayer,
    config: PermutationConfig,
    keep_knots: bool,
    loss: Function,
    start: Values,
    removed: jax.Array,
    rise: Any,
    units: jax.Array,
) -> Approach:
    """Bring one pair together: the steps of section 4.1 in order. Pure."""
    params = {name: leaf for name, leaf in start.items() if not name.startswith("batch_stats/")}
    pair = unit_pair(layer, units, start, removed, config.hold_output_norm)
    state = _start(loss, pair, params, config.knots if keep_knots else None)
    # delta goes down from the distance of the two units, in equal factors.
    shares = jnp.logspace(0, jnp.log10(config.smallest), config.steps + 1, dtype=state.coordinates.mean.dtype)
    distances = pair.start_distance * shares[1:]
    # At every delta the loss is minimised in all else.
    state, minima = jax.lax.scan(partial(_next_distance, loss, pair, config, rise), state, distances)
    # At delta = 0 the two are one, and their output weights move to the mean: the permutation point.
    point, minimum, knots = _merge(loss, pair, config, state)
    return Approach(jnp.append(distances, 0.0), jax.tree.map(jnp.append, minima, minimum), knots, point)


def _start(loss: Function, pair: UnitPair, params: Values, room: int | None) -> ApproachState:
    """The state before the first step: the network as it is, and its first knot."""
    coordinates, distance = pair.coordinates(params), pair.start_distance
    knots = None
    if room is not None:
        empty = {name: jnp.zeros((room, *leaf.shape), leaf.dtype) for name, leaf in params.items()}
        knots = KnotBuffer(empty, jnp.zeros(room, coordinates.mean.dtype), jnp.zeros((), jnp.int32))
        knots = knots.append(params, distance)
    value = pair.loss_of(loss, params, distance)
    zero, true = jnp.zeros((), jnp.int32), jnp.ones((), bool)
    minimum = Minima(value, jnp.full_like(value, jnp.nan), zero, zero, true)
    return ApproachState(coordinates, distance, knots, minimum, true, zero)


def _next_distance(
    loss: Function, pair: UnitPair, config: PermutationConfig, rise: Any, state: ApproachState, distance: jax.Array
) -> tuple[ApproachState, Minima]:
    """Decrease delta to the next distance, by way of others between where the loss would rise too much at once."""

    def halve_or_minimise(state: ApproachState) -> ApproachState:
        # 1 / 2^halvings of the way to the distance, in log(delta).
        part = state.distance * (distance / state.distance) ** (0.5**state.halvings)
        part = jnp.where(state.halvings > 0, part, distance)
        risen = pair.loss_of(loss, pair.params_at(state.coordinates, part), part)
        rises = risen > state.minimum.loss + rise
        halving = rises & (state.halvings < HALVINGS) & state.active
        return jax.lax.cond(
            halving,
            lambda: state._replace(halvings=state.halvings + 1),
            lambda: _minimise_at(loss, pair, config, state, part, part > distance),
        )

    # Iterations and products are counted anew for every distance.
    minimum = state.minimum._replace(iterations=0 * state.minimum.iterations, products=0 * state.minimum.products)
    state = state._replace(minimum=minimum)
    state = jax.lax.while_loop(lambda state: state.distance > distance, halve_or_minimise, state)
    return state, state.minimum


def _minimise_at(
    loss: Function, pair: UnitPair, config: PermutationConfig, state: ApproachState, distance: Any, between: Any
) -> ApproachState:
    """Minimise the loss in all but delta, which is held; `between` says that the distance is a part of a step."""
    params_at = partial(pair.params_at, distance=distance)
    found, knots = trust_region_newton(
        lambda x: pair.loss_of(loss, params_at(x), distance),
        pair.constrained(state.coordinates, distance),
        tolerance=_tolerance(config.tolerance, state.active),
        max_iterations=config.iterations,
        max_products=config.products,
        callback=_knot_at(params_at, distance) if state.knots is not None else None,
        carry=state.knots,
    )
    # Between two distances the path only has to stay low: any point that the minimisation reaches will do.
    active = state.active & (found.converged | between | (not config.require_convergence))
    if knots is not None:  # a path that has filled its room ends
        active = active & (knots.filled < config.knots)
    minimum = Minima(
        found.value,
        found.gradient_norm,
        state.minimum.iterations + found.iterations,
        state.minimum.products + found.products,
        state.active & found.converged,
    )
    halvings = jnp.maximum(state.halvings - 1, 0)
    return ApproachState(pair.constrained(found.x, distance), distance, knots, minimum, active, halvings)


def _merge(
    loss: Function, pair: UnitPair, config: PermutationConfig, state: ApproachState
) -> tuple[Values, Minima, KnotBuffer | None]:
    """Set delta = 0 and minimise; then move the output weights of the two units, which are one, to their mean."""
    # Neither the direction e nor the difference of the output weights has an effect here, and no norm is held.
    last = pair.constrained(state.coordinates, 0.0)
    free = replace(pair, output_norm=None)

    def params_of(x: tuple[Values, jax.Array, jax.Array], output_difference: jax.Array) -> Values:
        others, mean, output_mean = x
        return free.params_at(PairCoordinates(others, mean, 0 * last.offset, output_mean, output_difference), 0.0)

    merged_params = partial(params_of, output_difference=last.output_difference)
    found, knots = trust_region_newton(
        lambda x: free.loss_of(loss, merged_params(x), 0.0),
        (last.others, last.mean, last.output_mean),
        tolerance=_tolerance(config.point_tolerance, state.active),
        # This minimisation alone starts far from its end: the norm was let go.
        max_iterations=3 * config.iterations,
        max_products=config.products,
        callback=_knot_at(merged_params, 0.0) if state.knots is not None else None,
        carry=state.knots,
    )
    point = params_of(found.x, 0 * last.output_difference)
    # The output weights move at constant loss, but for weight decay.
    value = free.loss_of(loss, point, 0.0)
    if knots is not None:
        # Even if no step was taken, the path goes to delta = 0 and then to the permutation point.
        for params in (merged_params(found.x), point):
            knots = jax.tree.map(partial(jnp.where, state.active), knots.append(params, 0.0), knots)
    converged = found.converged & state.active
    return point, Minima(value, found.gradient_norm, found.iterations, found.products, converged), knots


def _tolerance(tolerance: float, active: jax.Array) -> jax.Array:
    """The tolerance of a minimisation; infinity, so that it takes no step, where the approach has ended."""
    return jnp.where(active, tolerance, jnp.inf)


def _knot_at(params_of: Callable[[Any], Values], distance: Any) -> Callable[[KnotBuffer, Any, jax.Array], KnotBuffer]:
    """The `visit` of `minimise` that appends every point it steps to; `params_of` makes parameters of a point."""
    return lambda knots, x, _: knots.append(params_of(x), distance)


@jit(static_argnames=("points", "chunk"))
def heights(points: int, chunk: int, loss: Function, pair: UnitPair, params: Values, distances: jax.Array) -> jax.Array:
    """The loss on the straight segments between knots.

    Args:
        points: Values of t on every segment, ends included.
        chunk: Segments that are measured side by side.
        loss: The loss of a whole network.
        pair: The two units.
        params: Parameters of the knots by name (knots, ...).
        distances: Distances of the two units at the knots (knots,).

    Returns:
        The losses (knots - 1, points).
    """
    return Polyline((params, distances)).heights(lambda knot: pair.loss_of(loss, *knot), points, chunk)
