"""Walking through a traced function: the factors of every axis of every value, and who reads what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.symmetry.infer import layout as layout  # registers its rules, as contractions does
from mcjax.symmetry.infer.contractions import contracted
from mcjax.symmetry.infer.factors import Factors, Product
from mcjax.symmetry.infer.pieces import Piece, pieces
from mcjax.symmetry.infer.program import Place, Program, Step, scan_counts, trace
from mcjax.symmetry.infer.rules import RULES, Application, Axes, Axis, Shape, join, unknown


class Value(NamedTuple):
    """The axes of a value, and whether it depends on the inputs (or on the variables alone)."""

    axes: Axes
    data: bool


class Read(NamedTuple):
    """A value that is contracted along an axis: where it is computed, its axes, and the factors summed over."""

    place: Place
    axes: Axes
    shape: Shape
    position: int
    product: Product


@dataclass
class Walk:
    """All that was learnt from one walk; `leaf_axes` are the (leaf, position) that origins count."""

    program: Program
    factors: Factors
    leaf_axes: list[tuple[str, int]] = field(default_factory=list)
    leaves: dict[str, tuple[Product, ...]] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    values: dict[int, Value] = field(default_factory=dict)
    consumed: set[int] = field(default_factory=set)
    produced: dict[int, None] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)

    def go(self, program: Program, inputs: Sequence[Value], place: Place | None) -> list[Value]:
        """The outputs of a program; `place` is that of the loop it is the body of, None if it has none."""
        values = {slot: self._constant(value, program.shapes[slot]) for slot, value in program.constants.items()}
        values.update(zip(program.inputs, inputs, strict=True))
        for number, step in enumerate(program.steps):
            operands = [values[slot] for slot in step.inputs]
            inside = None if place is None else (*place, number)
            if step.name in LOOPS:
                results = LOOPS[step.name](self, step, operands, inside)
            else:
                results = self._apply(program, step, operands, place)
            values.update(zip(step.outputs, results, strict=True))
        if place == ():
            self.values = values
        return [values[slot] for slot in program.outputs]

    def _apply(self, program: Program, step: Step, operands: Sequence[Value], place: Place | None) -> list[Value]:
        shapes = tuple(program.shapes[slot] for slot in step.inputs)
        results = tuple(program.shapes[slot] for slot in step.outputs)
        held = tuple(value.axes for value in operands)
        applied = Application(self.factors, step, held, shapes, results, self.unknown)
        data = any(value.data for value in operands)
        axes = RULES.get(step.name, unknown)(applied)
        summed = contracted(applied)
        self._note(operands, summed, data)
        if place is not None:
            for operand, position, product in summed:
                if operands[operand].data:
                    value, slot = operands[operand], step.inputs[operand]
                    self.reads.append(Read((*place, slot), value.axes, shapes[operand], position, product))
        return [Value(tuple(each), data) for each in axes]

    def _note(self, operands: Sequence[Value], summed: Sequence[tuple[int, int, Product]], data: bool) -> None:
        """Which leaf axes make units, and which read them: those that a product with data sums over."""
        over = {(operand, position) for operand, position, _ in summed}
        for operand, value in enumerate(operands):
            if value.data:
                continue
            for position, axis in enumerate(value.axes):
                reads = (operand, position) in over and (data or operand == 1)
                if axis is None or not (reads or data):
                    continue
                for atom in self.factors.atoms(axis):
                    if (origin := self.factors.origin(atom)) is not None:
                        if reads:
                            self.consumed.add(origin)
                        else:
                            self.produced[origin] = None

    def _constant(self, value: Any, shape: Shape) -> Value:
        axes: list[Axis] = []
        array = None if isinstance(value, jax.core.Tracer) else _as_numpy(value)
        for i, n in enumerate(shape):
            same = array is not None and n > 0 and bool((array == array.take([0], i)).all())
            axes.append(None if same else self.factors.new(n, "a constant array in the function"))
        return Value(tuple(axes), False)

    def fresh(self, value: Value, shape: Shape, data: bool) -> Value:
        """A value of a loop's carry, permuted like `value` and, unlike it, varying everywhere."""
        return self.unify(Value(tuple(map(self.factors.new, shape)), data), value)

    def unify(self, a: Value, b: Value) -> Value:
        """Two values permuted alike, as one."""
        axes = tuple(join(self.factors, both) for both in zip(a.axes, b.axes, strict=True))
        return Value(axes, a.data or b.data)

    def pin(self, value: Value, reason: str) -> None:
        """Never permute any axis of a value."""
        for axis in value.axes:
            if axis is not None:
                self.factors.pin(axis, reason)

    def pieces(self, product: Product) -> list[Piece]:
        """Where the free factors of an axis lie on it."""
        return pieces(self.factors, product)


