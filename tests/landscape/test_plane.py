"""Planes: axes against numpy in float64, values against networks written out, bounds, bad input."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import from_host
from variables import alive, measured, mixed, stacked

from mcjax import (
    InputError,
    SpecError,
    Task,
    bezier,
    evaluate,
    evaluate_path,
    linear,
    models,
    plane,
    polygonal_chain,
    supervised,
    trees,
)
from mcjax.data import Augmentation
from mcjax.landscape import curve_plane, plane_axes
from mcjax.training import estimate_statistics

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


@pytest.fixture(scope="module")
def three(tiny_model):
    return tuple(alive(tiny_model, seed) for seed in range(3))


def vector(theta):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(trees.params(theta))])


def affine(a, b, thetas):
    """(1 - a - b) of the first, a of the second and b of the third."""
    return jax.tree.map(lambda o, u, v: np.float32((1 - a - b) * o + a * u + b * v), *thetas)


def test_axes_are_those_of_gram_schmidt(three):
    axes = plane_axes(*three)
    origin, u, v = map(vector, three)
    q, r = np.linalg.qr(np.stack([u - origin, v - origin], 1))
    q, r = q * np.sign(np.diag(r)), r * np.sign(np.diag(r))[:, None]
    for got, expected in zip((axes.e_x, axes.e_y), q.T, strict=True):
        np.testing.assert_allclose(vector(got), expected, atol=1e-6)
    basis = np.stack([vector(axes.e_x), vector(axes.e_y)])
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(axes.points, [[0, 0], r[:, 0], r[:, 1]], rtol=1e-5, atol=1e-6)


def test_coordinates_and_points_invert_each_other(three):
    axes = plane_axes(*three)
    where = np.array([[0.0, 0.0], [1.5, -0.5], [-3.0, 2.0], [0.1, 7.0]], np.float32)

    def back(at):
        return jnp.stack(axes.coordinates(axes.at(*at)))

    np.testing.assert_allclose(jax.jit(jax.vmap(back))(where), where, atol=1e-5)
    np.testing.assert_allclose(back(where[1]), where[1], atol=1e-5)
    for theta, at in zip(three, axes.points, strict=True):
        np.testing.assert_allclose(axes.coordinates(theta), at, atol=1e-5)
        chex.assert_trees_all_close(jax.tree.map(np.asarray, axes.at(*at)), theta, atol=1e-6, rtol=0)
    np.testing.assert_allclose(axes.coordinates(trees.params(three[1])), axes.points[1], atol=1e-5)


def test_the_foot_and_the_distance_of_any_network(three, tiny_model):
    axes, other = plane_axes(*three), alive(tiny_model, 9)
    origin, u, v = map(vector, three)
    span = np.stack([u - origin, v - origin], 1)
    shares, residual, *_ = np.linalg.lstsq(span, vector(other) - origin)
    distance = jax.jit(axes.distance)
    np.testing.assert_allclose(distance(other), np.sqrt(residual[0]), rtol=1e-5)
    np.testing.assert_allclose(vector(axes.at(*axes.coordinates(other))), origin + span @ shares, atol=1e-5)
    for theta in (*three, affine(2.0, -1.0, three)):
        assert distance(theta) < 1e-5
    both = jax.jit(jax.vmap(axes.distance))(stacked([other, other]))
    np.testing.assert_allclose(both, axes.distance(other), rtol=1e-6)


TS = np.array([0.0, 0.2, 0.5, 0.7])


def on_curve(task, path, thetas, **options):
    """The plane's metrics at path(TS), which are `thetas`, from a grid with a column and a row for each."""
    control = jax.tree.map(lambda a, b, c: (a + b) / 2 + c, path(0.0), path(1.0), path.args[2])
    axes = plane_axes(path(0.0), path(1.0), control)
    coordinates = np.array([axes.coordinates(theta) for theta in thetas])
    grid = tuple(np.sort(coordinates, 0).T)
    metrics = curve_plane(task, path, grid, **options)
    columns, rows = (np.argsort(np.argsort(side)) for side in coordinates.T)
    return {name: values[rows, columns] for name, values in metrics.values.items()}


