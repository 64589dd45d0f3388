"""Curvature of a loss: products of its Hessian and Gauss-Newton matrix with vectors, and the dense matrices."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mcjax import trees
from mcjax.errors import InputError, check_function, check_whole, unknown_name
from mcjax.hessian.full_batch import FullBatch, FullBatchLoss
from mcjax.runtime.compiling import jit
from mcjax.shown import short_repr
from mcjax.training.batches import at_least_float32
from mcjax.training.loss import Batch, check_parameters
from mcjax.training.supervised import SupervisedLoss
from mcjax.training.task import examples

Loss = Callable[[Any], jax.Array]
"""A pure function of one network to a scalar: a `jax.tree_util.Partial` such as `full_batch_loss`, or any other."""

Product = Callable[[jax.Array], jax.Array]
"""The product of a symmetric matrix (n, n) with a vector (n,)."""

Curvature = Literal["hessian", "gauss_newton"]
"""A matrix of second derivatives: the Hessian of the loss, or its positive semidefinite Gauss-Newton part."""

DENSE_LIMIT = 5000
"""Largest number of parameters for which a dense matrix is formed: 200 MB of float64."""


@short_repr
class Operator(NamedTuple):
    """A matrix of second derivatives at a network, represented by its product with vectors.

    Attributes:
        product: The product with a vector (n,), in the order of `ravel_pytree` of the parameters.
        size: The number of parameters, n.
        dtype: The dtype of vectors.
        unravel: Converts a vector (n,) to a tree like the parameters.
    """

    product: Product
    size: int
    dtype: Any
    unravel: Callable[[jax.Array], trees.Tree]


def as_loss(loss: Loss) -> Loss:
    """Convert a loss to a `jax.tree_util.Partial`, which can be an argument of a compiled program.

    A program is compiled once per function, and for a Partial once per function and shapes of its arrays.

    Raises:
        InputError: The loss is not callable, or not hashable.
    """
    check_function("loss(theta) -> scalar, such as full_batch_loss(task)", loss)
    try:
        hash(loss.func if isinstance(loss, jax.tree_util.Partial) else loss)
    except TypeError:
        raise InputError(
            f"got a loss of type {type(loss).__name__}, which is not hashable, as the cache of compiled programs "
            "needs: expected a function, a frozen dataclass, or a jax.tree_util.Partial of one and arrays."
        ) from None
    return loss if isinstance(loss, jax.tree_util.Partial) else jax.tree_util.Partial(loss)


def loss_of_params(loss: Loss, theta: trees.Tree) -> Loss:
    """The loss as a function of `trees.trained(theta)` alone, with all else in `theta` held fixed.

    Raises:
        InputError: There are no floating-point parameters, or they are complex. The returned function raises it if the
            loss is not a real scalar.
    """
    check_parameters(trees.trained(theta))

    def of_params(params: trees.Tree) -> jax.Array:
        value = jnp.asarray(loss(trees.with_trained(theta, params)))
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise InputError(f"got a loss that returns {value.dtype} {value.shape}, expected a real scalar.")
        return value

    return of_params


def gradient(loss: Loss, theta: trees.Tree) -> trees.Tree:
    """The gradient of the loss with respect to `trees.trained(theta)`, a tree like these. Pure."""
    with jax.default_matmul_precision("highest"):
        return jax.grad(loss_of_params(loss, theta))(trees.trained(theta))


def hessian_product(loss: Loss, theta: trees.Tree, vector: trees.Tree) -> trees.Tree:
    """H v, the derivative of the gradient along a vector, by forward over reverse mode.

    Exact up to rounding, at about the cost of two gradients; no matrix is formed. Batch statistics in `theta` are
    constants. Pure: works under jit and vmap.
    Source: Pearlmutter 1994, Fast Exact Multiplication by the Hessian.

    Args:
        loss: A pure function of one network to a scalar.
        theta: The network at which the Hessian is taken.
        vector: A tree like `trees.trained(theta)`.

    Returns:
        H v, a tree like `trees.trained(theta)`.

    Raises:
        InputError: The vector is not like the parameters, or the loss is not a real scalar.

    Example::

        product = jax.jit(hessian_product)(full_batch_loss(task), theta, direction)
    """
    leaves = trees.trained(theta)
    vector = cast_like(leaves, vector, "vector")
    with jax.default_matmul_precision("highest"):
        return jax.jvp(jax.grad(loss_of_params(loss, theta)), (leaves,), (vector,))[1]


def gauss_newton_product(loss: Loss, theta: trees.Tree, vector: trees.Tree) -> trees.Tree:
    """G v = J^T H_out J v + weight_decay v, with J the Jacobian of the model's outputs.

    H_out is the Hessian of the mean loss with respect to the outputs. For losses that are convex in the outputs, such
    as the cross entropy and the squared error, it is positive semidefinite, and so is G. G is the Hessian where the
    outputs are linear in the parameters, or where the gradient with respect to the outputs is zero. Examples are
    processed in the batches of the loss. Pure: works under jit and vmap.
    Source: Schraudolph 2002, Fast Curvature Matrix-Vector Products.

    Args:
        loss: A loss of `full_batch_loss(task)` of a task of `supervised`, which gives access to the model's outputs.
        theta: The network at which the matrix is taken.
        vector: A tree like `trees.trained(theta)`.

    Returns:
        G v, a tree like `trees.trained(theta)`.

    Raises:
        InputError: The loss is another one, or the vector is not like the parameters.
    """
    training, split, decay = _loss_of_outputs(loss)
    leaves = trees.trained(theta)
    vector = cast_like(leaves, vector, "vector")

    def product_on(batch: Batch) -> trees.Tree:
        x = training.inputs(batch)

        def outputs_at(params: trees.Tree) -> Any:
            return training.model.apply(trees.with_trained(theta, params), x)

        def summed_loss(outputs: Any) -> jax.Array:
            return at_least_float32(training.measure(outputs, batch[1])["loss"]) * examples(batch)

        # J v, by forward mode.
        outputs, tangent = jax.jvp(outputs_at, (leaves,), (vector,))
        # H_out J v.
        cotangent = jax.jvp(jax.grad(summed_loss), (outputs,), (tangent,))[1]
        # J^T H_out J v, by reverse mode.
        return jax.vjp(outputs_at, leaves)[1](cotangent)[0]

    def add(total: trees.Tree, batch: Batch) -> tuple[trees.Tree, None]:
        return trees.add(total, product_on(batch)), None

    with jax.default_matmul_precision("highest"):
        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, trees.widened(leaves)), split.batches)
        if split.rest is not None:
            total, _ = add(total, split.rest)
    return jax.tree.map(lambda summed, v: (summed / split.size + decay * v).astype(v.dtype), total, vector)


def _loss_of_outputs(loss: Loss) -> tuple[SupervisedLoss, FullBatch, float]:
    """The loss of the outputs of a model, the examples and the weight decay of a loss of `full_batch_loss`.

    Raises:
        InputError: The loss is not one of a task of `supervised`.
    """
    function = getattr(loss, "func", None)
    if isinstance(function, FullBatchLoss):
        task, split = loss.args  # type: ignore[attr-defined]
        # What is measured is the loss of the outputs only if the metrics are those of `supervised` too.
        if isinstance(task.loss, SupervisedLoss) and getattr(task.metrics, "func", None) is SupervisedLoss.evaluate:
            return task.loss, split, function.weight_decay
        got = "a full_batch_loss of a task whose loss or metrics are not those of supervised(model, data),"
    else:
        got = f"a loss of type {type(function or loss).__name__}"
    raise InputError(
        f"got {got} without access to the outputs of the model, expected full_batch_loss(supervised(model, data, "
        'loss=...)) for a Gauss-Newton product: give such a loss, or curvature="hessian".'
    )


def curvature_operator(loss: Loss, theta: trees.Tree, curvature: Curvature = "hessian") -> Operator:
    """The Hessian or Gauss-Newton matrix of a loss at a network, as an `Operator` on flat vectors.

    A network in bfloat16 or float16 is cast to float32 first, since the matrix is too rough in its dtype.
    """
    check_function("loss(theta) -> scalar, such as full_batch_loss(task)", loss)
    theta = trees.widened(theta)
    flat, unravel = ravel_pytree(trees.trained(theta))
    product = hessian_product if curvature == "hessian" else gauss_newton_product
    return Operator(
        lambda vector: ravel_pytree(product(loss, theta, unravel(vector)))[0], flat.size, flat.dtype, unravel
    )


def dense_hessian(loss: Loss, theta: trees.Tree, *, chunk: int = 64, curvature: Curvature = "hessian") -> jax.Array:
    """The Hessian of a loss with respect to all parameters, as a dense matrix.

    Args:
        loss: A pure function of one network to a scalar.
        theta: The network, with n parameters.
        chunk: Columns computed at once.
        curvature: "hessian", or "gauss_newton" for its Gauss-Newton part, of losses of `full_batch_loss`.

    Returns:
        (n, n), symmetric, in the dtype of the parameters, at least float32. Rows and columns are in the order of
        `ravel_pytree(trees.trained(theta))`; their names are
        `[name for name, leaf in trees.flatten(trees.trained(theta)).items() for _ in range(leaf.size)]`.

    Raises:
        InputError: There are more than 5,000 parameters, or an argument is out of range.

    Example::

        eigenvalues = np.linalg.eigvalsh(dense_hessian(full_batch_loss(task), theta))
    """
    check_whole("chunk", chunk)
    check_curvature(curvature)
    loss, size = as_loss(loss), trees.parameter_count(theta)
    if size > DENSE_LIMIT:
        raise InputError(
            f"got {size} parameters, a matrix of {size}^2 numbers, expected at most {DENSE_LIMIT}. Lanczos needs no "
            "matrix: extreme_eigenpairs() has the ends of the spectrum, spectral_density() all of it."
        )
    return _dense(loss, theta, chunk, curvature)


@jit(static_argnames=("chunk", "curvature"))
def _dense(loss: Loss, theta: trees.Tree, chunk: int, curvature: Curvature) -> jax.Array:
    matrix = curvature_operator(loss, theta, curvature)

    def column(i: jax.Array) -> jax.Array:
        return matrix.product((jnp.arange(matrix.size) == i).astype(matrix.dtype))

    columns = jax.lax.map(column, jnp.arange(matrix.size), batch_size=min(chunk, matrix.size))
    return (columns + columns.T) / 2


def check_curvature(curvature: str) -> None:
    """Raise InputError unless `curvature` is "hessian" or "gauss_newton"."""
    if curvature not in ("hessian", "gauss_newton"):
        raise unknown_name("curvature", str(curvature), ("hessian", "gauss_newton"))


def check_like(leaves: trees.Tree, given: trees.Tree, what: str) -> None:
    """Raise InputError unless `given` has the leaves of `leaves`, by name and shape."""
    got, expected = trees.shapes(given), trees.shapes(leaves)
    for name in sorted(got.keys() | expected.keys()):
        if got.get(name) != expected.get(name):
            raise InputError(
                f"{what}: got {got.get(name, 'nothing')} for {name or 'the array'}, expected "
                f"{expected.get(name, 'nothing')}: a tree like mcjax.trees.trained(theta)."
            )


def cast_like(leaves: trees.Tree, vector: trees.Tree, what: str) -> trees.Tree:
    """The vector in the dtypes of `leaves`. Raises InputError as `check_like` does."""
    # A vector may have the counters and keys of the network that it is like.
    names = trees.flatten(leaves)
    vector = trees.map_with_name(lambda name, leaf: leaf if name in names or trees.is_floating(leaf) else None, vector)
    check_like(leaves, vector, what)
    return jax.tree.map(lambda v, leaf: jnp.asarray(v, jnp.result_type(leaf)), vector, leaves)


__all__ = [
    "DENSE_LIMIT",
    "Curvature",
    "Loss",
    "Operator",
    "Product",
    "as_loss",
    "cast_like",
    "check_curvature",
    "check_like",
    "curvature_operator",
    "dense_hessian",
    "gauss_newton_product",
    "gradient",
    "hessian_product",
    "loss_of_params",
]
