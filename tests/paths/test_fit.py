"""Curve fitting: the gradient it follows, ends that stay, pairs, what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import (
    FitConfig,
    InputError,
    SpecError,
    TrainConfig,
    barrier,
    bezier,
    data,
    evaluate_path,
    fit_curve,
    linear,
    match_activations,
    models,
    permute,
    polygonal_chain,
    random_permutation,
    train_endpoints,
    trees,
)

CONFIG = FitConfig(epochs=12, batch_size=20)


@pytest.fixture(scope="module")
def ends(tiny_data, tiny_model):
    keys = jax.random.split(jax.random.key(1), 4)
    theta = train_endpoints(keys, tiny_model, tiny_data, TrainConfig(epochs=15, batch_size=20)).theta
    return trees.index(theta, slice(0, 2)), trees.index(theta, slice(2, 4))


def one(tree):
    return trees.index(tree, 0)


def test_a_step_follows_the_mean_gradient_over_t(ends, tiny_data, tiny_model):
    # One step of one batch with all images: theta_c becomes -lr times the gradient's mean over t.
    theta_1, theta_2 = map(one, ends)
    config = FitConfig(
        epochs=1, batch_size=120, learning_rate=0.5, schedule="constant", momentum=0.0, weight_decay=0.02,
        points_per_step=400,
    )  # fmt: skip
    curve = bezier(tiny_model.spec)
    fit = fit_curve(jax.random.key(0), tiny_model, curve, theta_1, theta_2, tiny_data, None, config)
    x = data.normalize(tiny_data.train_images, tiny_data.mean, tiny_data.std)

    def loss(theta_c, t):
        theta = curve(theta_1, theta_2, theta_c, None, t)
        logs = jax.nn.log_softmax(tiny_model.apply(theta, x))
        squares = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(theta))
        return -logs[jnp.arange(120), tiny_data.train_labels].mean() + 0.01 * squares

    ts = (jnp.arange(200) + 0.5) / 200
    gradient = jax.tree.map(lambda g: g.mean(0), jax.vmap(jax.grad(loss), (None, 0))(curve.zero(theta_1), ts))
    expected = trees.scale(-0.5, gradient)
    apart = trees.norm(trees.subtract(fit.theta_c, expected)) / trees.norm(expected)
    assert float(apart) < 0.1


@pytest.mark.parametrize("make", [bezier, lambda spec: bezier(spec, 3), lambda spec: polygonal_chain(spec, 2)])
def test_a_fit_lowers_the_barrier_and_leaves_the_ends(ends, key, tiny_data, tiny_model, make):
    theta_1, theta_2 = map(one, ends)
    P = random_permutation(key, tiny_model.spec, theta_1)
    fit = fit_curve(key, tiny_model, make(tiny_model.spec), theta_1, theta_2, tiny_data, P, CONFIG)
    line = linear(tiny_model.spec).bind(theta_1, theta_2, None, P)
    before, after = (evaluate_path(tiny_model, path, tiny_data, 21) for path in (line, fit.path))
    assert barrier(after) < 0.5 * barrier(before)
    jax.tree.map(np.testing.assert_array_equal, fit.path(0.0), theta_1)
    jax.tree.map(np.testing.assert_array_equal, fit.path(1.0), permute(tiny_model.spec, P, theta_2))
    assert fit.history["loss"].shape == (12,)


def test_many_pairs_at_once_are_as_good_as_each_alone(ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = ends
    P = match_activations(tiny_model, theta_1, theta_2, tiny_data).P
    curve = bezier(tiny_model.spec)
    fit = fit_curve(key, tiny_model, curve, theta_1, theta_2, tiny_data, P, CONFIG)
    assert fit.history["loss"].shape == (2, 12)
    metrics = evaluate_path(tiny_model, fit.path, tiny_data, 5)
    assert metrics.train_loss.shape == (2, 5)
    for i in range(2):
        path = curve.bind(*(trees.index(part, i) for part in (theta_1, theta_2, fit.theta_c, P)))
        alone = evaluate_path(tiny_model, path, tiny_data, 5)
        np.testing.assert_allclose(metrics.train_loss[i], alone.train_loss, rtol=1e-4)
        np.testing.assert_allclose(metrics.distance[i], alone.distance, rtol=1e-4)


def test_the_same_key_gives_the_same_bits(ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = map(one, ends)
    fits = [
        fit_curve(key, tiny_model, bezier(tiny_model.spec), theta_1, theta_2, tiny_data, None, CONFIG) for _ in range(2)
    ]
    jax.tree.map(np.testing.assert_array_equal, fits[0].theta_c, fits[1].theta_c)


def test_several_points_a_step_steady_the_gradient(ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = map(one, ends)
    curve = bezier(tiny_model.spec)

    def first_steps(points):
        config = FitConfig(epochs=1, batch_size=120, schedule="constant", momentum=0.0, points_per_step=points)
        fits = [
            fit_curve(k, tiny_model, curve, theta_1, theta_2, tiny_data, None, config).theta_c
            for k in jax.random.split(key, 12)
        ]
        return float(sum(jnp.var(leaf, axis=0).sum() for leaf in jax.tree.leaves(trees.stack(fits))))

    # Independent draws of t: the variance of a mean of 16 is a 16th.
    assert first_steps(16) < first_steps(1) / 4


def test_batch_statistics_have_no_control_point(key, tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    theta_1, theta_2 = (model.init(k) for k in jax.random.split(key))
    config = FitConfig(epochs=2, batch_size=40)
    fit = fit_curve(key, model, bezier(model.spec), theta_1, theta_2, tiny_colour_data, None, config)
    assert jax.tree.structure(fit.theta_c) == jax.tree.structure(theta_1)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(fit.theta_c["batch_stats"]))
    assert float(trees.norm(fit.theta_c["params"])) > 0


def test_bad_input_is_named(ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = map(one, ends)
    curve = bezier(tiny_model.spec)

    def fit(a=theta_1, b=theta_2, P=None, curve=curve):
        return fit_curve(key, tiny_model, curve, a, b, tiny_data, P, CONFIG)

    with pytest.raises(InputError, match="no control points"):
        fit(curve=linear(tiny_model.spec))
    other = models.create("mlp", 3, (8, 8, 1), widths=(6, 4)).init(key)
    with pytest.raises(SpecError, match=r"Dense_1/kernel: got \(6, 4\), expected \(6, 5\)"):
        fit(b=other)
    with pytest.raises(InputError, match="different numbers of networks"):
        fit(b=ends[1])
    with pytest.raises(SpecError, match=r"dense_1: not a permutation of 0\.\.4; repeated \[1\]"):
        fit(P={"dense_0": jnp.arange(6), "dense_1": jnp.array([0, 1, 1, 3, 4])})
    with pytest.raises(SpecError, match="P is for another spec"):
        fit(P={"dense_0": jnp.arange(6)})
    with pytest.raises(SpecError, match="no leading axis of 2 pairs in dense_0, dense_1"):
        fit(*ends, P={"dense_0": jnp.arange(6), "dense_1": jnp.arange(5)})
    with pytest.raises(InputError, match="points_per_step=0"):
        FitConfig(points_per_step=0)


def test_variables_without_collections_are_fitted_too(key, tiny_data):
    def init(key):
        first, second = jax.random.split(key)
        return {"a": jax.random.normal(first, (64, 5)) / 8, "b": jax.random.normal(second, (5, 3))}

    def apply(theta, x):
        return jnp.tanh(x.reshape(len(x), -1) @ theta["a"]) @ theta["b"]

    model = models.from_function(init, apply, jnp.zeros((1, 8, 8, 1)))
    theta = train_endpoints(jax.random.split(key), model, tiny_data, TrainConfig(epochs=4, batch_size=20)).theta
    theta_1, theta_2 = (trees.index(theta, i) for i in range(2))
    fit = fit_curve(key, model, bezier(model.spec), theta_1, theta_2, tiny_data, None, CONFIG)
    assert jax.tree.structure(fit.theta_c) == jax.tree.structure(theta_1)
    assert float(trees.norm(fit.theta_c)) > 0
    assert fit.history["loss"][-1] < fit.history["loss"][0]
