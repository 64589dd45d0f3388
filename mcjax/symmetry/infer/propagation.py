"""Propagation of factors through a traced function: the factors of every value's axes, and which are contracted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.errors import InputError
from mcjax.symmetry.axis import SpecError
from mcjax.symmetry.infer import contractions, elementwise, layout
from mcjax.symmetry.infer.contractions import contracted
from mcjax.symmetry.infer.factors import Factors, Product
from mcjax.symmetry.infer.occurrences import Occurrence, occurrences
from mcjax.symmetry.infer.operation import Operation, Rule, Shape, ValueAxes, ValueAxis, no_rule, unify_axes
from mcjax.symmetry.infer.program import Address, Equation, Program, scan_counts, trace

RULES: dict[str, Rule] = {**elementwise.RULES, **layout.RULES, **contractions.RULES}
"""The rule of every primitive that has one; loops and branches are in `CONTROL_FLOW`."""


class Value(NamedTuple):
    """A value of the function.

    Attributes:
        axes: Its axes.
        data: Whether it depends on data, the inputs x of the function.
        counted: The axis along which its entries are the positions themselves. None: it is not known to have one.
    """

    axes: ValueAxes
    data: bool
    counted: int | None = None


class Contraction(NamedTuple):
    """A value that depends on data and that a product or a convolution sums over along an axis.

    Attributes:
        address: Address of the value.
        axes: Axes of the value.
        shape: Shape of the value.
        position: Position of the axis that is summed over.
        product: Factors that are summed over.
    """

    address: Address
    axes: ValueAxes
    shape: Shape
    position: int
    product: Product


@dataclass
class Propagation:
    """Factors propagated through a program, with the recorded contractions and roles of leaf axes.

    Attributes:
        program: The program of the function.
        factors: Factors of all values.
        leaf_axes: The (leaf, position) of every axis of the variables; an origin is an index into this list.
        leaves: Factors of the axes of every leaf.
        contractions: Contractions of values that depend on data, outside loops and inside scans.
        values: Axes of the value in every slot, outside loops.
        consumed: Origins of the leaf axes that consume units: those that a product with data sums over.
        produced: Origins of the leaf axes that produce units: all others that are combined with data, in this order.
        without_rule: Primitives without a rule that pinned a free axis.
    """

    program: Program
    factors: Factors
    leaf_axes: list[tuple[str, int]] = field(default_factory=list)
    leaves: dict[str, tuple[Product, ...]] = field(default_factory=dict)
    contractions: list[Contraction] = field(default_factory=list)
    values: dict[int, Value] = field(default_factory=dict)
    consumed: set[int] = field(default_factory=set)
    produced: dict[int, None] = field(default_factory=dict)
    without_rule: dict[str, None] = field(default_factory=dict)

    def run(self, program: Program, inputs: Sequence[Value], address: Address | None) -> list[Value]:
        """Propagate from the inputs of a program to its outputs.

        Args:
            program: The whole program, or a body.
            inputs: Values of the program's inputs.
            address: Address of the scan that the program is the body of; () for the whole program; None for bodies
                whose values have no address (while, cond).

        Returns:
            Values of the program's outputs.
        """
        values = {slot: self._constant(value, program.shapes[slot]) for slot, value in program.constants.items()}
        values.update(zip(program.inputs, inputs, strict=True))
        for number, equation in enumerate(program.equations):
            operands = [values[slot] for slot in equation.inputs]
            inside = None if address is None else (*address, number)
            if equation.name in CONTROL_FLOW:
                results = CONTROL_FLOW[equation.name](self, equation, operands, inside)
            else:
                results = self._apply_rule(program, equation, operands, address)
            values.update(zip(equation.outputs, results, strict=True))
        if address == ():
            self.values = values
        return [values[slot] for slot in program.outputs]

    def _apply_rule(
        self, program: Program, equation: Equation, operands: Sequence[Value], address: Address | None
    ) -> list[Value]:
        shapes = tuple(program.shapes[slot] for slot in equation.inputs)
        results = tuple(program.shapes[slot] for slot in equation.outputs)
        operand_axes = tuple(value.axes for value in operands)
        used, counted = tuple(slot in program.used for slot in equation.outputs), tuple(v.counted for v in operands)
        op = Operation(self.factors, equation, operand_axes, shapes, results, used, counted, self.without_rule)
        # The rule unifies, refines and pins factors, and returns the axes of the results.
        axes = RULES.get(equation.name, no_rule)(op)
        data = any(value.data for value in operands)
        # Record the roles of leaf axes, and the values that are summed over.
        summed = contracted(op)
        self._record_roles(operands, summed, data)
        if address is not None:
            for operand, position, product in summed:
                if operands[operand].data:
                    value, slot = operands[operand], equation.inputs[operand]
                    self.contractions.append(
                        Contraction((*address, slot), value.axes, shapes[operand], position, product)
                    )
        return [Value(tuple(each), data, _counted(program, equation, counted)) for each in axes]

    def _record_roles(self, operands: Sequence[Value], summed: Sequence[tuple[int, int, Product]], data: bool) -> None:
        """Record which leaf axes consume units, because a product with data sums over them, and which produce units."""
        over = {(operand, position) for operand, position, _ in summed}
        for operand, value in enumerate(operands):
            if value.data:
                continue
            for position, axis in enumerate(value.axes):
                # In a product of two variables, only the second operand counts as consuming units.
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
        """The value of a constant: axes along which its entries vary are pinned, except those of a diagonal."""
        axes: list[ValueAxis] = []
        bits = _bits(value)
        for i, n in enumerate(shape):
            constant = bits is not None and n > 0 and bool((bits == bits.take([0], i)).all())
            axes.append(None if constant else self.factors.new(n, "a constant array in the function"))
        for i, j in combinations(range(len(shape)), 2):
            p, q = axes[i], axes[j]
            if bits is None or not p or not q or shape[i] != shape[j] or not self.factors.is_pinned(p + q):
                continue
            if bits.size and _is_diagonal(bits, i, j):
                axes[i] = axes[j] = self.factors.new(shape[i])
        return Value(tuple(axes), False)

    def new_carry(self, value: Value, shape: Shape, data: bool) -> Value:
        """A value of a loop's carry: unified with its initial `value`, but not constant along any axis."""
        return self.unify(Value(tuple(map(self.factors.new, shape)), data), value)

    def unify(self, a: Value, b: Value) -> Value:
        """Unify the axes of two values, and return one that represents both."""
        axes = tuple(unify_axes(self.factors, both) for both in zip(a.axes, b.axes, strict=True))
        return Value(axes, a.data or b.data)

    def pin(self, value: Value, reason: str) -> None:
        """Pin all axes of a value."""
        for axis in value.axes:
            if axis is not None:
                self.factors.pin(axis, reason)

    def occurrences(self, product: Product) -> list[Occurrence]:
        """Every occurrence of a free factor on an axis."""
        return occurrences(self.factors, product)


