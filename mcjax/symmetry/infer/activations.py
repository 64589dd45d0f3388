"""The activations of every group of a spec, from the same program as the spec."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import check_function
from mcjax.symmetry.axis import SpecError, axes_of
from mcjax.symmetry.infer.occurrences import Occurrence
from mcjax.symmetry.infer.operation import Shape, ValueAxes
from mcjax.symmetry.infer.program import Address
from mcjax.symmetry.infer.propagation import Propagation, propagate
from mcjax.symmetry.infer.spec import as_axis
from mcjax.symmetry.spec import PermutationSpec, check_spec

Activations = dict[str, tuple[jax.Array, ...]]
"""group -> its activations, float[..., n] with the units on the last axis."""


class Extraction(NamedTuple):
    """How to extract the activations of a group from a value.

    Attributes:
        address: Address of the value.
        position: Position of the axis that holds the units.
        units: Positions of each unit's copies on that axis, int (n, copies).
        copies_differ: Whether another group of the spec permutes the copies.
        averaged: Positions of the other axes that groups of the spec permute; activations are averaged over them.
    """

    address: Address
    position: int
    units: np.ndarray
    copies_differ: bool
    averaged: tuple[int, ...]


Members = dict[str, dict[int, np.ndarray]]
"""group -> class of factors that it permutes -> int (n, copies), the units of the class in each unit of the group."""


def infer_activations(fn: Callable[..., Any], spec: PermutationSpec) -> Callable[[trees.Tree, Any], Activations]:
    """The function that computes the activations of every group of a spec.

    The activations of a group are all values that depend on x and that a contraction or a convolution sums over the
    group's units: every block input of a residual trunk, and every time step of a scan. Copies of the units (the pixels
    of a flattened map, the gates of a cell) are samples. A value on which other groups lie too, such as attention heads
    and the units of a head, is averaged over those, in mean and in root mean square, so that the result does not depend
    on their order. If no contraction sums over a group, its activations are the last value with its units; if there is
    none outside loops (as for the inner units of a product of weights), they are the leaf that produces it.

    Args:
        fn: The function (theta, x) -> outputs that the spec describes.
        spec: The inferred spec, or an edited one: it may omit groups, and a group may be part of an inferred one.

    Returns:
        The compiled function (theta, x) -> {group: (float[..., n], ...)}, with the units on the last axis. It raises
        SpecError, when it is traced, if a group of the spec permutes an axis that must stay in place.
    """
    check_function("fn(theta, x) -> outputs", fn)
    check_spec(spec)

    @jax.jit
    def activations(theta: trees.Tree, x: Any) -> Activations:
        found = propagate(fn, theta, x)
        extractions = _extractions(found, spec)
        addresses = dict.fromkeys(extraction.address for each in extractions.values() for extraction in each)
        values = found.program.values(jax.tree.leaves((theta, x)), addresses)
        return {
            group: tuple(part for extraction in each for part in _extract(extraction, values[extraction.address]))
            for group, each in extractions.items()
        }

    return activations


def _extractions(found: Propagation, spec: PermutationSpec) -> dict[str, list[Extraction]]:
    members = _members(found, spec)
    extractions: dict[str, dict[Address, Extraction]] = {group: {} for group in spec.groups}
    # Every value that is summed over units of a group, once.
    for read in found.contractions:
        atoms = {each.atom for each in found.occurrences(read.product)}
        for group, classes in members.items():
            if atoms & classes.keys():
                made = _extraction(found, members, group, read.address, read.axes, read.shape, read.position)
                extractions[group].setdefault(read.address, made)
    for group, by_address in extractions.items():
        if not by_address:
            made = _uncontracted(found, spec, members, group)
            by_address[made.address] = made
    return {group: list(by_address.values()) for group, by_address in extractions.items()}


def _members(found: Propagation, spec: PermutationSpec) -> Members:
    """The classes of factors that each group permutes, found from the positions of its units on the leaves.

    Raises SpecError for a group that permutes an axis that must stay in place.
    """
    members: Members = {group: {} for group in spec.groups}
    for leaf, products in found.leaves.items():
        for product, entry in zip(products, spec.axes.get(leaf, ()), strict=False):
            length = found.factors.length(product)
            for axis in axes_of(entry):
                positions = axis.positions(length)
                for occurrence in found.occurrences(product) if len(positions) > 1 else ():
                    # The units of the class at the positions of each unit of the group.
                    units = np.sort(_unit_at(occurrence, length)[positions], 1)
                    # The group permutes the class if these differ from one unit of the group to the next.
                    if (units >= 0).all() and (units[0] != units[1]).any():
                        distinct = np.unique(units[0], return_index=True)[1]
                        members[axis.group].setdefault(occurrence.atom, units[:, distinct])
    lost = [group for group, classes in members.items() if not classes and not _has_one_unit(found, spec, group)]
    if lost:
        raise SpecError(
            f"the spec permutes {', '.join(map(repr, lost))}, which must stay in place for the function to stay the "
            "same: the `pinned` of infer_spec's result lists these axes, with reasons."
        )
    return members


def _unit_at(occurrence: Occurrence, length: int) -> np.ndarray:
    """The unit of a class at every position of an axis of this length: int (length,), -1 outside the occurrence."""
    unit_at = np.full(length, -1)
    for unit, positions in enumerate(as_axis(occurrence, "", length).positions(length)):
        unit_at[positions] = unit
    return unit_at


def _has_one_unit(found: Propagation, spec: PermutationSpec, group: str) -> bool:
    """Whether a group has a single unit, and therefore no factor."""
    leaf, position, axis = spec.places(group)[0]
    return axis.size(found.factors.length(found.leaves[leaf][position])) == 1


def _extraction(
    found: Propagation, members: Members, group: str, address: Address, axes: ValueAxes, shape: Shape, position: int
) -> Extraction:
    """How to take a group's activations from a value whose axis at `position` holds the units."""
    # Average over the other axes that groups permute.
    permuted = {atom for classes in members.values() for atom in classes}
    by_axis = [[] if axis is None else found.occurrences(axis) for axis in axes]
    others = [i for i, each in enumerate(by_axis) if i != position and any(one.atom in permuted for one in each)]
    # Find the occurrences of the group's own classes on the axis; of overlapping ones, keep the first.
    here, own = by_axis[position], members[group]
    mine: list[Occurrence] = []
    for occurrence in here:
        if occurrence.atom in own and not any(occurrence.overlaps(one) for one in mine):
            mine.append(occurrence)
    # Collect the positions of every unit of the group, over all classes and copies.
    length = shape[position]
    at = [as_axis(one, group, length).positions(length)[own[one.atom]] for one in mine]
    units = np.concatenate([positions.reshape(len(positions), -1) for positions in at], 1)
    copies_differ = any(
        one.overlaps(other) for one in mine for other in here if other.atom in permuted and other not in mine
    )
    scans = len(address) - 1  # every enclosing scan adds a leading axis
    return Extraction(address, position + scans, units, copies_differ, tuple(i + scans for i in others))


