"""Paths measured: against direct evaluation, closed forms for lengths, barriers and integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import (
    Augmentation,
    InputError,
    PathMetrics,
    SpecError,
    arc_length,
    barrier,
    bezier,
    evaluate,
    evaluate_path,
    linear,
    models,
    normalized_length,
    reestimate,
    trees,
)


@pytest.fixture
def ends(key, tiny_model):
    return tuple(tiny_model.init(k) for k in jax.random.split(key))


def metrics_of(values, ts=None, distance=None):
    values = np.asarray(values, np.float64)
    ts = np.linspace(0, 1, values.shape[-1]) if ts is None else np.asarray(ts)
    distance = np.broadcast_to(ts, values.shape) if distance is None else np.asarray(distance)
    return PathMetrics(ts, values, 1 - values, values, 1 - values, distance)


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_values_are_those_of_the_network_at_each_point(ends, tiny_data, tiny_model, chunk):
    path = linear(tiny_model.spec).bind(*ends)
    metrics = evaluate_path(tiny_model, path, tiny_data, 5, chunk=chunk)
    np.testing.assert_allclose(metrics.ts, [0, 0.25, 0.5, 0.75, 1])
    for i, t in enumerate(metrics.ts):
        train, test = evaluate(tiny_model, path(t), tiny_data)
        got = [getattr(metrics, name)[i] for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy")]
        np.testing.assert_allclose(got, [*train, *test], rtol=1e-5)


def test_any_function_of_t_is_a_path(ends, tiny_data, tiny_model):
    theta_1, theta_2 = ends
    by_hand = evaluate_path(
        tiny_model,
        lambda t: jax.tree.map(lambda a, b: (1 - t) * a + t * b, theta_1, theta_2),
        tiny_data,
        [0.0, 0.3, 1.0],
    )
    bound = evaluate_path(tiny_model, linear(tiny_model.spec).bind(theta_1, theta_2), tiny_data, [0.0, 0.3, 1.0])
    for a, b in zip(by_hand, bound, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_batch_statistics_are_reestimated_at_every_point_or_interpolated(key, tiny_colour_data):
    colour = tiny_colour_data
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    path = linear(model.spec).bind(*(model.init(k) for k in jax.random.split(key)))
    settings = {"batch_size": 30, "calibration_images": 90}
    fresh = evaluate_path(model, path, colour, 3, **settings)
    stale = evaluate_path(model, path, colour, 3, recalibrate=False, **settings)
    theta = path(0.5)
    new = reestimate(
        model,
        theta,
        colour.train_images[:90],
        colour.mean,
        colour.std,
        30,
        Augmentation(crop=1),
    )
    np.testing.assert_allclose(fresh.test_loss[1], evaluate(model, new, colour)[1].loss, rtol=1e-4)
    np.testing.assert_allclose(stale.test_loss[1], evaluate(model, theta, colour)[1].loss, rtol=1e-4)
    assert abs(fresh.test_loss[1] - stale.test_loss[1]) > 1e-3
    plain = evaluate_path(model, path, colour, 3, augmentation=Augmentation.none(), **settings)
    bare = reestimate(model, theta, colour.train_images[:90], colour.mean, colour.std, 30)
    np.testing.assert_allclose(plain.test_loss[1], evaluate(model, bare, colour)[1].loss, rtol=1e-4)


def test_one_trace_for_all_points_and_for_paths_of_one_kind(ends, tiny_data, tiny_model):
    calls = []

    def apply(theta, x):
        calls.append(x.shape[0])
        return tiny_model.apply(theta, x)

    model = tiny_model._replace(apply=apply)
    theta_1, theta_2 = ends
    for pair in ((theta_1, theta_2), (theta_2, theta_1)):
        evaluate_path(model, bezier(model.spec).bind(*pair), tiny_data, 7, batch_size=10)
    # One call to see what it returns, and one a split: 120 and 50 images are whole batches of 10.
    assert calls == [2, 10, 10]


def test_evaluating_twice_gives_the_same_bits(ends, tiny_data, tiny_model):
    path = linear(tiny_model.spec).bind(*ends)
    for a, b in zip(*(evaluate_path(tiny_model, path, tiny_data, 9) for _ in range(2)), strict=True):
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


def test_length_of_a_line_and_of_an_arc(ends, tiny_data, tiny_model):
    theta_1, theta_2 = ends
    path = linear(tiny_model.spec).bind(theta_1, theta_2)
    apart = np.sqrt(
        sum(((np.asarray(a, np.float64) - b) ** 2).sum() for a, b in zip(*map(jax.tree.leaves, ends), strict=True))
    )
    np.testing.assert_allclose(arc_length(path), apart, rtol=1e-5)
    np.testing.assert_allclose(normalized_length(path), 1, rtol=1e-5)
    np.testing.assert_allclose(
        evaluate_path(tiny_model, path, tiny_data, 4).distance, apart * np.arange(4) / 3, rtol=1e-4
    )

    def arc(t):
        angle = t * jnp.pi / 2
        return {"params": {"x": jnp.stack([jnp.cos(angle), jnp.sin(angle)])}, "batch_stats": {"mean": 100 * t}}

    np.testing.assert_allclose(arc_length(arc, 400), np.pi / 2, rtol=1e-4)
    np.testing.assert_allclose(normalized_length(arc, 400), np.pi / 2 / np.sqrt(2), rtol=1e-4)


def test_bad_input_is_named(ends, tiny_data, tiny_model, key):
    path = linear(tiny_model.spec).bind(*ends)
    for ts in ([0.0, 1.2], [-0.1, 1.0], [0.5, 0.2], []):
        with pytest.raises(InputError, match=r"expected increasing values in \[0, 1\]"):
            evaluate_path(tiny_model, path, tiny_data, ts)
    other = models.create("mlp", 3, (8, 8, 1), widths=(4, 4)).init(key)
    with pytest.raises(SpecError, match="not those of mlp"):
        evaluate_path(tiny_model, lambda t: other, tiny_data)
    with pytest.raises(InputError, match="calibration_images=121"):
        evaluate_path(tiny_model, path, tiny_data, calibration_images=121)
    with pytest.raises(InputError, match="of='loss'"):
        barrier(metrics_of([0.0, 1.0]), "loss")
    with pytest.raises(InputError, match="baseline='max', expected line, mean or ends"):
        barrier(metrics_of([0.0, 1.0]), baseline="max")
    with pytest.raises(InputError, match="takes images of shape"):
        evaluate_path(models.create("mlp", 3, (4, 4, 1)), path, tiny_data)
    assert trees.parameter_count(ends[0]) == 64 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3


def test_lengths_of_many_pairs(ends, key, tiny_model):
    theta_1, theta_2 = ends
    curve = bezier(tiny_model.spec)
    pairs = [trees.stack(pair) for pair in ((theta_1, theta_2), (theta_2, theta_1), (theta_1, theta_1))]
    both = curve.bind_pairs(*pairs)
    for measure in (arc_length, normalized_length):
        alone = [measure(curve.bind(*(trees.index(part, i) for part in pairs)), 9) for i in range(2)]
        np.testing.assert_allclose(measure(both, 9), alone, rtol=1e-5)
