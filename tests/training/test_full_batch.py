"""The loss over a whole split: against evaluation and formulas written out, in batches, differentiated, on a mesh."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from variables import alive, cross_entropy, mlp, normalized

from mcjax import InputError, data, models, trees
from mcjax.runtime.convolution import convolve
from mcjax.runtime.mesh import make_mesh
from mcjax.training.full_batch import full_batch_loss
from mcjax.training.objective import label_losses, loss_and_accuracy


def product(loss, theta, vector):
    """The Hessian's product with a vector, forward over reverse."""

    def slope(leaves):
        return jax.grad(lambda moved: loss(trees.with_params(theta, moved)))(leaves)

    return jax.jvp(slope, (trees.params(theta),), (vector,))


@pytest.fixture(scope="module")
def line():
    """A regression of two numbers, whose inputs are exact in float64, and a smooth model of it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(53, 3)), rng.normal(size=(53, 2))
    return data.regression(x, y, x[:11], y[:11]), models.create("mlp", 2, (3,), widths=(4, 3), activation="tanh")


@pytest.mark.parametrize(
    ("options", "images"),
    [({"split": "test", "batch_size": 7}, 50), ({"images": 9, "batch_size": 4}, 9)],
)
def test_every_image_counts_once_whatever_the_batches(tiny_data, tiny_model, options, images):
    theta = alive(tiny_model)
    loss = full_batch_loss(tiny_model, tiny_data, weight_decay=0.02, **options)
    split = options.get("split", "train")
    stored, labels = (getattr(tiny_data, f"{split}_{what}")[:images] for what in ("images", "labels"))
    squares = sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(theta))
    expected = cross_entropy(mlp(theta, normalized(stored, tiny_data))[-1], labels).mean() + 0.01 * squares
    np.testing.assert_allclose(jax.jit(loss)(theta), expected, rtol=2e-6)


def test_batches_and_both_derivatives_are_those_of_all_images_at_once_in_float64(line):
    points, model = line
    with jax.enable_x64(True):
        theta = jax.tree.map(np.float64, alive(model))
        vector = jax.tree.map(np.cos, trees.params(theta))

        def whole(theta):
            outputs = model.apply(theta, jnp.asarray(points.train_images))
            squares = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(theta))
            return jnp.square(outputs - points.train_labels).mean() + 0.05 * squares

        expected = jax.jit(partial(product, whole))(theta, vector)
        for size in (10, 53):
            loss = full_batch_loss(model, points, batch_size=size, weight_decay=0.1)
            assert loss.args[0].chunks.images.shape == ((6, 9, 3) if size == 10 else (1, 53, 3))
            got = jax.jit(product)(loss, theta, vector)
            chex.assert_trees_all_close(got, expected, atol=1e-12)
            assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {"float64"}


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
    got = jax.jit(full_batch_loss(model, texts, batch_size=3))(theta)
    np.testing.assert_allclose(got, cross_entropy(logits, texts.train_labels).mean(), rtol=2e-6)


def test_convolutions_are_differentiated_twice_inside_the_loop_over_batches(tiny_data, tiny_model):
    def apply(theta, x):
        kernel = theta["params"]["kernel"]
        hidden = jnp.tanh(convolve(x.astype(kernel.dtype), kernel, (2, 2), ((1, 1), (1, 1))))
        return hidden.mean((1, 2)) * theta["batch_stats"]["scale"]

    def init(key):
        return {"params": {"kernel": jnp.zeros((3, 3, 1, 3))}, "batch_stats": {"scale": jnp.ones((1, 3))}}

    model = tiny_model._replace(init=init, apply=apply, convolutions="canonical")
    with jax.enable_x64(True):
        kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 3))
        theta = {"params": {"kernel": kernel}, "batch_stats": {"scale": np.ones((1, 3))}}
        vector = {"kernel": np.sin(kernel)}
        measured = jax.jit(product)
        loss = full_batch_loss(model, tiny_data, images=20, batch_size=8)
        moved = [trees.with_params(theta, {"kernel": kernel + h * vector["kernel"]}) for h in (1e-5, -1e-5)]
        (_, got), up, down = (measured(loss, each, vector) for each in (theta, *moved))
        expected = 0.5e5 * (np.asarray(up[0]["kernel"]) - np.asarray(down[0]["kernel"]))
        np.testing.assert_allclose(got["kernel"], expected, atol=1e-7 * np.abs(expected).max())


def test_losses_of_a_kind_are_compiled_once(line):
    points, model = line
    traces = []

    @jax.jit
    def value(loss, theta):
        traces.append(1)
        return loss(theta)

    theta = alive(model)
    values = [value(full_batch_loss(model, data, images=11), theta) for data in (points, points.take(20))]
    assert values[0] == values[1]
    other = value(full_batch_loss(model, points, images=11, split="test"), theta)
    np.testing.assert_allclose(other, values[0], rtol=1e-6)
    assert len(traces) == 1
    value(full_batch_loss(model, points, images=11, weight_decay=0.1), theta)
    assert len(traces) == 2


def test_one_batch_is_in_memory_at_a_time():
    x = np.zeros((4000, 2))
    points, model = data.regression(x, x, x, x), models.create("mlp", 2, (2,), widths=(50, 50), activation="tanh")
    theta = alive(model)

    def memory(size):
        loss = full_batch_loss(model, points, batch_size=size)
        return jax.jit(product).lower(loss, theta, theta["params"]).compile().memory_analysis().temp_size_in_bytes

    few, many = memory(40), memory(4000)
    assert many > 4000 * 50 * 4 * 4
    assert few < many / 20


def test_a_mesh_of_one_device(line):
    points, model = line
    theta, mesh = alive(model), make_mesh(devices=jax.devices()[:1])
    got = jax.jit(full_batch_loss(model, points, mesh=mesh))(theta)
    np.testing.assert_allclose(got, jax.jit(full_batch_loss(model, points))(theta), rtol=1e-6)


def test_bad_arguments_are_refused(tiny_data, tiny_model, line):
    for options, words in (
        ({"split": "valid"}, ("'valid'", "validation")),
        ({"split": "validation"}, ("bars", "validation")),
        ({"images": 121}, ("images=121", "120")),
        ({"batch_size": 0}, ("batch_size=0",)),
        ({"weight_decay": -1.0}, ("weight_decay=-1.0",)),
        ({"weight_decay": "much"}, ("weight_decay='much'",)),
        ({"mesh": 8}, ("got 8", "make_mesh()")),
        ({"data": line[0]}, ("(8, 8, 1)", "(3,)")),
    ):
        with says(InputError, *words):
            full_batch_loss(**{"model": tiny_model, "data": tiny_data, **options})


def test_losses_keep_double_precision_and_are_at_least_float32():
    rng = np.random.default_rng(0)
    logits, labels, targets = rng.normal(size=(6, 5)), rng.integers(0, 5, 6), rng.normal(size=(6, 5))
    with jax.enable_x64(True):
        got = label_losses(jnp.asarray(logits), jnp.asarray(labels))
        np.testing.assert_allclose(got, cross_entropy(logits, labels), rtol=1e-14)
        np.testing.assert_allclose(label_losses(jnp.asarray(logits), jnp.asarray(targets)), np.square(logits - targets))
        assert jax.eval_shape(loss_and_accuracy, logits, labels).loss.dtype == np.float64
    assert jax.eval_shape(label_losses, jax.ShapeDtypeStruct((6, 5), jnp.bfloat16), labels).dtype == np.float32
