"""The rules of primitives that combine arrays by position: products, convolutions, pooling, indexing."""

from collections.abc import Sequence

from mcjax.symmetry.infer.factors import Product
from mcjax.symmetry.infer.rules import Application, Axes, Axis, rule


@rule("dot_general")
def _dot_general(a: Application) -> list[Axes]:
    (contract_1, contract_2), (batch_1, batch_2) = a.step.params["dimension_numbers"]
    for i, j in zip(contract_1, contract_2, strict=True):
        a.join((a.axes[0][i], a.axes[1][j]))
    batch = [a.join((a.axes[0][i], a.axes[1][j])) for i, j in zip(batch_1, batch_2, strict=True)]
    free_1 = [axis for i, axis in enumerate(a.axes[0]) if i not in (*contract_1, *batch_1)]
    free_2 = [axis for j, axis in enumerate(a.axes[1]) if j not in (*contract_2, *batch_2)]
    return [(*batch, *free_1, *free_2)]


@rule("conv_general_dilated")
def _convolution(a: Application) -> list[Axes]:
    params = a.step.params
    numbers = params["dimension_numbers"]
    (x_batch, x_in, *x_space), (k_out, k_in, *k_space) = numbers.lhs_spec, numbers.rhs_spec
    out_batch, out_features, *out_space = numbers.out_spec
    axes: list[Axis] = [None] * len(a.results[0])
    groups = params["feature_group_count"]
    if params["batch_group_count"] > 1:
        for operand, position in ((0, x_batch), (0, x_in), (1, k_in), (1, k_out)):
            a.pin(operand, position)
        axes[out_batch], axes[out_features] = (a.opaque(a.results[0][i]) for i in (out_batch, out_features))
    else:
        axes[out_batch] = a.axes[0][x_batch]
        # With feature groups, the channels are groups * inputs, and the filters groups * outputs.
        group, filters = a.factors.new(groups), a.held(1, k_out)
        a.factors.unify(a.held(0, x_in), group + a.held(1, k_in))
        if groups > 1:
            a.factors.unify(filters, group + a.factors.new(a.shapes[1][k_out] // groups))
        axes[out_features] = filters
    for dimension, (i, k, o) in enumerate(zip(x_space, k_space, out_space, strict=True)):
        window = (params["window_strides"][dimension], params["padding"][dimension], params["lhs_dilation"][dimension])
        if a.shapes[1][k] == 1 and window == (1, (0, 0), 1):
            axes[o] = a.axes[0][i]
        else:
            a.pin(0, i)
            a.pin(1, k)
            axes[o] = a.opaque(a.results[0][o])
    return [tuple(axes)]


def contracted(a: Application) -> list[tuple[int, int, Product]]:
    """What a contraction or convolution sums over: (operand, position, factors) for both operands."""
    if a.step.name == "dot_general":
        (contract_1, contract_2), _ = a.step.params["dimension_numbers"]
        return [(0, i, a.held(0, i)) for i in contract_1] + [(1, j, a.held(1, j)) for j in contract_2]
    if a.step.name == "conv_general_dilated":
        numbers = a.step.params["dimension_numbers"]
        k_in = a.held(1, numbers.rhs_spec[1])
        groups = a.opaque(a.step.params["feature_group_count"])
        return [(0, numbers.lhs_spec[1], groups + k_in), (1, numbers.rhs_spec[1], k_in)]
    return []


@rule("reduce_window_sum", "reduce_window_max", "reduce_window_min")
def _reduce_window(a: Application) -> list[Axes]:
    params = a.step.params
    axes: list[Axis] = []
    for i, size in enumerate(params["window_dimensions"]):
        still = (params["window_strides"][i], tuple(params["padding"][i]), params["base_dilation"][i])
        if size == 1 and still == (1, (0, 0), 1):
            axes.append(a.axes[0][i])
        else:
            a.pin(0, i)
            axes.append(a.opaque(a.results[0][i]))
    return [tuple(axes)]


@rule("dynamic_slice")
def _dynamic_slice(a: Application) -> list[Axes]:
    return [tuple(_window(a, 0, i, n) for i, n in enumerate(a.results[0]))]


def _window(a: Application, operand: int, position: int, size: int) -> Axis:
    """An axis of which a window is taken: the whole one passes, any other is pinned."""
    if a.shapes[operand][position] == size:
        return a.axes[operand][position]
    a.pin(operand, position)
    return a.opaque(size)


@rule("dynamic_update_slice")
def _dynamic_update_slice(a: Application) -> list[Axes]:
    axes: list[Axis] = []
    for i, size in enumerate(a.shapes[1]):
        if size == a.shapes[0][i]:
            axes.append(a.join((a.axes[0][i], a.axes[1][i])))
        else:
            a.pin(0, i)
            a.pin(1, i)
            axes.append(a.opaque(a.shapes[0][i]))
    return [tuple(axes)]


@rule("gather")
def _gather(a: Application) -> list[Axes]:
    numbers, sizes = a.step.params["dimension_numbers"], a.step.params["slice_sizes"]
    index_axes = list(range(len(a.shapes[1]) - 1))
    a.pin(1, len(index_axes))
    looked_up: dict[int, Axis] = {i: a.axes[1][i] for i in index_axes}
    batching = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    offsets: list[Axis] = []
    for i, size in enumerate(sizes):
        if i in batching:
            looked_up[batching[i]] = a.join((a.axes[0][i], a.axes[1][batching[i]]))
            continue
        # A window as long as its axis can only begin at 0, whatever the index says.
        axis = _window(a, 0, i, size)
        if i not in numbers.collapsed_slice_dims:
            offsets.append(axis)
    return [_interleave(numbers.offset_dims, offsets, list(looked_up.values()))]


def _interleave(places: Sequence[int], there: Sequence[Axis], elsewhere: Sequence[Axis]) -> Axes:
    """The axes `there` at `places`, in order, and the others around them."""
    inside, outside = iter(there), iter(elsewhere)
    rank = len(there) + len(elsewhere)
    return tuple(next(inside) if i in places else next(outside) for i in range(rank))


@rule(
    "scatter", "scatter-add", "scatter_add", "scatter-mul", "scatter_mul", "scatter-min", "scatter-max", "scatter-sub"
)
def _scatter(a: Application) -> list[Axes]:
    numbers = a.step.params["dimension_numbers"]
    windows = iter(numbers.update_window_dims)
    # The axes of the indices but the last are, in order, those of the updates that are no window.
    places = [i for i in range(len(a.shapes[2])) if i not in numbers.update_window_dims]
    batching = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    for j in range(len(a.shapes[1])):
        if j not in batching.values():
            a.pin(1, j)
            if j < len(places):
                a.pin(2, places[j])
    axes: list[Axis] = []
    for i, size in enumerate(a.shapes[0]):
        if i in batching:
            j = batching[i]
            axes.append(a.join((a.axes[0][i], a.axes[1][j], a.axes[2][places[j]])))
            continue
        update = None if i in numbers.inserted_window_dims else next(windows)
        if update is not None and a.shapes[2][update] == size:
            axes.append(a.join((a.axes[0][i], a.axes[2][update])))
            continue
        a.pin(0, i)
        if update is not None:
            a.pin(2, update)
        axes.append(a.opaque(size))
    return [tuple(axes)]


__all__ = ["contracted"]
