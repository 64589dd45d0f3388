"""Landscapes of low-rank matrices: directions of improvement, for M = z z^T.

After Zhang 2024, Tractable Landscapes for Nonconvex Optimization (slides): Lemmas 12 and 13. All in float64.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from experiments.linear_connectivity.tractable import INPUTS, Fineness, to_matrix
from mcjax.hessian.critical_points import is_direction_of_improvement


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

        return {
            "points": len(values),
            "lemma_13_violations": int(((values > 1e-12) & ~plain).sum()),
            "constant": constant,
            "along": a_there,
            "square": s_there,
            "below": violations((1 - 1e-6) * constant),
            "above": violations((1 + 1e-6) * constant),
        }
