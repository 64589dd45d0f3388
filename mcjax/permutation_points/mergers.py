"""Merging two units of a layer: the loss is minimised at decreasing distances between them, in one compiled program.

Section 4.1 of Brea et al. 2019 writes theta_m = theta_l + delta e for the parameter vectors of two units l and m, with
e a unit vector. delta decreases to zero; at every delta the loss is minimised in all other parameters; then the output
weights move to their mean.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.constructions.unit_layers import UnitLayer, Values
from mcjax.curves.polyline import Polyline
from mcjax.hessian.newton import Function, trust_region_newton
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.pair_coordinates import PairCoordinates, UnitPair, unit_pair
from mcjax.runtime.compiling import jit

HALVINGS = 10
"""Maximum number of halvings of one step of delta."""


class Minima(NamedTuple):
    """The minima at all distances, (distances,) each, or the minimum at one distance, scalars.

    Attributes:
        loss: Loss at the minimum.
        gradient_norm: Gradient norm at the minimum.
        iterations: Newton steps since the previous distance.
        products: Products of the Hessian with a vector since the previous distance.
        converged: Whether the minimisation converged, bool.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    iterations: jax.Array
    products: jax.Array
    converged: jax.Array


class KnotBuffer(NamedTuple):
    """Knots of a path, in order, in arrays of a fixed capacity.

    Attributes:
        params: Parameters by name (capacity, ...).
        distances: Distance of the two units at each knot (capacity,).
        filled: Number of knots so far, int32; those beyond the capacity are dropped.
    """

    params: Values
    distances: jax.Array
    filled: jax.Array

    def append(self, params: Values, distance: Any) -> "KnotBuffer":
        """The knots, with one more at the end."""
        return KnotBuffer(
            {name: leaf.at[self.filled].set(params[name], mode="drop") for name, leaf in self.params.items()},
            self.distances.at[self.filled].set(distance, mode="drop"),
            self.filled + 1,
        )


class Approach(NamedTuple):
    """The merger of two units, from the start to their permutation point.

    Attributes:
        distances: Distances delta (steps + 1,), the last one zero.
        minima: The minima at these distances, (steps + 1,) each.
        knots: Every iterate of the minimisations; None if they were not kept.
        point: Parameters of the permutation point, by name.
    """

    distances: jax.Array
    minima: Minima
    knots: KnotBuffer | None
    point: Values


class ApproachState(NamedTuple):
    """The state that is carried from one distance to the next.

    Attributes:
        coordinates: Coordinates of the network at the last minimum.
        distance: Distance of the two units there.
        knots: The path so far, or None.
        minimum: The last minimum, with the iterations and products since the previous distance.
        active: Whether the approach continues; after its end the state stays constant.
        halvings: Number of halvings of the remaining step in log(delta), for the next minimisation.
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
    """Merge pairs of units (section 4.1), every pair from the same network.

    Args:
        layer: The layer of the units.
        config: Distances, tolerances and number of knots.
        keep_knots: Whether to keep every iterate as a knot of the path.
        chunk: Number of pairs computed at once.
        loss: The loss of a whole network.
        start: The variables of the network, by name.
        removed: Units that were removed by earlier mergers, bool (n,); they stay unchanged.
        rise: Maximum rise of the loss in one step of delta, before it is minimised. A step that would rise higher is
            halved. Infinity: no step is.
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
    """Merge one pair: the steps of section 4.1 in order. Pure."""
    floating = trees.flatten(trees.floating(start))
    params = {name: leaf for name, leaf in floating.items() if not name.startswith("batch_stats/")}
    pair = unit_pair(layer, units, start, removed, config.hold_output_norm)
    state = _start(loss, pair, params, config.knots if keep_knots else None)
    # Section 4.1: delta starts at the distance d_{l,m} of the two units, and decreases in equal ratios.
    shares = jnp.logspace(0, jnp.log10(config.smallest), config.steps + 1, dtype=state.coordinates.mean.dtype)
    distances = pair.start_distance * shares[1:]
    # At every delta the loss is minimised in all other parameters, e among them.
    state, minima = jax.lax.scan(partial(_next_distance, loss, pair, config, rise), state, distances)
    # At delta = 0 the two units are equal, and their output weights move to the mean: the permutation point.
    point, minimum, knots = _merge(loss, pair, config, state)
    return Approach(jnp.append(distances, 0.0), jax.tree.map(jnp.append, minima, minimum), knots, point)


