"""Edits of the hidden units of a network: copy, clear, rewrite, and read through other units.

Each edit returns a new network and leaves the given one as it is. `units`, `sources` and `places` are units by group.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mcjax.constructions.chain import Chain, Leaves, put_units, take_units
from mcjax.errors import InputError

Units = dict[str, np.ndarray]
"""Units by group: int (k,) each."""


def copy_units(chain: Chain, theta: Leaves, sources: Units, places: Units) -> Leaves:
    """Give units `places` the incoming weights, norms and statistics of units `sources`."""
    new = dict(theta)
    for layer in chain.layers[:-1]:
        group = str(layer.group)
        for name, position, axis in layer.incoming:
            value = take_units(new[name], position, axis, sources[group])
            new[name] = put_units(new[name], position, axis, places[group], value)
    return new


def clear_units(chain: Chain, theta: Leaves, units: Units) -> Leaves:
    """Set the incoming weights, biases, norms and statistics of units to zero."""
    new = dict(theta)
    for layer in chain.layers[:-1]:
        for name, position, axis in layer.incoming:
            new[name] = put_units(new[name], position, axis, units[str(layer.group)], 0)
    return new


def move_outgoing(chain: Chain, theta: Leaves, sources: Units, places: Units) -> Leaves:
    """Move the outgoing weights of units `sources` to units `places`; no layer reads the sources any more."""
    new = dict(theta)
    for group in chain.groups:
        name, position, axis = chain.outgoing(group)
        value = take_units(new[name], position, axis, sources[group])
        emptied = put_units(new[name], position, axis, sources[group], 0)
        new[name] = put_units(emptied, position, axis, places[group], value)
    return new


def write_units(
    chain: Chain, theta: Leaves, source: Leaves, units: Units, places: Units, groups: Sequence[str] | None = None
) -> Leaves:
    """Write units of another network into a network; each reads the units written below it, and no others.

    Args:
        chain: The chain of both networks.
        theta: The network to write into.
        source: The network to copy from; it may have other widths.
        units: The units of `source` to copy.
        places: The units of `theta` to overwrite.
        groups: The layers to write (None: all). A layer above one that is not written reads it at `places` too.
    """
    new = dict(theta)
    for layer in chain.layers[:-1]:
        group = str(layer.group)
        if groups is not None and group not in groups:
            continue
        for name, position, axis in layer.incoming:
            rows = take_units(source[name], position, axis, units[group])
            if name == layer.kernel and layer.inputs is not None:
                rows = _rows_reading(layer.inputs, position, rows, new[name].shape, units, places)
            new[name] = put_units(new[name], position, axis, places[group], rows)
    return new


def _rows_reading(
    inputs: tuple[int, Any], outputs: int, rows: np.ndarray, shape: tuple[int, ...], units: Units, places: Units
) -> np.ndarray:
    """Rows of a kernel, units first, that read at `places` of the layer below what they read from `units`."""
    position, axis = inputs
    # `take_units` has moved the output axis to the front.
    at = position + 1 if position < outputs else position
    wide = list(rows.shape)
    wide[at] = shape[position]
    read = take_units(rows, at, axis, units[axis.group])
    return put_units(np.zeros(wide, rows.dtype), at, axis, places[axis.group], read)


def switch_top(chain: Chain, theta: Leaves, source: Leaves, units: Units, places: Units) -> Leaves:
    """Take the top of another network, reading at `places` what it reads from `units` there, and nothing else."""
    assert chain.top.inputs is not None
    name, (position, axis) = chain.top.kernel, chain.top.inputs
    group = chain.groups[-1]
    read = take_units(source[name], position, axis, units[group])
    top = put_units(np.zeros_like(theta[name]), position, axis, places[group], read)
    return {**theta, **{leaf: source[leaf] for leaf in chain.output_biases}, name: top}


def complement(chain: Chain, units: Units) -> Units:
    """All units of each group but these."""
    return {g: np.setdiff1d(np.arange(n), units[g]) for g, n in zip(chain.groups, chain.sizes, strict=True)}


def unread_units(chain: Chain, theta: Leaves) -> Units:
    """The units of each group that no layer reads: their outgoing weights are all zero."""
    unread = {}
    for group, size in zip(chain.groups, chain.sizes, strict=True):
        name, position, axis = chain.outgoing(group)
        weights = np.abs(take_units(theta[name], position, axis, np.arange(size))).reshape(size, -1)
        unread[group] = np.flatnonzero(~weights.any(1))
    return unread


def check_free(free: Units, needed: Mapping[str, int], what: str) -> None:
    """Raise InputError, naming the groups, if fewer units than needed are free."""
    short = [f"{group}: {len(free[group])} free, {n} needed" for group, n in needed.items() if len(free[group]) < n]
    if short:
        raise InputError(f"{what}:\n  " + "\n  ".join(short))


def assign_places(used: Units, free: Units) -> Units:
    """A free place for each used unit: its own if that is free, else the lowest one where no used unit stands."""
    targets = {}
    for group, now in used.items():
        moving = ~np.isin(now, free[group])
        targets[group] = now.copy()
        targets[group][moving] = np.setdiff1d(free[group], now)[: moving.sum()]
    return targets


def preferred_first(units: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    """`units`, the preferred ones first."""
    return np.concatenate([np.intersect1d(units, preferred), np.setdiff1d(units, preferred)])
