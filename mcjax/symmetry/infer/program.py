"""A traced function as one flat list of equations, and its evaluation with access to intermediate values.

Calls (jit, custom derivatives, remat) are inlined with an explicit stack, without recursion. Loops and branches stay
equations whose bodies are programs. The names of `jax.extend.core` may change between releases of jax.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jax.extend import core

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_vmap_call": "call",
    "composite": "jaxpr",
}
"""Primitives that only call a jaxpr, and the parameter that holds it."""

BODIES = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}
"""Primitives with bodies, and the parameters that hold them."""

Address = tuple[int, ...]
"""The address of a value: its slot, preceded inside loops by the number of each enclosing equation."""


class Equation(NamedTuple):
    """One primitive applied to the values in some slots.

    Attributes:
        eqn: The equation of the jaxpr.
        inputs: Slots of the operands.
        outputs: Slots of the results.
        bodies: Programs of the bodies of a loop or of the branches of a conditional.
        scope: Module that the equation comes from, such as `Net/Block_0/Conv_0`; empty if the trace has none.
    """

    eqn: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    bodies: tuple["Program", ...]
    scope: str

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.eqn.primitive.name

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of the primitive."""
        return self.eqn.params


class Program:
    """A jaxpr with all calls inlined: slots, each with a shape, and the equations between them.

    Equations that no output depends on are removed, except those that may write to a mutable array.

    Attributes:
        shapes: Shape of the value in each slot.
        constants: Values of the slots that hold constants and literals.
        equations: Equations in the order of evaluation.
        inputs: Slots of the inputs.
        outputs: Slots of the outputs.
        used: Slots that an equation reads, or that are outputs.
    """

    def __init__(self, closed: Any, scope: str = "") -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.constants: dict[int, Any] = {}
        self.equations: list[Equation] = []
        self.inputs = tuple(self._slot(var.aval) for var in _jaxpr_and_constants(closed)[0].invars)
        self.outputs = self._inline(closed, self.inputs, scope)
        self._remove_dead_code()

    def _slot(self, aval: Any) -> int:
        self.shapes.append(tuple(aval.shape))
        return len(self.shapes) - 1

    def _constant(self, aval: Any, value: Any) -> int:
        slot = self._slot(aval)
        self.constants[slot] = value
        return slot

    def _inline(self, closed: Any, inputs: Sequence[int], scope: str) -> tuple[int, ...]:
        """Append the equations of a closed jaxpr with inputs in these slots, and return the slots of its outputs."""

        def frame(closed: Any, inputs: Sequence[int], scope: str) -> tuple[Any, dict[Any, int], Any, str]:
            jaxpr, constants = _jaxpr_and_constants(closed)
            slots = dict(zip(jaxpr.invars, inputs, strict=True))
            for var, value in zip(jaxpr.constvars, constants, strict=True):
                slots[var] = self._constant(var.aval, value)
            return jaxpr, slots, iter(jaxpr.eqns), scope

        def read(slots: dict[Any, int], atom: Any) -> int:
            return self._constant(atom.aval, atom.val) if isinstance(atom, core.Literal) else slots[atom]

        stack = [frame(closed, inputs, scope)]
        calls: list[Any] = []
        while True:
            jaxpr, slots, eqns, outer_scope = stack[-1]
            for eqn in eqns:
                operands = tuple(read(slots, atom) for atom in eqn.invars)
                scope = "/".join(filter(None, (outer_scope, str(eqn.source_info.name_stack))))
                # A call opens a new frame; the iterator of this frame resumes after the call.
                callee = _callee(eqn)
                if callee is not None:
                    calls.append(eqn)
                    stack.append(frame(callee, operands, scope))
                    break
                results = tuple(self._slot(var.aval) for var in eqn.outvars)
                slots.update(zip(eqn.outvars, results, strict=True))
                bodies = tuple(Program(body, scope) for body in _bodies(eqn))
                self.equations.append(Equation(eqn, operands, results, bodies, scope))
            else:
                # The frame is done: its outputs become the results of the call that opened it.
                outputs = tuple(read(slots, atom) for atom in jaxpr.outvars)
                stack.pop()
                if not stack:
                    return outputs
                stack[-1][1].update(zip(calls.pop().outvars, outputs, strict=True))

    def _remove_dead_code(self) -> None:
        needed, kept = set(self.outputs), []
        for equation in reversed(self.equations):
            refers = any(hasattr(var.aval, "inner_aval") for var in equation.eqn.invars)
            if refers or needed.intersection(equation.outputs):
                needed.update(equation.inputs)
                kept.append(equation)
        self.equations, self.used = kept[::-1], needed

    @cached_property
    def num_equations(self) -> int:
        """The number of equations, including those of bodies."""
        return sum(1 + sum(body.num_equations for body in equation.bodies) for equation in self.equations)

    def values(
        self, inputs: Sequence[Any], addresses: Iterable[Address], overrides: Mapping[int, Any] | None = None
    ) -> dict[Address, Any]:
        """Evaluate the program and return intermediate values.

        Args:
            inputs: One array per input.
            addresses: Addresses of the values to return.
            overrides: Values, by slot, that replace the computed ones. None: no overrides.

        Returns:
            The value at each address; a value inside a scan is stacked over its steps along a leading axis.
        """
        return self._run(inputs, tuple(addresses), overrides or {})[1]

    def _run(
        self, inputs: Sequence[Any], addresses: Sequence[Address], overrides: Mapping[int, Any] = MappingProxyType({})
    ) -> tuple[list[Any], dict[Address, Any]]:
        slots: dict[int, Any] = {**dict(zip(self.inputs, inputs, strict=True)), **self.constants}
        found: dict[Address, Any] = {}
        for number, equation in enumerate(self.equations):
            operands = [slots[slot] for slot in equation.inputs]
            inside = [address[1:] for address in addresses if len(address) > 1 and address[0] == number]
            if inside:
                outputs, stacked = _scan(equation, operands, inside)
                found.update({(number, *address): value for address, value in stacked.items()})
            else:
                outputs = bind(equation, operands)
            slots.update(zip(equation.outputs, outputs, strict=True))
            slots.update((slot, overrides[slot]) for slot in equation.outputs if slot in overrides)
        found.update({address: slots[address[0]] for address in addresses if len(address) == 1})
        return [slots[slot] for slot in self.outputs], found


