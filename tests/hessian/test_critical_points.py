"""Kinds of points: planted quadratics, and the top eigenvector of a matrix, whose critical points are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscapes import form, planted

from mcjax import InputError
from mcjax.hessian.critical_points import classify_point, is_direction_of_improvement


def quadratic(values):
    return form(planted(values))


@pytest.mark.parametrize(
    ("values", "kind", "index", "zeros"),
    [
        ([1, 2, 3, 4], "minimum", 0, 0),
        ([-1, -1, -2, -3], "maximum", 4, 0),
        ([-1, 2, 2, 5], "saddle", 1, 0),
        ([-3, -1e-3, 0, 7], "saddle", 2, 1),
        ([0, 0, 1, 9], "degenerate", 0, 2),
        ([-4, -1, 0, 0], "degenerate", 2, 2),
        ([0, 0, 0, 0], "degenerate", 0, 4),
    ],
)
def test_quadratics_of_planted_spectra(values, kind, index, zeros):
    point = classify_point(quadratic(np.array(values, float)), jnp.zeros(4))
    assert (point.kind, point.index, point.zeros, point.dense) == (kind, index, zeros, True)
    np.testing.assert_allclose(point.eigenvalues, np.sort(values), atol=1e-5)
    assert (point.lowest, point.highest) == (point.eigenvalues[0], point.eigenvalues[-1])
    assert point.gradient_norm == 0


def test_tolerances_decide_which_eigenvalues_are_zero():
    loss = quadratic(np.array([-1e-3, 1, 2, 3]))
    assert classify_point(loss, jnp.zeros(4), zero_tolerance=0.01).kind == "degenerate"
    x = jnp.full(4, 1e-3)
    away = classify_point(loss, x)
    gradient = np.linalg.norm(loss.args[0] @ x)
    np.testing.assert_allclose(away.gradient_norm, gradient, rtol=1e-5)
    assert away.kind == "no critical point"
    assert away.index == 1
    assert classify_point(loss, x, gradient_tolerance=0.1).kind == "saddle"


def test_second_order_stationary_points():
    point = classify_point(quadratic(np.array([-0.1, 1, 2, 3])), jnp.full(4, 1e-3))
    norm, lowest = point.gradient_norm, point.lowest
    assert point.second_order_stationary(1.01 * norm, -1.01 * lowest)
    assert not point.second_order_stationary(0.99 * norm, -1.01 * lowest)
    assert not point.second_order_stationary(1.01 * norm, -0.99 * lowest)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.linspace(1, 5, 30), "minimum"),
        (np.r_[-2, -1, np.linspace(0, 5, 28)], "saddle"),
        (np.r_[0, np.linspace(1, 5, 29)], "degenerate"),
    ],
)
def test_lanczos_beyond_the_dense(key, values, kind):
    options = {"zero_tolerance": 1e-4} if kind == "degenerate" else {}
    point = classify_point(quadratic(values), jnp.zeros(30), dense_up_to=29, key=key, steps=25, **options)
    assert (point.kind, point.zeros, point.dense) == (kind, None, False)
    assert 0 <= point.index <= (values < 0).sum()
    assert point.index >= int(kind == "saddle")
    np.testing.assert_allclose([point.lowest, point.highest], [values.min(), values.max()], atol=1e-3)
    assert len(point.eigenvalues) == 25


SCALES, ROTATION = np.array([4.0, 2.5, 1.0, 0.5]), np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]


def distance_to_rank_one(m, x):
    return jnp.square(m - jnp.outer(x, x)).sum() / 4


def test_critical_points_of_the_top_eigenvector_and_their_directions_of_improvement():
    loss = jax.tree_util.Partial(distance_to_rank_one, jnp.asarray((ROTATION * SCALES) @ ROTATION.T, jnp.float32))
    first = jnp.asarray(ROTATION[:, 0], jnp.float32)
    points = [
        np.zeros(4),
        *(sign * np.sqrt(s) * v for s, v in zip(SCALES, ROTATION.T, strict=True) for sign in (1, -1)),
    ]
    for i, x in enumerate(points):
        point = classify_point(loss, jnp.asarray(x, jnp.float32), gradient_tolerance=1e-5)
        # ||x||^2 I + 2 x x^T - M, in the eigenvectors of M.
        rank = (i - 1) // 2
        expected = -SCALES if i == 0 else SCALES[rank] - SCALES + 3 * SCALES * (np.arange(4) == rank)
        expected = expected if i == 0 else np.where(np.arange(4) == rank, 2 * SCALES[rank], SCALES[rank] - SCALES)
        np.testing.assert_allclose(point.eigenvalues, np.sort(expected), atol=1e-5)
        assert point.kind == ("maximum" if i == 0 else "minimum" if rank == 0 else "saddle")
        assert point.index == (expected < 0).sum()
    improving = jax.jit(
        jax.vmap(lambda x, gamma: is_direction_of_improvement(loss, x, first, 1e-4, gamma), in_axes=(0, None))
    )
    xs = jnp.asarray(np.stack(points), jnp.float32)
    np.testing.assert_array_equal(improving(xs, 0.0), [True, False, False, *[True] * 6])
    # v1^T H v1 = lambda_i - lambda_1, and -lambda_1 at zero.
    np.testing.assert_array_equal(improving(xs, 1.6), [True, False, False, False, False, *[True] * 4])


def test_a_slope_is_a_direction_of_improvement_either_way_and_the_length_does_not_matter():
    loss = quadratic(np.array([1.0, 2, 3, 4]))
    x = jnp.arange(4.0)
    slope = loss.args[0] @ x
    unit = slope / jnp.linalg.norm(slope)
    for factor in (1, -3, 1e-2):
        assert is_direction_of_improvement(loss, x, factor * unit, 0.99 * jnp.linalg.norm(slope))
        assert not is_direction_of_improvement(loss, x, factor * unit, 1.01 * jnp.linalg.norm(slope))
    assert not is_direction_of_improvement(loss, x, jnp.zeros(4))


def test_bad_arguments_are_refused():
    loss = quadratic(np.ones(4))

    def broken(x):
        return jnp.log(x).sum()

    def of(**options):
        return lambda: classify_point(loss, jnp.zeros(4), **options)

    for said, call in (
        ("got gradient_tolerance=-1", of(gradient_tolerance=-1)),
        ("got zero_tolerance=nan", of(zero_tolerance=float("nan"))),
        ("got dense_up_to=100000", of(dense_up_to=100000)),
        ("got steps=0", of(steps=0)),
        ("got 4 parameters, more than dense_up_to=3, and no key", of(dense_up_to=3)),
        ("got a gradient that is not finite", lambda: classify_point(broken, jnp.zeros(4))),
        (r"direction: got \(3,\) for the array", lambda: is_direction_of_improvement(loss, jnp.zeros(4), jnp.ones(3))),
    ):
        with pytest.raises(InputError, match=said):
            call()
