"""Planes: axes against numpy in float64, values against the curves and networks that lie in them, bounds, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import (
    InputError,
    SpecError,
    bezier,
    evaluate,
    evaluate_path,
    linear,
    models,
    plane,
    plane_axes,
    polygonal_chain,
    reestimate,
    trees,
)
from mcjax.data import Augmentation
from mcjax.landscape import curve_plane
from mcjax.landscape.points import METRICS


@pytest.fixture
def three(key, tiny_model):
    return tuple(tiny_model.init(k) for k in jax.random.split(key, 3))


@pytest.fixture(scope="module")
def convnet():
    """A small network with batch norm, and three of it whose statistics differ."""
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    thetas = []
    for k in jax.random.split(jax.random.key(1), 3):
        theta = model.init(k)
        draw = jax.random.uniform(k, (), minval=0.5, maxval=2.0)
        thetas.append(trees.with_batch_stats(theta, jax.tree.map(lambda s, d=draw: s * d + 0.1, theta["batch_stats"])))
    return model, thetas


def vector(theta):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(trees.params(theta))])


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


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
    where = jnp.array([[0.0, 0.0], [1.5, -0.5], [-3.0, 2.0], [0.1, 7.0]])
    for there in (lambda f, xs: jnp.stack([f(x) for x in xs]), lambda f, xs: jax.jit(jax.vmap(f))(xs)):
        back = there(lambda at: jnp.stack(axes.coordinates(axes.at(*at))), where)
        np.testing.assert_allclose(back, where, atol=1e-5)
    for theta, at in zip(three, axes.points, strict=True):
        np.testing.assert_allclose(axes.coordinates(theta), at, atol=1e-5)
        close(axes.at(*at), theta, atol=1e-6)
    for a, b in zip(axes.coordinates(trees.params(three[1])), axes.points[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_foot_and_the_distance_of_any_network(three, tiny_model):
    axes, other = plane_axes(*three), tiny_model.init(jax.random.key(9))
    origin, u, v = map(vector, three)
    span = np.stack([u - origin, v - origin], 1)
    shares, residual, *_ = np.linalg.lstsq(span, vector(other) - origin)
    np.testing.assert_allclose(axes.distance(other), np.sqrt(residual[0]), rtol=1e-5)
    np.testing.assert_allclose(vector(axes.at(*axes.coordinates(other))), origin + span @ shares, atol=1e-5)
    for theta in (*three, axes.at(2.0, -1.0)):
        assert axes.distance(theta) < 1e-5
    np.testing.assert_allclose(jax.jit(jax.vmap(axes.distance))(trees.stack([other, other])), axes.distance(other))


def test_batch_statistics_are_the_same_affine_combination(convnet):
    _, (origin, u, v) = convnet
    axes = plane_axes(origin, u, v)
    for a, b in ((0.3, 0.5), (0.0, 1.0), (1.3, -0.2)):
        x, y = (1 - a - b) * axes.points[0] + a * axes.points[1] + b * axes.points[2]
        expected = jax.tree.map(lambda o, p, q, a=a, b=b: (1 - a - b) * o + a * p + b * q, origin, u, v)
        close(axes.at(x, y), expected, atol=2e-6)


TS = np.array([0.0, 0.2, 0.5, 0.7])


def on_curve(model, path, data, **options):
    """The plane's metrics at path(TS), from a grid with a column and a row for each."""
    control = jax.tree.map(lambda a, b, c: (a + b) / 2 + c, path(0.0), path(1.0), path.args[2])
    axes = plane_axes(path(0.0), path(1.0), control)
    coordinates = np.array([axes.coordinates(path(t)) for t in TS])
    grid = tuple(np.sort(coordinates, 0).T)
    metrics = curve_plane(model, path, data, grid, **options)
    columns, rows = (np.argsort(np.argsort(side)) for side in coordinates.T)
    return {name: getattr(metrics, name)[rows, columns] for name in METRICS}


