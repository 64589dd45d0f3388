"""The layers that produce units, and their preactivations, from the same program as the spec."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.symmetry.axis import axes_of
from mcjax.symmetry.infer.program import Equation, Program, trace
from mcjax.symmetry.spec import PermutationSpec


class KernelLayer(NamedTuple):
    """A layer that produces units: its kernel, the kernel's axis of units, and its bias (n,) or None, by name."""

    kernel: str
    axis: int
    bias: str | None


class View(NamedTuple):
    """The value of the slot `source` with axes moved or inserted; None marks an inserted axis."""

    source: int
    axes: tuple[int | None, ...]


class KernelProduct(NamedTuple):
    """The product of a kernel with data.

    Attributes:
        kernel: Slot of the kernel.
        axis: Axis of the kernel that is not summed over, which holds the units.
        position: Axis of the product that holds the units.
    """

    kernel: int
    axis: int
    position: int


def infer_preactivations(
    fn: Callable[..., Any], spec: PermutationSpec, theta: trees.Tree, x: Any
) -> list[tuple[KernelLayer, jax.Array]]:
    """The product of every kernel of `fn(theta, x)` that produces units of the spec, before its bias is added.

    A kernel is a leaf of at least two axes that is used once, in a contraction or a convolution with a value that
    depends on x, and has exactly one axis that is not summed over; all positions of that axis are units of the spec.
    Its bias is a leaf (n,) that is used once, added to that product alone. Omitted are kernels inside loops and
    branches; kernels that are used more than once (tied) or transformed first (products of weights, normalised
    weights); kernels with several axes that are not summed over (the heads of attention); and kernels whose units are
    pinned, such as the outputs.

    Args:
        fn: The function (theta, x) -> outputs.
        spec: The spec of `theta`.
        theta: Variables.
        x: Inputs.

    Returns:
        Pairs of a layer and its preactivations without bias, float[..., n], units last, in the order of the
        computation. Works under jit and vmap.
    """
    program = trace(fn, theta, x)
    products = KernelProducts(program, list(trees.flatten(theta)))
    layers = products.layers(spec)
    values = program.values(jax.tree.leaves((theta, x)), [(slot,) for _, slot in layers])
    return [(layer, values[(slot,)].swapaxes(products.by_slot[slot].position, -1)) for layer, slot in layers]


