"""Two units of a layer brought together: the loss minimised at every distance between them, compiled whole."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mcjax.constructions.unit_layers import UnitLayer, Values
from mcjax.curves.polyline import Polyline
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.pair_coordinates import Merged, Pair, begin, coordinates, energy, params_at, placed
from mcjax.runtime.compiling import jit
from mcjax.training.newton import Function, Minimum, minimise

HALVINGS = 10
"""How often a step of the distance is halved at most."""


class Steps(NamedTuple):
    """Of every distance: value, gradient norm, Newton steps, products of the Hessian, whether it converged."""

    loss: jax.Array
    gradient_norm: jax.Array
    iterations: jax.Array
    products: jax.Array
    converged: jax.Array


class Knots(NamedTuple):
    """Points that a path passes: their parameters by name (knots, ...), and distances (knots,).

    filled: how many there are; of more than there is room for the last ones are lost.
    """

    params: Values
    distances: jax.Array
    filled: jax.Array


class Approach(NamedTuple):
    """Two units brought together. distances: (steps + 1,), the last one zero; steps: (steps + 1,) each.

    knots: every point that the minimisations went to, if they were asked for. point: the parameters of the permutation
    point, by name.
    """

    distances: jax.Array
    steps: Steps
    knots: Knots | None
    point: Values


class Here(NamedTuple):
    """What is carried from distance to distance.

    going: whether there is anything to go on for. converged: whether the last minimisation did. halvings: how often
    the way to the next distance has to be halved for the next part of it.
    """

    pair: Pair
    distance: jax.Array
    knots: Knots | None
    loss: jax.Array
    gradient_norm: jax.Array
    converged: jax.Array
    going: jax.Array
    iterations: jax.Array
    products: jax.Array
    halvings: jax.Array


def _visit(distance: Any, point: Callable[[Any], Values]) -> Callable[[Knots, Any, jax.Array], Knots]:
    """What writes a point down among the knots; `point` makes parameters of what is minimised in."""

    def visit(knots: Knots, x: Any, _: jax.Array) -> Knots:
        return add(knots, point(x), distance)

    return visit


def add(knots: Knots, params: Values, distance: Any) -> Knots:
    """The knots with one more at the end."""
    at = knots.filled
    return Knots(
        {name: leaf.at[at].set(params[name], mode="drop") for name, leaf in knots.params.items()},
        knots.distances.at[at].set(distance, mode="drop"),
        at + 1,
    )


def _steps(found: Minimum, going: Any) -> Steps:
    return Steps(found.value, found.gradient_norm, found.iterations, found.products, found.converged & going)


@jit(static_argnames=("layer", "config", "keep", "chunk"))
def approaches(
    layer: UnitLayer,
    config: PermutationConfig,
    keep: bool,
    chunk: int,
    loss: Function,
    values: Values,
    silent: jax.Array,
    rise: Any,
    pairs: jax.Array,
) -> Approach:
    """Many pairs of units of one network, int (pairs, 2), brought together, `chunk` of them side by side.

    keep: with their knots, as many as the config has room for. rise: see `approach`.
    """

    def one(pair: jax.Array) -> Approach:
        return approach(layer, config, keep, loss, values, silent, rise, pair)

    return jax.lax.map(one, pairs, batch_size=None if chunk == 1 else min(chunk, len(pairs)))


def approach(
    layer: UnitLayer,
    config: PermutationConfig,
    keep: bool,
    loss: Function,
    values: Values,
    silent: jax.Array,
    rise: Any,
    units: jax.Array,
) -> Approach:
    """Two units of one network brought together (section 4.1). Pure.

    rise: by how much the loss may rise at once, before it is minimised, for which distances are halved.
    """
    params = {name: leaf for name, leaf in values.items() if not name.startswith("batch_stats/")}
    merged = begin(layer, config, values, units, silent)
    pair = coordinates(layer, merged, params)
    shares = jnp.logspace(0, jnp.log10(config.smallest), config.steps + 1, dtype=pair.centre.dtype)
    distances = merged.distance * shares[1:]

    def at(distance: jax.Array, pair: Pair) -> jax.Array:
        return energy(loss, layer, merged, params_at(layer, merged, pair, distance), distance)

    def minimum(here: Here, distance: jax.Array, between: Any) -> Here:
        point = partial(params_at, layer, merged, distance=distance)
        found, knots = minimise(
            partial(at, distance),
            placed(merged, here.pair, distance),
            tolerance=jnp.where(here.going, config.tolerance, jnp.inf),
            iterations=config.iterations,
            visit=_visit(distance, point) if keep else None,
            visited=here.knots,
            products=config.products,
        )
        counted = (here.iterations + found.iterations, here.products + found.products)
        # Between two distances the path only has to stay low: what is reached there is good enough.
        going = here.going & (found.converged | between | (not config.stop))
        if knots is not None:  # what has no room left ends
            going = going & (knots.filled < config.knots)
        pair = placed(merged, found.x, distance)
        known = (found.value, found.gradient_norm, here.going & found.converged, going)
        return Here(pair, distance, knots, *known, *counted, jnp.maximum(here.halvings - 1, 0))

    def nearer(here: Here, distance: jax.Array) -> tuple[Here, Steps]:
        """On to the next distance, by way of others between if the loss would rise too much at once."""

        def one(here: Here) -> Here:
            part = here.distance * (distance / here.distance) ** (0.5**here.halvings)
            part = jnp.where(here.halvings > 0, part, distance)
            rises = at(part, here.pair) > here.loss + rise
            halving = rises & (here.halvings < HALVINGS) & here.going
            halved = here._replace(halvings=here.halvings + 1)
            return jax.lax.cond(halving, lambda: halved, lambda: minimum(here, part, part > distance))

        fresh = here._replace(iterations=0 * here.iterations, products=0 * here.products)
        here = jax.lax.while_loop(lambda here: here.distance > distance, one, fresh)
        return here, Steps(here.loss, here.gradient_norm, here.iterations, here.products, here.converged)

    knots = None
    if keep:
        room = {name: jnp.zeros((config.knots, *leaf.shape), leaf.dtype) for name, leaf in params.items()}
        row = jnp.zeros(config.knots, pair.centre.dtype)
        knots = add(Knots(room, row, jnp.zeros((), jnp.int32)), params, merged.distance)
    begun = energy(loss, layer, merged, params, merged.distance)
    none, sure = jnp.zeros((), jnp.int32), jnp.ones((), bool)
    here = Here(pair, merged.distance, knots, begun, jnp.full_like(begun, jnp.nan), sure, sure, none, none, none)
    here, steps = jax.lax.scan(nearer, here, distances)
    pair, going, knots = here.pair, here.going, here.knots
    # At distance zero neither the direction nor the difference of output weights has an effect, and nothing is held.
    held, free = placed(merged, pair, 0.0), merged._replace(norm=None)

    def together(x: tuple[Values, jax.Array, jax.Array]) -> Values:
        others, centre, shared = x
        return params_at(layer, free, Pair(others, centre, 0 * held.offset, shared, held.difference), 0.0)

    last, knots = minimise(
        lambda x: energy(loss, layer, free, together(x), 0.0),
        (held.others, held.centre, held.shared),
        tolerance=jnp.where(going, config.point_tolerance, jnp.inf),
        # The only one that starts far from its end.
        iterations=3 * config.iterations,
        visit=_visit(0.0, together) if keep else None,
        visited=knots,
        products=config.products,
    )
    others, centre, shared = last.x
    point = params_at(layer, free, Pair(others, centre, 0 * held.offset, shared, 0 * held.difference), 0.0)
    # The difference of output weights counts after all where weights decay.
    last = last._replace(value=energy(loss, layer, free, point, 0.0))
    if keep:
        # Where nothing moved any more, the distance and the output weights still go to where they have to.
        for ending in (together(last.x), point):
            knots = jax.tree.map(partial(jnp.where, going), add(knots, ending, 0.0), knots)
    return Approach(
        distances=jnp.append(distances, 0.0),
        steps=jax.tree.map(jnp.append, steps, _steps(last, going)),
        knots=knots,
        point=point,
    )


@jit(static_argnames=("layer", "points", "chunk"))
def heights(
    layer: UnitLayer,
    points: int,
    chunk: int,
    loss: Function,
    merged: Merged,
    params: Values,
    distances: jax.Array,
) -> jax.Array:
    """The loss at `points` values of t, ends included, on the straight segments between knots: (knots - 1, points)."""
    return Polyline((params, distances)).heights(lambda knot: energy(loss, layer, merged, *knot), points, chunk)
