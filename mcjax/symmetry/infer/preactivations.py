"""The layers that make units, and what their kernels compute, read off the same computation as the spec."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.symmetry.axis import axes_of
from mcjax.symmetry.infer.program import Program, Step, trace
from mcjax.symmetry.spec import PermutationSpec


class Layer(NamedTuple):
    """A kernel that makes units, the axis of it that they lie on, and the bias (n,) that is added to them, if any."""

    kernel: str
    axis: int
    bias: str | None


class View(NamedTuple):
    """The value of another slot with its axes moved, inserted or cast: which of its axes each one is."""

    source: int
    axes: tuple[int | None, ...]


class Made(NamedTuple):
    """What a kernel computes on data: the kernel's slot, and the axis of the units on it and on the result."""

    kernel: int
    axis: int
    position: int


def infer_preactivations(
    fn: Callable[..., Any], spec: PermutationSpec, theta: trees.Tree, x: Any
) -> list[tuple[Layer, jax.Array]]:
    """What every kernel of `fn(theta, x)` that makes units of the spec computes, before its bias: (..., n), units last.

    In the order of the computation; works under jit and vmap. A kernel is a leaf of at least two axes
    that is used once, in a contraction or a convolution with a value that depends on x, and leaves one
    of its axes over, all of it units of groups of the spec. Its bias is a leaf (n,) that is used once,
    added to just that. Left out are kernels inside loops and branches, kernels that are used more than
    once (tied) or computed with first (products of weights, normalised weights), kernels with several
    axes left over (the heads of attention), and those whose units the spec pins, as all outputs are.
    """
    program = trace(fn, theta, x)
    reader = Reader(program, list(trees.flatten(theta)))
    layers = reader.layers(spec)
    values = program.values(jax.tree.leaves((theta, x)), [(slot,) for _, slot in layers])
    return [(layer, values[(slot,)].swapaxes(reader.made[slot].position, -1)) for layer, slot in layers]


class Reader:
    """One pass through a program: where its leaves and what their products with data are used."""

    def __init__(self, program: Program, names: list[str]) -> None:
        self.shapes = program.shapes
        self.leaves = dict(zip(program.inputs, names, strict=False))
        self.data = {slot for slot in program.inputs if slot not in self.leaves}
        self.views = {slot: self._itself(slot) for slot in self.leaves}
        self.uses: Counter[int] = Counter()
        self.made: dict[int, Made] = {}
        self.added: dict[int, int] = {}
        for step in program.steps:
            self._read(step)
        self.uses.update(self.views[slot].source for slot in program.outputs if slot in self.views)

    def layers(self, spec: PermutationSpec) -> list[tuple[Layer, int]]:
        """The layers that make units of the spec, and the slots of what their kernels compute."""
        found = []
        for slot, (kernel, axis, _) in self.made.items():
            if self.uses[kernel] == 1 and _all_units(spec, self.leaves[kernel], axis, self.shapes[kernel][axis]):
                bias = self.added.get(slot)
                name = None if bias is None or self.uses[bias] > 1 or self.uses[slot] > 1 else self.leaves[bias]
                found.append((Layer(self.leaves[kernel], axis, name), slot))
        return found

    def _itself(self, slot: int) -> View:
        return View(slot, tuple(range(len(self.shapes[slot]))))

    def _read(self, step: Step) -> None:
        if any(slot in self.data for slot in step.inputs):
            self.data.update(step.outputs)
        if (axes := self._moved(step)) is not None:
            if (view := self.views.get(step.inputs[0])) is not None:
                there = tuple(None if axis is None else view.axes[axis] for axis in axes)
                self.views[step.outputs[0]] = View(view.source, there)
            return
        self.uses.update(self.views[slot].source for slot in step.inputs if slot in self.views)
        if (made := self._product(step)) is not None:
            slot = step.outputs[0]
            self.made[slot], self.views[slot] = made, self._itself(slot)
        elif step.name == "add":
            self._sum(*step.inputs)
            self._sum(*step.inputs[::-1])

    def _product(self, step: Step) -> Made | None:
        if step.name not in ("dot_general", "conv_general_dilated"):
            return None
        for operand in (0, 1):
            view = self.views.get(step.inputs[operand])
            if view is None or view.source not in self.leaves or step.inputs[1 - operand] not in self.data:
                continue
            axis, position = self._left_over(step, operand)
            source_axis = None if axis is None else view.axes[axis]
            if source_axis is not None and len(self.shapes[view.source]) > 1:
                return Made(view.source, source_axis, position)
        return None

    def _left_over(self, step: Step, operand: int) -> tuple[int | None, int]:
        """The only axis of an operand that is not summed over, and where the result has it; None if there is no one."""
        numbers = step.params["dimension_numbers"]
        if step.name == "conv_general_dilated":
            usual = operand == 1 and step.params["batch_group_count"] == 1
            return (numbers.rhs_spec[0], numbers.out_spec[1]) if usual else (None, 0)
        contracted, batch = (each[operand] for each in numbers)
        free = [i for i in range(len(self.shapes[step.inputs[operand]])) if i not in contracted]
        last = len(self.shapes[step.outputs[0]]) - 1
        return (None, 0) if batch or len(free) != 1 else (free[0], last if operand == 1 else 0)

    def _sum(self, one: int, other: int) -> None:
        """Note `other` as a bias if it is a leaf added to what a kernel computes, along its units alone."""
        if one in self.views and other in self.views:
            view, bias = self.views[one], self.views[other]
            if view.source in self.made and bias.source in self.leaves and len(self.shapes[bias.source]) == 1:
                along = self.made[view.source].position
                if bias.axes == tuple(0 if axis == along else None for axis in view.axes):
                    self.added[view.source] = bias.source

    def _moved(self, step: Step) -> tuple[int | None, ...] | None:
        """Which axis of its operand each axis of the result is, for a step that changes no value; else None."""
        if len(step.inputs) != 1 or len(step.outputs) != 1:
            return None
        old, new = self.shapes[step.inputs[0]], self.shapes[step.outputs[0]]
        if step.name in ("convert_element_type", "copy", "optimization_barrier"):
            return tuple(range(len(old)))
        if step.name == "transpose":
            return tuple(step.params["permutation"])
        if step.name == "broadcast_in_dim":
            at = {there: i for i, there in enumerate(step.params["broadcast_dimensions"])}
            return tuple(at[j] if j in at and old[at[j]] == n else None for j, n in enumerate(new))
        if step.name == "squeeze" or (step.name == "reshape" and step.params.get("dimensions") is None):
            wide = [i for i, n in enumerate(old) if n > 1]
            if [old[i] for i in wide] == [n for n in new if n > 1]:
                remaining = iter(wide)
                return tuple(next(remaining) if n > 1 else None for n in new)
        return None


def _all_units(spec: PermutationSpec, leaf: str, axis: int, length: int) -> bool:
    """Whether every entry of this axis of a leaf is of a group of the spec."""
    entries = spec.axes.get(leaf, ())
    places = [each.positions(length).ravel() for each in axes_of(entries[axis])] if axis < len(entries) else []
    return bool(places) and len(np.unique(np.concatenate(places))) == length


__all__ = ["Layer", "Reader", "infer_preactivations"]
