"""Which axes of which leaves can only be permuted together: the declaration, and its checks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import jax

from mcjax import trees
from mcjax.errors import InputError


class SpecError(InputError):
    """A permutation, a spec and a set of variables that do not belong together."""


@dataclass(frozen=True)
class Axis:
    """An axis of length `outer * n * inner` whose middle factor is the `n` units of `group`.

    A feature map (h, w, c) flattened before a dense layer gives that layer's kernel an input axis
    `Axis("conv", outer=h * w)`. `consumes` tells whether the axis reads the units (the input axis
    of a kernel) or makes them (its output axis, a bias, a norm); left at None, the last axis of a
    leaf makes them and every other axis reads them.
    """

    group: str
    outer: int = 1
    inner: int = 1
    consumes: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.group, str) or not isinstance(self.outer, int) or not isinstance(self.inner, int):
            raise SpecError(f"got {vars(self)}, expected group to be a name and outer and inner whole numbers.")
        if self.outer < 1 or self.inner < 1:
            raise SpecError(
                f"axis of group {self.group!r}: got outer={self.outer}, inner={self.inner}, "
                "expected both to be at least 1."
            )

    def __str__(self) -> str:
        outer = f"{self.outer}*" if self.outer > 1 else ""
        inner = f"*{self.inner}" if self.inner > 1 else ""
        return f"{outer}{self.group}{inner}{' in' if self.consumes else ''}"


LeafAxes = tuple[Axis | None, ...]
_Declared = Mapping[str, Sequence[Axis | str | None] | None]


def _normalise(axes: Sequence[Axis | str | None]) -> LeafAxes:
    last = len(axes) - 1
    whole = [Axis(axis) if isinstance(axis, str) else axis for axis in axes]
    return tuple(
        replace(axis, consumes=position != last) if axis and axis.consumes is None else axis
        for position, axis in enumerate(whole)
    )


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class PermutationSpec:
    """Declares, leaf by leaf and axis by axis, which group each axis belongs to.

    `axes` maps the name of every leaf to one entry an axis: an `Axis`, the name of a group as its
    short form, or None for an axis that is never permuted. A spec is a value: it compares, hashes,
    prints as a table, goes to JSON and back, and is static under jit.

        PermutationSpec({
            "params/Dense_0/kernel": (None, "dense_0"),
            "params/Dense_0/bias": ("dense_0",),
            "params/Dense_1/kernel": ("dense_0", None),
            "params/Dense_1/bias": (None,),
        })
    """

    axes: Mapping[str, LeafAxes]

    def __init__(self, axes: _Declared) -> None:
        leaves = {name: _normalise(entries or ()) for name, entries in axes.items()}
        object.__setattr__(self, "axes", MappingProxyType(leaves))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PermutationSpec) and dict(self.axes) == dict(other.axes)

    def __hash__(self) -> int:
        return hash(frozenset(self.axes.items()))

    def __reduce__(self) -> tuple:
        return PermutationSpec, (dict(self.axes),)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups, in the order in which the leaves first name them."""
        named = (axis.group for entries in self.axes.values() for axis in entries if axis)
        return tuple(dict.fromkeys(named))

    def places(self, group: str) -> tuple[tuple[str, int, Axis], ...]:
        """Every (leaf, position, axis) of a group. Raises SpecError if there is no such group."""
        found = tuple(
            (name, position, axis)
            for name, entries in self.axes.items()
            for position, axis in enumerate(entries)
            if axis and axis.group == group
        )
        if not found:
            raise SpecError(f"got group {group!r}, expected one of {', '.join(self.groups)}.")
        return found

    def producers(self, group: str) -> tuple[tuple[str, int], ...]:
        """The (leaf, axis) pairs that make the units: a kernel's output axis, biases, norms."""
        return tuple((name, i) for name, i, axis in self.places(group) if not axis.consumes)

    def consumers(self, group: str) -> tuple[tuple[str, int], ...]:
        """The (leaf, axis) pairs that read the units: the next kernels' input axes."""
        return tuple((name, i) for name, i, axis in self.places(group) if axis.consumes)

    def group_sizes(self, theta: trees.Tree) -> dict[str, int]:
        """The number of units of each group, read from arrays or from their shapes.

        Raises SpecError as `validate` does.
        """
        problems, sizes = self._check(trees.shapes(theta))
        if problems:
            raise SpecError(_message(problems))
        return sizes

    def validate(self, theta: trees.Tree) -> None:
        """Raise SpecError that lists every leaf that is missing, extra, or of the wrong length."""
        self.group_sizes(theta)

    def _check(self, shapes: dict[str, tuple[int, ...]]) -> tuple[list[str], dict[str, int]]:
        problems = [f"{name}: in the variables, missing from the spec" for name in shapes.keys() - self.axes.keys()]
        problems += [f"{name}: in the spec, missing from the variables" for name in self.axes.keys() - shapes.keys()]
        if not problems and all(len(shapes[name]) == len(entries) + 1 for name, entries in self.axes.items()):
            return ["every leaf has one axis more than the spec names: several networks? Use jax.vmap over them"], {}
        found: dict[str, dict[int, list[str]]] = {}
        for name in self.axes.keys() & shapes.keys():
            entries, shape = self.axes[name], shapes[name]
            if any(entries) and len(entries) != len(shape):
                problems.append(f"{name}: shape {shape} has {len(shape)} axes, the spec names {len(entries)}")
                continue
            for position, axis in enumerate(entries):
                if axis is None:
                    continue
                size, rest = divmod(shape[position], axis.outer * axis.inner)
                if rest or size == 0:
                    problems.append(
                        f"{name}: axis {position} has length {shape[position]}, "
                        f"expected a multiple of {axis.outer * axis.inner} ({axis})"
                    )
                else:
                    found.setdefault(axis.group, {}).setdefault(size, []).append(f"{name} axis {position}")
        for group, by_size in found.items():
            if len(by_size) > 1:
                said = "; ".join(f"{size} at {', '.join(sorted(at))}" for size, at in sorted(by_size.items()))
                problems.append(f"group {group!r} has axes of unequal size: {said}")
        sizes = {group: next(iter(found[group])) for group in self.groups if group in found}
        return sorted(problems), sizes

    def to_json(self) -> str:
        """The spec as JSON: leaf name to a list of axes, each null or an object."""
        return json.dumps(
            {name: [_axis_to_json(axis) for axis in entries] for name, entries in self.axes.items()}, indent=1
        )

    @classmethod
    def from_json(cls, text: str) -> "PermutationSpec":
        """The spec that `to_json` wrote. Raises SpecError if the text is something else."""
        try:
            leaves = json.loads(text)
            return cls({name: [_axis_from_json(axis) for axis in entries] for name, entries in leaves.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise SpecError(f"not the JSON of a PermutationSpec: {error}") from error

    def __str__(self) -> str:
        rows = [
            (name, ", ".join(str(axis) if axis else "-" for axis in entries)) for name, entries in self.axes.items()
        ]
        width = max((len(name) for name, _ in rows), default=0)
        head = f"PermutationSpec: {len(self.groups)} groups, {len(self.axes)} leaves"
        return "\n".join([head, *(f"  {name:<{width}}  ({axes})" for name, axes in rows)])


def _axis_to_json(axis: Axis | None) -> dict[str, Any] | None:
    return None if axis is None else dict(vars(axis))


def _axis_from_json(axis: Any) -> Axis | None:
    return None if axis is None else Axis(**axis)


def _message(problems: list[str]) -> str:
    return (
        "the spec and the variables do not fit:\n  "
        + "\n  ".join(problems)
        + "\nDeclare every leaf in the spec, with None for axes that are never permuted."
    )
