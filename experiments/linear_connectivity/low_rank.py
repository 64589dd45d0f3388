"""Landscapes of low-rank matrices: directions of improvement, second-order points, sensing and completion.

After Zhang 2024, Tractable Landscapes for Nonconvex Optimization (slides): Definition 9, Lemmas 12 and 13, M = Z Z^T
of any rank, matrix sensing and matrix completion. All in float64.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from experiments.linear_connectivity.tractable import CRITICAL, INPUTS, Fineness, stationary, to_matrix
from mcjax.hessian.critical_points import is_direction_of_improvement

TAUS = (0.01, 0.1, 0.25, 0.5, 0.9)
"""Values of Definition 9's tau."""
Known = Literal["all entries", "sensing", "completion"]
PROBLEMS: tuple[tuple[Known, int], ...] = (
    ("all entries", 1), ("all entries", 3), ("sensing", 2), ("completion", 2),
)  # fmt: skip
"""Known parts of M = Z Z^T, and its rank."""
SEEN = 0.8
"""The share of entries that are known in completion."""


def lemma_12(starts: np.ndarray) -> tuple[float, float, float]:
    """The largest c of Lemma 12, by sequential quadratic programming, and where it is reached.

    With a = <x, z> and s = ||x||^2, 4 f = 1 - 2 a^2 + s^2, the slopes are (s^2 - a^2) / sqrt(s) along x and a (s - 1)
    along z, and the curvatures 3 s - a^2 / s and s + 2 a^2 - 1. Where neither curvature is below -1/4, let m be the
    larger slope: the lemma says that f <= tau wherever m <= c tau, for all tau < 1, so that c is at most
    m / min(f, 1) at every such point.

    Args:
        starts: a and s of every start (starts, 2). By symmetry a >= 0.

    Returns:
        The least m / min(f, 1), and a and s there.
    """

    def loss(a: float, s: float) -> float:
        return (1 - 2 * a**2 + s**2) / 4

    def slopes(a: float, s: float) -> np.ndarray:
        return np.array([(s**2 - a**2) / np.sqrt(s), a * (s - 1)])

    def constraints(v: np.ndarray) -> np.ndarray:
        a, s, c = v
        f, both = loss(a, s), slopes(a, s)
        curved = [3 * s - a**2 / s + 0.25, s + 2 * a**2 - 0.75]
        # Near the minimum f falls faster than the slopes, and at it both sides of c f >= m are zero.
        return np.array([*(c * f - both), *(c * f + both), *(c - both), *(c + both), *curved, s - a**2, a, f - 0.01])

    def searched(start: np.ndarray) -> Any:
        a, s = start
        c = np.abs(slopes(a, s)).max() / min(loss(a, s), 1.0)
        given = {"type": "ineq", "fun": constraints}
        bounds = [(0, None), (1e-6, None), (0, None)]
        options = {"ftol": 1e-14, "maxiter": 500}
        return minimize(lambda v: v[2], [a, s, c], bounds=bounds, constraints=given, method="SLSQP", options=options)

    found = [each for each in map(searched, starts) if constraints(each.x).min() > -1e-9]
    a, s, c = min((each.x for each in found), key=lambda v: float(v[2]))
    return float(c), float(a), float(s)


