"""Curve fitting: the gradient it follows, loops of one's own, ends that stay, pairs, any loss, what does not fit."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from landscapes import RING, at
from refusals import says
from streams import Epochs
from variables import alive, drawn, permuted, stacked

from mcjax import (
    FitConfig,
    InputError,
    PermutationSpec,
    RunError,
    SpecError,
    Task,
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
    supervised,
    trees,
)
from mcjax.curves.fit import curve_fit, curve_path
from mcjax.training.fit import Fit
from mcjax.training.loop import EpochPlan

CONFIG = FitConfig(epochs=12, batch_size=20)
SGD = optax.sgd(0.1)


def test_a_step_follows_the_mean_gradient_over_t(tiny_ends, tiny_data, tiny_model, tiny_task):
    # One step of one batch with all images: theta_c becomes -lr times the gradient's mean over t.
    config = FitConfig(1, 120, optax.sgd(0.5), weight_decay=0.02, points_per_step=400)
    curve = bezier(tiny_model.spec)
    fit = fit_curve(jax.random.key(0), tiny_task, curve, *tiny_ends, None, config)
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
    keys, slopes = jax.random.split(jax.random.key(0), 2000), ring_slopes(20_000)
    for points in (1, 16):
        fit = curve_fit(RING, bezier(RING.spec), SGD, weight_decay=0.3, points_per_step=points)
        begun = fit.init(at(*A), at(*B), None, at(*C))
        after, _ = jax.jit(jax.vmap(fit.step, (None, None, 0)))(begun, RING.train, keys)
        gradients = (C - np.asarray(after.variables["point"], np.float64)) / 0.1
        # Four standard deviations of the mean; the t of a step are drawn one by one.
        spread = slopes.std(0) / np.sqrt(points)
        np.testing.assert_array_less(np.abs(gradients.mean(0) - slopes.mean(0)), 4 * spread / np.sqrt(len(keys)))
        np.testing.assert_allclose(gradients.std(0), spread, rtol=0.15)


def test_t_is_drawn_uniformly_and_measured():
    """Every loss is that of the network at its own t."""
    fit = curve_fit(RING, bezier(RING.spec), SGD)
    begun = fit.init(at(*A), at(*B), None, at(*C))
    keys = jax.random.split(jax.random.key(1), 500)
    _, metrics = jax.jit(jax.vmap(fit.step, (None, None, 0)))(begun, RING.train, keys)
    ts = np.sort(np.asarray(metrics["t"]))
    assert np.abs(ts - (np.arange(500) + 0.5) / 500).max() < 1.63 / np.sqrt(500)  # Kolmogorov and Smirnov at 1%
    t = np.float64(metrics["t"])[:, None]
    r = (1 - t) * A + t * B + 2 * t * (1 - t) * C
    np.testing.assert_allclose(metrics["loss"], np.square(np.square(r).sum(1) - 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("degree", [2, 4])
def test_an_anchor_pulls_by_the_gradient_of_its_proximal_term(degree):
    """At the same t, a step with an anchor goes lr / nu_phi times the way to it farther than one without."""
    curve = bezier(RING.spec, degree)
    free, held = (curve_fit(RING, curve, SGD, weight_decay=0.3, points_per_step=3, **more) for more in ({}, NU_PHI))
    shape = curve.zero(at(*A))["point"].shape
    here, anchor = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    begun = [fit.init(at(*A), at(*B), None, {"point": here}) for fit in (free, held)]
    # A fit is anchored where it starts.
    np.testing.assert_array_equal(begun[1].fixed.anchor["point"], here)
    begun[1] = begun[1]._replace(fixed=begun[1].fixed._replace(anchor={"point": anchor}))
    (loose, measured), (pulled, also) = (
        jax.jit(fit.step)(state, RING.train, jax.random.key(0)) for fit, state in zip((free, held), begun, strict=True)
    )
    difference = pulled.variables["point"] - loose.variables["point"]
    np.testing.assert_allclose(difference, 0.1 / 0.4 * (anchor - here), rtol=1e-4, atol=1e-5)
    # What is measured is without the proximal term.
    chex.assert_trees_all_close(measured, also, rtol=1e-6)


NU_PHI = {"nu_phi": 0.4}


def batches_of(task, key, batch_size):
    """The batches of an epoch, stacked, and their keys, as the loop draws them."""
    order_key, steps_key = jax.random.split(key)
    n = len(task.train[1])
    steps = n // batch_size
    order = jax.random.permutation(order_key, n)[: steps * batch_size].reshape(steps, batch_size)
    keys = jax.vmap(lambda key: jax.random.split(key)[1])(jax.random.split(steps_key, steps))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[order], task.train), keys


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))


@pytest.mark.parametrize("points", [1, 3])
def test_a_loop_of_ones_own_in_scan_and_vmap_is_that_of_fit_curve(points, ends, key, tiny_task):
    curve, rng = polygonal_chain(tiny_task.spec, 2), np.random.default_rng(0)
    sizes = {"dense_0": 6, "dense_1": 5}
    P = {group: np.stack([rng.permutation(n).astype(np.int32) for _ in range(2)]) for group, n in sizes.items()}
    config = FitConfig(2, 40, OPTIMIZER, weight_decay=1e-3, points_per_step=points)
    found = fit_curve(key, tiny_task, curve, *ends, P, config)
    fit = curve_fit(tiny_task, curve, OPTIMIZER, weight_decay=1e-3, points_per_step=points)

    @jax.jit
    @jax.vmap
    def fitted(theta_1, theta_2, P, key):
        state, losses = fit.init(theta_1, theta_2, P), []
        for epoch in range(2):
            batches = batches_of(tiny_task, jax.random.fold_in(key, epoch), 40)
            state, metrics = jax.lax.scan(lambda state, batch: fit.step(state, *batch), state, batches)
            losses.append(metrics["loss"].mean())
        return state, jnp.stack(losses)

    states, losses = fitted(*ends, P, jax.random.split(key))
    np.testing.assert_allclose(losses, found.history["loss"], rtol=1e-4)
    assert found.history.keys() == {"loss", "accuracy"}
    chex.assert_trees_all_close(states.variables, found.theta_c["params"], rtol=1e-3, atol=1e-5)
    for i in range(2):
        path, whole = curve_path(curve, trees.index(states, i)), trees.index(found.path(0.3), i)
        chex.assert_trees_all_close(path(0.3), whole, rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_equal(path(0.0), trees.index(ends[0], i))
        second = permuted(curve.spec, trees.index(P, i), trees.index(ends[1], i))
        chex.assert_trees_all_close(path(1.0), second, rtol=1e-6)


def test_the_path_of_a_state_has_the_statistics_of_the_line(normed, normed_task, key):
    curve = bezier(normed.spec)
    theta_1, theta_2 = (alive(normed, seed) for seed in (0, 1))
    fit = curve_fit(normed_task, curve, SGD)
    state, _ = jax.jit(fit.step)(fit.init(theta_1, theta_2), normed_task.train, key)
    got, line = curve_path(curve, state)(0.25), curve(theta_1, theta_2, None, None, 0.25)
    chex.assert_trees_all_equal(got["batch_stats"], line["batch_stats"])
    moved = trees.subtract(got["params"], line["params"])
    chex.assert_trees_all_close(moved, trees.scale(2 * 0.25 * 0.75, state.variables), rtol=1e-4, atol=1e-6)
    # A theta_c is a tree like theta, or has the parameters alone.
    whole = {"params": state.variables, "batch_stats": jax.tree.map(np.ones_like, theta_1["batch_stats"])}
    for theta_c in (whole, whole["params"]):
        chex.assert_trees_all_equal(fit.init(theta_1, theta_2, None, theta_c).variables, state.variables)


def test_a_soft_permutation_permutes_the_second_end(tiny_ends, tiny_task):
    rng, curve = np.random.default_rng(0), bezier(tiny_task.spec)
    P = {group: np.eye(n, dtype=np.float32)[rng.permutation(n)] for group, n in (("dense_0", 6), ("dense_1", 5))}
    fit = curve_fit(tiny_task, curve, SGD)
    hard = {group: p.argmax(1).astype(np.int32) for group, p in P.items()}
    ends = [fit.init(*tiny_ends, each).fixed.theta_2 for each in (P, hard)]
    chex.assert_trees_all_close(*ends, rtol=1e-6)
    chex.assert_trees_all_equal(ends[1], permuted(tiny_task.spec, hard, tiny_ends[1]))


def test_a_fit_lowers_the_barrier_and_leaves_the_ends(tiny_ends, key, tiny_task):
    theta_1, theta_2 = tiny_ends
    P = random_permutation(key, tiny_task.spec, theta_1)
    fit = fit_curve(key, tiny_task, polygonal_chain(tiny_task.spec, 2), *tiny_ends, P, CONFIG)
    line = linear(tiny_task.spec).bind(theta_1, theta_2, None, P)
    before, after = (evaluate_path(tiny_task, path, 21) for path in (line, fit.path))
    assert barrier(after) < 0.5 * barrier(before)
    chex.assert_trees_all_equal(fit.path(0.0), theta_1)
    chex.assert_trees_all_equal(fit.path(1.0), permute(tiny_task.spec, P, theta_2))
    assert fit.history["loss"].shape == (12,)


def test_many_pairs_at_once_are_as_good_as_each_alone(ends, key, tiny_task):
    P = match_activations(tiny_task, *ends).P
    curve = bezier(tiny_task.spec)
    fit, again = (fit_curve(key, tiny_task, curve, *ends, P, CONFIG) for _ in range(2))
    chex.assert_trees_all_equal(fit.theta_c, again.theta_c)
    assert fit.history["loss"].shape == (2, 12)
    metrics = evaluate_path(tiny_task, fit.path, 5)
    assert metrics.train_loss.shape == (2, 5)
    for i in range(2):
        path = curve.bind(*(trees.index(part, i) for part in (*ends, fit.theta_c, P)))
        alone = evaluate_path(tiny_task, path, 5)
        np.testing.assert_allclose(metrics.train_loss[i], alone.train_loss, rtol=1e-4)
        np.testing.assert_allclose(metrics.distance[i], alone.distance, rtol=1e-4)


@pytest.mark.parametrize("name", ["normed", pytest.param("tinysix", marks=pytest.mark.slow)])
def test_batch_statistics_have_no_control_point(name, key, tiny_colour_data, normed_task):
    task = normed_task
    if name == "tinysix":
        task = supervised(models.create("tinysix", 3, (8, 8, 3), width=0.25), tiny_colour_data)
    theta_1, theta_2 = (jax.tree.map(np.float32, drawn(task.model, seed)) for seed in (0, 1))
    fit = fit_curve(key, task, bezier(task.spec), theta_1, theta_2, None, FitConfig(epochs=2, batch_size=40))
    assert jax.tree.structure(fit.theta_c) == jax.tree.structure(theta_1)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(fit.theta_c["batch_stats"]))
    assert float(trees.norm(fit.theta_c["params"])) > 0


def test_variables_without_collections_are_fitted_too(key):
    """From one side of a ring to the other: the curve bends around it, within a tenth of the line's barrier."""
    config = FitConfig(epochs=300, batch_size=1, weight_decay=0.0)
    one, two = at(1, 0), at(-1, 0.1)
    fit = fit_curve(key, RING, bezier(RING.spec), one, two, None, config)
    assert jax.tree.structure(fit.theta_c) == jax.tree.structure(one)
    assert fit.history["loss"].shape == (300,)
    ts = np.linspace(0, 1, 101)[:, None]
    control = np.asarray(fit.theta_c["point"])
    r = (1 - ts) * one["point"] + ts * two["point"] + 2 * ts * (1 - ts) * control
    assert np.square(np.square(r).sum(1) - 1).max() < 0.1
    np.testing.assert_allclose(fit.path(0.25)["point"], r[25], rtol=1e-5)


