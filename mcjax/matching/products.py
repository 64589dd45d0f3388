"""Inner products between the weights of units of two networks: the gain matrices of weight matching."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.symmetry import Axis, PermutationSpec
from mcjax.symmetry.axis import Entry, axes_of
from mcjax.symmetry.permutation import Permutation, permute_leaf, segment_runs

Entries = tuple[Entry, ...]
Leaves = dict[str, np.ndarray]


class Place(NamedTuple):
    """The position of one group's units on one leaf, and the groups that permute the leaf's other axes.

    Attributes:
        leaf: Name of the leaf.
        group: The group of the units. None: the whole leaf is a single unit.
        position: Position of the axis of the units.
        axes: One `Axis`, or segments of one axis that are permuted together; empty for the whole leaf.
        others: All other entries of the leaf's spec. Their groups, `partners`, are renamed "0", "1", ..., so that
            places of equal shape and structure share a compiled program.
        partners: The groups of `others`, possibly with `group` itself.
        whole: Whether every entry of the leaf belongs to a unit, so that the products of units sum up to that of the
            leaf.
    """

    leaf: str
    group: str | None
    position: int
    axes: tuple[Axis, ...]
    others: Entries
    partners: tuple[str, ...]
    whole: bool


def places_of(leaf: str, entries: Entries, shape: tuple[int, ...]) -> list[Place]:
    """Every place of a leaf, followed by the leaf as a single unit if no place is whole."""
    places = []
    for position, (entry, length) in enumerate(zip(entries, shape, strict=True)):
        for group, run in segment_runs(axes_of(entry)):
            at = {int(i) for axis in run for i in axis.positions(length).flat}
            # Axes on other segments of this axis do not permute these units.
            over = [axis for axis in axes_of(entry) if not at.isdisjoint(axis.positions(length).flat)]
            others = (*entries[:position], tuple(axis for axis in over if axis not in run), *entries[position + 1 :])
            axes = tuple(_renamed(axis, "") for axis in run)
            places.append(Place(leaf, group, position, axes, *_canonical(others), len(at) == length))
    if not any(place.whole for place in places):
        places.append(Place(leaf, None, 0, (), *_canonical(entries), True))
    return places


def _canonical(entries: Entries) -> tuple[Entries, tuple[str, ...]]:
    """The entries with their groups renamed "0", "1", ... in order, and the original names."""
    partners = tuple(dict.fromkeys(axis.group for entry in entries for axis in axes_of(entry)))
    name = {group: str(i) for i, group in enumerate(partners)}
    return tuple(tuple(_renamed(axis, name[axis.group]) for axis in axes_of(entry)) for entry in entries), partners


def _renamed(axis: Axis, name: str) -> Axis:
    return Axis(name, axis.outer, axis.inner, False, axis.start, axis.stop)


def _unit_axis(leaf: Any, position: int, axes: tuple[Axis, ...]) -> tuple[Any, int]:
    """The leaf, numpy or jax, reshaped so that one axis is exactly the units, and the position of that axis."""
    if not axes:
        return leaf[None], 0
    whole = axes[0]
    if len(axes) == 1 and not whole.start and whole.stop is None:
        before, after = leaf.shape[:position], leaf.shape[position + 1 :]
        return leaf.reshape(*before, whole.outer, -1, whole.inner, *after), position + 1
    at = np.concatenate([axis.positions(leaf.shape[position]) for axis in axes], 1)
    return leaf.take(at, axis=position), position


# One program per place, rather than one per group or one for all groups (`lax.switch`): products are cached by place,
# and places of equal shape share a program. Time for all groups of VGG16 on two cores, with compilation and without:
# 1.4 and 0.16 s with a program per place, 2.2 and 0.22 s per group, 1.2 and 0.25 s with a switch. ResNet20: 1.3, 2.0
# and 1.7 s with compilation, milliseconds without.
@partial(jax.jit, static_argnames=("position", "axes", "others", "sort"))
def unit_products(
    leaf_1: jax.Array,
    leaf_2: jax.Array,
    P: Permutation,
    position: int,
    axes: tuple[Axis, ...],
    others: Entries,
    sort: bool,
) -> jax.Array:
    """The inner products of units of leaf_1 with units of leaf_2, whose other axes are permuted by P.

    Args:
        leaf_1: One leaf of theta_1.
        leaf_2: The same leaf of theta_2.
        P: The permutations of the other axes, by their names in `others`.
        position: Position of the axis of the units.
        axes: The units on that axis, as in `Place`.
        others: The entries of the other axes, as in `Place`.
        sort: Whether the weights of every unit are sorted first, which makes the products invariant to P.

    Returns:
        (n, n), units of leaf_1 by units of leaf_2, in float32 at least; of complex ones the real part.
    """
    # Permute the other axes of leaf_2, and factor out the units of both leaves.
    leaf_1, leaf_2 = trees.widened((leaf_1, leaf_2))
    rows_1, at = _unit_axis(leaf_1, position, axes)
    rows_2, _ = _unit_axis(permute_leaf(others, P, leaf_2), position, axes)
    if sort:
        rows_1, rows_2 = (jnp.sort(jnp.moveaxis(rows, at, 0).reshape(rows.shape[at], -1)) for rows in (rows_1, rows_2))
        at = 0
    # Contract all axes but that of the units.
    rest = [i for i in range(rows_1.ndim) if i != at]
    return jnp.tensordot(jnp.conj(rows_1), rows_2, axes=(rest, rest), precision="highest").real


class WeightProducts(NamedTuple):
    """Two networks on the device, and the precomputed parts of their inner product.

    Attributes:
        leaves_1: The leaves of theta_1 by name.
        leaves_2: The leaves of theta_2 by name.
        sizes: Number of units of every group.
        places: The places of every group.
        spreads: The spread between the units of a place: the sum of squared distances from the mean unit, as a
            geometric mean over both networks.
        linear: group -> float64 (n, n), the products summed over the leaves on which only this group lies, on one axis.
            The inner product of these leaves is linear in the permutation.
        shared: One whole place for each other leaf with permuted axes.
        constant: The inner product of the leaves without permuted axes.
    """

    leaves_1: dict[str, jax.Array]
    leaves_2: dict[str, jax.Array]
    sizes: dict[str, int]
    places: dict[str, list[Place]]
    spreads: dict[Place, float]
    linear: dict[str, np.ndarray]
    shared: list[Place]
    constant: float

    def products(self, place: Place, P: Permutation, sort: bool = False) -> jax.Array:
        """The products of one place under P, (n, n), dispatched asynchronously."""
        others = {str(i): P[group] for i, group in enumerate(place.partners)}
        leaf_1, leaf_2 = self.leaves_1[place.leaf], self.leaves_2[place.leaf]
        return unit_products(leaf_1, leaf_2, others, place.position, place.axes, place.others, sort)


def weight_products(spec: PermutationSpec, sizes: dict[str, int], leaves_1: Leaves, leaves_2: Leaves) -> WeightProducts:
    """Put two networks on the device, and compute the products that do not depend on a permutation.

    Args:
        spec: The spec of the networks.
        sizes: Number of units of every group.
        leaves_1: The weights of theta_1 by name.
        leaves_2: The weights of theta_2 by name.

    Returns:
        The products of the pair.
    """
    first, second = jax.device_put((leaves_1, leaves_2))
    linear = {group: np.zeros((n, n)) for group, n in sizes.items()}
    products = WeightProducts(first, second, sizes, {group: [] for group in sizes}, {}, linear, [], 0.0)
    constant = 0.0
    pending: list[tuple[Any, jax.Array]] = []
    for name, leaf in leaves_1.items():
        places = places_of(name, spec.axes[name], leaf.shape) if any(spec.axes[name]) else []
        # A leaf without permuted axes adds a constant.
        if not places:
            constant += inner_product(leaf, leaves_2[name])
            continue
        # A leaf with a single permuted axis adds to `linear`; all others depend on P of several axes.
        whole = next(place for place in places if place.whole)
        if whole.partners:
            products.shared.append(whole)
        else:
            pending.append((whole.group, products.products(whole, {})))
        for place in places:
            if place.group is not None:
                products.places[place.group].append(place)
                products.spreads[place] = (_spread(leaf, place) * _spread(leaves_2[name], place)) ** 0.5
    # Fetch the products after all are dispatched.
    for group, matrix in pending:
        linear[group] += np.asarray(matrix)
    return products._replace(constant=constant)


def _spread(leaf: np.ndarray, place: Place) -> float:
    """The sum of squared distances of the units from the mean unit, which is invariant to permutations."""
    rows, at = _unit_axis(leaf, place.position, place.axes)
    parts = (rows.real, rows.imag) if np.iscomplexobj(rows) else (rows,)
    return float(sum(part.var(axis=at, dtype=np.float32).sum() for part in parts) * rows.shape[at])


def inner_product(leaf_1: Any, leaf_2: Any) -> float:
    """The inner product of two leaves, the real part of it for complex ones, in float64."""
    first, second = (
        np.asarray(leaf, np.complex128 if np.iscomplexobj(leaf) else np.float64) for leaf in (leaf_1, leaf_2)
    )
    return float(np.vdot(first, second).real)
