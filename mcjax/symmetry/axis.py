"""One axis of one leaf: the group whose units lie on it, and where on the axis they lie."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mcjax.errors import InputError


class SpecError(InputError):
    """A permutation, a spec and variables that do not match each other."""


@dataclass(frozen=True)
class Axis:
    """An axis of length outer * n * inner whose middle factor is the n units of a group.

    A feature map (h, w, c) that is flattened before a dense layer gives that layer's kernel an input axis
    `Axis("conv", outer=h * w)`. Where the outputs of several layers are concatenated, each lies on a segment of the
    axis, from `start` up to `stop`; the segment then has length outer * n * inner, with n units.

    Attributes:
        group: Name of the group.
        outer: Product of the factors slower than the units.
        inner: Product of the factors faster than the units.
        consumes: Whether the axis consumes the units (the input axis of a kernel) or produces them (its output axis, a
            bias, a norm). None in a declaration: the last axis of a leaf produces them, all other axes consume them.
        start: First position of the segment.
        stop: Position after the segment. None: the end of the axis.
    """

    group: str
    outer: int = 1
    inner: int = 1
    consumes: bool | None = None
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.outer, self.inner, self.start, 0 if self.stop is None else self.stop)
        whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
        if not isinstance(self.group, str) or not whole:
            raise SpecError(f"got {vars(self)}, expected group to be a name and the others whole numbers.")
        if not (self.consumes is None or isinstance(self.consumes, bool)):
            raise SpecError(f"axis of group {self.group!r}: got consumes={self.consumes!r}, expected a bool or None.")
        if self.outer < 1 or self.inner < 1:
            raise SpecError(
                f"axis of group {self.group!r}: got outer={self.outer}, inner={self.inner}, "
                "expected both to be at least 1."
            )
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise SpecError(
                f"axis of group {self.group!r}: got start={self.start}, stop={self.stop}, expected 0 <= start < stop."
            )

    def __str__(self) -> str:
        outer = f"{self.outer}*" if self.outer > 1 else ""
        inner = f"*{self.inner}" if self.inner > 1 else ""
        part = f"[{self.start}:{self.stop}]" if self.stop is not None else f"[{self.start}:]" if self.start else ""
        return f"{outer}{self.group}{inner}{part}{' in' if self.consumes else ''}"

    def size(self, length: int) -> int:
        """The number of units on an axis of this length; 0 if the length does not fit the factors."""
        stop = length if self.stop is None else self.stop
        size, rest = divmod(stop - self.start, self.outer * self.inner)
        return 0 if rest or size < 1 or stop > length else size

    def positions(self, length: int) -> np.ndarray:
        """The positions of every unit on an axis of this length: int (n, outer * inner)."""
        n = self.size(length)
        index = self.start + np.arange(self.outer * n * self.inner).reshape(self.outer, n, self.inner)
        return index.transpose(1, 0, 2).reshape(n, self.outer * self.inner)


Entry = Axis | tuple[Axis, ...] | None
"""One axis of a leaf: never permuted, of one group, or of several (factors or segments of it)."""


def as_entry(declared: Any, last: bool) -> Entry:
    """The entry for a declaration: None, an Axis, the name of a group, or a sequence of these.

    Args:
        declared: The declaration.
        last: Whether this is the last axis of its leaf, which produces units unless `consumes` is set.

    Returns:
        The entry, with `consumes` set on every axis.

    Raises:
        SpecError: If `declared` is anything else.
    """
    if declared is None:
        return None
    if not isinstance(declared, str | Axis):
        if not isinstance(declared, Sequence):
            raise SpecError(f"got {declared!r} for an axis, expected None, an Axis, the name of a group, or several.")
        several = tuple(axis for each in declared for axis in axes_of(as_entry(each, last)))
        return several if len(several) > 1 else several[0] if several else None
    axis = Axis(declared) if isinstance(declared, str) else declared
    return replace(axis, consumes=not last) if axis.consumes is None else axis


def axes_of(entry: Entry) -> tuple[Axis, ...]:
    """The axes of an entry: none, one or several."""
    return () if entry is None else (entry,) if isinstance(entry, Axis) else entry


def overlap_in_part(a: Axis, b: Axis, length: int) -> bool:
    """Whether two segments of an axis of this length overlap and neither contains the other."""
    (start_a, stop_a), (start_b, stop_b) = ((axis.start, length if axis.stop is None else axis.stop) for axis in (a, b))
    disjoint = stop_a <= start_b or stop_b <= start_a
    a_in_b, b_in_a = start_b <= start_a and stop_a <= stop_b, start_a <= start_b and stop_b <= stop_a
    return not (disjoint or a_in_b or b_in_a)


def entry_to_json(entry: Entry) -> Any:
    """An entry as JSON: null, an object, or a list of objects."""
    written = [
        {key: value for key, value in vars(axis).items() if (key, value) not in (("start", 0), ("stop", None))}
        for axis in axes_of(entry)
    ]
    return None if entry is None else written if isinstance(entry, tuple) else written[0]


def entry_from_json(entry: Any) -> Entry:
    """The entry that `entry_to_json` wrote. Raises TypeError for anything else."""
    if isinstance(entry, list):
        return tuple(Axis(**axis) for axis in entry)
    return None if entry is None else Axis(**entry)
