"""Sparse regression on ReLU features: optimality conditions, brute force, and the bound on angles."""

from itertools import combinations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcjax import InputError
from mcjax.constructions.sparse import (
    SparseProblem,
    angle_bound,
    eliminate_units,
    energy,
    fit_units,
    lasso,
    relu_features,
    rotate_units,
)


def problem(inputs=2, samples=60, kappa=0.01, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, inputs))
    return SparseProblem(x, np.sin(2 * x[:, 0]) + np.abs(x.sum(1)), kappa)


def directions(units, inputs=2, seed=1):
    rows = np.random.default_rng(seed).normal(size=(units, inputs))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kappa", [1e-3, 0.05, 100.0])
def test_the_lasso_is_optimal(kappa):
    given_, units = problem(kappa=kappa), directions(20)
    found = lasso(given_, units)
    z = relu_features(given_.x, units)
    slope = 2 * z.T @ (z @ found.weights - given_.y) / len(z)
    used = found.weights != 0
    assert np.abs(slope).max() <= kappa * (1 + 1e-3)
    np.testing.assert_allclose(slope[used], -kappa * np.sign(found.weights[used]), rtol=1e-3)
    residual = given_.y - z @ found.weights
    np.testing.assert_allclose(found.energy, np.mean(residual**2) + kappa * np.abs(found.weights).sum())
    assert used.any() == (kappa < 100)


def test_only_units_that_are_allowed():
    units, allowed = directions(6), np.array([True, False, True, False, False, True])
    found = lasso(problem(), units, allowed)
    np.testing.assert_array_equal(found.weights[~allowed], 0)
    np.testing.assert_allclose(found.energy, lasso(problem(), units[allowed]).energy)


def test_units_that_are_equal():
    units = directions(4)[[0, 1, 1, 2, 3, 3, 3]]
    np.testing.assert_allclose(lasso(problem(), units).energy, lasso(problem(), directions(4)).energy, rtol=1e-5)


@pytest.mark.parametrize("noise", [1e-5, 1e-6, 1e-7, 1e-8])
def test_units_that_are_almost_equal(noise):
    """On one in five of these LARS alone ends at weights of 1e5 and more."""
    given_ = problem(kappa=0.001)
    for seed in range(40):
        base, rng = directions(3, seed=seed), np.random.default_rng(seed)
        copies = np.repeat(base, 4, 0) + noise * rng.normal(size=(12, 2))
        np.testing.assert_allclose(lasso(given_, copies).energy, lasso(given_, base).energy, rtol=1e-4)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_elimination_against_all_subsets(count):
    given_, units = problem(kappa=1e-3), directions(6)
    best = min(lasso(given_, units, np.isin(np.arange(6), kept)).energy for kept in combinations(range(6), count))
    found = eliminate_units(given_, lasso(given_, units), count)
    assert (found.weights != 0).sum() <= count
    assert best - 1e-12 <= found.energy <= 1.1 * best
    np.testing.assert_array_equal(found.units, units)


def test_units_turn_by_the_angle_and_no_more():
    given_, units = problem(kappa=1e-3), 0.7 * directions(6)
    fewer, energies = eliminate_units(given_, lasso(given_, units), 3), []
    for angle in (0.0, 0.1, 0.4):
        found = rotate_units(given_, fewer, angle)
        np.testing.assert_allclose(np.linalg.norm(found.units, axis=1), 0.7, rtol=1e-5)
        cosine = np.clip((found.units * units).sum(1) / 0.49, -1, 1)
        assert np.arccos(cosine).max() <= angle + 1e-3
        np.testing.assert_allclose(found.energy, energy(given_, found.units, found.weights))
        energies.append(found.energy)
    assert energies[0] > energies[1] > energies[2]


def test_one_unit_against_a_search_of_the_circle(key):
    given_ = problem()
    angles = np.linspace(0, 2 * np.pi, 2000)
    best = min(lasso(given_, np.array([[np.cos(a), np.sin(a)]])).energy for a in angles)
    found = fit_units(key, given_, 1)
    np.testing.assert_allclose(found.energy, best, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found.units, axis=1), 1, rtol=1e-5)


def test_more_units_do_better_and_planted_ones_are_found(key):
    x = problem(samples=200).x
    planted = directions(3, seed=5)
    given_ = SparseProblem(x, relu_features(x, planted) @ np.array([1.0, -1.0, 0.5]), 1e-4)
    energies = [fit_units(key, given_, count).energy for count in (1, 2, 4)]
    assert energies[0] > energies[1] > energies[2]
    assert energies[2] <= 1.1 * energy(given_, planted, np.array([1.0, -1.0, 0.5]))


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 5), st.floats(0, np.pi - 0.01), st.integers(0, 10_000))
def test_the_bound_holds(inputs, angle, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, inputs)) @ rng.normal(size=(inputs, inputs)) + rng.normal(size=inputs)
    w_1, aside = np.linalg.qr(rng.normal(size=(inputs, 2)))[0].T
    w_2 = np.cos(angle) * w_1 + np.sin(angle) * aside
    bound = angle_bound(x, w_1, w_2)
    np.testing.assert_allclose(bound.value, np.mean(np.maximum(x @ w_1, 0) * np.maximum(x @ w_2, 0)), rtol=1e-9)
    tolerance = 1e-9 * (abs(bound.upper) + abs(bound.lower) + 1)
    assert bound.lower - tolerance <= bound.value <= bound.upper + tolerance


def test_the_bound_closes_with_the_angle():
    x = problem().x
    gaps = []
    for angle in (0.2, 0.1, 0.05):
        bound = angle_bound(x, np.array([1.0, 0.0]), np.array([np.cos(angle), np.sin(angle)]))
        gaps.append(bound.upper - bound.lower)
    np.testing.assert_allclose(np.divide(gaps[:-1], gaps[1:]), 4, rtol=0.05)


def test_vectors_without_a_bisector():
    for w_2, named in (([-1.0, 0.0], "opposite"), ([2.0, 0.0], "1 and 2")):
        with pytest.raises(InputError, match=named):
            angle_bound(problem().x, np.array([1.0, 0.0]), np.array(w_2))
    for x, w in ((np.ones(3), np.ones(3)), (np.ones((4, 3)), np.ones(2)), (np.full((4, 2), np.nan), np.ones(2))):
        with pytest.raises(InputError, match="finite samples"):
            angle_bound(x, w, w)
    with pytest.raises(InputError, match="count=0"):
        fit_units(jax.random.key(0), problem(), 0)
