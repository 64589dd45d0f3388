"""Constants of convergence: closed forms of quadratics, and the three conditions written out elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import InputError, trees
from mcjax.hessian.convergence import convergence_constants


def quadratic(a, theta):
    x = theta["params"]["x"]
    return x @ a @ x / 2 + 7


def setting(values, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return jax.tree_util.Partial(quadratic, jnp.asarray((q * np.array(values)) @ q.T, jnp.float32)), q


def network(x):
    return {"params": {"x": jnp.asarray(x, jnp.float32)}, "batch_stats": {"unused": jnp.zeros(np.shape(x)[:-1])}}


def test_constants_of_a_quadratic():
    loss, q = setting([0.5, 1, 2, 4])
    xs = np.concatenate([q.T, -2 * q.T, np.random.default_rng(1).normal(size=(30, 4))])
    found = convergence_constants(loss, network(xs), network(np.zeros(4)), chunk=8)
    np.testing.assert_allclose(found.polyak_lojasiewicz, 2 * 0.5, rtol=1e-4)
    np.testing.assert_allclose(found.weak_quasi_convexity, 2, rtol=1e-4)
    np.testing.assert_allclose(found.restricted_secant, 0.5, rtol=1e-5)
    # On an eigenvector all are its eigenvalue's.
    np.testing.assert_allclose(found.ratios.polyak_lojasiewicz[:4], 2 * np.array([0.5, 1, 2, 4]), rtol=1e-4)
    np.testing.assert_allclose(found.ratios.weak_quasi_convexity, 2, rtol=1e-3)
    a = np.asarray(loss.args[0], np.float64)
    secant = np.einsum("pn,nm,pm->p", xs, a, xs) / np.square(xs).sum(1)
    np.testing.assert_allclose(found.ratios.restricted_secant, secant, rtol=1e-5)


def test_a_path_through_the_minimum_has_no_ratio_there_and_one_program_serves_all(compiled):
    loss, q = setting([1, 1, 3])

    thetas = network(np.linspace(-1, 1, 5)[:, None] * q[:, 0])
    for factor in (1, 2):
        other = jax.tree_util.Partial(quadratic, factor * loss.args[0])
        found = convergence_constants(other, thetas, network(np.zeros(3)), value=7.0)
        for ratios, constant in zip(found.ratios, (2 * factor, 2, factor), strict=True):
            np.testing.assert_allclose(ratios, [constant, constant, np.nan, constant, constant], rtol=1e-4)
    assert sum("_measure" in name for name in compiled) == 1
    at = jax.tree.map(lambda leaf: leaf[2:3], thetas)
    assert all(np.isnan(constant) for constant in convergence_constants(loss, at, network(np.zeros(3)))[:3])


def test_conditions_that_do_not_hold_have_constants_that_are_not_positive():
    def waves(x):
        return 1 - jnp.cos(x[0]) + jnp.square(x).sum() / 100

    xs = jnp.stack([jnp.linspace(0.5, 7, 60), jnp.zeros(60)], 1)
    found = convergence_constants(waves, xs, jnp.zeros(2))
    slopes = np.sin(xs[:, 0]) + np.asarray(xs[:, 0]) / 50
    np.testing.assert_allclose(found.restricted_secant, (slopes / np.asarray(xs[:, 0])).min(), rtol=1e-4)
    assert found.restricted_secant < 0
    assert found.weak_quasi_convexity < 0
    assert 0 <= found.polyak_lojasiewicz < 0.05


def test_double_precision():
    with jax.enable_x64(True):
        loss, q = setting([0.5, 3])
        loss = jax.tree_util.Partial(quadratic, jnp.asarray((q * np.array([0.5, 3])) @ q.T))
        theta = trees.cast(network(np.zeros(2)), jnp.float64)
        thetas = {"params": {"x": jnp.asarray(1e-4 * q.T)}, "batch_stats": {"unused": jnp.zeros(2)}}
        found = convergence_constants(loss, thetas, theta)
    np.testing.assert_allclose(found.ratios.restricted_secant, [0.5, 3], rtol=1e-10)
    np.testing.assert_allclose(found.ratios.polyak_lojasiewicz, [1, 6], rtol=1e-5)


def test_bad_arguments_are_refused():
    loss, _ = setting([1, 2])
    minimum, points = network(np.zeros(2)), network(np.ones((3, 2)))

    def of(*args, **options):
        return lambda: convergence_constants(loss, *args, **options)

    for said, call in (
        ("chunk=0", of(points, minimum, chunk=0)),
        ("leading axis", of(jnp.zeros(()), minimum)),
        (r"minimum: got \(3,\) for params/x, expected \(2,\)", of(points, network(np.zeros(3)))),
        (r"8\.31.* point 0, 3 of 3 .* 9", of(points, minimum, value=9)),
        ("not finite", of(network(np.full((3, 2), np.nan)), minimum)),
        ("not finite", of(points, minimum, value=float("nan"))),
    ):
        with pytest.raises(InputError, match=said):
            call()
