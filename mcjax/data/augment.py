"""Normalisation and augmentation of uint8 images, inside the compiled step."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mcjax.errors import InputError, check_fields


@dataclass(frozen=True)
class Augmentation:
    """Random transformations of training images (Neuron Alignment, section 4). Pixels outside the image are black.

    Attributes:
        flip: Whether images are mirrored horizontally with probability 1/2.
        crop: Maximum shift along each axis in pixels, like a random crop of the zero-padded image.
        rotate: Maximum rotation in degrees, in both directions, with nearest-neighbour interpolation.
    """

    flip: bool = True
    crop: int = 4
    rotate: float = 15.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.crop < 0 or not 0 <= self.rotate <= 180:
            raise InputError(
                f"got crop={self.crop} pixels and rotate={self.rotate} degrees, "
                "expected crop >= 0 and 0 <= rotate <= 180."
            )

    @classmethod
    def none(cls) -> "Augmentation":
        """No augmentation."""
        return cls(flip=False, crop=0, rotate=0.0)


def normalize(images: Any, mean: Any, std: Any) -> jax.Array:
    """Normalise pixels to mean 0 and standard deviation 1 in each channel, float32.

    Args:
        images: uint8 (..., h, w, c). Inputs of other dtypes, floats and tokens, are returned unchanged.
        mean: The mean of the training pixels, scaled to [0, 1], (c,).
        std: The standard deviation of the same, (c,).

    Returns:
        float32, in the shape of `images`.
    """
    if jnp.result_type(images) != jnp.uint8:
        return jnp.asarray(images)
    shape = (1,) * (jnp.ndim(images) - 1) + (-1,)
    mean, std = jnp.reshape(jnp.asarray(mean), shape), jnp.reshape(jnp.asarray(std), shape)
    return (jnp.asarray(images).astype(jnp.float32) / 255 - mean) / std


def augment(key: jax.Array, images: jax.Array, augmentation: Augmentation) -> jax.Array:
    """Rotate, mirror and shift each of the images (n, h, w, c) at random, in one gather. The dtype does not change."""
    if augmentation == Augmentation.none():
        return images
    keys = jax.random.split(key, images.shape[0])
    return jax.vmap(lambda k, image: _augment_one(k, image, augmentation))(keys, images)


def _augment_one(key: jax.Array, image: jax.Array, augmentation: Augmentation) -> jax.Array:
    height, width, channels = image.shape
    flip_key, crop_key, rotate_key = jax.random.split(key, 3)
    # From each output pixel back to its source: undo the crop, then the flip, then the rotation.
    shift = jax.random.randint(crop_key, (2,), -augmentation.crop, augmentation.crop + 1)
    row = (jnp.arange(height) + shift[0])[:, None] * jnp.ones((1, width), jnp.int32)
    column = (jnp.arange(width) + shift[1])[None, :] * jnp.ones((height, 1), jnp.int32)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    if augmentation.flip:
        column = jnp.where(jax.random.bernoulli(flip_key), width - 1 - column, column)
    if augmentation.rotate:
        angle = jnp.deg2rad(jax.random.uniform(rotate_key, (), minval=-1.0, maxval=1.0) * augmentation.rotate)
        y, x = row - (height - 1) / 2, column - (width - 1) / 2
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        row = jnp.round(cos * y - sin * x + (height - 1) / 2).astype(jnp.int32)
        column = jnp.round(sin * y + cos * x + (width - 1) / 2).astype(jnp.int32)
        inside &= (row >= 0) & (row < height) & (column >= 0) & (column < width)
    # All sources outside the image point to one black pixel after the last.
    pixels = jnp.concatenate([image.reshape(-1, channels), jnp.zeros((1, channels), image.dtype)])
    source = jnp.where(inside, row * width + column, height * width)
    return pixels[source]
