"""The loss over a whole split: against evaluation and formulas written out, in batches, differentiated, on a mesh."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from variables import alive, cross_entropy, mlp, normalized, spaced

from mcjax import InputError, PermutationSpec, Task, data, models, supervised, trees
from mcjax.hessian.full_batch import full_batch_loss
from mcjax.runtime.mesh import make_mesh


def product(loss, theta, vector):
    """The Hessian's product with a vector, forward over reverse."""

    def slope(leaves):
        return jax.grad(lambda moved: loss(trees.with_params(theta, moved)))(leaves)

    return jax.jvp(slope, (trees.params(theta),), (vector,))


@pytest.fixture(scope="module")
def line():
    """A regression of two numbers by a smooth model."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(53, 3)), rng.normal(size=(53, 2))
    model = models.create("mlp", 2, (3,), widths=(4, 3), activation="tanh")
    return supervised(model, data.regression(x, y, x[:11], y[:11]))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"split": "test", "batch_size": 7}, 50),
        ({"examples": 9, "batch_size": 4}, 9),
        ({"examples": 10, "batch_size": 4}, 10),
    ],
)
def test_every_example_counts_once_whatever_the_batches(tiny_data, tiny_model, tiny_task, options, count):
    theta = alive(tiny_model)
    loss = full_batch_loss(tiny_task, weight_decay=0.02, **options)
    split = options.get("split", "train")
    stored, labels = (spaced(getattr(tiny_data, f"{split}_{what}"), count) for what in ("images", "labels"))
    squares = sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(theta))
    expected = cross_entropy(mlp(theta, normalized(stored, tiny_data))[-1], labels).mean() + 0.01 * squares
    np.testing.assert_allclose(jax.jit(loss)(theta), expected, rtol=2e-6)


def test_batches_and_both_derivatives_are_those_of_all_examples_at_once_in_float64(line):
    x, y = line.train
    with jax.enable_x64(True):
        theta = jax.tree.map(np.float64, alive(line.model))
        vector = jax.tree.map(np.cos, trees.params(theta))

        def whole(theta):
            squares = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(theta))
            return jnp.square(line.model.apply(theta, jnp.asarray(x)) - y).mean() + 0.05 * squares

        expected = jax.jit(partial(product, whole))(theta, vector)
        for size, shapes in ((10, [(5, 9, 3), (8, 3)]), (53, [(1, 53, 3)]), (100, [(1, 53, 3)])):
            loss = full_batch_loss(line, batch_size=size, weight_decay=0.1)
            batches, rest = loss.args[1]
            assert [part[0].shape for part in (batches, rest) if part is not None] == shapes
            assert loss.args[1].size == 53
            got = jax.jit(product)(loss, theta, vector)
            chex.assert_trees_all_close(got, expected, atol=1e-12)
            assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {"float64"}


def test_the_loss_is_what_evaluation_measures():
    """In evaluation mode if the task says how, and the training loss with a fixed key if not."""
    x = np.float32(np.random.default_rng(0).normal(size=(13, 2)))

    def loss(theta, batch, key):
        return jnp.abs(batch @ theta).mean() + jax.random.uniform(key)

    theta, drawn = np.float32([0.5, -2]), float(jax.random.uniform(jax.random.key(0)))
    for metrics, expected in (
        (None, np.abs(x @ theta).mean() + drawn),
        (lambda theta, batch: {"other": theta.sum()}, np.abs(x @ theta).mean() + drawn),
        (lambda theta, batch: {"loss": jnp.square(batch @ theta).mean()}, np.square(x @ theta).mean()),
    ):
        task = Task(loss, x, metrics=metrics)
        got = jax.jit(full_batch_loss(task, batch_size=5))(theta)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_labels_of_every_place_in_a_sequence():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 5, (7, 4))
    model = models.create("lstm", 5, (3,), width=0.01)
    texts = data.Dataset(
        tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32),
        tokens[:2, :-1].astype(np.int32), tokens[:2, 1:].astype(np.int32), 5, np.zeros(1), np.ones(1),
    )  # fmt: skip
    theta = alive(model)
    logits = jax.jit(model.apply)(theta, texts.train_images)
    got = jax.jit(full_batch_loss(supervised(model, texts), batch_size=3))(theta)
    np.testing.assert_allclose(got, cross_entropy(logits, texts.train_labels).mean(), rtol=2e-6)


def test_convolutions_are_differentiated_twice_inside_the_loop_over_batches(tiny_data, tiny_model):
    def apply(theta, x):
        kernel = theta["params"]["kernel"]
        x = x.astype(kernel.dtype)
        layout = ("NHWC", "HWIO", "NHWC")
        hidden = jnp.tanh(jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=layout))
        return hidden.mean((1, 2)) * theta["batch_stats"]["scale"]

    def init(key):
        return {"params": {"kernel": jnp.zeros((3, 3, 1, 3))}, "batch_stats": {"scale": jnp.ones((1, 3))}}

    spec = PermutationSpec({"params/kernel": (None,) * 4, "batch_stats/scale": (None, None)})
    model = tiny_model._replace(init=init, apply=apply, spec=spec)
    with jax.enable_x64(True):
        kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 3))
        theta = {"params": {"kernel": kernel}, "batch_stats": {"scale": np.ones((1, 3))}}
        vector = {"kernel": np.sin(kernel)}
        measured = jax.jit(product)
        loss = full_batch_loss(supervised(model, tiny_data), examples=20, batch_size=8)
        moved = [trees.with_params(theta, {"kernel": kernel + h * vector["kernel"]}) for h in (1e-5, -1e-5)]
        (_, got), up, down = (measured(loss, each, vector) for each in (theta, *moved))
        expected = 0.5e5 * (np.asarray(up[0]["kernel"]) - np.asarray(down[0]["kernel"]))
        np.testing.assert_allclose(got["kernel"], expected, atol=1e-7 * np.abs(expected).max())


def test_losses_of_a_kind_are_compiled_once(line):
    traces = []

    @jax.jit
    def value(loss, theta):
        traces.append(1)
        return loss(theta)

    theta = alive(line.model)
    fewer = line.replace(train=tuple(part[:20] for part in line.train))
    values = [value(full_batch_loss(task, examples=11), theta) for task in (line, fewer)]
    assert values[0] != values[1]
    value(full_batch_loss(line, examples=11, split="test"), theta)
    assert len(traces) == 1
    value(full_batch_loss(line, examples=11, weight_decay=0.1), theta)
    assert len(traces) == 2


def test_one_batch_is_in_memory_at_a_time():
    x = np.zeros((4000, 2))
    model = models.create("mlp", 2, (2,), widths=(50, 50), activation="tanh")
    task, theta = supervised(model, data.regression(x, x, x, x)), alive(model)

    def memory(size):
        loss = full_batch_loss(task, batch_size=size)
        return jax.jit(product).lower(loss, theta, theta["params"]).compile().memory_analysis().temp_size_in_bytes

    few, many = memory(40), memory(4000)
    assert many > 4000 * 50 * 4 * 4
    assert few < many / 20


def test_a_mesh_of_one_device(line):
    theta, mesh = alive(line.model), make_mesh(devices=jax.devices()[:1])
    got = jax.jit(full_batch_loss(line, mesh=mesh))(theta)
    np.testing.assert_allclose(got, jax.jit(full_batch_loss(line))(theta), rtol=1e-6)


def test_bad_arguments_are_refused(tiny_task):
    for options, words in (
        ({"split": "valid"}, ("'valid'", "validation")),
        ({"split": "validation"}, ("bars", "validation")),
        ({"examples": 121}, ("examples=121", "120")),
        ({"batch_size": 0}, ("batch_size=0",)),
        ({"weight_decay": -1.0}, ("weight_decay=-1.0",)),
        ({"weight_decay": "much"}, ("weight_decay='much'",)),
        ({"mesh": 8}, ("got 8", "make_mesh()")),
        ({"task": tiny_task.model}, ("Model", "mcjax.supervised(model, data)")),
    ):
        with says(InputError, *words):
            full_batch_loss(**{"task": tiny_task, **options})


def test_a_task_may_be_the_argument_of_a_compiled_function(tiny_task, tiny_ends):
    compiled = jax.jit(lambda task, theta: full_batch_loss(task, batch_size=50)(theta))
    expected = full_batch_loss(tiny_task, batch_size=50)(tiny_ends[0])
    np.testing.assert_allclose(compiled(tiny_task, tiny_ends[0]), expected, rtol=1e-6)
