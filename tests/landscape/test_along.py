"""Paths measured: against direct evaluation, closed forms for lengths, barriers and integrals."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import from_host
from variables import alive, measured, mixed, mlp, networks, normalized, stacked

from mcjax import (
    Augmentation,
    InputError,
    PathMetrics,
    SpecError,
    Task,
    barrier,
    bezier,
    evaluate,
    evaluate_path,
    linear,
    models,
    supervised,
    trees,
)
from mcjax.errors import InputWarning
from mcjax.landscape import arc_length, normalized_length
from mcjax.training import estimate_statistics

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
TS = [0, 0.3, 0.5, 0.75, 1]


def metrics_of(values, ts=None, distance=None):
    values = np.asarray(values, np.float64)
    ts = np.linspace(0, 1, values.shape[-1]) if ts is None else np.asarray(ts)
    distance = np.broadcast_to(ts, values.shape) if distance is None else np.asarray(distance)
    return PathMetrics(ts, dict(zip(METRICS, (values, 1 - values) * 2, strict=True)), distance)


def vector(theta):
    return np.concatenate([np.float64(leaf).ravel() for leaf in jax.tree.leaves(theta["params"])])


def test_values_are_those_of_the_network_at_each_point(ends, tiny_data, tiny_task):
    """Metrics of a bound curve, by any chunk, and of any function of t."""
    theta_1, theta_2 = ends
    bound = linear(tiny_task.spec).bind(theta_1, theta_2)
    expected = np.transpose([measured(mixed(theta_1, theta_2, t), tiny_data) for t in TS])
    for path, chunk in (
        (bound, None),
        (bound, 3),
        (lambda t: jax.tree.map(lambda a, b: (1 - t) * a + t * b, theta_1, theta_2), None),
    ):
        metrics = evaluate_path(tiny_task, path, TS, chunk=chunk)
        assert tuple(metrics.values) == METRICS
        np.testing.assert_allclose(list(metrics.values.values()), expected, rtol=1e-4)
        np.testing.assert_allclose(metrics.ts, TS)
        apart = np.linalg.norm(vector(theta_1) - vector(theta_2))
        np.testing.assert_allclose(metrics.distance, apart * np.array(TS), rtol=1e-4, atol=1e-6)
    spaced = evaluate_path(tiny_task, bound, 5)
    np.testing.assert_allclose(spaced.ts, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(spaced.test_loss[2:], evaluate_path(tiny_task, bound, TS).test_loss[2:])


@pytest.mark.filterwarnings("ignore:train_accuracy at the ends")  # by statistics of no data
def test_batch_statistics_are_reestimated_at_every_point_or_interpolated(normed, normed_task, tiny_colour_data):
    ends = (alive(normed, 0), alive(normed, 1))
    path, theta = linear(normed.spec).bind(*ends), mixed(*ends, 0.5)
    bare = supervised(normed, tiny_colour_data, augmentation=Augmentation.none())
    fresh, stale, plain = (
        evaluate_path(task, path, 3, batch_size=30, calibration_examples=90, **more)
        for task, more in ((normed_task, {}), (normed_task, {"reestimate": False}), (bare, {}))
    )

    def again(task):
        return jax.jit(lambda theta: estimate_statistics(task, theta, 90, 30))(theta)

    for found, expected in ((fresh, again(normed_task)), (stale, theta), (plain, again(bare))):
        np.testing.assert_allclose(found.test_loss[1], evaluate(bare, expected)[1]["loss"], rtol=1e-4)
    assert abs(fresh.test_loss[1] - stale.test_loss[1]) > 1e-3
    assert abs(fresh.test_loss[1] - plain.test_loss[1]) > 1e-4


@pytest.mark.parametrize("pairs", [False, True], ids=["one", "pairs"])
def test_the_ends_are_measured_by_their_own_batch_statistics_too(pairs, normed, normed_task):
    ends = [estimate_statistics(normed_task, alive(normed, seed)) for seed in (0, 1)]
    expected = [evaluate(normed_task, end) for end in ends]
    path = linear(normed.spec).bind(*ends)
    if pairs:
        path = linear(normed.spec).bind_pairs(stacked(ends), stacked(ends[::-1]))
    metrics = evaluate_path(normed_task, path, 4, chunk=3)
    assert metrics.stored.keys() == metrics.values.keys()
    for name, stored in metrics.stored.items():
        split, _, metric = name.partition("_")
        one = np.array([end[split == "test"][metric] for end in expected])
        np.testing.assert_allclose(stored, [one, one[::-1]] if pairs else one, rtol=1e-5)
        assert metrics.values[name].shape[-1] == 4
    assert not evaluate_path(normed_task, path, [0, 0.5]).stored
    assert not evaluate_path(normed_task, path, 3, reestimate=False).stored


def test_stale_statistics_are_said(normed, normed_task):
    good = estimate_statistics(normed_task, alive(normed))
    stale = {**good, "batch_stats": jax.tree.map(lambda leaf: 30 * leaf + 1, good["batch_stats"])}
    with pytest.warns(InputWarning, match="statistics"):
        metrics = evaluate_path(normed_task, linear(normed.spec).bind(good, stale), 3)
    np.testing.assert_allclose(metrics.stored["train_loss"][1], evaluate(normed_task, stale)[0]["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics.stored["train_loss"][0], metrics.train_loss[0], rtol=1e-5)


def test_one_program_for_all_points_and_for_paths_of_one_kind_and_the_same_bits_again(ends, tiny_data, tiny_model):
    calls = []

    def apply(theta, x):
        calls.append(x.shape[0])
        return tiny_model.apply(theta, x)

    task = supervised(tiny_model._replace(apply=apply), tiny_data)
    calls.clear()
    theta_1, theta_2 = ends
    first, _, again = (
        evaluate_path(task, bezier(task.spec).bind(*pair), 7, batch_size=10)
        for pair in ((theta_1, theta_2), (theta_2, theta_1), (theta_1, theta_2))
    )
    # Both splits, of 120 and 50 examples, are whole batches of 10; all examples are seen in other units, once.
    assert calls == [10, 120]
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_a_further_metric_of_a_network_and_a_batch(ends, tiny_data, tiny_task):
    """The mean over the examples by numpy, with a smaller last batch, beside metrics that stay as they are."""

    def confidence(theta, batch):
        return jax.nn.softmax(tiny_task.model.apply(theta, tiny_task.model_inputs(batch))).max(-1).mean()

    path = linear(tiny_task.spec).bind(*ends)
    found = evaluate_path(tiny_task, path, TS, metric=confidence, batch_size=50)
    plain = evaluate_path(tiny_task, path, TS, batch_size=50)
    assert set(found.values) - set(plain.values) == {"train_confidence", "test_confidence"}
    for name, values in plain.values.items():
        np.testing.assert_allclose(found.values[name], values, rtol=1e-6)
    for split in ("train", "test"):
        images = normalized(getattr(tiny_data, f"{split}_images"), tiny_data)
        logits = [mlp(mixed(*ends, t), images)[-1] for t in TS]
        p = [np.exp(each) / np.exp(each).sum(-1, keepdims=True) for each in logits]
        np.testing.assert_allclose(
            getattr(found, f"{split}_confidence"), [each.max(-1).mean() for each in p], rtol=1e-4
        )
    pair = linear(tiny_task.spec).bind_pairs(*(stacked([end, end]) for end in ends))
    both = evaluate_path(tiny_task, pair, TS, metric=confidence, batch_size=50)
    np.testing.assert_allclose(both.test_confidence, [found.test_confidence] * 2, rtol=1e-5)
    np.testing.assert_allclose(barrier(both, "test_confidence"), [barrier(found, "test_confidence")] * 2, atol=1e-5)


def test_the_arrays_of_a_metric_are_traced_and_it_is_named_by_its_function(ends, tiny_task, compiled):
    def shifted(offset, theta, batch):
        return offset + 0 * batch[1].mean()

    path = linear(tiny_task.spec).bind(*ends)

    def values(offset):
        metric = jax.tree_util.Partial(shifted, jnp.float32(offset))
        return evaluate_path(tiny_task, path, 3, metric=metric).train_shifted

    np.testing.assert_allclose(values(2.0), 2)
    compiled.clear()
    np.testing.assert_allclose(values(3.0), 3)
    assert not compiled


@pytest.mark.parametrize(
    ("metric", "named"),
    [
        (lambda theta, batch: batch[1] * 1.0, r"'<lambda>': \(120,\)"),
        (lambda theta, batch: {"one": 1.0}, r"'<lambda>': \{'one': \(\)\}"),
        ("entropy", "'entropy' for metric"),
    ],
)
def test_a_metric_that_is_no_scalar_is_named(ends, tiny_task, metric, named):
    with pytest.raises(InputError, match=named):
        evaluate_path(tiny_task, linear(tiny_task.spec).bind(*ends), 3, metric=metric)


def test_a_metric_of_a_name_that_the_task_has(ends, tiny_task):
    def accuracy(theta, batch):
        return jnp.zeros(())

    with pytest.raises(InputError, match="'accuracy', which"):
        evaluate_path(tiny_task, linear(tiny_task.spec).bind(*ends), 3, metric=accuracy)


def test_a_task_of_a_loss_alone_without_test_examples():
    """A quadratic on a line of vectors: the closed form, its barrier, and no test metrics."""
    targets = np.float32([[1.0, 0.0], [3.0, 4.0], [2.0, 2.0]])
    task = Task(lambda theta, batch, key: jnp.square(batch - theta[None]).sum(-1).mean(), targets)
    a, b = np.float32([0.0, 0.0]), np.float32([2.0, 6.0])
    metrics = evaluate_path(task, lambda t: (1 - t) * a + t * b, TS, batch_size=2)
    expected = [np.square(targets - ((1 - t) * a + t * b)).sum(-1).mean() for t in TS]
    assert list(metrics.values) == ["train_loss"]
    np.testing.assert_allclose(metrics.train_loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics.distance[-1], np.hypot(2, 6), rtol=1e-6)
    assert barrier(metrics) == 0
    with pytest.raises(AttributeError, match=r"'test_loss'.*train_loss"):
        _ = metrics.test_loss
    with pytest.raises(InputError, match=r"'test_loss'.*train_loss"):
        barrier(metrics, "test_loss")


def test_metrics_can_be_copied_pickled_and_mapped():
    metrics = metrics_of([1.0, 3.0, 2.0])
    for other in (
        copy.copy(metrics),
        copy.deepcopy(metrics),
        pickle.loads(pickle.dumps(metrics)),
        jax.tree.map(lambda leaf: leaf, metrics),
        metrics._replace(ts=metrics.ts),
    ):
        assert type(other) is PathMetrics
        np.testing.assert_array_equal(other.test_accuracy, metrics.values["test_accuracy"])
    # A tree of something else than arrays has no metrics.
    assert not hasattr(PathMetrics(0, None, 0), "train_loss")
    assert not hasattr(metrics, "loss")


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


def test_the_length_of_a_path_that_stays_has_no_unit(ends, tiny_model):
    theta, other = ends
    assert np.isnan(normalized_length(linear(tiny_model.spec).bind(theta, theta)))
    first, second = stacked((theta, theta)), stacked((theta, other))
    found = normalized_length(linear(tiny_model.spec).bind_pairs(first, second))
    np.testing.assert_allclose(found, [np.nan, 1], rtol=1e-5)


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
        ({"ts": [0.0, 1.2]}, r"\[0\.0, 1\.2\]"),
        ({"ts": [-0.1, 1.0]}, r"\[-0\.1, 1\.0\]"),
        ({"ts": [0.5, 0.2]}, r"\[0\.5, 0\.2\]"),
        ({"ts": []}, r"\[\]"),
        ({"calibration_examples": 121}, "calibration_examples=121"),
    ],
)
def test_options_that_are_wrong(ends, tiny_task, options, named):
    with pytest.raises(InputError, match=named):
        evaluate_path(tiny_task, linear(tiny_task.spec).bind(*ends), **options)


def test_bad_input_is_named(ends, tiny_data, tiny_model, tiny_task):
    path, other = linear(tiny_model.spec).bind(*ends), networks(models.create("mlp", 3, (8, 8, 1), widths=(4, 4)), 1)
    with pytest.raises(SpecError, match="mlp"):
        evaluate_path(tiny_task, lambda t: trees.index(other, 0))
    with pytest.raises(InputError, match="got Model for task"):
        evaluate_path(tiny_model, path)
    for arguments, named in (
        (("loss",), "'loss'.*'test_loss'"),
        (("train_loss", "max"), "baseline='max'.*line, mean or ends"),
    ):
        with pytest.raises(InputError, match=named):
            barrier(metrics_of([0.0, 1.0]), *arguments)


@pytest.mark.filterwarnings("ignore:train_accuracy at the ends")  # by statistics of no data
@pytest.mark.parametrize("kind", ["tiny", "normed"])
def test_paths_on_streams_are_those_on_arrays_and_read_no_more_than_they_need(kind, request, ends, normed, normed_task):
    """Statistics and metrics are one pass over the training examples each, whatever the number of points."""
    if kind == "normed":
        task, ends = normed_task, (alive(normed, 0), alive(normed, 1))
    else:
        task = request.getfixturevalue("tiny_task")
    streamed, sources = from_host(task, "train", "test")
    path = linear(task.spec).bind_pairs(*(stacked([end, end]) for end in ends))
    options = {"batch_size": 50, "calibration_examples": 120, "chunk": 2}
    got, expected = (evaluate_path(each, path, 3, **options) for each in (streamed, task))
    assert got.values.keys() == expected.values.keys()
    for name, values in expected.values.items():
        np.testing.assert_allclose(got.values[name], values, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(barrier(got, "test_loss"), barrier(expected, "test_loss"), atol=1e-6)
    assert (len(sources["train"].begun), len(sources["test"].begun)) == (2 if kind == "normed" else 1, 1)
    sources["train"].begun.clear()
    evaluate_path(streamed, path, 3, reestimate=False, **options)
    assert len(sources["train"].begun) == 1