class KernelProducts:
    """The products of kernels with data in a program, and the biases added to them, found in one pass.

    Attributes:
        leaves: Names of the leaves of the variables, by slot.
        data: Slots of all values that depend on data.
        views: Views of leaves and of products, by slot.
        uses: Number of uses of each leaf or product; views of it do not count.
        by_slot: Products, by slot, in the order of the computation.
        biases: Slot of the bias that is added to each product, by the product's slot.
    """

    def __init__(self, program: Program, names: list[str]) -> None:
        self._shapes = program.shapes
        self.leaves = dict(zip(program.inputs, names, strict=False))
        self.data = {slot for slot in program.inputs if slot not in self.leaves}
        self.views = {slot: self._identity(slot) for slot in self.leaves}
        self.uses: Counter[int] = Counter()
        self.by_slot: dict[int, KernelProduct] = {}
        self.biases: dict[int, int] = {}
        for equation in program.equations:
            self._visit(equation)
        self.uses.update(self.views[slot].source for slot in program.outputs if slot in self.views)

    def layers(self, spec: PermutationSpec) -> list[tuple[KernelLayer, int]]:
        """The layers that produce units of the spec, and the slots of their kernels' products."""
        found = []
        for slot, (kernel, axis, _) in self.by_slot.items():
            if self.uses[kernel] == 1 and _all_units(spec, self.leaves[kernel], axis, self._shapes[kernel][axis]):
                bias = self.biases.get(slot)
                name = None if bias is None or self.uses[bias] > 1 or self.uses[slot] > 1 else self.leaves[bias]
                found.append((KernelLayer(self.leaves[kernel], axis, name), slot))
        return found

    def _identity(self, slot: int) -> View:
        return View(slot, tuple(range(len(self._shapes[slot]))))

    def _visit(self, equation: Equation) -> None:
        if any(slot in self.data for slot in equation.inputs):
            self.data.update(equation.outputs)
        # An equation that only moves axes makes a view, and does not count as a use.
        if (axes := self._axis_map(equation)) is not None:
            if (view := self.views.get(equation.inputs[0])) is not None:
                source_axes = tuple(None if axis is None else view.axes[axis] for axis in axes)
                self.views[equation.outputs[0]] = View(view.source, source_axes)
            return
        self.uses.update(self.views[slot].source for slot in equation.inputs if slot in self.views)
        if (product := self._product(equation)) is not None:
            slot = equation.outputs[0]
            self.by_slot[slot], self.views[slot] = product, self._identity(slot)
        elif equation.name == "add":
            self._record_bias(*equation.inputs)
            self._record_bias(*equation.inputs[::-1])

    def _product(self, equation: Equation) -> KernelProduct | None:
        if equation.name not in ("dot_general", "conv_general_dilated"):
            return None
        for operand in (0, 1):
            view = self.views.get(equation.inputs[operand])
            if view is None or view.source not in self.leaves or equation.inputs[1 - operand] not in self.data:
                continue
            axis, position = self._free_axis(equation, operand)
            source_axis = None if axis is None else view.axes[axis]
            if source_axis is not None and len(self._shapes[view.source]) > 1:
                return KernelProduct(view.source, source_axis, position)
        return None

    def _free_axis(self, equation: Equation, operand: int) -> tuple[int | None, int]:
        """The axis of an operand that is not summed over, and its position in the result; None unless there is one."""
        numbers = equation.params["dimension_numbers"]
        if equation.name == "conv_general_dilated":
            usual = operand == 1 and equation.params["batch_group_count"] == 1
            return (numbers.rhs_spec[0], numbers.out_spec[1]) if usual else (None, 0)
        contracted, batch = (each[operand] for each in numbers)
        free = [i for i in range(len(self._shapes[equation.inputs[operand]])) if i not in contracted]
        last = len(self._shapes[equation.outputs[0]]) - 1
        return (None, 0) if batch or len(free) != 1 else (free[0], last if operand == 1 else 0)

    def _record_bias(self, one: int, other: int) -> None:
        """Record `other` as a bias if it is a leaf that is added to a kernel's product along its units alone."""
        if one in self.views and other in self.views:
            view, bias = self.views[one], self.views[other]
            if view.source in self.by_slot and bias.source in self.leaves and len(self._shapes[bias.source]) == 1:
                along = self.by_slot[view.source].position
                if bias.axes == tuple(0 if axis == along else None for axis in view.axes):
                    self.biases[view.source] = bias.source

    def _axis_map(self, equation: Equation) -> tuple[int | None, ...] | None:
        """For an equation that only moves axes, the operand's axis of each axis of the result; otherwise None."""
        if len(equation.inputs) != 1 or len(equation.outputs) != 1:
            return None
        old, new = self._shapes[equation.inputs[0]], self._shapes[equation.outputs[0]]
        if equation.name in ("convert_element_type", "copy", "optimization_barrier"):
            return tuple(range(len(old)))
        if equation.name == "transpose":
            return tuple(equation.params["permutation"])
        if equation.name == "broadcast_in_dim":
            source = {target: i for i, target in enumerate(equation.params["broadcast_dimensions"])}
            return tuple(source[j] if j in source and old[source[j]] == n else None for j, n in enumerate(new))
        if equation.name == "squeeze" or (equation.name == "reshape" and equation.params.get("dimensions") is None):
            # A reshape that only adds or drops axes of length 1.
            wide = [i for i, n in enumerate(old) if n > 1]
            if [old[i] for i in wide] == [n for n in new if n > 1]:
                remaining = iter(wide)
                return tuple(next(remaining) if n > 1 else None for n in new)
        return None


def _all_units(spec: PermutationSpec, leaf: str, axis: int, length: int) -> bool:
    """Whether every position on this axis of a leaf belongs to a group of the spec."""
    entries = spec.axes.get(leaf, ())
    positions = [each.positions(length).ravel() for each in axes_of(entries[axis])] if axis < len(entries) else []
    return bool(positions) and len(np.unique(np.concatenate(positions))) == length


__all__ = ["KernelLayer", "KernelProducts", "infer_preactivations"]
