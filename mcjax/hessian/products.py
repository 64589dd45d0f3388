"""The curvature of a loss: products of its Hessian with vectors, and the whole Hessian of small networks."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mcjax import trees
from mcjax.data import normalize
from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import plainly
from mcjax.training.full_batch import Chunk, FullBatchLoss

Loss = Callable[[Any], jax.Array]
"""A pure function of one network to a scalar: a `jax.tree_util.Partial` such as `full_batch_loss`, or any other."""

Product = Callable[[jax.Array], jax.Array]
"""A symmetric matrix (n, n), known by its product with a vector (n,)."""

Of = Literal["hessian", "gauss_newton"]
"""Which matrix: the Hessian of the loss, or its positive semidefinite Gauss-Newton part."""

DENSE_LIMIT = 5000
"""Parameters up to which the whole matrix is formed: 200 MB of float64."""


class Operator(NamedTuple):
    """A matrix of second derivatives at a network, for vectors in the order of `ravel_pytree` of the parameters.

    product: of the matrix with a vector (n,). size: n. dtype: of vectors. unravel: a vector as a tree like the
    parameters.
    """

    product: Product
    size: int
    dtype: Any
    unravel: Callable[[jax.Array], trees.Tree]


def as_loss(loss: Loss) -> Loss:
    """A loss that can be an argument of a compiled program. Raises InputError if it is not a function of one argument.

    A program is compiled once for every function, and for every Partial of one function and shapes of arrays.
    """
    if not callable(loss):
        raise InputError(f"got {loss!r} as loss, expected a function of one network, such as full_batch_loss().")
    try:
        hash(loss.func if isinstance(loss, jax.tree_util.Partial) else loss)
    except TypeError:
        raise InputError(
            f"got a loss of type {type(loss).__name__} that has no hash, so that programs of it cannot be told "
            "apart: expected a function, a frozen dataclass, or a jax.tree_util.Partial of one and arrays."
        ) from None
    return loss if isinstance(loss, jax.tree_util.Partial) else jax.tree_util.Partial(loss)


def checked(loss: Loss, theta: trees.Tree) -> Loss:
    """The loss as a function of `trees.params(theta)` alone.

    Raises InputError if there are no parameters or some are not real numbers; when called, if the value is no scalar.
    """
    leaves = trees.flatten(trees.params(theta))
    wrong = [name for name, leaf in leaves.items() if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    if wrong or not leaves:
        raise InputError(
            f"got parameters of which {', '.join(wrong)} cannot be differentiated, expected floating-point arrays."
            if leaves
            else "got a network without parameters, expected at least one array."
        )

    def of_params(moved: trees.Tree) -> jax.Array:
        value = jnp.asarray(loss(trees.with_params(theta, moved)))
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise InputError(f"got a loss that returns {value.dtype} {value.shape}, expected a real scalar.")
        return value

    return of_params


def gradient(loss: Loss, theta: trees.Tree) -> trees.Tree:
    """The gradient of the loss by `trees.params(theta)`, a tree like these. Pure: works under jit and vmap."""
    with jax.default_matmul_precision("highest"):
        return jax.grad(checked(loss, theta))(trees.params(theta))


def hessian_product(loss: Loss, theta: trees.Tree, vector: trees.Tree) -> trees.Tree:
    """H v, the derivative of the gradient along `vector`: a tree like `trees.params(theta)`, as `vector` is.

    Exact up to rounding, forward over reverse mode: about the cost of two gradients, and no matrix is formed. Of
    what is in theta beside its parameters, batch statistics, nothing is differentiated. Pure: works under jit and
    vmap. Raises InputError if the vector is not like the parameters, or the loss is no real scalar.
    Source: Pearlmutter 1994, Fast Exact Multiplication by the Hessian.

        curved = jax.jit(hessian_product)(full_batch_loss(model, data), theta, direction)
    """
    leaves = trees.params(theta)
    check_like(leaves, vector, "vector")
    with jax.default_matmul_precision("highest"):
        return jax.jvp(jax.grad(checked(loss, theta)), (leaves,), (_typed(vector, leaves),))[1]


def gauss_newton_product(loss: Loss, theta: trees.Tree, vector: trees.Tree) -> trees.Tree:
    """G v = J^T H_outputs J v + weight_decay v, for a loss of `full_batch_loss`: a tree like `trees.params(theta)`.

    J: the derivative of the model's outputs by the parameters; H_outputs: the Hessian of the mean loss by the
    outputs, which is positive semidefinite, and so is G. It is the Hessian where the outputs are linear in the
    parameters, or where the loss's gradient by the outputs is zero. A batch of images at a time. Pure: works under
    jit and vmap. Raises InputError for another loss, whose outputs are not known, or a vector unlike the parameters.
    Source: Schraudolph 2002, Fast Curvature Matrix-Vector Products.
    """
    function = getattr(loss, "func", None)
    if not isinstance(function, FullBatchLoss):
        raise InputError(
            "got a loss whose outputs are not known, expected one of full_batch_loss() for a Gauss-Newton product: "
            'give such a loss, or of="hessian".'
        )
    (split,) = loss.args  # type: ignore[attr-defined]
    leaves = trees.params(theta)
    check_like(leaves, vector, "vector")
    vector = _typed(vector, leaves)

    def add(total: trees.Tree, chunk: Chunk) -> tuple[trees.Tree, None]:
        x = normalize(chunk.images, split.mean, split.std)

        def outputs_at(moved: trees.Tree) -> jax.Array:
            return function.model.apply(trees.with_params(theta, moved), x)

        with plainly():
            outputs, along = jax.jvp(outputs_at, (leaves,), (vector,))
        by_outputs = jax.grad(lambda outputs: function.summed_loss(outputs, chunk))
        curved = jax.jvp(by_outputs, (outputs,), (along,))[1]
        # Reverse mode anew, by the convolutions that have a fast one.
        (back,) = jax.vjp(outputs_at, leaves)[1](curved)
        return trees.add(total, back), None

    with jax.default_matmul_precision("highest"):
        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, leaves), split.chunks)
    decay = function.weight_decay
    return jax.tree.map(lambda summed, v: (summed / split.size + decay * v).astype(v.dtype), total, vector)


def operator(loss: Loss, theta: trees.Tree, of: Of = "hessian") -> Operator:
    """The Hessian of a loss at a network, or its Gauss-Newton matrix, as an `Operator`."""
    flat, unravel = ravel_pytree(trees.params(theta))
    product = hessian_product if of == "hessian" else gauss_newton_product
    return Operator(
        lambda vector: ravel_pytree(product(loss, theta, unravel(vector)))[0], flat.size, flat.dtype, unravel
    )


def dense_hessian(loss: Loss, theta: trees.Tree, *, chunk: int = 64, of: Of = "hessian") -> jax.Array:
    """The Hessian of the loss by all parameters, (n, n) in their dtype, symmetric.

    Rows and columns are in the order of `ravel_pytree(trees.params(theta))`, leaf by leaf: the names are
    `[name for name, leaf in trees.flatten(trees.params(theta)).items() for _ in range(leaf.size)]`. chunk: how many
    columns are computed at once. of: "gauss_newton" for that part of it. Raises InputError for more than
    `DENSE_LIMIT` parameters.

        eigenvalues = np.linalg.eigvalsh(dense_hessian(full_batch_loss(model, data), theta))
    """
    check_whole("chunk", chunk)
    check_of(of)
    loss, size = as_loss(loss), trees.parameter_count(theta)
    if size > DENSE_LIMIT:
        raise InputError(
            f"got {size} parameters, a matrix of {size}^2 numbers, expected at most {DENSE_LIMIT}. Lanczos needs no "
            "matrix: extreme_eigenpairs() has the ends of the spectrum, spectral_density() all of it."
        )
    return _dense(loss, theta, chunk, of)


@jit(static_argnames=("chunk", "of"))
def _dense(loss: Loss, theta: trees.Tree, chunk: int, of: Of) -> jax.Array:
    at = operator(loss, theta, of)

    def column(i: jax.Array) -> jax.Array:
        return at.product((jnp.arange(at.size) == i).astype(at.dtype))

    columns = jax.lax.map(column, jnp.arange(at.size), batch_size=min(chunk, at.size))
    return (columns + columns.T) / 2


def check_of(of: str) -> None:
    """Raise InputError unless `of` names a matrix of second derivatives."""
    if of not in ("hessian", "gauss_newton"):
        raise unknown_name("matrix", str(of), ("hessian", "gauss_newton"))


def check_like(leaves: trees.Tree, given: trees.Tree, what: str) -> None:
    """Raise InputError unless `given` has the leaves of `leaves`, by name and shape."""
    got, expected = trees.shapes(given), trees.shapes(leaves)
    for name in sorted(got.keys() | expected.keys()):
        if got.get(name) != expected.get(name):
            raise InputError(
                f"{what}: got {got.get(name, 'nothing')} for {name or 'the array'}, expected "
                f"{expected.get(name, 'nothing')}: a tree like mcjax.trees.params(theta)."
            )


def _typed(vector: trees.Tree, leaves: trees.Tree) -> trees.Tree:
    return jax.tree.map(lambda v, leaf: jnp.asarray(v, jnp.result_type(leaf)), vector, leaves)


__all__ = [
    "DENSE_LIMIT",
    "Loss",
    "Of",
    "Operator",
    "Product",
    "as_loss",
    "check_like",
    "check_of",
    "checked",
    "dense_hessian",
    "gauss_newton_product",
    "gradient",
    "hessian_product",
    "operator",
]
