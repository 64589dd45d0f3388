"""At a permutation point: moves at constant loss that put the units of the layer into any order."""

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
from mcjax.symmetry import Permutation, identity_permutation
from mcjax.symmetry.permutation import check_permutation


class Rearrangement:
    """A walk at constant loss through networks in which two units of a layer are one: where it is, how it came there.

    pair: the two units that are made alike, and read with weights of which only the sum counts.
    """

    def __init__(self, model: Model, layer: UnitLayer, values: Values, pair: tuple[int, int]) -> None:
        self.layer, self.pair = layer, pair
        self.knots, self.moves = [values], list[Move]()
        kernels = sorted((name for name, leaf in values.items() if np.ndim(leaf) > 1), key=_natural)
        self._number = {name: i for i, name in enumerate(kernels, 1)}

    @property
    def here(self) -> Values:
        """The last knot."""
        return self.knots[-1]

    def swap(self, unit: int, free: int) -> None:
        """Six moves that exchange a unit with one of the pair, which then is the other one and `unit` (4.2, ii)."""
        partner = self.pair[1] if free == self.pair[0] else self.pair[0]
        self.give(free, partner, f"unit {partner} takes over what reads unit {free}")
        self.make(free, unit, f"unit {free} becomes a copy of unit {unit}")
        self.give(unit, free, f"unit {free} takes over what reads unit {unit}")
        self.make(unit, None, f"what makes unit {unit} goes to zero")
        self.make(unit, partner, f"unit {unit} becomes a copy of unit {partner}")
        self.share((partner, unit))
        self.pair = (partner, unit)

    def give(self, source: int, target: int, what: str) -> None:
        """What reads a unit reads another one made alike instead."""
        layer, here = self.layer, self.here
        source_outputs, target_outputs = layer.outputs(here, source), layer.outputs(here, target)
        new = layer.with_outputs(here, source, 0 * source_outputs)
        self._to("c", layer.with_outputs(new, target, target_outputs + source_outputs), what)

    def make(self, unit: int, like: int | None, what: str) -> None:
        """A unit that nothing reads is made as another one, or of zeros."""
        layer, here = self.layer, self.here
        vector = layer.parameters(here, unit if like is None else like)
        new = layer.with_parameters(here, unit, 0 * vector if like is None else vector)
        share = 0.0 if like is None else 1.0
        self._to("b", layer.with_statistics(new, unit, here, (unit if like is None else like,), (share,)), what)

    def share(self, units: tuple[int, ...]) -> None:
        """What reads units made alike is shared equally among them."""
        total = jnp.stack([self.layer.outputs(self.here, unit) for unit in units]).sum(0)
        new = self.here
        for unit in units:
            new = self.layer.with_outputs(new, unit, total / len(units))
        self._to("c", new, f"units {', '.join(map(str, units))} share what reads them")

    def _to(self, kind: Kind, values: Values, what: str) -> None:
        new = {name: np.asarray(leaf) for name, leaf in values.items()}
        moved = {name for name in new if not np.array_equal(new[name], self.here[name])}
        made = [place.name for place in (*self.layer.incoming, *self.layer.statistics)]
        numbers = {self._number[self.layer.outgoing.name]} if self.layer.outgoing.name in moved else set()
        if moved.intersection(made):
            numbers |= {self._number[name] for name in made if name in self._number}
        self.moves.append(Move(kind, tuple(sorted(numbers)), what))
        self.knots.append(new)

    def construction(self, theta: trees.Tree) -> Construction:
        """The path, its knots as `theta` is built."""
        stays = [] if self.moves else self.knots  # a path that goes nowhere is a path
        knots = [trees.map_with_name(lambda name, _, knot=knot: knot[name], theta) for knot in self.knots + stays]
        return Construction(Polyline(trees.stack_on_host(knots)), tuple(self.moves))


