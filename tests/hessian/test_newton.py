"""Newton's method in a trust region: against scipy and linear solves, off saddles, never up, within its budgets."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from mcjax.hessian.newton import steihaug_cg, trust_region_newton

SIZE = 10


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def note(visited, x, value):
    points, values, count = visited
    return points.at[count].set(x), values.at[count].set(value), count + 1


@partial(jax.jit, static_argnames=("iterations", "products"))
def along_the_valley(start, tolerance, iterations=100, products=100):
    visited = (jnp.zeros((100, 2)), jnp.zeros(100), 0)
    options = {"tolerance": tolerance, "max_iterations": iterations, "max_products": products}
    return trust_region_newton(rosenbrock, start, **options, callback=note, carry=visited)


def test_rosenbrock_as_scipy_and_never_up():
    start = np.array([-1.2, 1.0])
    found, (points, values, count) = along_the_valley(start, 1e-10)
    reference = scipy.optimize.minimize(scipy.optimize.rosen, start, jac=scipy.optimize.rosen_der, tol=1e-12)
    np.testing.assert_allclose(found.x, reference.x, atol=1e-6)
    np.testing.assert_allclose(found.x, 1, atol=1e-10)
    assert found.converged
    np.testing.assert_allclose(found.gradient_norm, np.linalg.norm(scipy.optimize.rosen_der(found.x)), atol=1e-12)
    assert 5 < count <= found.iterations < 60
    points, values = points[:count], values[:count]
    np.testing.assert_allclose(values, [scipy.optimize.rosen(x) for x in points], rtol=1e-10, atol=1e-20)
    assert (np.diff(values, prepend=scipy.optimize.rosen(start)) <= 0).all()
    assert (points[-1] == found.x).all()
    assert values[-1] == found.value


def test_a_start_that_is_good_enough_is_kept():
    start = np.array([-1.2, 1.0])
    found, (_, _, count) = along_the_valley(start, np.inf)
    assert (found.iterations, found.products, count) == (0, 0, 0)
    assert found.converged
    assert (found.x == start).all()


def test_budgets():
    start = np.array([-1.2, 1.0])
    found, (_, values, count) = along_the_valley(start, 1e-10, iterations=4, products=1)
    assert found.iterations == 4
    assert found.products == 4
    assert not found.converged
    assert found.gradient_norm > 1e-10
    assert count <= 4
    # A single product goes down the gradient, and down it is.
    assert found.value == values[count - 1] < scipy.optimize.rosen(start)


def ill_conditioned(rng):
    """A matrix whose square has a condition of 1e6, and a vector."""
    (u, _), (v, _) = (np.linalg.qr(rng.normal(size=(SIZE, SIZE))) for _ in range(2))
    return (u * np.logspace(-3, 0, SIZE)) @ v, rng.normal(size=SIZE)


def quadratic(a, b, tree):
    x = jnp.concatenate([tree["bias"], tree["kernel"].ravel()])
    return jnp.square(a @ x - b).sum() / 2


def solved(a, b, start):
    return trust_region_newton(partial(quadratic, a, b), start, tolerance=1e-9, radius=10.0)[0]


def test_ill_conditioned_quadratics_of_trees_one_by_one_and_side_by_side():
    rng = np.random.default_rng(0)
    a, b = (np.stack(each) for each in zip(*(ill_conditioned(rng) for _ in range(3)), strict=True))
    starts = {"kernel": rng.normal(size=(3, 4, 2)), "bias": rng.normal(size=(3, 2))}
    many = jax.jit(jax.vmap(solved))(a, b, starts)
    one = jax.jit(solved)
    for i in range(3):
        found = one(a[i], b[i], jax.tree.map(lambda leaf, i=i: leaf[i], starts))
        beside = jax.tree.map(lambda leaf, i=i: leaf[i], many)
        for each in (found, beside):
            x = np.concatenate([each.x["bias"], np.ravel(each.x["kernel"])])
            # The gradient is the square times what is missing, so that this is 1e6 times the tolerance at most.
            assert np.linalg.norm(x - np.linalg.solve(a[i], b[i])) <= 1e-3
            np.testing.assert_allclose(each.gradient_norm, np.linalg.norm(a[i].T @ (a[i] @ x - b[i])), atol=1e-12)
            assert each.converged
            assert each.gradient_norm <= 1e-9
        assert abs(int(beside.iterations) - int(found.iterations)) <= 1


def test_a_step_stays_in_the_region_and_changes_the_model_by_what_it_says():
    """Also where it ends at the boundary, along a direction of negative curvature or before its minimum."""
    rng = np.random.default_rng(1)
    gradient, (q, _) = rng.normal(size=SIZE), np.linalg.qr(rng.normal(size=(SIZE, SIZE)))
    step = jax.jit(lambda H, radius: steihaug_cg(lambda v: H @ v, gradient, radius, 1e-12, 50))
    ends = []
    for least in (0.5, -0.5):
        hessian = q * np.linspace(least, 3, SIZE) @ q.T
        for radius in (0.1, 0.7, 2.0, 100.0):
            point, change, _ = step(hessian, radius)
            np.testing.assert_allclose(change, gradient @ point + point @ hessian @ point / 2, rtol=1e-9)
            size = np.linalg.norm(point)
            assert size <= radius * (1 + 1e-9)
            ends.append(size < 0.99 * radius)
            # At least as low as the lowest point down the gradient.
            curvature, norm = gradient @ hessian @ gradient, np.linalg.norm(gradient)
            down = radius / norm if curvature <= 0 else min(radius / norm, norm**2 / curvature)
            assert change <= -down * norm**2 + down**2 * curvature / 2 + 1e-9
    assert {*ends} == {True, False}


def double_well(x):
    return (x[0] ** 2 - 1) ** 2 + x[1] ** 2


def test_a_saddle_is_left():
    found, _ = jax.jit(lambda start: trust_region_newton(double_well, start, tolerance=1e-9))(np.array([1e-9, 0.3]))
    assert found.converged
    np.testing.assert_allclose(np.abs(found.x), [1, 0], atol=1e-8)
    np.testing.assert_allclose(found.value, 0, atol=1e-16)


def test_single_precision_stays_single_and_ends_where_rounding_does():
    start = np.float32([0.5, 0.3])
    found, _ = jax.jit(lambda start: trust_region_newton(double_well, start, tolerance=1e-30))(start)
    assert found.x.dtype == found.value.dtype == jnp.float32
    np.testing.assert_allclose(found.x, [1, 0], atol=1e-4)
    assert found.converged or found.iterations < 100
