"""The Hessian where units are equal: the signs of its eigenvalues, in closed form and counted (section 4.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from mcjax import trees
from mcjax.constructions.unit_layers import UnitLayer
from mcjax.hessian.critical_points import CriticalPoint, classify_point
from mcjax.hessian.products import Loss, dense_hessian
from mcjax.models.base import Model
from mcjax.permutation_points.higher_order import check_clusters, contrasts
from mcjax.shown import short_repr


@short_repr
class Signs(NamedTuple):
    """Numbers of eigenvalues by their signs."""

    negative: int
    zeros: int
    positive: int


@short_repr
class MergedHessian(NamedTuple):
    """The Hessian at a point with clusters of equal units, in the blocks that these make of it.

    Attributes:
        point: The kind of the point, and all eigenvalues.
        smaller: Signs of the block in which equal units stay equal: those of the network with one unit a cluster.
        parting: Signs of the block in which they part, from S and G alone.
        rank: The sum of rank(G) over the K units that can be removed.
        negative_S: The sum of the numbers of negative eigenvalues of S over these units.
    """

    point: CriticalPoint
    smaller: Signs
    parting: Signs
    rank: int
    negative_S: int


def merged_hessian(
    loss: Loss,
    model: Model,
    point: trees.Tree,
    group: str,
    clusters: Sequence[Sequence[int]],
    *,
    gradient_tolerance: float = 1e-6,
    zero_share: float = 1e-9,
) -> MergedHessian:
    """The eigenvalues of the Hessian at a permutation point of any order, by their signs.

    Exchanges of equal units leave the point and the loss as they are, so that the Hessian is block diagonal: all
    directions in which equal units stay equal | for every cluster of m units, m - 1 times the block of the offsets D of
    the parameters and a of the output weights of two of them, [[S, G^T], [G, 0]], with G = d^2 L / da dD. That block
    has rank(G) negative eigenvalues, as many positive ones, the signs of S on the kernel of G, and zeros otherwise.
    The first block has the signs of the Hessian of the network with one unit a cluster. All in float64.
    Source: Brea et al. 2019, sections 4.2 and 4.3; with one output weight a unit G = 0, as in Fukumizu and Amari 2000.

    Args:
        loss: A pure function of one network to a scalar.
        model: The model of the network.
        point: A network in which the units of every cluster have equal parameters and equal output weights.
        group: The group of the units.
        clusters: Disjoint sets of units, as `MergedUnits.clusters`; `[units]` of a `PermutationPath`.
        gradient_tolerance: The norm up to which the gradient counts as zero.
        zero_share: Eigenvalues and singular values up to this share of the largest eigenvalue count as zero.

    Returns:
        The eigenvalues, and their signs block by block.

    Raises:
        InputError: If units of a cluster differ, clusters are not disjoint sets of units, or as `classify_point`.

    Example::

        found = merged_hessian(loss, task.model, merged.point, merged.group, merged.clusters)
        assert found.point.index == found.smaller.negative + found.parting.negative
    """
    layer, sets = check_clusters(model, point, group, clusters, outputs=True)
    with jax.enable_x64(True):
        theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64) if trees.is_floating(leaf) else leaf, point)
        hessian = np.asarray(dense_hessian(loss, theta))
        zero = zero_share * float(np.abs(np.linalg.eigvalsh(hessian)).max())
        kind = classify_point(
            loss, theta, gradient_tolerance=gradient_tolerance, zero_tolerance=zero, dense_up_to=len(hessian)
        )
    parting, rank, negative_S, offsets = Signs(0, 0, 0), 0, 0, []
    for cluster in sets:
        copies = len(cluster) - 1
        read, made = _places(layer, theta, cluster)
        for shares in contrasts(len(cluster)):
            offsets += [_vectors(places, shares, len(hessian)) for places in (made, read)]
        D, a = offsets[-2:]
        S, G = D @ hessian @ D.T, a @ hessian @ D.T
        _, values, rows = np.linalg.svd(G)
        full = int((values > zero).sum())
        kernel = _signs(rows[full:] @ S @ rows[full:].T, zero)
        block = Signs(full + kernel.negative, len(a) - full + kernel.zeros, full + kernel.positive)
        parting = Signs(*(total + copies * each for total, each in zip(parting, block, strict=True)))
        rank, negative_S = rank + copies * full, negative_S + copies * _signs(S, zero).negative
    together = np.concatenate(offsets)
    # The directions orthogonal to all offsets: rows of V beyond their number.
    rest = np.linalg.svd(together)[2][len(together) :]
    return MergedHessian(kind, _signs(rest @ hessian @ rest.T, zero), parting, rank, negative_S)


def _signs(matrix: np.ndarray, zero: float) -> Signs:
    values = np.linalg.eigvalsh(matrix) if len(matrix) else np.zeros(0)
    negative, positive = int((values < -zero).sum()), int((values > zero).sum())
    return Signs(negative, len(values) - negative - positive, positive)


def _places(layer: UnitLayer, theta: trees.Tree, cluster: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The places of every unit's output weights, and of its parameters, among all parameters: (m, q) and (m, p)."""
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(trees.trained(theta))
        numbers = trees.flatten(trees.with_trained(theta, unravel(jnp.arange(len(flat), dtype=flat.dtype))))
        found = ([np.asarray(of(numbers, unit)) for unit in cluster] for of in (layer.outputs, layer.parameters))
        read, made = (np.stack(each).astype(int) for each in found)
    return read, made


def _vectors(places: np.ndarray, shares: np.ndarray, size: int) -> np.ndarray:
    """One vector an entry of a unit, with the shares at the places of that entry: (p, size)."""
    vectors = np.zeros((places.shape[1], size))
    vectors[np.arange(places.shape[1])[None], places] = shares[:, None]
    return vectors
