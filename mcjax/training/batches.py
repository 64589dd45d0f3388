"""Batches of examples: means and moments over all of them, equal ones, and objectives on fixed ones."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data.stream import Stream
from mcjax.errors import InputError
from mcjax.training.loss import Batch, Loss, at_least_float32, outcome
from mcjax.training.task import Task, examples, reading_processes

T = TypeVar("T")


class Mean(NamedTuple):
    """The sum of values over examples, and the number of examples, int32."""

    total: Any
    examples: jax.Array

    @property
    def value(self) -> Any:
        """The mean values."""
        return jax.tree.map(lambda total: total / self.examples, self.total)


def mean_of(values: Any, batch: Batch) -> Mean:
    """Values that are means over the examples of a batch, weighted by their number; at least float32."""
    n = examples(batch)
    return Mean(jax.tree.map(lambda value: at_least_float32(value) * n, values), jnp.int32(n))


def mean_over(fn: Callable[[Batch, Any], Any], split: Batch, batch_size: int) -> Any:
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
    return total_over(lambda batch, number: mean_of(fn(batch, number), batch), split, batch_size).value


def total_over(of_batch: Callable[[Batch, Any], T], split: Batch, batch_size: int) -> T:
    """The total of `of_batch(batch, number)` over a split: whole batches in a scan, then a remainder. Pure.

    Args:
        of_batch: A function from a batch and its number to `Mean`, `Moments`, `CrossMoments`, or a tree of them.
        split: The examples.
        batch_size: Examples in memory at once.

    Returns:
        The total, in the same structure.
    """
    batches, rest = split_batches(split, batch_size)
    total = accumulate(of_batch, batches)
    return total if rest is None else merge(total, of_batch(rest, len(jax.tree.leaves(batches)[0])))


def split_batches(split: Batch, batch_size: int) -> tuple[Batch, Batch | None]:
    """The examples of a split in whole batches, every leaf (count, size, ...), and a smaller last batch, or None."""
    n = examples(split)
    size = min(batch_size, n)
    whole = n // size * size
    batches = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, size, *leaf.shape[1:]), split)
    return batches, None if whole == n else jax.tree.map(lambda leaf: leaf[whole:], split)


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


def evenly_spaced(split: Batch, count: int | None) -> Batch:
    """So many examples of a split of arrays, one from each of as many equal parts of its order; None: all.

    Their places in the parts follow the golden ratio: an order by class, or of classes in turn, is sampled evenly.
    """
    n = examples(split)
    if count is None or count >= n:
        return split
    part = np.arange(count)
    first, after = part * n // count, (part + 1) * n // count
    at = first + (part * 0.6180339887498949 % 1 * (after - first)).astype(int)
    return jax.tree.map(lambda leaf: leaf[at], split)


def fixed_examples(task: Task, count: int, batch_size: int) -> tuple[Batch, int]:
    """Training examples, augmented once and equally at every call, for objectives that are compared.

    Args:
        task: The task.
        count: Number of examples, evenly spaced in arrays and the first ones of a stream, or all if there are fewer.
        batch_size: Maximum batch size. A remainder of fewer examples than batches is dropped.

    Returns:
        The examples on the device, and the size of equal batches of them.
    """
    if isinstance(task.train, Stream):
        some = task.train.first(count, reading_processes())
    else:
        some = evenly_spaced(task.train, count)
    used = jax.tree.map(jnp.asarray, some)
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


class Moments(NamedTuple):
    """The number of samples, their mean (n,), and the sum of their squared distances from it (n,)."""

    samples: jax.Array
    mean: jax.Array
    square: jax.Array

    @property
    def variance(self) -> jax.Array:
        """The variance about the mean, divided by the number of samples."""
        return self.square / self.samples

    @property
    def varies(self) -> jax.Array:
        """Whether the deviation is more than rounding can make of a constant, 1e-5 of the mean, or is not finite."""
        return ~(jnp.sqrt(self.variance) <= 1e-5 * jnp.abs(self.mean))


class CrossMoments(NamedTuple):
    """Moments of two vectors over the same samples, and the sum of their centred outer products (n, m)."""

    first: Moments
    second: Moments
    product: jax.Array

    @property
    def covariance(self) -> jax.Array:
        """The covariance matrix of the two vectors, divided by the number of samples."""
        return self.product / self.first.samples


def moments_of(x: jax.Array) -> Moments:
    """Moments of `x` (..., n) in float32 at least; every position of the leading axes is a sample."""
    return _centred(x)[0]


def cross_moments_of(x: jax.Array, y: jax.Array) -> CrossMoments:
    """Cross moments of `x` (..., n) and `y` (..., m), in float32 at least, over all positions of the leading axes."""
    (first, x), (second, y) = _centred(x), _centred(y)
    return CrossMoments(first, second, jnp.matmul(x.T, y, precision="highest"))


def _centred(x: jax.Array) -> tuple[Moments, jax.Array]:
    if jnp.iscomplexobj(x):
        raise InputError("got complex activations, expected real ones: match such networks by their weights.")
    x = at_least_float32(x.reshape(-1, x.shape[-1]))
    mean = x.mean(0)
    x = x - mean[None]
    return Moments(jnp.asarray(len(x), x.dtype), mean, jnp.square(x).sum(0)), x


def merge(p: T, q: T) -> T:
    """The total of the union of two sets of samples.

    Numerically stable, also if the means are large compared with the deviations. Merging with an empty set (0 samples)
    changes nothing; merging two empty sets of moments gives NaN. Works under jit, vmap and scan.
    Source: Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance".

    Args:
        p: `Moments`, `CrossMoments`, `Mean`, or a tree of them.
        q: That of the other samples, in the same structure.

    Returns:
        That of all samples, in the same structure.
    """
    return jax.tree.map(_merge, p, q, is_leaf=lambda node: isinstance(node, Moments | CrossMoments))


def _merge(p: Any, q: Any) -> Any:
    if isinstance(p, CrossMoments):
        weight = p.first.samples * q.first.samples / (p.first.samples + q.first.samples)
        shift = jnp.outer(q.first.mean - p.first.mean, q.second.mean - p.second.mean)
        product = p.product + q.product + weight * shift
        return CrossMoments(_merge(p.first, q.first), _merge(p.second, q.second), product)
    if not isinstance(p, Moments):
        return p + q
    # The pairwise update of Chan, Golub and LeVeque: mean, then the sum of squared distances.
    samples, delta = p.samples + q.samples, q.mean - p.mean
    mean = p.mean + q.samples / samples * delta
    square = p.square + q.square + p.samples * q.samples / samples * jnp.square(delta)
    return Moments(samples, mean, square)


def empty(of_batch: Callable[[Batch, Any], T], batch: Batch) -> T:
    """The total of no batches, with which `merge` changes nothing."""
    shapes = jax.eval_shape(of_batch, batch, jax.ShapeDtypeStruct((), jnp.int32))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def accumulate(of_batch: Callable[[Batch, Any], T], batches: Batch) -> T:
    """The total of `of_batch(batch, number)` over batches along a leading axis, merged in a `lax.scan`."""
    # Traced once, for the shapes of the total and for the scan.
    of_batch = jax.jit(of_batch, inline=True)
    start = empty(of_batch, jax.tree.map(lambda leaf: leaf[0], batches))
    numbered = (batches, jnp.arange(len(jax.tree.leaves(batches)[0])))
    return jax.lax.scan(lambda total, each: (merge(total, of_batch(*each)), None), start, numbered)[0]
