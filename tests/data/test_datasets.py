"""Data sets from arrays, parts of them, and arrays that are refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from images import arrays
from refusals import says

from mcjax import Augmentation, InputError
from mcjax.data import from_arrays, normalize
from mcjax.data.datasets import check_dataset


def test_from_arrays_keeps_what_it_is_given():
    given = arrays()
    data = from_arrays(**given)
    for name, array in given.items():
        np.testing.assert_array_equal(getattr(data, name), array)
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert data.num_classes == 4
    assert data.image_shape == (4, 5, 3)
    assert from_arrays(**given, num_classes=9).num_classes == 9


def test_mean_and_std_are_of_the_training_images():
    data = from_arrays(**arrays())
    pixels = data.train_images.reshape(-1, 3) / 255.0
    np.testing.assert_allclose(data.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std(0), rtol=1e-6)
    black = from_arrays(**arrays(train_images=np.zeros((6, 4, 5, 3), np.uint8)))
    np.testing.assert_array_equal(black.mean, 0)
    np.testing.assert_array_equal(black.std, 1)


def test_a_constant_channel_keeps_its_scale():
    given = arrays()
    given["train_images"][..., 1] = 128
    given["test_images"][..., 1] = 130
    data = from_arrays(**given)
    seen = normalize(data.test_images, data.mean, data.std)[..., 1]
    np.testing.assert_allclose(seen, 2 / 255, rtol=1e-5)
    # One pixel that differs is a deviation like any other.
    given["train_images"][0, 0, 0, 1] = 129
    std = from_arrays(**given).std[1]
    np.testing.assert_allclose(std, given["train_images"][..., 1].std() / 255, rtol=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (0.5, 0.5), ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])])
def test_pixels_are_seen_by_the_mean_and_std_that_are_given(mean, std):
    given = arrays()
    data = from_arrays(**given, mean=mean, std=std)
    expected = (given["test_images"] / 255 - np.asarray(mean)) / np.asarray(std)
    np.testing.assert_allclose(normalize(data.test_images, data.mean, data.std), expected, rtol=1e-5, atol=1e-6)
    assert str(mean if isinstance(mean, int) else np.asarray(mean)) in repr(data)


def test_floats_are_seen_as_they_are_unless_a_mean_is_given():
    rng = np.random.default_rng(1)
    given = arrays(train_images=rng.normal(size=(6, 7)), test_images=rng.normal(size=(3, 7)))
    data = from_arrays(**given)
    assert data.train_images.dtype == np.float32
    np.testing.assert_allclose(normalize(data.train_images, data.mean, data.std), given["train_images"], rtol=1e-6)
    scaled = from_arrays(**given, mean=2.0, std=4.0)
    np.testing.assert_allclose(scaled.test_images, (given["test_images"] - 2) / 4, rtol=1e-5)


def test_a_dataset_of_ones_own_is_checked(tiny_data):
    floats = tiny_data.train_images.astype(np.float32)
    check_dataset(replace(tiny_data, test_labels=tiny_data.test_labels.astype(np.int64)))
    bad = np.where(np.arange(floats.size).reshape(floats.shape) == 77, np.nan, floats)
    for changes, words in (
        ({"train_images": floats}, ("test_images", "uint8", "float32")),
        ({"train_images": bad, "test_images": floats}, ("train_images", "not finite")),
        ({"train_images": jnp.asarray(bad), "test_images": floats}, ("train_images", "not finite")),
        ({"test_images": tiny_data.test_images[:, :4]}, ("test_images", "(4, 8, 1)", "(8, 8, 1)")),
        ({"train_labels": [0] * 120}, ("train_labels", "list", "array")),
        ({"train_labels": np.ones(120, bool)}, ("train_labels", "bool", "integers")),
        ({"test_labels": np.ones(50, np.float32)}, ("test_labels", "float32", "int32", "train_labels")),
        ({"validation_labels": np.ones((50, 2), int)}, ("validation_labels", "(2,)", "()")),
        ({"std": np.zeros(1)}, ("std=[0.]", "positive")),
        ({"mean": np.nan}, ("mean=nan", "finite")),
    ):
        with says(InputError, tiny_data.name, *words):
            check_dataset(replace(tiny_data, **changes))


def test_grey_images_get_a_channel():
    data = from_arrays(**arrays(train_images=np.zeros((6, 4, 5), np.uint8), test_images=np.zeros((3, 4, 5), np.uint8)))
    assert data.image_shape == (4, 5, 1)
    assert data.test_images.shape == (3, 4, 5, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": np.zeros((6, 4, 5, 3), bool)}, ("train_images", "bool", "uint8")),
        ({"train_images": (image for image in arrays()["train_images"])}, ("train_images", "object", "array")),
        ({"train_images": np.zeros((6, 4, 5, 3), np.float32)}, ("test_images", "uint8", "float32")),
        ({"train_images": np.full((6, 4), np.nan), "test_images": np.zeros((3, 4))}, ("train_images", "not finite")),
        ({"train_images": np.zeros(6)}, ("train", "(6,)")),
        ({"std": 0}, ("std=0", "positive")),
        ({"test_images": np.zeros((3, 4, 5, 3), np.int64)}, ("test_images", "int64", "uint8")),
        ({"train_images": np.zeros((6, 60), np.uint8)}, ("train", "(6, 60)", "(6,)", "(n, h")),
        ({"train_labels": np.arange(5) % 4}, ("train", "(6, 4, 5, 3)", "(5,)")),
        ({"test_labels": np.eye(3, dtype=int)}, ("test", "(3, 3)")),
        ({"test_images": np.zeros((0, 4, 5, 3), np.uint8), "test_labels": np.zeros(0, int)}, ("test", "(0, 4, 5, 3)")),
        ({"train_labels": np.zeros(6)}, ("train_labels", "float64", "integers")),
        ({"test_images": np.zeros((3, 5, 5, 3), np.uint8)}, ("(4, 5, 3)", "(5, 5, 3)")),
        ({"train_labels": np.arange(6), "num_classes": 4}, ("train_labels", "0 to 5", "0 to 3")),
        ({"test_labels": np.array([0, 1, 4]), "num_classes": 4}, ("test_labels", "0 to 4", "0 to 3")),
        ({"train_labels": np.arange(6) - 1}, ("train_labels", "-1 to 4")),
    ],
)
def test_arrays_that_cannot_be_used(changes, words):
    with says(InputError, "mine: ", *words):
        from_arrays(**arrays(**changes), name="mine")


def test_take():
    data = from_arrays(**arrays())
    few = data.take(train=4, test=2)
    np.testing.assert_array_equal(few.train_images, data.train_images[:4])
    np.testing.assert_array_equal(few.train_labels, data.train_labels[:4])
    np.testing.assert_array_equal(few.test_images, data.test_images[:2])
    np.testing.assert_array_equal(few.test_labels, data.test_labels[:2])
    np.testing.assert_array_equal(few.mean, data.mean)
    assert few.num_classes == 4
    assert len(data.take(test=1).train_labels) == 6


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        ("take", {"train": 7}, ("6 train images", "got 7")),
        ("take", {"test": 0}, ("3 test images", "got 0")),
        ("take", {"test": -1}, ("3 test images", "got -1")),
        ("hold_out", {"count": 0}, ("6 train images", "got 0", "1 to 5")),
        ("hold_out", {"count": 6}, ("6 train images", "got 6", "1 to 5")),
    ],
)
def test_counts_out_of_range(method, given, words):
    with says(InputError, *words):
        getattr(from_arrays(**arrays()), method)(**given)


def test_default_augmentation_is_for_colour():
    grey = arrays(train_images=np.zeros((6, 4, 5), np.uint8), test_images=np.zeros((3, 4, 5), np.uint8))
    for *size, crop in ((4, 4, 0), (8, 8, 1), (28, 28, 3), (32, 32, 4), (96, 96, 4), (32, 16, 2), (16, 32, 2)):
        images = {f"{split}_images": np.zeros((n, *size, 3), np.uint8) for split, n in (("train", 6), ("test", 3))}
        colour = from_arrays(**arrays(**images))
        assert colour.default_augmentation() == Augmentation(flip=True, crop=crop, rotate=15.0)
    assert from_arrays(**grey).default_augmentation() == Augmentation.none()


def test_a_dataset_is_a_pytree():
    data = from_arrays(**arrays(), name="mine")
    moved = jax.jit(lambda data: data)(data)
    assert (moved.num_classes, moved.name) == (4, "mine")
    assert len(jax.tree.leaves(data)) == 6
    jax.tree.map(np.testing.assert_array_equal, moved, data)


def test_images_that_are_held_out():
    data = from_arrays(**arrays())
    assert data.validation_images is None
    held = data.hold_out(2)
    np.testing.assert_array_equal(held.train_images, data.train_images[:4])
    np.testing.assert_array_equal(held.validation_images, data.train_images[4:])
    np.testing.assert_array_equal(held.validation_labels, data.train_labels[4:])
    assert len(jax.tree.leaves(held)) == len(jax.tree.leaves(data)) + 2
