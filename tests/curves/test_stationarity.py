"""Slopes: the tangent cone by nonnegative least squares over all permutations, gradients by finite differences."""

from dataclasses import replace
from itertools import permutations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from mcjax import FitConfig, PamConfig, bezier, fit_pam, match_activations, trees
from mcjax.curves import PermutationFitConfig
from mcjax.curves.fit import check_fit_inputs
from mcjax.curves.pam_problem import PamProblem, PamState
from mcjax.curves.stationarity import birkhoff_slope, slopes


def by_least_squares(p, G):
    """The cone is spanned by the differences of all permutation matrices from that of p (Birkhoff's theorem)."""
    n = len(p)
    rays = np.stack(
        [(np.eye(n)[list(q)] - np.eye(n)[p]).ravel() for q in permutations(range(n)) if list(q) != list(p)], 1
    )
    weights, _ = nnls(rays, -G.ravel())
    return np.linalg.norm(rays @ weights)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_the_slope_at_a_permutation_is_that_of_the_cone_of_all_others(n):
    rng = np.random.default_rng(n)
    for _ in range(4):
        p, G = rng.permutation(n), rng.normal(size=(n, n))
        expected = by_least_squares(p, G) if n > 1 else 0.0
        np.testing.assert_allclose(birkhoff_slope(jnp.asarray(p), np.float32(G)), expected, rtol=1e-3, atol=1e-5)


def test_a_permutation_that_every_other_costs_more_than_is_critical():
    G = np.float32(np.random.default_rng(0).random((6, 6)))
    p = np.array([2, 0, 1, 5, 3, 4])
    G[np.arange(6), p] = -1
    np.testing.assert_allclose(birkhoff_slope(jnp.asarray(p), G), 0, atol=1e-6)


def test_slopes_are_those_of_the_objective(ends, tiny_task, key):
    """Its gradients by one formula for all points, examples and matrices, without batches and fits."""
    curve, theta_c = bezier(tiny_task.spec), trees.scale(0.1, ends[0])
    P = match_activations(tiny_task, *ends).P
    config = PamConfig(FitConfig(epochs=1, batch_size=60, weight_decay=1e-2), objective_points=3)
    task, pairs = check_fit_inputs(key, tiny_task, curve, *ends, P, hard=True)
    problem = PamProblem.create(task, curve, config, pairs)
    curves = problem.line._replace(variables=trees.params(theta_c))
    found = slopes(problem, PamState(curves, pairs.P, np.zeros(2)))

    def height(theta_c, matrices, i):
        def at(t):
            theta = curve(*(trees.index(end, i) for end in ends), theta_c, matrices, t)
            value = tiny_task.loss(theta, tiny_task.train, key)[0]
            return value + 1e-2 / 2 * trees.dot(theta["params"], theta["params"])

        return jnp.mean(jnp.stack([at((j + 0.5) / 3) for j in range(3)]))

    # They are those of Q + R, also if the half-step descends Q alone.
    alone = replace(problem, config=replace(config, permutation=PermutationFitConfig(regularized=False)))
    chex.assert_trees_all_equal(slopes(alone, PamState(curves, pairs.P, np.zeros(2))), found)

    gradients = jax.jit(jax.grad(height, (0, 1)), static_argnums=2)
    # A bound at the norm of the largest leaf keeps its control point, and it alone, from moving outward.
    middle = trees.params(jax.vmap(curve, (0, 0, 0, 0, None))(*ends, trees.scale(2.0, theta_c), P, 0.5))
    for i in range(2):
        matrices = {group: np.eye(p.shape[1], dtype=np.float32)[p[i]] for group, p in P.items()}
        of_theta_c, of_P = gradients(trees.index(theta_c, i), matrices, i)
        np.testing.assert_allclose(found.theta_c[i], trees.norm(of_theta_c), rtol=1e-4)
        squares = sum(by_least_squares(P[group][i], np.float64(G)) ** 2 for group, G in of_P.items())
        np.testing.assert_allclose(found.P[i], np.sqrt(squares), rtol=1e-3)
        norms = {name: np.linalg.norm(leaf[i]) for name, leaf in trees.flatten(middle).items()}
        largest = max(norms, key=norms.get)
        bound = replace(problem, config=replace(config, norm_bound=float(norms[largest])))
        bounded = slopes(bound, PamState(curves, pairs.P, np.zeros(2))).theta_c[i]
        normal = trees.flatten(middle)[largest][i] / norms[largest]
        inward = min(0.0, float(np.vdot(trees.flatten(of_theta_c["params"])[largest], normal)))
        np.testing.assert_allclose(bounded**2, found.theta_c[i] ** 2 - inward**2, rtol=1e-3)


@pytest.mark.slow
def test_slopes_fall_while_a_curve_is_fitted(ends, tiny_task, key):
    settings = FitConfig(epochs=10, batch_size=20), PermutationFitConfig(epochs=1)
    config = PamConfig(*settings, iterations=2, acceptance="descent", slopes=True)
    found = fit_pam(key, tiny_task, bezier(tiny_task.spec), *ends, None, config).slopes
    assert found.theta_c.shape == found.P.shape == (2, 3)
    assert (found.theta_c[:, -1] < 0.5 * found.theta_c[:, 0]).all()
    assert (found.P > 0).all()