def _start(loss: Function, pair: UnitPair, params: Values, room: int | None) -> ApproachState:
    """The state before the first step: the network at the start, which is the first knot."""
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
    """Decrease delta to the next distance, in several steps where the loss would rise by more than `rise` in one."""

    def halve_or_minimise(state: ApproachState) -> ApproachState:
        # The trial distance: 1 / 2^halvings of the remaining step in log(delta).
        part = state.distance * (distance / state.distance) ** (0.5**state.halvings)
        part = jnp.where(state.halvings > 0, part, distance)
        # Halve the step if the loss rises too far, else minimise at the trial distance.
        risen = pair.loss_of(loss, pair.params_at(state.coordinates, part), part)
        rises = risen > state.minimum.loss + rise
        halving = rises & (state.halvings < HALVINGS) & state.active
        return jax.lax.cond(
            halving,
            lambda: state._replace(halvings=state.halvings + 1),
            lambda: _minimise_at(loss, pair, config, state, part, part > distance),
        )

    # Count iterations and products from zero for every distance.
    minimum = state.minimum._replace(iterations=0 * state.minimum.iterations, products=0 * state.minimum.products)
    state = state._replace(minimum=minimum)
    state = jax.lax.while_loop(lambda state: state.distance > distance, halve_or_minimise, state)
    return state, state.minimum


def _minimise_at(
    loss: Function, pair: UnitPair, config: PermutationConfig, state: ApproachState, distance: Any, between: Any
) -> ApproachState:
    """Minimise the loss at a fixed delta; `between` marks a distance inside a halved step."""
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
    # Inside a halved step the minimisation need not converge: the path only has to stay low there.
    active = state.active & (found.converged | between | (not config.require_convergence))
    if knots is not None:  # the approach ends when the buffer is full
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
    """Set delta = 0 and minimise; then move the output weights of the two equal units to their mean."""
    # At delta = 0 neither e nor the difference of the output weights has an effect, and the output norm is free.
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
        # This minimisation starts far from its minimum, since the norm was fixed until now.
        max_iterations=3 * config.iterations,
        max_products=config.products,
        callback=_knot_at(merged_params, 0.0) if state.knots is not None else None,
        carry=state.knots,
    )
    point = params_of(found.x, 0 * last.output_difference)
    # Section 4.1, last step: equal output weights with the same sum, at constant loss except for weight decay.
    value = free.loss_of(loss, point, 0.0)
    if knots is not None:
        # The minimum at delta = 0 and the permutation point are knots even if no step was taken.
        for params in (merged_params(found.x), point):
            knots = jax.tree.map(partial(jnp.where, state.active), knots.append(params, 0.0), knots)
    converged = found.converged & state.active
    return point, Minima(value, found.gradient_norm, found.iterations, found.products, converged), knots


def _tolerance(tolerance: float, active: jax.Array) -> jax.Array:
    """The tolerance of a minimisation; infinity after the end of the approach, so that no step is taken."""
    return jnp.where(active, tolerance, jnp.inf)


def _knot_at(params_of: Callable[[Any], Values], distance: Any) -> Callable[[KnotBuffer, Any, jax.Array], KnotBuffer]:
    """The `callback` of `trust_region_newton` that appends every iterate; `params_of` maps iterates to parameters."""
    return lambda knots, x, _: knots.append(params_of(x), distance)


@jit(static_argnames=("points",))
def heights(points: int, loss: Function, pair: UnitPair, params: Values, distances: jax.Array) -> jax.Array:
    """The loss on the straight segments between knots.

    Args:
        points: Values of t on every segment, ends included.
        loss: The loss of a whole network.
        pair: The two units.
        params: Parameters of the knots by name (knots, ...).
        distances: Distance of the two units at each knot (knots,).

    Returns:
        The losses (knots - 1, points).
    """
    return Polyline((params, distances)).heights(lambda knot: pair.loss_of(loss, *knot), points)
