"""The two ways in which work can fail, and how a wrong name is answered."""

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """What the caller gave cannot be used; the message says got, expected and what to do."""


class RunError(RuntimeError):
    """The work itself failed (a loss that is not finite, a full disk); what was complete is kept."""


def unknown_name(kind: str, got: str, choices: Iterable[str], expected: str | None = None) -> InputError:
    """An error for a name that is not among `choices`, with the nearest one if there is one near.

    `expected` says what can be had, where the choices are too many to list.
    """
    choices = sorted(choices)
    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(got.lower(), lower, n=1, cutoff=0.5)
    hint = f" Did you mean {lower[near[0]]!r}?" if near else ""
    return InputError(f"unknown {kind}: got {got!r}, expected {expected or 'one of ' + ', '.join(choices)}.{hint}")


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Raise InputError unless `value` is a whole number from `least` to `most`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        expected = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"got {name}={value!r}, expected a whole number {expected}.")
