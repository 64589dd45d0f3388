"""Full-batch loss, for Hessians and deterministic descent."""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from mcjax import trees
from mcjax.data import Dataset, normalize
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.runtime.mesh import AXES, check_mesh
from mcjax.training.criterion import Criterion, SplitName
from mcjax.training.objective import check_model_and_data, label_losses


class Chunk(NamedTuple):
    """A batch: stored images (n, ...), labels (n, ...), and the weights of the images, float32 (n,), 0 for padding."""

    images: jax.Array
    labels: jax.Array
    counts: jax.Array


class SplitImages(NamedTuple):
    """The images of a split, as batches along a leading axis, with the mean and std (c,) that normalise them."""

    chunks: Chunk
    mean: jax.Array
    std: jax.Array

    @property
    def size(self) -> jax.Array:
        """Number of images without padding, a float32 scalar."""
        return self.chunks.counts.sum()


@dataclass(frozen=True)
class FullBatchLoss:
    """The mean loss of a model over a split plus an L2 term, a pure function `(split, theta) -> scalar`.

    Hashable, so that one model and weight decay need one compiled program for all images.
    """

    model: Model
    weight_decay: float

    def __call__(self, split: SplitImages, theta: trees.Tree) -> jax.Array:
        # Recompute each batch in the backward pass, so that derivatives need the memory of one batch.
        @partial(jax.checkpoint, prevent_cse=False)
        def summed(theta: trees.Tree, chunk: Chunk) -> jax.Array:
            x = normalize(chunk.images, split.mean, split.std)
            return self.summed_loss(self.model.apply(theta, x), chunk)

        mean = jax.lax.map(lambda chunk: summed(theta, chunk), split.chunks).sum() / split.size
        if not self.weight_decay:
            return mean
        leaves = trees.params(theta)
        return mean + (self.weight_decay / 2 * trees.dot(leaves, leaves)).astype(mean.dtype)

    def summed_loss(self, outputs: jax.Array, chunk: Chunk) -> jax.Array:
        """The loss of the outputs for a batch, summed over its images, a scalar."""
        each = label_losses(outputs, chunk.labels)
        return (each.reshape(len(each), -1).mean(1) * chunk.counts).sum()


def full_batch_loss(
    model: Model,
    data: Dataset,
    *,
    split: SplitName = "train",
    images: int | None = None,
    batch_size: int = 1000,
    weight_decay: float = 0.0,
    mesh: Mesh | None = None,
) -> jax.tree_util.Partial:
    """The mean loss over a whole split plus weight_decay / 2 * ||params||^2, as a function `loss(theta)`.

    It is the training loss without augmentation and dropout, by the batch statistics in theta: deterministic, in the
    precision of theta. It works under jit, vmap, grad and jvp of grad.

    The loss is a pytree that holds the images. Pass it as an argument to compiled programs, so that losses with one
    model, weight decay and number of images share a program. A program that closes over it holds the images as
    constants, on every device of a mesh.

    Args:
        model: The model.
        data: The data set.
        split: The split of the data.
        images: Number of images of the split used, the first ones. None: all.
        batch_size: Images in memory at once, also in first and second derivatives.
        weight_decay: Factor of the L2 term.
        mesh: A mesh from `make_mesh`: every batch is split over all devices, and its size rounded up to a multiple of
            their number.

    Returns:
        The loss, from the variables of one network to a scalar.

    Raises:
        InputError: If model and data do not match, the data do not have the split or enough images, or a number is out
            of range.

    Example::

        loss = full_batch_loss(model, data, weight_decay=5e-4)
        gradient = jax.jit(lambda loss, theta: jax.grad(loss)(theta))(loss, theta)
    """
    check_model_and_data(model, data)
    Criterion(split=split, images=images, batch_size=batch_size).check(data)
    if not (isinstance(weight_decay, int | float) and math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"got weight_decay={weight_decay!r}, expected a finite number of at least 0.")
    devices = 1
    if mesh is not None:
        check_mesh(mesh)
        devices = mesh.size
    arrays = [np.asarray(getattr(data, f"{split}_{what}")[:images]) for what in ("images", "labels")]
    n = len(arrays[1])
    # Equal batches, to minimise padding.
    size = -(-n // -(-n // batch_size))
    size = -(-size // devices) * devices
    rows = np.arange(-(-n // size) * size)
    # Pad with images of the split, so that the loss of the padding is finite if that of the images is.
    stored = [*(array[rows % n] for array in arrays), (rows < n).astype(np.float32)]
    sharding = None if mesh is None else NamedSharding(mesh, Spec(None, AXES))
    chunks = Chunk(*(jax.device_put(array.reshape(-1, size, *array.shape[1:]), sharding) for array in stored))
    mean, std = (jnp.asarray(value, jnp.float32) for value in (data.mean, data.std))
    return jax.tree_util.Partial(FullBatchLoss(model, float(weight_decay)), SplitImages(chunks, mean, std))


__all__ = ["Chunk", "FullBatchLoss", "SplitImages", "full_batch_loss"]
