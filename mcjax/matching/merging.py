"""Many networks aligned with each other, and merged into their mean (Git Re-Basin, Algorithm 3)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, check_function, check_whole
from mcjax.matching.match import Match
from mcjax.matching.products import inner_product
from mcjax.matching.weights import match_weights, matched_weights
from mcjax.shown import short_repr
from mcjax.symmetry import Permutation, PermutationSpec, compose, identity_permutation, invert, permute
from mcjax.symmetry.spec import check_spec


@short_repr
class MergedNetworks(NamedTuple):
    """Aligned networks, and their mean.

    Attributes:
        theta: The mean of the permuted networks.
        P: group -> int32 (networks, n), the identity for network 0.
        objective: The sum over pairs of networks of <P_i theta_i, P_j theta_j>, without batch statistics, at the start
            and after every round, float64 (rounds + 1,).
    """

    theta: trees.Tree
    P: Permutation
    objective: np.ndarray


def match_to_reference(
    match: Callable[[trees.Tree, trees.Tree], Match], reference: trees.Tree, thetas: trees.Tree
) -> Permutation:
    """The permutations that match many networks to one reference.

    Args:
        match: A matching (theta_1, theta_2) -> Match, with all other arguments bound.
        reference: The network that the others are matched to.
        thetas: Networks along a leading axis.

    Returns:
        group -> int32 (networks, n).

    Example::

        P = match_to_reference(lambda a, b: match_activations(task, a, b), theta_1, thetas)
        aligned = jax.vmap(lambda P, theta: permute(spec, P, theta))(P, thetas)
    """
    check_function("match(theta_1, theta_2) -> Match", match)
    count = trees.length(thetas)
    return _stacked([match(reference, trees.index(thetas, i)).P for i in range(count)])


def merge(
    key: jax.Array,
    spec: PermutationSpec,
    thetas: trees.Tree,
    P: Permutation | None = None,
    *,
    max_rounds: int = 20,
    restarts: int | None = None,
) -> MergedNetworks:
    """Align any number of networks by their weights, and average them: MergeMany of Git Re-Basin.

    In every round, each network, in random order, is matched by its weights to the mean of all others, starting from
    its current P. The rounds end when one changes nothing; the objective never decreases. Finally one permutation is
    applied to all networks that makes P of network 0 the identity. Two networks are matched once, the second to the
    first. Batch statistics are ignored in the matching; they are permuted and averaged, and should be re-estimated
    afterwards (`reestimate`, `repair`). Sums are in float32 at least, and the mean has the dtypes of network 0. Leaves
    that are not floating-point are neither matched nor averaged: the mean has those of the permuted network 0.
    Source: Ainsworth, Hayase and Srinivasa 2023, "Git Re-Basin: Merging Models modulo Permutation Symmetries",
    Algorithm 3.

    Args:
        key: A typed key.
        spec: The spec of the networks, `model.spec`.
        thetas: Networks along a leading axis.
        P: group -> int32 (networks, n), the start. None: the identity.
        max_rounds: Maximum number of rounds.
        restarts: Number of restarts per matching. None: 3, or 1 from a given P, where further restarts reach larger
            inner products but gave worse means in measurements.

    Returns:
        The mean, the permutations, and the objective round by round.

    Raises:
        InputError: If there are fewer than two networks.
        SpecError: If spec, networks and P do not match.

    Example::

        merged = merge(jax.random.key(0), model.spec, thetas)
        print(merged.objective)
    """
    count = _check_networks(spec, thetas, max_rounds)
    restarts = (3 if P is None else 1) if restarts is None else restarts
    networks = [trees.index(thetas, i) for i in range(count)]
    current = _start(spec, networks, P)
    moved = [permute(spec, p, theta) for p, theta in zip(current, networks, strict=True)]
    objective = [_objective(moved)]
    # Two networks: one matching. More: rounds of Algorithm 3.
    if count == 2:
        first = None if P is None else current[1]
        current[1] = match_weights(key, spec, moved[0], networks[1], restarts, P=first).P
        moved[1] = permute(spec, current[1], networks[1])
        objective.append(_objective(moved))
    for number in range(max_rounds if count > 2 else 0):
        changed = _round(jax.random.fold_in(key, number), spec, networks, current, moved, restarts)
        objective.append(_objective(moved))
        if not changed:
            break
    # Apply the inverse permutation of network 0 to all networks.
    back = invert(current[0])
    current = [compose(back, p) for p in current]
    theta = _mean([permute(spec, p, theta) for p, theta in zip(current, networks, strict=True)])
    return MergedNetworks(theta, _stacked(current), np.asarray(objective))


def _round(
    key: jax.Array,
    spec: PermutationSpec,
    networks: list[trees.Tree],
    current: list[Permutation],
    moved: list[trees.Tree],
    restarts: int,
) -> bool:
    """One pass over all networks, which updates `current` and `moved` in place. Returns whether any changed."""
    order_key, match_key = jax.random.split(key)
    changed = False
    for i in jax.random.permutation(order_key, len(networks)).tolist():
        # Algorithm 3: match network i to the mean of all others.
        others = _mean([theta for j, theta in enumerate(moved) if j != i])
        found = match_weights(jax.random.fold_in(match_key, i), spec, others, networks[i], restarts, P=current[i]).P
        theta = permute(spec, found, networks[i])
        # Accept an increase in float64, since one in float32 may be due to rounding.
        if _dot(others, theta) > _dot(others, moved[i]):
            current[i], moved[i], changed = found, theta, True
    return changed


def _check_networks(spec: PermutationSpec, thetas: trees.Tree, max_rounds: int) -> int:
    """The number of networks. Raises InputError if there are fewer than two."""
    check_spec(spec)
    check_whole("max_rounds", max_rounds)
    count = trees.length(thetas)
    check_whole("the number of networks", count, 2)
    return count


def _start(spec: PermutationSpec, networks: list[trees.Tree], P: Permutation | None) -> list[Permutation]:
    if P is None:
        return [identity_permutation(spec, networks[0])] * len(networks)
    if any(jnp.ndim(p) != 2 or len(p) != len(networks) for p in P.values()):
        raise InputError(
            f"got P with shapes {[jnp.shape(p) for p in P.values()]}, expected ({len(networks)}, n) for every group: "
            "one hard permutation for each network."
        )
    return [trees.index(P, i) for i in range(len(networks))]


def _stacked(each: list[Permutation]) -> Permutation:
    return {group: jnp.stack([jnp.asarray(P[group]) for P in each]) for group in each[0]}


def _mean(networks: list[trees.Tree]) -> trees.Tree:
    return trees.combine(lambda *leaves: sum(leaves[1:], leaves[0]) / len(leaves), *networks)


def _dot(a: trees.Tree, b: trees.Tree) -> float:
    left, right = matched_weights(a), matched_weights(b)
    return sum(inner_product(left[name], right[name]) for name in left)


def _objective(networks: list[trees.Tree]) -> float:
    return sum(_dot(a, b) for i, a in enumerate(networks) for b in networks[:i])