def walk(fn: Callable[..., Any], theta: trees.Tree, x: Any) -> Walk:
    """Trace `fn(theta, x)`, arrays or `jax.ShapeDtypeStruct`s, and walk through it."""
    program, leaves = trace(fn, theta, x), trees.flatten(theta)
    found = Walk(program, Factors())
    used = {slot for step in program.steps for slot in step.inputs} | set(program.outputs)
    inputs: list[Value] = []
    for slot, name in zip(program.inputs, [*leaves, *[None] * len(program.inputs)], strict=False):
        shape = program.shapes[slot]
        if name is None:
            axes = tuple(found.factors.new(n, "an axis of the inputs") for n in shape)
        else:
            reason = None if slot in used else "not used by the function"
            start = len(found.leaf_axes)
            found.leaf_axes.extend((name, i) for i in range(len(shape)))
            axes = tuple(found.factors.new(n, reason, start + i) for i, n in enumerate(shape))
            found.leaves[name] = axes
        inputs.append(Value(axes, name is None))
    for value in found.go(program, inputs, ()):
        found.pin(value, "an axis of the outputs")
    return found


def _as_numpy(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except TypeError:  # random keys are no numbers
        return None


def _scan(w: Walk, step: Step, operands: list[Value], place: Place | None) -> list[Value]:
    (body,), (consts, carries) = step.bodies, scan_counts(step)
    data = any(value.data for value in operands)
    carry = [
        w.fresh(value, body.shapes[slot], data)
        for value, slot in zip(operands[consts : consts + carries], body.inputs[consts:], strict=False)
    ]
    rows = operands[consts + carries :]
    # Without a carry the order of the rows does not matter: what goes in at one comes out there.
    if carries:
        reason = "a loop runs along it"
        for value in rows:
            w.pin(Value(value.axes[:1], value.data), reason)
        first: Axis = w.factors.new(step.params["length"], reason)
    else:
        joined = Value((None,), False)
        for value in rows:
            joined = w.unify(joined, Value(value.axes[:1], value.data))
        first = joined.axes[0]
    outputs = w.go(body, [*operands[:consts], *carry, *(Value(row.axes[1:], row.data) for row in rows)], place)
    kept = [w.unify(before, after) for before, after in zip(carry, outputs[:carries], strict=True)]
    return kept + [Value((first, *value.axes), value.data) for value in outputs[carries:]]


def _while(w: Walk, step: Step, operands: list[Value], place: Place | None) -> list[Value]:
    condition, body = step.bodies
    split = step.params["cond_nconsts"]
    start = split + step.params["body_nconsts"]
    data = any(value.data for value in operands)
    slots = body.inputs[step.params["body_nconsts"] :]
    carry = [w.fresh(value, body.shapes[slot], data) for value, slot in zip(operands[start:], slots, strict=True)]
    w.go(condition, [*operands[:split], *carry], None)
    outputs = w.go(body, [*operands[split:start], *carry], None)
    return [w.unify(before, after) for before, after in zip(carry, outputs, strict=True)]


def _branches(w: Walk, step: Step, operands: list[Value], place: Place | None) -> list[Value]:
    results = [w.go(branch, operands[1:], None) for branch in step.bodies]
    joined = results[0]
    for other in results[1:]:
        joined = [w.unify(a, b) for a, b in zip(joined, other, strict=True)]
    return [Value(value.axes, value.data or operands[0].data) for value in joined]


LOOPS: dict[str, Callable[[Walk, Step, list[Value], Place | None], list[Value]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _branches,
}


__all__ = ["Read", "Value", "Walk", "walk"]