@pytest.mark.parametrize(
    ("kind", "weight"),
    [(bezier, lambda t: 2 * t * (1 - t)), (lambda spec: polygonal_chain(spec, 1), lambda t: 1 - abs(2 * t - 1))],
    ids=["bezier", "chain"],
)
def test_values_on_a_curve_are_those_of_its_networks(three, tiny_task, tiny_data, kind, weight):
    theta_1, theta_2, theta_c = three[0], three[1], jax.tree.map(lambda leaf: 3 * leaf, three[2])
    line = (mixed(theta_1, theta_2, t) for t in TS)
    along = [
        jax.tree.map(lambda a, c, t=t: a + np.float32(weight(t)) * c, at, theta_c)
        for t, at in zip(TS, line, strict=True)
    ]
    expected = np.transpose([measured(theta, tiny_data) for theta in along])
    found = on_curve(tiny_task, kind(tiny_task.spec).bind(theta_1, theta_2, theta_c), along)
    np.testing.assert_allclose([found[name] for name in METRICS], expected, rtol=1e-4)


@pytest.mark.parametrize("reestimate", [pytest.param(True, marks=pytest.mark.slow), False])
def test_values_on_a_curve_with_batch_norm(normed, normed_task, reestimate):
    theta_1, theta_2, other = (alive(normed, seed) for seed in range(3))
    theta_c = trees.with_params(jax.tree.map(np.zeros_like, other), trees.params(other))
    P = {group: np.arange(n)[::-1] for group, n in normed.spec.group_sizes(theta_1).items()}
    path = bezier(normed.spec).bind(theta_1, theta_2, theta_c, P)
    options = {"reestimate": reestimate, "batch_size": 60, "calibration_examples": 60}
    along = evaluate_path(normed_task, path, TS, **options)
    for name, values in on_curve(normed_task, path, map(path, TS), **options).items():
        np.testing.assert_allclose(values, getattr(along, name), rtol=1e-4, err_msg=name)


def test_every_cell_is_the_network_there_its_batch_statistics_re_estimated(normed, tiny_colour_data):
    thetas, task = [alive(normed, seed) for seed in range(3)], supervised(normed, tiny_colour_data)
    bare = supervised(normed, tiny_colour_data, augmentation=Augmentation.none())
    settings = {"bounds": ((-1, 2), (0.5, 3)), "splits": "test", "batch_size": 30, "calibration_examples": 90}
    metrics, augmented = (plane(each, *thetas, (2, 3), **settings) for each in (bare, task))
    assert np.abs(metrics.test_loss - augmented.test_loss).max() > 1e-4
    np.testing.assert_allclose(metrics.x, [-1, 2])
    np.testing.assert_allclose(metrics.y, [0.5, 1.75, 3])
    assert metrics.test_loss.shape == metrics.test_accuracy.shape == (3, 2)
    assert list(metrics.values) == ["test_loss", "test_accuracy"]
    # Batch statistics are the same affine combination of the three as parameters.
    span = np.array(metrics.points[1:], np.float64).T
    again = jax.jit(lambda theta: estimate_statistics(bare, theta, 90, 30))
    for i, j in ((0, 1), (2, 0)):
        at = metrics.axes.at(metrics.x[j], metrics.y[i])
        theta = affine(*np.linalg.solve(span, [metrics.x[j], metrics.y[i]]), thetas)
        chex.assert_trees_all_close(jax.tree.map(np.asarray, at), theta, atol=1e-5)
        _, test = evaluate(bare, again(theta))
        np.testing.assert_allclose(metrics.test_loss[i, j], test["loss"], rtol=1e-4)
        np.testing.assert_allclose(metrics.test_accuracy[i, j], test["accuracy"], rtol=1e-5)


def test_splits_are_halves_of_the_whole(three, tiny_task):
    whole, train, test = (plane(tiny_task, *three, 2, splits=splits) for splits in ("both", "train", "test"))
    assert tuple(whole.values) == METRICS
    for name in METRICS:
        half, other = (train, test) if name.startswith("train") else (test, train)
        np.testing.assert_allclose(getattr(half, name), getattr(whole, name), rtol=1e-6)
        with pytest.raises(AttributeError, match=f"{name!r}.*_loss"):
            getattr(other, name)


