"""Landscapes that theory calls tractable: generalised linear models, and the top eigenvector of a matrix.

After Zhang 2024, Tractable Landscapes for Nonconvex Optimization (slides): equations 1 to 3, Theorem 10. All in
float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mcjax.errors import InputError, check_whole
from mcjax.hessian.convergence import convergence_constants
from mcjax.hessian.critical_points import classify_point, is_direction_of_improvement

Link = Literal["sigmoid", "leaky"]
LINKS: tuple[Link, ...] = ("sigmoid", "leaky")
RATES = {"sigmoid": 8.0, "leaky": 1.0}
SLOPE = 0.1
INPUTS = 8
THERE = 1e-6
"""Points this close to the minimum count as the minimum: what is left there is rounding."""
FAR = 30.0
"""Searches that went farther follow the sigmoid to where it is flat, and have no critical point to find."""


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

    def __post_init__(self) -> None:
        for name in ("samples", "starts", "descent", "searches", "grid"):
            check_whole(name, getattr(self, name))
        values = self.eigenvalues
        if not values or values[-1] <= 0 or any(b >= a for a, b in pairwise(values)):
            raise InputError(f"got eigenvalues={values}, expected positive ones, decreasing.")


@dataclass(frozen=True)
class Linear:
    """The expected loss of a generalised linear model, without the constant of the noise (equation 1)."""

    link: Link

    def sigma(self, u: jax.Array) -> jax.Array:
        """The link."""
        return jax.nn.sigmoid(u) if self.link == "sigmoid" else jnp.where(u > 0, u, SLOPE * u)

    def derivative(self, u: jax.Array) -> jax.Array:
        """Its derivative."""
        if self.link == "sigmoid":
            return jax.nn.sigmoid(u) * jax.nn.sigmoid(-u)
        return jnp.where(u > 0, 1.0, SLOPE)

    def mean_derivative(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The mean of the derivative between a and b (n,), which is sigma'(xi) for a xi between them."""
        if self.link == "sigmoid":
            nodes, weights = np.polynomial.legendre.leggauss(40)
            between = a[:, None] + (b - a)[:, None] * jnp.asarray(nodes + 1)[None] / 2
            return self.derivative(between) @ jnp.asarray(weights / 2)
        low, high = jnp.minimum(a, b), jnp.maximum(a, b)
        above = (jnp.maximum(high, 0) - jnp.maximum(low, 0)) / jnp.where(high > low, high - low, 1.0)
        return SLOPE + (1 - SLOPE) * above

    def __call__(self, x: jax.Array, best: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.square(self.sigma(x @ w) - self.sigma(x @ best)).mean() / 2


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


def generalised_linear(key: jax.Array, link: Link, fineness: Fineness) -> dict[str, Any]:
    """Equation 3 at random points, the ratios of Definition 5 along gradient descent, and the critical points."""
    with jax.enable_x64(True):
        x_key, best_key, start_key = jax.random.split(key, 3)
        x = jax.random.normal(x_key, (fineness.samples, INPUTS))
        best = jax.random.normal(best_key, (INPUTS,)) / np.sqrt(INPUTS)
        model = Linear(link)
        loss = jax.tree_util.Partial(model, x, best)
        starts = 2 * jax.random.normal(start_key, (fineness.starts, INPUTS)) / np.sqrt(INPUTS)

        def both_sides(w: jax.Array) -> jax.Array:
            at, target = x @ w, x @ best
            square = jnp.square(at - target)
            right = (model.mean_derivative(target, at) * model.derivative(at) * square).mean()
            return jnp.stack([jnp.vdot(jax.grad(loss)(w), w - best), right])

        # Both sides of equation 3 at every start.
        left, right = np.asarray(jax.lax.map(both_sides, starts)).T

        def descend(w: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            return w - RATES[link] * jax.vmap(jax.grad(loss))(w), w

        # Gradient descent from every start, and the ratios along it until it is at the minimum.
        last, way = jax.jit(lambda w: jax.lax.scan(descend, w, None, fineness.descent))(starts)
        target = np.asarray(best)
        going = np.linalg.norm(np.asarray(way) - target, axis=2) > THERE
        constants = convergence_constants(loss, way.reshape(-1, INPUTS)[going.ravel()], best, value=0.0)
        shown = np.unique(np.linspace(0, going.all(1).sum() - 1, 20).astype(int))
        ratios = {}
        for name, values in constants.ratios._asdict().items():
            each = np.full(going.shape, np.nan)
            each[going] = values
            ratios[name] = each[shown].T.tolist()
        # Critical points other than the minimum.
        found = np.asarray(stationary(loss, starts))
        slopes = np.linalg.norm(np.asarray(jax.vmap(jax.grad(loss))(jnp.asarray(found))), axis=1)
        critical = found[(slopes < 1e-9) & (np.linalg.norm(found, axis=1) < FAR)]
        spurious = [point.tolist() for point in distinct(critical) if np.linalg.norm(point - target) > 1e-3]
        return {
            "identity_error": float(np.abs(left / right - 1).max()),
            "points": len(left),
            "constants": {name: float(getattr(constants, name)) for name in ratios},
            "descended": int((np.linalg.norm(np.asarray(last) - target, axis=1) < THERE).sum()),
            "searches": fineness.starts,
            "converged": len(critical),
            "spurious": spurious,
            "kind": classify_point(loss, best).kind,
            "iterations": shown.tolist(),
            "ratios": ratios,
        }


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
        for x in distinct(found[slopes < 1e-9]):
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
            "converged": int((slopes < 1e-9).sum()),
            "points": points,
        }
