"""Landscapes that theory calls tractable: what symmetry implies, and the top eigenvector of a matrix.

After Zhang 2024, Tractable Landscapes for Nonconvex Optimization (slides): permutation symmetry, Theorem 10. All in
float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from mcjax.errors import InputError, check_whole
from mcjax.hessian.critical_points import classify_point, is_direction_of_improvement

INPUTS = 8
CRITICAL = 1e-9
"""The largest gradient norm of a critical point."""


@dataclass(frozen=True)
class Fineness:
    """The fineness of the searches of tractable landscapes."""

    samples: int = 4000
    """Inputs of a generalised linear model."""
    starts: int = 64
    """Starts of its gradient descent, and of searches for its critical points."""
    descent: int = 400
    """Steps of gradient descent."""
    eigenvalues: tuple[float, ...] = (3.0, 2.0, 1.5, 1.0, 0.5, 0.25)
    """Eigenvalues of the matrix whose top eigenvector is learned."""
    searches: int = 600
    """Starts of searches for its critical points."""
    grid: int = 100
    """Points per unit of length at which Lemmas 12 and 13 are checked."""
    sensed: int = 80
    """Measurements of matrix sensing."""

    def __post_init__(self) -> None:
        for name in ("samples", "starts", "descent", "searches", "grid", "sensed"):
            check_whole(name, getattr(self, name))
        values = self.eigenvalues
        if not values or values[-1] <= 0 or any(b >= a for a, b in pairwise(values)):
            raise InputError(f"got eigenvalues={values}, expected positive ones, decreasing.")


def to_matrix(M: jax.Array, x: jax.Array) -> jax.Array:
    """||M - x x^T||^2 / 4, whose minimum is at the top eigenvector of M."""
    return jnp.square(M - jnp.outer(x, x)).sum() / 4


def stationary(loss: Callable[[jax.Array], jax.Array], starts: jax.Array, steps: int = 200) -> jax.Array:
    """Points where the gradient vanishes, of any kind: the method of Levenberg and Marquardt on the gradient.

    A minimum has no advantage over a saddle.

    Args:
        loss: the loss of one point (n,).
        starts: (starts, n).
        steps: iterations from every start.

    Returns:
        (starts, n): where every search ended, whether it converged or not.
    """
    gradient, hessian = jax.grad(loss), jax.hessian(loss)

    def one(start: jax.Array) -> jax.Array:
        # A damped Gauss-Newton step on |gradient|^2 / 2, of length 0.5 at most; the damping grows where it fails.
        def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
            x, damping = carry
            g, H = gradient(x), hessian(x)
            move = jnp.linalg.solve(H @ H + damping * jnp.eye(len(x)), H @ g)
            moved = x - move * jnp.minimum(1, 0.5 / jnp.maximum(jnp.linalg.norm(move), 1e-30))
            better = jnp.square(gradient(moved)).sum() < jnp.square(g).sum()
            return (jnp.where(better, moved, x), jnp.where(better, damping / 3, jnp.minimum(damping * 4, 1e6))), None

        return jax.lax.scan(step, (start, jnp.ones(())), None, steps)[0][0]

    return jax.jit(jax.vmap(one))(starts)


def distinct(points: np.ndarray, apart: float = 1e-4) -> np.ndarray:
    """One of all points that are equal up to rounding."""
    kept: list[np.ndarray] = []
    for point in points:
        if all(np.linalg.norm(point - other) > apart for other in kept):
            kept.append(point)
    return np.array(kept).reshape(len(kept), points.shape[1])


def symmetric(key: jax.Array, fineness: Fineness, units: int = 3) -> dict[str, Any]:
    """Nonconvexity that permutation symmetry implies, for h(x) = sum_i tanh(<w_i, x>) with its own outputs as targets.

    The loss is zero at all orders of the units, and not at their average, where all units are equal and h is that of
    one unit: so it is not convex. The best point of equal units is a critical point, and no minimum.

    Args:
        key: a typed key.
        fineness: the number of inputs.
        units: the number of units.
    """
    with jax.enable_x64(True):
        w_key, x_key = jax.random.split(key)
        x = jax.random.normal(x_key, (fineness.samples, INPUTS))
        theta = jax.random.normal(w_key, (units, INPUTS))
        target = jnp.tanh(x @ theta.T).sum(1)

        @jax.tree_util.Partial
        def loss(flat: jax.Array) -> jax.Array:
            return jnp.square(jnp.tanh(x @ flat.reshape(units, INPUTS).T).sum(1) - target).mean() / 2

        orbit = jnp.stack([theta[jnp.array(order)] for order in permutations(range(units))])
        average = orbit.mean(0)
        alone = units * jnp.tanh(x @ theta.mean(0))
        equal = jax.jit(jax.value_and_grad(lambda v: loss(jnp.tile(v, units))))
        best = minimize(equal, theta.mean(0), jac=True, method="BFGS", options={"gtol": 1e-10})
        kind = classify_point(loss, jnp.tile(best.x, units), gradient_tolerance=1e-7)
        return {
            "units": units, "orders": len(orbit),
            "of_orders": float(jax.vmap(loss)(orbit.reshape(len(orbit), -1)).max()),
            "of_average": float(loss(average.ravel())), "apart": float(jnp.ptp(average, 0).max()),
            "of_one_unit": float(jnp.square(alone - target).mean() / 2),
            "of_equal": float(best.fun), "kind": kind.kind, "index": kind.index,
        }  # fmt: skip


def top_eigenvector(key: jax.Array, fineness: Fineness) -> dict[str, Any]:
    """Theorem 10: the critical points found from many starts, with the eigenvector and the kind of each."""
    with jax.enable_x64(True):
        eigenvalues, searches = np.array(fineness.eigenvalues), fineness.searches
        size = len(eigenvalues)
        basis_key, start_key = jax.random.split(key)
        basis = np.linalg.qr(np.asarray(jax.random.normal(basis_key, (size, size))))[0]
        M = jnp.asarray(basis * eigenvalues @ basis.T)
        loss = jax.tree_util.Partial(to_matrix, M)
        # Near zero too, where the points of small eigenvalues are.
        spread = jnp.geomspace(0.03, 1.5, searches)[:, None]
        found = np.asarray(stationary(loss, spread * jax.random.normal(start_key, (searches, size))))
        slopes = np.linalg.norm(np.asarray(jax.vmap(jax.grad(loss))(jnp.asarray(found))), axis=1)
        points = []
        for x in distinct(found[slopes < CRITICAL]):
            shares = basis.T @ x
            i = int(np.abs(shares).argmax())
            zero = bool(np.linalg.norm(x) < 1e-4)
            expected = 0 * x if zero else np.sign(shares[i]) * np.sqrt(eigenvalues[i]) * basis[:, i]
            kind = classify_point(loss, jnp.asarray(x))
            improving = is_direction_of_improvement(loss, jnp.asarray(x), jnp.asarray(basis[:, 0]), 1e-6)
            points.append({
                "eigenvector": 0 if zero else i + 1, "distance": float(np.linalg.norm(x - expected)),
                "loss": float(loss(jnp.asarray(x))), "kind": kind.kind, "index": kind.index, "lowest": kind.lowest,
                "improving": bool(improving),
            })  # fmt: skip
        points.sort(key=lambda point: (point["loss"], point["index"]))
        return {
            "eigenvalues": eigenvalues.tolist(),
            "searches": searches,
            "converged": int((slopes < CRITICAL).sum()),
            "points": points,
        }
