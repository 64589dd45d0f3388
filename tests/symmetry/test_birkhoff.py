"""Projections against linear algebra, rounding against every permutation there is."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import InputError, nearest_permutation, project_birkhoff


def onto_sums(M):
    n = len(M)
    ones = np.ones((1, n))
    A = np.concatenate([np.kron(np.eye(n), ones), np.kron(ones, np.eye(n))])
    # The nearest point of {x: A x = 1}, by the pseudo-inverse.
    return (M.ravel() - np.linalg.pinv(A) @ (A @ M.ravel() - 1)).reshape(n, n)


def alternating(M, steps):
    M = onto_sums(M)
    for _ in range(steps):
        M = onto_sums(np.maximum(M, 0))
    return M


@pytest.mark.parametrize(("n", "steps"), [(1, 20), (2, 20), (5, 0), (5, 1), (5, 20)])
def test_projection_is_the_alternating_one(n, steps):
    M = np.random.default_rng(n).normal(size=(n, n))
    np.testing.assert_allclose(project_birkhoff(M.astype(np.float32), steps), alternating(M, steps), atol=1e-5)


@pytest.mark.parametrize(("n", "least"), [(16, -0.02), (64, -0.04)])
def test_twenty_steps_come_close(n, least):
    M = np.asarray(project_birkhoff(np.random.default_rng(0).normal(size=(20, n, n)).astype(np.float32)))
    for axis in (-1, -2):
        np.testing.assert_allclose(M.sum(axis), 1, atol=1e-5)
    assert np.median(M.min((1, 2))) == pytest.approx(least, abs=0.005)


def test_the_limit_is_doubly_stochastic():
    M = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    assert -1e-5 < np.asarray(project_birkhoff(M, 2000)).min() < 1e-5


@pytest.mark.parametrize("M", [np.eye(4)[[2, 0, 3, 1]], np.full((4, 4), 0.25), 0.3 * np.eye(4) + 0.7 * np.eye(4)[::-1]])
def test_doubly_stochastic_matrices_stay(M):
    np.testing.assert_allclose(project_birkhoff(M.astype(np.float32)), M, atol=1e-6)


def test_projection_under_jit_vmap_and_batches():
    M = np.random.default_rng(0).normal(size=(3, 5, 5)).astype(np.float32)
    expected = np.stack([alternating(each, 20) for each in M])
    for fn in (project_birkhoff, jax.jit(project_birkhoff), jax.jit(jax.vmap(project_birkhoff))):
        np.testing.assert_allclose(fn(M), expected, atol=1e-5)


def test_projection_has_the_gradient_of_finite_differences():
    rng = np.random.default_rng(0)
    M, weight, direction = rng.normal(size=(3, 5, 5))
    value = jax.jit(lambda M: jnp.sum(weight * jnp.square(project_birkhoff(M, 5))))
    with jax.enable_x64(True):
        slope = (value(M + 1e-6 * direction) - value(M - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(np.vdot(jax.grad(value)(M), direction), slope, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_rounding_is_the_best_of_all_permutations(n):
    for M in np.random.default_rng(n).normal(size=(20, n, n)):
        best = max(permutations(range(n)), key=lambda p: M[np.arange(n), p].sum())
        np.testing.assert_array_equal(nearest_permutation(M), best)
        nearest = min(permutations(range(n)), key=lambda p: np.linalg.norm(M - np.eye(n)[list(p)]))
        assert best == nearest


def test_rounding_recovers_a_planted_permutation():
    rng = np.random.default_rng(0)
    p = rng.permutation(60)
    M = np.eye(60)[p] + rng.uniform(-0.2, 0.2, size=(60, 60))
    np.testing.assert_array_equal(nearest_permutation(M), p)
    np.testing.assert_array_equal(nearest_permutation(project_birkhoff(M)), p)


def test_rounding_takes_batches():
    M = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    P = nearest_permutation(jnp.asarray(M))
    assert P.shape == (2, 3, 4)
    assert P.dtype == np.int32
    for i in np.ndindex(2, 3):
        np.testing.assert_array_equal(P[i], nearest_permutation(M[i]))


@pytest.mark.parametrize("fn", [project_birkhoff, nearest_permutation])
@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 4, 3)])
def test_only_square_matrices(fn, shape):
    with pytest.raises(InputError, match=r"expected square matrices"):
        fn(np.zeros(shape, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_only_finite_matrices_are_rounded(bad):
    with pytest.raises(InputError, match="not finite"):
        nearest_permutation(np.array([[1.0, bad], [0.0, 1.0]]))
