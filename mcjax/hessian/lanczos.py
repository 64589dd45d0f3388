"""The Lanczos iteration, and the extreme eigenpairs of Hessians too large to form."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.hessian.products import Curvature, Loss, Product, as_loss, check_curvature, curvature_operator
from mcjax.runtime.compiling import jit
from mcjax.shown import short_repr

Which = Literal["both", "largest", "smallest"]
"""The ends of the spectrum to compute."""


@short_repr
class Tridiagonal(NamedTuple):
    """The Lanczos decomposition of a symmetric matrix A: `basis @ A @ basis.T` is tridiagonal, up to rounding.

    Attributes:
        diagonal: The diagonal entries alpha, (steps,).
        off_diagonal: The off-diagonal entries beta, not negative, (steps - 1,).
        basis: Orthonormal rows, the first of which is the normalised start vector, (steps, n).
    """

    diagonal: jax.Array
    off_diagonal: jax.Array
    basis: jax.Array

    def dense(self) -> jax.Array:
        """The tridiagonal matrix, (steps, steps)."""
        return jnp.diag(self.diagonal) + jnp.diag(self.off_diagonal, 1) + jnp.diag(self.off_diagonal, -1)


@short_repr
class Eigenpairs(NamedTuple):
    """Eigenvalues with their unit eigenvectors.

    Attributes:
        values: The eigenvalues, (count,).
        vectors: The eigenvectors, a tree like the parameters with a leading axis, (count, ...).
        residuals: ||H v - value v|| of each pair, (count,); H has an eigenvalue at most this far from the value.
    """

    values: jax.Array
    vectors: trees.Tree
    residuals: jax.Array


def lanczos(product: Product, start: jax.Array, steps: int) -> Tridiagonal:
    """The Lanczos iteration with full reorthogonalisation.

    When the basis spans an invariant subspace (a breakdown), the off-diagonal entry is zero and the iteration restarts
    from the coordinate vector with the smallest projection onto the subspace. So there are no NaN, n steps decompose
    the whole matrix, and the Ritz vectors of later blocks are orthogonal to the start vector. Pure: works under jit and
    vmap.
    Source: Golub and Van Loan, Matrix Computations, Algorithm 10.1.1 and section 10.3.

    Args:
        product: The product of the matrix with a vector (n,).
        start: The start vector, (n,).
        steps: The number of iterations, 1 to n.

    Returns:
        The tridiagonal matrix and its basis.

    Raises:
        InputError: The start is not a vector, or `steps` is out of range.

    Example::

        tridiagonal = lanczos(lambda vector: a @ vector, start, 20)
        ritz_values = jnp.linalg.eigvalsh(tridiagonal.dense())
    """
    if not isinstance(start, jax.Array | np.ndarray) or start.ndim != 1:
        raise InputError(f"got a start of shape {np.shape(start)}, expected a vector (n,).")
    (n,) = start.shape
    check_whole("steps", steps, 1, n)
    rounding = 10 * jnp.finfo(start.dtype).eps

    def step(k: jax.Array, state: tuple) -> tuple:
        basis, diagonal, off_diagonal, vector, scale = state
        basis = basis.at[k].set(vector)
        # A q_k, and the largest such norm so far, the scale of rounding errors.
        image = product(vector)
        scale = jnp.maximum(scale, jnp.linalg.norm(image))
        # r_k = A q_k minus its projection onto the basis; beta_k = ||r_k|| and q_{k+1} = r_k / beta_k, or a restart if
        # r_k is rounding error.
        following, length = _normalize(_orthogonalize(image, basis), rounding * scale, basis)
        # alpha_k = q_k^T A q_k.
        diagonal = diagonal.at[k].set(jnp.vdot(vector, image, precision="highest"))
        return basis, diagonal, off_diagonal.at[k].set(length), following, scale

    empty, zeros = jnp.zeros((steps, n), start.dtype), jnp.zeros(steps, start.dtype)
    first, _ = _normalize(start, jnp.zeros((), start.dtype), empty)
    state = (empty, zeros, zeros, first, jnp.zeros((), start.dtype))
    basis, diagonal, off_diagonal, _, _ = jax.lax.fori_loop(0, steps, step, state)
    return Tridiagonal(diagonal, off_diagonal[:-1], basis)


def _orthogonalize(vector: jax.Array, basis: jax.Array) -> jax.Array:
    """The part of `vector` orthogonal to all rows of `basis`, by classical Gram-Schmidt twice."""
    for _ in range(2):
        parts = jnp.matmul(basis, vector, precision="highest")
        vector = vector - jnp.matmul(parts, basis, precision="highest")
    return vector


def _normalize(vector: jax.Array, threshold: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The next basis vector and the norm of `vector`; after a breakdown (norm at most `threshold`) that is zero."""
    length = jnp.linalg.norm(vector)
    breakdown = length <= threshold

    def restart() -> jax.Array:
        # The coordinate vector e_j with the smallest projection onto the basis.
        j = jnp.square(basis).sum(0).argmin()
        return _orthogonalize((jnp.arange(len(vector)) == j).astype(vector.dtype), basis)

    direction = jax.lax.cond(breakdown, restart, lambda: vector)
    # After n steps the basis is complete and the direction zero: no division by it.
    norm = jnp.maximum(jnp.linalg.norm(direction), jnp.finfo(vector.dtype).tiny)
    return direction / norm, jnp.where(breakdown, 0, length)


