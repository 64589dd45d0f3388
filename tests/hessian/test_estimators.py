"""Stochastic estimates of spectra: against moments, densities and sums written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscapes import THETA, form, planted
from variables import alive

from mcjax import InputError, supervised
from mcjax.hessian.estimators import SpectralDensity, hessian_trace, spectral_density
from mcjax.hessian.full_batch import full_batch_loss
from mcjax.hessian.products import dense_hessian


def test_networks_have_their_estimates_in_one_program_for_a_kind(key, line, compiled):
    points, model = line
    for i, split in enumerate((points, points.take(20, 20))):
        theta = alive(model, i)
        loss = full_batch_loss(supervised(model, split), examples=20)
        density = spectral_density(key, loss, theta, draws=1, steps=3, curvature="gauss_newton")
        trace = hessian_trace(key, loss, theta, draws=2, curvature="gauss_newton")
    assert [sum(name in each for each in compiled) for name in ("_density", "_trace")] == [1, 1]
    matrix = np.asarray(dense_hessian(loss, theta, curvature="gauss_newton"), np.float64)
    start = np.asarray(jax.random.normal(jax.random.split(key, 1)[0], (len(matrix),)), np.float64)
    np.testing.assert_allclose(density.moment(1), start @ matrix @ start / (start @ start), rtol=1e-4)
    signs = np.stack([jax.random.rademacher(each, (len(matrix),)) for each in jax.random.split(key, 2)])
    np.testing.assert_allclose(trace.estimate, np.einsum("sn,nm,sm->s", signs, matrix, signs).mean(), rtol=1e-5)


def test_a_density_has_the_moments_of_its_draws_and_of_the_spectrum():
    values = np.r_[np.linspace(-1, 2, 30), 6]
    a, key, draws = planted(values), jax.random.key(2), 60
    density = spectral_density(key, form(a), jnp.zeros(31), draws=draws, steps=6, chunk=7)
    assert density.nodes.shape == density.weights.shape == (draws, 6)
    np.testing.assert_allclose(density.weights.sum(1), 1, rtol=1e-6)
    assert (np.diff(density.nodes, axis=1) >= 0).all()
    starts = np.stack([jax.random.normal(each, (31,)) for each in jax.random.split(key, draws)]).astype(np.float64)
    starts /= np.linalg.norm(starts, axis=1, keepdims=True)
    # Gauss quadrature: exact for powers up to 2 steps - 1.
    for k in (1, 2, 3, 11):
        exact = np.einsum("sn,nm,sm->s", starts, np.linalg.matrix_power(a, k), starts)
        got = np.asarray((density.weights * density.nodes**k).sum(1))
        np.testing.assert_allclose(got, exact, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(density.moment(k), exact.mean(), rtol=2e-4)
        assert abs(density.moment(k) - (values**k).mean()) < 4 * exact.std(ddof=1) / np.sqrt(draws)
    one = spectral_density(key, form(a), jnp.zeros(31), draws=draws, steps=6)
    np.testing.assert_allclose(one.nodes, density.nodes, atol=1e-4)


def test_more_steps_than_parameters_are_as_many(key):
    density = spectral_density(key, form(np.diag([1.0, 1.0, 4.0])), jnp.zeros(3), draws=2)
    np.testing.assert_allclose(density.nodes, [[1, 1, 4]] * 2, atol=1e-5)


def test_a_density_on_a_grid_is_gaussians_that_integrate_to_one():
    density = SpectralDensity(jnp.asarray([[0.0, 1.0], [0.5, 2.0]]), jnp.asarray([[0.3, 0.7], [0.5, 0.5]]))
    grid = np.linspace(-2, 4, 301)
    got = density.on_grid(grid, 0.2)
    masses = ((0.0, 0.15), (1.0, 0.35), (0.5, 0.25), (2.0, 0.25))
    expected = sum(w * np.exp(-(((grid - at) / 0.2) ** 2) / 2) for at, w in masses) / (0.2 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(np.trapezoid(got, grid), 1, rtol=1e-5)
    with pytest.raises(InputError, match="got width=0"):
        density.on_grid(grid, 0)


def test_the_trace_of_a_diagonal_is_exact_and_others_are_within_their_error(key):
    values = np.array([3.0, -1, 4, 1, -5, 9, 2, 6, 5, 3, 5, 8])
    exact = hessian_trace(key, form(np.diag(values)), THETA, draws=3, chunk=2)
    np.testing.assert_allclose(exact.estimate, values.sum(), rtol=1e-6)
    np.testing.assert_allclose(exact.standard_error, 0, atol=1e-5)
    a = planted(values)
    signs = np.stack([jax.random.rademacher(each, (12,)) for each in jax.random.split(key, 100)])
    each = np.einsum("sn,nm,sm->s", signs, a, signs)
    got = hessian_trace(key, form(a), THETA, draws=100, chunk=100)
    np.testing.assert_allclose(got.estimate, each.mean(), rtol=1e-5)
    np.testing.assert_allclose(got.standard_error, each.std(ddof=1) / 10, rtol=1e-4)
    assert abs(got.estimate - values.sum()) < 4 * got.standard_error


def test_bad_arguments_are_refused(key):
    loss = form(np.eye(12))
    for named, call in (
        ("int for a key", lambda: spectral_density(0, loss, THETA)),
        ("int for a key", lambda: hessian_trace(0, loss, THETA)),
        ("fisher", lambda: spectral_density(key, loss, THETA, curvature="fisher")),
        ("fisher", lambda: hessian_trace(key, loss, THETA, curvature="fisher")),
        ("draws=0", lambda: spectral_density(key, loss, THETA, draws=0)),
        ("steps=0", lambda: spectral_density(key, loss, THETA, steps=0)),
        ("draws=1, .* 2", lambda: hessian_trace(key, loss, THETA, draws=1)),
        ("chunk=0", lambda: hessian_trace(key, loss, THETA, chunk=0)),
    ):
        with pytest.raises(InputError, match=named):
            call()
