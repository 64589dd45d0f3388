"""Paths at constant loss from a permutation point to its copies with permuted units (section 4.2, ii)."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import check_network, on_host
from mcjax.constructions.moves import Construction, PathBuilder
from mcjax.constructions.unit_layers import UnitLayer, Values, check_units, unit_layer
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.symmetry import Permutation, identity_permutation
from mcjax.symmetry.permutation import check_permutation


class EqualLossPath(PathBuilder):
    """A `PathBuilder` of moves at constant loss, through networks with equal units in a layer."""

    def __init__(self, layer: UnitLayer, start: Values) -> None:
        floating = trees.flatten(trees.floating(start))
        kernels = sorted((name for name, leaf in floating.items() if np.ndim(leaf) > 1), key=_natural_key)
        matrices = {name: i for i, name in enumerate(kernels, 1)}
        # Biases, norms and statistics count with the kernel of their layer.
        produced = [unit_axis.name for unit_axis in (*layer.incoming, *layer.statistics)]
        number = next(matrices[name] for name in produced if name in matrices)
        super().__init__(start, matrices | dict.fromkeys(produced, number))
        self.layer = layer

    def exchange(self, pair: tuple[int, int], unit: int, free: int) -> tuple[int, int]:
        """Exchange a unit with `free`, one of a pair of equal units, in the six moves of section 4.2 (ii).

        Returns:
            The pair of equal units after the exchange: the other unit of the pair, and `unit`.
        """
        partner = pair[1] if free == pair[0] else pair[0]
        # First: the output weights of m (free) are added to those of l (partner), and m has no effect.
        self.shift_outputs(free, partner)
        # Second: m becomes a copy of i (unit).
        self.copy(unit, free)
        # Third: the output weights of i are shifted to m, and i has no effect.
        self.shift_outputs(unit, free)
        # Fourth and fifth: i goes to zero, and becomes a copy of l.
        self.clear(unit)
        self.copy(partner, unit)
        # Sixth: i and l share their output weights.
        self.share_outputs((partner, unit))
        return partner, unit

    def shift_outputs(self, source: int, target: int) -> None:
        """Add the output weights of a unit to those of an equal one, and set its own to zero."""
        layer, last = self.layer, self.last
        source_outputs, target_outputs = layer.outputs(last, source), layer.outputs(last, target)
        new = layer.with_outputs(last, source, 0 * source_outputs)
        new = layer.with_outputs(new, target, target_outputs + source_outputs)
        self.move("c", f"unit {target} takes over the output weights of unit {source}", new)

    def copy(self, source: int, target: int) -> None:
        """Give a unit without output weights the parameters and statistics of another one."""
        self._overwrite(target, source, 1.0, f"unit {target} becomes a copy of unit {source}")

    def clear(self, unit: int) -> None:
        """Set the parameters and statistics of a unit without output weights to zero."""
        self._overwrite(unit, unit, 0.0, f"the parameters of unit {unit} go to zero")

    def share_outputs(self, units: tuple[int, ...]) -> None:
        """Set the output weights of equal units to their mean."""
        total = jnp.stack([self.layer.outputs(self.last, unit) for unit in units]).sum(0)
        new = self.last
        for unit in units:
            new = self.layer.with_outputs(new, unit, total / len(units))
        self.move("c", f"units {', '.join(map(str, units))} share their output weights", new)

    def _overwrite(self, unit: int, source: int, factor: float, purpose: str) -> None:
        layer, last = self.layer, self.last
        vector = layer.parameters(last, source)
        new = layer.with_parameters(last, unit, vector if factor else 0 * vector)
        self.move("b", purpose, layer.with_statistics(new, unit, last, (source,), (factor,)))


def _natural_key(name: str) -> list[Any]:
    """A sort key that puts Dense_2 before Dense_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def exchange_units(
    model: Model, point: trees.Tree, group: str, pair: tuple[int, int], unit: int, free: int | None = None
) -> Construction:
    """Exchange two units at a permutation point, in six straight moves at constant loss.

    The output weights of `free` shift to the other unit of the pair (c); `free` becomes a copy of `unit` (b); the
    output weights of `unit` shift to `free` (c); `unit` goes to zero (b), and becomes a copy of the other unit of the
    pair (b); these two share their output weights (c). Along the path the function is the same up to rounding; the end
    is bitwise the permuted network.
    Source: Brea et al. 2019, section 4.2 (ii), where `pair` is l and m, `free` is m and `unit` is i.

    Args:
        model: The model of the network.
        point: A network in which the units of `pair` have equal parameters and equal output weights, such as the
            `point` of a `permutation_path`.
        group: The group of the units.
        pair: The two equal units.
        unit: Any other unit.
        free: The unit of the pair to exchange. None: the second.

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
    path = EqualLossPath(layer, start)
    with jax.enable_x64(True):
        path.exchange(pair, unit, free)
    return path.build(point)


def permute_units(
    model: Model, point: trees.Tree, group: str, pair: tuple[int, int], P: Permutation | Any
) -> Construction:
    """Permute the units of a layer at a permutation point, by moves at constant loss.

    At most 3 n / 2 exchanges (`exchange_units`), each of which puts a unit into its final position and has six knots,
    whole networks. The end is bitwise `permute(spec, P, point)`.
    Source: Brea et al. 2019, section 4.2 (ii).

    Args:
        model: The model of the network.
        point: A network in which the units of `pair` have equal parameters and equal output weights.
        group: The group of the units.
        pair: The two equal units.
        P: The order of the group's units, int32 (n,), or a permutation that is the identity on all other groups.

    Returns:
        The moves, from the point to its permuted copy.

    Raises:
        InputError: If the two units differ, or P moves another group.
        SpecError: If P is no permutation of the group's units.

    Example::

        moves = permute_units(model, found.point, "dense_0", found.units, [3, 1, 0, 2])
    """
    layer, pair, start = _at_point(model, point, group, pair)
    # The two equal units have one label.
    labels = np.arange(layer.size)
    labels[pair[1]] = pair[0]
    wanted, current = labels[_order(model, point, group, P)], labels.copy()
    equal = pair
    path = EqualLossPath(layer, start)
    with jax.enable_x64(True):
        while (wrong := np.flatnonzero(current != wanted)).size:
            free = next((unit for unit in equal if wanted[unit] != pair[0]), None)
            if free is None:
                # The pair is in its final position: exchange one of it with a unit of a cycle that is not.
                unit, free = int(wrong[0]), equal[1]
            else:
                # Fill the position of `free` with its final unit.
                unit = int(np.flatnonzero(current == wanted[free])[0])
            equal = path.exchange(equal, unit, free)
            current[[unit, free]] = current[[free, unit]]
    return path.build(point)


def _at_point(
    model: Model, point: trees.Tree, group: str, pair: tuple[int, int]
) -> tuple[UnitLayer, tuple[int, int], Values]:
    """The layer, the pair and the variables by name. Raises InputError unless the two units are equal."""
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
    """The order of the group's units in P, checked, int (n,)."""
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
