"""Projections against linear algebra and quadratic programs, rounding against every permutation there is."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from scipy.optimize import linear_sum_assignment, minimize

from mcjax import InputError, nearest_permutation
from mcjax.symmetry import birkhoff_decomposition, nearest_permutation_on_device, project_birkhoff, sinkhorn

project, soft = jax.jit(project_birkhoff), jax.jit(sinkhorn)  # steps and temperatures are traced: a program a shape


def normal(n, seed=0):
    """Standard normal matrices, the same number for each n."""
    return np.random.default_rng((n, seed)).normal(size=(max(4, 400 // n), n, n))


def constraints(n):
    """The rows of A, where A x = 1 says that the rows and columns of x sum to 1."""
    return np.concatenate([np.kron(np.eye(n), np.ones((1, n))), np.kron(np.ones((1, n)), np.eye(n))])


def onto_sums(M):
    n, A = len(M), constraints(len(M))
    # The nearest point of {x: A x = 1}, by the pseudo-inverse.
    return (M.ravel() - np.linalg.pinv(A) @ (A @ M.ravel() - 1)).reshape(n, n)


def alternating(M, steps=20):
    for _ in range(steps):
        M = onto_sums(np.maximum(M, 0))
    return M


def sums_of_each(M):
    """`onto_sums` for batches."""
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


def test_projection_is_the_alternating_one():
    for n in (1, 2, 5):
        M = np.random.default_rng(n).normal(size=(n, n))
        for steps in (0, 1, 20):
            np.testing.assert_allclose(project(M.astype(np.float32), steps), alternating(M, steps), atol=1e-5)


def test_projection_of_batches_without_jit_and_under_vmap():
    M = normal(5)[:3].astype(np.float32)
    for fn in (project_birkhoff, jax.jit(jax.vmap(project_birkhoff))):
        np.testing.assert_allclose(fn(M), np.stack(list(map(alternating, M))), atol=1e-5)


def test_doubly_stochastic_matrices_stay():
    M = np.stack([np.eye(4)[[2, 0, 3, 1]], np.full((4, 4), 0.25), 0.3 * np.eye(4) + 0.7 * np.eye(4)[::-1]])
    np.testing.assert_allclose(project(M.astype(np.float32)), M, atol=1e-6)


def test_the_oracle_of_the_nearest_is_a_quadratic_program():
    A = constraints(3)
    for M in normal(3)[:5]:
        np.testing.assert_allclose(sums_of_each(M), onto_sums(M), atol=1e-12)
        program = minimize(
            lambda x, M=M: ((x - M.ravel()) ** 2).sum() / 2,
            np.full(9, 1 / 3),
            jac=lambda x, M=M: x - M.ravel(),
            method="SLSQP",
            bounds=[(0, None)] * 9,
            # One of the six sums follows from the others.
            constraints={"type": "eq", "fun": lambda x: (A @ x - 1)[:-1], "jac": lambda _: A[:-1]},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert program.success
        np.testing.assert_allclose(nearest_doubly_stochastic(M), program.x.reshape(3, 3), atol=1e-6)


@pytest.mark.parametrize(
    ("n", "least", "apart", "farther"),
    [(5, None, 0.115, 0.021), (16, -0.02, 0.037, 0.0048), (64, -0.04, 0.069, 0.0012)],
)
def test_how_far_the_projection_is_from_the_nearest_point(n, least, apart, farther):
    # The numbers in project_birkhoff's docstring.
    M = normal(n)
    nearest = nearest_doubly_stochastic(M)
    after, limit = (np.asarray(project(M.astype(np.float32), steps)) for steps in (20, 3000))

    def distance(X, Y):
        return np.linalg.norm(np.asarray(X, np.float64) - Y, axis=(-1, -2))

    shortest = distance(M, nearest)
    assert (distance(after, nearest) / shortest).mean() == pytest.approx(apart, rel=0.1)
    excess = distance(limit, M) / shortest - 1
    assert excess.min() > -1e-4
    assert excess.mean() == pytest.approx(farther, rel=0.25)
    assert limit.min() > -2e-5
    for X in (after, limit):
        np.testing.assert_allclose([X.sum(-1), X.sum(-2)], 1, atol=1e-5)
    if least is not None:
        assert np.median(after.min((1, 2))) == pytest.approx(least, abs=0.005)


def test_projection_has_the_gradient_of_finite_differences():
    M, weight, direction = np.random.default_rng(0).normal(size=(3, 5, 5))
    value = jax.jit(lambda M: jnp.sum(weight * jnp.square(project_birkhoff(M, 5))))
    with jax.enable_x64(True):
        slope = (value(M + 1e-6 * direction) - value(M - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(np.vdot(jax.grad(value)(M), direction), slope, rtol=1e-6)


def test_rounding_is_the_best_of_all_permutations():
    for n in range(1, 8):
        for M in np.random.default_rng(n).normal(size=(20 if n < 6 else 4, n, n)):
            best = max(permutations(range(n)), key=lambda p, M=M: M[np.arange(len(p)), p].sum())
            np.testing.assert_array_equal(nearest_permutation(M), best)
            assert best == min(permutations(range(n)), key=lambda p, M=M: np.linalg.norm(M - np.eye(len(p))[list(p)]))


def test_rounding_is_exact_in_float64():
    for much in (1e-12, -1e-12):
        best = [0, 1] if much > 0 else [1, 0]
        np.testing.assert_array_equal(nearest_permutation(np.array([[1 + much, 1], [1, 1]])), best)


def test_rounding_recovers_planted_permutations():
    planted = np.array([np.random.default_rng(seed).permutation(64) for seed in range(6)])
    M = np.eye(64)[planted] + np.random.default_rng(0).uniform(-0.2, 0.2, size=(6, 64, 64))
    np.testing.assert_array_equal(nearest_permutation(M), planted)
    np.testing.assert_array_equal(nearest_permutation(project(M.astype(np.float32), 20)), planted)


def test_rounding_takes_batches():
    M = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    P = nearest_permutation(jnp.asarray(M))
    assert P.shape == (2, 3, 4)
    assert P.dtype == np.int32
    for i in np.ndindex(2, 3):
        np.testing.assert_array_equal(P[i], nearest_permutation(M[i]))


BAD = np.array([[1.0, np.nan], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("fn", "args", "named"),
    [
        *(
            (fn, [np.zeros(shape, np.float32)], f"got shape {shape}, expected square")
            for fn in (
                project_birkhoff,
                sinkhorn,
                nearest_permutation,
                nearest_permutation_on_device,
                birkhoff_decomposition,
            )
            for shape in ((3,), (3, 4), (2, 4, 3))
        ),
        (nearest_permutation, [BAD], "not finite"),
        (nearest_permutation, [np.where(np.isnan(BAD), np.inf, BAD)], "not finite"),
        *((sinkhorn, [np.eye(3, dtype=np.float32), at], f"temperature={at}") for at in (0, -1.0, np.nan)),
        (birkhoff_decomposition, [BAD], "shape (2, 2) and terms=11"),
        (birkhoff_decomposition, [np.full((2, 3, 3), 1 / 3)], "shape (2, 3, 3) and terms=11"),
        *((birkhoff_decomposition, [np.eye(3), terms], f"terms={terms}") for terms in (0, -1)),
    ],
)
def test_refused(fn, args, named):
    with says(InputError, named):
        fn(*args)


def scaled_alternately(M, temperature, steps):
    X = np.exp(np.asarray(M, np.float64) / temperature)
    for _ in range(steps):
        X = X / X.sum(-1, keepdims=True)
        X = X / X.sum(-2, keepdims=True)
    return X


def test_sinkhorn_is_positive_and_doubly_stochastic():
    for n, temperature in ((1, 1.0), (3, 0.3), (8, 1.0), (16, 2.0)):
        M = np.random.default_rng(n).normal(size=(4, n, n)).astype(np.float32)
        X = np.asarray(soft(M, temperature, 500))
        assert X.min() > 0
        np.testing.assert_allclose([X.sum(-1), X.sum(-2)], 1, atol=1e-5)
        # However few the steps, columns do.
        np.testing.assert_allclose(soft(M, temperature, 1).sum(-2), 1, atol=1e-5)


def test_sinkhorn_is_scaling_in_turn_and_maximises_the_entropic_objective():
    M, temperature = np.random.default_rng(0).normal(size=(6, 6)), 0.5
    with jax.enable_x64(True):
        for steps in (1, 20, 300):
            expected = scaled_alternately(M, temperature, steps)
            np.testing.assert_allclose(soft(M, temperature, steps), expected, rtol=1e-10)
        X = np.asarray(soft(M, temperature, 2000))
    # Stationary: what is left of the gradient is a number a row plus a number a column.
    slope = M - temperature * np.log(X)
    np.testing.assert_allclose(slope - slope.mean(0) - slope.mean(1)[:, None] + slope.mean(), 0, atol=1e-9)


def test_sinkhorn_of_two_by_two_is_the_logistic_function():
    M = np.random.default_rng(0).normal(size=(5, 2, 2)).astype(np.float32)
    a = 1 / (1 + np.exp(-(M[:, 0, 0] + M[:, 1, 1] - M[:, 0, 1] - M[:, 1, 0]) / 2 / 0.7))
    expected = np.stack([a, 1 - a, 1 - a, a], 1).reshape(5, 2, 2)
    np.testing.assert_allclose(soft(M, 0.7, 200), expected, atol=1e-5)


def test_sinkhorn_projects_in_the_kullback_leibler_divergence():
    rng, temperature = np.random.default_rng(0), 0.3
    Y = rng.uniform(0.05, 2, (6, 6))
    with jax.enable_x64(True):
        X = np.asarray(soft(temperature * np.log(Y), temperature, 2000))

    def divergence(A, B):
        return (A * np.log(A / B) - A + B).sum()

    # Pythagoras, for every doubly stochastic Z, says that X is the nearest.
    for _ in range(10):
        Z = 0.2 * X + 0.8 * (0.9 * mixture(rng, 6, 3) + 0.1 / 6)
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
    apart = [np.abs(np.asarray(soft(M, temperature, 20_000)) - hard).max() for temperature in (1.0, 0.004)]
    assert apart[0] > 0.1 > 1e-3 > apart[1]


def test_sinkhorn_of_batches_without_jit_and_under_vmap():
    M = normal(5)[:3].astype(np.float32)
    for X in (sinkhorn(M, 0.5), jax.jit(jax.vmap(sinkhorn, (0, None)))(M, 0.5)):
        np.testing.assert_allclose(X, scaled_alternately(M, 0.5, 20), atol=1e-5)


def cost_matrices(n):
    rng = np.random.default_rng(n)
    yield np.eye(n)[rng.permutation(n)]
    yield from rng.normal(size=(3, n, n))
    yield from rng.integers(0, 3, (3, n, n))
    yield -10 - rng.random((n, n))
    yield np.zeros((n, n))
    yield 1e4 * rng.normal(size=(n, n))


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_assignment_on_the_device_is_scipys(n):
    many = np.stack(list(cost_matrices(n))).astype(np.float32)
    together = np.asarray(jax.jit(jax.vmap(nearest_permutation_on_device))(many))
    assert together.dtype == np.int32
    np.testing.assert_array_equal(together[0], nearest_permutation(many[0]))
    np.testing.assert_array_equal(many[0][np.arange(n), together[0]], 1)
    np.testing.assert_array_equal(np.sort(together), np.tile(np.arange(n), (len(many), 1)))
    one = jax.jit(nearest_permutation_on_device)
    alone = np.stack([one(M) for M in many]) if n == 40 else together
    for M, *found in zip(many.astype(np.float64), together, alone, strict=True):
        best = M[linear_sum_assignment(M, maximize=True)].sum()
        for p in found:
            assert M[np.arange(n), p].sum() == pytest.approx(best, rel=1e-5, abs=1e-5)


def mixture(rng, n, count):
    """A doubly stochastic matrix inside the polytope."""
    weights = rng.dirichlet(np.ones(count))
    return sum(weight * np.eye(n)[rng.permutation(n)] for weight in weights)


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


def test_the_decomposition_is_greed_over_all_permutations():
    for n in (1, 2, 3, 5):
        for seed in range(4):
            M = scaled_alternately(np.random.default_rng(seed).normal(size=(n, n)), 0.7, 2000)
            for terms in (1, 3, 40):
                weights, found = birkhoff_decomposition(M, terms)
                expected_weights, expected = greedy(M, terms)
                np.testing.assert_array_equal(found, expected)
                np.testing.assert_allclose(weights, expected_weights / expected_weights.sum(), rtol=1e-9)


def recomposed(weights, found):
    return sum(weight * np.eye(len(p))[p] for weight, p in zip(weights, found, strict=True))


def terms_of(M, terms):
    """The decomposition, after what holds of every one."""
    weights, found = birkhoff_decomposition(M, terms)
    assert weights.shape == (len(found),)
    assert 1 <= len(found) <= terms
    assert found.dtype == np.int32
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (weights > 0).all()
    assert (np.diff(weights) <= 0).all()
    np.testing.assert_array_equal(np.sort(found, 1), np.tile(np.arange(len(M)), (len(found), 1)))
    assert (M[np.arange(len(M)), found] > 0).all()
    return weights, found


def test_mixtures_of_permutations_without_common_entries_are_taken_apart():
    # Cyclic shifts of one permutation share no entry.
    p, weights = np.random.default_rng(0).permutation(9), [0.4, 0.3, 0.2, 0.1]
    planted = np.stack([np.roll(p, k) for k in (3, 0, 5, 1)])
    found_weights, found = birkhoff_decomposition(recomposed(weights, planted))
    np.testing.assert_array_equal(found, planted)
    np.testing.assert_allclose(found_weights, weights, rtol=1e-9)


def test_a_mixture_of_a_few_permutations_is_put_together_again():
    for n, count in ((4, 3), (12, 4), (60, 3)):
        for seed in range(5):
            M = mixture(np.random.default_rng(seed), n, count)
            np.testing.assert_allclose(recomposed(*terms_of(M, 100)), M, atol=2e-3)


def test_slightly_negative_and_diffuse_matrices_are_taken_apart():
    for n in (5, 16, 64):
        M = np.asarray(project((np.eye(n) + normal(n)).astype(np.float32), 20))[0]
        assert M.min() < 0
        terms_of(M, 11)
    _, found = terms_of(scaled_alternately(np.random.default_rng(0).normal(size=(300, 300)), 5.0, 50), 11)
    assert len(found) == 11


def test_a_matrix_without_a_permutation_in_its_support_gives_the_nearest():
    M = np.array([[0.7, 0.7, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.6]])
    weights, found = birkhoff_decomposition(M)
    np.testing.assert_array_equal(weights, [1])
    np.testing.assert_array_equal(found, [nearest_permutation(M)])
