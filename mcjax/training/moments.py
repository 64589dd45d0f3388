"""Counts, means and centred second moments of samples, merged batch by batch (Chan, Golub and LeVeque)."""

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
    """The moments of two sets of samples taken together.

    Exact up to rounding, without differences of large sums: the means may be large compared with the deviations.
    An empty set (0 samples) changes nothing; two of them have no moments. Works under jit, vmap and scan.
    Source: Chan, Golub and LeVeque, 1983, "Algorithms for Computing the Sample Variance".

    Args:
        p: `Moments`, `CrossMoments`, or a tree of them.
        q: The same of other samples.

    Returns:
        The same of all samples.
    """
    return jax.tree.map(_merge, p, q, is_leaf=lambda node: isinstance(node, Moments | CrossMoments))


def _merge(p: Any, q: Any) -> Any:
    if isinstance(p, CrossMoments):
        weight = p.first.samples * q.first.samples / (p.first.samples + q.first.samples)
        shift = jnp.outer(q.first.mean - p.first.mean, q.second.mean - p.second.mean)
        product = p.product + q.product + weight * shift
        return CrossMoments(_merge(p.first, q.first), _merge(p.second, q.second), product)
    samples, delta = p.samples + q.samples, q.mean - p.mean
    mean = p.mean + q.samples / samples * delta
    square = p.square + q.square + p.samples * q.samples / samples * jnp.square(delta)
    return Moments(samples, mean, square)


def accumulate(moments: Callable[[Any], T], batches: Any) -> T:
    """The moments of all batches, merged one after another in a `lax.scan`.

    Args:
        moments: batch -> `Moments`, `CrossMoments`, or a tree of them.
        batches: A pytree of arrays whose leading axis is the batches.

    Returns:
        The same tree, of the samples of all batches.
    """
    shapes = jax.eval_shape(moments, jax.tree.map(lambda leaf: leaf[0], batches))
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(lambda total, batch: (merge(total, moments(batch)), None), empty, batches)[0]
