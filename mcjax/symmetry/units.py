"""The activations of every group of a spec, read off the same computation as the spec."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.symmetry.axis import Axis, axes_of
from mcjax.symmetry.infer import as_axis
from mcjax.symmetry.pieces import Piece
from mcjax.symmetry.program import Place
from mcjax.symmetry.rules import Axes, Shape
from mcjax.symmetry.spec import PermutationSpec
from mcjax.symmetry.walk import Walk, walk

Activations = dict[str, tuple[jax.Array, ...]]


class Reading(NamedTuple):
    """The units of a group in a value: the axis they lie on, their places there, and what to average out."""

    place: Place
    position: int
    units: tuple[tuple[int, ...], ...]
    copies_differ: bool
    averaged: tuple[int, ...]


def infer_activations(fn: Callable[..., Any], spec: PermutationSpec) -> Callable[[trees.Tree, Any], Activations]:
    """The function (theta, x) -> {group: (float[..., units], ...)} of what is read from each group.

    An array for every value that depends on x and that a contraction or a convolution sums over the
    group's units: all block inputs of a residual trunk, and every time step of a scan. The units are
    the last axis; copies of them (the pixels of a flattened map, the gates of a cell) are samples.
    Where other groups of the spec share a value, such as attention heads and the units of a head, it
    is averaged over these, in mean and in root mean square, so that what is compared does not depend on their
    order. A group that no contraction reads gives the last value that has its units, and one
    that meets no data (the inner units of a product of weights) the leaf that makes it. `spec` may
    be edited: groups that it leaves out are not given.
    """

    @jax.jit
    def activations(theta: trees.Tree, x: Any) -> Activations:
        found = walk(fn, theta, x)
        readings = _readings(found, spec)
        places = dict.fromkeys(reading.place for each in readings.values() for reading in each)
        values = found.program.values(jax.tree.leaves((theta, x)), places)
        return {
            group: tuple(part for reading in each for part in _taken(reading, values[reading.place]))
            for group, each in readings.items()
        }

    return activations


def _readings(found: Walk, spec: PermutationSpec) -> dict[str, list[Reading]]:
    group_of = _groups(found, spec)
    readings: dict[str, dict[Place, Reading]] = {group: {} for group in spec.groups}
    for read in found.reads:
        wanted = {group_of.get(piece.atom) for piece in found.pieces(read.product)} - {None}
        for group in wanted:
            made = _reading(found, group_of, str(group), read.place, read.axes, read.shape, read.position)
            readings[str(group)].setdefault(read.place, made)
    for group, there in readings.items():
        if not there:
            made = _elsewhere(found, group_of, group)
            there[made.place] = made
    return {group: list(there.values()) for group, there in readings.items()}


def _groups(found: Walk, spec: PermutationSpec) -> dict[int, str]:
    """The group of every class of factors that the spec permutes."""
    groups: dict[int, str] = {}
    for leaf, products in found.leaves.items():
        for product, entry in zip(products, spec.axes.get(leaf, ()), strict=False):
            length = found.factors.length(product)
            declared = {_layout(axis): axis.group for axis in axes_of(entry)}
            for piece in found.pieces(product):
                group = declared.get(_layout(as_axis(piece, "", length)))
                if group is not None:
                    groups.setdefault(piece.atom, group)
    return groups


def _layout(axis: Axis) -> tuple:
    return axis.outer, axis.inner, axis.start, axis.stop


def _reading(
    found: Walk, group_of: dict[int, str], group: str, place: Place, axes: Axes, shape: Shape, position: int
) -> Reading:
    pieces = [None if axis is None else found.pieces(axis) for axis in axes]
    others = [
        i for i, each in enumerate(pieces) if i != position and any(piece.atom in group_of for piece in each or ())
    ]
    here = pieces[position] or []
    own: list[Piece] = []
    for piece in here:
        if group_of.get(piece.atom) == group and not any(piece.overlaps(one) for one in own):
            own.append(piece)
    at = np.concatenate([as_axis(piece, group, shape[position]).positions(shape[position]) for piece in own], 1)
    shared = any(piece.overlaps(one) for one in own for piece in here if piece.atom in group_of and piece not in own)
    inside = len(place) - 1  # a scan stacks what it computes along an axis before these
    return Reading(place, position + inside, tuple(map(tuple, at.tolist())), shared, tuple(i + inside for i in others))


def _elsewhere(found: Walk, group_of: dict[int, str], group: str) -> Reading:
    """A group that nothing contracts: the last value with its units that depends on x, or the leaf that makes it."""

    def holding(candidates: Iterable[tuple[int, Axes]]) -> Reading:
        for slot, axes in candidates:
            for position, axis in enumerate(axes):
                if axis is not None and any(group_of.get(piece.atom) == group for piece in found.pieces(axis)):
                    return _reading(found, group_of, group, (slot,), axes, found.program.shapes[slot], position)
        raise KeyError(group)

    moving = [(slot, value.axes) for slot, value in reversed(found.values.items()) if value.data]
    leaves = zip(found.program.inputs, found.leaves.values(), strict=False)
    return holding([*moving, *leaves])


def _taken(reading: Reading, value: jax.Array) -> tuple[jax.Array, ...]:
    at, here = np.asarray(reading.units), reading.position
    units, copies = at.shape
    if copies > 1 or units < value.shape[here] or (at[:, 0] != np.arange(units)).any():
        value = jnp.take(value, at.T.reshape(-1), axis=here)
    split = value.reshape(*value.shape[:here], copies, units, *value.shape[here + 1 :])
    last = jnp.moveaxis(split, here + 1, -1)  # the copies are now where the units were
    averaged = reading.averaged + ((here,) if reading.copies_differ else ())
    if not averaged:
        return (last if copies > 1 else last.squeeze(here),)
    return last.mean(averaged), jnp.sqrt(jnp.square(last).mean(averaged))
