"""Pytrees with leaves named by their path, and vector arithmetic on them.

Arithmetic is of floating-point leaves. It is computed in float32 at least, or in float64 where the leaf is, and a
network keeps the dtype of every leaf, which is rounded once. All other leaves are state: a counter, a mask, a key. They
are carried from the first tree, and never added, interpolated or differentiated.

Example::

    import jax
    import mcjax
    from mcjax import trees

    model = mcjax.models.create("mlp", 3, (4,), widths=(5,))
    theta_1, theta_2 = (model.init(jax.random.key(seed)) for seed in range(2))
    middle = trees.interpolate(theta_1, theta_2, 0.5)
    print(float(trees.norm(trees.subtract(theta_2, theta_1))), trees.parameter_count(middle))
    thetas = trees.stack([theta_1, middle, theta_2])  # networks along a leading axis
    print(trees.shapes(thetas))
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax.errors import InputError

Tree = Any
"""A pytree of arrays."""

# One program per tree structure, instead of one per shape of leaf.
_jit = partial(jax.jit, inline=True)


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
    """Whether a leaf is of real or complex floating-point numbers: what is added, interpolated and trained."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def floating(tree: Tree) -> Tree:
    """The tree with None, which is no leaf, in place of all leaves that are not floating-point."""
    return jax.tree.map(lambda leaf: leaf if is_floating(leaf) else None, tree)


def with_floating(tree: Tree, leaves: Tree) -> Tree:
    """`tree` with the leaves of `leaves`, a tree as from `floating`, in place of its own."""
    return jax.tree.map(lambda leaf, new: leaf if new is None else new, tree, _aligned(tree, leaves))


def trained(theta: Tree) -> Tree:
    """The floating-point leaves of a network's parameters, which training changes, as from `floating`."""
    return floating(params(theta))


def with_trained(theta: Tree, leaves: Tree) -> Tree:
    """`theta` with the leaves of `leaves`, a tree as from `trained`, in place of its own."""
    return with_params(theta, with_floating(params(theta), leaves))


def widened(tree: Tree) -> Tree:
    """The tree with its floating-point leaves in float32 at least, as for sums."""
    return jax.tree.map(lambda leaf: at_least_float32(leaf) if is_floating(leaf) else leaf, tree)


def at_least_float32(value: Any) -> jax.Array:
    """An array in float32, or in float64 if it is; integers become float32."""
    value = jnp.asarray(value)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


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
        return fn(*map(at_least_float32, (leaf, *others))).astype(leaf.dtype) if is_floating(leaf) else leaf

    return jax.tree.map(combined, tree, *(_aligned(tree, other) for other in rest))


def _aligned(tree: Tree, other: Tree) -> Tree:
    """`other` in the containers of `tree`, with None in place of the leaves that are not added."""
    if same_containers(tree, other):
        return other
    state = flatten(tree).keys() - flatten(floating(tree)).keys()
    return like(floating(tree), map_with_name(lambda name, leaf: None if name in state else leaf, other))


@_jit
def interpolate(a: Tree, b: Tree, t: Any) -> Tree:
    """(1 - t) a + t b, the point at t of the straight line from network a to b. A pure function, also of t."""
    t = as_precise_as(a, t)
    return combine(lambda x, y: (1 - t) * x + t * y, a, b)


def as_precise_as(tree: Tree, value: Any) -> jax.Array:
    """A number in float32 at least, and in float64 if it or a leaf of the tree is."""
    dtypes = (leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating))
    return jnp.asarray(value, jnp.result_type(jnp.float32, *dtypes, jnp.asarray(value)))


@_jit
def mean(thetas: Tree) -> Tree:
    """The mean of networks along a leading axis, with the other leaves of the first."""
    first = index(thetas, 0)
    return combine(lambda _, leaf: leaf.mean(0), first, thetas)


@_jit
def add(a: Tree, b: Tree) -> Tree:
    """a + b, in the dtypes of a."""
    return combine(jnp.add, a, b)


@_jit
def subtract(a: Tree, b: Tree) -> Tree:
    """a - b, a deviation, in float32 at least."""
    return combine(jnp.subtract, widened(a), b)


@_jit
def scale(factor: Any, a: Tree) -> Tree:
    """factor * a, for a scalar factor, in the dtypes of a."""
    return combine(lambda leaf: factor * leaf, a)


@_jit
def dot(a: Tree, b: Tree) -> jax.Array:
    """The inner product of two trees, accumulated leaf by leaf: a float32 scalar, float64 under `jax.enable_x64`."""
    leaves = zip(*(jax.tree.leaves(widened(floating(tree))) for tree in (a, _aligned(a, b))), strict=True)
    return sum((jnp.vdot(x, y, precision="highest") for x, y in leaves), jnp.zeros(()))


@_jit
def norm(a: Tree) -> jax.Array:
    """The Euclidean norm of a tree taken as one vector."""
    return jnp.sqrt(dot(a, a))


def cast(a: Tree, dtype: Any) -> Tree:
    """The tree with its floating-point leaves cast to `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, a)


@_jit
def stack(trees: Sequence[Tree]) -> Tree:
    """Trees with leaves of the same names, joined along a new leading axis; the result is like the first."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *_alike(trees))


@_jit
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
    return [index(tree, i) for i in range(len(jax.tree.leaves(tree)[0]))]


def index(tree: Tree, i: Any) -> Tree:
    """Entry (or slice) `i` of the leading axis of every leaf; None adds a leading axis of one entry."""
    # Entries of numpy arrays are views; slices and masks cannot be arguments of a compiled program.
    numbers = i is None or isinstance(i, int) or (isinstance(i, np.ndarray) and np.issubdtype(i.dtype, np.integer))
    on_device = numbers and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
    return _jit(_entries)(tree, i) if on_device else _entries(tree, i)


def _entries(tree: Tree, i: Any) -> Tree:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def without_keys(tree: Tree) -> Tree:
    """The tree with the data of typed keys in their place, for numpy and for checkpoints."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def with_keys(tree: Tree, like: Tree) -> Tree:
    """The inverse of `without_keys`, with typed keys where `like` has them."""

    def typed(leaf: Any, like: Any) -> Any:
        return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like)) if is_key(like) else leaf

    return jax.tree.map(typed, tree, like)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is of typed keys, as from `jax.random.key`."""
    return jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf by name."""
    return {name: tuple(jnp.shape(leaf)) for name, leaf in flatten(tree).items()}


def parameter_count(theta: Tree) -> int:
    """The number of trainable parameters, which are floating-point."""
    return sum(leaf.size for leaf in jax.tree.leaves(trained(theta)))


def fingerprint(tree: Tree) -> str:
    """The sha256 of the names, dtypes, shapes and values of all leaves."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(without_keys(tree)).items()):
        array = np.asarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
