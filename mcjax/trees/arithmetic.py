"""Vector arithmetic of floating-point leaves."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mcjax.trees.axes import index, length
from mcjax.trees.names import Tree, compiled
from mcjax.trees.variables import aligned, at_least_float32, check_alike, floating, is_floating, widened


def combine(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """`jax.tree.map` of a sum or a multiple: the way in which networks are computed from networks.

    Args:
        fn: The function of the floating-point leaves. It gets them in float32 at least.
        tree: The first tree, such as theta_1, whose dtypes the result has, and whose other leaves it keeps.
        *rest: Further trees with leaves of the same names, in any containers; in place of the other leaves they may
            have anything.

    Returns:
        A tree like `tree`.

    Raises:
        InputError: If the names differ.
    """

    def combined(leaf: Any, *others: Any) -> Any:
        if not is_floating(leaf):
            return leaf
        return fn(*map(at_least_float32, (leaf, *others))).astype(jax.dtypes.canonicalize_dtype(leaf.dtype))

    return jax.tree.map(combined, tree, *(aligned(tree, other) for other in rest))


@compiled
def interpolate(a: Tree, b: Tree, t: Any) -> Tree:
    """(1 - t) a + t b, the point at t of the straight line from network a to b. A pure function, also of t."""
    check_alike(a, b)
    t = as_precise_as(a, t)
    return combine(lambda x, y: (1 - t) * x + t * y, a, b)


def as_precise_as(tree: Tree, value: Any) -> jax.Array:
    """A number in float32 at least, and in float64 if it or a leaf of the tree is."""
    dtypes = (leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating))
    return jnp.asarray(value, jnp.result_type(jnp.float32, *dtypes, jnp.asarray(value)))


@compiled
def mean(thetas: Tree) -> Tree:
    """The mean of networks along a leading axis, with the other leaves of the first."""
    length(thetas)
    first = index(thetas, 0)
    return combine(lambda _, leaf: leaf.mean(0), first, thetas)


@compiled
def add(a: Tree, b: Tree) -> Tree:
    """a + b, in the dtypes of a."""
    check_alike(a, b)
    return combine(jnp.add, a, b)


@compiled
def subtract(a: Tree, b: Tree) -> Tree:
    """a - b, a deviation, in float32 at least."""
    check_alike(a, b)
    return combine(jnp.subtract, widened(a), b)


@compiled
def scale(factor: Any, a: Tree) -> Tree:
    """factor * a, for a scalar factor, in the dtypes of a."""
    return combine(lambda leaf: factor * leaf, a)


@compiled
def dot(a: Tree, b: Tree) -> jax.Array:
    """The inner product of two trees, accumulated leaf by leaf: a float32 scalar, float64 under `jax.enable_x64`.

    Of complex leaves it is the real part of <a, b>, their product as vectors of twice as many real numbers.
    """
    check_alike(a, b)
    leaves = zip(*(jax.tree.leaves(widened(floating(tree))) for tree in (a, aligned(a, b))), strict=True)
    return sum((jnp.vdot(x, y, precision="highest").real for x, y in leaves), jnp.zeros(()))


@compiled
def norm(a: Tree) -> jax.Array:
    """The Euclidean norm of a tree taken as one vector."""
    return jnp.sqrt(dot(a, a))