def _uncontracted(found: Propagation, spec: PermutationSpec, members: Members, group: str) -> Extraction:
    """For a group without contractions: the last value on data with its units, or the leaf that produces it."""
    on_data = [(slot, value.axes) for slot, value in reversed(found.values.items()) if value.data]
    makers = dict.fromkeys(leaf for leaf, _ in (*spec.producers(group), *spec.consumers(group)))
    slots = dict(zip(found.leaves, found.program.inputs, strict=False))
    if not members[group]:
        leaf, position, axis = spec.places(group)[0]
        positions = axis.positions(found.factors.length(found.leaves[leaf][position]))
        return Extraction((slots[leaf],), position, positions, False, ())
    for slot, axes in [*on_data, *((slots[leaf], found.leaves[leaf]) for leaf in makers)]:
        for position, product in enumerate(axes):
            if product is not None and any(each.atom in members[group] for each in found.occurrences(product)):
                return _extraction(found, members, group, (slot,), axes, found.program.shapes[slot], position)
    raise AssertionError(f"{group} is on no leaf")


def _extract(extraction: Extraction, value: jax.Array) -> tuple[jax.Array, ...]:
    at, here = extraction.units, extraction.position
    units, copies = at.shape
    # Bring the units into the group's order, copy by copy, unless they are in that order already.
    if copies > 1 or units < value.shape[here] or (at[:, 0] != np.arange(units)).any():
        value = jnp.take(value, at.T.reshape(-1), axis=here)
    split = value.reshape(*value.shape[:here], copies, units, *value.shape[here + 1 :])
    last = jnp.moveaxis(split, here + 1, -1)  # the copies are now at `here`
    # Average over the other groups; an axis of a single copy is removed on the way.
    averaged = extraction.averaged + ((here,) if extraction.copies_differ or copies == 1 else ())
    if extraction.averaged or extraction.copies_differ:
        return last.mean(averaged), jnp.sqrt(jnp.square(last).mean(averaged))
    return (last.squeeze(here) if copies == 1 else last,)


__all__ = ["Activations", "infer_activations"]
