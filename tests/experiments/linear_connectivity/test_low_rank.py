"""Low-rank matrices: Lemma 12 and Definition 9 on fine grids, all rotations, critical points in closed form."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.linear_connectivity.low_rank import difference, directions, factorised, tolerances
from experiments.linear_connectivity.tractable import Fineness


def test_the_largest_constant_of_lemma_12():
    found = directions(jax.random.key(0), Fineness(grid=20))
    # At <x, z> = 1 / (2 sqrt 2), ||x||^2 = 1/2: f = 1/4, both slopes 1 / (4 sqrt 2), the curvature along z -1/4.
    np.testing.assert_allclose(found["constant"], 1 / np.sqrt(2), rtol=1e-8)
    np.testing.assert_allclose([found["along"], found["square"]], [1 / np.sqrt(8), 1 / 2], rtol=1e-8)
    assert (found["points"], found["lemma_13_violations"]) == (61 * 31 + 1, 0)
    assert (found["below"], found["above"]) == (0, 1)
    # No point of a grid of 0.001 allows less, and the best of them little more.
    a, b = np.meshgrid(np.arange(1, 1501) / 1000, np.arange(1501) / 1000)
    square = a**2 + b**2
    loss = (1 - 2 * a**2 + square**2) / 4
    slopes = np.maximum(np.abs(square**2 - a**2) / np.sqrt(square), a * np.abs(square - 1))
    straight = (square + 2 * a**2 - 1 >= -0.25) & (3 * square**2 - a**2 >= -square / 4) & (loss > 1e-12)
    least = (slopes[straight] / np.minimum(loss, 1)[straight]).min()
    assert 1 / np.sqrt(2) <= least < 1 / np.sqrt(2) + 0.003


@pytest.mark.parametrize("eigenvalue", [1.0, 0.3])
def test_no_second_order_point_within_the_tolerances_is_far_above_the_minimum(eigenvalue):
    # For M = u z z^T, with a = <x, z> and b the rest of x: gradient and Hessian in the plane of the two.
    a, b = (np.sqrt(eigenvalue) * each for each in np.meshgrid(np.arange(1501) / 1000, np.arange(1501) / 1000))
    square = a**2 + b**2
    loss = (eigenvalue**2 - 2 * eigenvalue * a**2 + square**2) / 4
    slope = np.hypot(square * a - eigenvalue * a, square * b)
    along, across, both = 3 * a**2 + b**2 - eigenvalue, a**2 + 3 * b**2, 2 * a * b
    lowest = (along + across) / 2 - np.hypot((along - across) / 2, both)
    for tau in (0.001, 0.01, 0.05, 0.15):
        tau = tau * eigenvalue**2
        epsilon, gamma = tolerances(tau, eigenvalue)
        assert not ((loss > tau) & (slope <= epsilon) & (lowest >= -gamma)).any()
        assert ((loss > tau) & (slope <= 20 * epsilon) & (lowest >= -gamma)).any()
    assert tolerances(4.0, 2.0) == (2 * tolerances(1.0, 2.0)[0], tolerances(1.0, 2.0)[1])


def test_what_is_measured_of_second_order_points():
    rows = directions(jax.random.key(0), Fineness(grid=20))["second_order"]
    for row in rows:
        np.testing.assert_allclose(row["lemma_12"], [row["tau"] / np.sqrt(2), 0.25], rtol=1e-8)
        assert row["least"][0] > row["lemma_12"][0]
        assert row["least"][1] > row["tolerances"][0]


def test_the_nearest_rotation():
    rng = np.random.default_rng(0)
    for z in (1.0, -1.0):
        x, Z = rng.normal(size=(5, 1)), z * np.ones((5, 1))
        nearer = x - Z if (x * Z).sum() >= 0 else x + Z
        np.testing.assert_allclose(difference(jnp.asarray(x), jnp.asarray(Z)), nearer, rtol=1e-5)
    X, Z = rng.normal(size=(2, 4, 2))
    turned = np.linspace(0, 2 * np.pi, 3601)
    rotations = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]]).transpose(2, 0, 1)
    every = np.concatenate([rotations, rotations * [1, -1]])
    least = np.linalg.norm(X - Z @ every, axis=(1, 2)).min()
    np.testing.assert_allclose(np.linalg.norm(difference(jnp.asarray(X), jnp.asarray(Z))), least, rtol=1e-5)


@pytest.mark.slow
def test_all_critical_points_of_a_rank_three_matrix():
    found = factorised(jax.random.key(0), "all entries", 3, Fineness(searches=150))
    values = found["eigenvalues"]
    # Z Z^T without some of its eigenvectors: the squares of their eigenvalues are the loss.
    levels = [sum(v**2 for v in left) / 4 for count in range(4) for left in combinations(values, count)]
    np.testing.assert_allclose(found["levels"], sorted(levels), atol=1e-7)
    assert found["converged"] == found["searches"] == found["global"] + found["others"]
    assert found["equal"] == found["global"] > 0
    # Along what is left out, its eigenvalue is the curvature downwards; the least is highest.
    np.testing.assert_allclose(found["lowest"], -values[0], rtol=1e-6)
    assert (found["spurious"], found["beyond"]) == (0, 0)
    assert found["improving"] == found["others"]
    assert found["improving_at_random"] == found["searches"]


@pytest.mark.slow
@pytest.mark.parametrize("known", ["sensing", "completion"])
def test_sensing_and_completion(known):
    found = factorised(jax.random.key(3), known, 2, Fineness(searches=100))
    assert found["equal"] == found["global"] > 0
    assert found["others"] > 10
    assert found["spurious"] == 0
    assert found["improving_at_random"] == found["searches"]


@pytest.mark.slow
def test_too_few_measurements_do_not_tell_the_matrix():
    found = factorised(jax.random.key(1), "sensing", 2, Fineness(searches=150, sensed=8))
    assert found["global"] > found["equal"] == 0
