"""Pairs ranked: as their paths one by one, by cosines against numpy, a share of them, in chunks, and bad pairs."""

import numpy as np
import pytest
from teachers import CONFIG, GROUP, Network, fitted, toy

from mcjax import InputError, rank_pairs, similar_pairs

SEED = 5
PAIRS = ((0, 3), (0, 1), (0, 2))


@pytest.fixture(scope="module")
def ranked():
    return rank_pairs(*toy(SEED), GROUP, PAIRS, CONFIG, chunk=3)


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
        np.testing.assert_allclose(ranked.point[i], Network(path.point).loss(toy(SEED)[2]), rtol=1e-6)
        assert ranked.gradient_norm[i] <= CONFIG.point_tolerance


@pytest.mark.slow
def test_chunks_change_nothing(ranked):
    first = rank_pairs(*toy(SEED), GROUP, np.array(PAIRS), CONFIG)
    # The two are equal but for rounding, which may tell them apart in any order.
    order, expected = (np.lexsort(found.units[:2].T[::-1]) for found in (first, ranked))
    for name in ("units", "barrier", "point", "converged", "distances", "loss"):
        one, many = getattr(first, name)[:2][order], getattr(ranked, name)[:2][expected]
        np.testing.assert_allclose(one, many, rtol=1e-6, atol=1e-12)


def cosine(made, pair):
    one, two = made[pair[0]], made[pair[1]]
    return one @ two / np.linalg.norm(one) / np.linalg.norm(two)


def test_cosines():
    model, theta, _ = toy(SEED)
    made = Network(theta).made
    every = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    expected = sorted(every, key=lambda pair: -cosine(made, pair))
    assert list(map(tuple, similar_pairs(model, theta, GROUP).tolist())) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pairs": [(0, 0)]}, "one unit twice"),
        ({"pairs": [(0, 4)]}, "the second unit=4"),
        ({"pairs": [0, 1]}, "whole numbers \\(pairs, 2\\)"),
        ({"pairs": [(0.0, 1.0)]}, "whole numbers \\(pairs, 2\\)"),
        ({"pairs": [(0, 1), (2,)]}, "whole numbers \\(pairs, 2\\)"),
        ({"pairs": np.zeros((0, 2), int)}, "whole numbers \\(pairs, 2\\)"),
        ({"chunk": -1}, "chunk=-1"),
    ],
)
def test_what_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        rank_pairs(*toy(SEED), GROUP, **given)
