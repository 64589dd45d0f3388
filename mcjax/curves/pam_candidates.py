"""Candidate permutations of PAM's permutation half-step: roundings of the matrices, and parts of the way to one."""

from collections.abc import Callable

import jax
import numpy as np

from mcjax.errors import RunError
from mcjax.symmetry import Permutation, birkhoff_decomposition, nearest_permutation

Part = tuple[str, np.ndarray]
"""Units of a group, among which two permutations of one pair exchange units: a cycle, or several."""


def candidate_permutations(key: jax.Array, soft: Permutation, samples: int) -> Permutation:
    """Candidate hard permutations near doubly stochastic matrices.

    The first candidate is the nearest permutation, the paper's rounding (section 4.1.2). `samples` more follow: each
    draws, independently for every group, a permutation by its weight in the Birkhoff decomposition of the matrix, as
    the paper's code does.

    Args:
        key: Typed key of the draws.
        soft: Doubly stochastic matrices, float (pairs, n, n) per group.
        samples: Number of draws.

    Returns:
        int32 (pairs, candidates, n) per group.

    Raises:
        RunError: If a matrix is not finite.
    """
    for group, matrices in soft.items():
        if not np.isfinite(np.asarray(matrices)).all():
            raise RunError(
                f"the learned matrix of group {group!r} is not finite: lower the permutation learning rate, or start "
                "from other networks."
            )
    nearest = {group: nearest_permutation(matrices)[:, None] for group, matrices in soft.items()}
    if samples == 0:
        return nearest
    # A generator for each pair, so that its draws do not depend on the other pairs.
    seed = np.asarray(jax.random.key_data(key)).tolist()
    pairs = len(next(iter(nearest.values())))
    rngs = [np.random.default_rng([*seed, pair]) for pair in range(pairs)]
    drawn = {
        group: np.stack([_draw(rng, m, samples) for rng, m in zip(rngs, np.asarray(soft[group]), strict=True)])
        for group in soft
    }
    return {group: np.concatenate([nearest[group], drawn[group]], 1) for group in soft}


def _draw(rng: np.random.Generator, matrix: np.ndarray, samples: int) -> np.ndarray:
    """Permutations (samples, n) drawn by their weights in the matrix's Birkhoff decomposition."""
    weights, permutations = birkhoff_decomposition(matrix)
    return permutations[rng.choice(len(weights), samples, p=weights)]


def best_part_of_the_way(
    cost: Callable[[Permutation], np.ndarray], old: Permutation, new: Permutation
) -> tuple[Permutation, np.ndarray]:
    """The best permutation found between two, of every pair.

    Candidates are the old permutation itself; the new one of a single group; single cycles of old^-1 new; and the
    cycles together, in the order of their single costs: the best one, the best two, and so on up to all.

    Args:
        cost: The cost of candidates (pairs, candidates, n) per group, float64 (pairs, candidates), not NaN.
        old: Hard permutations, int (pairs, n) per group.
        new: Others.

    Returns:
        The permutations (pairs, n) per group, and their costs, float64 (pairs,).
    """
    old, new = ({group: np.asarray(p) for group, p in each.items()} for each in (old, new))
    pairs = range(len(next(iter(old.values()))))
    cycles = [[(group, units) for group in old for units in _cycles(old[group][i], new[group][i])] for i in pairs]
    groups = [[(group, np.flatnonzero(old[group][i] != new[group][i])) for group in old] for i in pairs]

    def tried(parts: list[list[list[Part]]]) -> tuple[Permutation, np.ndarray]:
        # Where a pair has fewer candidates than another, its old permutation is in their place.
        most = max(map(len, parts))
        candidates = {group: np.repeat(p[:, None], most, 1) for group, p in old.items()}
        for i, of_pair in enumerate(parts):
            for j, moves in enumerate(of_pair):
                for group, units in moves:
                    candidates[group][i, j, units] = new[group][i, units]
        return candidates, cost(candidates)

    singles, values = tried([[[], *([part] for part in (*cycles[i], *groups[i]))] for i in pairs])
    order = [np.argsort(values[i, 1 : 1 + len(cycles[i])]) for i in pairs]
    together = [[[cycles[i][c] for c in order[i][:count]] for count in range(2, len(order[i]) + 1)] for i in pairs]
    found = [(singles, values)]
    if any(together):
        found.append(tried(together))
    candidates = {group: np.concatenate([each[group] for each, _ in found], 1) for group in old}
    values = np.concatenate([values for _, values in found], 1)
    best = (np.arange(len(values)), values.argmin(1))
    return {group: p[best] for group, p in candidates.items()}, values[best]


def _cycles(old: np.ndarray, new: np.ndarray) -> list[np.ndarray]:
    """The cycles of old^-1 new of more than one unit, as indices of the units."""
    to = np.argsort(old)[new]
    rest, found = set(np.flatnonzero(old != new).tolist()), []
    while rest:
        cycle = [min(rest)]
        while (following := int(to[cycle[-1]])) != cycle[0]:
            cycle.append(following)
        rest -= set(cycle)
        found.append(np.array(cycle))
    return found