def extreme_eigenpairs(
    key: jax.Array,
    loss: Loss,
    theta: trees.Tree,
    *,
    count: int = 1,
    which: Which = "both",
    steps: int | None = None,
    curvature: Curvature = "hessian",
) -> Eigenpairs:
    """The largest and smallest eigenvalues of the Hessian of a loss, by Lanczos from a random start.

    With too few steps the values lie inside the spectrum, and the residuals are large. A multiple eigenvalue is found
    once, unless there are as many steps as parameters. One compiled program serves losses of one kind and networks of
    one shape.

    Args:
        key: Key of the start vector.
        loss: A pure function of one network to a scalar.
        theta: The network.
        count: Eigenvalues at each end.
        which: "both" ends, or only the "largest" or the "smallest".
        steps: Lanczos iterations, each one product and one vector in memory. None: max(100, 8 count), at most the
            number of parameters.
        curvature: "hessian", or "gauss_newton" for its Gauss-Newton part, of losses of `full_batch_loss`.

    Returns:
        The `count` largest (descending), then the `count` smallest (ascending).

    Raises:
        InputError: An argument is out of range.

    Example::

        sharpness = extreme_eigenpairs(key, full_batch_loss(task), theta, which="largest").values[0]
    """
    trees.check_keys(key, 0)
    check_curvature(curvature)
    if which not in ("both", "largest", "smallest"):
        raise unknown_name("end of the spectrum", str(which), ("both", "largest", "smallest"))
    size = trees.parameter_count(theta)
    check_whole("count", count, 1, size)
    steps = min(size, max(100, 8 * count)) if steps is None else steps
    check_whole("steps", steps, count, size)
    return _eigenpairs(key, as_loss(loss), theta, count, which, steps, curvature)


@jit(static_argnames=("count", "which", "steps", "curvature"))
def _eigenpairs(
    key: jax.Array, loss: Loss, theta: trees.Tree, count: int, which: Which, steps: int, curvature: Curvature
) -> Eigenpairs:
    matrix = curvature_operator(loss, theta, curvature)
    decomposition = lanczos(matrix.product, jax.random.normal(key, (matrix.size,), matrix.dtype), steps)
    # Ritz vectors: eigenvectors of the tridiagonal matrix, in the Lanczos basis.
    ritz = jnp.linalg.eigh(decomposition.dense())[1]
    largest, smallest = jnp.arange(steps - 1, steps - 1 - count, -1), jnp.arange(count)
    chosen = {"both": jnp.concatenate([largest, smallest]), "largest": largest, "smallest": smallest}[which]
    vectors = jnp.matmul(ritz[:, chosen].T, decomposition.basis, precision="highest")
    vectors = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
    # Rayleigh quotients v^T H v, more accurate than Ritz values of a basis that is orthonormal only up to rounding.
    images = jax.lax.map(matrix.product, vectors)
    values = jnp.einsum("kn,kn->k", vectors, images, precision="highest")
    residuals = jnp.linalg.norm(images - values[:, None] * vectors, axis=1)
    return Eigenpairs(values, jax.vmap(matrix.unravel)(vectors), residuals)


__all__ = ["Eigenpairs", "Tridiagonal", "Which", "extreme_eigenpairs", "lanczos"]
