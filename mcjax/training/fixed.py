"""The training objective on fixed images, deterministic, to compare networks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.data import Augmentation, Dataset, augment, normalize
from mcjax.models.base import Model
from mcjax.training.objective import training_loss


class FixedImages(NamedTuple):
    """Images in equal batches, with their labels.

    Attributes:
        images: uint8 (batches, size, h, w, c).
        labels: (batches, size).
        mean: The mean per channel to normalise by.
        std: The standard deviation per channel to normalise by.
    """

    images: jax.Array
    labels: jax.Array
    mean: jax.Array
    std: jax.Array

    def batch(self, number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One normalised batch, its labels, and a key for the model's dropout."""
        x = normalize(self.images[number], self.mean, self.std)
        return x, self.labels[number], jax.random.key(number)


def fixed_images(data: Dataset, augmentation: Augmentation, images: int, batch_size: int) -> FixedImages:
    """The first training images, augmented once, in equal batches.

    Args:
        data: The data set.
        augmentation: Augmentation of the images, equal at every call.
        images: Number of images, or all if there are fewer.
        batch_size: Maximum batch size. A remainder of fewer images than batches is dropped.

    Returns:
        The batches on the device.
    """
    images = min(images, len(data.train_labels))
    count = -(-images // batch_size)
    size = images // count
    # A fixed key, so that the objectives of different fits can be compared.
    taken = augment(jax.random.key(0), jnp.asarray(data.train_images[: count * size]), augmentation)
    labels = jnp.asarray(data.train_labels[: count * size])
    labels = labels.reshape(count, size, *labels.shape[1:])
    stacked = taken.reshape(count, size, *taken.shape[1:])
    return FixedImages(stacked, labels, jnp.asarray(data.mean), jnp.asarray(data.std))


def objective_on(model: Model, theta: trees.Tree, fixed: FixedImages, weight_decay: float) -> jax.Array:
    """The training objective of a network, a mean over the batches, each by its own batch statistics.

    Args:
        model: The model of the network.
        theta: Variables of one network.
        fixed: The images.
        weight_decay: Factor of the L2 term, as in `training_loss`.

    Returns:
        A float32 scalar. Pure: works under jit, vmap and grad.
    """

    def added(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        return total + training_loss(model, theta, *fixed.batch(number), weight_decay)[0], None

    count = len(fixed.labels)
    return jax.lax.scan(added, jnp.zeros(()), jnp.arange(count))[0] / count
