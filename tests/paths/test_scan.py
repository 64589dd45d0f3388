"""The highest value of a segment against a fine grid; narrow spikes; how many networks are measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from valleys import at, landscape

from mcjax.paths.scan import ROUNDS, Scan, highest, highest_on_grid, values_at
from mcjax.training.criterion import Criterion


def bump(center, width, height=1.0):
    return lambda x: height * jnp.exp(-(((x - center) / width) ** 2))


def scan(profile, points=21, tolerance=0.01, chunk=None):
    # The loss at (x, .) is profile(x): residuals are squared.
    model, data = landscape(lambda point: jnp.sqrt(profile(point[0]))[None] + 0 * point[1:], 2)
    return Scan(model, Criterion(), jax.device_put(data), points, tolerance, 0.0, chunk)


def exact(profile, start=0.0, end=1.0):
    values = jax.vmap(profile)(np.linspace(start, end, 200_001))
    return float(values.max()), np.linspace(0, 1, 200_001)[int(values.argmax())]


PROFILES = {
    "smooth": bump(0.37, 0.3),
    "narrow": bump(0.513, 0.02),  # less wide than the first grid's spacing
    "two, the narrow one higher": lambda x: bump(0.2, 0.2)(x) + bump(0.77, 0.015, 1.3)(x),
    "slope": lambda x: 0.1 + x,
    "cusp": lambda x: 1 / (1 + 10 * jnp.abs(x - 0.6123)),
    "waves": lambda x: 1.1 + jnp.sin(25 * x) * x,
}


@pytest.mark.parametrize("name", PROFILES)
def test_the_highest_value_is_known_to_the_tolerance(name):
    found = highest(scan(PROFILES[name]), [at(0, 0)], [at(1, 0)])
    value, t = exact(PROFILES[name])
    assert 0.99 * value <= found.value[0] <= value * (1 + 1e-5)
    assert abs(found.t[0] - t) < 0.01
    assert 21 <= found.measured[0] <= 21 * (ROUNDS + 1)


def test_a_spike_between_two_points_of_the_first_grid_is_found_where_the_grid_alone_misses_it():
    spike = bump(0.525, 0.012)
    grid = np.linspace(0, 1, 21)
    assert max(float(spike(t)) for t in grid) < 0.02
    assert highest(scan(spike), [at(0, 0)], [at(1, 0)]).value[0] > 0.99


def test_ends_are_included():
    for start, end, t in ((0, 1, 1.0), (1, 0, 0.0)):
        found = highest(scan(lambda x: 0.01 + x**8), [at(start, 0)], [at(end, 0)])
        assert found.t[0] == t
        np.testing.assert_allclose(found.value[0], 1.01, rtol=1e-5)


def test_flat_segments_cost_one_grid():
    found = highest(scan(lambda x: 0.5 + 0 * x), [at(0, 0), at(0, 1)], [at(1, 0), at(1, 1)])
    assert found.measured.tolist() == [21, 21]


@pytest.mark.parametrize("chunk", [1, 2, None])
def test_segments_are_measured_each_for_itself(chunk):
    one = scan(PROFILES["narrow"], chunk=chunk)
    starts, ends = [at(0, 0), at(0.4, 0), at(-1, 0)], [at(1, 0), at(0.6, 0), at(0, 0)]
    together = highest(one, starts, ends)
    for i in range(3):
        alone = highest(one, starts[i : i + 1], ends[i : i + 1])
        np.testing.assert_allclose(together.value[i], alone.value[0], rtol=1e-6)
        assert together.t[i] == alone.t[0]
        assert together.measured[i] == alone.measured[0]


def test_a_step_of_what_is_measured_is_not_searched_for_ever():
    # Shares of 50 images: a staircase.
    staircase = scan(lambda x: jnp.round(50 * bump(0.4, 0.3)(x)) / 50)
    free = highest(staircase, [at(0, 0)], [at(1, 0)]).measured[0]
    assert highest(staircase._replace(step=0.02), [at(0, 0)], [at(1, 0)]).measured[0] < free


def test_what_cannot_reach_the_limit_is_not_looked_at_more_closely():
    one, ends = scan(PROFILES["narrow"]), ([at(0, 0)], [at(1, 0)])
    assert highest(one, *ends, [100.0]).measured[0] == 21
    assert highest(one, *ends, [0.5]).value[0] > 0.99


def test_what_is_not_finite_is_the_highest():
    found = highest(scan(lambda x: jnp.where(jnp.abs(x - 0.5) < 0.1, jnp.inf, x)), [at(0, 0)], [at(1, 0)])
    assert found.value[0] == np.inf
    assert 0.4 <= found.t[0] <= 0.6


@pytest.mark.parametrize("times", [1, 3, 10])
def test_a_denser_grid(times):
    one = scan(PROFILES["waves"])
    found = highest_on_grid(one, [at(0, 0), at(0.5, 0)], [at(1, 0), at(1, 0)], times)
    for i, start in enumerate((0.0, 0.5)):
        ts = np.linspace(0, 1, times * 20 + 1)
        values = np.asarray(jax.vmap(PROFILES["waves"])(start + (1 - start) * ts))
        np.testing.assert_allclose(found.value[i], values.max(), rtol=1e-5)
        np.testing.assert_allclose(found.t[i], ts[values.argmax()], atol=1e-6)
    assert found.measured.tolist() == [times * 20 + 1] * 2


def test_values_are_those_of_the_networks_between(tiny_data, tiny_model, key):
    thetas = [jax.tree.map(np.asarray, tiny_model.init(k)) for k in jax.random.split(key, 4)]
    one = Scan(tiny_model, Criterion("error", "test"), jax.device_put(tiny_data), 5, 0.01, 0.0, None)
    ts = np.array([[0.0, 0.3], [0.5, 1.0]])
    got = values_at(one, thetas[:2], thetas[2:], ts)
    for i in range(2):
        for j in range(2):
            theta = jax.tree.map(lambda a, b, t=ts[i, j]: (1 - t) * a + t * b, thetas[i], thetas[i + 2])
            np.testing.assert_allclose(got[i, j], Criterion("error", "test")(tiny_model, theta, tiny_data), atol=1e-6)
