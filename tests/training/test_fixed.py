"""The objective on fixed images: a plain loop over batches, and the same images at every call."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from variables import alive, cross_entropy, mlp, normalized

from mcjax import Augmentation, models
from mcjax.training.fixed import fixed_images, objective_on

PLAIN = Augmentation.none()
# Some images are mirrored, which can be told from the originals.
FLIPS = Augmentation(flip=True, crop=0, rotate=0.0)


def fixed(data, images, batch_size, augmentation=PLAIN):
    return jax.tree.map(np.asarray, jax.jit(lambda: fixed_images(data, augmentation, images, batch_size))())


def test_the_objective_is_the_mean_over_batches(tiny_model, tiny_data):
    theta = alive(tiny_model)
    value = jax.jit(lambda theta, images: objective_on(tiny_model, theta, images, 0.03))
    squares = sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(theta))
    for augmentation in (PLAIN, FLIPS):
        images = fixed(tiny_data, 50, 20, augmentation)
        got = value(theta, images)
        assert (got.dtype, got.shape) == (np.float32, ())
        losses = [
            cross_entropy(mlp(theta, normalized(batch, tiny_data))[-1], labels).mean()
            for batch, labels in zip(images.images, images.labels, strict=True)
        ]
        assert len(losses) == 3
        np.testing.assert_allclose(got, np.mean(losses) + 0.015 * squares, rtol=1e-5)


def test_statistics_are_those_of_each_batch(key, tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    theta = alive(model)
    one, three = (fixed(tiny_colour_data, 48, size) for size in (48, 16))
    value, train = jax.jit(lambda theta, images: objective_on(model, theta, images, 0.0)), jax.jit(model.apply_train)
    losses = [
        cross_entropy(train(theta, normalized(images, tiny_colour_data), key)[0], labels).mean()
        for images, labels in zip(three.images, three.labels, strict=True)
    ]
    np.testing.assert_allclose(value(theta, three), np.mean(losses), rtol=1e-5)
    assert abs(value(theta, one) - value(theta, three)) > 1e-4
    # What the running statistics are does not matter.
    spoilt = {**theta, "batch_stats": jax.tree.map(lambda leaf: leaf + 100, theta["batch_stats"])}
    assert value(theta, one) == value(spoilt, one)


@pytest.mark.parametrize(
    ("images", "batch_size", "shape"),
    [(60, 20, (3, 20)), (50, 20, (3, 16)), (7, 20, (1, 7)), (10_000, 60, (2, 60)), (10_000, 1000, (1, 120))],
)
def test_the_first_images_in_equal_batches(tiny_data, images, batch_size, shape):
    got = fixed_images(tiny_data, PLAIN, images, batch_size)
    taken = shape[0] * shape[1]
    assert got.labels.shape == shape
    assert got.images.dtype == np.uint8
    np.testing.assert_array_equal(got.images, tiny_data.train_images[:taken].reshape(*shape, 8, 8, 1))
    np.testing.assert_array_equal(got.labels, tiny_data.train_labels[:taken].reshape(shape))
    np.testing.assert_array_equal(got.mean, tiny_data.mean)
    np.testing.assert_array_equal(got.std, tiny_data.std)


def test_images_are_augmented_once_and_for_all(tiny_data):
    one, again = (fixed(tiny_data, 60, 20, FLIPS).images for _ in range(2))
    np.testing.assert_array_equal(one, again)
    drawn, given = one.reshape(60, 8, 8, 1), tiny_data.train_images[:60]
    same = (drawn == given).all((1, 2, 3))
    mirrored = (drawn == given[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 15 < mirrored.sum() < 45


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Dense(20)(x.reshape(len(x), -1)))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


def test_random_parts_of_a_model_are_the_same_at_every_call(tiny_data):
    model = models.from_flax(Dropped(), np.zeros((1, 8, 8, 1), np.float32))
    theta, images = alive(model), fixed(tiny_data, 60, 20)
    value, train = jax.jit(lambda theta, images: objective_on(model, theta, images, 0.0)), jax.jit(model.apply_train)
    assert value(theta, images) == value(theta, images)
    # The masks of the batches differ, and each is that of its number.
    same = images._replace(images=images.images[[0, 0, 0]], labels=images.labels[[0, 0, 0]])
    x = normalized(images.images[0], tiny_data)
    losses = [cross_entropy(train(theta, x, jax.random.key(number))[0], images.labels[0]).mean() for number in range(3)]
    assert np.std(losses) > 1e-3
    np.testing.assert_allclose(value(theta, same), np.mean(losses), rtol=1e-5)
