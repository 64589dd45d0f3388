"""Permutation points of higher order: several pairs of units merged, and their plane of equal loss (section 4.3)."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import check_network, on_host
from mcjax.constructions.unit_layers import UnitLayer, Values, check_units, unit_layer
from mcjax.curves.polyline import Polyline
from mcjax.errors import InputError, RunError
from mcjax.models.base import Model
from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.equal_loss import EqualLossPath
from mcjax.permutation_points.first_half import FirstHalf, first_half
from mcjax.permutation_points.problem import define_problem, tree_like
from mcjax.training.task import Task

Clusters = tuple[tuple[int, ...], ...]
"""Sets of equal units, each in increasing order."""


class MergedUnits(NamedTuple):
    """A permutation point of order K, and a path to it: K pairs of units merged one after another.

    Attributes:
        polyline: The path from theta to the point.
        point: The point, at which the units of a cluster have equal parameters and equal output weights; None if the
            path ended early.
        group: The group of the units.
        clusters: The sets of equal units.
        loss: Loss after each merger (K,).
        gradient_norm: Gradient norm after each merger (K,).
        height: Highest loss on the path.
        stopped: Place and reason of an early end, at a minimisation that did not converge; else None.
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
        """K, the number of units that can be removed without changing the function."""
        return sum(len(cluster) - 1 for cluster in self.clusters)

    @property
    def knots(self) -> trees.Tree:
        """The networks along a leading axis."""
        return self.polyline.knots

    @property
    def path(self) -> jax.tree_util.Partial:
        """The path t -> theta from the network to the point. Raises RunError if the path ended early."""
        if self.stopped:
            raise RunError(f"the path to {self.clusters} of {self.group!r} ended early: {self.stopped}")
        return self.polyline.path

    def __repr__(self) -> str:
        rest = self.stopped or f"order {self.order}, loss {self.loss[-1]:.4g}"
        return f"MergedUnits of {self.group!r}, {', '.join(map(str, self.clusters))}: {rest}"


def merge_units(
    task: Task,
    theta: trees.Tree,
    group: str,
    pairs: Sequence[tuple[int, int]],
    config: PermutationConfig | None = None,
) -> MergedUnits:
    """Merge K pairs of units one after another, to a permutation point of order K.

    Each pair is merged as in `permutation_path`; then one unit takes over the output weights of both, and the other is
    removed for all later mergers. At the end the removed units become copies again, and the units of each cluster share
    their output weights. A merged unit stands for its cluster: the pairs (0, 1), (0, 2) merge three units.
    Source: Brea et al. 2019, section 4.3.

    Args:
        task: The task, with a model; its loss in evaluation mode is minimised.
        theta: The network.
        group: The group of a hidden layer, as `print(task.model.spec)` names it.
        pairs: K pairs of its units.
        config: Steps, tolerances and precision. None: `PermutationConfig()`.

    Returns:
        The point, with the gradient norm of the last minimisation, and the path to it.

    Raises:
        InputError: As `permutation_path`, and for a pair that is merged already.
        SpecError: As `permutation_path`.
    """
    problem = define_problem(task, theta, group, config)
    layer = problem.layer
    pairs = pairs.tolist() if isinstance(pairs, np.ndarray) else pairs
    if not isinstance(pairs, Sequence) or isinstance(pairs, str) or not pairs:
        raise InputError(f"got pairs={pairs!r}, expected pairs of units of {group!r}: [(0, 1), (2, 3)].")
    checked = [check_units(layer, pair) for pair in pairs]
    halves, knots, stopped = list[FirstHalf](), list[Values](), None
    # representative[i] is the unit that stands for the cluster of unit i.
    representative, removed = np.arange(layer.size), np.zeros(layer.size, bool)
    with problem.precision:
        here = problem.start
        for pair in checked:
            first, second = sorted(int(representative[unit]) for unit in pair)
            if first == second:
                raise InputError(f"got the pair {pair}, whose units are merged already: {pairs!r}.")
            # Section 4.3: merge two of the remaining units, as in section 4.1.
            half = first_half(problem, here, (first, second), removed)
            halves.append(half)
            knots += [{name: leaf[i] for name, leaf in half.knots.items()} for i in range(len(half.heights) + 1)]
            representative[representative == second] = first
            if half.stopped:
                stopped = f"merging {first} and {second}: {half.stopped}"
                break
            # Section 4.3: shift the sum of their output weights to one of them, and remove the other.
            path = EqualLossPath(layer, knots[-1])
            path.shift_outputs(second, first)
            here = path.last
            knots.append(here)
            removed[second] = True
        clusters = _clusters_of(representative)
        if stopped is None:
            knots += _restored(layer, knots[-1], clusters)
    return MergedUnits(
        polyline=Polyline(tree_like(theta, trees.stack_on_host(knots))),
        point=None if stopped else tree_like(theta, knots[-1]),
        group=group,
        clusters=clusters,
        loss=np.array([float(half.loss[-1]) for half in halves]),
        gradient_norm=np.array([float(half.gradient_norm[-1]) for half in halves]),
        height=max(float(half.heights.max()) for half in halves),
        stopped=stopped,
    )


