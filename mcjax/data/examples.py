"""The examples of a split: arrays with a common leading axis, or batches of them from the host."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data.stream import Stream
from mcjax.errors import InputError


def as_examples(split: str, given: Any) -> Any:
    """Arrays as they are, and what yields batches as a `Stream`. Raises InputError for anything else."""
    yields = isinstance(given, Iterable) or callable(given) or hasattr(given, "__getitem__")
    known = given is None or isinstance(given, Stream | str) or hasattr(given, "shape")
    if yields and not known and jax.tree_util.all_leaves([given]):
        return Stream(given, name=f"the {split} batches")
    if given is not None and not isinstance(given, Stream):
        _check_arrays(split, given)
    return given


def _check_arrays(split: str, given: Any) -> None:
    leaves = trees.flatten(given)
    wrong = {name: type(leaf).__name__ for name, leaf in leaves.items() if not _is_array(leaf)}
    if wrong:
        shown = ", ".join(f"{name or 'they'} of type {kind}" for name, kind in wrong.items())
        raise InputError(
            f"got {split} examples that are no arrays: {shown}; expected a pytree of arrays (n, ...) of numpy or JAX, "
            "or a function that returns batches of them."
        )
    for name, leaf in leaves.items():
        # JAX has 32 bits, into which larger integers would be wrapped.
        kept = jax.dtypes.canonicalize_dtype(leaf.dtype) if isinstance(leaf, np.ndarray) else None
        if kept is not None and leaf.dtype != kept and leaf.dtype.kind in "iu" and leaf.size:
            low, high = int(leaf.min()), int(leaf.max())
            if low < np.iinfo(kept).min or high > np.iinfo(kept).max:
                raise InputError(f"got {split} examples {name} from {low} to {high}, expected integers of 32 bits.")
    shapes = {name or "the array": jnp.shape(leaf) for name, leaf in leaves.items()}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        shown = ", ".join(f"{name} {shape}" for name, shape in [*shapes.items()][:8]) or "no array"
        more = ", ..." * (len(shapes) > 8)
        raise InputError(
            f"got {split} examples without a common leading axis: {shown}{more}; expected arrays (n, ...), n "
            "the same for all, or a function that returns batches."
        )


def _is_array(leaf: Any) -> bool:
    """Whether a leaf is an array of numpy or JAX, or the shape of one, and not of another library."""
    return isinstance(leaf, np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct)


def few(split: Any) -> Any:
    """The shapes and dtypes of a batch of the first examples of a split, at most 128."""

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype
        if not jnp.issubdtype(dtype, jax.dtypes.extended):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return jax.ShapeDtypeStruct((min(128, leaf.shape[0]), *leaf.shape[1:]), dtype)

    return jax.tree.map(shape, split.shapes if isinstance(split, Stream) else split)


__all__ = ["as_examples", "few"]
