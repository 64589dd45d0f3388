"""Rules of primitives that rearrange entries: broadcasts, reshapes, transposes, segments, concatenations."""

from collections.abc import Iterable, Sequence

from mcjax.symmetry.infer.factors import Product
from mcjax.symmetry.infer.operation import Operation, Rule, Shape, ValueAxes, ValueAxis, no_rule, pin_positions


def _broadcast(op: Operation) -> list[ValueAxes]:
    axes: list[ValueAxis] = [None] * len(op.results[0])
    for position, target in enumerate(op.equation.params["broadcast_dimensions"]):
        if op.shapes[0][position] == op.results[0][target]:
            axes[target] = op.axes[0][position]
    return [tuple(axes)]


def _tile(op: Operation) -> list[ValueAxes]:
    repeats = op.equation.params["reps"]
    if len(repeats) != len(op.axes[0]):
        return no_rule(op)
    # All copies are the same, so they form a free factor, slower than the axis.
    return [
        tuple(
            axis if n == 1 or axis is None else op.factors.new(n) + axis
            for n, axis in zip(repeats, op.axes[0], strict=True)
        )
    ]


def _transpose(op: Operation) -> list[ValueAxes]:
    return [tuple(op.axes[0][i] for i in op.equation.params["permutation"])]


def _squeeze(op: Operation) -> list[ValueAxes]:
    removed = {i % len(op.shapes[0]) for i in op.equation.params["dimensions"]}
    return [tuple(axis for i, axis in enumerate(op.axes[0]) if i not in removed)]


def _reverse(op: Operation) -> list[ValueAxes]:
    return [pin_positions(op, 0, op.equation.params["dimensions"])]


def _reshape(op: Operation) -> list[ValueAxes]:
    if 0 in op.shapes[0]:
        return no_rule(op)
    order = op.equation.params.get("dimensions")
    if order is not None:  # the operand is transposed first
        operand, shape = (tuple(each[0][i] for i in order) for each in (op.axes, op.shapes))
        op = op._replace(axes=(operand,), shapes=(shape,))
    axes: list[ValueAxis] = []
    i = j = 0
    old, new = op.shapes[0], op.results[0]
    while i < len(old) or j < len(new):
        # Take the shortest runs of old and of new axes with equally many entries.
        first_i, first_j, have, want = i, j, 1, 1
        while have != want or i == first_i or j == first_j:
            if i < len(old) and (have < want or (have == want and i == first_i)):
                have, i = have * old[i], i + 1
            elif j < len(new):
                want, j = want * new[j], j + 1
            else:
                break
        axes.extend(_regroup(op, range(first_i, i), new[first_j:j]))
    return [tuple(axes)]


def _regroup(op: Operation, old: Sequence[int], new: Shape) -> Sequence[ValueAxis]:
    """The new axes, of these lengths, that the operand's axes at the positions `old` become."""
    # Up to axes of length 1, a single axis is kept, and constant axes stay constant.
    varying = [i for i in old if op.shapes[0][i] > 1]
    wide = [n for n in new if n > 1]
    if len(varying) == len(wide) == 1:
        axis = op.axes[0][varying[0]]
        return [axis if n > 1 else () for n in new]
    if all(op.axes[0][i] is None for i in varying):
        return [None] * len(new)
    # The products of the old and of the new axes are equal: unify them, which refines factors until they align.
    factors = op.factors
    source: Product = sum((op.product(0, i) for i in varying), ())
    fresh = [factors.new(n) for n in new]
    factors.unify(source, sum(fresh, ()))
    # If they align, return the old factors, which keep the origins of their leaves.
    terms, axes = list(factors.expand(source)), []
    for n in new:
        taken: Product = ()
        while terms and factors.length(taken) < n:
            taken += (terms.pop(0),)
        axes.append(taken)
    lined_up = all(factors.length(axis) == n for axis, n in zip(axes, new, strict=True))
    return axes if lined_up else fresh


def _concatenate(op: Operation) -> list[ValueAxes]:
    along = op.equation.params["dimension"]
    return [
        tuple(
            op.factors.concatenate([op.product(k, i) for k in range(len(op.axes))])
            if i == along
            else op.unify(axes[i] for axes in op.axes)
            for i in range(len(op.results[0]))
        )
    ]


