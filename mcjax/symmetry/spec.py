"""The declaration of a permutation symmetry: which axes of which leaves can only be permuted together."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Any

import jax

from mcjax import trees
from mcjax.errors import check_kind
from mcjax.symmetry.axis import (
    Axis,
    Entry,
    SpecError,
    as_entry,
    axes_of,
    entry_from_json,
    entry_to_json,
    overlap_in_part,
)

Entries = tuple[Entry, ...]
"""One entry for every axis of a leaf."""

LeafAxis = tuple[str, int]
"""A leaf and the position of one of its axes."""


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class PermutationSpec:
    """Declares, leaf by leaf and axis by axis, which group each axis belongs to.

    A spec is immutable: it compares and hashes by its axes, prints as a table, converts to JSON and back, and is static
    under jit. To change one, make another: `PermutationSpec({**spec.axes, "params/Dense_0/bias": (None,)})`.

    In the printed table an axis is `-` (never permuted), `units` (produces them), `units in` (consumes them),
    `64*units*2` (outer and inner factors), `units[0:8]` (a segment), or several of these joined by `&`. The last column
    gives the reasons for pinned axes.

    Attributes:
        axes: For the name of every leaf, one entry per axis: an `Axis`; the name of a group, short for `Axis(name)`;
            None for an axis that is never permuted; or a sequence of these where several groups lie on one axis (heads
            and the units of each head, segments of a concatenation).
        pinned: Reasons for axes (leaf, position) that are never permuted, where there is one, as from `infer_spec`.

    Example::

        PermutationSpec({
            "params/Dense_0/kernel": (None, "dense_0"),
            "params/Dense_0/bias": ("dense_0",),
            "params/Dense_1/kernel": ("dense_0", None),
            "params/Dense_1/bias": (None,),
        })
    """

    axes: Mapping[str, Entries]
    pinned: Mapping[LeafAxis, str]

    def __init__(self, axes: Mapping[str, Sequence[Any] | None], pinned: Mapping[LeafAxis, str] | None = None) -> None:
        for name, entries in axes.items():
            if isinstance(entries, str | Axis | Mapping):
                raise SpecError(
                    f"{name}: got {entries!r}, expected one entry an axis, in a tuple: ({entries!r},) for a leaf of "
                    "one axis. Leaves are named by their path, as in params/Dense_0/kernel."
                )
        leaves = {
            name: tuple(as_entry(each, last=i + 1 == len(entries or ())) for i, each in enumerate(entries or ()))
            for name, entries in axes.items()
        }
        object.__setattr__(self, "axes", MappingProxyType(leaves))
        object.__setattr__(self, "pinned", MappingProxyType(dict(pinned or {})))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PermutationSpec) and dict(self.axes) == dict(other.axes)

    def __hash__(self) -> int:
        return hash(frozenset(self.axes.items()))

    def __reduce__(self) -> tuple:
        return PermutationSpec, (dict(self.axes), dict(self.pinned))

    def _declared(self) -> Iterator[tuple[str, int, Axis]]:
        """Every (leaf, position, axis) of any group, in the order of the leaves."""
        for name, entries in self.axes.items():
            for position, entry in enumerate(entries):
                for axis in axes_of(entry):
                    yield name, position, axis

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups, in the order in which the leaves first name them."""
        return tuple(dict.fromkeys(axis.group for _, _, axis in self._declared()))

    def without(self, *groups: str) -> "PermutationSpec":
        """The spec with some groups never permuted. Raises SpecError if it has no such group."""
        removed = [(name, position) for group in groups for name, position, _ in self.places(group)]
        axes = {
            name: tuple(tuple(axis for axis in axes_of(entry) if axis.group not in groups) for entry in entries)
            for name, entries in self.axes.items()
        }
        now_pinned = [(name, i) for name, i in removed if not axes[name][i]]
        return PermutationSpec(axes, {**self.pinned, **dict.fromkeys(now_pinned, "its group was taken out")})

    def places(self, group: str) -> tuple[tuple[str, int, Axis], ...]:
        """Every (leaf, position, axis) of a group. Raises SpecError if there is no such group."""
        found = tuple(place for place in self._declared() if place[2].group == group)
        if not found:
            raise SpecError(f"got group {group!r}, expected one of {', '.join(self.groups)}.")
        return found

    def producers(self, group: str) -> tuple[LeafAxis, ...]:
        """The (leaf, position) pairs that produce the units: a kernel's output axis, biases, norms."""
        return tuple((name, i) for name, i, axis in self.places(group) if not axis.consumes)

    def consumers(self, group: str) -> tuple[LeafAxis, ...]:
        """The (leaf, position) pairs that consume the units: the next kernels' input axes."""
        return tuple((name, i) for name, i, axis in self.places(group) if axis.consumes)

    def group_sizes(self, theta: trees.Tree) -> dict[str, int]:
        """The number of units of each group, from arrays or from their shapes. Raises SpecError as `validate` does."""
        problems, sizes = self._check(trees.shapes(theta))
        if problems:
            raise SpecError(
                "the spec and the variables do not match:\n  "
                + "\n  ".join(problems)
                + "\nDeclare every leaf in the spec, with None for axes that are never permuted."
            )
        return sizes

    def validate(self, theta: trees.Tree) -> None:
        """Raise SpecError that lists every leaf that is missing, extra, or of the wrong length."""
        self.group_sizes(theta)

    def _check(self, shapes: dict[str, tuple[int, ...]]) -> tuple[list[str], dict[str, int]]:
        """All problems that leaves of these shapes have with the spec, and the size of every group."""
        problems = [f"{name}: in the variables, missing from the spec" for name in shapes.keys() - self.axes.keys()]
        problems += [f"{name}: in the spec, missing from the variables" for name in self.axes.keys() - shapes.keys()]
        # Networks along a leading axis are reported once, not for every leaf.
        stacked = all(len(shapes[name]) == len(entries) + 1 for name, entries in self.axes.items() if name in shapes)
        if any(self.axes.values()) and not problems and stacked:
            return [
                "every leaf has one axis more than the spec names: several networks? Use jax.vmap over them, or give "
                "the task an init"
            ], {}
        # group -> size -> the axes that have this size.
        found: dict[str, dict[int, list[str]]] = {}
        for name in self.axes.keys() & shapes.keys():
            entries, shape = self.axes[name], shapes[name]
            if any(entries) and len(entries) != len(shape):
                problems.append(f"{name}: shape {shape} has {len(shape)} axes, the spec names {len(entries)}")
                continue
            for position, entry in enumerate(entries):
                for axis in axes_of(entry):
                    if size := axis.size(shape[position]):
                        found.setdefault(axis.group, {}).setdefault(size, []).append(f"{name} axis {position}")
                    else:
                        got = f"axis {position} has length {shape[position]}"
                        problems.append(f"{name}: {got}, {_expected_length(axis)} ({axis})")
                problems += [
                    f"{name}: axis {position} has {a} and {b}, which overlap in part; expected none or one in the other"
                    for a, b in combinations(axes_of(entry), 2)
                    if overlap_in_part(a, b, shape[position])
                ]
        for group, by_size in found.items():
            if len(by_size) > 1:
                sizes_at = "; ".join(f"{size} at {', '.join(sorted(at))}" for size, at in sorted(by_size.items()))
                problems.append(f"group {group!r} has axes of unequal size: {sizes_at}")
        sizes = {group: next(iter(found[group])) for group in self.groups if group in found}
        return sorted(problems), sizes

    def to_json(self) -> str:
        """The spec as JSON: leaf name to one entry an axis, each null, an object, or a list of objects.

        An axis with an entry in `pinned` is `{"pinned": reason}`.
        """
        leaves = {
            name: [
                {"pinned": self.pinned[name, i]} if entry is None and (name, i) in self.pinned else entry_to_json(entry)
                for i, entry in enumerate(entries)
            ]
            for name, entries in self.axes.items()
        }
        return json.dumps(leaves, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "PermutationSpec":
        """The spec that `to_json` wrote. Raises SpecError for any other text."""
        axes, pinned, name = {}, {}, ""
        try:
            for name, entries in json.loads(text).items():
                for i, entry in enumerate(entries):
                    if isinstance(entry, dict) and entry.keys() == {"pinned"}:
                        pinned[name, i], entries[i] = str(entry["pinned"]), None
                axes[name] = [entry_from_json(entry) for entry in entries]
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            at = f" at leaf {name}" if name else ""
            raise SpecError(f"not the JSON of a PermutationSpec{at}: {error}. Expected what to_json writes.") from error
        return cls(axes, pinned)

    def __repr__(self) -> str:
        return f"PermutationSpec({len(self.groups)} groups, {len(self.axes)} leaves)"

    def __str__(self) -> str:
        rows = [
            (name, ", ".join(map(_entry_text, entries)), self._reasons(name)) for name, entries in self.axes.items()
        ]
        # Columns are aligned, except in rows that are very long.
        widths = [max((len(row[i]) for row in rows if len(row[i]) <= 90), default=0) for i in range(2)]
        head = f"PermutationSpec: {len(self.groups)} groups, {len(self.axes)} leaves"
        lines = [f"  {name:<{widths[0]}}  {f'({axes})':<{widths[1] + 2}}  {why}".rstrip() for name, axes, why in rows]
        return "\n".join([head, *lines])

    def _reasons(self, name: str) -> str:
        """The reasons for the pinned axes of a leaf: `0, 1: positions matter to ...; 2: an axis of the inputs`."""
        by_reason: dict[str, list[str]] = {}
        for i in range(len(self.axes[name])):
            if (name, i) in self.pinned:
                by_reason.setdefault(self.pinned[name, i], []).append(str(i))
        return "; ".join(f"{', '.join(at)}: {reason}" for reason, at in by_reason.items())


def check_spec(spec: Any) -> None:
    """Raise InputError unless this is a spec."""
    check_kind("spec", spec, PermutationSpec, "model.spec, or infer_spec(fn, theta, x)")


def _entry_text(entry: Entry) -> str:
    return " & ".join(map(str, axes_of(entry))) or "-"


def _expected_length(axis: Axis) -> str:
    multiple = f"a multiple of {axis.outer * axis.inner}"
    if axis.start or axis.stop is not None:
        return f"expected from {axis.start} to {'its end' if axis.stop is None else axis.stop} {multiple}"
    return f"expected {multiple}"
