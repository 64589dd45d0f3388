"""Heights of segments against a fine grid; narrow spikes; the number of networks measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscapes import NAMES, PROFILE_TASK, at, exact, scan, segments
from variables import drawn

from mcjax import data, models, supervised
from mcjax.strings.scan import (
    MAX_ROUNDS,
    Scan,
    _next_points,
    segment_heights,
    smallest_step,
    values_at,
)
from mcjax.training import Criterion, Task


def test_an_interval_is_open_as_far_as_the_slopes_beside_it_reach():
    # Flat at 0.9 and then down by 3.6: Piyavskii's bound of the first interval, and twice the bend of 0.9.
    ts, values = np.linspace(0, 1, 5), np.array([0.9, 0.9, 0, 0, 0])
    reach = 0.9 + 3.6 * 0.25 / 2 + 2 * 0.9
    assert _next_points(ts, values, scan(), reach + 1e-6) is None
    new = _next_points(ts, values, scan(), reach - 1e-6)
    assert len(new) == 21
    assert ((new > 0) & (new < 0.25)).any()


@pytest.mark.parametrize("name", NAMES[:6])
def test_the_highest_value_is_known_to_the_tolerance(name):
    found = segment_heights(scan(), *segments(name))
    value, t = exact(name)
    assert 0.99 * value <= found.value[0] <= value * (1 + 1e-5)
    assert abs(found.t[0] - t) < 0.01
    assert 21 <= found.evaluations[0] <= 21 * (MAX_ROUNDS + 1)


def test_a_spike_between_two_points_of_the_first_grid_is_found_where_the_grid_alone_misses_it():
    assert exact("spike", points=21)[0] < 0.02
    assert segment_heights(scan(), *segments("spike")).value[0] > 0.99


def test_ends_are_included():
    for start, end, t in ((0, 1, 1.0), (1, 0, 0.0)):
        found = segment_heights(scan(), *segments("end", (start, end)))
        assert found.t[0] == t
        np.testing.assert_allclose(found.value[0], 1.01, rtol=1e-5)


def test_flat_segments_cost_one_grid():
    assert segment_heights(scan(), *segments("flat", (0, 1), (1, 2))).evaluations.tolist() == [21, 21]


@pytest.mark.parametrize("chunk", [1, 2, None])
def test_segments_are_measured_each_for_itself(chunk):
    one = scan(chunk)
    starts, ends = segments("narrow", (0, 1), (0.4, 0.6), (-1, 0))
    together = segment_heights(one, starts, ends)
    for i in range(3):
        alone = segment_heights(one, starts[i : i + 1], ends[i : i + 1])
        np.testing.assert_allclose(together.value[i], alone.value[0], rtol=1e-6)
        assert together.t[i] == alone.t[0]
        assert together.evaluations[i] == alone.evaluations[0]


def test_a_step_of_the_criterion_is_not_refined_for_ever():
    free = segment_heights(scan(), *segments("stairs")).evaluations[0]
    assert segment_heights(scan()._replace(step=0.02), *segments("stairs")).evaluations[0] < free


def test_segments_that_cannot_reach_the_limit_are_not_refined():
    assert segment_heights(scan(), *segments("narrow"), [100.0]).evaluations[0] == 21
    assert segment_heights(scan(), *segments("narrow"), [0.5]).value[0] > 0.99


def test_a_loss_that_is_not_finite_is_the_highest():
    found = segment_heights(scan(), *segments("infinite"))
    assert found.value[0] == np.inf
    assert 0.4 <= found.t[0] <= 0.6


def squares(theta, batch):
    """A metric of one's own: the mean square of the kernels, and how bright the images are."""
    return jnp.square(theta["params"]["Dense_0"]["kernel"]).mean() + (batch[0] / 255).mean()


@pytest.mark.parametrize("metric", ["error", squares])
def test_values_are_those_of_the_networks_between(tiny_task, tiny_model, metric):
    thetas = [jax.tree.map(np.float32, drawn(tiny_model, seed)) for seed in range(4)]
    criterion = Criterion(metric, "test")
    one = Scan(tiny_task, criterion, 5, 0.01, 0.0, None)
    ts = np.array([[0.0, 0.3], [0.5, 1.0]])
    got = values_at(one, thetas[:2], thetas[2:], ts)
    for i in range(2):
        for j in range(2):
            theta = jax.tree.map(lambda a, b, t=ts[i, j]: (1 - t) * a + t * b, thetas[i], thetas[i + 2])
            np.testing.assert_allclose(got[i, j], criterion(tiny_task, theta), rtol=1e-5, atol=1e-6)


def test_the_smallest_step_is_that_of_one_label(tiny_task, tiny_model):
    theta = drawn(tiny_model)
    assert smallest_step(Criterion("error", "test"), tiny_task, theta) == 1 / 50
    assert smallest_step(Criterion("error", "train", examples=7), tiny_task, theta) == 1 / 7
    for metric in ("loss", "perplexity", squares):
        assert smallest_step(Criterion(metric), tiny_task, theta) == 0
    # Three labels of every example, as of texts.
    rng = np.random.default_rng(0)
    x, labels = np.int32(rng.integers(0, 5, (2, 6, 3)))
    words = data.Dataset(x, labels, x[:4], labels[:4], 5, np.zeros(1), np.ones(1))
    model = models.from_function(
        lambda key: {"table": jax.random.normal(key, (5, 5))},
        lambda theta, x: theta["table"][x],
        jax.ShapeDtypeStruct((1, 3), jnp.int32),
    )
    texts = supervised(model, words)
    assert smallest_step(Criterion("error", "train"), texts, {"table": np.zeros((5, 5))}) == 1 / 18
    assert smallest_step(Criterion("error", "test", examples=2), texts, {"table": np.zeros((5, 5))}) == 1 / 6


def test_the_smallest_step_of_tasks_of_ones_own():
    def task(**metrics):
        measured = {name: lambda theta, x, at=at: (x < theta * at).mean() for name, at in metrics.items()}
        return Task(
            lambda theta, x, key: jnp.square(theta - x).mean(),
            np.arange(8.0),
            metrics=lambda theta, x: {name: metric(theta, x) for name, metric in measured.items()},
        )

    error, theta = Criterion("error"), jnp.float32(0.5)
    assert smallest_step(error, task(accuracy=1.0), theta) == 1 / 8
    # An error of the task's own may be of any kind, such as the absolute error of a regression.
    assert smallest_step(error, task(accuracy=1.0, error=2.0), theta) == 0
    assert smallest_step(error, task(error=2.0), theta) == 0
    assert smallest_step(error, PROFILE_TASK, at(0, 0)) == 0
