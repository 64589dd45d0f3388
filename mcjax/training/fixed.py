"""The objective on fixed images: the same number for the same network, so that networks can be compared."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.data import Augmentation, Dataset, augment, normalize
from mcjax.models.base import Model
from mcjax.training.objective import training_loss


class FixedImages(NamedTuple):
    """Images in equal batches, uint8 (batches, size, h, w, c), with their labels (batches, size)."""

    images: jax.Array
    labels: jax.Array
    mean: jax.Array
    std: jax.Array

    def batch(self, number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One batch as a model takes it, its labels, and the key of what is random in the model."""
        x = normalize(self.images[number], self.mean, self.std)
        return x, self.labels[number], jax.random.key(number)


def fixed_images(data: Dataset, augmentation: Augmentation, images: int, batch_size: int) -> FixedImages:
    """The first `images` training images, or all, augmented once, in equal batches of at most batch_size.

    Fewer images than there are batches are left out for that.
    """
    images = min(images, len(data.train_labels))
    count = -(-images // batch_size)
    size = images // count
    # One key for all: what is measured on these images can be compared from fit to fit.
    taken = augment(jax.random.key(0), jnp.asarray(data.train_images[: count * size]), augmentation)
    labels = jnp.asarray(data.train_labels[: count * size])
    labels = labels.reshape(count, size, *labels.shape[1:])
    stacked = taken.reshape(count, size, *taken.shape[1:])
    return FixedImages(stacked, labels, jnp.asarray(data.mean), jnp.asarray(data.std))


def objective_on(model: Model, theta: trees.Tree, fixed: FixedImages, weight_decay: float) -> jax.Array:
    """What training descends, by batch statistics, as a mean over the batches: float32 scalar. Pure."""

    def added(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        return total + training_loss(model, theta, *fixed.batch(number), weight_decay)[0], None

    count = len(fixed.labels)
    return jax.lax.scan(added, jnp.zeros(()), jnp.arange(count))[0] / count
