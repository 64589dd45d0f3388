"""Stochastic estimates of the spectrum of a Hessian: the density of its eigenvalues, and its trace."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm as gaussian

from mcjax import trees
from mcjax.errors import InputError, check_whole
from mcjax.hessian.lanczos import lanczos
from mcjax.hessian.products import Curvature, Loss, as_loss, check_curvature, curvature_operator
from mcjax.runtime.compiling import jit
from mcjax.shown import short_repr


@short_repr
class SpectralDensity(NamedTuple):
    """The distribution of the eigenvalues, estimated by the point masses of several Gauss quadratures.

    Attributes:
        nodes: Positions of the point masses, ascending in each draw, (draws, steps).
        weights: Their masses, with sum one in each draw, (draws, steps).
    """

    nodes: jax.Array
    weights: jax.Array

    def moment(self, k: int) -> jax.Array:
        """The mean of the k-th power of the eigenvalues, a scalar: times n, the trace of H^k."""
        return (self.weights * self.nodes**k).sum(1).mean()

    def on_grid(self, grid: Any, width: float) -> jax.Array:
        """The density at every value of `grid`, in its shape, smoothed by Gaussians of standard deviation `width`."""
        if not width > 0:
            raise InputError(f"got width={width!r}, expected a positive number.")
        grid = jnp.asarray(grid, self.nodes.dtype)

        def at(value: jax.Array) -> jax.Array:
            return (self.weights * gaussian.pdf(value, self.nodes, width)).sum(1).mean()

        return jax.lax.map(at, grid.ravel()).reshape(grid.shape)


@short_repr
class TraceEstimate(NamedTuple):
    """An estimate of the trace of a Hessian.

    Attributes:
        estimate: The mean over draws, a scalar.
        standard_error: Its standard error, a scalar.
    """

    estimate: jax.Array
    standard_error: jax.Array


def spectral_density(
    key: jax.Array,
    loss: Loss,
    theta: trees.Tree,
    *,
    draws: int = 8,
    steps: int = 64,
    chunk: int = 1,
    curvature: Curvature = "hessian",
) -> SpectralDensity:
    """The distribution of all eigenvalues of the Hessian of a loss, by stochastic Lanczos quadrature.

    Each start vector, the normalised normal vector of one of `jax.random.split(key, draws)`, gives a Gauss quadrature
    that is exact for moments up to 2 steps - 1 of its spectral measure; the mean over starts estimates the
    moments of the eigenvalues. One compiled program serves losses of one kind and networks of one shape.
    Source: Golub and Welsch 1969, Calculation of Gauss Quadrature Rules; Lin, Saad and Yang 2016, Approximating
    Spectral Densities of Large Matrices, section 3.2; Ghorbani, Krishnan and Xiao 2019, An Investigation into Neural
    Net Optimization via Hessian Eigenvalue Density.

    Args:
        key: Key of the start vectors.
        loss: A pure function of one network to a scalar.
        theta: The network.
        draws: The number of start vectors.
        steps: Lanczos iterations from each, at most the number of parameters.
        chunk: Draws computed at once, each with `steps` vectors in memory.
        curvature: "hessian", or "gauss_newton" for its Gauss-Newton part, of losses of `full_batch_loss`.

    Returns:
        Nodes and weights of every draw.

    Raises:
        InputError: An argument is out of range.

    Example::

        density = spectral_density(key, full_batch_loss(task), theta)
        negative_share = (density.weights * (density.nodes < 0)).sum(1).mean()
    """
    trees.check_keys(key, 0)
    check_curvature(curvature)
    for name, value in (("draws", draws), ("steps", steps), ("chunk", chunk)):
        check_whole(name, value)
    steps = min(steps, trees.parameter_count(theta))
    return _density(key, as_loss(loss), theta, draws, steps, chunk, curvature)


@jit(static_argnames=("draws", "steps", "chunk", "curvature"))
def _density(
    key: jax.Array, loss: Loss, theta: trees.Tree, draws: int, steps: int, chunk: int, curvature: Curvature
) -> SpectralDensity:
    matrix = curvature_operator(loss, theta, curvature)

    def draw(key: jax.Array) -> SpectralDensity:
        # Lin, Saad and Yang, section 3.2: Lanczos from a random unit vector.
        decomposition = lanczos(matrix.product, jax.random.normal(key, (matrix.size,), matrix.dtype), steps)
        # Golub and Welsch: the nodes are the eigenvalues of the tridiagonal matrix, and the weights are the squares of
        # the first entries of its eigenvectors.
        nodes, ritz = jnp.linalg.eigh(decomposition.dense())
        weights = jnp.square(ritz[0])
        return SpectralDensity(nodes, weights / weights.sum())

    return _map_draws(draw, jax.random.split(key, draws), chunk)


def hessian_trace(
    key: jax.Array, loss: Loss, theta: trees.Tree, *, draws: int = 32, chunk: int = 1, curvature: Curvature = "hessian"
) -> TraceEstimate:
    """The trace of the Hessian of a loss: the mean of v^T H v over vectors v of random signs.

    Exact for a diagonal Hessian. One compiled program serves losses of one kind and networks of one shape.
    Source: Hutchinson 1989, A Stochastic Estimator of the Trace of the Influence Matrix.

    Args:
        key: Key of the vectors.
        loss: A pure function of one network to a scalar.
        theta: The network.
        draws: The number of vectors, at least 2.
        chunk: Draws computed at once.
        curvature: "hessian", or "gauss_newton" for its Gauss-Newton part, of losses of `full_batch_loss`.

    Returns:
        The estimate and its standard error.

    Raises:
        InputError: An argument is out of range.
    """
    trees.check_keys(key, 0)
    check_curvature(curvature)
    check_whole("draws", draws, 2)
    check_whole("chunk", chunk)
    return _trace(key, as_loss(loss), theta, draws, chunk, curvature)


@jit(static_argnames=("draws", "chunk", "curvature"))
def _trace(
    key: jax.Array, loss: Loss, theta: trees.Tree, draws: int, chunk: int, curvature: Curvature
) -> TraceEstimate:
    matrix = curvature_operator(loss, theta, curvature)

    def draw(key: jax.Array) -> jax.Array:
        # Hutchinson: v^T H v with random signs v, whose mean is the trace.
        signs = jax.random.rademacher(key, (matrix.size,), matrix.dtype)
        return jnp.vdot(signs, matrix.product(signs), precision="highest")

    values = _map_draws(draw, jax.random.split(key, draws), chunk)
    return TraceEstimate(values.mean(), values.std(ddof=1) / draws**0.5)


def _map_draws(draw: Callable[[jax.Array], Any], keys: jax.Array, chunk: int) -> Any:
    return jax.lax.map(draw, keys, batch_size=None if chunk == 1 else min(chunk, len(keys)))


__all__ = ["SpectralDensity", "TraceEstimate", "hessian_trace", "spectral_density"]
