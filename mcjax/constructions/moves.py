"""Paths made of moves: straight segments in parameter space along which the loss is known beforehand.

The kinds of moves, (a) and (b) as in Kuditipudi et al. 2019, Lemma 1:

- (a): the top moves. The loss is convex in it, so it stays at or below the higher end.
- (b): incoming weights of units that no layer reads move. The function does not change.
- (c): outgoing weights move from units to copies of them. The function does not change. Below the top only this kind
  frees units whose places others need.
- "line": nothing is known; the loss has to be measured.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import Chain, Leaves
from mcjax.constructions.unit_edits import (
    Units,
    clear_units,
    complement,
    copy_units,
    move_outgoing,
    preferred_first,
    switch_top,
    unread_units,
    write_units,
)
from mcjax.curves.polyline import Polyline
from mcjax.errors import InputError

Kind = Literal["a", "b", "c", "line"]


class Move(NamedTuple):
    """One segment: its kind, the weight matrices that move (counted from 1), and its purpose."""

    kind: Kind
    layers: tuple[int, ...]
    purpose: str

    def __str__(self) -> str:
        moved = ", ".join(f"A_{i}" for i in self.layers) or "no length"
        return f"({self.kind}) {moved}: {self.purpose}"


class Construction(NamedTuple):
    """A path of straight segments: the polyline through its knots, and the move from each knot to the next.

    Knots are whole networks, one more than there are moves, so the memory for them bounds their number. Printed, a
    construction lists its moves; A_i is the weight matrix of layer i, from 1 to the top.
    """

    polyline: Polyline
    moves: tuple[Move, ...]

    @property
    def knots(self) -> trees.Tree:
        """The networks along a leading axis."""
        return self.polyline.knots

    @property
    def path(self) -> jax.tree_util.Partial:
        """The path t -> theta, t in proportion to the length."""
        return self.polyline.path

    def __repr__(self) -> str:
        return f"Construction of {len(self.moves)} segments"

    def __str__(self) -> str:
        return "\n".join(f"{i + 1:3d}. {move}" for i, move in enumerate(self.moves))

    def shortened(self) -> "Construction":
        """The same path without segments of no length, and with each run of (b) moves as one.

        One segment is of kind (b) too: weights that no layer reads may move in any way at once.
        """
        knots = [trees.index(self.knots, i) for i in range(len(self.moves) + 1)]
        kept, moves = [knots[0]], list[Move]()
        for move, knot in zip(self.moves, knots[1:], strict=True):
            if not move.layers:
                continue
            if move.kind == "b" and moves and moves[-1].kind == "b":
                last = moves.pop()
                kept.pop()
                move = Move("b", tuple(sorted({*last.layers, *move.layers})), f"{last.purpose}; {move.purpose}")
            moves.append(move)
            kept.append(knot)
        return Construction(Polyline(trees.stack_on_host(kept)), tuple(moves))


class PathBuilder:
    """A construction while it is being built: the knots so far, and the moves between them."""

    def __init__(self, chain: Chain, start: Leaves) -> None:
        self.chain = chain
        self.knots = [start]
        self.moves: list[Move] = []

    @property
    def last(self) -> Leaves:
        """The last knot."""
        return self.knots[-1]

    def move(self, kind: Kind, purpose: str, leaves: Leaves) -> None:
        """Append one segment."""
        self.moves.append(Move(kind, self._moved(self.last, leaves), purpose))
        self.knots.append(leaves)

    def append(self, other: "PathBuilder") -> None:
        """Append a path that starts at the last knot."""
        _check_joined(self.last, other.knots[0])
        self.knots += other.knots[1:]
        self.moves += other.moves

    def append_reversed(self, other: "PathBuilder") -> None:
        """Append the reverse of a path that ends at the last knot."""
        _check_joined(self.last, other.last)
        self.knots += other.knots[-2::-1]
        self.moves += [move._replace(purpose=f"back: {move.purpose}") for move in reversed(other.moves)]

    def permute_units(self, used: Units, targets: Units) -> None:
        """Append five segments of one function that move all used units to their targets (Lemma 2).

        A unit whose target is free goes there at once. The others, whose targets are used by units still to move, step
        aside to a place that is neither used nor a target, and go on from there.
        """
        via: Units = {}
        for group, size in zip(self.chain.groups, self.chain.sizes, strict=True):
            now, then = used[group], targets[group]
            free = np.setdiff1d(np.arange(size), np.union1d(now, then))
            blocked = np.isin(then, now) & (now != then)
            via[group] = np.where(blocked, now, then)
            if blocked.sum() > len(free):
                raise InputError(f"{group}: {blocked.sum()} units have to step aside, and {len(free)} places are free.")
            via[group][blocked] = free[: blocked.sum()]
        # Twice: copies at the new places (b), which are read instead of the old ones (c).
        for where, start, end in (("aside", used, via), ("to their places", via, targets)):
            moving = {g: start[g] != end[g] for g in start}
            sources = {g: start[g][moving[g]] for g in start}
            places = {g: end[g][moving[g]] for g in start}
            self.move("b", f"copy units {where}", copy_units(self.chain, self.last, sources, places))
            self.move("c", "the copies are read instead", move_outgoing(self.chain, self.last, sources, places))
        unread = complement(self.chain, targets)
        self.move("b", "clear units that are not read", clear_units(self.chain, self.last, unread))

    def write_narrow(self, narrow: Leaves, widths: Mapping[str, int], preferred: Units) -> Units:
        """Append two segments to a network of fewer units, written into units that no layer reads.

        Args:
            narrow: The network.
            widths: How many units each of its groups has.
            preferred: Units to write into before others, where they are free.

        Returns:
            The units that it was written into.
        """
        free = unread_units(self.chain, self.last)
        units = {group: np.arange(n) for group, n in widths.items()}
        places = {group: preferred_first(free[group], preferred[group])[:n] for group, n in widths.items()}
        written = write_units(self.chain, self.last, narrow, units, places)
        self.move("b", "write the narrow network into units that are not read", written)
        self.move("a", "the top moves to the narrow network", switch_top(self.chain, written, narrow, units, places))
        return places

    def switch_network(self, theta: Leaves) -> None:
        """Append three segments to another network, none of whose used units is used here (Lemma 2)."""
        used = complement(self.chain, unread_units(self.chain, theta))
        self.move("b", "write the other network", write_units(self.chain, self.last, theta, used, used))
        self.move("a", "the top moves to the other network", switch_top(self.chain, self.last, theta, used, used))
        self.move("b", "units that are not read become the other network's", theta)

    def build(self, theta: trees.Tree) -> Construction:
        """The construction, its knots of the same structure as `theta`."""
        knots = [trees.map_with_name(lambda name, _, knot=knot: knot[name], theta) for knot in self.knots]
        return Construction(Polyline(trees.stack_on_host(knots)), tuple(self.moves))

    def _moved(self, a: Leaves, b: Leaves) -> tuple[int, ...]:
        """The layers in which two networks differ."""
        moved = {name for name in a if not np.array_equal(a[name], b[name])}
        last = len(self.chain.layers)
        found = {last} if moved.intersection(self.chain.output_biases) else set[int]()
        for i, layer in enumerate(self.chain.layers, 1):
            if moved.intersection({layer.kernel, *(place.name for place in layer.incoming)}):
                found.add(i)
        return tuple(sorted(found))


def _check_joined(a: Leaves, b: Leaves) -> None:
    assert all(np.array_equal(a[name], b[name]) for name in a), "a path goes on from another network than it came to"
