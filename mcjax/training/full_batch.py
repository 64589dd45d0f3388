"""The loss over a whole split as a function of the network alone: what curvature, and descent without noise, are of."""

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
from mcjax.training.objective import check_fit, losses


class Chunk(NamedTuple):
    """Images as they are stored (n, ...), their labels (n, ...), and whether each counts, 1 or 0, float32 (n,)."""

    images: jax.Array
    labels: jax.Array
    counts: jax.Array


class SplitImages(NamedTuple):
    """The images of a split: chunks along a leading axis, and the mean and std (c,) that normalise them."""

    chunks: Chunk
    mean: jax.Array
    std: jax.Array

    @property
    def size(self) -> jax.Array:
        """How many images there are, without those that only fill up the last chunk, a float32 scalar."""
        return self.chunks.counts.sum()


@dataclass(frozen=True)
class FullBatch:
    """The mean loss of a model over a split, and its L2 term: called as `(split, theta)`, a scalar, pure.

    Frozen, so that programs of one model and weight decay are compiled once, whatever the images.
    """

    model: Model
    weight_decay: float

    def __call__(self, split: SplitImages, theta: trees.Tree) -> jax.Array:
        @partial(jax.checkpoint, prevent_cse=False)
        def of_chunk(theta: trees.Tree, chunk: Chunk) -> jax.Array:
            x = normalize(chunk.images, split.mean, split.std)
            return self.of_outputs(self.model.apply(theta, x), chunk)

        mean = jax.lax.map(lambda chunk: of_chunk(theta, chunk), split.chunks).sum() / split.size
        if not self.weight_decay:
            return mean
        leaves = trees.params(theta)
        return mean + (self.weight_decay / 2 * trees.dot(leaves, leaves)).astype(mean.dtype)

    def of_outputs(self, outputs: jax.Array, chunk: Chunk) -> jax.Array:
        """The losses of a chunk's images, summed, when the model gives these outputs for them: a scalar."""
        each = losses(outputs, chunk.labels)
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
    """`loss(theta)`: the mean loss over all images of a split, + weight_decay / 2 * ||params||^2, a scalar.

    The loss is that of training, without augmentation and dropout and by the batch statistics that theta holds:
    a function of one network alone, deterministic, in the precision of theta. images: the first so many of the
    split (None: all); every one counts once. `batch_size` of them are in memory at a time, also while the loss is
    differentiated once or twice; with a mesh (`make_mesh`) every batch is shared out among all its devices,
    rounded up to a multiple of them. Works under jit, vmap, grad and jvp of grad.

    The loss is a pytree that holds the images. Give it to a compiled program as an argument: then losses of one
    model and weight decay on equally many images are compiled once; a program that closes over it has the
    images as constants, on every device of a mesh.

    Raises InputError if model and data do not fit, for a split that the data do not have or fewer images, and for
    numbers out of range.

        loss = full_batch_loss(model, data, weight_decay=5e-4)
        gradient = jax.jit(lambda loss, theta: jax.grad(loss)(theta))(loss, theta)
    """
    check_fit(model, data)
    Criterion(split=split, images=images, batch_size=batch_size).check(data)
    if not (isinstance(weight_decay, int | float) and math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"got weight_decay={weight_decay!r}, expected a finite number of at least 0.")
    devices = 1
    if mesh is not None:
        check_mesh(mesh)
        devices = mesh.size
    arrays = [np.asarray(getattr(data, f"{split}_{what}")[:images]) for what in ("images", "labels")]
    n = len(arrays[1])
    # Batches of one size, or most of the last could be filling.
    size = -(-n // -(-n // batch_size))
    size = -(-size // devices) * devices
    rows = np.arange(-(-n // size) * size)
    # The filling is of images that there are, so that no loss of it can be infinite where the others are not.
    stored = [*(array[rows % n] for array in arrays), (rows < n).astype(np.float32)]
    sharding = None if mesh is None else NamedSharding(mesh, Spec(None, AXES))
    chunks = Chunk(*(jax.device_put(array.reshape(-1, size, *array.shape[1:]), sharding) for array in stored))
    mean, std = (jnp.asarray(value, jnp.float32) for value in (data.mean, data.std))
    return jax.tree_util.Partial(FullBatch(model, float(weight_decay)), SplitImages(chunks, mean, std))


__all__ = ["Chunk", "FullBatch", "SplitImages", "full_batch_loss"]
