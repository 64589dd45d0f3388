"""The interface between inference and its rules: one primitive applied to values whose axes have factors.

A rule takes an `Operation` and returns the axes of every result. It must be sound: if the operands are permuted
according to their factors, and all factors that the rule pins stay in place, then the results are permuted according to
their factors. `elementwise`, `layout` and `contractions` hold the rules, each in a table `RULES` by the name of the
primitive. A primitive without a rule pins all its axes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mcjax.symmetry.infer.factors import Factors, Product
from mcjax.symmetry.infer.program import Equation

ValueAxis = Product | None
"""The factors of one axis; None if the value is constant along it, and so invariant to any permutation."""
ValueAxes = tuple[ValueAxis, ...]
Shape = tuple[int, ...]


class Operation(NamedTuple):
    """One primitive applied to values.

    Attributes:
        factors: All factors of the trace, in which a rule unifies and pins.
        equation: The equation, with the primitive's name and parameters.
        axes: Axes of every operand.
        shapes: Shape of every operand.
        results: Shape of every result.
        used: Whether anything needs each result.
        counted: For every operand, the axis along which its entries are the positions themselves, if it has one.
        without_rule: Collects the primitives without a rule that pinned a free axis.
    """

    factors: Factors
    equation: Equation
    axes: tuple[ValueAxes, ...]
    shapes: tuple[Shape, ...]
    results: tuple[Shape, ...]
    used: tuple[bool, ...]
    counted: tuple[int | None, ...]
    without_rule: dict[str, None]

    @property
    def reason(self) -> str:
        """The reason with which this primitive pins a factor."""
        return f"positions matter to {describe(self.equation)}"

    def product(self, operand: int, position: int) -> Product:
        """The factors of an operand's axis; a new factor if the operand is constant along it."""
        axis = self.axes[operand][position]
        return self.factors.new(self.shapes[operand][position]) if axis is None else axis

    def pin(self, operand: int, position: int) -> None:
        """Pin this axis of an operand."""
        axis = self.axes[operand][position]
        if axis is not None:
            self.factors.pin(axis, self.reason)

    def new_pinned(self, size: int) -> Product:
        """A new pinned axis of this length."""
        return self.factors.new(size, self.reason)

    def unify(self, axes: Iterable[ValueAxis]) -> ValueAxis:
        """Unify these axes, and return one that represents all."""
        return unify_axes(self.factors, axes)


Rule = Callable[[Operation], Sequence[ValueAxes]]
"""Operation -> the axes of every result."""


def unify_axes(factors: Factors, axes: Iterable[ValueAxis]) -> ValueAxis:
    """Unify axes, and return one that represents all; None if the values are constant along each of them."""
    varying = [axis for axis in axes if axis is not None]
    for other in varying[1:]:
        factors.unify(varying[0], other)
    return varying[0] if varying else None


def pin_positions(op: Operation, operand: int, positions: Iterable[int], result: int = 0) -> ValueAxes:
    """The axes of an operand, some of them pinned.

    Args:
        op: The operation.
        operand: Number of the operand.
        positions: Positions that are pinned; they become pinned axes of the result's lengths.
        result: Number of the result.

    Returns:
        The axes of the result.
    """
    axes = list(op.axes[operand])
    for i in positions:
        op.pin(operand, i)
        axes[i] = op.new_pinned(op.results[result][i])
    return tuple(axes)


def no_rule(op: Operation) -> list[ValueAxes]:
    """The fallback for a primitive without a rule: all axes of operands and results are pinned."""
    reason = f"no rule for {describe(op.equation)}"
    for axis in (axis for axes in op.axes for axis in axes):
        if axis is not None and not op.factors.is_pinned(axis):
            op.factors.pin(axis, reason)
            op.without_rule[describe(op.equation)] = None
    return [tuple(op.factors.new(n, reason) for n in shape) for shape in op.results]


def describe(equation: Equation) -> str:
    """A primitive and its module, if the trace has one: `cumsum in Net/Block_0`."""
    return f"{equation.name} in {equation.scope}" if equation.scope else equation.name


__all__ = [
    "Operation",
    "Rule",
    "Shape",
    "ValueAxes",
    "ValueAxis",
    "describe",
    "no_rule",
    "pin_positions",
    "unify_axes",
]
