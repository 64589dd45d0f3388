"""How results are printed: by names, shapes and a few numbers, never by the weights that they hold."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import jax
import numpy as np

Class = TypeVar("Class", bound=type)
ENTRIES, NUMBERS, LETTERS = 6, 6, 80


def short_repr(kind: Class) -> Class:
    """Class decorator for NamedTuples and dataclasses: `repr` is short, with arrays by dtype and shape.

    Example::

        @short_repr
        class Result(NamedTuple):
            theta: dict
            loss: jax.Array

        print(Result(theta, loss))  # Result(theta=<4 arrays of 3,203 numbers>, loss=0.25)
    """

    def __repr__(self: Any) -> str:
        names = [field.name for field in fields(self)] if is_dataclass(self) else self._fields
        return f"{type(self).__name__}({', '.join(f'{name}={short(getattr(self, name))}' for name in names)})"

    kind.__repr__ = __repr__  # type: ignore[assignment, method-assign]
    return kind


@jax.tree_util.register_pytree_node_class
class Bound(jax.tree_util.Partial):
    """A `jax.tree_util.Partial`, a function with bound arguments that is a pytree of them, whose `repr` is short."""

    def __repr__(self) -> str:
        return f"<{short(self.func)} of {short(self.args)}>"

    def tree_flatten(self) -> tuple[Any, Any]:
        """The bound arguments, and the function."""
        return (self.args, self.keywords), self.func

    @classmethod
    def tree_unflatten(cls, function: Any, bound: Any) -> "Bound":
        """The inverse of `tree_flatten`."""
        return cls(function, *bound[0], **bound[1])


def short(value: Any) -> str:
    """One line about any value: small arrays by their numbers, others by dtype and shape, trees by their size."""
    if _is_array(value):
        return _array(value)
    if isinstance(value, jax.tree_util.Partial):
        return Bound.__repr__(value)  # type: ignore[arg-type]
    if isinstance(value, Mapping) and all(map(_is_array, value.values())):
        return f"{{{_several([f'{name}: {_array(each)}' for name, each in value.items()])}}}"
    if isinstance(value, Mapping | list | tuple) and not hasattr(value, "_fields"):
        leaves = [leaf for leaf in jax.tree.leaves(value) if _is_array(leaf)]
        if isinstance(value, Mapping) or len(leaves) > ENTRIES:
            return f"<{len(leaves)} arrays of {sum(int(np.prod(leaf.shape)) for leaf in leaves):,} numbers>"
        inside = _several(list(map(short, value)))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if callable(value) and not is_dataclass(value) and hasattr(value, "__name__"):
        return value.__name__
    text = repr(value)
    whole = len(text) <= LETTERS or "short_repr" in type(value).__repr__.__qualname__
    return text if whole else f"{text[:LETTERS]}..."


def is_known(value: Any) -> bool:
    """Whether a value is an array with numbers in it, which is not traced or only a shape."""
    return isinstance(value, np.ndarray | np.generic | jax.Array) and not isinstance(value, jax.core.Tracer)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _several(texts: list[str]) -> str:
    more = [f"... {len(texts) - ENTRIES} more"] * (len(texts) > ENTRIES)
    return ", ".join(texts[:ENTRIES] + more)


def _array(value: Any) -> str:
    numbers = isinstance(value.dtype, np.dtype) and value.dtype.kind in "iuf"
    if is_known(value) and numbers and value.shape == ():
        return str(np.asarray(value)[()])
    if is_known(value) and numbers and len(value.shape) == 1 and value.size <= NUMBERS:
        return np.array2string(np.asarray(value), precision=4, separator=", ")
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"
