"""Losses of any kind: what they may return, how their gradient may come about, and what cannot be descended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says

from mcjax import InputError, Task
from mcjax.training.loss import check_loss, check_scalars, named_metrics, outcome
from mcjax.training.task import check_task

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)).astype(np.float32), RNG.normal(size=(12, 2)).astype(np.float32)
W = {"w": RNG.normal(size=(3, 2)).astype(np.float32)}


def squares(theta, batch, key):
    x, y = batch
    return jnp.square(x @ theta["w"] - y).mean()


def test_a_loss_returns_a_value_and_perhaps_metrics_and_statistics():
    value, metrics, stats = jnp.float32(3), {"error": jnp.float32(1)}, {"mean": jnp.zeros(2)}
    for returned, more, batch_stats in (
        (value, {}, {}),
        ((value,), {}, {}),
        ((value, metrics), metrics, {}),
        ((value, metrics, stats), metrics, stats),
    ):
        found = outcome(lambda *_, returned=returned: returned, W, (X, Y), jax.random.key(0))
        assert found.value is value
        assert found.metrics == {"loss": value, **more}
        assert found.batch_stats is batch_stats or found.batch_stats == {}


def test_a_loss_is_given_the_network_the_batch_and_the_key():
    key = jax.random.key(3)
    seen = []
    outcome(lambda *given: seen.append(given) or jnp.float32(0), W, (X, Y), key)
    assert seen[0][0] is W
    assert seen[0][1][0] is X
    assert seen[0][2] is key


def predicted(theta, batch):
    return batch[0] @ theta["w"]


def accuracy(theta, batch, key):
    return (predicted(theta, batch).argmax(-1) == batch[1].argmax(-1)).mean()


WRONG = {
    "a vector": (lambda t, b, k: jnp.square(predicted(t, b) - b[1]).mean(-1), ("float32 (", "losses.mean()")),
    "an integer": (lambda t, b, k: jnp.int32(predicted(t, b).sum()), ("zero everywhere",)),
    "a number": (lambda t, b, k: 3, ("zero everywhere",)),
    "an accuracy": (accuracy, ("zero everywhere", "differentiable", "accuracy")),
    "a compiled accuracy": (jax.jit(accuracy), ("zero everywhere",)),
    "no gradient": (lambda t, b, k: jax.lax.stop_gradient(squares(t, b, k)), ("zero everywhere", "stop_gradient")),
    "rounded": (lambda t, b, k: jnp.round(squares(t, b, k)), ("zero everywhere", "rounding")),
    "no theta": (lambda t, b, k: jnp.square(b[1]).mean(), ("zero everywhere",)),
    "vectors": (lambda t, b, k: (squares(t, b, k), {"each": b[1]}), ("metrics of the loss", "each", ", 2)")),
    "taken": (lambda t, b, k: (squares(t, b, k), {"t": jnp.float32(1)}), ("named t", "other names")),
    "an array": (lambda t, b, k: (squares(t, b, k), b[1]), ("for the metrics of the loss", "dict")),
    "four": (lambda t, b, k: (squares(t, b, k), {}, {}, {}), ("4 values", "(value, metrics, batch_stats)")),
    "none": (lambda t, b, k: (), ("0 values",)),
    "statistics": (lambda t, b, k: (squares(t, b, k), {}, {"m": b[1]}), ("batch statistics", ", 2)", "theta")),
}


@pytest.mark.parametrize("name", WRONG)
def test_losses_that_cannot_be_descended_are_named(name):
    loss, words = WRONG[name]
    with says(InputError, *words):
        check_loss(loss, W, (X[:2], Y[:2]))
    # A task with an init says so when it is made, one without as soon as there is a network.
    with says(InputError, *words):
        Task(loss, (X, Y), init=lambda key: {"w": jnp.zeros((3, 2))})
    bare = Task(loss, (X, Y))
    with says(InputError, *words):
        check_task(bare, W)


@jax.custom_vjp
def own(w):
    return jnp.sum(w)


own.defvjp(lambda w: (own(w), w), lambda w, slope: (slope * w,))


def looped(theta, batch, key):
    return jax.lax.scan(lambda total, pair: (total + squares(theta, pair, key), None), 0.0, batch)[0]


RIGHT = {
    "plain": squares,
    "looped": looped,
    "compiled": jax.jit(squares),
    "recomputed": jax.checkpoint(squares),
    "a gradient of one's own": lambda theta, batch, key: own(theta["w"]),
    "of one entry": lambda theta, batch, key: jnp.abs(theta["w"][0, 0]),
    "one of two": lambda t, b, k: jax.lax.cond(b[0].sum() > 0, squares, lambda *given: 0.1 * squares(*given), t, b, k),
    "drawn": lambda theta, batch, key: jnp.vdot(theta["w"], jax.random.normal(key, (3, 2))),
    "in half precision": lambda theta, batch, key: squares(theta, batch, key).astype(jnp.bfloat16),
    "a partial": jax.tree_util.Partial(lambda scale, *given: scale * squares(*given), jnp.float32(2)),
    "a step down": lambda theta, batch, key: jnp.where(theta["w"] > 0, theta["w"], 0).sum(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_gradient_may_come_by_any_way(name):
    check_loss(RIGHT[name], W, (X, Y))
    Task(RIGHT[name], (X, Y), init=lambda key: {"w": jnp.zeros((3, 2))})


def test_statistics_are_those_of_theta():
    theta = {"params": W, "batch_stats": {"mean": np.zeros(2, np.float32)}}

    def loss(stats, theta, batch, key):
        return squares(theta["params"], batch, key), {}, stats(batch[1])

    for stats in (lambda y: {"mean": y.mean(0)}, lambda y: {}):
        check_loss(jax.tree_util.Partial(loss, stats), theta, (X, Y))
    for stats, got in ((lambda y: {"mean": y.mean()}, "()"), (lambda y: {"var": y.mean(0)}, "var")):
        with says(InputError, "batch statistics", got, "mean", "(2,)"):
            check_loss(jax.tree_util.Partial(loss, stats), theta, (X, Y))


def test_parameters_are_floats_and_other_collections_are_not_looked_at():
    with says(InputError, "step", "floating-point"):
        check_loss(squares, {**W, "step": np.int32(3)}, (X, Y))

    def loss(theta, batch, key):
        return squares(theta["params"], batch, key)

    check_loss(loss, {"params": W, "step": np.int32(3)}, (X, Y))


def test_metrics_are_a_dict_of_scalars():
    metrics = {"a": jnp.float32(1)}
    assert named_metrics("metrics", metrics) is metrics
    check_scalars("metrics", {"a": jnp.float32(1), "b": 2.0})
    for wrong, words in (
        ({"a": jnp.ones(3)}, ("some metrics", "a", "(3,)")),
        ({"a": {"b": jnp.float32(1)}}, ("some metrics", "b")),
        ({"a": (jnp.float32(1),)}, ("some metrics", "a")),
    ):
        with says(InputError, *words):
            check_scalars("some metrics", wrong)