def propagate(fn: Callable[..., Any], theta: trees.Tree, x: Any) -> Propagation:
    """Trace `fn(theta, x)` and propagate factors through it.

    Args:
        fn: The function; its outputs are any pytree of arrays.
        theta: Variables: a pytree of arrays or of `jax.ShapeDtypeStruct`s.
        x: Inputs, likewise.

    Returns:
        The factors of all values, with the axes of inputs and of outputs pinned.

    Raises:
        SpecError: If two leaves have the same name.
    """
    try:
        names = list(trees.flatten(theta))
    except InputError as error:
        raise SpecError(str(error)) from None
    program = trace(fn, theta, x)
    found = Propagation(program, Factors())
    # Each axis of a leaf starts as one free factor, marked by its origin; the axes of inputs are pinned.
    inputs: list[Value] = []
    for slot, name in zip(program.inputs, [*names, *[None] * len(program.inputs)], strict=False):
        shape = program.shapes[slot]
        if name is None:
            axes = tuple(found.factors.new(n, "an axis of the inputs") for n in shape)
        else:
            reason = None if slot in program.used else "not used by the function"
            start = len(found.leaf_axes)
            found.leaf_axes.extend((name, i) for i in range(len(shape)))
            axes = tuple(found.factors.new(n, reason, start + i) for i, n in enumerate(shape))
            found.leaves[name] = axes
        inputs.append(Value(axes, name is None))
    for value in found.run(program, inputs, ()):
        found.pin(value, "an axis of the outputs")
    return found


