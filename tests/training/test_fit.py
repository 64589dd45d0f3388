"""Descents against plain loops of optax: embedding, points, penalty, constraint, decay, dtype, statistics."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict
from refusals import says

from mcjax import SGD, InputError
from mcjax.training.fit import Descent, Fit, FitState, fit_of, parts_of

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(9, 4)).astype(np.float32), RNG.normal(size=(9, 2)).astype(np.float32)
START = {"a": RNG.normal(size=(3,)).astype(np.float32), "b": RNG.normal(size=(2,)).astype(np.float32)}
FIXED = {"map": RNG.normal(size=(3, 4, 2)).astype(np.float32), "end": RNG.normal(size=(4, 2)).astype(np.float32)}
KEY = jax.random.key(0)


def loss(theta, batch, key):
    """Squares, with inputs dropped by the key, and a metric."""
    x, y = batch
    kept = jax.random.bernoulli(key, 0.8, x.shape)
    outputs = (x * kept) @ theta["params"]["w"] + theta["params"]["bias"][None]
    value = jnp.square(outputs - y).mean()
    return value, {"size": jnp.abs(outputs).mean()}


def embed(variables, fixed, t):
    """A network whose kernel lies in a space of three dimensions, on the way to another."""
    w = jnp.tensordot(variables["a"], fixed["map"], 1)
    w = w if t is None else (1 - t) * w + t * fixed["end"]
    return {"params": {"w": w, "bias": variables["b"]}}


def uniform(key, points):
    return jax.random.uniform(key, (points,))


def run(descent, steps=6, start=START):
    """The variables and metrics after every step, in one compiled scan."""
    fit = fit_of(descent, jax.tree_util.Partial(loss), Descent.start)
    keys = jax.random.split(KEY, steps)

    @jax.jit
    def scanned(fit, state):
        def step(state, key):
            state, metrics = fit.step(state, (X, Y), key)
            return state, (state.variables, metrics)

        return jax.lax.scan(step, state, keys)

    state, (variables, metrics) = scanned(fit, fit.init(start, FIXED))
    assert isinstance(state, FitState)
    chex.assert_trees_all_equal(state.fixed, FIXED)
    return variables, metrics


def by_hand(optimizer, objective, steps=6, start=START, after=lambda variables: variables):
    """The same by `jax.grad` and optax alone, step by step; `objective(variables, key) -> scalar`."""
    state, variables, found = optimizer.init(start), start, []
    slope = jax.jit(jax.grad(objective))
    for key in jax.random.split(KEY, steps):
        updates, state = optimizer.update(slope(variables, key), state, variables)
        variables = after(optax.apply_updates(variables, updates))
        found.append(variables)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def close(a, b):
    chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-6)


OPTIMIZERS = {
    "sgd": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1, weight_decay=0.3),
    "chain": optax.chain(optax.clip_by_global_norm(0.5), optax.lion(0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_embedding_and_any_optimiser_are_a_plain_loop_of_optax(name):
    variables, metrics = run(Descent(embed, OPTIMIZERS[name]))
    expected = by_hand(OPTIMIZERS[name], lambda v, key: loss(embed(v, FIXED, None), (X, Y), key)[0])
    close(variables, expected)
    assert metrics.keys() == {"loss", "size"}
    # Metrics are those before the step.
    value, more = loss(embed(START, FIXED, None), (X, Y), jax.random.split(KEY, 6)[0])
    np.testing.assert_allclose([metrics["loss"][0], metrics["size"][0]], [value, more["size"]], rtol=1e-6)


def test_a_point_of_the_path_is_drawn_at_every_step():
    variables, metrics = run(Descent(embed, optax.sgd(0.1), sample_t=uniform))
    pairs = [jax.random.split(key) for key in jax.random.split(KEY, 6)]
    ts = np.array([jax.random.uniform(t_key) for t_key, _ in pairs])
    np.testing.assert_allclose(metrics["t"], ts, rtol=1e-6)
    assert len(set(ts.tolist())) == 6

    def objective(v, key):
        t_key, loss_key = jax.random.split(key)
        return loss(embed(v, FIXED, jax.random.uniform(t_key, (1,))[0]), (X, Y), loss_key)[0]

    close(variables, by_hand(optax.sgd(0.1), objective))


def test_many_points_have_the_mean_gradient_and_the_mean_metrics():
    descent = Descent(embed, optax.adam(0.1), sample_t=uniform, points=5)
    variables, metrics = run(descent)

    def each(v, key):
        t_key, loss_key = jax.random.split(key)
        ts, keys = jax.random.uniform(t_key, (5,)), jax.random.split(loss_key, 5)
        return ts, jax.vmap(lambda t, key: loss(embed(v, FIXED, t), (X, Y), key))(ts, keys)

    close(variables, by_hand(optax.adam(0.1), lambda v, key: each(v, key)[1][0].mean()))
    ts, (values, more) = each(START, jax.random.split(KEY, 6)[0])
    got = [metrics[name][0] for name in ("t", "loss", "size")]
    np.testing.assert_allclose(got, [ts.mean(), values.mean(), more["size"].mean()], rtol=1e-5)


def pull(variables, fixed):
    return 0.7 * jnp.square(variables["a"] - fixed["map"][:, 0, 0]).sum()


def test_a_penalty_is_descended_and_not_measured():
    variables, metrics = run(Descent(embed, optax.sgd(0.1), penalty=pull))
    value = jax.jit(lambda v, key: loss(embed(v, FIXED, None), (X, Y), key)[0])
    close(variables, by_hand(optax.sgd(0.1), lambda v, key: value(v, key) + pull(v, FIXED)))
    np.testing.assert_allclose(metrics["loss"][0], value(START, jax.random.split(KEY, 6)[0]), rtol=1e-6)


def onto_sphere(variables, updates, fixed):
    moved = optax.apply_updates(variables, updates)
    return {**moved, "a": fixed["map"][0, 0, 0] * moved["a"] / jnp.linalg.norm(moved["a"])}


def test_a_step_along_a_constraint():
    variables, _ = run(Descent(embed, optax.sgd(0.1), retract=onto_sphere))
    radius = FIXED["map"][0, 0, 0]

    def after(moved):
        return {**moved, "a": radius * moved["a"] / np.linalg.norm(moved["a"])}

    objective = by_hand(optax.sgd(0.1), lambda v, key: loss(embed(v, FIXED, None), (X, Y), key)[0], after=after)
    close(variables, objective)
    np.testing.assert_allclose(np.linalg.norm(variables["a"], axis=1), abs(radius), rtol=1e-5)


def test_weight_decay_is_of_the_parameters_of_the_network_at_t():
    """Not of the variables, of which there are fewer, and neither of the batch statistics."""

    def with_statistics(variables, fixed, t):
        return {**embed(variables, fixed, t), "batch_stats": {"mean": 10 * variables["a"]}}

    variables, metrics = run(Descent(with_statistics, optax.sgd(0.1), sample_t=uniform, weight_decay=0.4))

    def parts(v, key):
        t_key, loss_key = jax.random.split(key)
        theta = embed(v, FIXED, jax.random.uniform(t_key, (1,))[0])
        squares = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(theta))
        return loss(theta, (X, Y), loss_key)[0], 0.2 * squares

    close(variables, by_hand(optax.sgd(0.1), lambda v, key: sum(parts(v, key))))
    np.testing.assert_allclose(metrics["loss"][0], parts(START, jax.random.split(KEY, 6)[0])[0], rtol=1e-6)


def test_bfloat16_is_the_dtype_of_theta_in_the_loss_alone():
    seen = []

    def noting(theta, batch, key):
        seen.append(jax.tree.map(lambda leaf: leaf.dtype.name, (theta, batch[0])))
        return loss(theta, batch, key)

    def with_statistics(variables, fixed, t):
        return {**embed(variables, fixed, t), "batch_stats": {"mean": jnp.zeros(2)}}

    descents = [
        Descent(with_statistics, optax.adam(0.1), weight_decay=0.4, compute_dtype=dtype)
        for dtype in ("float32", "bfloat16")
    ]
    steps = [fit_of(each, jax.tree_util.Partial(noting), Descent.start) for each in descents]
    exact, rough = (jax.jit(fit.step)(fit.init(START, FIXED), (X, Y), KEY)[0] for fit in steps)
    stats = {"batch_stats": {"mean": "float32"}}
    assert seen == [({"params": {"w": dtype, "bias": dtype}, **stats}, "float32") for dtype in ("float32", "bfloat16")]
    assert {leaf.dtype.name for leaf in jax.tree.leaves((rough.variables, rough.optimizer[0].mu))} == {"float32"}
    # The gradient has eight bits, and is near.
    slopes = [np.concatenate([*each.optimizer[0].mu.values()]) for each in (exact, rough)]
    error = np.linalg.norm(slopes[1] - slopes[0]) / np.linalg.norm(slopes[0])
    assert 0 < error < 0.02


NETWORK = {"params": {"w": FIXED["end"], "bias": START["b"]}, "batch_stats": {"mean": np.float32([1, 2])}}


def with_statistics(returned, theta, batch, key):
    value, metrics = loss(theta, batch, key)
    stats = {"mean": batch[1].mean(0).astype(returned)} if returned else {}
    return value + theta["batch_stats"]["mean"].sum(), metrics, stats


@pytest.mark.parametrize(
    ("momentum", "returned"), [(0.75, "float32"), (0.0, "float32"), (0.9, "bfloat16"), (0.9, None)]
)
def test_running_statistics_are_moved_by_those_of_the_batch_and_not_descended(momentum, returned):
    descent = Descent(lambda v, fixed, t: v, optax.sgd(0.1), weight_decay=0.4, statistics_momentum=momentum)
    fit = fit_of(descent, jax.tree_util.Partial(partial(with_statistics, returned)), Descent.start)
    state = fit.init(NETWORK)
    chex.assert_trees_all_equal_structs(optax.sgd(0.1).init(NETWORK["params"]), state.optimizer)
    after, metrics = jax.jit(fit.step)(state, (X, Y), KEY)
    old, new = NETWORK["batch_stats"]["mean"], Y.mean(0).astype(returned or "float32").astype("float32")
    expected = momentum * old + (1 - momentum) * new if returned else old
    np.testing.assert_allclose(after.variables["batch_stats"]["mean"], expected, rtol=1e-6)
    assert after.variables["batch_stats"]["mean"].dtype == "float32"

    def objective(params):
        return loss({"params": params}, (X, Y), KEY)[0] + 0.2 * sum(jnp.square(p).sum() for p in params.values())

    moved = jax.tree.map(lambda p, slope: p - 0.1 * slope, NETWORK["params"], jax.grad(objective)(NETWORK["params"]))
    close(after.variables["params"], moved)
    np.testing.assert_allclose(metrics["loss"], loss(NETWORK, (X, Y), KEY)[0] + 3, rtol=1e-6)


def test_statistics_are_not_kept_of_variables_that_are_no_network():
    """Even if they look like one, all of the variables are descended."""
    descent = Descent(lambda v, fixed, t: v, optax.sgd(0.1))
    fit = fit_of(descent, jax.tree_util.Partial(partial(with_statistics, "float32")), Descent.start)
    after, _ = jax.jit(fit.step)(fit.init(NETWORK), (X, Y), KEY)
    # The loss adds their sum, so that their gradient is one.
    np.testing.assert_allclose(after.variables["batch_stats"]["mean"], [0.9, 1.9], rtol=1e-6)


def test_a_fit_is_a_pytree_whose_equals_share_a_program():
    optimizer, traces = optax.sgd(0.1), []

    def scaled(scale, theta, batch, key):
        return scale * loss(theta, batch, key)[0]

    def made(scale, optimizer=optimizer, **changes):
        descent = Descent(embed, optimizer, **changes)
        return fit_of(descent, jax.tree_util.Partial(scaled, jnp.float32(scale)), Descent.start)

    @jax.jit
    def step(fit, state):
        traces.append(1)
        return fit.step(state, (X, Y), KEY)[1]["loss"]

    state = made(1).init(START, FIXED)
    one, two = (step(made(scale), state) for scale in (1, 2))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
    assert len(traces) == 1
    for other in (made(1, optax.sgd(0.1)), made(1, weight_decay=0.1), made(1, penalty=pull)):
        step(other, state)
    assert len(traces) == 4
    assert isinstance(made(1), Fit)
    descent, kept = parts_of(made(3))
    assert descent == Descent(embed, optimizer)
    np.testing.assert_allclose(kept(embed(START, FIXED, None), (X, Y), KEY), 3 * one, rtol=1e-6)


def test_several_fits_at_once_under_vmap():
    fit = fit_of(Descent(embed, optax.adam(0.1), sample_t=uniform), jax.tree_util.Partial(loss), Descent.start)
    starts = jax.tree.map(lambda leaf: np.stack([leaf, -leaf, 2 * leaf]), START)
    keys = jax.random.split(KEY, 3)
    states = jax.vmap(fit.init, (0, None), FitState(0, 0, None))(starts, FIXED)
    many, metrics = jax.jit(jax.vmap(fit.step, (FitState(0, 0, None), None, 0)))(states, (X, Y), keys)
    step = jax.jit(fit.step)
    for i in range(3):
        start = jax.tree.map(lambda leaf, i=i: leaf[i], starts)
        alone, measured = step(fit.init(start, FIXED), (X, Y), keys[i])
        close(jax.tree.map(lambda leaf, i=i: leaf[i], many.variables), alone.variables)
        np.testing.assert_allclose(metrics["t"][i], measured["t"], rtol=1e-6)


def linear_loss(theta, batch, key):
    """Least squares, in plain JAX."""
    x, y = batch
    return jnp.square(x @ theta["w"] - y).mean()


def descended(optimizer, steps, **settings):
    """w after some steps, and the losses before them."""
    fit = fit_of(
        Descent(lambda w, fixed, t: w, optimizer, **settings), jax.tree_util.Partial(linear_loss), Descent.start
    )

    @jax.jit
    def scanned(state):
        def step(state, key):
            state, metrics = fit.step(state, (X, Y), key)
            return state, metrics["loss"]

        return jax.lax.scan(step, state, jax.random.split(KEY, steps))

    state, losses = scanned(fit.init({"w": jnp.zeros((4, 2))}))
    return state, losses


def test_line_searches_and_plateaus_are_given_the_value():
    """L-BFGS finds the least squares of numpy; a plateau lowers the rate, as in a loop of optax."""
    best = np.linalg.lstsq(np.float64(X), np.float64(Y), rcond=None)[0]
    state, _ = descended(optax.lbfgs(), 30)
    np.testing.assert_allclose(state.variables["w"], best, atol=1e-3)
    # With a term of weight decay, which the value must have too.
    ridge = np.linalg.solve(np.float64(X).T @ X * 2 / Y.size + 0.3 * np.eye(4), np.float64(X).T @ Y * 2 / Y.size)
    state, _ = descended(optax.lbfgs(), 30, weight_decay=0.3)
    np.testing.assert_allclose(state.variables["w"], ridge, atol=1e-3)
    plateau = optax.chain(optax.sgd(1e-9), optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=1e-2))
    state, _ = descended(plateau, 10)
    w, opt_state = jnp.zeros((4, 2)), plateau.init(jnp.zeros((4, 2)))
    for _ in range(10):
        value, slope = jax.value_and_grad(lambda w: linear_loss({"w": w}, (X, Y), None))(w)
        updates, opt_state = plateau.update(slope, opt_state, w, value=value)
        w = optax.apply_updates(w, updates)
    assert state.optimizer[-1].scale == opt_state[-1].scale < 1


def test_a_loss_in_bfloat16_is_reported_in_float32():
    def low(theta, batch, key):
        value = linear_loss(theta, batch, key)
        return value.astype(jnp.bfloat16), {"more": jnp.bfloat16(1.5), "loss": jnp.float32(-1)}

    fit = fit_of(Descent(lambda w, fixed, t: w, optax.sgd(0.1)), jax.tree_util.Partial(low), Descent.start)
    _, metrics = fit.step(fit.init({"w": jnp.ones((4, 2))}), (X, Y), KEY)
    assert {name: leaf.dtype.name for name, leaf in metrics.items()} == {"loss": "float32", "more": "float32"}
    # A metric of this name does not take the place of the loss.
    np.testing.assert_allclose(metrics["loss"], np.square(X.sum(1, keepdims=True) - Y).mean(), rtol=1e-2)


@pytest.mark.parametrize("stats", [None, FrozenDict({"mean": jnp.ones(2)})])
def test_statistics_of_any_structure(stats):
    """None keeps the running ones; those of another container are mixed in by their order."""

    def normed(theta, batch, key):
        return linear_loss(theta["params"], batch, key), {}, stats

    descent = Descent(lambda theta, fixed, t: theta, optax.sgd(0.1), statistics_momentum=0.5)
    fit = fit_of(descent, jax.tree_util.Partial(normed), Descent.start)
    theta = {"params": {"w": jnp.zeros((4, 2))}, "batch_stats": {"mean": jnp.zeros(2)}}
    state, _ = jax.jit(fit.step)(fit.init(theta), (X, Y), KEY)
    np.testing.assert_allclose(state.variables["batch_stats"]["mean"], 0.0 if stats is None else 0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer": optax.adam}, ("optax.adam(1e-3)",)),
        ({"optimizer": "lion"}, ("'lion'", "optax.lion(1e-3)")),
        ({"optimizer": SGD()}, ("SGD(", "optax.adam(1e-3)")),
        ({"optimizer": optax.MultiSteps(optax.sgd(0.1), 2)}, ("gradient_transformation()",)),
        ({"compute_dtype": "fp8"}, ("'fp8'", "bfloat16")),
        ({"weight_decay": -1.0}, ("weight_decay=-1.0",)),
        ({"statistics_momentum": 7.0}, ("statistics_momentum=7.0",)),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with says(InputError, *words):
        Descent(**{"embed": embed, "optimizer": optax.sgd(0.1), **settings})


STATE = {"count": np.int32(3), "mask": np.array([True, False])}


def counting(theta, batch, key):
    """`loss`, which counts its batches among the batch statistics and splits a key there."""
    value, metrics = loss(theta, batch, key)
    stats = theta["batch_stats"]
    return (
        value,
        metrics,
        {"count": stats["count"] + 1, "key": jax.random.split(stats["key"])[0], "mean": stats["mean"]},
    )


@pytest.mark.parametrize("momentum", [None, 0.9], ids=["variables", "network"])
def test_leaves_that_are_not_floating_point_are_not_trained(momentum):
    """They keep their values, the optimiser has no state for them, and all else is trained as without them."""
    optimizer = optax.adam(0.1)
    descent = Descent(embed, optimizer, weight_decay=0.1)
    if momentum is not None:
        descent = Descent(lambda v, fixed, t: v, optimizer, weight_decay=0.1, statistics_momentum=momentum)
    start = START if momentum is None else NETWORK["params"]
    state = {**start, **STATE, "key": jax.random.key(5)}
    fit = fit_of(descent, jax.tree_util.Partial(loss), Descent.start)
    found = []
    for variables in (start, state):
        whole = variables if momentum is None else {**NETWORK, "params": variables}
        after = jax.jit(fit.step)(fit.init(whole, FIXED), (X, Y), KEY)[0]
        found.append(after.variables if momentum is None else after.variables["params"])
        chex.assert_trees_all_equal(after.optimizer[0].mu.get("count"), None)
    for name in start:
        np.testing.assert_array_equal(found[1][name], found[0][name])
    for name in STATE:
        np.testing.assert_array_equal(found[1][name], STATE[name])
        assert found[1][name].dtype == STATE[name].dtype
    assert found[1]["key"] == jax.random.key(5)


def test_counters_and_keys_among_the_statistics_are_those_that_the_loss_returns():
    descent = Descent(lambda v, fixed, t: v, optax.sgd(0.1), statistics_momentum=0.9)
    fit = fit_of(descent, jax.tree_util.Partial(counting), Descent.start)
    stats = {"count": np.int32(3), "key": jax.random.key(5), "mean": np.float32([1, 2])}
    after = jax.jit(fit.step)(fit.init({**NETWORK, "batch_stats": stats}), (X, Y), KEY)[0].variables["batch_stats"]
    assert (after["count"], after["count"].dtype) == (4, np.int32)
    assert after["key"] == jax.random.split(stats["key"])[0]
    np.testing.assert_allclose(after["mean"], stats["mean"], rtol=1e-6)


def test_variables_are_real_floats():
    for wrong, words in (({"count": jnp.int32(0)}, ()), ({"a": jnp.ones(3, jnp.complex64)}, ("a", "complex"))):
        with says(InputError, "floating-point" if not words else "real", *words):
            Descent(embed, optax.sgd(0.1)).start(wrong)
