"""The units of a hidden layer one by one, with the incoming and the outgoing weights of each as vectors."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import UnitAxis, layer_of, outputs_agree, random_inputs, random_variables
from mcjax.errors import InputError, check_whole
from mcjax.models.base import Model, check_model

Values = dict[str, Any]
"""The variables of one network by name: numpy arrays, or jax arrays if the caller is traced."""


class UnitLayer(NamedTuple):
    """A hidden layer whose units can be merged one by one. Hashable, so static under jit; its functions are pure.

    Attributes:
        group: The group of its units.
        size: The number of units.
        incoming: The unit axes of the incoming weights, biases, scales and shifts: the papers' parameter vector of a
            unit.
        statistics: The unit axes of the batch statistics.
        outgoing: The unit axis of the kernel that reads the units: the papers' output weights.
    """

    group: str
    size: int
    incoming: tuple[UnitAxis, ...]
    statistics: tuple[UnitAxis, ...]
    outgoing: UnitAxis

    def parameters(self, values: Values, unit: Any) -> jax.Array:
        """The incoming weights of a unit, its bias, scale and shift, as one vector (p,)."""
        return jnp.concatenate([_take(unit_axis, values, unit).ravel() for unit_axis in self.incoming])

    def with_parameters(self, values: Values, unit: Any, vector: jax.Array) -> Values:
        """The network with this parameter vector for a unit."""
        new, begin = dict(values), 0
        for unit_axis in self.incoming:
            shape = _take(unit_axis, values, 0).shape
            size = int(np.prod(shape))
            new[unit_axis.name] = _put(unit_axis, new, unit, vector[begin : begin + size].reshape(shape))
            begin += size
        return new

    def outputs(self, values: Values, unit: Any) -> jax.Array:
        """The outgoing weights of a unit, as one vector (q,)."""
        return _take(self.outgoing, values, unit).ravel()

    def with_outputs(self, values: Values, unit: Any, vector: jax.Array) -> Values:
        """The network with these outgoing weights for a unit."""
        shape = _take(self.outgoing, values, 0).shape
        return {**values, self.outgoing.name: _put(self.outgoing, values, unit, vector.reshape(shape))}

    def with_statistics(self, values: Values, unit: Any, of: Values, sources: Any, shares: Any) -> Values:
        """The network with a weighted mean of batch statistics for a unit.

        Args:
            values: The variables of the network, by name.
            unit: The unit whose statistics are replaced.
            of: The variables of the network that the statistics come from.
            sources: The units that the statistics come from.
            shares: The weight of each source.

        Returns:
            The variables of the new network.
        """
        new = dict(values)
        for unit_axis in self.statistics:
            mixed = sum(share * _take(unit_axis, of, source) for source, share in zip(sources, shares, strict=True))
            new[unit_axis.name] = _put(unit_axis, new, unit, mixed)
        return new

    def without(self, values: Values, silent: jax.Array) -> Values:
        """The network with zero outgoing weights for the units `silent`, bool (n,)."""
        unit_axis, leaf = self.outgoing, jnp.asarray(values[self.outgoing.name])
        rows = unit_axis.rows(leaf)
        factors = jnp.broadcast_to(jnp.where(silent, 0, 1).astype(leaf.dtype)[:, None], rows.shape)
        kept = jnp.ones(leaf.shape[unit_axis.position], leaf.dtype).at[rows].set(factors)
        shape = [1] * leaf.ndim
        shape[unit_axis.position] = -1
        return {**values, unit_axis.name: leaf * kept.reshape(shape)}


def _take(unit_axis: UnitAxis, values: Values, unit: Any) -> jax.Array:
    """The entries of one unit, which may be traced, with the unit axis first."""
    leaf = jnp.asarray(values[unit_axis.name])
    return jnp.moveaxis(leaf, unit_axis.position, 0)[jnp.asarray(unit_axis.rows(leaf))[unit]]


def _put(unit_axis: UnitAxis, values: Values, unit: Any, rows: jax.Array) -> jax.Array:
    """The leaf with new entries of one unit, which may be traced."""
    leaf = jnp.asarray(values[unit_axis.name])
    moved = jnp.moveaxis(leaf, unit_axis.position, 0)
    return jnp.moveaxis(moved.at[jnp.asarray(unit_axis.rows(leaf))[unit]].set(rows), 0, unit_axis.position)


def unit_layer(model: Model, group: str) -> UnitLayer:
    """The hidden layer of a group, if its units can be merged one by one.

    This is so if units with equal parameters compute the same function, and the parameters of a unit without outgoing
    weights have no effect. Both are checked on random variables.

    Raises:
        SpecError: If there is no such group.
        InputError: If the group is a residual trunk, recurrent, under a norm over units or read twice, or has one unit.
    """
    check_model(model)
    if not isinstance(group, str):
        raise InputError(f"got {type(group).__name__} for group, expected one of {', '.join(model.spec.groups)}.")
    return _unit_layer(model, group)


@lru_cache(maxsize=64)
def _unit_layer(model: Model, group: str) -> UnitLayer:
    layer, outgoing = layer_of(model, group)
    theta = jax.eval_shape(model.init, jax.random.key(0))
    numbers, size = trees.flatten(trees.floating(theta)), model.spec.group_sizes(theta)[group]
    if state := [unit_axis.name for unit_axis in layer.incoming if unit_axis.name not in numbers]:
        raise InputError(
            f"{model.name}: {', '.join(state)} of {group!r} is not floating-point, so that two units cannot become "
            "equal along a path, expected floats: cast a mask to float32."
        )
    if size < 2:
        raise InputError(f"{model.name}: {group!r} has one unit, expected at least two, or none can be merged.")
    parameters = tuple(unit_axis for unit_axis in layer.incoming if not unit_axis.name.startswith("batch_stats/"))
    statistics = tuple(unit_axis for unit_axis in layer.incoming if unit_axis.name.startswith("batch_stats/"))
    found = UnitLayer(group, size, parameters, statistics, outgoing)
    with jax.enable_x64(True):
        _check_by_trial(model, found)
    return found


def _check_by_trial(model: Model, layer: UnitLayer) -> None:
    """Raise InputError if equal units differ in function, or a unit without outgoing weights has an effect."""
    rng = np.random.default_rng(0)

    @jax.jit
    def outputs(values: Values, other: Values, x: jax.Array) -> jax.Array:
        # Unit 1 becomes a copy of unit 0; unit 0 takes over its outgoing weights; then unit 1 changes without effect.
        alike = layer.with_parameters(values, 1, layer.parameters(values, 0))
        alike = layer.with_statistics(alike, 1, values, (0,), (1.0,))
        first, second = layer.outputs(alike, 0), layer.outputs(alike, 1)
        together = layer.with_outputs(layer.with_outputs(alike, 0, first + second), 1, 0 * second)
        changed = layer.with_parameters(together, 1, layer.parameters(other, 1))
        changed = layer.with_statistics(changed, 1, other, (1,), (1.0,))
        return jax.lax.map(lambda one: model.apply(trees.nest(one), x), trees.stack([alike, together, changed]))

    trial = (random_variables(model, rng), random_variables(model, rng), jnp.asarray(random_inputs(model, rng)))
    before, *after = np.asarray(outputs(*trial))
    if not all(outputs_agree(each, before) for each in after):
        raise InputError(
            f"{model.name}: units of {layer.group!r} act on each other (a norm over units, a skip connection), so that "
            "they cannot be merged one by one. Expected a layer whose units act independently."
        )


def check_units(layer: UnitLayer, units: Any) -> tuple[int, int]:
    """A pair of units of the layer. Raises InputError for units of other layers, one unit twice, or no pair."""
    if isinstance(units, np.ndarray | jax.Array) and units.ndim == 1:
        units = tuple(units.tolist())
    if not (isinstance(units, tuple | list) and len(units) == 2):
        raise InputError(f"got units={units!r}, expected two of the {layer.size} units of {layer.group!r}: (0, 1).")
    if any(isinstance(unit, tuple | list | str) for unit in units):
        raise InputError(
            f"got units={units!r}, expected two numbers of units of {layer.group!r}: only units of one layer can be "
            "exchanged."
        )
    pair = tuple(int(unit) if isinstance(unit, np.integer) else unit for unit in units)
    for name, unit in zip(("the first unit", "the second unit"), pair, strict=True):
        check_whole(name, unit, 0, layer.size - 1)
    if pair[0] == pair[1]:
        raise InputError(f"got units={units!r}, one unit twice, expected two different ones of {layer.group!r}.")
    return pair[0], pair[1]