def test_a_task_of_a_loss_alone_is_fitted(key):
    """No model, no init, no data set: networks of any structure, whose symmetry the curve declares."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(40, 3)))
    ends = [(np.float32(rng.normal(size=(3, 4))), {"out": np.float32(rng.normal(size=(4, 1)))}) for _ in range(2)]
    y = np.tanh(x @ ends[0][0]) @ ends[0][1]["out"]

    def loss(theta, batch, key):
        made, read = theta
        return jnp.abs(jnp.tanh(batch["x"] @ made) @ read["out"] - batch["y"]).mean(), {"first": made[0, 0]}

    spec = PermutationSpec({"0": (None, "units"), "1/out": ("units", None)})
    P = {"units": np.int32([2, 0, 3, 1])}
    config = FitConfig(60, 40, optax.adam(0.02), weight_decay=0.0, points_per_step=4)
    task, curve = Task(loss, {"x": x, "y": y}), bezier(spec)
    fit = fit_curve(key, task, curve, *ends, P, config)
    assert jax.tree.structure(fit.theta_c) == jax.tree.structure(ends[0])
    assert fit.history.keys() == {"loss", "first"}
    end = fit.path(1.0)
    np.testing.assert_array_equal(end[0], ends[1][0][:, P["units"]])
    np.testing.assert_array_equal(end[1]["out"], ends[1][1]["out"][P["units"]])

    def height(path):
        mean = jax.jit(lambda path: jax.vmap(lambda t: loss(path(t), task.train, key)[0])(jnp.linspace(0, 1, 41)))
        return float(mean(path).mean())

    assert height(fit.path) < 0.8 * height(linear(spec).bind(*ends, None, P))


def test_optimisers_are_any_of_optax_or_made_for_the_steps_of_the_fit(key, compiled):
    """A rate of 1 / steps, so that two epochs of two steps go as a quarter each."""
    made = []

    def by_steps(steps, steps_per_epoch):
        made.append((steps, steps_per_epoch))
        return optax.sgd(1 / steps)

    given = (key, RING, bezier(RING.spec), at(*A), at(*B), None)
    config = FitConfig(2, 1, by_steps, weight_decay=0.0, steps_per_epoch=2)
    quarter = replace(config, optimizer=optax.sgd(0.25))
    one, two = (fit_curve(*given, each).theta_c["point"] for each in (config, quarter))
    assert made == [(4, 2)]
    np.testing.assert_allclose(one, two, rtol=1e-6)
    # Fits with one optimiser are one program.
    compiled.clear()
    fit_curve(jax.random.key(1), *given[1:], quarter)
    fit_curve(*given, config)
    assert not compiled


def broken(theta, batch, key):
    """A loss that is not finite beyond x = 0.9."""
    return jnp.where(theta["x"] > 0.9, jnp.nan, jnp.square(theta["x"] - batch.mean()))


def test_a_loss_that_is_not_finite_names_the_batch_and_t(key):
    """On the line from 0 to 1, with a rate of zero, at the first t beyond 0.9."""
    task = Task(broken, np.float32(np.ones(40)))
    config = FitConfig(2, 2, optax.sgd(0.0), weight_decay=0.0)
    _, steps_key = jax.random.split(jax.random.fold_in(jax.random.split(key, 1)[0], 0))
    loss_keys = [jax.random.split(step_key)[1] for step_key in jax.random.split(steps_key, 20)]
    ts = np.array([jax.random.uniform(jax.random.split(each)[0], (1,))[0] for each in loss_keys])
    first = int(np.argmax(ts > 0.9))
    assert ts[first] > 0.9
    assert first > 0
    spec = PermutationSpec({"x": ()})
    with says(RunError, "number 0 of 1", "epoch 1", f"batch {first + 1} at t = {ts[first]:.3g}."):
        fit_curve(key, task, bezier(spec), {"x": np.float32(0)}, {"x": np.float32(1)}, None, config)


def test_bfloat16_is_of_the_network_on_the_curve(key):
    seen = []

    def loss(theta, batch, key):
        seen.append(theta["x"].dtype.name)
        return jnp.square(theta["x"] - batch.mean()).astype(jnp.float32)

    task, spec = Task(loss, np.float32(np.ones(4))), PermutationSpec({"x": ()})
    ends = {"x": np.float32(0.123)}, {"x": np.float32(1)}
    config = FitConfig(1, 4, SGD, weight_decay=0.0, compute_dtype="bfloat16")
    fit = fit_curve(key, task, bezier(spec), *ends, None, config)
    assert seen[-1] == "bfloat16"
    assert fit.theta_c["x"].dtype == fit.path(0.5)["x"].dtype == np.float32
    exact = fit_curve(key, task, bezier(spec), *ends, None, replace(config, compute_dtype="float32"))
    assert fit.theta_c["x"] != exact.theta_c["x"]
    np.testing.assert_allclose(fit.theta_c["x"], exact.theta_c["x"], rtol=0.02)


def test_bad_input_is_named(ends, tiny_ends, key, tiny_task, tiny_model):
    theta_1, theta_2 = tiny_ends
    other = models.create("mlp", 3, (8, 8, 1), widths=(6, 4)).init(key)
    P = {"dense_0": jnp.arange(6), "dense_1": jnp.arange(5)}
    given = {
        "key": key, "task": tiny_task, "curve": bezier(tiny_model.spec), "a": theta_1, "b": theta_2, "P": None,
        "config": CONFIG,
    }  # fmt: skip
    for changes, error, *named in (
        ({"key": 0}, InputError, "int"),
        ({"task": tiny_model}, InputError, "Model", "mcjax.supervised(model, data)"),
        ({"curve": linear(tiny_model.spec)}, InputError, "no control points"),
        ({"curve": tiny_model.spec}, InputError, "PermutationSpec", "mcjax.bezier(spec)"),
        ({"config": TrainConfig()}, InputError, "TrainConfig", "FitConfig"),
        ({"config": FitConfig(batch_size=121)}, InputError, "batch_size=121", "120"),
        ({"b": other}, SpecError, "Dense_1/kernel", "(6, 4)", "(6, 5)"),
        ({"b": ends[1]}, InputError, "numbers of networks"),
        ({"P": {**P, "dense_1": jnp.array([0, 1, 1, 3, 4])}}, SpecError, "dense_1", "0..4", "[1]"),
        ({"P": {"dense_0": jnp.arange(6)}}, SpecError, "another spec"),
        ({"a": ends[0], "b": ends[1], "P": P}, SpecError, "2 pairs", "dense_0, dense_1"),
    ):
        with says(error, *named):
            fit_curve(*(given | changes).values())
    for arguments, options, *named in (
        ((tiny_model, given["curve"], SGD), {}, "Model", "mcjax.supervised(model, data)"),
        ((tiny_task, linear(tiny_model.spec), SGD), {}, "no control points"),
        ((tiny_task, given["curve"], "adamw"), {}, "optimizer='adamw'", "optax.adamw(1e-3)"),
        ((tiny_task, given["curve"], SGD), {"points_per_step": 0}, "points_per_step=0"),
        ((tiny_task, given["curve"], SGD), {"nu_phi": -1}, "nu_phi=-1"),
        ((tiny_task, given["curve"], SGD), {"norm_bound": "x"}, "norm_bound='x'"),
    ):
        with says(InputError, *named):
            curve_fit(*arguments, **options)
    # A loss without an init is checked on the endpoints.
    with says(InputError, "float32 (4,)", "scalar"):
        fit_curve(key, Task(lambda theta, batch, key: batch * theta["x"], np.ones(4, np.float32)),
                  bezier(PermutationSpec({"x": ()})), {"x": np.float32(0)}, {"x": np.float32(1)})  # fmt: skip


def test_fits_are_pytrees_that_share_programs(tiny_ends, tiny_task, key):
    traces = []

    @jax.jit
    def step(fit, state):
        traces.append(1)
        return fit.step(state, tiny_task.train, key)[1]["loss"]

    optimizer, curve = optax.adam(1e-2), bezier(tiny_task.spec)
    for _ in range(2):
        fit = curve_fit(tiny_task, curve, optimizer)
        assert isinstance(fit, Fit)
        step(fit, fit.init(*tiny_ends))
    assert len(traces) == 1
    for other in (
        partial(curve_fit, tiny_task, curve, optimizer, weight_decay=0.1),
        partial(curve_fit, tiny_task, curve, SGD),
    ):
        step(other(), other().init(*tiny_ends))
    assert len(traces) == 3
    # Many at once.
    pairs = [stacked([end, end]) for end in tiny_ends]
    states = jax.vmap(fit.init)(*pairs)
    _, metrics = jax.jit(jax.vmap(fit.step, (0, None, None)))(states, tiny_task.train, key)
    np.testing.assert_allclose(metrics["loss"], np.full(2, step(fit, fit.init(*tiny_ends))), rtol=1e-5)


def test_the_same_batches_from_the_host_give_the_same_curve(tiny_ends, tiny_task, key):
    config = FitConfig(2, 20, SGD, steps_per_epoch=6)
    source = Epochs(tiny_task.train, 17, EpochPlan(20, 6), jax.random.split(key, 1)[0])
    streamed = tiny_task.with_examples(train=source.stream(4, 20))
    curve = bezier(tiny_task.spec)
    got, expected = (fit_curve(key, task, curve, *tiny_ends, None, config) for task in (streamed, tiny_task))
    chex.assert_trees_all_equal(got.theta_c, expected.theta_c)
    # The mean over the steps is taken in another program.
    chex.assert_trees_all_close(got.history, expected.history, rtol=1e-6)
