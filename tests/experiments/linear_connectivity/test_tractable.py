"""Tractable landscapes: links against quadrature, critical points that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from experiments.linear_connectivity.tractable import (
    LINKS,
    Fineness,
    Linear,
    distinct,
    generalised_linear,
    stationary,
    top_eigenvector,
)
from mcjax import InputError

FINENESS = Fineness(samples=300, starts=6, descent=300, eigenvalues=(3.0, 1.5, 0.5), searches=200, grid=20)


@pytest.mark.parametrize("link", LINKS)
def test_the_mean_derivative_is_that_of_the_link_between_two_values(link):
    model = Linear(link)
    a, b = np.array([-2.0, -1.0, 0.5, 3.0]), np.array([1.5, -0.5, -0.25, 3.0])

    def derivative(u):
        return 1 / (2 + 2 * np.cosh(u)) if link == "sigmoid" else np.where(u > 0, 1.0, 0.1)

    with jax.enable_x64(True):
        got, slopes, own = jax.jit(
            lambda a, b: (model.mean_derivative(a, b), jax.vmap(jax.grad(model.sigma))(a), model.derivative(a))
        )(a, b)
    for i in range(3):
        expected = quad(derivative, a[i], b[i], points=[0.0], limit=200)[0] / (b[i] - a[i])
        np.testing.assert_allclose(got[i], expected, rtol=1e-7)
    np.testing.assert_allclose(own, slopes, rtol=1e-12)
    np.testing.assert_allclose(own, derivative(a), rtol=1e-12)
    assert np.isfinite(got[3])


def test_all_critical_points_of_a_double_well_are_found():
    with jax.enable_x64(True):
        # Minima at (+-1, 0), a saddle at 0.
        def loss(x):
            return (x[0] ** 2 - 1) ** 2 / 4 + x[1] ** 2

        found = np.asarray(stationary(loss, jnp.asarray(np.random.default_rng(0).normal(size=(40, 2))), 60))
    points = distinct(found[np.argsort(found[:, 0])])
    np.testing.assert_allclose(points, [[-1, 0], [0, 0], [1, 0]], atol=1e-6)


def test_one_of_each_point_is_kept():
    points = np.array([[0.0, 1], [2, 2], [0, 1 + 1e-6], [2 - 1e-6, 2], [0, 1]])
    np.testing.assert_array_equal(distinct(points), points[:2])
    assert distinct(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.slow
def test_theorem_10():
    found = top_eigenvector(jax.random.key(0), FINENESS)
    kinds = [(point["eigenvector"], point["index"], point["kind"]) for point in found["points"]]
    assert kinds == [
        (1, 0, "minimum"), (1, 0, "minimum"), (2, 1, "saddle"), (2, 1, "saddle"), (3, 2, "saddle"), (3, 2, "saddle"),
        (0, 3, "maximum"),
    ]  # fmt: skip
    assert [point["improving"] for point in found["points"]] == [False] * 2 + [True] * 5
    assert max(point["distance"] for point in found["points"]) < 1e-8


@pytest.mark.slow
def test_the_generalised_linear_models():
    linear = generalised_linear(jax.random.key(1), "leaky", FINENESS)
    assert linear["identity_error"] < 1e-12
    # Of <grad, w - w*> = E[sigma'(xi) sigma'(w.x) (w.x - w*.x)^2] with both slopes in [0.1, 1].
    assert linear["constants"]["restricted_secant"] > 0.01 * 0.5
    assert (linear["descended"], linear["kind"], linear["spurious"]) == (6, "minimum", [])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"samples": 0}, "samples=0"),
        ({"grid": 2.5}, r"grid=2\.5"),
        ({"eigenvalues": (1.0, 1.0)}, r"eigenvalues=\(1\.0, 1\.0\)"),
        ({"eigenvalues": (1.0, -1.0)}, r"eigenvalues=\(1\.0, -1\.0\)"),
        ({"eigenvalues": ()}, r"eigenvalues=\(\)"),
    ],
)
def test_bad_arguments_are_refused(change, named):
    with pytest.raises(InputError, match=named):
        Fineness(**change)