def trace(fn: Callable[..., Any], *args: Any) -> Program:
    """The program of `fn` at arguments of these shapes: pytrees of arrays or of `jax.ShapeDtypeStruct`s."""
    return Program(jax.make_jaxpr(fn)(*args))


def _jaxpr_and_constants(closed: Any) -> tuple[Any, Sequence[Any]]:
    # From jax 0.12 on, a jaxpr holds its constants itself.
    return getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())


def _callee(eqn: Any) -> Any:
    """The jaxpr that an equation calls, or None if the equation is not a mere call."""
    callee = eqn.params.get(CALLS.get(eqn.primitive.name, ""))
    if callee is None:
        return None
    jaxpr, constants = _jaxpr_and_constants(callee)
    complete = len(jaxpr.invars) == len(eqn.invars) and len(jaxpr.constvars) == len(constants)
    return callee if complete else None


def scan_counts(equation: Equation) -> tuple[int, int]:
    """The number of constants and of carries among the operands of a scan."""
    if "num_consts" in equation.params:
        return equation.params["num_consts"], equation.params["num_carry"]
    consts, carry, _ = equation.params["ft_in"].unpack()  # from jax 0.12 on
    return len(list(consts)), len(list(carry))


def _bodies(eqn: Any) -> list[Any]:
    found: list[Any] = []
    for parameter in BODIES.get(eqn.primitive.name, ()):
        value = eqn.params[parameter]
        found.extend(value if isinstance(value, tuple | list) else [value])
    return found


def bind(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """The results of an equation's primitive applied to these operands."""
    primitive = equation.eqn.primitive
    with equation.eqn.ctx.manager:
        outputs = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
    return list(outputs) if primitive.multiple_results else [outputs]


def _scan(
    equation: Equation, operands: Sequence[Any], addresses: Sequence[Address]
) -> tuple[list[Any], dict[Address, Any]]:
    """Run a scan that also stacks the values at these addresses of its body over the steps."""
    (body,), (consts, carries) = equation.bodies, scan_counts(equation)

    def one(carry: Any, x: Any) -> tuple[Any, Any]:
        outputs, found = body._run([*operands[:consts], *carry, *x], addresses)
        return outputs[:carries], (outputs[carries:], found)

    carry, (stacked, found) = jax.lax.scan(
        one,
        list(operands[consts : consts + carries]),
        list(operands[consts + carries :]),
        equation.params["length"],
        equation.params["reverse"],
    )
    return [*carry, *stacked], found


__all__ = ["BODIES", "CALLS", "Address", "Equation", "Program", "bind", "scan_counts", "trace"]
