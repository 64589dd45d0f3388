"""Permutation points of higher order: several pairs of units merged, and the plane of equal loss that they lie in."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import check_network, on_host
from mcjax.constructions.unit_layers import UnitLayer, Values, check_units, unit_layer
from mcjax.curves.polyline import Polyline
from mcjax.data import Dataset
from mcjax.errors import InputError, RunError
from mcjax.models.base import Model
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.equal_loss import Rearrangement
from mcjax.permutation_points.walk import cast, checked, computing, halfway, nested, whole_loss

Clusters = tuple[tuple[int, ...], ...]
"""Units that are one, each set of them in increasing order."""


class MergedUnits(NamedTuple):
    """A permutation point of order K, and a path to it: K pairs of units merged one after another.

    polyline: from theta to the point. point: units of a cluster are made alike and read alike. loss,
    gradient_norm: after each merger, (K,). height: the highest loss on the path. stopped: why it ends early, or None.
    """

    polyline: Polyline
    point: trees.Tree | None
    group: str
    clusters: Clusters
    loss: np.ndarray
    gradient_norm: np.ndarray
    height: float
    stopped: str | None

    @property
    def order(self) -> int:
        """K: how many units fewer would do as well."""
        return sum(len(cluster) - 1 for cluster in self.clusters)

    @property
    def knots(self) -> trees.Tree:
        """The networks along a leading axis."""
        return self.polyline.knots

    @property
    def path(self) -> jax.tree_util.Partial:
        """t -> theta, from the network to the point. Raises RunError if it does not get there."""
        if self.stopped:
            raise RunError(f"the path to {self.clusters} of {self.group!r} is not whole: {self.stopped}")
        return self.polyline.path

    def __repr__(self) -> str:
        said = self.stopped or f"order {self.order}, loss {self.loss[-1]:.4g}"
        return f"MergedUnits of {self.group!r}, {', '.join(map(str, self.clusters))}: {said}"


def merge_units(
    model: Model,
    theta: trees.Tree,
    data: Dataset,
    group: str,
    pairs: Sequence[tuple[int, int]],
    config: PermutationConfig | None = None,
) -> MergedUnits:
    """Merge K pairs of units one after another: the network that K units fewer could be, kept at its width.

    Each pair is merged as in `permutation_path`; then one of the two takes over what reads both, and the other is left
    out of all later mergers. In the end those left out become copies again, and each cluster shares what reads it.
    A unit that was merged before stands for its cluster, so that (0, 1), (0, 2) merges three. The gradient vanishes at
    the end as far as the last minimisation went. Raises InputError as `permutation_path` does, and for a pair that is
    merged already. Source: Brea et al. 2019, section 4.3.
    """
    config = config or PermutationConfig()
    layer = checked(model, theta, group, config)
    pairs = pairs.tolist() if isinstance(pairs, np.ndarray) else pairs
    if not isinstance(pairs, Sequence) or isinstance(pairs, str) or not pairs:
        raise InputError(f"got pairs={pairs!r}, expected pairs of units of {group!r}: [(0, 1), (2, 3)].")
    merging = [check_units(layer, pair) for pair in pairs]
    stands = np.arange(layer.size)
    silent = np.zeros(layer.size, bool)
    knots, loss, norms, height = list[Values](), list[float](), list[float](), -np.inf
    stopped = None
    with computing(config):
        measured, values = whole_loss(model, data, config), cast(theta, config)
        for first, second in merging:
            one, two = sorted((int(stands[first]), int(stands[second])))
            if one == two:
                raise InputError(f"got the pair {(first, second)}, whose units are merged already: {pairs!r}.")
            half = halfway(model, layer, config, measured, values, (one, two), silent)
            knots += [{name: leaf[i] for name, leaf in half.knots.items()} for i in range(len(half.heights) + 1)]
            height = max(height, float(half.heights.max()))
            loss.append(float(half.loss[-1]))
            norms.append(float(half.gradient_norm[-1]))
            stands[stands == two] = one
            if half.stopped:
                stopped = f"merging {one} and {two}: {half.stopped}"
                break
            walk = Rearrangement(model, layer, knots[-1], (one, two))
            walk.give(two, one, f"unit {one} takes over what reads unit {two}")
            knots.append(walk.here)
            silent[two] = True
            values = walk.here
        clusters = tuple(tuple(np.flatnonzero(stands == unit).tolist()) for unit in np.unique(stands))
        clusters = tuple(cluster for cluster in clusters if len(cluster) > 1)
        if stopped is None:
            walk = Rearrangement(model, layer, knots[-1], merging[-1])
            for cluster in clusters:
                for unit in cluster[1:]:
                    walk.make(unit, cluster[0], f"unit {unit} becomes a copy of unit {cluster[0]}")
                walk.share(cluster)
            knots += walk.knots[1:]
    whole = {name: np.stack([knot[name] for knot in knots]) for name in knots[0]}
    point = None if stopped else nested(theta, knots[-1])
    measured_of = (np.array(loss), np.array(norms), height, stopped)
    return MergedUnits(Polyline(nested(theta, whole)), point, group, clusters, *measured_of)


def equal_loss_plane(model: Model, point: trees.Tree, group: str, clusters: Sequence[Sequence[int]]) -> trees.Tree:
    """An orthonormal basis of the plane of equal loss that a permutation point of order K lies in.

    point: a network in which the units of every cluster are made alike. What reads them can be shared in any way, as
    long as the sum is the same: K n_{k+1} directions for a dense layer of n_{k+1} units above, K times the weights that
    read one unit in general. Returned as a tree like `point` with a leading axis of so many: point + sum_i c_i
    basis_i is the same function for any c, not only close by. Raises InputError if units of a cluster differ.
    Source: Brea et al. 2019, Proposition 2. (That the points of the plane are all critical holds for one output
    weight a unit; with more of them the gradient need not vanish off the point itself.)
    """
    layer, sets = _clusters(model, point, group, clusters)
    values = on_host(point)
    name = layer.outgoing.name
    zero, directions = np.zeros_like(values[name]), []
    with jax.enable_x64(True):
        weights = int(layer.outputs(values, 0).size)
        for cluster in sets:
            for shares in _contrasts(len(cluster)).astype(zero.dtype):
                for i in range(weights):
                    one = np.zeros(weights, zero.dtype)
                    one[i] = 1
                    new = {**values, name: zero}
                    for unit, share in zip(cluster, shares, strict=True):
                        new = layer.with_outputs(new, unit, share * one)
                    directions.append(np.asarray(new[name]))
    basis = {
        leaf: np.stack(directions) if leaf == name else np.zeros((len(directions), *np.shape(value)), value.dtype)
        for leaf, value in values.items()
    }
    return nested(point, basis)


def _contrasts(size: int) -> np.ndarray:
    """Orthonormal vectors whose entries sum to zero: (size - 1, size), after Helmert."""
    rows = np.tril(np.ones((size, size)), -1)[1:]
    rows[np.arange(size - 1), np.arange(1, size)] = -np.arange(1, size)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _clusters(
    model: Model, point: trees.Tree, group: str, clusters: Sequence[Sequence[int]]
) -> tuple[UnitLayer, list[list[int]]]:
    check_network(model, point, "point")
    layer = unit_layer(model, group)
    try:
        sets = [[operator.index(unit) for unit in cluster] for cluster in clusters]
    except TypeError:  # one cluster that is no list of clusters, or something else that is not counted
        sets = []
    every = [unit for cluster in sets for unit in cluster]
    if not sets or min(map(len, sets)) < 2 or len(set(every)) < len(every) or not set(every) <= set(range(layer.size)):
        raise InputError(
            f"got clusters={clusters!r}, expected disjoint sets of at least two of the {layer.size} units of "
            f"{group!r}: [(0, 1), (2, 3, 4)]."
        )
    values: dict[str, Any] = on_host(point)
    with jax.enable_x64(True):
        for cluster in sets:
            made = [np.asarray(layer.parameters(values, unit)) for unit in cluster]
            if any(not np.array_equal(made[0], other) for other in made[1:]):
                raise InputError(f"units {cluster} of {group!r} are not made alike, expected a point where they are.")
    return layer, sets
