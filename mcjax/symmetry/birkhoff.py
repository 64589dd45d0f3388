"""Doubly stochastic matrices: projections onto the Birkhoff polytope, decomposition, and rounding to permutations."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mcjax import trees
from mcjax.errors import InputError
from mcjax.trees import at_least_float32


def project_birkhoff(M: Any, steps: int = 20) -> jax.Array:
    """A doubly stochastic matrix near M, by alternating projection. Works under jit, vmap and grad.

    Each step projects onto the nonnegative matrices, then onto those whose rows and columns sum to 1 (in closed form).
    The sums are therefore exact up to rounding, and entries can be slightly negative: for standard normal M and 20
    steps, the least entry is around -0.02 at n = 16 and -0.04 at n = 64. The limit lies in the Birkhoff polytope, but
    is not the projection of M: for such M of size n = 5, 16, 64 it is 2.1%, 0.5% and 0.1% farther away than the nearest
    point. After 20 steps, the distance of the result from that nearest point is 12%, 4% and 7% of M's distance to the
    polytope.
    Source: Neuron Alignment, section 4.1.2.

    Args:
        M: float (..., n, n).
        steps: Number of steps.

    Returns:
        Float (..., n, n), doubly stochastic up to small negative entries, in float32 at least.
    """
    M = at_least_float32(_squares(M))

    def step(_: int, X: jax.Array) -> jax.Array:
        return _onto_unit_sums(jnp.maximum(X, 0))

    return jax.lax.fori_loop(0, steps, step, M)


def _onto_unit_sums(M: jax.Array) -> jax.Array:
    """The nearest matrix whose rows and columns sum to 1."""
    n = M.shape[-1]
    rows = M.sum(-1, keepdims=True) - 1
    columns = M.sum(-2, keepdims=True) - 1
    total = M.sum((-1, -2), keepdims=True) - n
    return M - rows / n - columns / n + total / n**2


def sinkhorn(M: Any, temperature: float = 1.0, steps: int = 20) -> jax.Array:
    """The doubly stochastic X that maximises <M, X> + temperature * entropy(X), by Sinkhorn's iterations.

    Each step normalises the rows, then the columns of exp(M / temperature), in logarithms. The columns therefore sum to
    1 up to rounding; the sums of the rows converge to 1, more slowly at lower temperatures. All entries are positive.
    With M = temperature * log(Y), X is the Kullback-Leibler projection of Y. Works under jit, vmap and grad.
    Source: Cuturi 2013, "Sinkhorn Distances".

    Args:
        M: float (..., n, n).
        temperature: Weight of the entropy; positive.
        steps: Number of steps.

    Returns:
        Float (..., n, n), in float32 at least.

    Raises:
        InputError: If the temperature is not positive.
    """
    if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
        raise InputError(f"got temperature={temperature}, expected it to be positive.")
    logits = at_least_float32(_squares(M)) / temperature

    def step(_: int, X: jax.Array) -> jax.Array:
        # Normalise the rows, then the columns.
        X = X - jax.nn.logsumexp(X, -1, keepdims=True)
        return X - jax.nn.logsumexp(X, -2, keepdims=True)

    return jnp.exp(jax.lax.fori_loop(0, steps, step, logits))


def nearest_permutation(M: Any) -> np.ndarray:
    """The hard permutation P that maximises `sum_i M[i, P[i]]`, by an exact linear assignment on the host.

    Its matrix is the permutation matrix nearest to M in the Frobenius norm. Solved in float64 by scipy's
    `linear_sum_assignment`.

    Args:
        M: float (..., n, n).

    Returns:
        int32 (..., n).

    Raises:
        InputError: If M is not finite.
    """
    M = np.asarray(_squares(M), dtype=np.float64)
    if not np.isfinite(M).all():
        raise InputError("got a matrix with entries that are not finite, expected finite ones.")
    flat = M.reshape(-1, *M.shape[-2:])
    rounded = [_assignment(matrix) for matrix in flat]
    return np.asarray(rounded, dtype=np.int32).reshape(M.shape[:-1])


def nearest_permutation_on_device(M: Any) -> jax.Array:
    """`nearest_permutation` of one finite matrix (n, n), as int32 (n,), inside compiled loops.

    Works under jit and vmap, in float32, by optax's Hungarian algorithm, which is a few times slower than scipy's.
    """
    rows, columns = optax.assignment.hungarian_algorithm(-jnp.asarray(_squares(M), jnp.float32))
    return jnp.zeros(len(rows), jnp.int32).at[rows].set(columns.astype(jnp.int32))


def birkhoff_decomposition(M: Any, terms: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """A doubly stochastic M as a mixture of permutations (Birkhoff's theorem), found greedily on the host.

    Each term is the permutation with the largest sum among those whose entries all exceed 5e-4. Its least entry is its
    weight, and weight times permutation is subtracted from M. The terms of largest weight are kept, and their weights
    normalised. If there is no such permutation, the nearest permutation is the only term.
    Source: Neuron Alignment's code.

    Args:
        M: float (n, n).
        terms: Maximum number of terms.

    Returns:
        Weights (k,), which sum to 1, in decreasing order, and permutations int32 (k, n), for k <= terms.

    Raises:
        InputError: If M is not one finite matrix, or `terms` is not positive.
    """
    rest = np.asarray(_squares(M), dtype=np.float64).copy()
    if rest.ndim != 2 or not np.isfinite(rest).all() or terms < 1:
        raise InputError(f"got shape {rest.shape} and terms={terms}, expected one finite matrix and at least 1 term.")
    n = len(rest)
    found = []
    # More terms than are kept, since a later one can have a larger weight.
    for _ in range(4 * terms):
        # The permutation with the largest sum over allowed entries; no sum outweighs the penalty -n of any other entry.
        allowed = rest > 5e-4
        p = _assignment(np.where(allowed, rest, -n))
        weight = rest[np.arange(n), p].min()
        if not allowed[np.arange(n), p].all():
            break
        # Subtract it as often as its least entry allows.
        rest[np.arange(n), p] -= weight
        found.append((weight, p))
    # Keep the terms of largest weight, and normalise their weights.
    found = sorted(found, key=lambda term: -term[0])[:terms] or [(1.0, nearest_permutation(rest))]
    weights = np.array([weight for weight, _ in found])
    return weights / weights.sum(), np.array([p for _, p in found], dtype=np.int32)


def _assignment(M: np.ndarray) -> np.ndarray:
    """The permutation with the largest sum over a matrix."""
    # Imported here, since it takes a fifth of a second.
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(M, maximize=True)[1]


def _squares(M: Any) -> Any:
    """M itself. Raises InputError if it is not a batch of square matrices."""
    shape = None if isinstance(M, Mapping | str) or hasattr(M, "_fields") or trees.is_key(M) else jnp.shape(M)
    if shape is None or len(shape) < 2 or shape[-1] != shape[-2]:
        got = f"{type(M).__name__}, which is none" if shape is None else f"shape {shape}"
        raise InputError(f"got {got}, expected square matrices (..., n, n): of a P, one for each group.")
    return M