def _bits(value: Any) -> np.ndarray | None:
    """The bytes of every entry, along a last axis: 0.0 equals -0.0 but is not the same, and NaN is, but equals none.

    None for what has none, such as random keys and mutable arrays, and for values that are traced.
    """
    try:
        return None if isinstance(value, jax.core.Tracer) else np.ascontiguousarray(value)[..., None].view(np.uint8)
    except (TypeError, ValueError):
        return None


def _is_diagonal(bits: np.ndarray, i: int, j: int) -> bool:
    """Whether an array stays the same if both axes are permuted alike: by a cycle and by a swap, hence by any."""
    n = bits.shape[i]
    return all((bits.take(p, i).take(p, j) == bits).all() for p in (np.roll(range(n), 1), np.r_[1, 0, 2:n]))


def _counted(program: Program, equation: Equation, counted: Sequence[int | None]) -> int | None:
    """The axis along which a result's entries are the positions: of iota, also broadcast or with 0 added to it."""
    params, axis = equation.params, counted[0] if counted else None
    if equation.name == "iota":  # types of fewer bits may not tell all positions apart
        exact = np.dtype(params["dtype"]).kind in "iu" and np.dtype(params["dtype"]).itemsize >= 4
        return params["dimension"] if exact else None
    if axis is None:
        return None
    before, after = program.shapes[equation.inputs[0]], program.shapes[equation.outputs[0]]
    if equation.name == "broadcast_in_dim":
        target = params["broadcast_dimensions"][axis]
        return target if after[target] == before[axis] else None
    if equation.name == "add" and after == before and equation.inputs[1] in program.constants:
        bits = _bits(program.constants[equation.inputs[1]])
        return axis if bits is not None and not bits.any() else None
    return None


def _scan(found: Propagation, equation: Equation, operands: list[Value], address: Address | None) -> list[Value]:
    (body,), (consts, carries) = equation.bodies, scan_counts(equation)
    data = any(value.data for value in operands)
    carry = [
        found.new_carry(value, body.shapes[slot], data)
        for value, slot in zip(operands[consts : consts + carries], body.inputs[consts:], strict=False)
    ]
    rows = operands[consts + carries :]
    # With a carry, the scanned axis is pinned. Without one, rows are independent, and the scanned axes of inputs and
    # outputs are unified.
    if carries:
        reason = "a loop runs along it"
        for value in rows:
            found.pin(Value(value.axes[:1], value.data), reason)
        scanned: ValueAxis = found.factors.new(equation.params["length"], reason)
    else:
        unified = Value((None,), False)
        for value in rows:
            unified = found.unify(unified, Value(value.axes[:1], value.data))
        scanned = unified.axes[0]
    # Propagate through the body once, and unify the carry before and after it.
    outputs = found.run(body, [*operands[:consts], *carry, *(Value(row.axes[1:], row.data) for row in rows)], address)
    kept = [found.unify(before, after) for before, after in zip(carry, outputs[:carries], strict=True)]
    return kept + [Value((scanned, *value.axes), value.data) for value in outputs[carries:]]


def _while(found: Propagation, equation: Equation, operands: list[Value], address: Address | None) -> list[Value]:
    # The carry as in a scan with a carry; the condition and the body see the same one.
    condition, body = equation.bodies
    split = equation.params["cond_nconsts"]
    start = split + equation.params["body_nconsts"]
    data = any(value.data for value in operands)
    shapes = [body.shapes[slot] for slot in body.inputs[equation.params["body_nconsts"] :]]
    carry = [found.new_carry(value, shape, data) for value, shape in zip(operands[start:], shapes, strict=True)]
    found.run(condition, [*operands[:split], *carry], None)
    outputs = found.run(body, [*operands[split:start], *carry], None)
    return [found.unify(before, after) for before, after in zip(carry, outputs, strict=True)]


def _cond(found: Propagation, equation: Equation, operands: list[Value], address: Address | None) -> list[Value]:
    # The results of all branches are unified.
    results = [found.run(branch, operands[1:], None) for branch in equation.bodies]
    unified = results[0]
    for other in results[1:]:
        unified = [found.unify(a, b) for a, b in zip(unified, other, strict=True)]
    return [Value(value.axes, value.data or operands[0].data) for value in unified]


CONTROL_FLOW: dict[str, Callable[[Propagation, Equation, list[Value], Address | None], list[Value]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
"""The rules of loops and branches, which propagate through their bodies."""


__all__ = ["CONTROL_FLOW", "RULES", "Contraction", "Propagation", "Value", "propagate"]
