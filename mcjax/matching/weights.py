"""Weight matching: the permutation with the largest inner product of the weights (Git Re-Basin)."""

from typing import Any

import jax
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, check_whole
from mcjax.matching.coordinate_descent import Restart, Start, descend
from mcjax.matching.match import Match
from mcjax.matching.products import weight_products
from mcjax.models.base import LeadingAxis, check_finite
from mcjax.symmetry import Permutation, PermutationSpec, SpecError
from mcjax.symmetry.permutation import check_mapping, check_permutation, is_hard
from mcjax.symmetry.spec import check_spec


def match_weights(
    key: jax.Array,
    spec: PermutationSpec,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    restarts: int = 3,
    *,
    P: Permutation | None = None,
    max_sweeps: int = 100,
) -> Match:
    """The P for which the weights of `P theta_2` are closest to those of theta_1, by coordinate descent over groups.

    Maximises the inner product of theta_1 and `P theta_2` over all floating-point leaves but batch statistics, in
    float32 at least. A sweep assigns the
    units of every group, in random order of the groups, on the host. A restart ends when a sweep changes nothing, and
    the best restart is returned. The first restart begins by propagation: the groups are matched one by one, each by
    the leaves whose other axes are matched already, from inputs, outputs, biases and norms inwards. Later restarts
    propagate in a random order of groups, and every fourth begins at random permutations. Indistinguishable units stay
    in place.
    Source: Ainsworth, Hayase and Srinivasa 2023, "Git Re-Basin: Merging Models modulo Permutation Symmetries",
    Algorithm 1; the starts by propagation are not theirs.

    Args:
        key: One typed key. All pairs use the same.
        spec: The spec of the networks, `model.spec`.
        theta_1: Variables of one network, or of several along a leading pair axis.
        theta_2: Second network, or as many, whose units are matched to those of theta_1.
        restarts: Number of restarts.
        P: group -> int32 ([pairs,] n), the start of the first restart, such as a match of activations. The objective of
            the result is at least that of P. None: propagation.
        max_sweeps: Maximum number of sweeps per restart.

    Returns:
        A `Match` whose objective is the inner product. `info["restarts"]`: the inner product after each
        restart, float64 ([pairs,] restarts). `info["sweeps"]`: the number of sweeps of each, int ([pairs,] restarts).

    Raises:
        SpecError: If endpoints, P and spec do not match.
        InputError: If weights are not finite, or a group has none of floating point.

    Example::

        match = match_weights(jax.random.key(0), model.spec, theta_1, theta_2)
        print(match.objective, match.info["restarts"])
    """
    check_spec(spec)
    for name, got in (("restarts", restarts), ("max_sweeps", max_sweeps)):
        check_whole(name, got)
    trees.check_keys(key, 0)
    axis, sizes = _check_ends(spec, theta_1, theta_2)
    check_finite(theta_1, theta_2)
    _check_floating(spec, theta_1)
    first, second = (axis.add(matched_weights(theta)) for theta in (theta_1, theta_2))
    count = len(jax.tree.leaves(theta_1)[0]) if axis.given else 1
    given = [None] * count if P is None else _check_start(spec, P, sizes, axis, count)
    seed = np.ravel(jax.random.key_data(key)).tolist()
    found = []
    for i in range(count):
        (leaves_1, size_1), (leaves_2, size_2) = (_scaled(trees.index(leaves, i)) for leaves in (first, second))
        products = weight_products(spec, sizes, leaves_1, leaves_2)
        rngs = [np.random.default_rng([*seed, r]) for r in range(restarts)]
        starts = _starts(restarts, P is not None)
        ends = [descend(products, *each, given[i], max_sweeps) for each in zip(rngs, starts, strict=True)]
        found.append(_best(ends, size_1 * size_2))
    return axis.remove(trees.stack_on_host(found))


def _starts(restarts: int, given: bool) -> list[Start]:
    first: list[Start] = ["given", "propagation"] if given else ["propagation"]
    later: list[Start] = ["random" if r % 4 == 3 else "random_propagation" for r in range(1, restarts)]
    return [*first, *later][:restarts]


def _best(restarts: list[Restart], size: float) -> Match:
    """The best restart, with objectives in units of `size`."""
    objectives = np.array([restart.objective for restart in restarts])
    # Compared in float32, the precision of the products. Of equal restarts, the first wins.
    best = restarts[int(np.argmax(objectives.astype(np.float32)))]
    sweeps = np.array([restart.sweeps for restart in restarts])
    return Match(best.P, np.float64(best.objective * size), {"restarts": objectives * size, "sweeps": sweeps})