def directions(key: jax.Array, fineness: Fineness) -> dict[str, Any]:
    """Lemmas 12 and 13, for M = z z^T: x and z as directions of improvement, and the largest c of Lemma 12.

    The loss and its derivatives depend on <x, z> and on the length of the part of x orthogonal to z alone, so that a
    grid over these two, each point in a direction of its own, covers all cases. The best of them start `lemma_12`.
    """
    with jax.enable_x64(True):
        z_key, x_key = jax.random.split(key)
        z = jax.random.normal(z_key, (INPUTS,))
        z = z / jnp.linalg.norm(z)
        half = np.arange(3 * fineness.grid // 2 + 1) / fineness.grid
        along, across = (each.ravel() for each in np.meshgrid(np.r_[-half[:0:-1], half], half))
        a, square = np.abs(along), along**2 + across**2
        with np.errstate(invalid="ignore", divide="ignore"):
            limits = np.maximum(np.abs(square**2 - a**2) / np.sqrt(square), a * np.abs(square - 1))
            limits = limits / np.minimum((1 - 2 * a**2 + square**2) / 4, 1)
            straight = (3 * square - a**2 / square >= -0.25) & (square + 2 * a**2 >= 0.75)
        straight &= np.hypot(a - 1, across) > 0.1  # the minimum
        best = np.where(straight, limits, np.inf).argsort()[:20]
        constant, a_there, s_there = lemma_12(np.stack([a, square], 1)[best])
        # The grid, and the point where c is reached.
        along, across = np.r_[along, a_there], np.r_[across, np.sqrt(s_there - a_there**2)]
        away = jax.random.normal(x_key, (len(along), INPUTS))
        away = away - (away @ z)[:, None] * z[None]
        x = along[:, None] * z[None] + across[:, None] * away / jnp.linalg.norm(away, axis=1)[:, None]
        loss = jax.tree_util.Partial(to_matrix, jnp.outer(z, z))
        values = np.asarray(jax.vmap(loss)(x))

        @jax.jit
        @partial(jax.vmap, in_axes=(0, 0, None))
        def improves(x: jax.Array, epsilon: Any, gamma: Any) -> jax.Array:
            return jnp.stack([is_direction_of_improvement(loss, x, each, epsilon, gamma) for each in (x, z)]).any()

        # At 0, and where both slopes vanish by symmetry, rounding is no slope.
        plain = np.asarray(improves(x, np.full(len(x), 1e-12), 0.0))

        def violations(c: float) -> int:
            # No tau below f and 1 is worse than the largest; where c is reached the curvature is -1/4, up to rounding.
            neither = ~np.asarray(improves(x, c * np.minimum(values, 1), 0.25 + 1e-8))
            return int((neither & (values > 1e-12)).sum())

        slopes, lowest = map(np.asarray, jax.jit(jax.vmap(partial(_second_order, loss)))(x))
        second_order = [
            {"tau": tau, "lemma_12": [constant * tau, 0.25], "tolerances": list(tolerances(tau))}
            | {"least": [float(slopes[(values > tau) & (lowest >= -g)].min()) for g in (0.25, tolerances(tau)[1])]}
            for tau in TAUS
        ]
        return {
            "points": len(values),
            "lemma_13_violations": int(((values > 1e-12) & ~plain).sum()),
            "constant": constant,
            "along": a_there,
            "square": s_there,
            "below": violations((1 - 1e-6) * constant),
            "above": violations((1 + 1e-6) * constant),
            "second_order": second_order,
        }


def _second_order(loss: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The norm of the gradient and the lowest eigenvalue of the Hessian at a point (n,)."""
    return jnp.linalg.norm(jax.grad(loss)(x)), jnp.linalg.eigvalsh(jax.hessian(loss)(x))[0]


def tolerances(tau: float, eigenvalue: float = 1.0) -> tuple[float, float]:
    """Epsilon and gamma of Definition 9: no (epsilon, gamma)-SOSP of ||Z Z^T - X X^T||^2 / 4 has f > tau.

    Let D = X - Z R for the rotation R with the least ||D||, and u the least eigenvalue of Z Z^T that is not zero. Then
    D^T H D <= 4 <grad f, D> - 2 f (Ge, Jin and Zheng 2017, Lemma 7, for this f) and ||D||^2 <= 2 f / ((sqrt(2) - 1) u)
    (Tu et al. 2016, Lemma 5.4). At a SOSP 2 f <= 4 epsilon ||D|| + gamma ||D||^2. With gamma = (sqrt(2) - 1) u / 2 the
    last term is at most f, and f <= 32 epsilon^2 / ((sqrt(2) - 1) u).

    Args:
        tau: how far the loss may be above its minimum, zero.
        eigenvalue: u.

    Example::

        epsilon, gamma = tolerances(0.1)
    """
    share = (np.sqrt(2) - 1) * eigenvalue
    return float(np.sqrt(share * tau / 32)), float(share / 2)


def difference(X: jax.Array, Z: jax.Array) -> jax.Array:
    """X - Z R (n, r) for the orthogonal R with the least distance; of one column x - z or x + z, by the sign of <x, z>.

    X and Z are (n, r). Source: the slides on Lemma 13, with R by the singular vectors of Z^T X (Procrustes).
    """
    U, _, V = jnp.linalg.svd(Z.T @ X)
    return X - Z @ U @ V


def to_measurements(A: jax.Array, M: jax.Array, bound: float, x: jax.Array) -> jax.Array:
    """sum_i <A_i, M - X X^T>^2 / 4 + sum_j (||X_j|| - bound)_+^4, where rows X_j keep to the bound (Ge et al. 2016).

    Args:
        A: (measurements, n, n).
        M: (n, n).
        bound: the length of a row from which on it costs; inf for no such term.
        x: the entries of X (n r,).
    """
    X = x.reshape(len(M), -1)
    squares = jnp.square(X).sum(1)
    long = squares > bound**2
    excess = jnp.where(long, jnp.sqrt(jnp.where(long, squares, 1.0)) - bound, 0.0)
    return jnp.square(jnp.tensordot(A, M - X @ X.T, 2)).sum() / 4 + (excess**4).sum()


def measurements(key: jax.Array, known: Known, size: int, sensed: int) -> jax.Array:
    """The measurements of a symmetric matrix (n, n), scaled so that the squares sum to about its own: (k, n, n).

    Args:
        key: a typed key.
        known: all entries, products with Gaussian matrices (sensing), or some entries (completion).
        size: n.
        sensed: the number of Gaussian matrices.
    """
    if known == "sensing":
        A = jax.random.normal(key, (sensed, size, size)) / np.sqrt(sensed)
        return (A + A.mT) / 2
    entries = jnp.eye(size**2).reshape(-1, size, size)
    if known == "all entries":
        return entries
    upper = jnp.triu(jax.random.uniform(key, (size, size)) < SEEN)
    return entries[(upper | upper.T).ravel()] / np.sqrt(SEEN)


def factorised(key: jax.Array, known: Known, rank: int, fineness: Fineness) -> dict[str, Any]:
    """The critical points found for M = Z Z^T, and X - Z R as a direction of improvement there and at random points."""
    with jax.enable_x64(True):
        Z_key, A_key, start_key = jax.random.split(key, 3)
        Z = jax.random.normal(Z_key, (INPUTS, rank)) / np.sqrt(INPUTS)
        M = Z @ Z.T
        bound = 2 * float(jnp.linalg.norm(Z, axis=1).max()) if known == "completion" else np.inf
        A = measurements(A_key, known, INPUTS, fineness.sensed)
        loss = jax.tree_util.Partial(to_measurements, A, M, bound)
        count = fineness.searches
        starts = jnp.geomspace(0.01, 2.0, count)[:, None] * jax.random.normal(start_key, (count, INPUTS * rank))

        @jax.jit
        @jax.vmap
        def measured(x: jax.Array) -> tuple[jax.Array, ...]:
            X = x.reshape(INPUTS, rank)
            improving = is_direction_of_improvement(loss, x, difference(X, Z).ravel(), 1e-8)
            return loss(x), jnp.linalg.norm(X @ X.T - M), improving, *_second_order(loss, x)

        each = (np.asarray(part) for part in measured(jnp.concatenate([starts, stationary(loss, starts)])))
        values, errors, improving, slopes, lowest = each
        found = (np.arange(2 * count) >= count) & (slopes < CRITICAL)
        best = found & (values < 1e-12)
        others = found & ~best
        eigenvalues = np.linalg.eigvalsh(M)[-rank:]
        bounds = [(tau, *tolerances(tau, eigenvalues[0])) for tau in TAUS]
        beyond = [(values > tau) & (slopes <= epsilon) & (lowest >= -gamma) for tau, epsilon, gamma in bounds]
        return {
            "known": known, "rank": rank, "eigenvalues": eigenvalues.tolist(), "measurements": len(A),
            "searches": count, "converged": int(found.sum()), "global": int(best.sum()),
            "equal": int((best & (errors < 1e-4)).sum()), "others": int(others.sum()),
            "spurious": int((others & (lowest >= -1e-8)).sum()),
            "lowest": float(lowest[others].max()) if others.any() else None,
            "levels": np.unique(values[found].round(8)).tolist(),
            "improving": int(improving[others].sum()), "improving_at_random": int(improving[:count].sum()),
            # Definition 9's tolerances are for all entries.
            "beyond": int(np.sum(beyond)) if known == "all entries" else None,
        }  # fmt: skip
