"""One axis of one leaf: which group its units are of, and where on the axis they lie."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mcjax.errors import InputError


class SpecError(InputError):
    """A permutation, a spec and a set of variables that do not belong together."""


@dataclass(frozen=True)
class Axis:
    """An axis of length `outer * n * inner` whose middle factor is the `n` units of `group`.

    A feature map (h, w, c) flattened before a dense layer gives that layer's kernel an input axis
    `Axis("conv", outer=h * w)`. Where layers were concatenated, each has its segment, from `start`
    up to `stop`, and it is the segment that has length `outer * n * inner`. `consumes` tells
    whether the axis reads the units (the input axis of a kernel) or makes them (its output axis, a
    bias, a norm); left at None, the last axis of a leaf makes them and every other axis reads them.
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
        """The number of units on an axis of this length; 0 if they do not fit it."""
        stop = length if self.stop is None else self.stop
        size, rest = divmod(stop - self.start, self.outer * self.inner)
        return 0 if rest or size < 1 or stop > length else size

    def positions(self, length: int) -> np.ndarray:
        """Where on an axis of this length the units lie: int (n, outer * inner), one row a unit."""
        n = self.size(length)
        index = self.start + np.arange(self.outer * n * self.inner).reshape(self.outer, n, self.inner)
        return index.transpose(1, 0, 2).reshape(n, self.outer * self.inner)


Entry = Axis | tuple[Axis, ...] | None
"""One axis of a leaf: never permuted, of one group, or of several (factors or segments of it)."""


def entry_of(declared: Any, last: bool) -> Entry:
    """The entry that a declaration means: None, an Axis, the name of a group, or several of these."""
    if declared is None:
        return None
    if not isinstance(declared, str | Axis):
        if not isinstance(declared, Sequence):
            raise SpecError(f"got {declared!r} for an axis, expected None, an Axis, the name of a group, or several.")
        several = tuple(entry for each in declared for entry in axes_of(entry_of(each, last)))
        return several if len(several) > 1 else several[0] if several else None
    axis = Axis(declared) if isinstance(declared, str) else declared
    return replace(axis, consumes=not last) if axis.consumes is None else axis


def axes_of(entry: Entry) -> tuple[Axis, ...]:
    """The groups on one axis of a leaf: none, one or several."""
    return () if entry is None else (entry,) if isinstance(entry, Axis) else entry


def cross(a: Axis, b: Axis, length: int) -> bool:
    """Whether two segments of an axis of this length overlap with neither inside the other."""
    (start, stop), (begin, end) = ((axis.start, length if axis.stop is None else axis.stop) for axis in (a, b))
    apart = stop <= begin or end <= start
    return not apart and not (start <= begin and end <= stop) and not (begin <= start and stop <= end)


def entry_to_json(entry: Entry) -> Any:
    """Null, an object, or a list of objects."""
    written = [
        {key: value for key, value in vars(axis).items() if (key, value) not in (("start", 0), ("stop", None))}
        for axis in axes_of(entry)
    ]
    return None if entry is None else written if isinstance(entry, tuple) else written[0]


def entry_from_json(entry: Any) -> Entry:
    """What `entry_to_json` wrote; TypeError if it is something else."""
    if isinstance(entry, list):
        return tuple(Axis(**axis) for axis in entry)
    return None if entry is None else Axis(**entry)
