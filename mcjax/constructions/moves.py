"""Paths made of moves: straight segments in parameter space with a bound on the loss.

The kinds of moves, (a) and (b) as in the proof of Lemma 1 of Kuditipudi et al. 2019:

- (a): the top changes. The loss is convex in it, so it is at most the higher loss of the two ends.
- (b): incoming weights of units without outgoing weights change. The function does not change.
- (c): outgoing weights are shifted from units to copies of them. The function does not change. Below the top, only
  this kind makes the places of units free for others.
- "line": there is no bound; the loss has to be measured.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import Chain, Leaves, on_host
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
from mcjax.shown import short_repr

Kind = Literal["a", "b", "c", "line"]


@short_repr
class Move(NamedTuple):
    """One segment: its kind, the weight matrices that change (counted from 1), and its purpose."""

    kind: Kind
    layers: tuple[int, ...]
    purpose: str

    def __str__(self) -> str:
        moved = ", ".join(f"A_{i}" for i in self.layers) or "no length"
        return f"({self.kind}) {moved}: {self.purpose}"


class Construction(NamedTuple):
    """A path of straight segments: the polyline through its knots, and the move from each knot to the next.

    `print` lists the moves, with A_i the weight matrix of layer i, from 1 to the top. All knots, one more than moves,
    are whole networks in memory.
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
        """The same path without segments of length zero, and with consecutive (b) moves joined into one (b) move."""
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
    """A `Construction` in progress: the knots so far, and the moves between them.

    Args:
        start: The variables of the first network, by name.
        matrices: The number of the weight matrix that each leaf counts with, from 1.
    """

    def __init__(self, start: Leaves, matrices: Mapping[str, int]) -> None:
        self.matrices = matrices
        self.knots = [start]
        self.moves: list[Move] = []

    @property
    def last(self) -> Leaves:
        """The last knot."""
        return self.knots[-1]

    def move(self, kind: Kind, purpose: str, leaves: Mapping[str, Any]) -> None:
        """Append one segment."""
        new = trees.on_host(dict(leaves))
        changed = {number for name, number in self.matrices.items() if not np.array_equal(new[name], self.last[name])}
        self.moves.append(Move(kind, tuple(sorted(changed)), purpose))
        self.knots.append(new)

    def build(self, theta: trees.Tree) -> Construction:
        """The construction, its knots of the same structure as `theta`.

        Masks of units are moved with the units; counters, keys and the like are those of `theta` at every knot.
        """
        # A polyline has at least two knots.
        knots = self.knots if self.moves else 2 * self.knots
        kept = {
            name: leaf
            for name, leaf in on_host(theta).items()
            if not trees.is_floating(leaf) and name not in self.matrices
        }
        stacked = [trees.map_with_name(lambda name, _, knot=knot: {**knot, **kept}[name], theta) for knot in knots]
        return Construction(Polyline(trees.stack_on_host(stacked)), tuple(self.moves))


class ChainPathBuilder(PathBuilder):
    """A `PathBuilder` for feed-forward networks, with the steps of the proofs of Lemmas 1 and 2.

    Args:
        chain: The chain of all networks.
        start: The variables of the first network, by name.
    """

    def __init__(self, chain: Chain, start: Leaves) -> None:
        # Biases, norms and statistics count with the kernel of their layer, output biases with the top.
        matrices = dict.fromkeys(chain.output_biases, len(chain.layers))
        for i, layer in enumerate(chain.layers, 1):
            matrices |= dict.fromkeys((layer.kernel, *(unit_axis.name for unit_axis in layer.incoming)), i)
        super().__init__(start, matrices)
        self.chain = chain

    def append(self, other: "ChainPathBuilder") -> None:
        """Append another path, which starts at the last knot."""
        _check_joined(self.last, other.knots[0])
        self.knots += other.knots[1:]
        self.moves += other.moves

    def append_reversed(self, other: "ChainPathBuilder") -> None:
        """Append the reverse of another path, which ends at the last knot."""
        _check_joined(self.last, other.last)
        self.knots += other.knots[-2::-1]
        self.moves += [move._replace(purpose=f"back: {move.purpose}") for move in reversed(other.moves)]

    def permute_units(self, used: Units, targets: Units) -> None:
        """Append five segments at constant function that move all used units to their targets (Lemma 2).

        A unit whose target is free moves there directly. A unit whose target is used by another unit moves by way of a
        place that is neither used nor a target.
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
        # Lemma 2, twice: copy the units to new places (b), and shift their outgoing weights to the copies (c).
        for where, start, end in (("aside", used, via), ("to their places", via, targets)):
            moving = {g: start[g] != end[g] for g in start}
            sources = {g: start[g][moving[g]] for g in start}
            places = {g: end[g][moving[g]] for g in start}
            self.move("b", f"copy units {where}", copy_units(self.chain, self.last, sources, places))
            self.move("c", "the copies are read instead", move_outgoing(self.chain, self.last, sources, places))
        # Lemma 2: set the incoming weights of all other units to zero (b).
        unread = complement(self.chain, targets)
        self.move("b", "clear units that are not read", clear_units(self.chain, self.last, unread))

    def write_narrow(self, narrow: Leaves, widths: Mapping[str, int], preferred: Units) -> Units:
        """Append two segments to a network of fewer units, written into units that no layer reads.

        Args:
            narrow: The variables of the narrow network, by name.
            widths: The number of units in each of its groups.
            preferred: Units to use before others, by group.

        Returns:
            The units that now hold the narrow network.
        """
        free = unread_units(self.chain, self.last)
        units = {group: np.arange(n) for group, n in widths.items()}
        places = {group: preferred_first(free[group], preferred[group])[:n] for group, n in widths.items()}
        written = write_units(self.chain, self.last, narrow, units, places)
        self.move("b", "write the narrow network into units that are not read", written)
        self.move("a", "the top moves to the narrow network", switch_top(self.chain, written, narrow, units, places))
        return places

    def switch_network(self, theta: Leaves) -> None:
        """Append three segments to a network whose used units are all unused at the last knot (Lemma 2)."""
        used = complement(self.chain, unread_units(self.chain, theta))
        self.move("b", "write the other network", write_units(self.chain, self.last, theta, used, used))
        self.move("a", "the top moves to the other network", switch_top(self.chain, self.last, theta, used, used))
        self.move("b", "units that are not read become the other network's", theta)


def _check_joined(a: Leaves, b: Leaves) -> None:
    same = (np.array_equal(a[name], b[name]) for name in trees.flatten(trees.floating(a)))
    assert all(same), "the joined path starts at another network"
