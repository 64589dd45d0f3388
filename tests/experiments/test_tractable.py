"""Tractable landscapes: links against quadrature, critical points that are known, Lemma 12 in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from experiments import tractable
from experiments.tractable import LINKS, Linear, directions, distinct, generalised_linear, stationary, top_eigenvector


@pytest.mark.parametrize("link", LINKS)
def test_the_mean_derivative_is_that_of_the_link_between_two_values(link):
    model = Linear(link)
    a, b = np.array([-2.0, -1.0, 0.5, 3.0]), np.array([1.5, -0.5, -0.25, 3.0])
    with jax.enable_x64(True):
        got = np.asarray(model.mean_derivative(jnp.asarray(a), jnp.asarray(b)))
        for i in range(3):
            expected = quad(lambda u: float(model.derivative(jnp.float64(u))), a[i], b[i], points=[0.0], limit=200)[0]
            np.testing.assert_allclose(got[i], expected / (b[i] - a[i]), rtol=1e-7)
        slopes = jax.vmap(jax.grad(model.sigma))(jnp.asarray(a))
        np.testing.assert_allclose(np.asarray(model.derivative(jnp.asarray(a))), slopes, rtol=1e-12)
    assert np.isfinite(got[3])


def test_all_critical_points_of_a_double_well_are_found():
    with jax.enable_x64(True):
        # Minima at (+-1, 0), a saddle at 0.
        def loss(x):
            return (x[0] ** 2 - 1) ** 2 / 4 + x[1] ** 2

        found = np.asarray(stationary(loss, jax.random.normal(jax.random.key(0), (40, 2)), 60))
    points = distinct(found[np.argsort(found[:, 0])])
    np.testing.assert_allclose(points, [[-1, 0], [0, 0], [1, 0]], atol=1e-6)


@pytest.mark.slow
def test_theorem_10_and_the_generalised_linear_models(monkeypatch):
    for name, value in (("SAMPLES", 500), ("STARTS", 8), ("DESCENT", 300), ("SEARCHES", 300)):
        monkeypatch.setattr(tractable, name, value)
    monkeypatch.setattr(tractable, "EIGENVALUES", (3.0, 1.5, 0.5))
    found = top_eigenvector(jax.random.key(0))
    kinds = [(point["eigenvector"], point["index"], point["kind"]) for point in found["points"]]
    assert kinds == [
        (1, 0, "minimum"), (1, 0, "minimum"), (2, 1, "saddle"), (2, 1, "saddle"), (3, 2, "saddle"), (3, 2, "saddle"),
        (0, 3, "maximum"),
    ]  # fmt: skip
    assert [point["improving"] for point in found["points"]] == [False] * 2 + [True] * 5
    assert max(point["distance"] for point in found["points"]) < 1e-8
    linear = generalised_linear(jax.random.key(1), "leaky")
    assert linear["identity_error"] < 1e-12
    # Of <grad, w - w*> = E[sigma'(xi) sigma'(w.x) (w.x - w*.x)^2] with both slopes in [0.1, 1].
    assert linear["constants"]["restricted_secant"] > 0.01 * 0.5
    assert (linear["descended"], linear["kind"], linear["spurious"]) == (8, "minimum", [])


@pytest.mark.slow
def test_lemma_12_in_closed_form(monkeypatch):
    monkeypatch.setattr(tractable, "GRID", 20)
    monkeypatch.setattr(tractable, "TAUS", (0.1, 0.23, 0.5, 0.99))
    found = directions(jax.random.key(0))
    a, b = np.meshgrid(np.arange(-30, 31) / 20, np.arange(31) / 20)
    square = a**2 + b**2
    loss = (1 - 2 * a**2 + square**2) / 4
    with np.errstate(invalid="ignore", divide="ignore"):
        slopes = np.maximum(np.abs(square**2 - a**2) / np.sqrt(square), np.abs(a * (square - 1)))
        straight = (square + 2 * a**2 - 1 >= -0.25) & (3 * square**2 - a**2 >= -square / 4) & (loss > 1e-12)
        expected = (slopes / np.minimum(loss, 1))[straight].min()
    np.testing.assert_allclose(found["constant"], expected, rtol=1e-6)
    assert (found["lemma_13_violations"], found["below"]) == (0, 0)
    assert found["above"] > 0
