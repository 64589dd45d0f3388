"""Generalised linear models: links against quadrature, and rates of descent in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from experiments.linear_connectivity.linear_models import (
    LINKS,
    Linear,
    descent_rates,
    generalised_linear,
    quartic_rates,
)
from experiments.linear_connectivity.tractable import Fineness

FINENESS = Fineness(samples=300, starts=6, descent=300)


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


@pytest.mark.slow
def test_the_generalised_linear_models():
    linear = generalised_linear(jax.random.key(1), "leaky", FINENESS)
    assert linear["identity_error"] < 1e-12
    # Of <grad, w - w*> = E[sigma'(xi) sigma'(w.x) (w.x - w*.x)^2] with both slopes in [0.1, 1].
    assert linear["constants"]["restricted_secant"] > 0.01 * 0.5
    assert (linear["descended"], linear["kind"], linear["spurious"]) == (6, "minimum", [])
    for name in ("polyak_lojasiewicz", "restricted_secant", "weak_quasi_convexity"):
        predicted, measured = linear["rates"][name]
        assert 0 < measured <= predicted * (1 + 1e-9)


def descent(curvatures, rate, steps=60):
    """Gradient descent on sum_i c_i (x_i - 1)^2 / 2, whose minimum is at 1."""
    with jax.enable_x64(True):
        c = np.array(curvatures)
        factors = (1 - rate * c)[None] ** np.arange(steps)[:, None]
        way = 1 + np.stack([factors, 2 * factors], 1)
        return descent_rates(lambda x: (c * jnp.square(x - 1)).sum() / 2, jnp.ones(len(c)), jnp.asarray(way), rate)


def test_on_a_parabola_every_prediction_is_exact():
    found, factor = descent([0.4], 1.5), (1 - 1.5 * 0.4) ** 2
    np.testing.assert_allclose(found["polyak_lojasiewicz"], factor, rtol=1e-8)
    np.testing.assert_allclose(found["restricted_secant"], factor, rtol=1e-8)
    np.testing.assert_allclose(found["weak_quasi_convexity"], 1 / (1.5 * (4 - 2 * 1.5 * 0.4)), rtol=1e-6)
    np.testing.assert_allclose(found["typical"], factor, rtol=1e-8)


def test_predictions_are_bounds():
    """By the constants along the way they are so by algebra: what can fail is a formula."""
    for found in (descent([0.4, 1.0, 0.1], 0.9), quartic_rates(FINENESS)):
        for name in ("polyak_lojasiewicz", "restricted_secant", "weak_quasi_convexity"):
            predicted, measured = found[name]
            assert measured <= predicted * (1 + 1e-9)


def test_a_weakly_quasi_convex_loss_without_a_geometric_rate():
    x = np.ones(FINENESS.descent)
    for i in range(len(x) - 1):
        x[i + 1] = x[i] - 0.5 * x[i] ** 3
    found = quartic_rates(FINENESS)
    np.testing.assert_allclose(found["polyak_lojasiewicz"][1], (x[-1] / x[-2]) ** 4, rtol=1e-10)
    assert found["polyak_lojasiewicz"][1] > 0.99
    # mu = 4, and ||g||^2 <= 4 (f - f*) as long as ||x|| <= 1.
    np.testing.assert_allclose(found["weak_quasi_convexity"], [1 / (0.5 * (8 - 0.5 * 4)), (x**4).sum() / 4], rtol=1e-9)
