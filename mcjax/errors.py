"""Errors and warnings for wrong input and failed runs, and checks of names, numbers, functions and kinds of objects."""

import difflib
import inspect
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


class InputError(ValueError):
    """Invalid input. The message states the value got, the value expected, and a remedy."""


class RunError(RuntimeError):
    """A failed run: a loss that is not finite, or a full disk. The last complete epoch is kept."""


class InputWarning(UserWarning):
    """Input that is probably not what was meant. The message states what was found, and a remedy."""


def unknown_name(kind: str, got: Any, choices: Iterable[str], expected: str | None = None) -> InputError:
    """The error for a name that is not among the choices, with the nearest one as a hint.

    Args:
        kind: The kind of thing named, such as "model".
        got: The unknown name; of anything else, its type is shown.
        choices: The valid names.
        expected: A description of the choices, where they are too many to list.

    Returns:
        The exception, to be raised by the caller.
    """
    choices, got = sorted(choices), got if isinstance(got, str) else type(got).__name__
    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(got.lower(), lower, n=1, cutoff=0.5)
    hint = f" Did you mean {lower[near[0]]!r}?" if near else ""
    return InputError(f"unknown {kind}: got {got!r}, expected {expected or 'one of ' + ', '.join(choices)}.{hint}")


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Raise InputError unless a value is a whole number in a range.

    Args:
        name: The name of the argument, for the message.
        value: The value.
        least: The smallest value allowed.
        most: The largest value allowed. None: no limit.

    Raises:
        InputError: If the value is not a whole number, or out of range.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        expected = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"got {name}={value!r}, expected a whole number {expected}.")


def check_positive(name: str, value: Any) -> None:
    """Raise InputError unless a value is a positive number; infinity is one."""
    if not isinstance(value, Real) or not float(value) > 0:
        raise InputError(f"got {name}={value!r}, expected a positive number.")


def check_kind(name: str, value: Any, kind: type, remedy: str) -> None:
    """Raise InputError unless a value is of this kind.

    Args:
        name: The name of the argument, for the message.
        value: The value.
        kind: The class expected.
        remedy: How to get one, for the message.

    Raises:
        InputError: If it is of another class, or is a class itself.
    """
    if not isinstance(value, kind):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise InputError(f"got {got} for {name}, expected {kind.__name__}: {remedy}.")


def check_function(expected: str, function: Any) -> None:
    """Raise InputError unless a value is a function that can be called as expected.

    Args:
        expected: The name of the argument and the call, such as "loss(theta, batch, key) -> value".
        function: The value.
    """
    name, _, rest = expected.partition("(")  # of the first call, if a remedy has others
    if not callable(function):
        raise InputError(f"got {function!r} for {name}, expected {expected}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtin functions have none
        return
    try:
        signature.bind(*rest.partition(")")[0].split(","))
    except TypeError as error:
        called = getattr(getattr(function, "func", function), "__name__", type(function).__name__)
        raise InputError(
            f"got {called}({', '.join(signature.parameters)}) for {name}, expected {expected}: {error}."
        ) from None


def check_fields(config: Any) -> None:
    """Raise InputError unless the fields of a dataclass are of the kinds that it declares.

    What is declared as a class, a `Literal` or a union of these is checked, and anything else is not. A flag is True
    or False, since any string would be true.
    """
    for name, kinds in _declared(config.__class__).items():
        value = getattr(config, name)
        if any(_is_a(value, kind) for kind in kinds):
            continue
        names = [choice for kind in kinds for choice in get_args(kind)]
        if names:
            raise unknown_name(name, str(value), names)
        expected = " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds)
        raise InputError(f"got {name}={value!r}, expected {expected}.")


_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    NoneType: "None",
}


@cache
def _declared(kind: Any) -> dict[str, tuple[Any, ...]]:
    """The kinds of values that each field of a dataclass may have, of the fields that `check_fields` checks."""
    hints = get_type_hints(kind)
    unions = {name: get_args(hint) if isinstance(hint, UnionType) else (hint,) for name, hint in hints.items()}
    return {each.name: unions[each.name] for each in fields(kind) if all(map(_is_checked, unions[each.name]))}


def _is_checked(kind: Any) -> bool:
    return isinstance(kind, type) or get_origin(kind) is Literal


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, kind)
