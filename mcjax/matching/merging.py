"""Many networks permuted into one order of units, and merged into their mean (Git Re-Basin, Algorithm 3)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError
from mcjax.matching.match import Match
from mcjax.matching.weights import match_weights
from mcjax.symmetry import Permutation, PermutationSpec, compose, identity_permutation, invert, permute


class MergedNetworks(NamedTuple):
    """Networks in one order of units, and their mean.

    Attributes:
        theta: The mean of the permuted networks.
        P: group -> int32 (networks, n); that of network 0 is the identity.
        objective: The sum over pairs of <P_i theta_i, P_j theta_j> over parameters, at the start and after every round,
            float64 (rounds + 1,).
    """

    theta: trees.Tree
    P: Permutation
    objective: np.ndarray


def match_to_reference(
    match: Callable[[trees.Tree, trees.Tree], Match], reference: trees.Tree, thetas: trees.Tree
) -> Permutation:
    """The permutation of each of many networks onto one reference.

    Args:
        match: A matching (theta_1, theta_2) -> Match, with all other arguments bound.
        reference: The network that the others are matched to.
        thetas: Networks along a leading axis.

    Returns:
        group -> int32 (networks, n).

    Example::

        P = match_to_reference(lambda a, b: match_activations(model, a, b, data), theta_1, thetas)
        aligned = jax.vmap(lambda P, theta: permute(model.spec, P, theta))(P, thetas)
    """
    count = jax.tree.leaves(thetas)[0].shape[0]
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
    """Networks permuted so that they lie close together, and their mean: Git Re-Basin's MergeMany.

    Round after round, each network in random order is matched by its weights to the mean of all others, from the P
    that it has, until a round changes nothing; the objective never decreases. At last all networks are brought into
    the order of units of network 0, which changes no distance. Two networks are matched once, the second to the first,
    by `match_weights`. Batch statistics do not count in the matching; they are permuted and averaged too, and should
    be re-estimated (`reestimate`, `repair`).
    Source: Ainsworth, Hayase and Srinivasa, 2023, "Git Re-Basin: Merging Models modulo Permutation Symmetries",
    Algorithm 3.

    Args:
        key: A typed key.
        spec: The groups of the networks: `model.spec`.
        thetas: Networks along a leading axis.
        P: group -> int32 (networks, n) to start from. None is the identity.
        max_rounds: The largest number of rounds.
        restarts: Restarts of every matching. None is 3, and 1 from a given P: from there, the restarts that reach more
            were measured to give worse means.

    Returns:
        The mean, the permutations, and the objective round by round.

    Raises:
        InputError: For fewer than two networks.
        SpecError: If spec, networks and P do not fit each other.

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
    # Undo the permutation of network 0, in all networks alike.
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
    """One pass over all networks, which replaces entries of `current` and `moved`. Returns whether any changed."""
    order_key, match_key = jax.random.split(key)
    changed = False
    for i in jax.random.permutation(order_key, len(networks)).tolist():
        # Algorithm 3: match network i to the mean of all others.
        others = _mean([theta for j, theta in enumerate(moved) if j != i])
        found = match_weights(jax.random.fold_in(match_key, i), spec, others, networks[i], restarts, P=current[i]).P
        theta = permute(spec, found, networks[i])
        # A gain in float32 may be rounding; in float64 it is one.
        if _dot(others, theta) > _dot(others, moved[i]):
            current[i], moved[i], changed = found, theta, True
    return changed


def _check_networks(spec: PermutationSpec, thetas: trees.Tree, max_rounds: int) -> int:
    """The number of networks. Raises InputError if there are fewer than two."""
    if not isinstance(spec, PermutationSpec):
        raise InputError(f"got a {type(spec).__name__} for the spec, expected a PermutationSpec: model.spec, perhaps.")
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(thetas)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    count = counts.pop() if len(counts) == 1 else 0
    if count < 2 or max_rounds < 1:
        got = ", ".join(map(str, dict.fromkeys(shapes[:4])))
        raise InputError(
            f"got max_rounds={max_rounds} and networks whose first leaves have shapes {got}: expected at least one "
            "round and at least two networks, along the leading axis of every leaf."
        )
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
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]) / len(leaves), *networks)


def _parameters(theta: trees.Tree) -> dict[str, np.ndarray]:
    leaves = trees.flatten(theta).items()
    return {name: np.asarray(leaf, np.float64) for name, leaf in leaves if not name.startswith("batch_stats/")}


def _dot(a: trees.Tree, b: trees.Tree) -> float:
    left, right = _parameters(a), _parameters(b)
    return float(sum(np.vdot(left[name], right[name]) for name in left))


def _objective(networks: list[trees.Tree]) -> float:
    return sum(_dot(a, b) for i, a in enumerate(networks) for b in networks[:i])
