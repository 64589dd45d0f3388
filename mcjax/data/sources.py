"""Sources of batches: their passes and their length, and batches in messages."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from mcjax.errors import InputError


def opener(source: Any) -> Callable[[int], Any]:
    """The function from the number of a pass to what yields its batches."""
    if isinstance(source, Iterable) or not callable(source):
        return lambda number: source
    try:
        parameters = list(inspect.signature(source).parameters.values())
    except ValueError:  # a function in C, such as zip
        parameters = []
    numbered = any(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
        for parameter in parameters
    )
    return source if numbered else lambda number: source()


def batches_of(opened: Any, name: str) -> Iterator[Any]:
    """The batches of a pass, of an iterable or of what has a length and is indexed."""
    if isinstance(opened, Iterable):
        return iter(opened)
    if not hasattr(opened, "__getitem__") or (n := length_of(opened)) is None:
        raise InputError(f"got a {type(opened).__name__} for {name}, expected an iterable, or a function of one.")
    return map(opened.__getitem__, range(n))


def length_of(opened: Any) -> int | None:
    """The number of batches of a pass, or None if it is not known."""
    try:
        return len(opened)
    # A loader of examples without a length has a `__len__` that raises this.
    except (TypeError, NotImplementedError):
        return None


def described(batch: Any) -> str:
    """A batch in a message: its structure, with the dtype and the shape of every leaf."""

    def kind(leaf: Any) -> str:
        if not hasattr(leaf, "dtype"):
            return type(leaf).__name__
        return f"{getattr(leaf.dtype, 'name', leaf.dtype)}{list(leaf.shape)}"

    leaves, structure = jax.tree.flatten(batch)
    return shown(structure, list(map(kind, leaves)))


def shown(structure: Any, kinds: list[str]) -> str:
    """A structure in a message, with these words in place of its leaves."""
    return str(jax.tree.unflatten(structure, kinds)).replace("'", "")


__all__ = ["batches_of", "described", "length_of", "opener", "shown"]
