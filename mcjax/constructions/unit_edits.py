"""Edits of the hidden units of a network: copy, clear and rewrite units, and shift their outgoing weights.

Each edit returns a new network. `units`, `sources` and `places` are units by group.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mcjax.constructions.chain import Chain, Leaves, UnitAxis
from mcjax.errors import InputError

Units = dict[str, np.ndarray]
"""Units by group: int (k,) each."""


def copy_units(chain: Chain, theta: Leaves, sources: Units, places: Units) -> Leaves:
    """Copy the incoming weights, norms and statistics of units to other units.

    Args:
        chain: The chain of the network.
        theta: The variables of the network, by name.
        sources: The units to copy.
        places: The units to overwrite, in the same order.

    Returns:
        The variables of the new network.
    """
    new = dict(theta)
    for layer in chain.layers[:-1]:
        group = str(layer.group)
        for unit_axis in layer.incoming:
            value = unit_axis.take(new[unit_axis.name], sources[group])
            new[unit_axis.name] = unit_axis.put(new[unit_axis.name], places[group], value)
    return new


def clear_units(chain: Chain, theta: Leaves, units: Units) -> Leaves:
    """Set the incoming weights, biases, norms and statistics of units to zero."""
    new = dict(theta)
    for layer in chain.layers[:-1]:
        for unit_axis in layer.incoming:
            new[unit_axis.name] = unit_axis.put(new[unit_axis.name], units[str(layer.group)], 0)
    return new


def move_outgoing(chain: Chain, theta: Leaves, sources: Units, places: Units) -> Leaves:
    """Shift the outgoing weights of units to other units, so that no layer reads the former.

    Args:
        chain: The chain of the network.
        theta: The variables of the network, by name.
        sources: The units whose outgoing weights become zero.
        places: The units that get these weights, in the same order.

    Returns:
        The variables of the new network.
    """
    new = dict(theta)
    for group in chain.groups:
        unit_axis = chain.outgoing(group)
        leaf = new[unit_axis.name]
        emptied = unit_axis.put(leaf, sources[group], 0)
        new[unit_axis.name] = unit_axis.put(emptied, places[group], unit_axis.take(leaf, sources[group]))
    return new


def write_units(
    chain: Chain, theta: Leaves, source: Leaves, units: Units, places: Units, groups: Sequence[str] | None = None
) -> Leaves:
    """Write units of another network into a network; each reads only the units written in the layer below.

    Args:
        chain: The chain of both networks.
        theta: The variables of the network to write into, by name.
        source: The variables of the network to copy from, which may have other widths.
        units: The units of `source` to copy.
        places: The units of `theta` to overwrite, in the same order.
        groups: The layers to write (None: all). A layer above one that is not written reads it at `places` too.

    Returns:
        The variables of the new network.
    """
    new = dict(theta)
    for layer in chain.layers[:-1]:
        group = str(layer.group)
        if groups is not None and group not in groups:
            continue
        for unit_axis in layer.incoming:
            rows = unit_axis.take(source[unit_axis.name], units[group])
            if layer.inputs is not None and unit_axis.name == layer.kernel:
                # `take` has moved the output axis to the front.
                shift = layer.inputs.position < unit_axis.position
                inputs = layer.inputs._replace(position=layer.inputs.position + shift)
                rows = _rows_reading(inputs, rows, new[unit_axis.name].shape[layer.inputs.position], units, places)
            new[unit_axis.name] = unit_axis.put(new[unit_axis.name], places[group], rows)
    return new


def _rows_reading(inputs: UnitAxis, rows: np.ndarray, width: int, units: Units, places: Units) -> np.ndarray:
    """Rows of a kernel whose weights from `units` become weights from `places`, of `width` inputs in all."""
    group, shape = inputs.axis.group, list(rows.shape)
    shape[inputs.position] = width
    return inputs.put(np.zeros(shape, rows.dtype), places[group], inputs.take(rows, units[group]))


def switch_top(chain: Chain, theta: Leaves, source: Leaves, units: Units, places: Units) -> Leaves:
    """Replace the top by that of another network, with its weights from `units` as weights from `places`.

    Args:
        chain: The chain of both networks.
        theta: The variables of the network, by name.
        source: The variables of the network whose top is taken.
        units: The units of `source`; the weights of its top from all other units are left out.
        places: The units of `theta` that stand for them, in the same order.

    Returns:
        The variables of the new network.
    """
    group = chain.groups[-1]
    unit_axis = chain.outgoing(group)
    value = unit_axis.take(source[unit_axis.name], units[group])
    top = unit_axis.put(np.zeros_like(theta[unit_axis.name]), places[group], value)
    return {**theta, **{leaf: source[leaf] for leaf in chain.output_biases}, unit_axis.name: top}


def complement(chain: Chain, units: Units) -> Units:
    """All units of each group but these."""
    return {g: np.setdiff1d(np.arange(n), units[g]) for g, n in zip(chain.groups, chain.sizes, strict=True)}


def unread_units(chain: Chain, theta: Leaves) -> Units:
    """The units of each group that no layer reads: their outgoing weights are all zero."""
    unread = {}
    for group, size in zip(chain.groups, chain.sizes, strict=True):
        unit_axis = chain.outgoing(group)
        weights = unit_axis.take(theta[unit_axis.name], np.arange(size)).reshape(size, -1)
        unread[group] = np.flatnonzero(~weights.any(1))
    return unread


def check_free(free: Units, needed: Mapping[str, int], what: str) -> None:
    """Raise InputError, naming the groups, if fewer units than needed are free."""
    short = [f"{group}: {len(free[group])} free, {n} needed" for group, n in needed.items() if len(free[group]) < n]
    if short:
        raise InputError(f"{what}:\n  " + "\n  ".join(short))


def assign_places(used: Units, free: Units) -> Units:
    """A free place for each used unit: its own if that is free, else the next free place of no used unit."""
    targets = {}
    for group, now in used.items():
        moving = ~np.isin(now, free[group])
        targets[group] = now.copy()
        targets[group][moving] = np.setdiff1d(free[group], now)[: moving.sum()]
    return targets


def preferred_first(units: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    """`units`, the preferred ones first."""
    return np.concatenate([np.intersect1d(units, preferred), np.setdiff1d(units, preferred)])
