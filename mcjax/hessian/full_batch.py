"""Full-batch loss, for Hessians and deterministic descent."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from mcjax import trees
from mcjax.errors import InputError, check_whole
from mcjax.models.base import has_leading_axis
from mcjax.runtime.mesh import AXES, check_mesh
from mcjax.shown import Bound, short_repr
from mcjax.training.batches import evenly_spaced
from mcjax.training.loss import Batch, at_least_float32
from mcjax.training.task import SplitName, Task, check_task, examples


@short_repr
class FullBatch(NamedTuple):
    """A whole split: equal batches along a leading axis, and a smaller last batch, or None."""

    batches: Batch
    rest: Batch | None

    @property
    def size(self) -> int:
        """The number of examples."""
        first = jax.tree.leaves(self.batches)[0]
        return first.shape[0] * first.shape[1] + (0 if self.rest is None else examples(self.rest))


@dataclass(frozen=True)
class FullBatchLoss:
    """The mean loss of a task over a whole split plus an L2 term, a pure function `(task, split, theta) -> scalar`.

    Hashable, so that losses of one task with one weight decay need one compiled program for all examples.
    """

    weight_decay: float

    def __call__(self, task: Task, split: FullBatch, theta: trees.Tree) -> jax.Array:
        if has_leading_axis(theta, task):
            raise InputError("got several networks, expected one: jax.vmap over them.")

        # Each batch is recomputed in the backward pass, so that derivatives need the memory of one batch.
        @partial(jax.checkpoint, prevent_cse=False)
        def summed(wide: trees.Tree, batch: Batch) -> jax.Array:
            narrow = trees.combine(lambda _, leaf: leaf, theta, wide)
            return at_least_float32(task.measure(narrow, batch)["loss"]) * examples(batch)

        # Derivatives are summed over the batches in the dtype of what all batches share: float32 at least.
        wide = trees.widened(theta)
        total = jax.lax.map(lambda batch: summed(wide, batch), split.batches).sum()
        if split.rest is not None:
            total = total + summed(wide, split.rest)
        mean = total / split.size
        if not self.weight_decay:
            return mean
        params = trees.params(theta)
        return mean + (self.weight_decay / 2 * trees.dot(params, params)).astype(mean.dtype)


def full_batch_loss(
    task: Task,
    *,
    split: SplitName = "train",
    examples: int | None = None,
    batch_size: int = 1000,
    weight_decay: float = 0.0,
    mesh: Mesh | None = None,
) -> jax.tree_util.Partial:
    """The mean loss over a whole split plus weight_decay / 2 * ||params||^2, as a function `loss(theta)`.

    It is the "loss" that `evaluate` measures, without augmentation and dropout, by the batch statistics in theta:
    deterministic, in the precision of theta. It works under jit, vmap, grad and jvp of grad.

    The loss is a pytree that holds the examples. Pass it as an argument to compiled programs, so that losses of one
    task, weight decay and number of examples share a program. A program that closes over it holds the examples as
    constants, on every device of a mesh.

    Args:
        task: The task.
        split: The split of the task.
        examples: Number of examples of the split used, evenly spaced. None: all.
        batch_size: Examples in memory at once, also in first and second derivatives.
        weight_decay: Factor of the L2 term.
        mesh: A mesh from `make_mesh`: every whole batch is split over all devices, and its size rounded to a multiple
            of their number.

    Returns:
        The loss, from the variables of one network to a scalar.

    Raises:
        InputError: If the task does not have the split or enough examples, or a number is out of range.

    Example::

        loss = full_batch_loss(task, weight_decay=5e-4)
        gradient = jax.jit(lambda loss, theta: jax.grad(loss)(theta))(loss, theta)
    """
    stored = check_task(task, arrays=(split,)).split(split)
    available = len(jax.tree.leaves(stored)[0])
    n = available if examples is None else examples
    check_whole("examples", n, 1, available)
    stored = evenly_spaced(stored, n)
    check_whole("batch_size", batch_size)
    if not (isinstance(weight_decay, int | float) and math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"got weight_decay={weight_decay!r}, expected a finite number of at least 0.")
    devices = 1
    if mesh is not None:
        check_mesh(mesh)
        devices = mesh.size
    # Batches of nearly equal size, of which the last is the smallest.
    size = -(-n // -(-n // batch_size))
    size = min(-(-size // devices) * devices, n // devices * devices or n)
    count = n // size
    sharding = None if mesh is None or size % devices else NamedSharding(mesh, Spec(None, AXES))

    def whole(leaf: Any) -> jax.Array:
        leaf = leaf if isinstance(leaf, jax.core.Tracer) else np.asarray(leaf)
        return jax.device_put(leaf[: count * size].reshape(count, size, *leaf.shape[1:]), sharding)

    rest = None if count * size == n else jax.tree.map(lambda leaf: jnp.asarray(leaf[count * size :]), stored)
    batches = FullBatch(jax.tree.map(whole, stored), rest)
    return Bound(FullBatchLoss(float(weight_decay)), task.functions(), batches)


__all__ = ["FullBatch", "FullBatchLoss", "full_batch_loss"]
