"""Typed keys of random numbers, which numpy and files do not have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax.errors import InputError
from mcjax.trees.names import Tree


def is_key(leaf: Any) -> bool:
    """Whether a leaf is of typed keys, as from `jax.random.key`."""
    return jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def check_keys(keys: Any, most: int | None = None) -> jax.Array:
    """`keys`. Raises InputError unless they are typed (`jax.random.key`), of at most so many axes: 0 for one key."""
    if not isinstance(keys, jax.Array) or not is_key(keys):
        got = f"an array of {keys.dtype}" if isinstance(keys, jax.Array) else type(keys).__name__
        raise InputError(f"got {got} for a key, expected a typed one: jax.random.key(seed).")
    if most is not None and keys.ndim > most:
        expected = "one key: jax.random.key(seed)" if most == 0 else "one, or several along one axis"
        raise InputError(f"got keys of shape {keys.shape}, expected {expected}.")
    return keys


def without_keys(tree: Tree) -> Tree:
    """The tree with the data of typed keys in their place, for numpy and for checkpoints."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def with_keys(tree: Tree, like: Tree) -> Tree:
    """The inverse of `without_keys`, with typed keys where `like` has them."""

    def typed(leaf: Any, like: Any) -> Any:
        return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like)) if is_key(like) else leaf

    return jax.tree.map(typed, tree, like)
