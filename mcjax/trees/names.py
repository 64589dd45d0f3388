"""Leaves by name, in containers of any kind."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from mcjax.errors import InputError

Tree = Any
"""A pytree of arrays."""

# One program per tree structure, instead of one per shape of leaf.
compiled = partial(jax.jit, inline=True)


def path_name(path: tuple) -> str:
    """The name of a leaf: its keys joined by slashes, as in `params/Conv_0/kernel`, in containers of any kind."""
    return "/".join(path_keys(path))


def path_keys(path: tuple) -> list[str]:
    """The keys of a leaf. That of the array in a variable of Flax, as in an `nnx.State`, is none of them."""
    keys = path[:-1] if len(path) > 1 and is_box(path[-1:]) else path
    return [jax.tree_util.keystr((key,), simple=True) for key in keys]


def is_box(path: tuple) -> bool:
    """Whether this is the path from a variable of Flax to the array in it."""
    return path == (jax.tree_util.GetAttrKey("value"),)


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves of `tree` by name, in the tree's own order. Raises InputError if two have one name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {path_name(path): leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        twice = Counter(path_name(path) for path, _ in leaves).most_common(1)[0][0]
        raise InputError(f"got two leaves of the name {twice!r}, expected one of each: rename a key that has a slash.")
    return named


def map_with_name(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """`jax.tree.map` whose function also receives the name of the leaf, as its first argument."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(path_name(path), *leaves), tree, *rest)


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from leaves by name; the inverse of `flatten` for trees made of dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf by name."""
    return {name: shape_of(leaf) for name, leaf in flatten(tree).items()}


def shape_of(leaf: Any) -> tuple[int, ...]:
    """The shape of a leaf; that of a scalar for what has none."""
    return tuple(getattr(leaf, "shape", ()))


def like(tree: Tree, other: Tree) -> Tree:
    """The leaves of `other` in the containers of `tree`, by name: of a FrozenDict in dicts, of a dict in lists.

    Raises:
        InputError: If their leaves have other names. The message names the first.
    """
    if same_containers(tree, other):
        return other
    names, leaves = list(flatten(tree)), flatten(other)
    if wrong := [name for name in [*names, *leaves] if (name in names) != (name in leaves)]:
        got, expected = ("there", "none") if wrong[0] in leaves else ("none", "one")
        raise InputError(f"leaf {wrong[0]!r}: got {got}, expected {expected}, as in the tree that it is combined with.")
    return jax.tree.unflatten(jax.tree.structure(tree), [leaves[name] for name in names])


def same_containers(a: Tree, b: Tree) -> bool:
    """Whether two trees differ in their leaves alone."""
    structure: Any = jax.tree.structure(a)
    return bool(structure == jax.tree.structure(b))
