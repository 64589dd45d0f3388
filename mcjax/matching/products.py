"""Inner products between the units of two networks: what one axis of one leaf tells weight matching."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax.errors import InputError
from mcjax.symmetry import Axis, PermutationSpec
from mcjax.symmetry.axis import Entry, axes_of
from mcjax.symmetry.permutation import Permutation, permute_leaf, segment_runs

Entries = tuple[Entry, ...]
Leaves = dict[str, np.ndarray]


class Place(NamedTuple):
    """Where units of one group lie on one leaf, and what else permutes the leaf.

    `axes` are one axis, or the segments of one that move together; none stand for the whole leaf as a
    single unit. `others` are all other entries, under the names "0", "1", ... of the groups `partners`,
    so that places of equal shape and structure share a compiled program. `whole`: no entry of the leaf
    lies outside the units, so that their products sum up to the leaf's.
    """

    leaf: str
    group: str | None
    position: int
    axes: tuple[Axis, ...]
    others: Entries
    partners: tuple[str, ...]
    whole: bool


def places_of(leaf: str, entries: Entries, shape: tuple[int, ...]) -> list[Place]:
    """Every place of a leaf, and after them the leaf as a single unit if none of them is whole."""
    places = []
    for position, (entry, length) in enumerate(zip(entries, shape, strict=True)):
        for group, run in segment_runs(axes_of(entry)):
            at = {int(i) for axis in run for i in axis.positions(length).flat}
            # What permutes a segment beside this one does not touch these units.
            over = [axis for axis in axes_of(entry) if not at.isdisjoint(axis.positions(length).flat)]
            others = (*entries[:position], tuple(axis for axis in over if axis not in run), *entries[position + 1 :])
            axes = tuple(_renamed(axis, "") for axis in run)
            places.append(Place(leaf, group, position, axes, *_canonical(others), len(at) == length))
    if not any(place.whole for place in places):
        places.append(Place(leaf, None, 0, (), *_canonical(entries), True))
    return places


def _canonical(entries: Entries) -> tuple[Entries, tuple[str, ...]]:
    partners = tuple(dict.fromkeys(axis.group for entry in entries for axis in axes_of(entry)))
    name = {group: str(i) for i, group in enumerate(partners)}
    return tuple(tuple(_renamed(axis, name[axis.group]) for axis in axes_of(entry)) for entry in entries), partners


def _renamed(axis: Axis, name: str) -> Axis:
    return Axis(name, axis.outer, axis.inner, False, axis.start, axis.stop)


def _unit_axis(leaf: Any, position: int, axes: tuple[Axis, ...]) -> tuple[Any, int]:
    """The leaf, numpy or jax, with one axis that is exactly the units; and where that axis is."""
    if not axes:
        return leaf[None], 0
    whole = axes[0]
    if len(axes) == 1 and not whole.start and whole.stop is None:
        before, after = leaf.shape[:position], leaf.shape[position + 1 :]
        return leaf.reshape(*before, whole.outer, -1, whole.inner, *after), position + 1
    at = np.concatenate([axis.positions(leaf.shape[position]) for axis in axes], 1)
    return leaf.take(at, axis=position), position


# One program a place rather than one a group or one for all groups (`lax.switch`): products that still hold are
# kept place by place, and places of one shape share a program. On two cores, compiling and running every group of
# VGG16 once, then running it again: 1.4 and 0.16 s a place, 2.2 and 0.22 s a group, 1.2 and 0.25 s by a switch.
# ResNet20: 1.3, 2.0 and 1.7 s, then milliseconds.
@partial(jax.jit, static_argnames=("position", "axes", "others", "profile"))
def unit_products(
    leaf_1: jax.Array,
    leaf_2: jax.Array,
    P: Permutation,
    position: int,
    axes: tuple[Axis, ...],
    others: Entries,
    profile: bool,
) -> jax.Array:
    """The inner products, float32 (n, n), of units of leaf_1 with units of leaf_2 permuted in all else.

    profile: sort the weights of every unit first, for when it is not known what permutes them.
    """
    rows_1, at = _unit_axis(leaf_1.astype(jnp.float32), position, axes)
    rows_2, _ = _unit_axis(permute_leaf(others, P, leaf_2.astype(jnp.float32)), position, axes)
    if profile:
        rows_1, rows_2 = (jnp.sort(jnp.moveaxis(rows, at, 0).reshape(rows.shape[at], -1)) for rows in (rows_1, rows_2))
        at = 0
    rest = [i for i in range(rows_1.ndim) if i != at]
    return jnp.tensordot(rows_1, rows_2, axes=(rest, rest), precision="highest")


class Ends(NamedTuple):
    """Two networks on the device, leaf by leaf, and what holds for them whatever the permutation.

    places: of every group. spreads: how much the units of a place differ from each other. fixed: of every
    group, its products summed over the leaves that no other group permutes. measures: one whole place of
    every other leaf. constant: the inner product of the leaves that nothing permutes.
    """

    leaves_1: dict[str, jax.Array]
    leaves_2: dict[str, jax.Array]
    sizes: dict[str, int]
    places: dict[str, list[Place]]
    spreads: dict[Place, float]
    fixed: dict[str, np.ndarray]
    measures: list[Place]
    constant: float

    def products(self, place: Place, P: Permutation, profile: bool = False) -> jax.Array:
        """The products of one place under P, on their way."""
        others = {str(i): P[group] for i, group in enumerate(place.partners)}
        leaf_1, leaf_2 = self.leaves_1[place.leaf], self.leaves_2[place.leaf]
        return unit_products(leaf_1, leaf_2, others, place.position, place.axes, place.others, profile)


def prepare(spec: PermutationSpec, sizes: dict[str, int], leaves_1: Leaves, leaves_2: Leaves) -> Ends:
    """Put two networks on the device. Raises InputError if a leaf that nothing permutes is not finite."""
    first, second = jax.device_put((leaves_1, leaves_2))
    fixed = {group: np.zeros((n, n)) for group, n in sizes.items()}
    ends = Ends(first, second, sizes, {group: [] for group in sizes}, {}, fixed, [], 0.0)
    constant = 0.0
    coming: list[tuple[Any, jax.Array]] = []
    for name, leaf in leaves_1.items():
        places = places_of(name, spec.axes[name], leaf.shape) if any(spec.axes[name]) else []
        if not places:
            constant += float(np.vdot(leaf.astype(np.float64), leaves_2[name].astype(np.float64)))
            if not np.isfinite(constant):
                raise InputError(f"the weights {name} are not finite: expected two networks of finite weights.")
            continue
        measure = next(place for place in places if place.whole)
        if measure.partners:
            ends.measures.append(measure)
        else:
            coming.append((measure.group, ends.products(measure, {})))
        for place in places:
            if place.group is not None:
                ends.places[place.group].append(place)
                ends.spreads[place] = (_spread(leaf, place) * _spread(leaves_2[name], place)) ** 0.5
    for group, matrix in coming:
        fixed[group] += np.asarray(matrix)
    return ends._replace(constant=constant)


def _spread(leaf: np.ndarray, place: Place) -> float:
    """The squared distances of the units from the mean unit, summed; the same whatever permutes the leaf."""
    rows, at = _unit_axis(leaf, place.position, place.axes)
    # Weights that are not finite are found where they are matched.
    with np.errstate(invalid="ignore", over="ignore"):
        return float(rows.var(axis=at, dtype=np.float32).sum() * rows.shape[at])
