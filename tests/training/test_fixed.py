"""The objective on fixed images: a plain loop over batches, and the same images at every call."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import Augmentation, models
from mcjax.training.fixed import fixed_images, objective_on

PLAIN = Augmentation.none()
# Some images are mirrored, which can be told from the originals.
FLIPS = Augmentation(flip=True, crop=0, rotate=0.0)


def by_loop(model, theta, fixed, weight_decay):
    """Every batch in turn, in numpy but for the network itself."""
    mean, std = np.asarray(fixed.mean), np.asarray(fixed.std)
    losses = []
    for images, labels in zip(np.asarray(fixed.images), np.asarray(fixed.labels), strict=True):
        x = ((images / 255 - mean) / std).astype(np.float32)
        logits = np.asarray(jax.jit(model.apply_train)(theta, x, jax.random.key(0))[0], np.float64)
        losses.append((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]).mean())
    squares = sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(theta["params"]))
    return np.mean(losses) + weight_decay / 2 * squares


@pytest.fixture(params=["mlp", "tinysix"])
def model_and_data(request, tiny_data, tiny_colour_data, tiny_model):
    if request.param == "mlp":
        return tiny_model, tiny_data
    return models.create("tinysix", 3, (8, 8, 3), width=0.25), tiny_colour_data


@pytest.mark.parametrize("augmentation", [PLAIN, FLIPS], ids=["plain", "flips"])
def test_the_objective_is_the_mean_over_batches(model_and_data, key, augmentation):
    model, images = model_and_data
    theta = jax.jit(model.init)(key)
    fixed = fixed_images(images, augmentation, 50, 20)
    value = jax.jit(lambda theta: objective_on(model, theta, fixed, 0.03))(theta)
    assert value.dtype == jnp.float32
    assert value.shape == ()
    np.testing.assert_allclose(value, by_loop(model, theta, fixed, 0.03), rtol=1e-5)


def test_statistics_are_those_of_each_batch(key, tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    theta = jax.jit(model.init)(key)
    one, other = (fixed_images(tiny_colour_data, PLAIN, 60, size) for size in (60, 12))
    value = jax.jit(lambda theta, fixed: objective_on(model, theta, fixed, 0.0))
    assert abs(value(theta, one) - value(theta, other)) > 1e-4
    # What the running statistics are does not matter.
    spoilt = {**theta, "batch_stats": jax.tree.map(lambda leaf: leaf + 100, theta["batch_stats"])}
    assert value(theta, one) == value(spoilt, one)


@pytest.mark.parametrize(
    ("images", "batch_size", "shape"),
    [(60, 20, (3, 20)), (50, 20, (3, 16)), (7, 20, (1, 7)), (10_000, 60, (2, 60)), (10_000, 1000, (1, 120))],
)
def test_the_first_images_in_equal_batches(tiny_data, images, batch_size, shape):
    fixed = fixed_images(tiny_data, PLAIN, images, batch_size)
    taken = shape[0] * shape[1]
    assert fixed.labels.shape == shape
    assert fixed.images.dtype == np.uint8
    np.testing.assert_array_equal(fixed.images, tiny_data.train_images[:taken].reshape(*shape, 8, 8, 1))
    np.testing.assert_array_equal(fixed.labels, tiny_data.train_labels[:taken].reshape(shape))
    np.testing.assert_array_equal(fixed.mean, tiny_data.mean)
    np.testing.assert_array_equal(fixed.std, tiny_data.std)


def test_images_are_augmented_once_and_for_all(tiny_data):
    one, again = (fixed_images(tiny_data, FLIPS, 60, 20).images for _ in range(2))
    np.testing.assert_array_equal(one, again)
    drawn, given = np.asarray(one).reshape(60, 8, 8, 1), tiny_data.train_images[:60]
    same = (drawn == given).all((1, 2, 3))
    mirrored = (drawn == given[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 15 < mirrored.sum() < 45


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Dense(20)(x.reshape(len(x), -1)))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


def test_what_is_random_in_a_model_is_the_same_at_every_call(key, tiny_data):
    model = models.from_flax(Dropped(), jnp.zeros((1, 8, 8, 1)))
    theta = model.init(key)
    fixed = fixed_images(tiny_data, PLAIN, 60, 20)
    value = jax.jit(lambda theta: objective_on(model, theta, fixed, 0.0))
    assert value(theta) == value(theta)
    # The masks of the batches differ, and each is that of its number.
    same = fixed._replace(images=fixed.images[jnp.zeros(3, int)], labels=fixed.labels[jnp.zeros(3, int)])
    x, labels, _ = same.batch(jnp.int32(0))
    losses = []
    for number in range(3):
        logits = np.asarray(model.apply_train(theta, x, jax.random.key(number))[0], np.float64)
        losses.append((np.log(np.exp(logits).sum(1)) - logits[np.arange(20), labels]).mean())
    assert np.std(losses) > 1e-3
    np.testing.assert_allclose(objective_on(model, theta, same, 0.0), np.mean(losses), rtol=1e-5)
