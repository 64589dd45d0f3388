"""Projections against linear algebra and quadratic programs, rounding against every permutation there is."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, minimize

from mcjax import InputError, nearest_permutation, project_birkhoff, sinkhorn
from mcjax.symmetry import birkhoff_decomposition, nearest_permutation_on_device


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


def sums_of_each(M):
    # `onto_sums` for batches.
    n = M.shape[-1]
    rows, columns = (M.sum(axis, keepdims=True) / n for axis in (-1, -2))
    return M - rows - columns + M.sum((-1, -2), keepdims=True) / n**2 + 1 / n


def nearest_doubly_stochastic(M):
    """The Euclidean projections onto the Birkhoff polytope, by Dykstra's algorithm run to convergence."""
    X, correction = M, np.zeros_like(M)
    for _ in range(20_000):
        on_sums = sums_of_each(X)
        X = np.maximum(on_sums + correction, 0)
        correction += on_sums - X
        if np.abs(X - on_sums).max() < 1e-7:
            return sums_of_each(X)
    raise AssertionError("not converged")


def test_the_oracle_of_the_nearest_is_a_quadratic_program():
    n = 3
    A = np.concatenate([np.kron(np.eye(n), np.ones((1, n))), np.kron(np.ones((1, n)), np.eye(n))])
    for M in np.random.default_rng(0).normal(size=(5, n, n)):
        np.testing.assert_allclose(sums_of_each(M), onto_sums(M), atol=1e-12)
        program = minimize(
            lambda x, M=M: ((x - M.ravel()) ** 2).sum() / 2,
            np.full(n * n, 1 / n),
            jac=lambda x, M=M: x - M.ravel(),
            method="SLSQP",
            bounds=[(0, None)] * n * n,
            # One of the six sums follows from the others.
            constraints={"type": "eq", "fun": lambda x: (A @ x - 1)[:-1], "jac": lambda _: A[:-1]},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert program.success
        np.testing.assert_allclose(nearest_doubly_stochastic(M), program.x.reshape(n, n), atol=1e-6)


@pytest.mark.parametrize(("n", "apart", "farther"), [(5, 0.035, 0.005), (16, 0.029, 0.0035), (64, 0.069, 0.0012)])
def test_how_far_the_projection_is_from_the_nearest_point(n, apart, farther):
    # The numbers in project_birkhoff's docstring.
    M = np.random.default_rng(n).normal(size=(max(4, 400 // n), n, n))
    nearest = nearest_doubly_stochastic(M)

    def distance(X, Y):
        return np.linalg.norm(np.asarray(X, np.float64) - Y, axis=(-1, -2))

    shortest = distance(M, nearest)
    after, limit = (np.asarray(project_birkhoff(M.astype(np.float32), steps)) for steps in (20, 3000))
    assert (distance(after, nearest) / shortest).mean() == pytest.approx(apart, rel=0.1)
    excess = distance(limit, M) / shortest - 1
    assert excess.min() > -1e-4
    assert excess.mean() == pytest.approx(farther, rel=0.25)


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


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7])
def test_rounding_is_the_best_of_all_permutations(n):
    for M in np.random.default_rng(n).normal(size=(20 if n < 6 else 4, n, n)):
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


@pytest.mark.parametrize(
    "fn",
    [project_birkhoff, sinkhorn, nearest_permutation, nearest_permutation_on_device, birkhoff_decomposition],
)
@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 4, 3)])
def test_only_square_matrices(fn, shape):
    with pytest.raises(InputError, match=r"expected square matrices"):
        fn(np.zeros(shape, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_only_finite_matrices_are_rounded(bad):
    with pytest.raises(InputError, match="not finite"):
        nearest_permutation(np.array([[1.0, bad], [0.0, 1.0]]))


def mixture(rng, n, count):
    """A doubly stochastic matrix inside the polytope."""
    weights = rng.dirichlet(np.ones(count))
    return sum(weight * np.eye(n)[rng.permutation(n)] for weight in weights)


def scaled_alternately(M, temperature, steps):
    X = np.exp(np.asarray(M, np.float64) / temperature)
    for _ in range(steps):
        X = X / X.sum(-1, keepdims=True)
        X = X / X.sum(-2, keepdims=True)
    return X


@pytest.mark.parametrize(("n", "temperature"), [(1, 1.0), (3, 0.3), (8, 1.0), (16, 2.0)])
def test_sinkhorn_is_positive_and_doubly_stochastic(n, temperature):
    M = np.random.default_rng(n).normal(size=(4, n, n)).astype(np.float32)
    X = np.asarray(sinkhorn(M, temperature, 500))
    assert X.min() > 0
    for axis in (-1, -2):
        np.testing.assert_allclose(X.sum(axis), 1, atol=1e-5)
    # However few the steps, columns do.
    np.testing.assert_allclose(sinkhorn(M, temperature, 1).sum(-2), 1, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 20, 300])
def test_sinkhorn_is_scaling_in_turn(steps):
    M = np.random.default_rng(0).normal(size=(7, 7))
    with jax.enable_x64(True):
        np.testing.assert_allclose(sinkhorn(M, 0.4, steps), scaled_alternately(M, 0.4, steps), rtol=1e-10)


def test_sinkhorn_of_two_by_two_is_the_logistic_function():
    for M in np.random.default_rng(0).normal(size=(5, 2, 2)).astype(np.float32):
        a = 1 / (1 + np.exp(-(M[0, 0] + M[1, 1] - M[0, 1] - M[1, 0]) / 2 / 0.7))
        np.testing.assert_allclose(sinkhorn(M, 0.7, 200), [[a, 1 - a], [1 - a, a]], atol=1e-5)


def test_sinkhorn_maximises_the_entropic_objective():
    rng, temperature = np.random.default_rng(0), 0.5
    M = rng.normal(size=(6, 6))
    with jax.enable_x64(True):
        X = np.asarray(sinkhorn(M, temperature, 2000))
    # Stationary: what is left of the gradient is a number a row plus a number a column.
    slope = M - temperature * np.log(X)
    double_centred = slope - slope.mean(0) - slope.mean(1)[:, None] + slope.mean()
    np.testing.assert_allclose(double_centred, 0, atol=1e-9)

    def value(X):
        return (M * X).sum() - temperature * (X * np.log(X)).sum()

    for share in (1e-3, 0.1, 0.9):
        for _ in range(20):
            assert value((1 - share) * X + share * mixture(rng, 6, 4)) < value(X)


def test_sinkhorn_projects_in_the_kullback_leibler_divergence():
    rng, temperature = np.random.default_rng(0), 0.3
    Y = rng.uniform(0.05, 2, (5, 5))
    with jax.enable_x64(True):
        X = np.asarray(sinkhorn(temperature * np.log(Y), temperature, 2000))

    def divergence(A, B):
        return (A * np.log(A / B) - A + B).sum()

    # Pythagoras, for every doubly stochastic Z, says that X is the nearest.
    for _ in range(10):
        Z = 0.2 * X + 0.8 * (0.9 * mixture(rng, 5, 3) + 0.02)
        assert divergence(Z, Y) == pytest.approx(divergence(Z, X) + divergence(X, Y), rel=1e-9)


def test_sinkhorn_has_the_gradient_of_finite_differences():
    weight, M, direction = np.random.default_rng(0).normal(size=(3, 5, 5))
    value = jax.jit(lambda M, temperature: jnp.sum(weight * jnp.square(sinkhorn(M, temperature, 7))))
    with jax.enable_x64(True):
        slope = (value(M + 1e-6 * direction, 0.4) - value(M - 1e-6 * direction, 0.4)) / 2e-6
        np.testing.assert_allclose(np.vdot(jax.grad(value)(M, 0.4), direction), slope, rtol=1e-6)
        slope = (value(M, 0.4 + 1e-6) - value(M, 0.4 - 1e-6)) / 2e-6
        np.testing.assert_allclose(jax.grad(value, 1)(M, 0.4), slope, rtol=1e-6)


def test_cold_sinkhorn_is_the_nearest_permutation():
    M = np.random.default_rng(0).normal(size=(5, 6, 6)).astype(np.float32)
    hard = np.eye(6)[nearest_permutation(M)]
    apart = [np.abs(np.asarray(sinkhorn(M, temperature, 20_000)) - hard).max() for temperature in (1.0, 0.004)]
    assert apart[0] > 0.1 > 1e-3 > apart[1]


def test_sinkhorn_under_jit_vmap_and_batches():
    M = np.random.default_rng(0).normal(size=(3, 5, 5)).astype(np.float32)
    expected = scaled_alternately(M, 0.5, 20)
    at = jax.jit(sinkhorn)
    for X in (sinkhorn(M, 0.5), at(M, 0.5), jax.jit(jax.vmap(sinkhorn, (0, None)))(M, 0.5)):
        np.testing.assert_allclose(X, expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [0, -1.0, np.nan])
def test_sinkhorn_needs_a_positive_temperature(temperature):
    with pytest.raises(InputError, match=r"got temperature=\S+, expected it to be positive"):
        sinkhorn(np.eye(3, dtype=np.float32), temperature)


def cost_matrices(n):
    rng = np.random.default_rng(n)
    yield from rng.normal(size=(3, n, n))
    yield from rng.integers(0, 3, (3, n, n))
    yield -10 - rng.random((n, n))
    yield np.zeros((n, n))
    yield 1e4 * rng.normal(size=(n, n))
    yield np.eye(n)[rng.permutation(n)]


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_assignment_on_the_device_is_scipys(n):
    many = np.stack(list(cost_matrices(n))).astype(np.float32)
    one, mapped = jax.jit(nearest_permutation_on_device), jax.jit(jax.vmap(nearest_permutation_on_device))
    together = np.asarray(mapped(many))
    assert together.dtype == np.int32
    for M, p in zip(many, together, strict=True):
        np.testing.assert_array_equal(np.sort(p), np.arange(n))
        exact = M.astype(np.float64)
        best = exact[linear_sum_assignment(exact, maximize=True)].sum()
        for found in (p, np.asarray(one(M))):
            assert exact[np.arange(n), found].sum() == pytest.approx(best, rel=1e-5, abs=1e-5)


def test_the_assignment_on_the_device_is_in_the_direction_of_the_host():
    M = np.eye(30, dtype=np.float32)[np.random.default_rng(0).permutation(30)]
    np.testing.assert_array_equal(nearest_permutation_on_device(M), nearest_permutation(M))
    np.testing.assert_array_equal(M[np.arange(30), nearest_permutation_on_device(M)], 1)


def greedy(M, terms):
    """The decomposition by trying all permutations at every step."""
    n = len(M)
    rest, every, found = M.astype(np.float64), np.array(list(permutations(range(n)))), []
    for _ in range(4 * terms):
        entries = rest[np.arange(n), every]
        through = (entries > 5e-4).all(1)
        if not through.any():
            break
        p = every[np.argmax(np.where(through, entries.sum(1), -np.inf))]
        weight = rest[np.arange(n), p].min()
        rest[np.arange(n), p] -= weight
        found.append((weight, tuple(p)))
    found = sorted(found, key=lambda term: -term[0])[:terms]
    return np.array([weight for weight, _ in found]), np.array([p for _, p in found])


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("terms", [1, 3, 40])
def test_the_decomposition_is_greed_over_all_permutations(n, terms):
    for seed in range(4):
        M = scaled_alternately(np.random.default_rng(seed).normal(size=(n, n)), 0.7, 2000)
        weights, found = birkhoff_decomposition(M, terms)
        expected_weights, expected = greedy(M, terms)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(weights, expected_weights / expected_weights.sum(), rtol=1e-9)


def recomposed(weights, found):
    return sum(weight * np.eye(len(p))[p] for weight, p in zip(weights, found, strict=True))


def check_terms(weights, found, M, terms):
    assert weights.shape == (len(found),)
    assert 1 <= len(found) <= terms
    assert found.dtype == np.int32
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (weights > 0).all()
    assert (np.diff(weights) <= 0).all()
    np.testing.assert_array_equal(np.sort(found, 1), np.tile(np.arange(len(M)), (len(found), 1)))
    assert (M[np.arange(len(M)), found] > 0).all()


def test_mixtures_of_permutations_without_common_entries_are_taken_apart():
    # Cyclic shifts of one permutation share no entry.
    p, weights = np.random.default_rng(0).permutation(9), [0.4, 0.3, 0.2, 0.1]
    planted = np.stack([np.roll(p, k) for k in (3, 0, 5, 1)])
    found_weights, found = birkhoff_decomposition(recomposed(weights, planted))
    np.testing.assert_array_equal(found, planted)
    np.testing.assert_allclose(found_weights, weights, rtol=1e-9)


@pytest.mark.parametrize(("n", "count"), [(4, 3), (12, 4), (60, 3)])
def test_a_mixture_of_a_few_permutations_is_put_together_again(n, count):
    for seed in range(5):
        M = mixture(np.random.default_rng(seed), n, count)
        weights, found = birkhoff_decomposition(M, 100)
        check_terms(weights, found, M, 100)
        np.testing.assert_allclose(recomposed(weights, found), M, atol=2e-3)


@pytest.mark.parametrize("n", [5, 16, 64])
def test_slightly_negative_matrices_are_taken_apart(n):
    rng = np.random.default_rng(n)
    M = np.asarray(project_birkhoff(np.eye(n, dtype=np.float32) + rng.normal(size=(n, n)).astype(np.float32)))
    assert M.min() < 0
    weights, found = birkhoff_decomposition(M)
    check_terms(weights, found, M, 11)


def test_a_diffuse_large_matrix_is_taken_apart():
    rng = np.random.default_rng(0)
    M = scaled_alternately(rng.normal(size=(300, 300)), 5.0, 50)
    weights, found = birkhoff_decomposition(M)
    check_terms(weights, found, M, 11)
    assert len(found) == 11


def test_what_has_no_permutation_inside_gives_the_nearest():
    M = np.array([[0.7, 0.7, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.6]])
    weights, found = birkhoff_decomposition(M)
    np.testing.assert_array_equal(weights, [1])
    np.testing.assert_array_equal(found, [nearest_permutation(M)])


@pytest.mark.parametrize(
    ("M", "terms"), [(np.full((3, 3), np.nan), 11), (np.full((2, 3, 3), 1 / 3), 11), (np.eye(3), 0), (np.eye(3), -1)]
)
def test_only_one_finite_matrix_is_taken_apart(M, terms):
    with pytest.raises(InputError, match=rf"terms={terms}, expected one finite matrix and at least 1 term"):
        birkhoff_decomposition(M, terms)
