"""Moves at constant loss, from a permutation point to its copies with the units in another order (section 4.2, ii)."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import check_network, on_host
from mcjax.constructions.moves import Construction, Kind, Move
from mcjax.constructions.unit_layers import UnitLayer, Values, check_units, unit_layer
from mcjax.curves.polyline import Polyline
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.permutation_points.problem import tree_like
from mcjax.symmetry import Permutation, identity_permutation
from mcjax.symmetry.permutation import check_permutation


class EqualLossWalk:
    """A path in the making, of straight moves at constant loss through networks in which units of a layer are equal."""

    def __init__(self, layer: UnitLayer, start: Values) -> None:
        self.layer = layer
        self.knots, self.moves = [start], list[Move]()
        kernels = sorted((name for name, leaf in start.items() if np.ndim(leaf) > 1), key=_natural_key)
        self._number = {name: i for i, name in enumerate(kernels, 1)}

    @property
    def here(self) -> Values:
        """The last knot."""
        return self.knots[-1]

    def exchange(self, pair: tuple[int, int], unit: int, free: int) -> tuple[int, int]:
        """Exchange a unit with `free`, one of a pair of equal units, in the six moves of section 4.2 (ii).

        Returns the pair after it: the other unit of the pair and `unit`.
        """
        partner = pair[1] if free == pair[0] else pair[0]
        # First: the output weights of m (free) go to l (partner), so that nothing reads m.
        self.hand_over(free, partner)
        # Second: m becomes a copy of i (unit).
        self.copy(unit, free)
        # Third: the output weights of i go to m.
        self.hand_over(unit, free)
        # Fourth and fifth: i, which nothing reads, goes to zero and becomes a copy of l.
        self.clear(unit)
        self.copy(partner, unit)
        # Sixth: i and l share their output weights.
        self.share_outputs((partner, unit))
        return partner, unit

    def hand_over(self, source: int, target: int) -> None:
        """Add the output weights of a unit to those of an equal one, and set its own to zero."""
        layer, here = self.layer, self.here
        source_outputs, target_outputs = layer.outputs(here, source), layer.outputs(here, target)
        new = layer.with_outputs(here, source, 0 * source_outputs)
        new = layer.with_outputs(new, target, target_outputs + source_outputs)
        self._move("c", new, f"unit {target} takes over the output weights of unit {source}")

    def copy(self, source: int, target: int) -> None:
        """Give a unit that nothing reads the parameters and statistics of another one."""
        self._overwrite(target, source, 1.0, f"unit {target} becomes a copy of unit {source}")

    def clear(self, unit: int) -> None:
        """Set the parameters and statistics of a unit that nothing reads to zero."""
        self._overwrite(unit, unit, 0.0, f"the parameters of unit {unit} go to zero")

    def share_outputs(self, units: tuple[int, ...]) -> None:
        """Set the output weights of equal units to their mean."""
        total = jnp.stack([self.layer.outputs(self.here, unit) for unit in units]).sum(0)
        new = self.here
        for unit in units:
            new = self.layer.with_outputs(new, unit, total / len(units))
        self._move("c", new, f"units {', '.join(map(str, units))} share their output weights")

    def _overwrite(self, unit: int, source: int, share: float, what: str) -> None:
        layer, here = self.layer, self.here
        vector = layer.parameters(here, source)
        new = layer.with_parameters(here, unit, vector if share else 0 * vector)
        self._move("b", layer.with_statistics(new, unit, here, (source,), (share,)), what)

    def _move(self, kind: Kind, values: Values, what: str) -> None:
        """Go to another network, and note which weight matrices move."""
        new = {name: np.asarray(leaf) for name, leaf in values.items()}
        moved = {name for name in new if not np.array_equal(new[name], self.here[name])}
        made = [place.name for place in (*self.layer.incoming, *self.layer.statistics)]
        numbers = {self._number[self.layer.outgoing.name]} if self.layer.outgoing.name in moved else set()
        if moved.intersection(made):
            # Biases, norms and statistics are counted with the kernel beside them.
            numbers |= {self._number[name] for name in made if name in self._number}
        self.moves.append(Move(kind, tuple(sorted(numbers)), what))
        self.knots.append(new)

    def construction(self, theta: trees.Tree) -> Construction:
        """The path, its knots trees of the structure of `theta`."""
        # A path that goes nowhere needs two knots too.
        knots = self.knots if self.moves else 2 * self.knots
        polyline = Polyline(trees.stack_on_host([tree_like(theta, knot) for knot in knots]))
        return Construction(polyline, tuple(self.moves))


def _natural_key(name: str) -> list[Any]:
    """The sort key by which Dense_2 comes before Dense_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def exchange_units(
    model: Model, point: trees.Tree, group: str, pair: tuple[int, int], unit: int, free: int | None = None
) -> Construction:
    """Exchange two units at a permutation point, in six straight moves at constant loss.

    The output weights of `free` go to its equal (c); `free` becomes a copy of `unit` (b); the output weights of `unit`
    go to `free` (c); `unit` goes to zero (b), and becomes a copy of the other of the pair (b); the two share their
    output weights (c). Between the knots the function is the same to rounding; the end is the permuted network to the
    last bit.
    Source: Brea et al. 2019, section 4.2 (ii), where `pair` is l and m, `free` is m and `unit` is i.

    Args:
        model: The model of the network.
        point: A network in which the units of `pair` have equal parameters and equal output weights, as
            `permutation_path` finds it.
        group: The group of the units.
        pair: The two equal units.
        unit: Any other unit.
        free: The unit of the pair that is exchanged; None: the second.

    Returns:
        The moves, from the point to its copy with `unit` and `free` exchanged.

    Raises:
        InputError: If the two units differ, or `unit` is one of them.
    """
    layer, pair, start = _at_point(model, point, group, pair)
    free = pair[1] if free is None else free
    check_units(layer, (unit, free))
    if free not in pair or unit in pair:
        raise InputError(
            f"got unit={unit}, free={free} for the pair {pair}, expected one of the pair for free and any other unit."
        )
    walk = EqualLossWalk(layer, start)
    with jax.enable_x64(True):
        walk.exchange(pair, unit, free)
    return walk.construction(point)


