"""Merged moments against numpy over all samples at once."""

import chex
import jax
import numpy as np
import pytest

from mcjax.training.batches import CrossMoments, Moments, accumulate, cross_moments_of, merge, moments_of

RNG = np.random.default_rng(0)
X, Y = RNG.normal(3, 2, (400, 5)).astype(np.float32), RNG.normal(-1, 3, (400, 3)).astype(np.float32)
merged, cross_of, of = map(jax.jit, (merge, cross_moments_of, moments_of))


def check(found, x, rtol=1e-5):
    """Moments against numpy in float64."""
    x = np.float64(x)
    assert found.samples == len(x)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=rtol)
    np.testing.assert_allclose(found.square, ((x - x.mean(0)) ** 2).sum(0), rtol=rtol)
    np.testing.assert_allclose(found.variance, x.var(0), rtol=rtol)


def check_cross(found, x, y, atol=1e-5):
    check(found.first, x)
    check(found.second, y)
    expected = np.cov(np.float64(x).T, np.float64(y).T, bias=True)[: x.shape[1], x.shape[1] :]
    np.testing.assert_allclose(found.covariance, expected, atol=atol)
    np.testing.assert_allclose(found.product, len(x) * expected, atol=len(x) * atol)


def test_every_position_but_the_last_axis_is_a_sample():
    check(of(X.reshape(4, 10, 10, 5)), X)
    check_cross(cross_of(X.reshape(20, 20, 5), Y.reshape(20, 20, 3)), X, Y)
    assert moments_of(np.float16(X)).mean.dtype == np.float32


@pytest.mark.parametrize("cuts", [(1,), (399,), (7, 8, 200), tuple(range(20, 400, 20))])
def test_sets_of_any_sizes_merge_to_the_moments_of_their_concatenation(cuts):
    xs, ys = np.split(X, cuts), np.split(Y, cuts)
    total = cross_of(xs[0], ys[0])
    for x, y in zip(xs[1:], ys[1:], strict=True):
        total = merged(total, cross_of(x, y))
    assert isinstance(total, CrossMoments)
    check_cross(total, X, Y)


def test_merging_is_symmetric_and_an_empty_set_changes_nothing():
    one, two = cross_of(X[:30], Y[:30]), cross_of(X[30:100], Y[30:100])
    chex.assert_trees_all_close(merged(one, two), merged(two, one), rtol=1e-5, atol=1e-4)
    empty = jax.tree.map(np.zeros_like, one)
    chex.assert_trees_all_equal(merged(empty, one), one)
    chex.assert_trees_all_equal(merged(one, empty), one)


def test_large_means_cost_no_precision():
    a, b = (1000 + np.random.default_rng(0).normal(size=(2, 400, 3))).astype(np.float32)
    total = cross_of(a[:1], b[:1])
    for start in range(1, 400, 21):
        total = merged(total, cross_of(a[start : start + 21], b[start : start + 21]))
    expected = np.cov(np.float64(a).T, np.float64(b).T, bias=True)[:3, 3:]
    np.testing.assert_allclose(total.covariance, expected, atol=1e-3)
    np.testing.assert_allclose(total.first.variance, np.float64(a).var(0), rtol=1e-4)


def test_batches_accumulate_to_the_moments_of_all_samples_in_any_tree():
    def moments(batch, number):
        x, y = batch
        return {"one": moments_of(x), "both": (cross_moments_of(x, y),)}

    batches = X.reshape(8, 50, 5), Y.reshape(8, 50, 3)
    found = jax.jit(lambda batches: accumulate(moments, batches))(batches)
    assert isinstance(found["one"], Moments)
    check(found["one"], X)
    check_cross(found["both"][0], X, Y)


def test_many_at_once_under_vmap():
    stacks = X.reshape(4, 5, 20, 5)
    found = jax.jit(jax.vmap(lambda batches: accumulate(lambda batch, number: moments_of(batch), batches)))(stacks)
    for i in range(4):
        check(jax.tree.map(lambda leaf, i=i: leaf[i], found), stacks[i].reshape(-1, 5))


def test_a_constant_does_not_vary_however_its_mean_is_rounded():
    """Nor does it in parts; a deviation of 1e-4 of the mean is one."""
    rng, n = np.random.default_rng(0), 1000
    x = np.stack([np.full(n, 0.1), np.full(n, 0.7), np.zeros(n), 0.3 + 3e-5 * rng.normal(size=n)], 1).astype(np.float32)
    for found in (of(x), merged(of(x[:300]), of(x[300:]))):
        np.testing.assert_array_equal(found.varies, [False, False, False, True])
    assert (np.asarray(of(x).square)[:2] > 0).any()
