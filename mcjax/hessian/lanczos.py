"""The spectrum of a Hessian too large to form: its ends, its density and its trace, by products with vectors."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm as gaussian

from mcjax import trees
from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.hessian.products import Loss, Of, Product, as_loss, check_of, operator
from mcjax.runtime.compiling import jit
from mcjax.training.loop import check_typed_keys

Which = Literal["both", "largest", "smallest"]


class Tridiagonal(NamedTuple):
    """A symmetric matrix as a tridiagonal one in an orthonormal basis, as far as some steps of Lanczos reach.

    diagonal: (steps,). off_diagonal: (steps - 1,), not negative. basis: (steps, n), orthonormal rows, the first
    along the start. basis @ A @ basis.T is tridiagonal up to rounding.
    """

    diagonal: jax.Array
    off_diagonal: jax.Array
    basis: jax.Array

    def dense(self) -> jax.Array:
        """The tridiagonal matrix, (steps, steps)."""
        return jnp.diag(self.diagonal) + jnp.diag(self.off_diagonal, 1) + jnp.diag(self.off_diagonal, -1)


class Eigenpairs(NamedTuple):
    """Eigenvalues, and unit eigenvectors as a tree like the parameters with a leading axis.

    values, residuals: (pairs,). residuals: ||H v - value v||; an eigenvalue is no farther from each value.
    """

    values: jax.Array
    vectors: trees.Tree
    residuals: jax.Array


class SpectralDensity(NamedTuple):
    """The share of eigenvalues at every place, as point masses that each draw estimates it by.

    nodes, weights: (draws, steps); nodes ascend, the weights of a draw sum to one.
    """

    nodes: jax.Array
    weights: jax.Array

    def moment(self, k: int) -> jax.Array:
        """The mean of the k-th power of the eigenvalues, a scalar: times n, the trace of H^k."""
        return (self.weights * self.nodes**k).sum(1).mean()

    def on_grid(self, grid: Any, width: float) -> jax.Array:
        """The density at every value of `grid`, each mass a Gaussian of standard deviation `width`: grid's shape."""
        if not width > 0:
            raise InputError(f"got width={width!r}, expected a positive one.")
        grid = jnp.asarray(grid, self.nodes.dtype)

        def at(value: jax.Array) -> jax.Array:
            return (self.weights * gaussian.pdf(value, self.nodes, width)).sum(1).mean()

        return jax.lax.map(at, grid.ravel()).reshape(grid.shape)


class Trace(NamedTuple):
    """An estimate of the trace and its standard error, scalars."""

    estimate: jax.Array
    standard_error: jax.Array


