"""Certificates: walls that a grid misses, what slopes find and what they cannot, and a bound that is a proof."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscapes import RING, at, config, exact, heights, landscape, scan, segments
from refusals import says

from mcjax import InputError
from mcjax.strings import sample_string
from mcjax.strings.certify import MAX_ROUNDS, certified_heights

LIMIT = 0.01


def root(points, exp, offset):
    """The root of a wall 5 high and 0.0008 wide at half its height, so far from x = 1/2."""
    return math.sqrt(5) * exp(-math.log(2) / 2 * ((points[..., 0] - 0.5 - offset) / 0.0004) ** 2)


def walled(offset):
    return landscape(lambda point: root(point, jnp.exp, offset)[None], 2)


def string_over(key, offset, **changes):
    return sample_string(key, walled(offset), at(0, 0), at(1, 0), LIMIT, config=config(depth=1, **changes))


@pytest.mark.parametrize("times", [1, 3, 10])
def test_a_dense_grid(times):
    found = certified_heights(scan(), *segments("waves", (0, 1), (0.5, 1)), [9.0, 9.0], times)
    for i, start in enumerate((0.0, 0.5)):
        value, t = exact("waves", start, points=times * 20 + 1)
        np.testing.assert_allclose(found.value[i], value, rtol=1e-5)
        np.testing.assert_allclose(found.t[i], t, atol=1e-6)
    assert found.evaluations.tolist() == [times * 20 + 1] * 2
    np.testing.assert_allclose(found.gap, 1 / (times * 20), rtol=1e-4)
    assert np.isinf(found.bound).all()


def test_slopes_find_the_foot_of_a_wall_between_the_points_of_the_grid(key):
    # The wall is 0.0015 from a point of the grid, whose spacing is 0.005.
    blind = string_over(key, 0.0015)
    assert (blind.connected, blind.beads) == (True, 0)
    assert heights(lambda points: root(points, np.exp, 0.0015) ** 2, blind).max() > 4.5
    # It says what it may have missed.
    assert blind.resolution.tolist() == pytest.approx([0.005], rel=1e-4)
    assert np.isinf(blind.bounds).all()
    seeing = string_over(key, 0.0015, lipschitz="slopes")
    assert not seeing.connected
    assert seeing.worst.height > 1
    # What no value and no slope shows, slopes do not find: the wall in the middle between two points.
    assert string_over(key, 0.0025, lipschitz="slopes").connected


@pytest.mark.parametrize("offset", [0.0015, 0.0025])
def test_a_true_bound_never_certifies_a_wall(key, offset):
    # The steepest slope of the Gaussian: 5 * sqrt(2 log 2 / e) / 0.0004.
    bound = 5 * math.sqrt(2 * math.log(2) / math.e) / 0.0004
    string = string_over(key, offset, lipschitz=bound)
    assert not string.connected
    assert heights(lambda points: root(points, np.exp, offset) ** 2, string).max() > 4.5


def test_a_true_bound_certifies_with_points_as_dense_as_it_needs(key):
    # (x^2 + y^2 - 1)^2 within the unit disc: the slope 4 r (1 - r^2) is at most 8 / sqrt(27).
    bound = 8 / math.sqrt(27)
    ends = at(1, 0), at(math.cos(1), math.sin(1))
    top = (math.cos(0.5) ** 2 - 1) ** 2
    settings = {"tolerance": 0.0, "scan_points": 5, "verification_density": 1}
    string = sample_string(key, RING, *ends, top * 1.01, config=config(lipschitz=bound, **settings))
    assert string.connected
    assert string.beads == 0
    assert top * (1 - 1e-4) <= string.heights[0] <= string.bounds[0] <= top * 1.01
    # Where the bound is needed the points are dense, elsewhere they are not: far fewer than an even grid of them.
    even = bound * string.length / (0.01 * top)
    assert 5 < string.evaluations < even
    # Slopes do it with fewer.
    measured = sample_string(key, RING, *ends, top * 1.01, config=config(lipschitz="slopes", **settings))
    assert measured.connected
    assert top * (1 - 1e-4) <= measured.bounds[0] <= top * 1.01


def test_a_bound_that_is_too_large_for_the_budget_certifies_nothing():
    # A flat profile at 0.5, limit 0.6: with a slope of 1e6 the points would have to be 2e-7 apart.
    found = certified_heights(scan(), *segments("flat"), [0.6], 1, 1e6)
    assert found.value[0] == pytest.approx(0.5)
    assert found.bound[0] > 0.6
    assert found.evaluations[0] == 21 * (MAX_ROUNDS + 1)
    # t is inside the interval that is worst, which is no longer than the longest gap.
    assert 0 < found.t[0] < 1
    assert found.bound[0] == pytest.approx(0.5 + 1e6 * found.gap[0] / 2, rel=0.01)


def test_certified_is_what_the_bound_leaves_no_room_for():
    # Flat at 0.5 with slope 2: (0.5 + 0.5) / 2 + 2 * width / 2 on intervals of 1/20.
    assert certified_heights(scan(), *segments("flat"), [0.551], 1, 2.0).evaluations[0] == 21
    assert certified_heights(scan(), *segments("flat"), [0.549], 1, 2.0).evaluations[0] > 21
    # Per unit of distance between parameters: a segment of twice the length has half the intervals to spare.
    assert certified_heights(scan(), *segments("flat", (0, 2)), [0.551], 1, 2.0).evaluations[0] > 21
    # One that is above its limit is not refined.
    assert certified_heights(scan(), *segments("slope"), [0.5], 1, "slopes").evaluations[0] == 21
    endless = certified_heights(scan(), *segments("infinite"), [0.5], 1, "slopes")
    assert endless.value[0] == np.inf
    assert endless.bound[0] > 1e29


def test_a_false_bound_is_refused():
    with says(InputError, "lipschitz", "2 times as steep"):
        certified_heights(scan(), *segments("slope"), [2.0], 1, 0.5)


def test_an_error_rate_has_no_slope(key, tiny_task, tiny_ends):
    settings = config(metric="error", batch_size=40, lipschitz="slopes")
    with says(InputError, "'slopes'", "train error"):
        sample_string(jax.random.key(0), tiny_task, *tiny_ends, 0.2, config=settings)
    for wrong in (0.0, -1.0, math.inf, "slope"):
        with says(InputError, f"lipschitz={wrong!r}"):
            config(lipschitz=wrong)