def _natural(name: str) -> list[Any]:
    """Names in the order of the numbers in them: Dense_2 before Dense_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def exchange_units(
    model: Model, point: trees.Tree, group: str, pair: tuple[int, int], unit: int, free: int | None = None
) -> Construction:
    """Six straight moves at constant loss, from a permutation point to its copy with `unit` and `free` exchanged.

    point: a network in which the units of `pair` are made alike and read alike, as `permutation_path` finds it. free:
    the one of the pair that is exchanged (None: the second). The output weights of m go to l (c); m becomes a copy of
    unit i (b); the output weights of i go to m (c); i goes to zero (b), and becomes a copy of l (b); i and l share
    their output weights (c). Between the knots the function is the same to rounding; the end is the permuted network
    to the last bit. Raises InputError if the two units differ, or `unit` is one of them.
    Source: Brea et al. 2019, section 4.2, (ii).
    """
    walk = _start(model, point, group, pair)
    free = pair[1] if free is None else free
    check_units(walk.layer, (unit, free))
    if free not in pair or unit in pair:
        raise InputError(
            f"got unit={unit}, free={free} for the pair {pair}, expected one of the pair for free and any other unit."
        )
    with jax.enable_x64(True):
        walk.swap(unit, free)
    return walk.construction(point)


def permute_units_at(
    model: Model, point: trees.Tree, group: str, pair: tuple[int, int], P: Permutation | Any
) -> Construction:
    """Moves at constant loss from a permutation point to its copy with the units of the layer in any other order.

    P: int32 (n,) for the group, or a whole permutation that moves no other group. Exchanges (`exchange_units`) one
    after another, each of which puts a unit where it belongs, as long as it takes: at most 3 n / 2. Knots are whole
    networks, six for each exchange. The end is `permute(spec, P, point)` to the last bit. Raises InputError as
    `exchange_units` does, SpecError if P does not fit. Source: Brea et al. 2019, section 4.2, (ii).
    """
    walk = _start(model, point, group, pair)
    wanted = _wanted(model, point, group, P)
    # The two units of the pair are one and the same.
    names = np.arange(walk.layer.size)
    names[pair[1]] = pair[0]
    holds, wanted = names.copy(), names[wanted]
    with jax.enable_x64(True):
        while (wrong := np.flatnonzero(holds != wanted)).size:
            free = next((unit for unit in walk.pair if wanted[unit] != pair[0]), None)
            if free is None:
                # The pair is where it belongs: it steps aside for a cycle of others.
                unit, free = int(wrong[0]), walk.pair[1]
            else:
                unit = int(np.flatnonzero(holds == wanted[free])[0])
            walk.swap(unit, free)
            holds[[unit, free]] = holds[[free, unit]]
    return walk.construction(point)


def _start(model: Model, point: trees.Tree, group: str, pair: tuple[int, int]) -> Rearrangement:
    check_network(model, point, "point")
    layer = unit_layer(model, group)
    first, second = check_units(layer, pair)
    values = on_host(point)
    with jax.enable_x64(True):
        for what, of in (("made", layer.parameters), ("read", layer.outputs)):
            one, two = (np.asarray(of(values, unit)) for unit in (first, second))
            if not np.array_equal(one, two):
                raise InputError(
                    f"units {first} and {second} of {group!r} are not {what} alike (they differ by "
                    f"{np.linalg.norm(one - two):.3g}), expected a permutation point: permutation_path(...).point."
                )
    return Rearrangement(model, layer, values, (first, second))


def _wanted(model: Model, point: trees.Tree, group: str, P: Any) -> np.ndarray:
    whole = {name: np.asarray(p) for name, p in identity_permutation(model.spec, point).items()}
    given = P if isinstance(P, dict) else {**whole, group: np.asarray(P)}
    if (kind := np.asarray(given.get(group, 0)).dtype).kind not in "iu":
        raise InputError(
            f"got P of {kind}, expected whole numbers (n,): unit i of the new order is unit P[i]. "
            "mcjax.nearest_permutation rounds a matrix."
        )
    check_permutation(model.spec, given, model.spec.group_sizes(point))
    if any(name != group and (np.asarray(p) != whole[name]).any() for name, p in given.items()):
        raise InputError(f"P moves units of other groups than {group!r}, expected the identity for them.")
    return np.asarray(given[group])