def test_a_loss_of_two_numbers_and_a_further_metric_on_their_plane():
    """A task without test examples and a metric of it, against their closed forms."""
    targets = np.float32([[1.0, 0.0], [3.0, 4.0], [2.0, 2.0]])
    task = Task(lambda theta, batch, key: jnp.square(batch - theta[None]).sum(-1).mean(), targets)

    def farthest(theta, batch):
        return jnp.abs(batch - theta[None]).max(-1).mean()

    corners = np.float32([[0, 0], [2, 0], [0, 1]])
    found = plane(task, *corners, ([-1.0, 0.0, 2.0], [0.5, 3.0]), metric=farthest)
    assert list(found.values) == ["train_loss", "train_farthest"]
    apart = targets - np.stack(np.meshgrid(found.x, found.y), -1)[:, :, None]
    np.testing.assert_allclose(found.train_loss, np.square(apart).sum(-1).mean(-1), rtol=1e-5)
    np.testing.assert_allclose(found.train_farthest, np.abs(apart).max(-1).mean(-1), rtol=1e-5)
    with pytest.raises(InputError, match="no test split"):
        plane(task, *corners, 3, splits="test")


def test_the_grid_covers_the_three_networks_and_a_margin_by_any_chunk(three, tiny_task):
    metrics, again, *others = (plane(tiny_task, *three, 4, margin=0.5, chunk=chunk) for chunk in (None, None, 1, 5))
    for side, at in ((metrics.x, metrics.points[:, 0]), (metrics.y, metrics.points[:, 1])):
        extent = at.max() - at.min()
        steps = np.diff(side)
        np.testing.assert_allclose([side[0], side[-1]], [at.min() - extent / 2, at.max() + extent / 2], rtol=1e-5)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    assert metrics.test_loss.shape == (4, 4)
    for name in METRICS:
        np.testing.assert_array_equal(getattr(metrics, name), getattr(again, name))
        for other in others:
            np.testing.assert_allclose(getattr(metrics, name), getattr(other, name), rtol=1e-5)


def test_the_plane_of_a_curve_covers_the_curve_and_not_its_control_point(three, tiny_task):
    theta_c = jax.tree.map(lambda leaf: 3 * leaf, three[2])
    path = bezier(tiny_task.spec).bind(three[0], three[1], theta_c)
    metrics = curve_plane(tiny_task, path, 2, margin=0.0, splits="test")
    ts = np.linspace(0, 1, 401, dtype=np.float32)
    x, y = jax.jit(jax.vmap(lambda t: metrics.axes.coordinates(path(t))))(ts)
    np.testing.assert_allclose(metrics.x, [x.min(), x.max()], atol=1e-3)
    np.testing.assert_allclose(metrics.y, [y.min(), y.max()], atol=1e-3)
    np.testing.assert_allclose(metrics.y[1], metrics.points[2, 1] / 2, rtol=1e-3)  # a parabola's height
    off = jax.jit(jax.vmap(lambda t: metrics.axes.distance(path(t))))(ts[::40])
    assert max(off) < 1e-5
    apart = np.linalg.norm(vector(three[1]) - vector(three[0]))
    np.testing.assert_allclose(metrics.points[:2], [[0, 0], [apart, 0]], rtol=1e-5, atol=1e-6)


def test_one_program_for_planes_of_one_kind(three, tiny_model, tiny_data):
    calls = []

    def apply(theta, x):
        calls.append(x.shape[0])
        return tiny_model.apply(theta, x)

    task = supervised(tiny_model._replace(apply=apply), tiny_data)
    calls.clear()
    for thetas in (three, three[::-1]):
        plane(task, *thetas, 3, batch_size=10)
    # Both splits, of 120 and 50 examples, are whole batches of 10.
    assert calls == [10]


