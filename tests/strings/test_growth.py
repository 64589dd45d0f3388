"""One depth of sampling: what is verified, where beads start, which of them are trained."""

import math

import jax
import numpy as np
import pytest
from landscapes import BOWL, RING, at, config

from mcjax.strings import growth
from mcjax.strings.growth import Sampler
from mcjax.strings.string import GrowingString


def sampler(valley=RING, **changes):
    return Sampler(valley, config(**changes))


def straight(key, start=(1, 0), end=(-1, 0), threshold=0.001):
    return GrowingString(key, at(*start), at(*end), (0.0, 0.0), threshold)


def test_networks_are_measured():
    assert sampler(BOWL).measure_networks([at(1, 0), at(0.5, 0.5), at(0, 0)]) == pytest.approx([0.5, 0.25, 0.0])


def test_a_segment_is_measured(key):
    one = straight(key)
    sampler().measure_segments([(one, 0)])
    assert one.heights == [pytest.approx(1.0)]
    assert one.peaks == [0.5]
    assert one.evaluations >= 21
    assert one.verified == [False]


def test_verifying_keeps_the_higher_value_and_counts(key):
    one = straight(key, (1, 0), (0, 1), 0.3)
    # On the chord the loss is highest in the middle: (1/2 - 1)^2.
    one.heights, one.peaks = [0.2], [0.1]
    sampler(scan_points=5, verification_density=4).verify([one])
    assert one.heights == [pytest.approx(0.25)]
    assert one.peaks == [0.5]
    assert one.evaluations == 17
    one.heights, one.verified = [0.29], [False]
    sampler(scan_points=5, verification_density=4).verify([one])
    assert one.heights == [0.29]
    before = one.evaluations
    sampler().verify([one])  # verified before: measured no more
    assert one.evaluations == before


@pytest.mark.parametrize(
    ("peak", "changes", "expected"),
    [
        (0.3, {}, 0.3),
        (0.001, {}, 0.05),
        (1.0, {}, 0.95),
        (0.3, {"insert": "middle"}, 0.5),
        (0.3, {"kappa": 2.0}, 0.5),
        (0.3, {"kappa": math.inf}, 0.5),
    ],
)
def test_where_a_bead_starts(key, peak, changes, expected):
    one = straight(key)
    one.peaks = [peak]
    bead = sampler(noise=0.0, **changes).new_bead(one, 0, 0.5)
    np.testing.assert_allclose(bead.theta["point"], [1 - 2 * expected, 0], atol=1e-6)
    assert bead.target == 0.95 * 0.5
    assert bead.before is one.knots[0]
    assert bead.after is one.knots[1]


def test_a_bead_is_displaced_by_a_share_of_the_segment(key):
    one = straight(key)
    found = [
        sampler(noise=0.1).new_bead(replaced, 0, 0.5).theta["point"] for replaced in (one, straight(jax.random.key(9)))
    ]
    for point in found:
        np.testing.assert_allclose(np.linalg.norm(point), 0.1 * 2, rtol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.01
    # With infinite kappa the displacement stays in the plane.
    held = sampler(noise=0.1, kappa=math.inf).new_bead(one, 0, 0.5).theta["point"]
    np.testing.assert_allclose(np.abs(held), [0, 0.2], atol=1e-6)
    again = sampler(noise=0.1).new_bead(one, 0, 0.5)
    np.testing.assert_array_equal(again.theta["point"], found[0])
    # Another direction, and another key, at every depth and on every segment.
    one.depth = 1
    deeper = sampler(noise=0.1).new_bead(one, 0, 0.5)
    one.insert([0], [at(0, 0)], [1.0])
    beside = [sampler(noise=0.1).new_bead(one, i, 0.5) for i in (0, 1)]
    ways = [bead.theta["point"] - (bead.before["point"] + bead.after["point"]) / 2 for bead in (again, deeper, *beside)]
    ways = np.stack([way / np.linalg.norm(way) for way in ways])
    assert (np.abs(ways @ ways.T - np.eye(4)) < 0.999).all()
    assert len({jax.random.key_data(bead.key).tobytes() for bead in (again, deeper, *beside)}) == 4


def test_beads_that_are_low_enough_are_not_trained(key, monkeypatch):
    # On the chord from (1, 0) to (1.5, 0) the far end is above the threshold, the bead in the middle is not.
    calls = []

    def counted(task, settings, beads, **more):
        calls.append(len(beads))
        return []

    monkeypatch.setattr(growth, "train_beads", counted)
    one = straight(key, (1, 0), (1.5, 0), 0.35)
    one.heights, one.peaks = [1.5625], [1.0]
    sampler(insert="middle", noise=0.0).next_depth([one], False)
    assert calls == [0]
    assert one.beads == 1
    assert one.steps == 0
    assert one.values[1] == pytest.approx(0.5625**2)


@pytest.mark.parametrize(
    ("changes", "reason"), [({"depth": 0}, "depth"), ({"beads": 0}, "beads"), ({"epochs": 1}, "epochs")]
)
def test_why_a_string_ends(key, changes, reason):
    one = straight(key)
    sampler().measure_segments([(one, 0)])
    sampler(**changes).next_depth([one], False)
    assert one.reason == reason
    assert one.beads == (1 if reason == "epochs" else 0)


def test_a_string_that_is_low_is_connected_after_it_was_verified(key):
    one, other = straight(key, (1, 0), (0.9, 0.43), 0.5), straight(key)
    sampler().measure_segments([(one, 0), (other, 0)])
    sampler(epochs=1).next_depth([one, other], False)
    assert (one.reason, one.verified) == ("connected", [True])
    assert (other.reason, other.verified) == ("epochs", [False, False])
