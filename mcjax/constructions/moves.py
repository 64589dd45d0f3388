"""Moves in parameter space that theory knows the loss of, and the paths that they make up.

A move is a straight segment, of one of these kinds:

- (a): the top moves, in which the loss is convex, so that it stays at or below the higher end;
- (b): what makes units moves while nothing that counts reads them, so that the function stays as it is;
- (c): what reads units moves from units to copies of them, so that the function stays as it is. Of a single layer
  below the top, (a) does the same; in the middle of a network only this exchanges units that stand where others go;
- "line": nothing is known, the loss is to be measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import Chain, Leaves, put, take
from mcjax.curves.polyline import Polyline
from mcjax.errors import InputError

Kind = Literal["a", "b", "c", "line"]
Units = dict[str, np.ndarray]
"""Units of some groups: int (k,) each."""


class Move(NamedTuple):
    """One segment: its kind, the weight matrices that move (counted from 1), and what it is for."""

    kind: Kind
    layers: tuple[int, ...]
    what: str

    def __str__(self) -> str:
        moved = ", ".join(f"A_{i}" for i in self.layers) or "no length"
        return f"({self.kind}) {moved}: {self.what}"


class Construction(NamedTuple):
    """A path of straight segments: its knots along a leading axis, and the move from each one to the next.

    There are len(moves) segments; A_i in what is printed is the weight matrix of layer i, from 1 to the top.
    Knots are whole networks, one more than there are segments: of a large one, memory is what bounds their number.
    """

    polyline: Polyline
    moves: tuple[Move, ...]

    @property
    def knots(self) -> trees.Tree:
        """The networks along a leading axis."""
        return self.polyline.knots

    @property
    def path(self) -> jax.tree_util.Partial:
        """t -> theta, t in proportion to the length: what `evaluate_path` and all else in landscape/ take."""
        return self.polyline.path

    def __repr__(self) -> str:
        return f"Construction of {len(self.moves)} segments"

    def __str__(self) -> str:
        return "\n".join(f"{i + 1:3d}. {move}" for i, move in enumerate(self.moves))

    def shortened(self) -> "Construction":
        """The same path without segments of no length, and with every run of (b) made one segment.

        That is a (b) too: what no layer that counts reads may move in any way at once.
        """
        knots = [trees.index(self.knots, i) for i in range(len(self.moves) + 1)]
        kept, moves = [knots[0]], list[Move]()
        for move, knot in zip(self.moves, knots[1:], strict=True):
            if not move.layers:
                continue
            if move.kind == "b" and moves and moves[-1].kind == "b":
                last = moves.pop()
                kept.pop()
                move = Move("b", tuple(sorted({*last.layers, *move.layers})), f"{last.what}; {move.what}")
            moves.append(move)
            kept.append(knot)
        return Construction(Polyline(trees.stack_on_host(kept)), tuple(moves))


class Walk:
    """A path in the making: where it is, and how it came there."""

    def __init__(self, chained: Chain, start: Leaves) -> None:
        self.chained = chained
        self.knots = [start]
        self.moves: list[Move] = []

    @property
    def here(self) -> Leaves:
        """The last knot."""
        return self.knots[-1]

    def to(self, kind: Kind, what: str, leaves: Leaves) -> None:
        """One segment on."""
        self.moves.append(Move(kind, self._moved(self.here, leaves), what))
        self.knots.append(leaves)

    def follow(self, other: "Walk") -> None:
        """On along another walk that starts here."""
        _same(self.here, other.knots[0])
        self.knots += other.knots[1:]
        self.moves += other.moves

    def back(self, other: "Walk") -> None:
        """On along another walk that ends here, to where it began."""
        _same(self.here, other.here)
        self.knots += other.knots[-2::-1]
        self.moves += [move._replace(what=f"back: {move.what}") for move in reversed(other.moves)]

    def construction(self, theta: trees.Tree) -> Construction:
        """The path, its knots as `theta` is built."""
        knots = [trees.map_with_name(lambda name, _, knot=knot: knot[name], theta) for knot in self.knots]
        return Construction(Polyline(trees.stack_on_host(knots)), tuple(self.moves))

    def _moved(self, a: Leaves, b: Leaves) -> tuple[int, ...]:
        moved = {name for name in a if not np.array_equal(a[name], b[name])}
        last = len(self.chained.layers)
        found = {last} if moved.intersection(self.chained.beside) else set[int]()
        for i, layer in enumerate(self.chained.layers, 1):
            if moved.intersection({layer.kernel, *(name for name, _, _ in layer.makes)}):
                found.add(i)
        return tuple(sorted(found))


def _same(a: Leaves, b: Leaves) -> None:
    assert all(np.array_equal(a[name], b[name]) for name in a), "a walk goes on from another place than it came to"


def copied(chained: Chain, theta: Leaves, sources: Units, places: Units) -> Leaves:
    """`theta` with units `places` made exactly as units `sources` are."""
    new = dict(theta)
    for layer in chained.layers[:-1]:
        group = str(layer.group)
        for name, position, axis in layer.makes:
            new[name] = put(new[name], position, axis, places[group], take(new[name], position, axis, sources[group]))
    return new


def handed_over(chained: Chain, theta: Leaves, sources: Units, places: Units) -> Leaves:
    """`theta` in which units `places` are read as units `sources` were, and these no more."""
    new = dict(theta)
    for group in chained.groups:
        name, position, axis = chained.reader(group)
        read = take(new[name], position, axis, sources[group])
        emptied = put(new[name], position, axis, sources[group], 0)
        new[name] = put(emptied, position, axis, places[group], read)
    return new


def cleared(chained: Chain, theta: Leaves, units: Mapping[str, np.ndarray]) -> Leaves:
    """`theta` with nothing that makes these units: zero rows, biases, norms and statistics."""
    new = dict(theta)
    for layer in chained.layers[:-1]:
        for name, position, axis in layer.makes:
            new[name] = put(new[name], position, axis, units[str(layer.group)], 0)
    return new


def written(
    chained: Chain, theta: Leaves, source: Leaves, units: Units, places: Units, groups: Sequence[str] | None = None
) -> Leaves:
    """`theta` with units of another network, `source`, at `places`: made as there, from the units written below.

    The other network may have other widths. `groups` (None: all) are the layers that are written; those below are
    read at `places` all the same.
    """
    new = dict(theta)
    for layer in chained.layers[:-1]:
        group = str(layer.group)
        if groups is not None and group not in groups:
            continue
        for name, position, axis in layer.makes:
            rows = take(source[name], position, axis, units[group])
            if name == layer.kernel and layer.inputs is not None:
                rows = _reading(layer.inputs, position, rows, new[name].shape, units, places)
            new[name] = put(new[name], position, axis, places[group], rows)
    return new


def switched(chained: Chain, theta: Leaves, source: Leaves, units: Units, places: Units) -> Leaves:
    """`theta` with the top of another network, which reads at `places` what it read from `units`, and nothing else."""
    assert chained.top.inputs is not None
    name, (position, axis) = chained.top.kernel, chained.top.inputs
    group = chained.groups[-1]
    read = take(source[name], position, axis, units[group])
    top = put(np.zeros_like(theta[name]), position, axis, places[group], read)
    return {**theta, **{leaf: source[leaf] for leaf in chained.beside}, name: top}


def _reading(
    inputs: tuple[int, Any], outputs: int, rows: np.ndarray, shape: tuple[int, ...], units: Units, places: Units
) -> np.ndarray:
    """Rows (units first, as `take` gives them) that read at `places` of the layer below what they read from `units`."""
    position, axis = inputs
    # In what `take` returns, the output axis has moved to the front.
    at = position + 1 if position < outputs else position
    wide = list(rows.shape)
    wide[at] = shape[position]
    read = take(rows, at, axis, units[axis.group])
    return put(np.zeros(wide, rows.dtype), at, axis, places[axis.group], read)


def others(chained: Chain, units: Mapping[str, np.ndarray]) -> Units:
    """All units of every group but these."""
    return {g: np.setdiff1d(np.arange(n), units[g]) for g, n in zip(chained.groups, chained.sizes, strict=True)}


def dead_units(chained: Chain, theta: Leaves) -> Units:
    """The units of every group whose outputs no layer reads: all weights that read them are zero."""
    dead = {}
    for group, size in zip(chained.groups, chained.sizes, strict=True):
        name, position, axis = chained.reader(group)
        read = np.abs(take(theta[name], position, axis, np.arange(size))).reshape(size, -1)
        dead[group] = np.flatnonzero(~read.any(1))
    return dead


def check_room(chained: Chain, dead: Units, needed: Mapping[str, int], what: str) -> None:
    """Raise InputError, naming the groups, if fewer units than needed are free."""
    short = [f"{group}: {len(dead[group])} free, {n} needed" for group, n in needed.items() if len(dead[group]) < n]
    if short:
        raise InputError(f"{what}:\n  " + "\n  ".join(short))


__all__ = [
    "Construction",
    "Kind",
    "Move",
    "Units",
    "Walk",
    "check_room",
    "cleared",
    "copied",
    "dead_units",
    "handed_over",
    "others",
    "switched",
    "written",
]
