"""A network in the coordinates of two of its units: their mean, their offset, and what they are read by."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.constructions.unit_layers import UnitLayer, Values
from mcjax.permutation_points.config import PermutationConfig
from mcjax.training.newton import Function


class Pair(NamedTuple):
    """A network with two units in other coordinates: what is free while they are apart.

    others: all parameters by name, of which those of the two units do not count. centre, offset: the mean and the
    difference of their parameters (p,); of the offset the direction counts. shared, difference: the mean and half the
    difference of their output weights (q,).
    """

    others: Values
    centre: jax.Array
    offset: jax.Array
    shared: jax.Array
    difference: jax.Array


class Merged(NamedTuple):
    """What does not change while two units are brought together.

    l, m: which units. values: the network that it began with, by name. silent: units, bool (n,), that are not read and
    stay as they are. norm: of the output weights of the two, or None. distance: of the two at the start.
    """

    l: Any  # noqa: E741  (the paper's index)
    m: Any
    values: Values
    silent: jax.Array
    norm: jax.Array | None
    distance: jax.Array


def begin(layer: UnitLayer, config: PermutationConfig, values: Values, pair: Any, silent: jax.Array) -> Merged:
    """What stays while units `pair` (two numbers, which may be traced) are brought together. Pure."""
    first, second = pair[0], pair[1]
    outputs = jnp.concatenate([layer.outputs(values, first), layer.outputs(values, second)])
    norm = jnp.linalg.norm(outputs) / jnp.sqrt(2.0).astype(outputs.dtype) if config.bounded else None
    apart = layer.parameters(values, second) - layer.parameters(values, first)
    return Merged(first, second, values, silent, norm, jnp.linalg.norm(apart))


def coordinates(layer: UnitLayer, merged: Merged, params: Values) -> Pair:
    """The coordinates of a network."""
    first, second = (layer.parameters(params, unit) for unit in (merged.l, merged.m))
    one, two = (layer.outputs(params, unit) for unit in (merged.l, merged.m))
    return Pair(params, (first + second) / 2, second - first, (one + two) / 2, (two - one) / 2)


def params_at(layer: UnitLayer, merged: Merged, pair: Pair, distance: Any) -> Values:
    """The parameters of the network with these coordinates, its two units `distance` apart."""
    pair = placed(merged, pair, distance)
    new = layer.without(pair.others, merged.silent)
    for unit, sign in ((merged.l, -1), (merged.m, 1)):
        new = layer.with_parameters(new, unit, pair.centre + sign * pair.offset / 2)
        new = layer.with_outputs(new, unit, pair.shared + sign * pair.difference)
    return new


def placed(merged: Merged, pair: Pair, distance: Any) -> Pair:
    """Coordinates whose offset has this length, and whose output weights have the norm that they are held to."""
    offset = pair.offset * (distance / _norm(pair.offset))
    if merged.norm is None:
        return pair._replace(offset=offset)
    share = merged.norm / _norm(jnp.concatenate([pair.shared, pair.difference]))
    return pair._replace(offset=offset, shared=share * pair.shared, difference=share * pair.difference)


def _norm(vector: jax.Array) -> jax.Array:
    # Two units that nothing reads, or that are one already, have no direction: no NaN from them.
    square = vector @ vector
    return jnp.sqrt(jnp.where(square > 0, square, 1))


def network_at(layer: UnitLayer, merged: Merged, params: Values, distance: Any) -> Values:
    """The whole network: parameters, and batch statistics, which the two units share in as much as they are merged."""
    apart = distance / jnp.where(merged.distance > 0, merged.distance, 1)
    new = {**merged.values, **params}
    for unit, other in ((merged.l, merged.m), (merged.m, merged.l)):
        new = layer.with_statistics(new, unit, merged.values, (unit, other), ((1 + apart) / 2, (1 - apart) / 2))
    return new


def energy(loss: Function, layer: UnitLayer, merged: Merged, params: Values, distance: Any) -> jax.Array:
    """The loss of parameters at a distance."""
    return loss(trees.nest(network_at(layer, merged, params, distance)))