def test_a_grid_beyond_memory_is_refused_before_it_is_run(three, tiny_task, monkeypatch):
    monkeypatch.setattr("mcjax.runtime.memory.device_memory", lambda: 10)
    with pytest.raises(InputError, match=r"4 points with chunk=1 need .*batch_size below 500"):
        plane(tiny_task, *three, 2, chunk=1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"grid": 1}, "grid=1,"),
        ({"grid": (3, 1)}, r"grid=\(3, 1\)"),
        ({"grid": 2.5}, "grid=2.5"),
        ({"grid": ([0.0, 1.0], [1.0, 1.0])}, r"\[1\. 1\.\]"),
        ({"grid": ([0.0, 1.0], [])}, r"\[\]"),
        ({"grid": ([0.0, 1.0], [0.0]), "bounds": ((0, 1), (0, 1))}, "bounds and"),
        ({"bounds": ((1, 0), (0, 1))}, r"bounds=\(\(1, 0\), \(0, 1\)\)"),
        ({"bounds": (0, 1)}, r"bounds=\(0, 1\)"),
        ({"bounds": ((0, np.inf), (0, 1))}, "bounds=.*inf"),
        ({"margin": -0.1}, "margin=-0.1"),
        ({"chunk": 0}, "chunk=0"),
        ({"calibration_examples": 121}, "calibration_examples=121"),
        ({"splits": "tset"}, "'tset'.*'test'"),
    ],
)
def test_bad_options_are_named(three, tiny_task, options, named):
    with pytest.raises(InputError, match=named):
        plane(tiny_task, *three, **options)


def test_networks_that_span_no_plane_are_named(three, tiny_task):
    theta_1, theta_2, other = three
    between = mixed(theta_1, theta_2, 0.3)
    nan = jax.tree.map(lambda leaf: leaf * np.nan, theta_1)
    for thetas in ((theta_1, theta_2, between), (theta_1, theta_1, theta_2), (theta_1, theta_2, theta_2), (nan,) * 3):
        with pytest.raises(InputError, match="one line or not finite"):
            plane(tiny_task, *thetas)
    near = jax.tree.map(lambda a, b: a + 1e-3 * b, between, other)
    assert plane_axes(theta_1, theta_2, near).points[2, 1] > 0
    narrow = alive(models.create("mlp", 3, (8, 8, 1), widths=(4, 4)))
    for kind, v_point, named in ((SpecError, narrow, "mlp"), (InputError, stacked(three), "many networks as v_point")):
        with pytest.raises(kind, match=named):
            plane(tiny_task, theta_1, theta_2, v_point)
    with pytest.raises(InputError, match="v_point differs from origin at params/Dense_0/bias"):
        plane_axes(theta_1, theta_2, narrow)


def test_paths_that_lie_in_no_plane_are_named(three, tiny_model, tiny_task):
    curve, (theta_1, theta_2, other) = bezier(tiny_model.spec), three
    pairs = curve.bind_pairs(*(stacked([theta, theta]) for theta in three))
    cubic, line = bezier(tiny_model.spec, 3).bind(theta_1, theta_2), linear(tiny_model.spec).bind(theta_1, theta_2)
    for path, named in (
        *((path, "one control point") for path in (pairs, cubic, line, lambda t: other)),
        (curve.bind(theta_1, theta_2), "theta_c is None"),
        (curve.bind(theta_1, theta_2, jax.tree.map(np.zeros_like, theta_1)), "one line"),
    ):
        with pytest.raises(InputError, match=named):
            curve_plane(tiny_task, path)


def test_a_plane_on_streams_is_that_on_arrays(three, tiny_task, normed, normed_task):
    """Of the test examples alone, training examples are read for statistics, if there are any."""
    for task, thetas, reads in (
        (tiny_task, three, 0),
        (normed_task, tuple(alive(normed, seed) for seed in range(3)), 1),
    ):
        streamed, sources = from_host(task, "train", "test")
        options = {"batch_size": 50, "calibration_examples": 120, "splits": "test"}
        got, expected = (plane(each, *thetas, (3, 2), **options) for each in (streamed, task))
        chex.assert_trees_all_close(got.values, expected.values, rtol=1e-6)
        assert (len(sources["train"].begun), len(sources["test"].begun)) == (reads, 1)