def lanczos(product: Product, start: jax.Array, steps: int) -> Tridiagonal:
    """`steps` steps of Lanczos from `start` (n,), at most n, every vector made orthogonal to all before it, twice.

    Where the vectors so far span an invariant subspace, the off-diagonal entry is zero and the iteration goes on
    from the unit vector that is least in it, made orthogonal: so nothing is NaN, n steps are all of the matrix, and
    the eigenvectors of what comes after have no part of the start. Pure: works under jit and vmap. Raises
    InputError for other steps.
    Source: Golub and Van Loan, Matrix Computations, Algorithm 10.1.1 and section 10.3.

        tridiagonal = lanczos(lambda vector: a @ vector, start, 20)
        ritz_values = jnp.linalg.eigvalsh(tridiagonal.dense())
    """
    if not isinstance(start, jax.Array | np.ndarray) or start.ndim != 1:
        raise InputError(f"got a start of shape {np.shape(start)}, expected an array (n,): a vector that A takes.")
    (n,) = start.shape
    check_whole("steps", steps, 1, n)
    rounding = 10 * jnp.finfo(start.dtype).eps

    def orthogonal(vector: jax.Array, basis: jax.Array) -> jax.Array:
        for _ in range(2):
            parts = jnp.matmul(basis, vector, precision="highest")
            vector = vector - jnp.matmul(parts, basis, precision="highest")
        return vector

    def ahead(vector: jax.Array, least: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The next unit vector, and the length of `vector`, zero if that is no more than `least`."""
        length = jnp.linalg.norm(vector)
        broken = length <= least

        def outside() -> jax.Array:
            most = jnp.square(basis).sum(0).argmin()
            return orthogonal((jnp.arange(n) == most).astype(start.dtype), basis)

        kept = jax.lax.cond(broken, outside, lambda: vector)
        # After the last of n steps there is nothing outside.
        return kept / jnp.maximum(jnp.linalg.norm(kept), jnp.finfo(start.dtype).tiny), jnp.where(broken, 0, length)

    def step(k: jax.Array, state: tuple) -> tuple:
        basis, diagonal, off_diagonal, vector, scale = state
        basis = basis.at[k].set(vector)
        image = product(vector)
        scale = jnp.maximum(scale, jnp.linalg.norm(image))
        after, length = ahead(orthogonal(image, basis), rounding * scale, basis)
        diagonal = diagonal.at[k].set(jnp.vdot(vector, image, precision="highest"))
        return basis, diagonal, off_diagonal.at[k].set(length), after, scale

    empty, zeros = jnp.zeros((steps, n), start.dtype), jnp.zeros(steps, start.dtype)
    first, _ = ahead(start, jnp.zeros((), start.dtype), empty)
    state = (empty, zeros, zeros, first, jnp.zeros((), start.dtype))
    basis, diagonal, off_diagonal, _, _ = jax.lax.fori_loop(0, steps, step, state)
    return Tridiagonal(diagonal, off_diagonal[:-1], basis)


def extreme_eigenpairs(
    key: jax.Array,
    loss: Loss,
    theta: trees.Tree,
    *,
    count: int = 1,
    which: Which = "both",
    steps: int | None = None,
    of: Of = "hessian",
) -> Eigenpairs:
    """The `count` largest eigenvalues of the Hessian of a loss (descending), then the `count` smallest (ascending).

    which: "largest" or "smallest" for these alone. steps: of Lanczos from a random start, as many products and
    vectors in memory (None: 100, or 8 count if that is more, but no more than parameters). Values of
    too few steps lie inside the spectrum, and the residuals tell; eigenvalues that are equal are found once,
    unless the steps suffice for all of the matrix. of: "gauss_newton" for that part of the Hessian. One compiled
    program for losses of a kind and networks of a shape. Raises InputError for numbers out of range.

        sharpness = extreme_eigenpairs(key, full_batch_loss(model, data), theta, which="largest").values[0]
    """
    check_typed_keys(key)
    check_of(of)
    if which not in ("both", "largest", "smallest"):
        raise unknown_name("end of the spectrum", str(which), ("both", "largest", "smallest"))
    size = trees.parameter_count(theta)
    check_whole("count", count, 1, size)
    steps = min(size, max(100, 8 * count)) if steps is None else steps
    check_whole("steps", steps, count, size)
    return _eigenpairs(key, as_loss(loss), theta, count, which, steps, of)


@jit(static_argnames=("count", "which", "steps", "of"))
def _eigenpairs(
    key: jax.Array, loss: Loss, theta: trees.Tree, count: int, which: Which, steps: int, of: Of
) -> Eigenpairs:
    at = operator(loss, theta, of)
    reached = lanczos(at.product, jax.random.normal(key, (at.size,), at.dtype), steps)
    inside = jnp.linalg.eigh(reached.dense())[1]
    largest, smallest = jnp.arange(steps - 1, steps - 1 - count, -1), jnp.arange(count)
    chosen = {"both": jnp.concatenate([largest, smallest]), "largest": largest, "smallest": smallest}[which]
    vectors = jnp.matmul(inside[:, chosen].T, reached.basis, precision="highest")
    vectors = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
    images = jax.lax.map(at.product, vectors)
    # Rayleigh quotients: nearer to the eigenvalues than those of a basis that is orthonormal up to rounding.
    values = jnp.einsum("kn,kn->k", vectors, images, precision="highest")
    residuals = jnp.linalg.norm(images - values[:, None] * vectors, axis=1)
    return Eigenpairs(values, jax.vmap(at.unravel)(vectors), residuals)


def spectral_density(
    key: jax.Array,
    loss: Loss,
    theta: trees.Tree,
    *,
    draws: int = 8,
    steps: int = 64,
    chunk: int = 1,
    of: Of = "hessian",
) -> SpectralDensity:
    """The distribution of all eigenvalues of the Hessian of a loss, by stochastic Lanczos quadrature.

    From each of `draws` starts, the normal vectors of `jax.random.split(key, draws)` made unit ones, `steps` steps of
    Lanczos (fewer parameters: as many) give a Gauss quadrature: moments up to 2 steps - 1 are exact for the start,
    and their mean over starts is that of the eigenvalues. chunk: draws at once, each with `steps` vectors in
    memory. of: "gauss_newton" for that part of the Hessian. One compiled program for losses of a kind and networks
    of a shape. Raises InputError for numbers out of range.
    Source: Lin, Saad and Yang 2016, Approximating Spectral Densities of Large Matrices, section 3.2; Ghorbani,
    Krishnan and Xiao 2019, An Investigation into Neural Net Optimization via Hessian Eigenvalue Density.

        density = spectral_density(key, full_batch_loss(model, data), theta)
        negative = (density.weights * (density.nodes < 0)).sum(1).mean()
    """
    check_typed_keys(key)
    check_of(of)
    for name, value in (("draws", draws), ("steps", steps), ("chunk", chunk)):
        check_whole(name, value)
    steps = min(steps, trees.parameter_count(theta))
    return _density(key, as_loss(loss), theta, draws, steps, chunk, of)


@jit(static_argnames=("draws", "steps", "chunk", "of"))
def _density(
    key: jax.Array, loss: Loss, theta: trees.Tree, draws: int, steps: int, chunk: int, of: Of
) -> SpectralDensity:
    at = operator(loss, theta, of)

    def one(key: jax.Array) -> SpectralDensity:
        reached = lanczos(at.product, jax.random.normal(key, (at.size,), at.dtype), steps)
        nodes, inside = jnp.linalg.eigh(reached.dense())
        weights = jnp.square(inside[0])
        return SpectralDensity(nodes, weights / weights.sum())

    return _over_draws(one, jax.random.split(key, draws), chunk)


def hessian_trace(
    key: jax.Array, loss: Loss, theta: trees.Tree, *, draws: int = 32, chunk: int = 1, of: Of = "hessian"
) -> Trace:
    """The trace of the Hessian of a loss, as the mean of v^T H v over `draws` vectors of random signs.

    Without error if H is diagonal. draws: at least 2, `chunk` of them at once. of: "gauss_newton" for that part of
    the Hessian. One compiled program for losses of a kind and networks of a shape. Raises InputError for numbers
    out of range.
    Source: Hutchinson 1989, A Stochastic Estimator of the Trace of the Influence Matrix.
    """
    check_typed_keys(key)
    check_of(of)
    check_whole("draws", draws, 2)
    check_whole("chunk", chunk)
    return _trace(key, as_loss(loss), theta, draws, chunk, of)


@jit(static_argnames=("draws", "chunk", "of"))
def _trace(key: jax.Array, loss: Loss, theta: trees.Tree, draws: int, chunk: int, of: Of) -> Trace:
    at = operator(loss, theta, of)

    def one(key: jax.Array) -> jax.Array:
        signs = jax.random.rademacher(key, (at.size,), at.dtype)
        return jnp.vdot(signs, at.product(signs), precision="highest")

    values = _over_draws(one, jax.random.split(key, draws), chunk)
    return Trace(values.mean(), values.std(ddof=1) / draws**0.5)


def _over_draws(one: Callable[[jax.Array], Any], keys: jax.Array, chunk: int) -> Any:
    return jax.lax.map(one, keys, batch_size=None if chunk == 1 else min(chunk, len(keys)))


__all__ = [
    "Eigenpairs",
    "SpectralDensity",
    "Trace",
    "Tridiagonal",
    "Which",
    "extreme_eigenpairs",
    "hessian_trace",
    "lanczos",
    "spectral_density",
]
