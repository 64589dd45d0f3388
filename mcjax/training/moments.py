"""Means and centred second moments of samples, accumulated over batches (Chan, Golub and LeVeque)."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


class Moments(NamedTuple):
    """The number of samples, their mean (n,), and the sum of their squared distances from it (n,)."""

    samples: jax.Array
    mean: jax.Array
    square: jax.Array

    @property
    def variance(self) -> jax.Array:
        """The variance about the mean, divided by the number of samples."""
        return self.square / self.samples


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
    """Moments of `x` (..., n) in float32; every position of the leading axes is a sample."""
    return _centred(x)[0]


def cross_moments_of(x: jax.Array, y: jax.Array) -> CrossMoments:
    """Cross moments of `x` (..., n) and `y` (..., m) in float32; every position of the leading axes is a sample."""
    (first, x), (second, y) = _centred(x), _centred(y)
    return CrossMoments(first, second, jnp.matmul(x.T, y, precision="highest"))


def _centred(x: jax.Array) -> tuple[Moments, jax.Array]:
    x = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    mean = x.mean(0)
    x = x - mean[None]
    return Moments(jnp.float32(len(x)), mean, jnp.square(x).sum(0)), x


def merge(p: T, q: T) -> T:
    """The moments of the union of two sets of samples.

    Numerically stable, also if the means are large compared with the deviations. Merging with an empty set (0 samples)
    changes nothing; merging two empty sets gives NaN. Works under jit, vmap and scan.
    Source: Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance".

    Args:
        p: `Moments`, `CrossMoments`, or a tree of them.
        q: The moments of the other samples, in the same structure.

    Returns:
        The moments of all samples, in the same structure.
    """
    return jax.tree.map(_merge, p, q, is_leaf=lambda node: isinstance(node, Moments | CrossMoments))


def _merge(p: Any, q: Any) -> Any:
    if isinstance(p, CrossMoments):
        weight = p.first.samples * q.first.samples / (p.first.samples + q.first.samples)
        shift = jnp.outer(q.first.mean - p.first.mean, q.second.mean - p.second.mean)
        product = p.product + q.product + weight * shift
        return CrossMoments(_merge(p.first, q.first), _merge(p.second, q.second), product)
    # The pairwise update of Chan, Golub and LeVeque: mean, then the sum of squared distances.
    samples, delta = p.samples + q.samples, q.mean - p.mean
    mean = p.mean + q.samples / samples * delta
    square = p.square + q.square + p.samples * q.samples / samples * jnp.square(delta)
    return Moments(samples, mean, square)


def accumulate(moments: Callable[[Any], T], batches: Any) -> T:
    """The moments of the samples of all batches, merged in a `lax.scan`.

    Args:
        moments: Batch -> `Moments`, `CrossMoments`, or a tree of them.
        batches: A pytree of arrays with a leading axis of batches.

    Returns:
        The moments of all samples, in the same structure.
    """
    shapes = jax.eval_shape(moments, jax.tree.map(lambda leaf: leaf[0], batches))
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(lambda total, batch: (merge(total, moments(batch)), None), empty, batches)[0]
