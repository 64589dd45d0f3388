"""Coordinates of two units of a layer: their mean, their offset delta e, and their output weights (section 4.1)."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.constructions.unit_layers import UnitLayer, Values
from mcjax.hessian.newton import Function


class PairCoordinates(NamedTuple):
    """A network in the coordinates of two of its units: all variables of the minimisation at a fixed delta.

    Attributes:
        others: All parameters by name; the entries of the two units are ignored.
        mean: Mean of the two parameter vectors (p,).
        offset: Difference of the two parameter vectors (p,); only its direction e is used.
        output_mean: Mean of the two vectors of output weights (q,).
        output_difference: Half the difference of the two vectors of output weights (q,).
    """

    others: Values
    mean: jax.Array
    offset: jax.Array
    output_mean: jax.Array
    output_difference: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["first", "second", "start", "removed", "output_norm", "start_distance"],
    meta_fields=["layer"],
)
@dataclass(frozen=True)
class UnitPair:
    """Two units of a layer, and the constants of the minimisations over their coordinates.

    Attributes:
        layer: The layer of the two units, static under jit.
        first: Index of the unit l, which may be traced.
        second: Index of the unit m, which may be traced.
        start: The variables at the start of the path, by name.
        removed: Units that were removed by earlier mergers (section 4.3), bool (n,); their output weights are zero.
        output_norm: Fixed norm of the output weights as (mean, half difference). None: free.
        start_distance: Distance of the two parameter vectors at the start.
    """

    layer: UnitLayer
    first: Any
    second: Any
    start: Values
    removed: jax.Array
    output_norm: jax.Array | None
    start_distance: jax.Array

    def coordinates(self, params: Values) -> PairCoordinates:
        """The coordinates of a network with these parameters."""
        one, two = (self.layer.parameters(params, unit) for unit in (self.first, self.second))
        out_one, out_two = (self.layer.outputs(params, unit) for unit in (self.first, self.second))
        return PairCoordinates(params, (one + two) / 2, two - one, (out_one + out_two) / 2, (out_two - out_one) / 2)

    def constrained(self, coordinates: PairCoordinates, distance: Any) -> PairCoordinates:
        """The coordinates with an offset of this length, and output weights of the fixed norm."""
        offset = coordinates.offset * (distance / _norm(coordinates.offset))
        if self.output_norm is None:
            return coordinates._replace(offset=offset)
        mean, difference = coordinates.output_mean, coordinates.output_difference
        share = self.output_norm / _norm(jnp.concatenate([mean, difference]))
        return coordinates._replace(offset=offset, output_mean=share * mean, output_difference=share * difference)

    def params_at(self, coordinates: PairCoordinates, distance: Any) -> Values:
        """The parameters of the network with these coordinates, its two units `distance` apart."""
        at = self.constrained(coordinates, distance)
        params = self.layer.without(at.others, self.removed)
        for unit, sign in ((self.first, -1), (self.second, 1)):
            params = self.layer.with_parameters(params, unit, at.mean + sign * at.offset / 2)
            params = self.layer.with_outputs(params, unit, at.output_mean + sign * at.output_difference)
        return params

    def network_at(self, params: Values, distance: Any) -> Values:
        """The whole network: the parameters, and batch statistics that become equal as the distance goes to zero."""
        # The distance as a share of that at the start: 1 keeps the statistics of both units, 0 gives both their mean.
        apart = distance / jnp.where(self.start_distance > 0, self.start_distance, 1)
        network = {**self.start, **params}
        for unit, other in ((self.first, self.second), (self.second, self.first)):
            shares = ((1 + apart) / 2, (1 - apart) / 2)
            network = self.layer.with_statistics(network, unit, self.start, (unit, other), shares)
        return network

    def loss_of(self, loss: Function, params: Values, distance: Any) -> jax.Array:
        """The loss of the network with these parameters, its two units `distance` apart."""
        return loss(trees.nest(self.network_at(params, distance)))


def unit_pair(layer: UnitLayer, units: Any, start: Values, removed: jax.Array, hold_output_norm: bool) -> UnitPair:
    """The `UnitPair` of two units of a network. Pure.

    Args:
        layer: The layer of the units.
        units: The indices of the two units, which may be traced.
        start: The variables of the network, by name.
        removed: Units that were removed by earlier mergers, bool (n,).
        hold_output_norm: Whether the norm of the output weights is fixed at its value in `start`.

    Returns:
        The pair, whose distance and output norm are those of `start`.
    """
    first, second = units[0], units[1]
    outputs = jnp.concatenate([layer.outputs(start, first), layer.outputs(start, second)])
    # |w_l|^2 + |w_m|^2 is twice the square of (mean, half difference).
    norm = jnp.linalg.norm(outputs) / jnp.sqrt(2.0).astype(outputs.dtype) if hold_output_norm else None
    offset = layer.parameters(start, second) - layer.parameters(start, first)
    return UnitPair(layer, first, second, start, removed, norm, jnp.linalg.norm(offset))


def _norm(vector: jax.Array) -> jax.Array:
    """The norm, or 1 for a zero vector, so that a division by it is safe."""
    square = vector @ vector
    return jnp.sqrt(jnp.where(square > 0, square, 1))