@pytest.mark.parametrize("kind", [bezier, lambda spec: polygonal_chain(spec, 1)])
def test_values_on_a_curve_are_those_of_the_curve(three, tiny_model, tiny_data, kind):
    theta_c = jax.tree.map(lambda leaf: 3 * leaf, three[2])
    path = kind(tiny_model.spec).bind(three[0], three[1], theta_c)
    along = evaluate_path(tiny_model, path, tiny_data, TS)
    for name, values in on_curve(tiny_model, path, tiny_data).items():
        np.testing.assert_allclose(values, getattr(along, name), rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("recalibrate", [True, False])
def test_values_on_a_curve_with_batch_norm(convnet, tiny_colour_data, recalibrate):
    model, (theta_1, theta_2, other) = convnet
    theta_c = trees.with_params(jax.tree.map(jnp.zeros_like, other), trees.params(other))
    P = {group: jnp.arange(n)[::-1] for group, n in model.spec.group_sizes(theta_1).items()}
    path = bezier(model.spec).bind(theta_1, theta_2, theta_c, P)
    options = {"recalibrate": recalibrate, "batch_size": 60, "calibration_images": 60}
    along = evaluate_path(model, path, tiny_colour_data, TS, **options)
    for name, values in on_curve(model, path, tiny_colour_data, **options).items():
        np.testing.assert_allclose(values, getattr(along, name), rtol=1e-4, err_msg=name)


def test_every_cell_is_the_network_there(convnet, tiny_colour_data):
    model, thetas = convnet
    settings = {"batch_size": 30, "calibration_images": 90, "augmentation": Augmentation.none()}
    metrics = plane(model, *thetas, tiny_colour_data, (2, 3), bounds=((-1, 2), (0.5, 3)), splits="test", **settings)
    np.testing.assert_allclose(metrics.x, [-1, 2])
    np.testing.assert_allclose(metrics.y, [0.5, 1.75, 3])
    assert metrics.test_loss.shape == metrics.test_accuracy.shape == (3, 2)
    assert metrics.train_loss is None
    assert metrics.train_accuracy is None
    data = tiny_colour_data
    for i, j in ((0, 1), (2, 0)):
        theta = metrics.axes.at(metrics.x[j], metrics.y[i])
        theta = reestimate(model, theta, data.train_images[:90], data.mean, data.std, 30)
        _, test = evaluate(model, theta, data)
        np.testing.assert_allclose(metrics.test_loss[i, j], test.loss, rtol=1e-4)
        np.testing.assert_allclose(metrics.test_accuracy[i, j], test.accuracy, rtol=1e-5)


def test_splits_are_halves_of_the_whole(three, tiny_model, tiny_data):
    whole, train, test = (
        plane(tiny_model, *three, tiny_data, 2, splits=splits) for splits in ("both", "train", "test")
    )
    for name in METRICS:
        half, other = (train, test) if name.startswith("train") else (test, train)
        np.testing.assert_allclose(getattr(half, name), getattr(whole, name), rtol=1e-6)
        assert getattr(other, name) is None


def test_the_grid_covers_the_three_networks_and_a_margin(three, tiny_model, tiny_data):
    metrics = plane(tiny_model, *three, tiny_data, (3, 5), margin=0.5, splits="test")
    for side, at in ((metrics.x, metrics.points[:, 0]), (metrics.y, metrics.points[:, 1])):
        extent = at.max() - at.min()
        steps = np.diff(side)
        np.testing.assert_allclose([side[0], side[-1]], [at.min() - extent / 2, at.max() + extent / 2], rtol=1e-5)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    assert metrics.test_loss.shape == (5, 3)


def test_the_plane_of_a_curve_covers_the_curve_and_not_its_control_point(three, tiny_model, tiny_data):
    theta_c = jax.tree.map(lambda leaf: 3 * leaf, three[2])
    path = bezier(tiny_model.spec).bind(three[0], three[1], theta_c)
    metrics = curve_plane(tiny_model, path, tiny_data, 2, margin=0.0, splits="test")
    ts = np.linspace(0, 1, 401, dtype=np.float32)
    x, y = jax.vmap(lambda t: metrics.axes.coordinates(path(t)))(ts)
    np.testing.assert_allclose(metrics.x, [x.min(), x.max()], atol=1e-3)
    np.testing.assert_allclose(metrics.y, [y.min(), y.max()], atol=1e-3)
    np.testing.assert_allclose(metrics.y[1], metrics.points[2, 1] / 2, rtol=1e-3)  # a parabola's height
    assert max(float(metrics.axes.distance(path(t))) for t in (0.1, 0.5, 0.9)) < 1e-5
    apart = np.linalg.norm(vector(three[1]) - vector(three[0]))
    np.testing.assert_allclose(metrics.points[:2], [[0, 0], [apart, 0]], rtol=1e-5)


def test_the_same_bits_again_and_the_same_values_by_any_chunk(three, tiny_model, tiny_data):
    one, again, *others = (plane(tiny_model, *three, tiny_data, 4, chunk=chunk) for chunk in (5, 5, 1, None))
    for name in METRICS:
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        for other in others:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5)


