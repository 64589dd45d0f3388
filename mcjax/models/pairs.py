"""Pairs of endpoints along a leading pair axis, with a permutation of each second endpoint."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.models.base import LeadingAxis, Networks, check_finite, leading_axis
from mcjax.symmetry import Permutation, PermutationSpec, SpecError, identity_permutation, permute
from mcjax.symmetry.permutation import check_mapping, check_permutation, is_hard


class Pairs(NamedTuple):
    """Endpoints and P with a leading pair axis.

    Attributes:
        theta_1: First endpoints, leaves (pairs, ...).
        theta_2: Second endpoints, leaves (pairs, ...).
        P: A permutation of each second endpoint, (pairs, n) or (pairs, n, n) for every group.
        axis: The pair axis of the caller's endpoints.
    """

    theta_1: trees.Tree
    theta_2: trees.Tree
    P: Permutation
    axis: LeadingAxis

    @property
    def number(self) -> int:
        """The number of pairs."""
        return len(jax.tree.leaves(self.theta_1)[0])


def pairs_of(
    networks: Networks,
    spec: PermutationSpec,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    P: Permutation | None,
    hard: bool = False,
) -> Pairs:
    """The endpoints and P with a leading pair axis.

    Args:
        networks: The model or task of all networks.
        spec: Their permutation symmetry.
        theta_1: First endpoint, or several along a leading pair axis.
        theta_2: Second endpoint, or as many.
        P: Permutation of theta_2, with the pair axis of the endpoints. None: the identity.
        hard: Whether a soft P raises an error.

    Returns:
        The pairs.

    Raises:
        InputError: If an endpoint is not finite.
        SpecError: If the endpoints are not of this model or task, the spec does not fit them, or P is not one
            permutation of its groups for every pair.
    """
    axis = leading_axis(networks, theta_1, theta_2)
    check_finite(theta_1, theta_2)
    theta_2 = trees.like(theta_1, theta_2)
    if P is not None:
        check_mapping(P)
    P = None if P is None else {group: jnp.asarray(p) for group, p in P.items()}
    theta_1, theta_2, P = axis.add((theta_1, theta_2, P))
    count = len(jax.tree.leaves(theta_1)[0])
    identity = identity_permutation(spec, trees.index(theta_1, 0))
    if P is None:
        return Pairs(theta_1, theta_2, trees.stack([identity] * count), axis)
    wrong = [group for group, p in P.items() if jnp.ndim(p) < 2 or jnp.shape(p)[0] != count]
    if wrong and axis.given:
        raise SpecError(
            f"P has no leading axis of {count} pairs in {', '.join(wrong)}: expected one permutation for each pair."
        )
    for i in range(count):
        check_permutation(spec, trees.index(P, i), {group: len(p) for group, p in identity.items()})
    if hard and (soft := [group for group, p in P.items() if not is_hard(p)]):
        raise SpecError(
            f"got matrices for {', '.join(soft)}, expected a hard P to start from: mcjax.nearest_permutation rounds."
        )
    return Pairs(theta_1, theta_2, P, axis)


def permute_pairs(spec: PermutationSpec, P: Permutation, theta: trees.Tree) -> trees.Tree:
    """P theta for every pair."""
    count = len(jax.tree.leaves(theta)[0])
    return trees.stack([permute(spec, trees.index(P, i), trees.index(theta, i)) for i in range(count)])
