"""Rules of primitives that combine arrays by position: products, convolutions, pooling, indexing."""

from collections.abc import Sequence

from mcjax.symmetry.infer.factors import Product
from mcjax.symmetry.infer.operation import Operation, Rule, ValueAxes, ValueAxis


def _dot_general(op: Operation) -> list[ValueAxes]:
    (contract_1, contract_2), (batch_1, batch_2) = op.equation.params["dimension_numbers"]
    # Contracted axes and batch axes are unified in pairs; all others pass to the result.
    for i, j in zip(contract_1, contract_2, strict=True):
        op.unify((op.axes[0][i], op.axes[1][j]))
    batch = [op.unify((op.axes[0][i], op.axes[1][j])) for i, j in zip(batch_1, batch_2, strict=True)]
    free_1 = [axis for i, axis in enumerate(op.axes[0]) if i not in (*contract_1, *batch_1)]
    free_2 = [axis for j, axis in enumerate(op.axes[1]) if j not in (*contract_2, *batch_2)]
    return [(*batch, *free_1, *free_2)]


def _convolution(op: Operation) -> list[ValueAxes]:
    params = op.equation.params
    numbers = params["dimension_numbers"]
    (x_batch, x_in, *x_space), (k_out, k_in, *k_space) = numbers.lhs_spec, numbers.rhs_spec
    out_batch, out_features, *out_space = numbers.out_spec
    axes: list[ValueAxis] = [None] * len(op.results[0])
    groups = params["feature_group_count"]
    # Batch and channels: with batch groups, all of them are pinned.
    if params["batch_group_count"] > 1:
        for operand, position in ((0, x_batch), (0, x_in), (1, k_in), (1, k_out)):
            op.pin(operand, position)
        axes[out_batch], axes[out_features] = (op.new_pinned(op.results[0][i]) for i in (out_batch, out_features))
    else:
        axes[out_batch] = op.axes[0][x_batch]
        # With feature groups, the channels factor into groups * inputs, and the filters into groups * outputs.
        group, filters = op.factors.new(groups), op.product(1, k_out)
        op.factors.unify(op.product(0, x_in), group + op.product(1, k_in))
        if groups > 1:
            op.factors.unify(filters, group + op.factors.new(op.shapes[1][k_out] // groups))
        axes[out_features] = filters
    # A spatial axis passes if the window is a single pixel with stride 1; otherwise it is pinned.
    for dimension, (i, k, o) in enumerate(zip(x_space, k_space, out_space, strict=True)):
        window = (params["window_strides"][dimension], params["padding"][dimension], params["lhs_dilation"][dimension])
        if op.shapes[1][k] == 1 and window == (1, (0, 0), 1):
            axes[o] = op.axes[0][i]
        else:
            op.pin(0, i)
            op.pin(1, k)
            axes[o] = op.new_pinned(op.results[0][o])
    return [tuple(axes)]


def contracted(op: Operation) -> list[tuple[int, int, Product]]:
    """The axes of both operands that a product or a convolution sums over: (operand, position, factors)."""
    if op.equation.name == "dot_general":
        (contract_1, contract_2), _ = op.equation.params["dimension_numbers"]
        return [(0, i, op.product(0, i)) for i in contract_1] + [(1, j, op.product(1, j)) for j in contract_2]
    if op.equation.name == "conv_general_dilated":
        numbers = op.equation.params["dimension_numbers"]
        k_in = op.product(1, numbers.rhs_spec[1])
        groups = op.new_pinned(op.equation.params["feature_group_count"])
        return [(0, numbers.lhs_spec[1], groups + k_in), (1, numbers.rhs_spec[1], k_in)]
    return []


def _windows(op: Operation) -> list[ValueAxes]:
    params = op.equation.params
    arrays = [k for k, shape in enumerate(op.shapes) if shape]  # initial values are scalars
    axes: list[ValueAxis] = []
    # As in a convolution, an axis passes if its window is a single entry with stride 1.
    for i, size in enumerate(params["window_dimensions"]):
        dilation = params["base_dilation"][i] if "base_dilation" in params else 1
        if size == 1 and (params["window_strides"][i], tuple(params["padding"][i]), dilation) == (1, (0, 0), 1):
            axes.append(op.unify(op.axes[k][i] for k in arrays))
        else:
            for k in arrays:
                op.pin(k, i)
            axes.append(op.new_pinned(op.results[0][i]))
    return [tuple(axes)] * len(op.results)


def _dynamic_slice(op: Operation) -> list[ValueAxes]:
    return [tuple(_window(op, 0, i, n) for i, n in enumerate(op.results[0]))]


def _window(op: Operation, operand: int, position: int, size: int) -> ValueAxis:
    """A window of this length on an axis: the axis itself if the window covers it, otherwise a pinned one."""
    if op.shapes[operand][position] == size:
        return op.axes[operand][position]
    op.pin(operand, position)
    return op.new_pinned(size)


def _dynamic_update_slice(op: Operation) -> list[ValueAxes]:
    axes: list[ValueAxis] = []
    for i, size in enumerate(op.shapes[1]):
        if size == op.shapes[0][i]:
            axes.append(op.unify((op.axes[0][i], op.axes[1][i])))
        else:
            op.pin(0, i)
            op.pin(1, i)
            axes.append(op.new_pinned(op.shapes[0][i]))
    return [tuple(axes)]


def _gather(op: Operation) -> list[ValueAxes]:
    numbers, sizes = op.equation.params["dimension_numbers"], op.equation.params["slice_sizes"]
    # The last axis of the indices holds the components of one index; the others pass to the result.
    index_axes = list(range(len(op.shapes[1]) - 1))
    op.pin(1, len(index_axes))
    looked_up: dict[int, ValueAxis] = {i: op.axes[1][i] for i in index_axes}
    batching = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    offsets: list[ValueAxis] = []
    for i, size in enumerate(sizes):
        if i in batching:
            looked_up[batching[i]] = op.unify((op.axes[0][i], op.axes[1][batching[i]]))
            continue
        # A window as long as its axis starts at 0 for any index, so the axis passes.
        axis = _window(op, 0, i, size)
        if i not in numbers.collapsed_slice_dims:
            offsets.append(axis)
    return [_interleave(numbers.offset_dims, offsets, list(looked_up.values()))]


def _interleave(positions: Sequence[int], at_positions: Sequence[ValueAxis], others: Sequence[ValueAxis]) -> ValueAxes:
    """One tuple with `at_positions` at `positions` and `others` in the remaining places, both in order."""
    inside, outside = iter(at_positions), iter(others)
    rank = len(at_positions) + len(others)
    return tuple(next(inside) if i in positions else next(outside) for i in range(rank))


def _scatter(op: Operation) -> list[ValueAxes]:
    numbers = op.equation.params["dimension_numbers"]
    windows = iter(numbers.update_window_dims)
    # The axes of the updates outside the windows are, in order, all axes of the indices but the last.
    positions = [i for i in range(len(op.shapes[2])) if i not in numbers.update_window_dims]
    batching = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    # Indices and their updates are pinned: if two indices are equal, the order may matter.
    for j in range(len(op.shapes[1])):
        if j not in batching.values():
            op.pin(1, j)
            if j < len(positions):
                op.pin(2, positions[j])
    # An axis of the operand passes if it is a batch axis, or if every window covers it.
    axes: list[ValueAxis] = []
    for i, size in enumerate(op.shapes[0]):
        if i in batching:
            j = batching[i]
            axes.append(op.unify((op.axes[0][i], op.axes[1][j], op.axes[2][positions[j]])))
            continue
        update = None if i in numbers.inserted_window_dims else next(windows)
        if update is not None and op.shapes[2][update] == size:
            axes.append(op.unify((op.axes[0][i], op.axes[2][update])))
            continue
        op.pin(0, i)
        if update is not None:
            op.pin(2, update)
        axes.append(op.new_pinned(size))
    return [tuple(axes)]


RULES: dict[str, Rule] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(
        (
            *("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"),
            *("select_and_scatter_add", "select_and_gather_add"),
        ),
        _windows,
    ),
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    **dict.fromkeys(
        (
            *("scatter", "scatter-add", "scatter_add", "scatter-mul", "scatter_mul"),
            *("scatter-min", "scatter-max", "scatter-sub"),
        ),
        _scatter,
    ),
}
"""The rule of every primitive of this file."""


__all__ = ["RULES", "contracted"]