def test_one_trace_for_planes_of_one_kind(three, tiny_model, tiny_data):
    calls = []

    def apply(theta, x):
        calls.append(x.shape[0])
        return tiny_model.apply(theta, x)

    model = tiny_model._replace(apply=apply)
    for thetas in (three, three[::-1]):
        plane(model, *thetas, tiny_data, 3, batch_size=10)
    # One call to see what it returns, and one a split: 120 and 50 images are whole batches of 10.
    assert calls == [2, 10, 10]


def test_a_grid_beyond_memory_is_refused_before_it_is_run(three, tiny_model, tiny_data, monkeypatch):
    monkeypatch.setattr("mcjax.landscape.points.device_memory", lambda: 10)
    with pytest.raises(InputError, match=r"9 points with chunk=9 need .* One point at a time does not fit"):
        plane(tiny_model, *three, tiny_data, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 1}, "got grid=1, expected"),
        ({"grid": (3, 1)}, r"got grid=\(3, 1\)"),
        ({"grid": 2.5}, "got grid=2.5"),
        ({"grid": ([0.0, 1.0], [1.0, 1.0])}, "expected increasing numbers"),
        ({"grid": ([0.0, 1.0], [])}, "expected increasing numbers"),
        ({"grid": ([0.0, 1.0], [0.0]), "bounds": ((0, 1), (0, 1))}, "got bounds and the coordinates"),
        ({"bounds": ((1, 0), (0, 1))}, "with x0 < x1"),
        ({"bounds": (0, 1)}, "got bounds="),
        ({"bounds": ((0, np.inf), (0, 1))}, "got bounds="),
        ({"margin": -0.1}, "got margin=-0.1"),
        ({"chunk": 0}, "chunk=0"),
        ({"calibration_images": 121}, "calibration_images=121"),
        ({"splits": "tset"}, "Did you mean 'test'"),
    ],
)
def test_bad_options_are_named(three, tiny_model, tiny_data, options, message):
    with pytest.raises(InputError, match=message):
        plane(tiny_model, *three, tiny_data, **options)


def test_networks_that_span_no_plane_are_named(three, tiny_model, tiny_data, key):
    theta_1, theta_2, _ = three
    line = linear(tiny_model.spec).bind(theta_1, theta_2)
    nan = jax.tree.map(lambda leaf: leaf * jnp.nan, theta_1)
    for thetas in ((theta_1, theta_2, line(0.3)), (theta_1, theta_1, theta_2), (theta_1, theta_2, theta_2), (nan,) * 3):
        with pytest.raises(InputError, match="on one line or not finite"):
            plane(tiny_model, *thetas, tiny_data)
    near = jax.tree.map(lambda a, b: a + 1e-3 * b, line(0.3), three[2])
    assert plane_axes(theta_1, theta_2, near).points[2, 1] > 0
    other = models.create("mlp", 3, (8, 8, 1), widths=(4, 4)).init(key)
    with pytest.raises(SpecError, match="not those of mlp"):
        plane(tiny_model, theta_1, theta_2, other, tiny_data)
    with pytest.raises(InputError, match="got many networks as v_point"):
        plane(tiny_model, theta_1, theta_2, trees.stack(three), tiny_data)
    with pytest.raises(InputError, match="v_point and origin have leaves of other names or shapes"):
        plane_axes(theta_1, theta_2, other)


def test_paths_that_lie_in_no_plane_are_named(three, tiny_model, tiny_data):
    curve, (theta_1, theta_2, other) = bezier(tiny_model.spec), three
    pairs = curve.bind_pairs(*(trees.stack([theta, theta]) for theta in three))
    cubic = bezier(tiny_model.spec, 3)
    for path in (pairs, cubic.bind(theta_1, theta_2), linear(tiny_model.spec).bind(theta_1, theta_2), lambda t: other):
        with pytest.raises(InputError, match="a curve of one control point"):
            curve_plane(tiny_model, path, tiny_data)
    with pytest.raises(InputError, match="straight line"):
        curve_plane(tiny_model, curve.bind(theta_1, theta_2), tiny_data)
    with pytest.raises(InputError, match="on one line"):
        curve_plane(tiny_model, curve.bind(theta_1, theta_2, curve.zero(theta_1)), tiny_data)
