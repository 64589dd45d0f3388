"""The interface between inference and its rules: one primitive applied to values whose axes have factors.

A rule takes an `Operation` and returns the axes of every result. It must be sound: if the operands are permuted as
their factors say, and every factor that the rule pins stays in place, then the results are the old ones, permuted as
their factors say. `elementwise`, `layout` and `contractions` hold the rules, each in a table `RULES` by the name of the
primitive. A primitive without a rule pins everything that it touches.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mcjax.symmetry.infer.factors import Factors, Product
from mcjax.symmetry.infer.program import Equation

ValueAxis = Product | None
"""The factors of one axis; None where the value is constant along it, so that any permutation will do."""
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
        without_rule: Collects the primitives without a rule that touch an axis that could have been permuted.
    """

    factors: Factors
    equation: Equation
    axes: tuple[ValueAxes, ...]
    shapes: tuple[Shape, ...]
    results: tuple[Shape, ...]
    without_rule: dict[str, None]

    @property
    def reason(self) -> str:
        """Why this primitive pins a factor."""
        return f"positions matter to {describe(self.equation)}"

    def product(self, operand: int, position: int) -> Product:
        """The factors of an operand's axis; a new factor where the operand is constant along it."""
        axis = self.axes[operand][position]
        return self.factors.new(self.shapes[operand][position]) if axis is None else axis

    def pin(self, operand: int, position: int) -> None:
        """Never permute this axis of an operand."""
        axis = self.axes[operand][position]
        if axis is not None:
            self.factors.pin(axis, self.reason)

    def new_pinned(self, size: int) -> Product:
        """A new axis of this length that is never permuted."""
        return self.factors.new(size, self.reason)

    def unify(self, axes: Iterable[ValueAxis]) -> ValueAxis:
        """Permute these axes alike, and return one that stands for all."""
        return unify_axes(self.factors, axes)


Rule = Callable[[Operation], Sequence[ValueAxes]]


def unify_axes(factors: Factors, axes: Iterable[ValueAxis]) -> ValueAxis:
    """Permute axes alike, and return one that stands for all; None if the values are constant along every one."""
    varying = [axis for axis in axes if axis is not None]
    for other in varying[1:]:
        factors.unify(varying[0], other)
    return varying[0] if varying else None


def pin_positions(op: Operation, operand: int, positions: Iterable[int], result: int = 0) -> ValueAxes:
    """The axes of an operand, with those at `positions` pinned, and replaced by pinned ones of the result's lengths."""
    axes = list(op.axes[operand])
    for i in positions:
        op.pin(operand, i)
        axes[i] = op.new_pinned(op.results[result][i])
    return tuple(axes)


def no_rule(op: Operation) -> list[ValueAxes]:
    """The rule of a primitive that has none: every axis of operands and results is pinned."""
    reason = f"no rule for {describe(op.equation)}"
    for axis in (axis for axes in op.axes for axis in axes):
        if axis is not None and not op.factors.is_pinned(axis):
            op.factors.pin(axis, reason)
            op.without_rule[describe(op.equation)] = None
    return [tuple(op.factors.new(n, reason) for n in shape) for shape in op.results]


def describe(equation: Equation) -> str:
    """A primitive and the module that it is in, as far as the trace knows: `cumsum in Net/Block_0`."""
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
