"""The rules of primitives that lay entries out anew: reshapes, transposes, segments, copies."""

from collections.abc import Iterable, Sequence

from mcjax.symmetry.infer.factors import Product
from mcjax.symmetry.infer.rules import Application, Axes, Axis, Shape, fixed, rule, unknown


@rule("broadcast_in_dim")
def _broadcast(a: Application) -> list[Axes]:
    axes: list[Axis] = [None] * len(a.results[0])
    for position, target in enumerate(a.step.params["broadcast_dimensions"]):
        if a.shapes[0][position] == a.results[0][target]:
            axes[target] = a.axes[0][position]
    return [tuple(axes)]


@rule("tile")
def _tile(a: Application) -> list[Axes]:
    repeats = a.step.params["reps"]
    if len(repeats) != len(a.axes[0]):
        return unknown(a)
    # Every copy is the same, so the copies may change places.
    return [
        tuple(
            axis if n == 1 or axis is None else a.factors.new(n) + axis
            for n, axis in zip(repeats, a.axes[0], strict=True)
        )
    ]


@rule("stack")
def _stack(a: Application) -> list[Axes]:
    along = a.step.params["axis"] % len(a.results[0])
    axes = [a.join(axes[i] for axes in a.axes) for i in range(len(a.shapes[0]))]
    return [(*axes[:along], a.opaque(len(a.axes)), *axes[along:])]


@rule("unstack")
def _unstack(a: Application) -> list[Axes]:
    along = a.step.params["axis"] % len(a.shapes[0])
    pieces = _pieces(a, along, [1] * len(a.results))
    return [(*a.axes[0][:along], *a.axes[0][along + 1 :]) for _ in pieces]


@rule("transpose")
def _transpose(a: Application) -> list[Axes]:
    return [tuple(a.axes[0][i] for i in a.step.params["permutation"])]


@rule("squeeze")
def _squeeze(a: Application) -> list[Axes]:
    gone = {i % len(a.shapes[0]) for i in a.step.params["dimensions"]}
    return [tuple(axis for i, axis in enumerate(a.axes[0]) if i not in gone)]


@rule("reshape")
def _reshape(a: Application) -> list[Axes]:
    if 0 in a.shapes[0]:
        return unknown(a)
    order = a.step.params.get("dimensions")
    if order is not None:  # transposed first
        operand, shape = (tuple(each[0][i] for i in order) for each in (a.axes, a.shapes))
        a = a._replace(axes=(operand,), shapes=(shape,))
    axes: list[Axis] = []
    i = j = 0
    old, new = a.shapes[0], a.results[0]
    while i < len(old) or j < len(new):
        # The shortest runs of old and of new axes that hold equally many entries.
        first_i, first_j, have, want = i, j, 1, 1
        while have != want or i == first_i or j == first_j:
            if i < len(old) and (have < want or (have == want and i == first_i)):
                have, i = have * old[i], i + 1
            elif j < len(new):
                want, j = want * new[j], j + 1
            else:
                break
        axes.extend(_regroup(a, range(first_i, i), new[first_j:j]))
    return [tuple(axes)]


def _regroup(a: Application, old: Sequence[int], new: Shape) -> Sequence[Axis]:
    varying = [i for i in old if a.shapes[0][i] > 1]
    wide = [n for n in new if n > 1]
    if len(varying) == len(wide) == 1:
        axis = a.axes[0][varying[0]]
        return [axis if n > 1 else () for n in new]
    if all(a.axes[0][i] is None for i in varying):
        return [None] * len(new)
    factors = a.factors
    source: Product = sum((a.held(0, i) for i in varying), ())
    fresh = [factors.new(n) for n in new]
    factors.unify(source, sum(fresh, ()))
    # The factors themselves are returned where they line up, since they know the leaf they are of.
    terms, axes = list(factors.expand(source)), []
    for n in new:
        taken: Product = ()
        while terms and factors.length(taken) < n:
            taken += (terms.pop(0),)
        axes.append(taken)
    lined_up = all(factors.length(axis) == n for axis, n in zip(axes, new, strict=True))
    return axes if lined_up else fresh


@rule("concatenate")
def _concatenate(a: Application) -> list[Axes]:
    along = a.step.params["dimension"]
    return [
        tuple(
            a.factors.concatenate([a.held(k, i) for k in range(len(a.axes))])
            if i == along
            else a.join(axes[i] for axes in a.axes)
            for i in range(len(a.results[0]))
        )
    ]


@rule("pad")
def _pad(a: Application) -> list[Axes]:
    axes: list[Axis] = []
    for i, (low, high, interior) in enumerate(_integers(a.step.params["padding_config"])):
        if low == high == interior == 0:
            axes.append(a.axes[0][i])
        elif interior or min(low, high) < 0 or a.shapes[0][i] == 0:
            a.pin(0, i)
            axes.append(a.opaque(a.results[0][i]))
        else:
            parts = [a.factors.new(low), a.held(0, i), a.factors.new(high)]
            sizes = (low, a.shapes[0][i], high)
            axes.append(a.factors.concatenate([part for part, n in zip(parts, sizes, strict=True) if n]))
    return [tuple(axes)]


def _integers(config: Iterable[Iterable[int]]) -> list[tuple[int, ...]]:
    return [tuple(int(n) for n in each) for each in config]


@rule("slice")
def _slice(a: Application) -> list[Axes]:
    starts, stops = a.step.params["start_indices"], a.step.params["limit_indices"]
    strides = a.step.params["strides"] or (1,) * len(starts)
    return [tuple(_part(a, i, *span) for i, span in enumerate(zip(starts, stops, strides, strict=True)))]


def _part(a: Application, i: int, start: int, stop: int, stride: int) -> Axis:
    size, axis = a.shapes[0][i], a.axes[0][i]
    if stop - start <= stride:  # one entry
        stop, stride = start + min(1, stop - start), 1
    if axis is None or (stop - start == size and stride == 1):
        return axis
    if stop == start:
        return a.opaque(0)
    if stride > 1:
        count = -(-(stop - start) // stride)
        if size == count * stride and start < stride:  # every entry at one place of a last factor
            kept = a.factors.new(count)
            a.factors.unify(axis, kept + a.opaque(stride))
            return kept
        a.pin(0, i)
        return a.opaque(count)
    pieces = _pieces(a, i, [n for n in (start, stop - start, size - stop) if n])
    return pieces[1 if start else 0]


@rule("split")
def _split(a: Application) -> list[Axes]:
    along = a.step.params["axis"]
    pieces = _pieces(a, along, [int(n) for n in a.step.params["sizes"]])
    return [(*a.axes[0][:along], piece, *a.axes[0][along + 1 :]) for piece in pieces]


def _pieces(a: Application, position: int, sizes: Sequence[int]) -> Sequence[Axis]:
    """An axis cut into segments of these lengths; pinned if a factor would be cut across."""
    axis = a.axes[0][position]
    if axis is None:
        return [None] * len(sizes)
    pieces = a.factors.cut(axis, [n for n in sizes if n])
    if pieces is None:
        a.pin(0, position)
        return [a.opaque(n) for n in sizes]
    whole = iter(pieces)
    return [next(whole) if n else a.opaque(0) for n in sizes]


@rule("rev")
def _reverse(a: Application) -> list[Axes]:
    return [fixed(a, 0, a.step.params["dimensions"])]