def matched_weights(theta: trees.Tree) -> dict[str, np.ndarray]:
    """The leaves that are matched, on the host: all of floating point but batch statistics."""
    leaves = trees.on_host(trees.flatten(trees.floating(theta)))
    return {name: leaf for name, leaf in leaves.items() if not name.startswith("batch_stats/")}


def _check_floating(spec: PermutationSpec, theta: trees.Tree) -> None:
    """Raise InputError for groups whose leaves all hold integers, by which units are not matched."""
    leaves = trees.flatten(theta)
    for group in spec.groups:
        kinds = {name: leaves[name].dtype for name, *_ in spec.places(group)}
        if not any(map(trees.is_floating, (leaves[name] for name in kinds))):
            shown = ", ".join(f"{name} of {kind}" for name, kind in kinds.items())
            raise InputError(
                f"got no floating-point weights for group {group!r}: {shown}; expected some to match its units by. "
                "Give quantised networks in float32, or leave the group out: spec.without(group)."
            )


def _scaled(leaves: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
    """The weights of a network over a power of two, and that power, so that no product leaves the range of float32."""
    largest = max((float(np.abs(leaf).max(initial=0)) for leaf in leaves.values()), default=0.0)
    exponent = int(np.frexp(largest)[1])
    # Weights of usual sizes stay as they are, without a copy.
    if abs(exponent) < 20:
        return leaves, 1.0
    return {name: _times(leaf, 2.0**-exponent) for name, leaf in leaves.items()}, 2.0**exponent


def _times(leaf: np.ndarray, factor: float) -> np.ndarray:
    wide = np.complex128 if np.iscomplexobj(leaf) else np.float64
    return (leaf.astype(wide) * factor).astype(np.float32 if leaf.dtype.itemsize < 4 else leaf.dtype)


def _check_ends(spec: PermutationSpec, theta_1: trees.Tree, theta_2: trees.Tree) -> tuple[LeadingAxis, dict[str, int]]:
    """The pair axis, and the sizes of the groups. Raises SpecError."""
    shapes_1, shapes_2 = trees.shapes(theta_1), trees.shapes(theta_2)
    if wrong := [
        f"{name}: got {shapes_1.get(name, 'nothing')} and {shapes_2.get(name, 'nothing')}"
        for name in sorted(shapes_1.keys() | shapes_2.keys())
        if shapes_1.get(name) != shapes_2.get(name)
    ]:
        raise SpecError(
            "theta_1 and theta_2 do not match:\n  "
            + "\n  ".join(wrong)
            + "\nexpected two networks of one architecture, or as many of each."
        )
    ranks = {name: len(entries) for name, entries in spec.axes.items() if any(entries)}
    leading = {shape[:1] for shape in shapes_1.values()}
    if len(leading) == 1 and ranks and all(len(shapes_1.get(name, ())) == ranks[name] + 1 for name in ranks):
        ((pairs,),) = leading
        if not pairs:
            raise SpecError("theta_1 and theta_2 have an empty pair axis: expected at least one pair.")
        single = {name: jax.ShapeDtypeStruct(shape[1:], np.float32) for name, shape in shapes_1.items()}
        return LeadingAxis(True), spec.group_sizes(trees.nest(single))
    return LeadingAxis(False), spec.group_sizes(theta_1)


def _check_start(
    spec: PermutationSpec, P: Any, sizes: dict[str, int], axis: LeadingAxis, count: int
) -> list[Permutation]:
    """The P of the start, pair by pair. Raises SpecError."""
    check_mapping(P)
    arrays = axis.add({group: np.asarray(p) for group, p in P.items()})
    if wrong := [f"{group} {p.shape}" for group, p in arrays.items() if p.shape[:1] != (count,)]:
        raise SpecError(f"got P of {', '.join(wrong)}, expected a leading axis of {count} pairs as in the endpoints.")
    if soft := [group for group, p in arrays.items() if not is_hard(p)]:
        raise SpecError(
            f"got a soft P for {', '.join(soft)}, expected int32 (n,) for every group. "
            "Round it: {group: nearest_permutation(p) for group, p in P.items()}."
        )
    starts = [{group: p[i].astype(np.int32) for group, p in arrays.items()} for i in range(count)]
    for start in starts:
        check_permutation(spec, start, sizes)
    return starts
