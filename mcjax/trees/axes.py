"""Several networks along a leading axis."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax.errors import InputError
from mcjax.trees.keys import is_key
from mcjax.trees.names import Tree, compiled, like, shapes
from mcjax.trees.variables import check_alike


@compiled
def stack(trees: Sequence[Tree]) -> Tree:
    """Trees of equal leaves joined along a new leading axis, like the first. Raises InputError if they differ."""
    if not isinstance(trees, list | tuple) or not trees:
        raise InputError(f"got {type(trees).__name__}, expected a list of networks: [theta_1, theta_2].")
    for each in trees[1:]:
        check_alike(trees[0], each)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *_alike(trees))


@compiled
def concatenate(trees: Sequence[Tree]) -> Tree:
    """Trees with leaves of the same names, joined along their leading axes; the result is like the first."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *_alike(trees))


def _alike(trees: Sequence[Tree]) -> list[Tree]:
    return [like(trees[0], tree) for tree in trees]


def on_host(tree: Tree) -> Tree:
    """The tree as numpy arrays, but for typed keys, which numpy does not have."""
    return jax.tree.map(lambda leaf: leaf if is_key(leaf) else np.asarray(leaf), tree)


def stack_on_host(trees: Sequence[Tree]) -> Tree:
    """Trees as from `on_host` joined along a new leading axis, on the host."""
    return jax.tree.map(lambda *leaves: (jnp if is_key(leaves[0]) else np).stack(leaves), *_alike(trees))


def unstack(tree: Tree) -> list[Tree]:
    """The entries of the leading axis of every leaf, one tree for each; the inverse of `stack`."""
    return [index(tree, i) for i in range(length(tree))]


def length(thetas: Tree) -> int:
    """The number of networks along the leading axis of every leaf. Raises InputError unless all leaves agree on it."""
    found = {name: shape[0] if shape else -1 for name, shape in shapes(thetas).items()}
    if len(set(found.values())) != 1 or -1 in found.values():
        first = dict(list(found.items())[:4])
        raise InputError(
            f"got leaves of leading lengths {first}, expected networks along a leading axis, equally long in every "
            "leaf: mcjax.trees.stack([theta_1, theta_2])."
        )
    return next(iter(found.values()))


def index(tree: Tree, i: Any) -> Tree:
    """Entry (or slice) `i` of the leading axis of every leaf; None adds a leading axis of one entry."""
    # Entries of numpy arrays are views; slices and masks cannot be arguments of a compiled program.
    numbers = i is None or isinstance(i, int) or (isinstance(i, np.ndarray) and np.issubdtype(i.dtype, np.integer))
    on_device = numbers and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
    return compiled(_entries)(tree, i) if on_device else _entries(tree, i)


def _entries(tree: Tree, i: Any) -> Tree:
    return jax.tree.map(lambda leaf: leaf[i], tree)
