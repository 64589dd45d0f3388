"""Exceptions and warnings for wrong input and failed runs, and checks of names and numbers."""

import difflib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """Invalid input. The message states the value got, the value expected, and a remedy."""


class RunError(RuntimeError):
    """A failed run: a loss that is not finite, or a full disk. The last complete epoch is kept."""


class InputWarning(UserWarning):
    """Input that is probably not what was meant. The message states what was found, and a remedy."""


def unknown_name(kind: str, got: str, choices: Iterable[str], expected: str | None = None) -> InputError:
    """The error for a name that is not among the choices, with the nearest one as a hint.

    Args:
        kind: The kind of thing named, such as "model".
        got: The unknown name.
        choices: The valid names.
        expected: A description of the choices, where they are too many to list.

    Returns:
        The exception, to be raised by the caller.
    """
    choices = sorted(choices)
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
