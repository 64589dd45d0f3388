"""The variables of a network: parameters and batch statistics, what is trained, and in which dtype it is summed."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax.errors import InputError
from mcjax.shown import is_known, short
from mcjax.trees.keys import without_keys
from mcjax.trees.names import Tree, compiled, flatten, like, map_with_name, same_containers, shape_of, shapes


def params(theta: Tree) -> Tree:
    """The trainable parameters: `theta["params"]`, or all of `theta` if it has no collections."""
    return theta["params"] if isinstance(theta, Mapping) and "params" in theta else theta


def with_params(theta: Tree, leaves: Tree) -> Tree:
    """`theta` with `leaves` in place of its parameters; `leaves` itself if `theta` has no collections."""
    return type(theta)({**theta, "params": leaves}) if params(theta) is not theta else leaves


def batch_stats(theta: Tree) -> Tree:
    """The batch statistics of `theta`; an empty dict if it has none."""
    return theta.get("batch_stats", {}) if isinstance(theta, Mapping) else {}


def with_batch_stats(theta: Tree, stats: Tree) -> Tree:
    """`theta` with `stats` in place of its batch statistics; `theta` itself if `stats` is empty."""
    if not jax.tree.leaves(stats):
        return theta
    return type(theta)({**theta, "batch_stats": like(batch_stats(theta) or stats, stats)})


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is of real or complex floating-point numbers: what is added, interpolated and trained.

    Raises InputError if it is no array.
    """
    try:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    except TypeError:
        raise InputError(f"got {short(leaf)}, expected arrays alone in the variables of a network.") from None
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def floating(tree: Tree) -> Tree:
    """The tree with None, which is no leaf, in place of all leaves that are not floating-point."""
    return jax.tree.map(lambda leaf: leaf if is_floating(leaf) else None, tree)


def with_floating(tree: Tree, leaves: Tree) -> Tree:
    """`tree` with the leaves of `leaves`, a tree as from `floating`, in place of its own."""
    return jax.tree.map(lambda leaf, new: leaf if new is None else new, tree, aligned(tree, leaves))


def trained(theta: Tree) -> Tree:
    """The floating-point leaves of a network's parameters, which training changes, as from `floating`."""
    return floating(params(theta))


def with_trained(theta: Tree, leaves: Tree) -> Tree:
    """`theta` with the leaves of `leaves`, a tree as from `trained`, in place of its own."""
    return with_params(theta, with_floating(params(theta), leaves))


def parameter_count(theta: Tree) -> int:
    """The number of trainable parameters, which are floating-point."""
    return sum(leaf.size for leaf in jax.tree.leaves(trained(theta)))


def widened(tree: Tree) -> Tree:
    """The tree with its floating-point leaves in float32 at least, as for sums."""
    return jax.tree.map(lambda leaf: at_least_float32(leaf) if is_floating(leaf) else leaf, tree)


def at_least_float32(value: Any) -> jax.Array:
    """An array in float32, or in float64 if it is; integers become float32."""
    value = jnp.asarray(value)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def cast(a: Tree, dtype: Any) -> Tree:
    """The tree with its floating-point leaves cast to `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, a)


def not_finite(tree: Tree) -> list[str]:
    """The names of the floating-point leaves that hold infinity or NaN; none of traced arrays and of shapes."""
    leaves = {name: leaf for name, leaf in flatten(floating(tree)).items() if is_known(leaf)}
    # Those on a device in one program, whose answers come together.
    there = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, jax.Array)}
    finite = jax.device_get(_are_finite(there)) if there else {}
    return [name for name, leaf in leaves.items() if not (finite[name] if name in finite else np.isfinite(leaf).all())]


@compiled
def _are_finite(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.isfinite(leaf).all() for name, leaf in leaves.items()}


def check_alike(a: Tree, b: Tree, first: str = "the first tree", second: str = "the second tree") -> None:
    """Raise InputError, naming the first leaf that differs, unless b has the floating-point leaves of a.

    In place of the other leaves, b may have anything. The last two are the names of a and b, for the message.
    """
    left, right = map(jax.tree.leaves, (a, b))
    same: bool = jax.tree.structure(a) == jax.tree.structure(b)  # type: ignore[operator]
    if same and [*map(shape_of, left)] == [*map(shape_of, right)]:
        return
    ours, theirs, needed = shapes(a), shapes(b), shapes(floating(a))
    names = [*needed, *(name for name in theirs if not any(f"{name}/".startswith(f"{known}/") for known in ours))]
    for name in names:
        if ours.get(name) != theirs.get(name):
            got, expected = (found.get(name, "nothing") for found in (theirs, ours))
            raise InputError(
                f"{second} differs from {first} at {name or 'its root'}: got {got}, expected {expected}, for networks "
                "of one architecture, all single or all as many along a leading axis."
            )


def aligned(tree: Tree, other: Tree) -> Tree:
    """`other` in the containers of `tree`, with None in place of the leaves that are not added."""
    if same_containers(tree, other):
        return other
    state = flatten(tree).keys() - flatten(floating(tree)).keys()
    return like(floating(tree), map_with_name(lambda name, leaf: None if name in state else leaf, other))


def fingerprint(tree: Tree) -> str:
    """The sha256 of the names, dtypes, shapes and values of all leaves."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(without_keys(tree)).items()):
        array = np.asarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