def permute_units(
    model: Model, point: trees.Tree, group: str, pair: tuple[int, int], P: Permutation | Any
) -> Construction:
    """Put the units of a layer into any order at a permutation point, by moves at constant loss.

    Exchanges (`exchange_units`) one after another, each of which puts a unit where it belongs: at most 3 n / 2 of them,
    with six knots, whole networks, each. The end is `permute(spec, P, point)` to the last bit.
    Source: Brea et al. 2019, section 4.2 (ii).

    Args:
        model: The model of the network.
        point: A network in which the units of `pair` have equal parameters and equal output weights.
        group: The group of the units.
        pair: The two equal units.
        P: The order, int32 (n,) for the group, or a whole permutation that moves no other group.

    Returns:
        The moves, from the point to its permuted copy.

    Raises:
        InputError: If the two units differ, or P moves another group.
        SpecError: If P is no permutation of the group's units.

    Example::

        moves = permute_units(model, found.point, "dense_0", found.units, [3, 1, 0, 2])
    """
    layer, pair, start = _at_point(model, point, group, pair)
    # The two units of the pair are one, so they have one label.
    labels = np.arange(layer.size)
    labels[pair[1]] = pair[0]
    wanted, current = labels[_order(model, point, group, P)], labels.copy()
    equal = pair
    walk = EqualLossWalk(layer, start)
    with jax.enable_x64(True):
        while (wrong := np.flatnonzero(current != wanted)).size:
            free = next((unit for unit in equal if wanted[unit] != pair[0]), None)
            if free is None:
                # The pair is where it belongs: one of it makes room for a cycle of others.
                unit, free = int(wrong[0]), equal[1]
            else:
                unit = int(np.flatnonzero(current == wanted[free])[0])
            equal = walk.exchange(equal, unit, free)
            current[[unit, free]] = current[[free, unit]]
    return walk.construction(point)


def _at_point(
    model: Model, point: trees.Tree, group: str, pair: tuple[int, int]
) -> tuple[UnitLayer, tuple[int, int], Values]:
    """The layer, the pair and the network by name, after checking that it is a permutation point of the pair."""
    check_network(model, point, "point")
    layer = unit_layer(model, group)
    first, second = check_units(layer, pair)
    values = on_host(point)
    with jax.enable_x64(True):
        for what, vector_of in (("parameters", layer.parameters), ("output weights", layer.outputs)):
            one, two = (np.asarray(vector_of(values, unit)) for unit in (first, second))
            if not np.array_equal(one, two):
                raise InputError(
                    f"got units {first} and {second} of {group!r} with {what} that differ by "
                    f"{np.linalg.norm(one - two):.3g}, expected equal ones: permutation_path(...).point."
                )
    return layer, (first, second), values


def _order(model: Model, point: trees.Tree, group: str, P: Any) -> np.ndarray:
    """The order of the group's units that is asked for, int (n,), after checking it."""
    identity = {name: np.asarray(p) for name, p in identity_permutation(model.spec, point).items()}
    whole = P if isinstance(P, dict) else {**identity, group: np.asarray(P)}
    if (kind := np.asarray(whole.get(group, 0)).dtype).kind not in "iu":
        raise InputError(
            f"got P of {kind}, expected whole numbers (n,): unit i of the new order is unit P[i]. "
            "mcjax.nearest_permutation rounds a matrix."
        )
    check_permutation(model.spec, whole, model.spec.group_sizes(point))
    if any(name != group and (np.asarray(p) != identity[name]).any() for name, p in whole.items()):
        raise InputError(f"P moves units of other groups than {group!r}, expected the identity for them.")
    return np.asarray(whole[group])
