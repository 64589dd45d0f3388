"""A traced function as one flat list of steps, and running it for values that it computes on the way.

Calls (jit, custom gradients, remat) are unfolded with a stack of our own, so depth costs no recursion.
Loops and branches stay steps whose bodies are programs. The names of `jax.extend.core` may change
from one release of jax to the next; this is the only file that uses them.
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
"""Primitives that only call the program in this parameter."""

BODIES = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}
"""Primitives with bodies, and the parameters that hold them."""

Place = tuple[int, ...]
"""Where a value is computed: a slot, or inside a loop the step and then the place in its body."""


class Step(NamedTuple):
    """One primitive: reads values from the slots `inputs` and writes to `outputs`."""

    equation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    bodies: tuple["Program", ...]
    where: str
    """The module that asked for it, as far as the trace knows: `Net/Block_0/Conv_0`."""

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.equation.primitive.name

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of the primitive."""
        return self.equation.params


class Program:
    """Slots, each with a shape, and the steps between them; steps that no output needs are left out."""

    def __init__(self, closed: Any, where: str = "") -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.constants: dict[int, Any] = {}
        self.steps: list[Step] = []
        self.inputs = tuple(self._slot(var.aval) for var in _opened(closed)[0].invars)
        self.outputs = self._unfold(closed, self.inputs, where)
        self._drop_unneeded()

    def _slot(self, aval: Any) -> int:
        self.shapes.append(tuple(aval.shape))
        return len(self.shapes) - 1

    def _constant(self, aval: Any, value: Any) -> int:
        slot = self._slot(aval)
        self.constants[slot] = value
        return slot

    def _unfold(self, closed: Any, inputs: Sequence[int], where: str) -> tuple[int, ...]:
        """Append the steps of a closed jaxpr whose inputs are in these slots; the slots of its outputs."""

        def frame(closed: Any, inputs: Sequence[int], where: str) -> tuple[Any, dict[Any, int], Any, str]:
            jaxpr, constants = _opened(closed)
            slots = dict(zip(jaxpr.invars, inputs, strict=True))
            for var, value in zip(jaxpr.constvars, constants, strict=True):
                slots[var] = self._constant(var.aval, value)
            return jaxpr, slots, iter(jaxpr.eqns), where

        def read(slots: dict[Any, int], atom: Any) -> int:
            return self._constant(atom.aval, atom.val) if isinstance(atom, core.Literal) else slots[atom]

        stack = [frame(closed, inputs, where)]
        calls: list[Any] = []
        while True:
            jaxpr, slots, equations, around = stack[-1]
            for equation in equations:
                reads = tuple(read(slots, atom) for atom in equation.invars)
                here = "/".join(filter(None, (around, str(equation.source_info.name_stack))))
                called = _called(equation)
                if called is not None:
                    calls.append(equation)
                    stack.append(frame(called, reads, here))
                    break
                writes = tuple(self._slot(var.aval) for var in equation.outvars)
                slots.update(zip(equation.outvars, writes, strict=True))
                bodies = tuple(Program(body, here) for body in _bodies(equation))
                self.steps.append(Step(equation, reads, writes, bodies, here))
            else:
                outputs = tuple(read(slots, atom) for atom in jaxpr.outvars)
                stack.pop()
                if not stack:
                    return outputs
                stack[-1][1].update(zip(calls.pop().outvars, outputs, strict=True))

    def _drop_unneeded(self) -> None:
        needed, kept = set(self.outputs), []
        for step in reversed(self.steps):
            if needed.intersection(step.outputs):
                needed.update(step.inputs)
                kept.append(step)
        self.steps = kept[::-1]

    @cached_property
    def equations(self) -> int:
        """How many steps there are, those of bodies included."""
        return sum(1 + sum(body.equations for body in step.bodies) for step in self.steps)

    def values(
        self, inputs: Sequence[Any], places: Iterable[Place], given: Mapping[int, Any] | None = None
    ) -> dict[Place, Any]:
        """What the program computes at these places; inside a scan, stacked along a leading axis.

        given: values of slots, in place of what is computed there.
        """
        return self._run(inputs, tuple(places), given or {})[1]

    def _run(
        self, inputs: Sequence[Any], places: Sequence[Place], given: Mapping[int, Any] = MappingProxyType({})
    ) -> tuple[list[Any], dict[Place, Any]]:
        slots: dict[int, Any] = {**dict(zip(self.inputs, inputs, strict=True)), **self.constants}
        found: dict[Place, Any] = {}
        for number, step in enumerate(self.steps):
            arguments = [slots[slot] for slot in step.inputs]
            inside = [place[1:] for place in places if len(place) > 1 and place[0] == number]
            if inside:
                outputs, stacked = _scan(step, arguments, inside)
                found.update({(number, *place): value for place, value in stacked.items()})
            else:
                outputs = bind(step, arguments)
            slots.update(zip(step.outputs, outputs, strict=True))
            slots.update((slot, given[slot]) for slot in step.outputs if slot in given)
        found.update({place: slots[place[0]] for place in places if len(place) == 1})
        return [slots[slot] for slot in self.outputs], found


def trace(fn: Callable[..., Any], *args: Any) -> Program:
    """The program of `fn` at arguments of these shapes: arrays or `jax.ShapeDtypeStruct`s, as pytrees."""
    return Program(jax.make_jaxpr(fn)(*args))


def _opened(closed: Any) -> tuple[Any, Sequence[Any]]:
    # From jax 0.12 on, a jaxpr holds its constants itself.
    return getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())


def _called(equation: Any) -> Any:
    """What a step calls, if calling is all it does."""
    called = equation.params.get(CALLS.get(equation.primitive.name, ""))
    if called is None:
        return None
    jaxpr, constants = _opened(called)
    whole = len(jaxpr.invars) == len(equation.invars) and len(jaxpr.constvars) == len(constants)
    return called if whole else None


def scan_counts(step: Step) -> tuple[int, int]:
    """How many operands of a scan are constants of its body, and how many are its carry."""
    if "num_consts" in step.params:
        return step.params["num_consts"], step.params["num_carry"]
    consts, carry, _ = step.params["ft_in"].unpack()  # from jax 0.12 on
    return len(list(consts)), len(list(carry))


def _bodies(equation: Any) -> list[Any]:
    found: list[Any] = []
    for parameter in BODIES.get(equation.primitive.name, ()):
        value = equation.params[parameter]
        found.extend(value if isinstance(value, tuple | list) else [value])
    return found


def bind(step: Step, arguments: Sequence[Any]) -> list[Any]:
    """What a step computes from other arguments."""
    primitive = step.equation.primitive
    with step.equation.ctx.manager:
        outputs = primitive.bind(*arguments, **primitive.get_bind_params(step.params))
    return list(outputs) if primitive.multiple_results else [outputs]


def _scan(step: Step, arguments: Sequence[Any], places: Sequence[Place]) -> tuple[list[Any], dict[Place, Any]]:
    """A scan that also stacks what its body computes at these places."""
    (body,), (consts, carries) = step.bodies, scan_counts(step)

    def one(carry: Any, x: Any) -> tuple[Any, Any]:
        outputs, found = body._run([*arguments[:consts], *carry, *x], places)
        return outputs[:carries], (outputs[carries:], found)

    carry, (stacked, found) = jax.lax.scan(
        one,
        list(arguments[consts : consts + carries]),
        list(arguments[consts + carries :]),
        step.params["length"],
        step.params["reverse"],
    )
    return [*carry, *stacked], found


__all__ = ["BODIES", "CALLS", "Place", "Program", "Step", "bind", "scan_counts", "trace"]