def _clusters_of(representative: np.ndarray) -> Clusters:
    """The sets of two or more units with one representative; `representative`, int (n,), holds that of each unit."""
    sets = (tuple(np.flatnonzero(representative == unit).tolist()) for unit in np.unique(representative))
    return tuple(cluster for cluster in sets if len(cluster) > 1)


def _restored(layer: UnitLayer, values: Values, clusters: Clusters) -> list[Values]:
    """The knots along which removed units become copies again, and share the output weights of their cluster."""
    path = EqualLossPath(layer, values)
    for first, *others in clusters:
        for unit in others:
            path.copy(first, unit)
        path.share_outputs((first, *others))
    return path.knots[1:]


def equal_loss_plane(model: Model, point: trees.Tree, group: str, clusters: Sequence[Sequence[int]]) -> trees.Tree:
    """An orthonormal basis of the plane of equal loss that contains a permutation point of order K.

    The output weights can be distributed over the units of a cluster in any way with the same sum: K n_{k+1} directions
    for a dense layer of n_{k+1} units above, in general K times the number of output weights of one unit.
    Source: Brea et al. 2019, Proposition 2. All points of the plane are critical if each unit has one output weight;
    with more output weights the gradient need not vanish away from the point.

    Args:
        model: The model of the network.
        point: A network in which the units of every cluster have equal parameters.
        group: The group of the units.
        clusters: Disjoint sets of units, as `MergedUnits.clusters`.

    Returns:
        A tree like `point` with a leading axis of directions: point + sum_i c_i basis_i is the same function for any c.

    Raises:
        InputError: If units of a cluster differ, or clusters are not disjoint sets of units.

    Example::

        basis = equal_loss_plane(model, merged.point, merged.group, merged.clusters)
    """
    layer, sets = check_clusters(model, point, group, clusters)
    values = on_host(point)
    name = layer.outgoing.name
    zero, directions = np.zeros_like(values[name]), []
    with jax.enable_x64(True):
        weights = np.eye(int(layer.outputs(values, 0).size), dtype=zero.dtype)
        for cluster in sets:
            # Proposition 2: changes of one output weight that sum to zero over the units of the cluster.
            for shares in contrasts(len(cluster)).astype(zero.dtype):
                for weight in weights:
                    new = {**values, name: zero}
                    for unit, share in zip(cluster, shares, strict=True):
                        new = layer.with_outputs(new, unit, share * weight)
                    directions.append(np.asarray(new[name]))
    still = jax.tree.map(lambda leaf: np.zeros_like(leaf) if trees.is_floating(leaf) else leaf, values)
    basis = trees.stack_on_host([{**still, name: direction} for direction in directions])
    return tree_like(point, basis)


def contrasts(size: int) -> np.ndarray:
    """Helmert contrasts: orthonormal vectors whose entries sum to zero, (size - 1, size)."""
    rows = np.tril(np.ones((size, size)), -1)[1:]
    rows[np.arange(size - 1), np.arange(1, size)] = -np.arange(1, size)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def check_clusters(
    model: Model, point: trees.Tree, group: str, clusters: Sequence[Sequence[int]], outputs: bool = False
) -> tuple[UnitLayer, list[list[int]]]:
    """The layer and the sets of units, after checking that the units of each set are equal at the point.

    Equal in their parameters; with `outputs`, in their output weights too.
    """
    check_network(model, point, "point")
    layer = unit_layer(model, group)
    try:
        sets = [[operator.index(unit) for unit in cluster] for cluster in clusters]
    except TypeError:  # one cluster in place of a list of them, or entries that are not whole numbers
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
            vectors = [np.asarray(layer.parameters(values, unit)) for unit in cluster]
            if outputs:
                vectors = [np.append(vectors[i], layer.outputs(values, unit)) for i, unit in enumerate(cluster)]
            if any(not np.array_equal(vectors[0], other) for other in vectors[1:]):
                of = "parameters or output weights" if outputs else "parameters"
                raise InputError(
                    f"got units {cluster} of {group!r} with {of} that differ, expected a point where they are equal: "
                    "merge_units(...).point."
                )
    return layer, sets
