"""Ranked pairs: against their paths one by one, in chunks, by cosines against numpy, and bad pairs."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from refusals import says
from teachers import CONFIG, GROUP, Network, fitted, toy

from mcjax import InputError
from mcjax.permutation_points import mergers, rank_pairs, similar_pairs
from mcjax.permutation_points.mergers import Approach, Minima

SEED = 5
PAIRS = ((0, 3), (0, 1), (0, 2))


@pytest.fixture(scope="module")
def ranked():
    return rank_pairs(*toy(SEED), GROUP, PAIRS, CONFIG, chunk=3)


@pytest.mark.slow
def test_pairs_are_ranked_as_their_paths_are(ranked):
    assert ranked.distances.shape == ranked.loss.shape == (3, CONFIG.steps + 2)
    assert ranked.converged.tolist() == [True, True, False]
    # The path of the last one ends early: it was to stop there.
    assert ranked.units[2].tolist() == [0, 3]
    assert ranked.barrier[2] == np.inf
    assert (np.diff(ranked.barrier[:2]) >= 0).all()
    for i, units in enumerate(ranked.units[:2].tolist()):
        path = fitted(SEED, tuple(units))
        np.testing.assert_allclose(ranked.distances[i], path.distances, rtol=1e-12)
        np.testing.assert_allclose(ranked.loss[i], path.loss, rtol=1e-6, atol=1e-14)
        np.testing.assert_allclose(ranked.barrier[i], path.loss.max() - path.loss[0], rtol=1e-6)
        np.testing.assert_allclose(ranked.point[i], Network(path.point).loss(toy(SEED)[0]), rtol=1e-6)
        assert ranked.gradient_norm[i] <= CONFIG.point_tolerance


@pytest.mark.slow
def test_chunks_change_nothing(ranked):
    first = rank_pairs(*toy(SEED), GROUP, np.array(PAIRS), CONFIG)
    # The two are equal but for rounding, which may tell them apart in any order.
    order, expected = (np.lexsort(found.units[:2].T[::-1]) for found in (first, ranked))
    for name in ("units", "barrier", "point", "converged", "distances", "loss"):
        one, many = getattr(first, name)[:2][order], getattr(ranked, name)[:2][expected]
        np.testing.assert_allclose(one, many, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("stop", [True, False])
def test_the_order_is_that_of_the_highest_minimum(stop, monkeypatch):
    """Given approaches are ranked by their highest loss; those that stopped come last, unless they may go on."""
    rng = np.random.default_rng(0)
    task, theta = toy(SEED)
    told = Approach(
        rng.random((6, 14)),
        Minima(
            rng.random((6, 14)), rng.random((6, 14)), np.ones((6, 14)), np.ones((6, 14)), rng.random((6, 14)) > 0.05
        ),
        None,
        {},
    )
    monkeypatch.setattr(mergers, "approach_pairs", lambda *given: told)
    found = rank_pairs(task, theta, GROUP, config=replace(CONFIG, require_convergence=stop))
    pairs = list(combinations(range(4), 2))
    whole = [bool(row.all()) for row in told.minima.converged]
    assert 0 < sum(whole) < 6
    heights = [row.max() if good or not stop else np.inf for row, good in zip(told.minima.loss, whole, strict=True)]
    order = np.argsort(heights, kind="stable")
    assert [tuple(units) for units in found.units.tolist()] == [pairs[i] for i in order]
    made = Network(theta).made
    for i, n in enumerate(order):
        # The teacher's own loss is zero.
        np.testing.assert_allclose(found.barrier[i], heights[n], atol=1e-9)
        assert (found.point[i], found.converged[i]) == (told.minima.loss[n, -1], whole[n])
        assert found.gradient_norm[i] == told.minima.gradient_norm[n, -1]
        a, b = pairs[n]
        np.testing.assert_allclose(found.distances[i], [np.linalg.norm(made[a] - made[b]), *told.distances[n]])
        np.testing.assert_allclose(found.loss[i], [0, *told.minima.loss[n]], atol=1e-9)


def cosine(made, pair):
    one, two = made[pair[0]], made[pair[1]]
    return one @ two / np.linalg.norm(one) / np.linalg.norm(two)


def test_cosines():
    task, theta = toy(SEED)
    made = Network(theta).made
    every = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    expected = sorted(every, key=lambda pair: -cosine(made, pair))
    assert list(map(tuple, similar_pairs(task.model, theta, GROUP).tolist())) == expected


def test_bad_arguments_are_refused():
    for given, *named in (
        ({"pairs": [(0, 0)]}, "twice"),
        ({"pairs": [(0, 4)]}, "unit=4"),
        *(({"pairs": pairs}, "(pairs, 2)") for pairs in ([0, 1], [(0.0, 1.0)], [(0, 1), (2,)], np.zeros((0, 2), int))),
        ({"chunk": -1}, "chunk=-1"),
    ):
        with says(InputError, *named):
            rank_pairs(*toy(SEED), GROUP, **given)
