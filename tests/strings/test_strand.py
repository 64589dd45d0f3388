"""A growing string: what insertion does to knots and segments, lengths by hand, states there and back."""

import jax
import numpy as np
import pytest
from valleys import at

from mcjax.strings.strand import Strand


def grown(key):
    """0, then knots at x = 1/4, 1/2 (y = 1), 3/4 and 1, born at depths 2, 1, 2."""
    strand = Strand(key, at(0, 0), at(1, 0), (0.1, 0.2), 0.5)
    strand.heights, strand.certified = [0.9], [True]
    assert strand.insert([0], [at(0.5, 1)], [0.3]) == [0, 1]
    strand.heights, strand.where, strand.certified = [0.6, 0.7], [0.1, 0.9], [True, True]
    assert strand.insert([0, 1], [at(0.25, 0), at(0.75, 0)], [0.4, 0.45]) == [0, 1, 2, 3]
    return strand


def test_insertion_keeps_the_order(key):
    strand = grown(key)
    assert [float(knot["point"][0]) for knot in strand.knots] == [0, 0.25, 0.5, 0.75, 1]
    assert strand.values == [0.1, 0.4, 0.3, 0.45, 0.2]
    assert strand.born == [0, 2, 1, 2, 0]
    assert strand.heights == [np.inf] * 4
    assert strand.certified == [False] * 4
    assert (strand.beads, strand.depth) == (3, 2)


def test_only_segments_that_were_parted_are_new(key):
    strand = grown(key)
    strand.heights, strand.where = [0.1, 0.6, 0.2, 0.3], [0.2, 0.3, 0.4, 0.6]
    strand.certified = [True] * 4
    assert strand.above(0.0) == [1]
    assert strand.above(0.5) == []
    assert strand.insert([1], [at(0.3, 0)], [0.0]) == [1, 2]
    assert strand.heights == [0.1, np.inf, np.inf, 0.2, 0.3]
    assert strand.where == [0.2, 0.5, 0.5, 0.4, 0.6]
    assert strand.certified == [True, False, False, True, True]


def test_what_is_not_a_number_is_above(key):
    strand = grown(key)
    strand.heights = [0.1, np.nan, 0.2, 0.3]
    assert strand.above(10.0) == [1]


def test_the_result_of_a_string(key):
    strand = grown(key)
    strand.heights, strand.where = [0.1, 0.6, 0.2, 0.3], [0.2, 0.3, 0.4, 0.6]
    string = strand.result()
    assert not string.connected
    steps = [0.25, np.hypot(0.25, 1), np.hypot(0.25, 1), 0.25]
    np.testing.assert_allclose(string.length, sum(steps), rtol=1e-12)
    assert string.normalized_length == string.length
    assert (string.beads, string.depth, string.threshold) == (3, 2, 0.5)
    assert string.worst == (1, pytest.approx(0.3), pytest.approx(0.6))
    np.testing.assert_allclose(string.path(sum(steps[:2]) / sum(steps))["point"], [0.5, 1], atol=1e-5)
    strand.reason = "connected"
    assert strand.result().connected


def test_a_straight_string_has_length_1_exactly(key):
    for seed in range(20):
        a, b = np.random.default_rng(seed).normal(size=(2, 2))
        assert Strand(key, at(*a), at(*b), (0, 0), 1.0).result().normalized_length == 1.0


def test_ends_that_coincide_after_matching_have_a_length(key):
    string = Strand(key, at(1, 2), at(1, 2), (0, 0), 1.0).result()
    assert (string.length, string.normalized_length) == (0.0, 1.0)


def test_a_state_there_and_back(key):
    strand = grown(key)
    strand.heights, strand.where = [0.1, np.inf, 0.2, 0.3], [0.2, 0.3, 0.4, 0.6]
    strand.steps, strand.measured, strand.certified = 70, 99, [True, False, True, False]
    other = Strand(key, at(0, 0), at(1, 0), (9, 9), 0.5)
    other.restore(jax.tree.map(np.float32, strand.state()), "depth")
    assert other.reason == "depth"
    for name in ("values", "where", "heights"):
        np.testing.assert_array_equal(np.float32(getattr(other, name)), np.float32(getattr(strand, name)))
    for name in ("born", "certified", "depth", "steps", "measured", "beads"):
        assert getattr(other, name) == getattr(strand, name), name
    for a, b in zip(other.knots, strand.knots, strict=True):
        np.testing.assert_array_equal(a["point"], b["point"])
