"""Curve fitting: the gradient it follows, ends that stay, pairs, what does not fit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscapes import RING, at
from refusals import says
from variables import drawn

from mcjax import (
    FitConfig,
    InputError,
    SpecError,
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
    trees,
)
from mcjax.curves.fit import CurveContext, CurveStep

CONFIG = FitConfig(epochs=12, batch_size=20)
PLAIN = {"schedule": "constant", "momentum": 0.0}


def test_a_step_follows_the_mean_gradient_over_t(tiny_ends, tiny_data, tiny_model):
    # One step of one batch with all images: theta_c becomes -lr times the gradient's mean over t.
    config = FitConfig(epochs=1, batch_size=120, learning_rate=0.5, weight_decay=0.02, points_per_step=400, **PLAIN)
    curve = bezier(tiny_model.spec)
    fit = fit_curve(jax.random.key(0), tiny_model, curve, *tiny_ends, tiny_data, None, config)
    x = data.normalize(tiny_data.train_images, tiny_data.mean, tiny_data.std)

    def loss(theta_c, t):
        theta = curve(*tiny_ends, theta_c, None, t)
        logs = jax.nn.log_softmax(tiny_model.apply(theta, x))
        squares = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(theta))
        return -logs[jnp.arange(120), tiny_data.train_labels].mean() + 0.01 * squares

    @jax.jit
    def apart(theta_c):
        ts = (jnp.arange(200) + 0.5) / 200
        gradient = jax.tree.map(lambda g: g.mean(0), jax.vmap(jax.grad(loss), (None, 0))(curve.zero(theta_c), ts))
        expected = trees.scale(-0.5, gradient)
        return trees.norm(trees.subtract(theta_c, expected)) / trees.norm(expected)

    assert float(apart(fit.theta_c)) < 0.1


A, B, C = np.array([[1.5, 0.2], [-0.9, 0.7], [0.3, -0.4]])


def ring_slopes(points, weight_decay=0.3):
    """The gradient in the control point at many t, by hand: of (|r|^2 - 1)^2 + weight_decay / 2 |r|^2."""
    ts = (np.arange(points)[:, None] + 0.5) / points
    weights = 2 * ts * (1 - ts)
    r = (1 - ts) * A + ts * B + weights * C
    return weights * (4 * (np.square(r).sum(1, keepdims=True) - 1) + weight_decay) * r


def test_steps_have_the_mean_and_the_variance_of_the_gradient_over_t():
    model, images = RING
    x, labels = images.train_images, images.train_labels
    keys, slopes = jax.random.split(jax.random.key(0), 2000), ring_slopes(20_000)
    context = CurveContext(at(*A), at(*B))
    for points in (1, 16):
        config = FitConfig(
            epochs=1, batch_size=1, learning_rate=0.1, weight_decay=0.3, points_per_step=points, **PLAIN
        )  # fmt: skip
        step = CurveStep(model, bezier(model.spec), config, 1)
        begun = step.init(at(*A))._replace(theta_c=at(*C))
        after, _ = jax.jit(jax.vmap(step, (None, None, None, None, 0)))(context, begun, x, labels, keys)
        gradients = (C - np.asarray(after.theta_c["point"], np.float64)) / 0.1
        # Four standard deviations of the mean; the t of a step are drawn one by one.
        spread = slopes.std(0) / np.sqrt(points)
        np.testing.assert_array_less(np.abs(gradients.mean(0) - slopes.mean(0)), 4 * spread / np.sqrt(len(keys)))
        np.testing.assert_allclose(gradients.std(0), spread, rtol=0.15)


@pytest.mark.parametrize("degree", [2, 4])
def test_an_anchor_pulls_by_the_gradient_of_its_proximal_term(degree):
    """At the same t, a step with an anchor goes lr / nu_phi times the way to it farther than one without."""
    model, images = RING
    config = FitConfig(epochs=1, batch_size=1, learning_rate=0.1, weight_decay=0.3, points_per_step=3, **PLAIN)
    step = CurveStep(model, bezier(model.spec, degree), config, 1, nu_phi=0.4)
    begun = step.init(at(*A))
    shape = begun.theta_c["point"].shape
    here, anchor = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    begun = begun._replace(theta_c={"point": here})
    given = (begun, images.train_images, images.train_labels, jax.random.key(0))
    (free, measured), (held, also) = (
        jax.jit(step)(CurveContext(at(*A), at(*B), pull), *given) for pull in (None, {"point": anchor})
    )
    pulled = held.theta_c["point"] - free.theta_c["point"]
    np.testing.assert_allclose(pulled, 0.1 / 0.4 * (anchor - here), rtol=1e-4, atol=1e-5)
    # What is measured is without the proximal term.
    chex.assert_trees_all_close(measured, also, rtol=1e-6)


def test_a_fit_lowers_the_barrier_and_leaves_the_ends(tiny_ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = tiny_ends
    P = random_permutation(key, tiny_model.spec, theta_1)
    fit = fit_curve(key, tiny_model, polygonal_chain(tiny_model.spec, 2), *tiny_ends, tiny_data, P, CONFIG)
    line = linear(tiny_model.spec).bind(theta_1, theta_2, None, P)
    before, after = (evaluate_path(tiny_model, path, tiny_data, 21) for path in (line, fit.path))
    assert barrier(after) < 0.5 * barrier(before)
    chex.assert_trees_all_equal(fit.path(0.0), theta_1)
    chex.assert_trees_all_equal(fit.path(1.0), permute(tiny_model.spec, P, theta_2))
    assert fit.history["loss"].shape == (12,)


def test_many_pairs_at_once_are_as_good_as_each_alone(ends, key, tiny_data, tiny_model):
    P = match_activations(tiny_model, *ends, tiny_data).P
    curve = bezier(tiny_model.spec)
    fit, again = (fit_curve(key, tiny_model, curve, *ends, tiny_data, P, CONFIG) for _ in range(2))
    chex.assert_trees_all_equal(fit.theta_c, again.theta_c)
    assert fit.history["loss"].shape == (2, 12)
    metrics = evaluate_path(tiny_model, fit.path, tiny_data, 5)
    assert metrics.train_loss.shape == (2, 5)
    for i in range(2):
        path = curve.bind(*(trees.index(part, i) for part in (*ends, fit.theta_c, P)))
        alone = evaluate_path(tiny_model, path, tiny_data, 5)
        np.testing.assert_allclose(metrics.train_loss[i], alone.train_loss, rtol=1e-4)
        np.testing.assert_allclose(metrics.distance[i], alone.distance, rtol=1e-4)


@pytest.mark.parametrize("name", ["normed", pytest.param("tinysix", marks=pytest.mark.slow)])
def test_batch_statistics_have_no_control_point(name, key, tiny_data, tiny_colour_data, normed):
    model, images = normed, tiny_data
    if name == "tinysix":
        model, images = models.create("tinysix", 3, (8, 8, 3), width=0.25), tiny_colour_data
    theta_1, theta_2 = (jax.tree.map(np.float32, drawn(model, seed)) for seed in (0, 1))
    config = FitConfig(epochs=2, batch_size=40)
    fit = fit_curve(key, model, bezier(model.spec), theta_1, theta_2, images, None, config)
    assert jax.tree.structure(fit.theta_c) == jax.tree.structure(theta_1)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(fit.theta_c["batch_stats"]))
    assert float(trees.norm(fit.theta_c["params"])) > 0


def test_variables_without_collections_are_fitted_too(key):
    """From one side of a ring to the other: the curve bends around it, within a tenth of the line's barrier."""
    model, images = RING
    config = FitConfig(epochs=300, batch_size=1, learning_rate=0.1, weight_decay=0.0)
    one, two = at(1, 0), at(-1, 0.1)
    fit = fit_curve(key, model, bezier(model.spec), one, two, images, None, config)
    assert jax.tree.structure(fit.theta_c) == jax.tree.structure(one)
    assert fit.history["loss"].shape == (300,)
    ts = np.linspace(0, 1, 101)[:, None]
    control = np.asarray(fit.theta_c["point"])
    r = (1 - ts) * one["point"] + ts * two["point"] + 2 * ts * (1 - ts) * control
    assert np.square(np.square(r).sum(1) - 1).max() < 0.1
    np.testing.assert_allclose(fit.path(0.25)["point"], r[25], rtol=1e-5)


def test_bad_input_is_named(ends, tiny_ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = tiny_ends
    other = models.create("mlp", 3, (8, 8, 1), widths=(6, 4)).init(key)
    P = {"dense_0": jnp.arange(6), "dense_1": jnp.arange(5)}
    given = {"curve": bezier(tiny_model.spec), "a": theta_1, "b": theta_2, "P": None}
    for changes, error, *named in (
        ({"curve": linear(tiny_model.spec)}, InputError, "no control points"),
        ({"b": other}, SpecError, "Dense_1/kernel", "(6, 4)", "(6, 5)"),
        ({"b": ends[1]}, InputError, "numbers of networks"),
        ({"P": {**P, "dense_1": jnp.array([0, 1, 1, 3, 4])}}, SpecError, "dense_1", "0..4", "[1]"),
        ({"P": {"dense_0": jnp.arange(6)}}, SpecError, "another spec"),
        ({"a": ends[0], "b": ends[1], "P": P}, SpecError, "2 pairs", "dense_0, dense_1"),
    ):
        curve, a, b, start = (given | changes).values()
        with says(error, *named):
            fit_curve(key, tiny_model, curve, a, b, tiny_data, start, CONFIG)
