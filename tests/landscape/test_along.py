"""Paths measured: against direct evaluation, closed forms for lengths, barriers and integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variables import alive, measured, mixed, networks, stacked

from mcjax import (
    Augmentation,
    InputError,
    PathMetrics,
    SpecError,
    barrier,
    bezier,
    evaluate,
    evaluate_path,
    linear,
    models,
    trees,
)
from mcjax.landscape import arc_length, normalized_length
from mcjax.landscape.points import METRICS
from mcjax.training import estimate_statistics

TS = [0, 0.3, 0.5, 0.75, 1]


def metrics_of(values, ts=None, distance=None):
    values = np.asarray(values, np.float64)
    ts = np.linspace(0, 1, values.shape[-1]) if ts is None else np.asarray(ts)
    distance = np.broadcast_to(ts, values.shape) if distance is None else np.asarray(distance)
    return PathMetrics(ts, values, 1 - values, values, 1 - values, distance)


def vector(theta):
    return np.concatenate([np.float64(leaf).ravel() for leaf in jax.tree.leaves(theta["params"])])


def test_values_are_those_of_the_network_at_each_point(ends, tiny_data, tiny_model):
    """Metrics of a bound curve, by any chunk, and of any function of t."""
    theta_1, theta_2 = ends
    bound = linear(tiny_model.spec).bind(theta_1, theta_2)
    expected = np.transpose([measured(mixed(theta_1, theta_2, t), tiny_data) for t in TS])
    for path, chunk in (
        (bound, None),
        (bound, 3),
        (lambda t: jax.tree.map(lambda a, b: (1 - t) * a + t * b, theta_1, theta_2), None),
    ):
        metrics = evaluate_path(tiny_model, path, tiny_data, TS, chunk=chunk)
        np.testing.assert_allclose([getattr(metrics, name) for name in METRICS], expected, rtol=1e-4)
        np.testing.assert_allclose(metrics.ts, TS)
        apart = np.linalg.norm(vector(theta_1) - vector(theta_2))
        np.testing.assert_allclose(metrics.distance, apart * np.array(TS), rtol=1e-4, atol=1e-6)
    spaced = evaluate_path(tiny_model, bound, tiny_data, 5)
    np.testing.assert_allclose(spaced.ts, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(spaced.test_loss[2:], evaluate_path(tiny_model, bound, tiny_data, TS).test_loss[2:])


def test_batch_statistics_are_reestimated_at_every_point_or_interpolated(normed, tiny_colour_data):
    colour, ends = tiny_colour_data, (alive(normed, 0), alive(normed, 1))
    path, theta = linear(normed.spec).bind(*ends), mixed(*ends, 0.5)
    settings = {"batch_size": 30, "calibration_images": 90}
    fresh, stale, plain = (
        evaluate_path(normed, path, colour, 3, **settings, **more)
        for more in ({}, {"reestimate": False}, {"augmentation": Augmentation.none()})
    )

    def again(augmentation):
        images = colour.train_images[:90], colour.mean, colour.std
        return jax.jit(lambda theta: estimate_statistics(normed, theta, *images, 30, augmentation))(theta)

    for found, expected in ((fresh, again(Augmentation(crop=1))), (stale, theta), (plain, again(None))):
        np.testing.assert_allclose(found.test_loss[1], evaluate(normed, expected, colour)[1].loss, rtol=1e-4)
    assert abs(fresh.test_loss[1] - stale.test_loss[1]) > 1e-3
    assert abs(fresh.test_loss[1] - plain.test_loss[1]) > 1e-4


def test_one_trace_for_all_points_and_for_paths_of_one_kind_and_the_same_bits_again(ends, tiny_data, tiny_model):
    calls = []

    def apply(theta, x):
        calls.append(x.shape[0])
        return tiny_model.apply(theta, x)

    model = tiny_model._replace(apply=apply)
    theta_1, theta_2 = ends
    first, _, again = (
        evaluate_path(model, bezier(model.spec).bind(*pair), tiny_data, 7, batch_size=10)
        for pair in ((theta_1, theta_2), (theta_2, theta_1), (theta_1, theta_2))
    )
    # One call to see what it returns, and one a split: 120 and 50 images are whole batches of 10.
    assert calls == [2, 10, 10]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_barrier_by_its_definitions():
    metrics = metrics_of([1.0, 3.0, 2.5, 1.5])
    # Heights above the line from 1 to 1.5, and above the worse end.
    np.testing.assert_allclose(barrier(metrics), 3 - (1 + 0.5 / 3))
    np.testing.assert_allclose(barrier(metrics, baseline="ends"), 1.5)
    np.testing.assert_allclose(barrier(metrics, baseline="mean"), 1.75)
    np.testing.assert_allclose(barrier(metrics, "test_accuracy"), 3 - (1 + 0.5 / 3))
    np.testing.assert_allclose(barrier(metrics, "test_accuracy", "mean"), 1.75)
    assert barrier(metrics_of([2.0, 1.0, 2.0])) == 0
    # A path that only falls lies above the mean of its ends where it begins.
    np.testing.assert_allclose(barrier(metrics_of([2.0, 1.0, 1.0]), baseline="mean"), 0.5)
    pairs = metrics_of([[0.0, 1.0, 0.0], [0.0, 0.5, 2.0]])
    np.testing.assert_allclose(barrier(pairs), [1.0, 0.0])
    np.testing.assert_allclose(barrier(pairs, baseline="mean"), [1.0, 1.0])
    np.testing.assert_allclose(barrier(metrics_of([0.0, 1.0, 1.0], ts=[0.0, 0.75, 1.0])), 0.25)


def test_summary_columns():
    # Twice as far between the last two points as between the first two.
    metrics = metrics_of([1.0, 2.0, 4.0], distance=[0.0, 1.0, 3.0])
    columns = metrics.summary()["train_loss"]
    assert (columns["start"], columns["end"], columns["min"], columns["max"]) == (1, 4, 1, 4)
    np.testing.assert_allclose(columns["mean"], 7 / 3)
    np.testing.assert_allclose(columns["integral"], (1.5 * 1 + 3 * 2) / 3)
    still = metrics_of([1.0, 2.0, 4.0], distance=[0.0, 0.0, 0.0]).summary()["train_loss"]
    np.testing.assert_allclose(still["integral"], 0.5 * 1.5 + 0.5 * 3)
    pairs = metrics_of([[1.0, 2.0, 4.0]] * 2, distance=[[0.0, 1.0, 3.0], [0.0, 1.0, 2.0]]).summary()
    np.testing.assert_allclose(pairs["test_loss"]["integral"], [2.5, 2.25])


def test_length_of_a_line_and_of_an_arc(ends, tiny_model):
    path = linear(tiny_model.spec).bind(*ends)
    np.testing.assert_allclose(arc_length(path), np.linalg.norm(vector(ends[0]) - vector(ends[1])), rtol=1e-5)
    np.testing.assert_allclose(normalized_length(path), 1, rtol=1e-5)

    def arc(t):
        angle = t * jnp.pi / 2
        return {"params": {"x": jnp.stack([jnp.cos(angle), jnp.sin(angle)])}, "batch_stats": {"mean": 100 * t}}

    np.testing.assert_allclose(arc_length(arc, 400), np.pi / 2, rtol=1e-4)
    np.testing.assert_allclose(normalized_length(arc, 400), np.pi / 2 / np.sqrt(2), rtol=1e-4)


def test_lengths_of_many_pairs(ends, tiny_model):
    theta_1, theta_2 = ends
    pairs = ((theta_1, theta_2, theta_1), (theta_2, theta_1, theta_2))
    path = bezier(tiny_model.spec).bind_pairs(*(stacked(part) for part in zip(*pairs, strict=True)))
    t, expected = np.linspace(0, 1, 9)[:, None], []
    for start, end, offset in (map(vector, each) for each in pairs):
        points = (1 - t) * start + t * end + 2 * t * (1 - t) * offset
        expected.append(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    np.testing.assert_allclose(arc_length(path, 9), expected, rtol=1e-5)
    apart = np.linalg.norm(vector(theta_1) - vector(theta_2))
    np.testing.assert_allclose(normalized_length(path, 9), np.array(expected) / apart, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ts": [0.0, 1.2]}, r"\[0\. +1\.2\]"),
        ({"ts": [-0.1, 1.0]}, r"\[-0\.1 +1\. *\]"),
        ({"ts": [0.5, 0.2]}, r"\[0\.5 0\.2\]"),
        ({"ts": []}, r"\[\]"),
        ({"calibration_images": 121}, "calibration_images=121"),
    ],
)
def test_options_that_are_wrong(ends, tiny_data, tiny_model, options, named):
    with pytest.raises(InputError, match=named):
        evaluate_path(tiny_model, linear(tiny_model.spec).bind(*ends), tiny_data, **options)


def test_bad_input_is_named(ends, tiny_data, tiny_model):
    path, other = linear(tiny_model.spec).bind(*ends), networks(models.create("mlp", 3, (8, 8, 1), widths=(4, 4)), 1)
    with pytest.raises(SpecError, match="mlp"):
        evaluate_path(tiny_model, lambda t: trees.index(other, 0), tiny_data)
    with pytest.raises(InputError, match=r"\(4, 4, 1\)"):
        evaluate_path(models.create("mlp", 3, (4, 4, 1)), path, tiny_data)
    for arguments, named in (
        (("loss",), "metric='loss'"),
        (("train_loss", "max"), "baseline='max'.*line, mean or ends"),
    ):
        with pytest.raises(InputError, match=named):
            barrier(metrics_of([0.0, 1.0]), *arguments)
