"""One hidden layer as its units: what makes each of them and what reads it, as vectors."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import drawn, inputs_for, layer_of, near
from mcjax.errors import InputError, check_whole
from mcjax.models.base import Model
from mcjax.symmetry.axis import Axis

Values = dict[str, Any]
"""The variables of one network by name: numpy arrays, or jax ones where a caller is traced."""


class Place(NamedTuple):
    """Where the units of a layer lie in one leaf: on which axis of it, which has this length."""

    name: str
    position: int
    axis: Axis
    length: int

    @property
    def rows(self) -> np.ndarray:
        """The entries of that axis that are of each unit: int (n, k)."""
        return self.axis.positions(self.length)


class UnitLayer(NamedTuple):
    """A hidden layer whose units stand alone. Hashable, so static under jit; its functions are pure.

    makes: the places that training moves, which make the units (the papers' parameter vector of a unit). statistics:
    those of batch statistics. reads: the kernel that reads the units (the output weights).
    """

    group: str
    size: int
    makes: tuple[Place, ...]
    statistics: tuple[Place, ...]
    reads: Place

    def parameters(self, values: Values, unit: Any) -> jax.Array:
        """What makes a unit, as one vector (p,): its row of the kernel, its bias, its norm's scale and shift."""
        return jnp.concatenate([_take(place, values, unit).ravel() for place in self.makes])

    def with_parameters(self, values: Values, unit: Any, vector: jax.Array) -> Values:
        """The network with a unit made by this vector."""
        new, begin = dict(values), 0
        for place in self.makes:
            shape = _take(place, values, 0).shape
            size = int(np.prod(shape))
            new[place.name] = _put(place, new, unit, vector[begin : begin + size].reshape(shape))
            begin += size
        return new

    def outputs(self, values: Values, unit: Any) -> jax.Array:
        """The weights that read a unit, as one vector (q,)."""
        return _take(self.reads, values, unit).ravel()

    def with_outputs(self, values: Values, unit: Any, vector: jax.Array) -> Values:
        """The network in which a unit is read by these weights."""
        shape = _take(self.reads, values, 0).shape
        return {**values, self.reads.name: _put(self.reads, values, unit, vector.reshape(shape))}

    def with_statistics(self, values: Values, unit: Any, of: Values, sources: Any, shares: Any) -> Values:
        """The network with a unit's batch statistics the mixture of those of two units of `of`."""
        new = dict(values)
        for place in self.statistics:
            mixed = sum(share * _take(place, of, source) for source, share in zip(sources, shares, strict=True))
            new[place.name] = _put(place, new, unit, mixed)
        return new

    def without(self, values: Values, silent: jax.Array) -> Values:
        """The network in which units are not read at all: those where `silent`, bool (n,), holds."""
        leaf = jnp.asarray(values[self.reads.name])
        kept = (
            jnp.ones(self.reads.length, leaf.dtype)
            .at[self.reads.rows]
            .set(jnp.where(silent, 0, 1).astype(leaf.dtype)[:, None] * jnp.ones(self.reads.rows.shape, leaf.dtype))
        )
        shape = [1] * leaf.ndim
        shape[self.reads.position] = -1
        return {**values, self.reads.name: leaf * kept.reshape(shape)}


def _take(place: Place, values: Values, unit: Any) -> jax.Array:
    moved = jnp.moveaxis(jnp.asarray(values[place.name]), place.position, 0)
    return moved[jnp.asarray(place.rows)[unit]]


def _put(place: Place, values: Values, unit: Any, rows: jax.Array) -> jax.Array:
    moved = jnp.moveaxis(jnp.asarray(values[place.name]), place.position, 0)
    return jnp.moveaxis(moved.at[jnp.asarray(place.rows)[unit]].set(rows), 0, place.position)


@lru_cache(maxsize=64)
def unit_layer(model: Model, group: str) -> UnitLayer:
    """The hidden layer of a group, if its units stand alone.

    Then two units that are made alike are the same function, which can be read through either of them, and a unit
    that is not read can be made in any way: both are tried. Raises SpecError if there is no such group, InputError,
    naming it, if it is a residual trunk or recurrent, under a norm over units, read twice, or has one unit.
    """
    layer, (name, position, axis) = layer_of(model, group)
    shapes = trees.shapes(jax.eval_shape(model.init, jax.random.key(0)))
    size = axis.size(shapes[name][position])
    if size < 2:
        raise InputError(f"{model.name}: {group!r} has one unit, expected at least two, or none can be merged.")
    places = [Place(leaf, at, one, shapes[leaf][at]) for leaf, at, one in layer.makes]
    moved = tuple(place for place in places if not place.name.startswith("batch_stats/"))
    still = tuple(place for place in places if place.name.startswith("batch_stats/"))
    found = UnitLayer(group, size, moved, still, Place(name, position, axis, shapes[name][position]))
    with jax.enable_x64(True):
        _check(model, found)
    return found


def _check(model: Model, layer: UnitLayer) -> None:
    rng = np.random.default_rng(0)

    @jax.jit
    def tried(values: Values, other: Values, x: jax.Array) -> jax.Array:
        alike = layer.with_parameters(values, 1, layer.parameters(values, 0))
        alike = layer.with_statistics(alike, 1, values, (0,), (1.0,))
        first, second = layer.outputs(alike, 0), layer.outputs(alike, 1)
        together = layer.with_outputs(layer.with_outputs(alike, 0, first + second), 1, 0 * second)
        changed = layer.with_parameters(together, 1, layer.parameters(other, 1))
        changed = layer.with_statistics(changed, 1, other, (1,), (1.0,))
        return jax.lax.map(lambda one: model.apply(trees.nest(one), x), trees.stack([alike, together, changed]))

    before, *after = np.asarray(tried(drawn(model, rng), drawn(model, rng), jnp.asarray(inputs_for(model, rng))))
    if not all(near(each, before) for each in after):
        raise InputError(
            f"{model.name}: units of {layer.group!r} act on each other (a norm over units, a skip connection), so that "
            "none can be merged with another. Expected a layer whose units stand alone."
        )


def check_units(layer: UnitLayer, units: Any) -> tuple[int, int]:
    """Two units of the layer. Raises InputError for anything else: another layer's, one unit twice, no pair."""
    if isinstance(units, np.ndarray | jax.Array) and units.ndim == 1:
        units = tuple(units.tolist())
    if not (isinstance(units, tuple | list) and len(units) == 2):
        raise InputError(f"got units={units!r}, expected two of the {layer.size} units of {layer.group!r}: (0, 1).")
    if any(isinstance(unit, tuple | list | str) for unit in units):
        raise InputError(
            f"got units={units!r}, which are of groups of their own, expected two numbers of units of {layer.group!r}: "
            "only units of one layer can be exchanged."
        )
    pair = tuple(int(unit) if isinstance(unit, np.integer) else unit for unit in units)
    for name, unit in zip(("the first unit", "the second unit"), pair, strict=True):
        check_whole(name, unit, 0, layer.size - 1)
    if pair[0] == pair[1]:
        raise InputError(f"got units={units!r}, one unit twice, expected two different ones of {layer.group!r}.")
    return pair[0], pair[1]
