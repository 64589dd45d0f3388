"""Means over all examples, equal batches, and the objective on fixed examples: a plain loop over batches."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variables import alive, cross_entropy, mlp, normalized, spaced

from mcjax import Augmentation, Task, models, supervised
from mcjax.training.batches import (
    at_least_float32,
    equal_batches,
    evenly_spaced,
    fixed_examples,
    mean_over,
    split_batches,
    training_objective,
)

# Some images are mirrored, which can be told from the originals.
FLIPS = Augmentation(flip=True, crop=0, rotate=0.0)
X = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)


def fixed(task, count, batch_size):
    """The examples on the host, and the size of their batches."""
    found, size = fixed_examples(task, count, batch_size)
    return jax.tree.map(np.asarray, found), size


@pytest.mark.parametrize(("n", "count"), [(50_000, 10_000), (50_000, 1000), (1437, 1000), (1437, 287), (50, 49)])
def test_spaced_examples_are_of_all_parts_of_an_order_and_of_all_its_phases(n, count):
    """Whether classes are sorted or come in turn, about as many of each are taken."""
    at = evenly_spaced(np.arange(n), count)
    assert len(at) == count
    assert (np.diff(at) > 0).all()
    for classes in (2, 5, 10, 100):
        if count >= 20 * classes:
            for labels in (at * classes // n, at % classes):
                np.testing.assert_allclose(np.bincount(labels, minlength=classes), count / classes, rtol=0.25)


@pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 100])
def test_a_mean_weighs_every_example_equally(batch_size):
    split = {"x": X, "y": np.arange(23)}

    def means(split):
        return mean_over(lambda batch, _: {"x": batch["x"].mean(0), "y": batch["y"].mean()}, split, batch_size)

    found = jax.jit(means)(split)
    np.testing.assert_allclose(found["x"], np.float64(X).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["y"], 11.0, rtol=1e-6)


def test_a_mean_may_depend_on_the_number_of_the_batch():
    """Batches of 10, 10 and 3, numbered from 0."""
    found = jax.jit(lambda x: mean_over(lambda batch, number: jnp.float32(number), x, 10))(X)
    np.testing.assert_allclose(found, (10 * 0 + 10 * 1 + 3 * 2) / 23, rtol=1e-6)


def test_a_mean_is_differentiated_in_every_mode_and_mapped():
    def mean(scale, x):
        return mean_over(lambda batch, _: jnp.square(scale * batch).mean(), x, 5)

    expected = np.square(np.float64(X)).mean()
    for slope in (jax.grad(mean), jax.jacfwd(mean), jax.jit(jax.grad(mean))):
        np.testing.assert_allclose(slope(3.0, X), 6 * expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jacfwd(jax.grad(mean))(3.0, X), 2 * expected, rtol=1e-5)
    many = jax.vmap(mean, (0, None))(jnp.float32([1, 2]), X)
    np.testing.assert_allclose(many, [expected, 4 * expected], rtol=1e-5)


def test_values_are_at_least_float32():
    for dtype, expected in (("bfloat16", "float32"), ("float32", "float32"), ("int32", "float32")):
        assert at_least_float32(jnp.zeros(2, dtype)).dtype == expected
        found = jax.eval_shape(lambda x: mean_over(lambda batch, _: batch[0], x, 5), jnp.zeros((7, 2), dtype))
        assert found.dtype == expected
    with jax.enable_x64(True):
        assert at_least_float32(jnp.zeros(2, "float64")).dtype == "float64"


@pytest.mark.parametrize(("batch_size", "shape", "rest"), [(10, (2, 10), 3), (23, (1, 23), 0), (99, (1, 23), 0)])
def test_whole_batches_and_what_is_left(batch_size, shape, rest):
    batches, left = split_batches({"x": X}, batch_size)
    np.testing.assert_array_equal(batches["x"], X[: shape[0] * shape[1]].reshape(*shape, 3))
    if rest:
        np.testing.assert_array_equal(left["x"], X[-rest:])
    else:
        assert left is None


@pytest.mark.parametrize(
    ("count", "batch_size", "shape"),
    [(60, 20, (3, 20)), (50, 20, (3, 16)), (7, 20, (1, 7)), (10_000, 60, (2, 60)), (10_000, 1000, (1, 120))],
)
def test_examples_at_equal_distances_in_equal_batches(tiny_task, tiny_data, count, batch_size, shape):
    (images, labels), size = fixed(tiny_task, count, batch_size)
    taken = shape[0] * shape[1]
    assert (size, len(labels)) == (shape[1], taken)
    assert images.dtype == np.uint8
    some = tuple(spaced(part, min(count, 120)) for part in (tiny_data.train_images, tiny_data.train_labels))
    np.testing.assert_array_equal(images, some[0][:taken])
    np.testing.assert_array_equal(labels, some[1][:taken])
    batches, size = equal_batches(some, batch_size)
    assert size == shape[1]
    np.testing.assert_array_equal(batches[0], images.reshape(*shape, 8, 8, 1))
    np.testing.assert_array_equal(batches[1], labels.reshape(shape))


def test_examples_are_augmented_once_and_for_all(tiny_model, tiny_data):
    task = supervised(tiny_model, tiny_data, augmentation=FLIPS)
    one, again = (fixed(task, 60, 20)[0][0] for _ in range(2))
    np.testing.assert_array_equal(one, again)
    given = spaced(tiny_data.train_images, 60)
    same = (one == given).all((1, 2, 3))
    mirrored = (one == given[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 15 < mirrored.sum() < 45


def objective(task, theta, fixed, size, weight_decay):
    return jax.jit(training_objective, static_argnums=(3, 4))(task.loss, theta, fixed, size, weight_decay)


def in_batches(fixed, size):
    return zip(*(part.reshape(-1, size, *part.shape[1:]) for part in fixed), strict=True)


def test_the_objective_is_the_mean_over_batches_and_half_the_squared_norm(tiny_model, tiny_data):
    theta = alive(tiny_model)
    squares = sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(theta))
    for augmentation in (Augmentation.none(), FLIPS):
        task = supervised(tiny_model, tiny_data, augmentation=augmentation)
        found, size = fixed(task, 50, 20)
        got = objective(task, theta, found, size, 0.03)
        assert (got.dtype, got.shape) == (np.float32, ())
        losses = [
            cross_entropy(mlp(theta, normalized(images, tiny_data))[-1], labels).mean()
            for images, labels in in_batches(found, size)
        ]
        assert len(losses) == 3
        np.testing.assert_allclose(got, np.mean(losses) + 0.015 * squares, rtol=1e-5)


def test_statistics_are_those_of_each_batch(key, tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    task, theta = supervised(model, tiny_colour_data, augmentation=Augmentation.none()), alive(model)
    (one, all_of_them), (three, third) = (fixed(task, 48, size) for size in (48, 16))
    assert (all_of_them, third) == (48, 16)
    train = jax.jit(model.apply_train)
    losses = [
        cross_entropy(train(theta, normalized(images, tiny_colour_data), key)[0], labels).mean()
        for images, labels in in_batches(three, 16)
    ]
    value = objective(task, theta, three, 16, 0.0)
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
    whole = objective(task, theta, one, 48, 0.0)
    assert abs(whole - value) > 1e-4
    # What the running statistics are does not matter, and they are not in the norm.
    spoilt = {**theta, "batch_stats": jax.tree.map(lambda leaf: leaf + 100, theta["batch_stats"])}
    assert objective(task, spoilt, one, 48, 0.0) == whole
    squares = sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(theta["params"]))
    np.testing.assert_allclose(objective(task, spoilt, one, 48, 0.1), whole + 0.05 * squares, rtol=1e-5)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Dense(20)(x.reshape(len(x), -1)))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


def test_random_parts_of_a_model_are_the_same_at_every_call(tiny_data):
    model = models.from_flax(Dropped(), np.zeros((1, 8, 8, 1), np.float32))
    task, theta, train = supervised(model, tiny_data), alive(model), jax.jit(model.apply_train)
    (images, labels), size = fixed(task, 60, 20)
    assert objective(task, theta, (images, labels), size, 0.0) == objective(task, theta, (images, labels), size, 0.0)
    # The masks of the batches differ, and each is that of its number.
    same = tuple(np.concatenate([part[:20]] * 3) for part in (images, labels))
    x = normalized(images[:20], tiny_data)
    losses = [cross_entropy(train(theta, x, jax.random.key(number))[0], labels[:20]).mean() for number in range(3)]
    assert np.std(losses) > 1e-3
    np.testing.assert_allclose(objective(task, theta, same, 20, 0.0), np.mean(losses), rtol=1e-5)


def test_the_objective_of_a_loss_of_ones_own():
    def loss(theta, batch, key):
        return jnp.abs(batch @ theta["w"]).mean(), {"unused": jnp.float32(0)}

    theta = {"w": np.float32([1, -2, 0.5])}
    task = Task(loss, X, init=lambda key: {"w": jnp.zeros(3)})
    expected = np.abs(np.float64(spaced(X, 20)) @ theta["w"]).mean() + 0.05 * np.square(theta["w"]).sum()
    found, size = fixed(task, 20, 10)
    np.testing.assert_allclose(objective(task, theta, found, size, 0.1), expected, rtol=1e-5)