def _stack(op: Operation) -> list[ValueAxes]:
    along = op.equation.params["axis"] % len(op.results[0])
    axes = [op.unify(axes[i] for axes in op.axes) for i in range(len(op.shapes[0]))]
    return [(*axes[:along], op.new_pinned(len(op.axes)), *axes[along:])]


def _pad(op: Operation) -> list[ValueAxes]:
    axes: list[ValueAxis] = []
    for i, (low, high, interior) in enumerate(_integers(op.equation.params["padding_config"])):
        if low == high == interior == 0:
            axes.append(op.axes[0][i])
        elif interior or min(low, high) < 0 or op.shapes[0][i] == 0:
            op.pin(0, i)
            axes.append(op.new_pinned(op.results[0][i]))
        else:
            # Padding at the ends is a concatenation with constant segments, which are free.
            parts = [op.factors.new(low), op.product(0, i), op.factors.new(high)]
            sizes = (low, op.shapes[0][i], high)
            axes.append(op.factors.concatenate([part for part, n in zip(parts, sizes, strict=True) if n]))
    return [tuple(axes)]


def _integers(config: Iterable[Iterable[int]]) -> list[tuple[int, ...]]:
    return [tuple(int(n) for n in each) for each in config]


def _slice(op: Operation) -> list[ValueAxes]:
    starts, stops = op.equation.params["start_indices"], op.equation.params["limit_indices"]
    strides = op.equation.params["strides"] or (1,) * len(starts)
    return [tuple(_slice_axis(op, i, *bounds) for i, bounds in enumerate(zip(starts, stops, strides, strict=True)))]


def _slice_axis(op: Operation, i: int, start: int, stop: int, stride: int) -> ValueAxis:
    size, axis = op.shapes[0][i], op.axes[0][i]
    if stop - start <= stride:  # at most one entry: any stride will do
        stop, stride = start + min(1, stop - start), 1
    if axis is None or (stop - start == size and stride == 1):
        return axis
    if stop == start:
        return op.new_pinned(0)
    if stride > 1:
        count = -(-(stop - start) // stride)
        # A strided slice of the whole axis selects one index of a fastest factor of length `stride`.
        if size == count * stride and start < stride:
            kept = op.factors.new(count)
            op.factors.unify(axis, kept + op.new_pinned(stride))
            return kept
        op.pin(0, i)
        return op.new_pinned(count)
    segments = _cut(op, i, [n for n in (start, stop - start, size - stop) if n])
    return segments[1 if start else 0]


def _split(op: Operation) -> list[ValueAxes]:
    along = op.equation.params["axis"]
    segments = _cut(op, along, [int(n) for n in op.equation.params["sizes"]])
    return [(*op.axes[0][:along], segment, *op.axes[0][along + 1 :]) for segment in segments]


def _unstack(op: Operation) -> list[ValueAxes]:
    along = op.equation.params["axis"] % len(op.shapes[0])
    segments = _cut(op, along, [1] * len(op.results))
    return [(*op.axes[0][:along], *op.axes[0][along + 1 :]) for _ in segments]


def _cut(op: Operation, position: int, sizes: Sequence[int]) -> Sequence[ValueAxis]:
    """The operand's axis cut into segments of these lengths; pinned if a boundary lies inside its faster factors."""
    axis = op.axes[0][position]
    if axis is None:
        return [None] * len(sizes)
    segments = op.factors.cut(axis, [n for n in sizes if n])
    if segments is None:
        op.pin(0, position)
        return [op.new_pinned(n) for n in sizes]
    remaining = iter(segments)
    return [next(remaining) if n else op.new_pinned(0) for n in sizes]


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "tile": _tile,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "rev": _reverse,
    "reshape": _reshape,
    "concatenate": _concatenate,
    "stack": _stack,
    "pad": _pad,
    "slice": _slice,
    "split": _split,
    "unstack": _unstack,
}
"""The rule of every primitive of this file."""


__all__ = ["RULES"]
