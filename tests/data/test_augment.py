"""Augmentation against loops over pixels and scipy's rotation; normalisation against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from scipy.ndimage import map_coordinates

from mcjax import Augmentation, InputError
from mcjax.data import augment, normalize

FLIP = Augmentation(flip=True, crop=0, rotate=0.0)
CROP = Augmentation(flip=False, crop=2, rotate=0.0)
ROTATE = Augmentation(flip=False, crop=0, rotate=15.0)

# Run a few times only: to compile well would take longer.
QUICK = {"xla_backend_optimization_level": 0}
augmented = jax.jit(augment, static_argnums=2, compiler_options=QUICK)


def drawn(n, height, width, channels, dtype=np.uint8):
    return np.random.default_rng(0).integers(1, 255, (n, height, width, channels)).astype(dtype)


def mirrored(image):
    out = np.empty_like(image)
    for y, x in np.ndindex(image.shape[:2]):
        out[y, x] = image[y, image.shape[1] - 1 - x]
    return out


def shifted(image, down, right):
    out = np.zeros_like(image)
    for y, x in np.ndindex(image.shape[:2]):
        if 0 <= y + down < image.shape[0] and 0 <= x + right < image.shape[1]:
            out[y, x] = image[y + down, x + right]
    return out


def shifts(image, c):
    return [shifted(image, down, right) for down in range(-c, c + 1) for right in range(-c, c + 1)]


def which(image, candidates):
    return [i for i, candidate in enumerate(candidates) if np.array_equal(image, candidate)]


def test_shifts_are_crops_of_the_zero_padded_image():
    image, c = drawn(1, 5, 7, 3)[0], 2
    padded = np.pad(image, ((c, c), (c, c), (0, 0)))
    crops = [padded[i : i + 5, j : j + 7] for i in range(2 * c + 1) for j in range(2 * c + 1)]
    np.testing.assert_array_equal(shifts(image, c), crops)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_flip_gives_the_image_or_its_mirror(key, dtype):
    images = drawn(200, 5, 7, 3, dtype)
    result = np.asarray(augmented(key, images, FLIP))
    assert result.dtype == dtype
    found = [which(out, [image, mirrored(image)]) for image, out in zip(images, result, strict=True)]
    assert all(len(each) == 1 for each in found)
    assert 0.4 < np.mean(found) < 0.6


def test_crop_gives_every_shift(key):
    images = drawn(400, 5, 7, 2)
    result = np.asarray(augmented(key, images, CROP))
    assert result.dtype == np.uint8
    found = [which(out, shifts(image, 2)) for image, out in zip(images, result, strict=True)]
    assert all(len(each) == 1 for each in found)
    assert set(np.ravel(found)) == set(range(25))


def test_flip_and_crop_together(key):
    images = drawn(100, 6, 6, 1)
    result = augmented(key, images, Augmentation(crop=1, rotate=0.0))
    found = [
        which(out, [*shifts(image, 1), *shifts(mirrored(image), 1)]) for image, out in zip(images, result, strict=True)
    ]
    assert all(len(each) == 1 for each in found)
    assert {each[0] // 9 for each in found} == {0, 1}


def rotated(image, degrees):
    y, x = np.indices(image.shape) - np.reshape(np.array(image.shape) - 1, (2, 1, 1)) / 2
    sin, cos = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    source = np.stack([cos * y - sin * x, sin * y + cos * x]) + np.reshape(np.array(image.shape) - 1, (2, 1, 1)) / 2
    return map_coordinates(image, source, order=0, mode="grid-constant", cval=0)


def test_the_oracle_turns_by_right_angles():
    image = drawn(1, 5, 5, 1)[0, ..., 0]
    np.testing.assert_array_equal(rotated(image, 90), np.rot90(image, -1))
    np.testing.assert_array_equal(rotated(image, 180), image[::-1, ::-1])


@pytest.mark.parametrize("shape", [(9, 9), (6, 11)])
def test_rotation_turns_by_an_angle_within_the_bound(key, shape):
    image = (np.arange(shape[0] * shape[1], dtype=np.uint8) + 1).reshape(shape)  # no pixel like another
    angles = np.arange(-15, 15.001, 0.02)
    candidates = np.stack([rotated(image, degrees) for degrees in angles])
    results = np.asarray(augmented(key, np.broadcast_to(image, (60, *shape))[..., None], ROTATE))[..., 0]
    found = [angles[(candidates == result).all((1, 2))] for result in results]
    assert all(len(each) for each in found)
    middles = np.array([each.mean() for each in found])
    assert middles.min() < -10
    assert middles.max() > 10
    assert abs(middles.mean()) < 4


def test_rotation_by_nothing_leaves_the_image(key):
    images = drawn(10, 6, 5, 3)
    np.testing.assert_array_equal(augmented(key, images, Augmentation(flip=False, crop=0, rotate=1e-3)), images)


def test_none_is_the_identity(key):
    images = drawn(4, 6, 5, 3)
    np.testing.assert_array_equal(augmented(key, images, Augmentation.none()), images)


def test_keys_decide(key):
    images, whole = drawn(20, 8, 8, 3), Augmentation(crop=2)
    result = augmented(key, images, whole)
    assert result.shape == images.shape
    assert result.dtype == jnp.uint8
    np.testing.assert_array_equal(augmented(key, images, whole), result)
    assert (np.asarray(augmented(jax.random.key(1), images, whole)) != np.asarray(result)).any()
    same = np.asarray(augmented(key, np.broadcast_to(images[0], images.shape), whole))
    assert len(np.unique(same.reshape(20, -1), axis=0)) > 10


def test_the_same_under_vmap():
    images, whole = drawn(100, 6, 6, 1), Augmentation(crop=1, rotate=0.0)
    keys = jax.random.split(jax.random.key(0), 2)
    many = jax.jit(jax.vmap(lambda k: augment(k, images, whole)), compiler_options=QUICK)(keys)
    for k, got in zip(keys, many, strict=True):
        np.testing.assert_array_equal(got, augmented(k, images, whole))


@pytest.mark.parametrize(
    ("options", "named"),
    [({"crop": -1}, "crop=-1"), ({"rotate": -1.0}, "rotate=-1.0"), ({"rotate": 181.0}, "rotate=181.0")],
)
def test_options_out_of_range(options, named):
    with says(InputError, named):
        Augmentation(**options)


def test_normalize():
    rng = np.random.default_rng(0)
    mean, std = rng.random((2, 3)).astype(np.float32) + 0.1
    for fn, lead in ((normalize, ()), (jax.jit(normalize), (4,)), (jax.jit(normalize), (2, 3))):
        images = rng.integers(0, 256, (*lead, 5, 6, 3)).astype(np.uint8)
        result = fn(images, mean, std)
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, (images / 255.0 - mean) / std, rtol=1e-5, atol=1e-5)
    for other in (np.ones((2, 3), np.float32), np.arange(4)):
        np.testing.assert_array_equal(normalize(other, mean, std), other)
