"""From doubly stochastic matrices back to permutations: the candidates that PAM chooses from."""

from typing import Literal

import jax
import numpy as np

from mcjax.errors import InputError
from mcjax.symmetry import Permutation, birkhoff_decomposition, nearest_permutation

Rounding = Literal["assignment", "sampled"]


def candidates(key: jax.Array, soft: Permutation, rounding: Rounding, samples: int) -> Permutation:
    """Hard permutations near a soft P, a group's float (pairs, n, n) to its int32 (pairs, candidates, n).

    The first candidate is the linear assignment (the paper's rounding). With "sampled" there follow
    `samples` more, in each of which every group is drawn by its weight from its Birkhoff
    decomposition (the groups independently, the way of the paper's code).
    """
    for group, matrices in soft.items():
        if not np.isfinite(np.asarray(matrices)).all():
            raise InputError(
                f"the learned matrix of group {group!r} is not finite: lower the permutation learning rate, or start "
                "from other networks."
            )
    nearest = {group: nearest_permutation(matrices)[:, None] for group, matrices in soft.items()}
    if rounding == "assignment" or samples == 0:
        return nearest
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    drawn = {group: np.stack([_draw(rng, m, samples) for m in np.asarray(soft[group])]) for group in soft}
    return {group: np.concatenate([nearest[group], drawn[group]], 1) for group in soft}


def _draw(rng: np.random.Generator, matrix: np.ndarray, samples: int) -> np.ndarray:
    weights, permutations = birkhoff_decomposition(matrix)
    return permutations[rng.choice(len(weights), samples, p=weights)]
