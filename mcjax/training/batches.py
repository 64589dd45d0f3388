"""Batches of examples: means over all of them, equal ones, and objectives on fixed ones."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.training.task import Batch, Loss, Task, examples, outcome

T = TypeVar("T")


def mean_over(fn: Callable[[Batch, Any], T], split: Batch, batch_size: int) -> T:
    """The mean over the examples of a split of a function that is itself a mean over the examples of a batch.

    Whole batches are computed one after another, then a remainder, weighted by its size. Pure: works under jit, vmap,
    and in derivatives of all modes.

    Args:
        fn: `fn(batch, number) -> values`, a tree of small arrays, from a batch and its number.
        split: The examples.
        batch_size: Examples in memory at once.

    Returns:
        The mean values, at least float32.
    """
    n, (batches, rest) = examples(split), split_batches(split, batch_size)
    count, size = jax.tree.leaves(batches)[0].shape[:2]

    def weighted(batch: Batch, number: Any, weight: int) -> T:
        return jax.tree.map(lambda value: at_least_float32(jnp.asarray(value)) * weight, fn(batch, number))

    each = jax.lax.map(lambda each: weighted(each[0], each[1], size), (batches, jnp.arange(count)))
    total = jax.tree.map(lambda values: values.sum(0), each)
    if rest is not None:
        total = jax.tree.map(jnp.add, total, weighted(rest, count, n - count * size))
    return jax.tree.map(lambda value: value / n, total)


def split_batches(split: Batch, batch_size: int) -> tuple[Batch, Batch | None]:
    """The examples of a split in whole batches, every leaf (count, size, ...), and a smaller last batch, or None."""
    n = examples(split)
    size = min(batch_size, n)
    whole = n // size * size
    batches = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, size, *leaf.shape[1:]), split)
    return batches, None if whole == n else jax.tree.map(lambda leaf: leaf[whole:], split)


def at_least_float32(value: jax.Array) -> jax.Array:
    """The values in float32, or float64 if they are."""
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def equal_batches(split: Batch, batch_size: int) -> tuple[Batch, int]:
    """The examples of a split in equal batches; a remainder of fewer examples than batches is dropped.

    Args:
        split: The examples.
        batch_size: Maximum batch size.

    Returns:
        The batches, every leaf (count, size, ...), and their size.
    """
    count = -(-examples(split) // batch_size)
    size = examples(split) // count
    return jax.tree.map(lambda leaf: leaf[: count * size].reshape(count, size, *leaf.shape[1:]), split), size


def fixed_examples(task: Task, count: int, batch_size: int) -> tuple[Batch, int]:
    """The first training examples, augmented once and equally at every call, for objectives that are compared.

    Args:
        task: The task.
        count: Number of examples, or all if there are fewer.
        batch_size: Maximum batch size. A remainder of fewer examples than batches is dropped.

    Returns:
        The examples on the device, and the size of equal batches of them.
    """
    used = jax.tree.map(lambda leaf: jnp.asarray(leaf[:count]), task.train)
    batches, size = equal_batches(used, batch_size)
    whole = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batches)
    # A fixed key, so that the objectives of different fits can be compared.
    return (whole if task.augment is None else task.augment(jax.random.key(0), whole)), size


def training_objective(loss: Loss, theta: trees.Tree, fixed: Batch, batch_size: int, weight_decay: float) -> jax.Array:
    """The training objective of a network on fixed examples, each batch by its own batch statistics. Pure.

    Args:
        loss: The loss of the task.
        theta: Variables of one network.
        fixed: The examples.
        batch_size: The size of their batches.
        weight_decay: Factor of the L2 term.

    Returns:
        A float32 scalar.
    """
    params = trees.params(theta)
    value = mean_over(lambda batch, i: outcome(loss, theta, batch, jax.random.key(i)).value, fixed, batch_size)
    return value + weight_decay / 2 * trees.dot(params, params)
