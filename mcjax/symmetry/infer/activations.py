"""The activations of every group of a spec, read off the same computation as the spec."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.symmetry.axis import SpecError, axes_of
from mcjax.symmetry.infer.pieces import Piece
from mcjax.symmetry.infer.program import Place
from mcjax.symmetry.infer.rules import Axes, Shape
from mcjax.symmetry.infer.spec import as_axis
from mcjax.symmetry.infer.walk import Walk, walk
from mcjax.symmetry.spec import PermutationSpec

Activations = dict[str, tuple[jax.Array, ...]]


class Reading(NamedTuple):
    """The units of a group in a value: the axis they lie on, their places there, and what to average out."""

    place: Place
    position: int
    units: np.ndarray
    copies_differ: bool
    averaged: tuple[int, ...]


Members = dict[str, dict[int, np.ndarray]]
"""For every group, by class of factors that it permutes: int (n, copies), which units of the class each unit is."""


def infer_activations(fn: Callable[..., Any], spec: PermutationSpec) -> Callable[[trees.Tree, Any], Activations]:
    """The function (theta, x) -> {group: (float[..., units], ...)} of what is read from each group.

    An array for every value that depends on x and that a contraction or a convolution sums over the
    group's units: all block inputs of a residual trunk, and every time step of a scan. The units are
    the last axis; copies of them (the pixels of a flattened map, the gates of a cell) are samples.
    Where other groups of the spec share a value, such as attention heads and the units of a head, it
    is averaged over these, in mean and in root mean square, so that what is compared does not depend on
    their order. A group that no contraction reads gives the last value that has its units, and one
    that meets no data (the inner units of a product of weights), or only inside a loop, the leaf that
    makes it. `spec` may be edited: groups that it leaves out are not given, and a group may be part of
    one that was inferred. The function raises SpecError, when it is traced, if a group of the spec
    permutes what must stay in place.
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
    members = _members(found, spec)
    readings: dict[str, dict[Place, Reading]] = {group: {} for group in spec.groups}
    for read in found.reads:
        atoms = {piece.atom for piece in found.pieces(read.product)}
        for group, classes in members.items():
            if atoms & classes.keys():
                made = _reading(found, members, group, read.place, read.axes, read.shape, read.position)
                readings[group].setdefault(read.place, made)
    for group, there in readings.items():
        if not there:
            made = _elsewhere(found, spec, members, group)
            there[made.place] = made
    return {group: list(there.values()) for group, there in readings.items()}


def _members(found: Walk, spec: PermutationSpec) -> Members:
    """Found by where the units lie on the leaves; SpecError for a group that permutes what must stay."""
    members: Members = {group: {} for group in spec.groups}
    for leaf, products in found.leaves.items():
        for product, entry in zip(products, spec.axes.get(leaf, ()), strict=False):
            length = found.factors.length(product)
            for axis in axes_of(entry):
                at = axis.positions(length)
                for piece in found.pieces(product) if len(at) > 1 else ():
                    unit_at = np.full(length, -1)
                    for unit, places in enumerate(as_axis(piece, "", length).positions(length)):
                        unit_at[places] = unit
                    units = np.sort(unit_at[at], 1)
                    # Of the factors there the group permutes those whose units differ from one of its to the next.
                    if (units >= 0).all() and (units[0] != units[1]).any():
                        members[axis.group].setdefault(piece.atom, units[:, np.unique(units[0], return_index=True)[1]])
    if lost := [group for group, classes in members.items() if not classes and not _alone(found, spec, group)]:
        raise SpecError(
            f"the spec permutes {', '.join(map(repr, lost))}, which the function does not let move: infer_spec says "
            "which axes must stay in place, and why."
        )
    return members


def _alone(found: Walk, spec: PermutationSpec, group: str) -> bool:
    """Whether a group has one unit: no factor, and nothing to permute."""
    leaf, position, axis = spec.places(group)[0]
    return axis.size(found.factors.length(found.leaves[leaf][position])) == 1


def _reading(
    found: Walk, members: Members, group: str, place: Place, axes: Axes, shape: Shape, position: int
) -> Reading:
    permuted = {atom for classes in members.values() for atom in classes}
    pieces = [[] if axis is None else found.pieces(axis) for axis in axes]
    others = [i for i, each in enumerate(pieces) if i != position and any(piece.atom in permuted for piece in each)]
    here, own = pieces[position], members[group]
    mine: list[Piece] = []
    for piece in here:
        if piece.atom in own and not any(piece.overlaps(one) for one in mine):
            mine.append(piece)
    length = shape[position]
    at = [as_axis(piece, group, length).positions(length)[own[piece.atom]] for piece in mine]
    units = np.concatenate([places.reshape(len(places), -1) for places in at], 1)
    shared = any(piece.overlaps(one) for one in mine for piece in here if piece.atom in permuted and piece not in mine)
    inside = len(place) - 1  # a scan stacks what it computes along an axis before these
    return Reading(place, position + inside, units, shared, tuple(i + inside for i in others))


def _elsewhere(found: Walk, spec: PermutationSpec, members: Members, group: str) -> Reading:
    """A group that nothing contracts: the last value with its units that depends on x, or the leaf that makes it."""
    moving = [(slot, value.axes) for slot, value in reversed(found.values.items()) if value.data]
    makers = dict.fromkeys(leaf for leaf, _ in (*spec.producers(group), *spec.consumers(group)))
    slots = dict(zip(found.leaves, found.program.inputs, strict=False))
    if not members[group]:
        leaf, position, axis = spec.places(group)[0]
        at = axis.positions(found.factors.length(found.leaves[leaf][position]))
        return Reading((slots[leaf],), position, at, False, ())
    for slot, axes in [*moving, *((slots[leaf], found.leaves[leaf]) for leaf in makers)]:
        for position, product in enumerate(axes):
            if product is not None and any(piece.atom in members[group] for piece in found.pieces(product)):
                return _reading(found, members, group, (slot,), axes, found.program.shapes[slot], position)
    raise AssertionError(f"{group} is on no leaf")


def _taken(reading: Reading, value: jax.Array) -> tuple[jax.Array, ...]:
    at, here = reading.units, reading.position
    units, copies = at.shape
    if copies > 1 or units < value.shape[here] or (at[:, 0] != np.arange(units)).any():
        value = jnp.take(value, at.T.reshape(-1), axis=here)
    split = value.reshape(*value.shape[:here], copies, units, *value.shape[here + 1 :])
    last = jnp.moveaxis(split, here + 1, -1)  # the copies are now where the units were
    # An axis of one copy goes with what is averaged.
    averaged = reading.averaged + ((here,) if reading.copies_differ or copies == 1 else ())
    if reading.averaged or reading.copies_differ:
        return last.mean(averaged), jnp.sqrt(jnp.square(last).mean(averaged))
    return (last.squeeze(here) if copies == 1 else last,)
