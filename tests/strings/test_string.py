"""Growing strings: knots and segments after insertion, lengths by hand, states there and back."""

import jax
import numpy as np
import pytest
from landscapes import at

from mcjax.strings.string import GrowingString


def grown(key):
    """0, then knots at x = 1/4, 1/2 (y = 1), 3/4 and 1, inserted at depths 2, 1, 2."""
    growing = GrowingString(key, at(0, 0), at(1, 0), (0.1, 0.2), 0.5)
    growing.heights, growing.verified = [0.9], [True]
    assert growing.insert([0], [at(0.5, 1)], [0.3]) == [0, 1]
    growing.heights, growing.peaks, growing.verified = [0.6, 0.7], [0.1, 0.9], [True, True]
    assert growing.insert([0, 1], [at(0.25, 0), at(0.75, 0)], [0.4, 0.45]) == [0, 1, 2, 3]
    return growing


def test_insertion_keeps_the_order(key):
    growing = grown(key)
    assert [float(knot["point"][0]) for knot in growing.knots] == [0, 0.25, 0.5, 0.75, 1]
    assert growing.values == [0.1, 0.4, 0.3, 0.45, 0.2]
    assert growing.depths == [0, 2, 1, 2, 0]
    assert growing.heights == [np.inf] * 4
    assert growing.verified == [False] * 4
    assert (growing.beads, growing.depth) == (3, 2)


def test_only_segments_that_were_split_are_new(key):
    growing = grown(key)
    growing.heights, growing.peaks = [0.1, 0.6, 0.2, 0.3], [0.2, 0.3, 0.4, 0.6]
    growing.verified = [True] * 4
    assert growing.segments_above(0.0) == [1]
    assert growing.segments_above(0.5) == []
    assert growing.insert([1], [at(0.3, 0)], [0.0]) == [1, 2]
    assert growing.heights == [0.1, np.inf, np.inf, 0.2, 0.3]
    assert growing.peaks == [0.2, 0.5, 0.5, 0.4, 0.6]
    assert growing.verified == [True, False, False, True, True]


def test_a_height_that_is_nan_is_above(key):
    growing = grown(key)
    growing.heights = [0.1, np.nan, 0.2, 0.3]
    assert growing.segments_above(10.0) == [1]


def test_the_result_of_a_string(key):
    growing = grown(key)
    growing.heights, growing.peaks = [0.1, 0.6, 0.2, 0.3], [0.2, 0.3, 0.4, 0.6]
    string = growing.result()
    assert not string.connected
    steps = [0.25, np.hypot(0.25, 1), np.hypot(0.25, 1), 0.25]
    np.testing.assert_allclose(string.length, sum(steps), rtol=1e-12)
    assert string.normalized_length == string.length
    assert (string.beads, string.depth, string.threshold) == (3, 2, 0.5)
    assert string.worst == (1, pytest.approx(0.3), pytest.approx(0.6))
    np.testing.assert_allclose(string.path(sum(steps[:2]) / sum(steps))["point"], [0.5, 1], atol=1e-5)
    growing.reason = "connected"
    assert growing.result().connected


def test_a_straight_string_has_length_1_exactly(key):
    for seed in range(20):
        a, b = np.random.default_rng(seed).normal(size=(2, 2))
        assert GrowingString(key, at(*a), at(*b), (0, 0), 1.0).result().normalized_length == 1.0


def test_ends_that_coincide_after_matching_have_a_length(key):
    string = GrowingString(key, at(1, 2), at(1, 2), (0, 0), 1.0).result()
    assert (string.length, string.normalized_length) == (0.0, 1.0)


def test_a_state_there_and_back(key):
    growing = grown(key)
    growing.heights, growing.peaks = [0.1, np.inf, 0.2, 0.3], [0.2, 0.3, 0.4, 0.6]
    growing.steps, growing.evaluations, growing.verified = 70, 99, [True, False, True, False]
    other = GrowingString(key, at(0, 0), at(1, 0), (9, 9), 0.5)
    other.restore(jax.tree.map(np.float32, growing.state()), "depth")
    assert other.reason == "depth"
    for name in ("values", "peaks", "heights"):
        np.testing.assert_array_equal(np.float32(getattr(other, name)), np.float32(getattr(growing, name)))
    for name in ("depths", "verified", "depth", "steps", "evaluations", "beads"):
        assert getattr(other, name) == getattr(growing, name), name
    for a, b in zip(other.knots, growing.knots, strict=True):
        np.testing.assert_array_equal(a["point"], b["point"])
