"""One hidden ReLU layer with an l1 penalty on the output weights: its energy, and its best fits with few units.

The rows of X are inputs, float (samples, inputs), and y are targets, float (samples,). A hidden layer W, float (units,
inputs), has the features Z(W) = max(0, X W'). With output weights b its energy is mean |y - Z b|^2 + kappa ||b||_1.

Source: Freeman and Bruna 2017, section 2.3.2.
"""

import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mcjax import trees
from mcjax.errors import InputError, check_kind, check_whole
from mcjax.shown import short_repr


@short_repr
class SparseProblem(NamedTuple):
    """A regression: inputs float64 (samples, inputs), targets float64 (samples,), and the weight of the penalty."""

    x: np.ndarray
    y: np.ndarray
    kappa: float


@short_repr
class SparseNetwork(NamedTuple):
    """A hidden layer float64 (units, inputs), its output weights (units,), and its energy."""

    units: np.ndarray
    weights: np.ndarray
    energy: float


def relu_features(x: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Z(W), float64 (samples, units)."""
    return np.maximum(x @ units.T, 0)


def energy(problem: SparseProblem, units: np.ndarray, weights: np.ndarray) -> float:
    """mean |y - Z b|^2 + kappa ||b||_1."""
    residual = problem.y - relu_features(problem.x, units) @ weights
    return float(np.square(residual).mean() + problem.kappa * np.abs(weights).sum())


def lasso(problem: SparseProblem, units: np.ndarray, allowed: np.ndarray | None = None) -> SparseNetwork:
    """The output weights of least energy for a hidden layer: delta_W(m, 0; m) of eq. 8, exact since it is convex.

    Args:
        problem: The regression.
        units: The hidden layer.
        allowed: Whether each unit may have a nonzero weight, bool (units,) (None: all).

    Returns:
        The hidden layer with these output weights.
    """
    # A slow import, needed by this function only.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lars_path_gram, lasso_path

    chosen = np.arange(len(units)) if allowed is None else np.flatnonzero(allowed)
    weights = np.zeros(len(units))
    if len(chosen):
        # The objective of scikit-learn is half of this energy.
        z, alpha = relu_features(problem.x, units[chosen]), problem.kappa / 2
        gram = z.T @ z
        with warnings.catch_warnings():
            # Almost equal units cause this warning; their energy is right all the same.
            warnings.simplefilter("ignore", ConvergenceWarning)
            start = lars_path_gram(z.T @ problem.y, gram, n_samples=len(z), alpha_min=alpha, method="lasso")[2][:, -1]
            # Coordinate descent from the result of LARS, which is fast but drops units that depend on others; and from
            # zero, since on units that are almost equal LARS can end at weights that the descent does not leave.
            options = {"alphas": [alpha], "precompute": gram, "tol": 1e-10, "max_iter": 20_000}
            ends = [lasso_path(z, problem.y, coef_init=each, **options)[1][:, -1] for each in (start, 0 * start)]
        weights[chosen] = min(ends, key=lambda each: energy(problem, units[chosen], each))
    return SparseNetwork(units, weights, energy(problem, units, weights))


def eliminate_units(problem: SparseProblem, fitted: SparseNetwork, count: int) -> SparseNetwork:
    """The same hidden layer with at most `count` nonzero output weights: an upper bound of delta_W(count, 0; m), eq. 8.

    Backward elimination from the output weights of `lasso`: of the four units with the least influence, the one whose
    removal costs least is removed, until `count` are left. Exact if the lasso has no more than `count` units.
    """
    found, allowed = fitted, fitted.weights != 0
    # Influence of a unit: its weight times the root mean square of its feature.
    size = np.sqrt(np.square(relu_features(problem.x, fitted.units)).mean(0))
    while allowed.sum() > count:
        # The four units of least influence, and the energy without each.
        weakest = np.argsort(np.where(allowed, np.abs(found.weights) * size, np.inf))[:4]
        candidates = []
        for unit in weakest[allowed[weakest]]:
            without = allowed.copy()
            without[unit] = False
            candidates.append(lasso(problem, fitted.units, without))
        found = min(candidates, key=lambda each: each.energy)
        allowed &= found.weights != 0
    return found


def rotate_units(problem: SparseProblem, found: SparseNetwork, angle: float, *, steps: int = 200) -> SparseNetwork:
    """Lower the energy by rotating units by at most `angle`: an upper bound of delta_W(count, angle; m), eq. 8.

    The robust compressibility of eq. 8, by gradient descent from the result of `eliminate_units`.

    Args:
        problem: The regression.
        found: The network to start from; units without an output weight do not rotate.
        angle: The largest angle between a unit and its start, in radians.
        steps: Steps of the descent.

    Returns:
        The network of lower energy, of the start and the end of the descent.
    """
    allowed = found.weights != 0
    if angle == 0 or not allowed.any():
        return found
    # Descend in the units, then compute their exact output weights.
    units = np.asarray(_rotate(steps, *_as_floats(problem), found.units, found.weights, angle), np.float64)
    return min(found, lasso(problem, units, allowed), key=lambda each: each.energy)


def fit_units(
    key: jax.Array, problem: SparseProblem, count: int, *, starts: int = 64, steps: int = 300
) -> SparseNetwork:
    """Fit a network of `count` units of low energy: an upper bound of the oracle risk e(count), eq. 6.

    Units are added one by one, each with the highest correlation with the residual that is found. After each, gradient
    descent on the energy moves all units. The output weights are those of `lasso`.

    Args:
        key: Key of the start vectors of units.
        problem: The regression.
        count: The number of units.
        starts: The number of start vectors of the search for each new unit.
        steps: Steps of each gradient ascent and descent.

    Returns:
        The network of least energy that was found; the output weights of superfluous units are zero.

    Raises:
        InputError: If a number is below 1, or the key or the problem is none.
    """
    trees.check_keys(key, 0)
    check_kind("problem", problem, SparseProblem, "sparse_problem(task, kappa)")
    for name, value in (("count", count), ("starts", starts), ("steps", steps)):
        check_whole(name, value)
    arrays, inputs = _as_floats(problem), problem.x.shape[1]
    units, best = np.zeros((count, inputs)), None
    units[:, 0] = 1
    found = SparseNetwork(units, np.zeros(count), energy(problem, units, np.zeros(count)))
    for i in range(count):
        # Add the unit of highest correlation with the residual.
        residual = problem.y - relu_features(problem.x, found.units) @ found.weights
        first = jax.random.normal(jax.random.fold_in(key, i), (starts, inputs))
        added = found.units.copy()
        added[i] = np.asarray(_most_correlated(steps, arrays[0], jnp.asarray(residual, first.dtype), first), np.float64)
        # Descend in all units so far; keep the network of lower energy.
        allowed = np.arange(count) <= i
        start = lasso(problem, added, allowed)
        moved = np.asarray(_descend_jointly(steps, *arrays, start.units, start.weights, allowed), np.float64)
        found = min(start, lasso(problem, moved, allowed), key=lambda each: each.energy)
        best = found if best is None or found.energy <= best.energy else best
    assert best is not None
    return best


def _as_floats(problem: SparseProblem) -> tuple[jax.Array, jax.Array, jax.Array]:
    return tuple(jnp.asarray(each, jnp.result_type(float)) for each in problem)  # type: ignore[return-value]


def _on_sphere(units: jax.Array) -> jax.Array:
    return units / jnp.maximum(jnp.linalg.norm(units, axis=-1, keepdims=True), 1e-12)


def traced_energy(x: Any, y: Any, kappa: Any, units: Any, weights: Any) -> jax.Array:
    """The energy as a pure function of arrays, for jax.

    Args:
        x: Inputs (samples, inputs).
        y: Targets (samples,).
        kappa: The weight of the penalty.
        units: The hidden layer (units, inputs).
        weights: Its output weights (units,).

    Returns:
        mean |y - Z b|^2 + kappa ||b||_1, a scalar.
    """
    residual = y - jnp.maximum(x @ units.T, 0) @ weights
    return jnp.square(residual).mean() + kappa * jnp.abs(weights).sum()


def _descend(steps: int, objective: Any, start: Any, project: Any) -> Any:
    """The result of `steps` steps of Adam with a projection after each."""
    adam = optax.adam(optax.cosine_decay_schedule(0.03, steps))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        point, state = carry
        updates, state = adam.update(jax.grad(objective)(point), state)
        return (project(optax.apply_updates(point, updates)), state), None

    return jax.lax.scan(step, (start, adam.init(start)), None, steps)[0][0]


@partial(jax.jit, static_argnums=0)
def _most_correlated(steps: int, x: jax.Array, residual: jax.Array, first: jax.Array) -> jax.Array:
    """The unit vector of highest correlation with the residual, by gradient ascent from each row of `first`."""

    def negative(units: jax.Array) -> jax.Array:
        return -jnp.abs(residual @ jnp.maximum(x @ units.T, 0)) / len(residual)

    reached = _descend(steps, lambda units: negative(units).sum(), _on_sphere(first), _on_sphere)
    return reached[negative(reached).argmin()]


@partial(jax.jit, static_argnums=0)
def _descend_jointly(
    steps: int, x: jax.Array, y: jax.Array, kappa: jax.Array, units: Any, weights: Any, allowed: jax.Array
) -> jax.Array:
    """The units (unit vectors) after a joint descent with the output weights of the allowed ones."""
    start = (jnp.asarray(units, x.dtype), jnp.asarray(weights, x.dtype))

    def project(point: tuple) -> tuple:
        return _on_sphere(point[0]), jnp.where(allowed, point[1], 0)

    return _descend(steps, lambda point: traced_energy(x, y, kappa, *point), start, project)[0]


@partial(jax.jit, static_argnums=0)
def _rotate(
    steps: int, x: jax.Array, y: jax.Array, kappa: jax.Array, units: Any, weights: Any, angle: Any
) -> jax.Array:
    """The units after a descent in which none leaves the cone of half-angle `angle` around its start."""
    norms = jnp.linalg.norm(jnp.asarray(units, x.dtype), axis=1, keepdims=True)
    origin = _on_sphere(jnp.asarray(units, x.dtype))

    def project(point: tuple) -> tuple:
        # Project a unit outside its cone to the nearest direction in it.
        moved = _on_sphere(point[0])
        cosine = jnp.clip((moved * origin).sum(1, keepdims=True), -1, 1)
        aside = _on_sphere(moved - cosine * origin)
        capped = jnp.cos(angle) * origin + jnp.sin(angle) * aside
        return jnp.where(cosine < jnp.cos(angle), capped, moved), jnp.where(used, point[1], 0)

    start = (origin, jnp.asarray(weights, x.dtype))
    used = start[1] != 0
    moved = _descend(steps, lambda point: traced_energy(x, y, kappa, *point), start, project)[0]
    return jnp.where(used[:, None], moved, origin) * norms


@short_repr
class AngleBound(NamedTuple):
    """The bounds of Proposition 2.3: lower <= value <= upper, with value = E z(w_1) z(w_2)."""

    lower: float
    value: float
    upper: float


def angle_bound(x: np.ndarray, w_1: np.ndarray, w_2: np.ndarray) -> AngleBound:
    """Bounds of the correlation of two ReLU units by the angle between them, eq. 7.

    Source: Freeman and Bruna 2017, Proposition 2.3.

    Args:
        x: Samples, float (samples, inputs).
        w_1: A unit vector, float (inputs,).
        w_2: Another unit vector.

    Returns:
        The correlation and both bounds.

    Raises:
        InputError: If a vector does not have norm 1, or if they are opposite, so that they have no bisector.
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
    # Both sides of eq. 7, by the bisector w_m and the norm of the covariance.
    cosine = float(np.clip(w_1 @ w_2, -1, 1))
    middle = (w_1 + w_2) / np.linalg.norm(w_1 + w_2)
    bisector = np.square(relu_features(x, middle[None])).mean()
    spread = float(np.linalg.norm(x.T @ x / len(x), 2))
    z = relu_features(x, np.stack([w_1, w_2]))
    upper = (1 + cosine) / 2 * bisector
    lower = upper - 2 * spread * ((1 - cosine) / 2 + 1 - cosine**2)
    return AngleBound(float(lower), float((z[:, 0] * z[:, 1]).mean()), float(upper))
