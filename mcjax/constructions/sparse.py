"""One hidden ReLU layer with an l1 penalty on the output weights: energies, and how few units do as well.

Rows of X are inputs, float (samples, inputs), y the targets, float (samples,). A hidden layer W, float (units,
inputs), has the features Z(W) = max(0, X W'), and with output weights b the energy mean |y - Z b|^2 + kappa ||b||_1.
Source: Freeman and Bruna 2017, section 2.3.2.
"""

import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mcjax.errors import InputError


class Problem(NamedTuple):
    """Inputs float64 (samples, inputs), targets float64 (samples,), and the weight of the penalty."""

    x: np.ndarray
    y: np.ndarray
    kappa: float


class Sparse(NamedTuple):
    """A hidden layer of unit vectors float64 (units, inputs), its output weights (units,), and its energy."""

    units: np.ndarray
    weights: np.ndarray
    energy: float


def features(x: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Z(W), float64 (samples, units)."""
    return np.maximum(x @ units.T, 0)


def energy(problem: Problem, units: np.ndarray, weights: np.ndarray) -> float:
    """mean |y - Z b|^2 + kappa ||b||_1."""
    residual = problem.y - features(problem.x, units) @ weights
    return float(np.square(residual).mean() + problem.kappa * np.abs(weights).sum())


def best_weights(problem: Problem, units: np.ndarray, allowed: np.ndarray | None = None) -> Sparse:
    """The output weights of least energy for a hidden layer, delta_W(m, 0; m): the lasso, convex and so exact.

    allowed: the units that may have a weight, bool (units,) (None: all).
    """
    # Here, since it takes as long to import as jax, and only this needs it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lars_path_gram, lasso_path

    chosen = np.arange(len(units)) if allowed is None else np.flatnonzero(allowed)
    weights = np.zeros(len(units))
    if len(chosen):
        z, alpha = features(problem.x, units[chosen]), problem.kappa / 2  # scikit-learn's objective is half of ours
        gram = z.T @ z
        with warnings.catch_warnings():
            # Said of units that are all but equal, where it makes no difference.
            warnings.simplefilter("ignore", ConvergenceWarning)
            start = lars_path_gram(z.T @ problem.y, gram, n_samples=len(z), alpha_min=alpha, method="lasso")[2][:, -1]
            # Quick to come close, it leaves out units that depend on others: coordinate descent ends it.
            path = lasso_path(
                z, problem.y, alphas=[alpha], precompute=gram, coef_init=start, tol=1e-10, max_iter=20_000
            )
        weights[chosen] = path[1][:, -1]
    return Sparse(units, weights, energy(problem, units, weights))


def compressed(problem: Problem, fitted: Sparse, count: int) -> Sparse:
    """The same hidden layer with a weight for `count` units at most: an upper bound of delta_W(count, 0; m).

    The compressibility of eq. 8 by elimination, from the lasso's output weights (`best_weights`): of the units with
    the least influence, that one goes whose loss costs least, until `count` are left. Where the lasso itself needs
    no more units, it is exact.
    """
    found, allowed = fitted, fitted.weights != 0
    size = np.sqrt(np.square(features(problem.x, fitted.units)).mean(0))
    while allowed.sum() > count:
        weakest = np.argsort(np.where(allowed, np.abs(found.weights) * size, np.inf))[:4]
        candidates = []
        for unit in weakest[allowed[weakest]]:
            without = allowed.copy()
            without[unit] = False
            candidates.append(best_weights(problem, fitted.units, without))
        found = min(candidates, key=lambda each: each.energy)
        allowed &= found.weights != 0
    return found


def turned(problem: Problem, found: Sparse, angle: float, *, steps: int = 200) -> Sparse:
    """Units that have a weight, turned by up to `angle` (radians) down the energy: bounds delta_W(count, angle; m).

    The robust compressibility of eq. 8, by gradient descent from what is `compressed`; never above it.
    """
    allowed = found.weights != 0
    if angle == 0 or not allowed.any():
        return found
    units = np.asarray(_turned(steps, *_single(problem), found.units, found.weights, angle), np.float64)
    return min(found, best_weights(problem, units, allowed), key=lambda each: each.energy)


def oracle(key: jax.Array, problem: Problem, count: int, *, starts: int = 64, steps: int = 300) -> Sparse:
    """A network of `count` units of low energy: an upper bound of e(count), eq. 6.

    Units are added one by one, each the best of `starts` that went up the correlation with what is left, and after
    each all move down the energy together; the output weights are the lasso's.
    """
    inputs = problem.x.shape[1]
    units, best = np.zeros((count, inputs)), None
    units[:, 0] = 1
    found = Sparse(units, np.zeros(count), energy(problem, units, np.zeros(count)))
    for i in range(count):
        residual = problem.y - features(problem.x, found.units) @ found.weights
        first = jax.random.normal(jax.random.fold_in(key, i), (starts, inputs))
        x, _, _ = _single(problem)
        added = found.units.copy()
        added[i] = np.asarray(_correlated(steps, x, jnp.asarray(residual, x.dtype), first), np.float64)
        allowed = np.arange(count) <= i
        start = best_weights(problem, added, allowed)
        moved = np.asarray(_polished(steps, *_single(problem), start.units, start.weights, allowed), np.float64)
        found = min(start, best_weights(problem, moved, allowed), key=lambda each: each.energy)
        best = found if best is None or found.energy <= best.energy else best
    if best is None:
        raise InputError(f"got count={count}, expected at least 1 unit.")
    return best


def _single(problem: Problem) -> tuple[jax.Array, jax.Array, jax.Array]:
    return tuple(jnp.asarray(each, jnp.result_type(float)) for each in problem)  # type: ignore[return-value]


def _on_sphere(units: jax.Array) -> jax.Array:
    return units / jnp.maximum(jnp.linalg.norm(units, axis=-1, keepdims=True), 1e-12)


def _energy(x: jax.Array, y: jax.Array, kappa: jax.Array, units: jax.Array, weights: jax.Array) -> jax.Array:
    residual = y - jnp.maximum(x @ units.T, 0) @ weights
    return jnp.square(residual).mean() + kappa * jnp.abs(weights).sum()


def _descend(steps: int, objective: Any, start: Any, back: Any) -> Any:
    """Adam for `steps` steps, after each of which `back` puts the point where it may be."""
    adam = optax.adam(optax.cosine_decay_schedule(0.03, steps))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        point, state = carry
        updates, state = adam.update(jax.grad(objective)(point), state)
        return (back(optax.apply_updates(point, updates)), state), None

    return jax.lax.scan(step, (start, adam.init(start)), None, steps)[0][0]


@partial(jax.jit, static_argnums=0)
def _correlated(steps: int, x: jax.Array, residual: jax.Array, first: jax.Array) -> jax.Array:
    """The unit vector of highest correlation with the residual that starts from `first` reach."""

    def against(units: jax.Array) -> jax.Array:
        return -jnp.abs(residual @ jnp.maximum(x @ units.T, 0)) / len(residual)

    reached = _descend(steps, lambda units: against(units).sum(), _on_sphere(first), _on_sphere)
    return reached[against(reached).argmin()]


@partial(jax.jit, static_argnums=0)
def _polished(
    steps: int, x: jax.Array, y: jax.Array, kappa: jax.Array, units: Any, weights: Any, allowed: jax.Array
) -> jax.Array:
    """Units after descending the energy together with the weights of those allowed."""
    start = (jnp.asarray(units, x.dtype), jnp.asarray(weights, x.dtype))

    def back(point: tuple) -> tuple:
        return _on_sphere(point[0]), jnp.where(allowed, point[1], 0)

    return _descend(steps, lambda point: _energy(x, y, kappa, *point), start, back)[0]


@partial(jax.jit, static_argnums=0)
def _turned(
    steps: int, x: jax.Array, y: jax.Array, kappa: jax.Array, units: Any, weights: Any, angle: Any
) -> jax.Array:
    """Units after descending the energy, none further than `angle` from its direction; the others as they were."""
    norms = jnp.linalg.norm(jnp.asarray(units, x.dtype), axis=1, keepdims=True)
    origin = _on_sphere(jnp.asarray(units, x.dtype))

    def within(point: tuple) -> tuple:
        moved = _on_sphere(point[0])
        cosine = jnp.clip((moved * origin).sum(1, keepdims=True), -1, 1)
        aside = _on_sphere(moved - cosine * origin)
        capped = jnp.cos(angle) * origin + jnp.sin(angle) * aside
        return jnp.where(cosine < jnp.cos(angle), capped, moved), jnp.where(used, point[1], 0)

    start = (origin, jnp.asarray(weights, x.dtype))
    used = start[1] != 0
    moved = _descend(steps, lambda point: _energy(x, y, kappa, *point), start, within)[0]
    return jnp.where(used[:, None], moved, origin) * norms


class AngleBound(NamedTuple):
    """Proposition 2.3: lower <= value <= upper, where value is E z(w_1) z(w_2)."""

    lower: float
    value: float
    upper: float


def angle_bound(x: np.ndarray, w_1: np.ndarray, w_2: np.ndarray) -> AngleBound:
    """How close the product of two ReLU units is to that of linear ones: eq. 7, on the samples x.

    w_1, w_2: unit vectors, float (inputs,), an angle alpha apart. Raises InputError if one is not of norm 1, or if
    they are opposite, so that they have no bisector. Source: Freeman and Bruna 2017, Proposition 2.3.
    """
    x, w_1, w_2 = (np.asarray(each, np.float64) for each in (x, w_1, w_2))
    if x.ndim != 2 or not len(x) or not np.isfinite(x).all() or {w_1.shape, w_2.shape} != {x.shape[1:]}:
        raise InputError(
            f"got x {x.shape}, w_1 {w_1.shape}, w_2 {w_2.shape}, expected finite samples (n, inputs) and two (inputs,)."
        )
    norms = np.linalg.norm([w_1, w_2], axis=1)
    if np.abs(norms - 1).max() > 1e-6 or np.linalg.norm(w_1 + w_2) < 1e-9:
        raise InputError(
            f"got vectors of norms {norms[0]:.6g} and {norms[1]:.6g}, expected unit vectors, not opposite."
        )
    cosine = float(np.clip(w_1 @ w_2, -1, 1))
    middle = (w_1 + w_2) / np.linalg.norm(w_1 + w_2)
    bisector = np.square(features(x, middle[None])).mean()
    spread = float(np.linalg.norm(x.T @ x / len(x), 2))
    z = features(x, np.stack([w_1, w_2]))
    upper = (1 + cosine) / 2 * bisector
    lower = upper - 2 * spread * ((1 - cosine) / 2 + 1 - cosine**2)
    return AngleBound(float(lower), float((z[:, 0] * z[:, 1]).mean()), float(upper))
