"""Generalised linear models, and how fast gradient descent converges.

After Zhang 2024, Tractable Landscapes for Nonconvex Optimization (slides): equations 1 to 3, Definition 5, Theorem 6.
All in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.linear_connectivity.tractable import CRITICAL, INPUTS, Fineness, distinct, stationary
from mcjax.hessian.convergence import convergence_constants
from mcjax.hessian.critical_points import classify_point

Link = Literal["sigmoid", "leaky"]
LINKS: tuple[Link, ...] = ("sigmoid", "leaky")
RATES = {"sigmoid": 8.0, "leaky": 1.0}
SLOPE = 0.1
THERE = 1e-6
"""Points this close to the minimum count as the minimum: what is left there is rounding."""
FAR = 30.0
"""Searches that went farther follow the sigmoid to where it is flat, and have no critical point to find."""


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


def descent_rates(
    loss: Callable[[jax.Array], jax.Array], best: jax.Array, way: jax.Array, rate: float
) -> dict[str, Any]:
    """Theorem 6: how fast gradient descent converged, beside what each condition of Definition 5 predicts.

    With g the gradient, h the rate and mu the least ratio of a condition along the way, and with the smoothness that
    its proof uses: Polyak-Lojasiewicz, 2 (f(w') - f(w) + h ||g||^2) <= L h^2 ||g||^2, multiplies f - f* by at most
    1 - h mu (1 - h L / 2); restricted secant, ||g||^2 <= B <g, w - w*>, multiplies ||w - w*||^2 by at most
    1 - h mu (2 - h B); weak quasi-convexity, ||g||^2 <= C (f - f*), bounds the mean of f - f* over T steps by
    ||w_0 - w*||^2 / (h (2 mu - h C) T), which is no geometric rate.

    Args:
        loss: f, whose least value is zero.
        best: w* (n,).
        way: every iterate of every start (iterations, starts, n).
        rate: h.

    Returns:
        Of every condition, what it predicts and the largest that was measured; the third one's are the sum of f - f*
        until w*, by ||w_0 - w*||^2. `typical` is the geometric mean of the factor of f - f*.
    """
    f, g = (np.asarray(each) for each in jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(loss))))(way))
    away = np.asarray(way) - np.asarray(best)
    square, along, distance = (g**2).sum(2), (g * away).sum(2), (away**2).sum(2)
    going = distance > THERE**2
    step = going[:-1] & going[1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        L = (2 * (f[1:] - f[:-1] + rate * square[:-1]) / (rate**2 * square[:-1]))[step].max()
        mu, weak, secant = (each[going].min() for each in (square / f, along / f, along / distance))
        B, C = (each[going].max() for each in (square / along, square / f))
        falls, nearer = (f[1:] / f[:-1])[step], (distance[1:] / distance[:-1])[step]
    whole = np.where(going, f, 0).sum(0) / distance[0]
    return {
        "polyak_lojasiewicz": [float(1 - rate * mu * (1 - rate * L / 2)), float(falls.max())],
        "restricted_secant": [float(1 - rate * secant * (2 - rate * B)), float(nearer.max())],
        "weak_quasi_convexity": [float(1 / (rate * (2 * weak - rate * C))), float(whole.max())],
        "typical": float(np.exp(np.log(falls).mean())),
    }


def quartic(x: jax.Array) -> jax.Array:
    """||x||^4 / 4, weakly quasi-convex with mu = 4, on which gradient descent has no geometric rate."""
    return jnp.square(jnp.square(x).sum()) / 4


def quartic_rates(fineness: Fineness) -> dict[str, Any]:
    """`descent_rates` of ||x||^4 / 4 from ||x|| = 1."""
    with jax.enable_x64(True):
        start = jnp.ones((1, INPUTS)) / np.sqrt(INPUTS)
        gradient = jax.vmap(jax.grad(quartic))
        _, way = jax.lax.scan(lambda x, _: (x - 0.5 * gradient(x), x), start, None, fineness.descent)
        return descent_rates(quartic, jnp.zeros(INPUTS), way, 0.5)


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
        critical = found[(slopes < CRITICAL) & (np.linalg.norm(found, axis=1) < FAR)]
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
            "rates": descent_rates(loss, best, way, RATES[link]),
        }
