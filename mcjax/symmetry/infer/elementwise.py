"""Rules of elementwise operations, of constants, and of operations along single axes: reductions, scans, sorts."""

from mcjax.symmetry.infer.operation import Operation, Rule, ValueAxes, pin_positions

ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex conj
convert_element_type cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a
igammac imag integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min mul mulhi ne neg
nextafter not one_minus_square or polygamma population_count pow real reduce_precision regularized_incomplete_beta
rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan
tanh xor zeta
""".split()  # noqa: SIM905 - eighty names, one a line otherwise

IDENTITY = """
copy copy_p device_put layout_constraint mesh_cast name optimization_barrier pcast pvary reshard sharding_constraint
stop_gradient
""".split()  # noqa: SIM905
"""Primitives that return their operands."""


def _elementwise(op: Operation) -> list[ValueAxes]:
    # Operands may be scalars, or have length 1 along an axis on which the result is longer.
    (shape,) = op.results
    full = [(axes, own) for axes, own in zip(op.axes, op.shapes, strict=True) if len(own) == len(shape)]
    return [tuple(op.unify(axes[i] for axes, own in full if own[i] == n) for i, n in enumerate(shape))]


def _equal(op: Operation) -> list[ValueAxes]:
    (shape,), (i, j) = op.results, op.counted
    if i is None or j is None or i == j or not op.shapes[0][i] == op.shapes[1][j] == shape[i] == shape[j]:
        return _elementwise(op)
    # Positions along two axes are equal on the diagonal, which stays in place if both are permuted alike.
    diagonal = op.factors.new(shape[i])
    return [tuple(diagonal if k in (i, j) else None for k in range(len(shape)))]


def _identity(op: Operation) -> list[ValueAxes]:
    return list(op.axes)


def _iota(op: Operation) -> list[ValueAxes]:
    # The values count positions along one axis and are constant along all others.
    counted = op.equation.params["dimension"]
    return [tuple(op.new_pinned(n) if i == counted else None for i, n in enumerate(op.results[0]))]


def _constant(op: Operation) -> list[ValueAxes]:
    return [(None,) * len(shape) for shape in op.results]


def _cumulative(op: Operation) -> list[ValueAxes]:
    return [pin_positions(op, 0, [op.equation.params["axis"]])]


def _fft(op: Operation) -> list[ValueAxes]:
    rank = len(op.shapes[0])
    return [pin_positions(op, 0, range(rank - len(op.equation.params["fft_lengths"]), rank))]


def _reduce(op: Operation) -> list[ValueAxes]:
    reduced = set(op.equation.params["axes"])
    return [tuple(axis for i, axis in enumerate(op.axes[0]) if i not in reduced)]


def _arg_reduce(op: Operation) -> list[ValueAxes]:
    # The index of the largest entry depends on the order of entries.
    for i in op.equation.params["axes"]:
        op.pin(0, i)
    return _reduce(op)


def _sort(op: Operation) -> list[ValueAxes]:
    # Sorting one array is invariant to the order of its entries, up to rounding: zeros of both signs are equal to it.
    # Sorting several arrays together breaks ties by position, so the axis is pinned.
    along = op.equation.params["dimension"]
    for operand in range(len(op.axes) if len(op.axes) > 1 else 0):
        op.pin(operand, along)
    unified = [op.unify(axes[i] for axes in op.axes) for i in range(len(op.shapes[0]))]
    return [tuple(op.new_pinned(n) if i == along else unified[i] for i, n in enumerate(shape)) for shape in op.results]


def _top_k(op: Operation) -> list[ValueAxes]:
    along = op.equation.params.get("axis", -1) % len(op.shapes[0])
    if not op.used[1]:  # Without the indices, this is part of a sort.
        axes = op.axes[0]
        return [(*axes[:along], op.new_pinned(shape[along]), *axes[along + 1 :]) for shape in op.results]
    return [pin_positions(op, 0, [along], result) for result in range(len(op.results))]


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(("eq", "ne"), _equal),
    **dict.fromkeys(IDENTITY, _identity),
    "iota": _iota,
    **dict.fromkeys(("empty", "zeros_like"), _constant),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _cumulative),
    "fft": _fft,
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor"), _reduce
    ),
    **dict.fromkeys(("argmax", "argmin"), _arg_reduce),
    "sort": _sort,
    "top_k": _top_k,
}
"""The rule of every primitive of this file."""


__all__ = ["ELEMENTWISE", "IDENTITY", "RULES"]
