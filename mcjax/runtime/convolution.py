"""Convolutions on the CPU: JAX's own primitive, lowered so that its gradients stay fast inside a compiled loop.

The fast CPU kernel of XLA requires the canonical layout (NHWC, HWIO, NHWC), and XLA converts other layouts to it only
outside loops. The gradients of a convolution are convolutions in other layouts: inside `lax.scan` they run up to 100
times slower. Once mcjax is imported, every two-dimensional convolution of floating-point numbers is lowered for a CPU
in the canonical layout, or as matrix products, if XLA would compute it slowly. Derivatives of all modes, `vmap`, and
modules of any library have this from JAX's own rules. For other platforms nothing changes.
"""

import math
from collections.abc import Sequence
from functools import partial, reduce
from itertools import product as positions
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jax.interpreters import mlir

Pair = Sequence[int]
"""Two numbers: along the height and along the width."""
Padding = Sequence[Pair]
"""Low and high padding, along the height and along the width."""
_ONCE = (1, 1)
_FEW_POSITIONS = 64
"""Largest number of output positions at which the gradient of the kernel is faster as matrix products, and of
positions in the window for one product each (measured)."""
_MANY_PARTS = 256
"""Largest number of parts of a convolution; more take long to compile."""
_FEW_PIXELS = 16
"""Largest number of pixels at which images smaller than the kernel are multiplied by one matrix (measured)."""


def _lower(ctx: Any, lhs: Any, rhs: Any, **params: Any) -> Any:
    """The lowering rule: the canonical form of this convolution, if it needs another, or else JAX's own rule."""
    if not _is_rewritten(*ctx.avals_in, *ctx.avals_out, **params):
        return _of_jax(ctx, lhs, rhs, **params)
    return mlir.lower_fun(partial(_canonical, **params), multiple_results=False)(ctx, lhs, rhs)


def _is_rewritten(x: Any, kernel: Any, result: Any, *, padding: Padding, dimension_numbers: Any, **params: Any) -> bool:
    """Whether XLA would compute a convolution of these types slowly, and `_canonical` knows another form of it."""
    sizes = (*x.shape, *kernel.shape, *result.shape)
    known = (
        x.ndim == 4
        and x.dtype == kernel.dtype == result.dtype
        and jnp.issubdtype(x.dtype, jnp.floating)
        and x.dtype.itemsize > 1
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and params.get("out_sharding") is None
        and not any(map(is_symbolic_dim, (*sizes, *padding[0], *padding[1])))
        and 0 not in sizes
    )
    if not known or dimension_numbers != canonical_layout(4):
        return known
    return _has_phases(kernel.shape, **params) or _is_small(x.shape, kernel.shape, **params)


def _canonical(
    x: jax.Array,
    kernel: jax.Array,
    *,
    dimension_numbers: lax.ConvDimensionNumbers,
    window_strides: Pair,
    padding: Padding,
    lhs_dilation: Pair,
    rhs_dilation: Pair,
    **others: Any,
) -> jax.Array:
    """The convolution with these parameters, computed in the canonical layout or by matrix products."""
    (batch, feature, *space), (output, taken, *window), (out_batch, out_feature, *out_space) = dimension_numbers
    # Without the barrier, fusion would recompute the operands from the neighbouring layers in both gradients.
    x, kernel = lax.optimization_barrier((x, kernel))
    # Images come first in every layout. If they are the features that are summed over, this is the gradient of a
    # kernel: the operands are the images and the gradient of the result, and the strides are the dilation.
    if feature == 0 and lhs_dilation == window_strides == _ONCE:
        images, g = x.transpose(0, *space, batch), kernel.transpose(taken, *window, output)
        size = [
            sum(pads) + given - step * (out - 1)
            for pads, given, out, step in zip(padding, images.shape[1:3], g.shape[1:3], rhs_dilation, strict=True)
        ]
        many = min(math.prod(size), math.prod(g.shape[1:3])) > _MANY_PARTS and tuple(size) != tuple(rhs_dilation)
        few = rhs_dilation != _ONCE or size == [1, 1] or math.prod(g.shape[1:3]) <= _FEW_POSITIONS
        if few and not many:
            result = _kernel_gradient(images, g, size, rhs_dilation, padding)
            return stored_in(result, (*out_space, out_batch, out_feature))
    x, kernel = in_canonical_layout(x, kernel, dimension_numbers)
    steps = {"window_strides": window_strides, "lhs_dilation": lhs_dilation, "rhs_dilation": rhs_dilation}
    small = _is_small(x.shape, kernel.shape, **steps)
    if _has_phases(kernel.shape, **steps):
        result = _by_phases(x, kernel, lhs_dilation, padding)
    elif small and math.prod(x.shape[1:3]) <= _FEW_PIXELS:
        result = _of_small_images(x, kernel, window_strides, padding)
    else:
        if small:
            x, padding = lax.optimization_barrier(_padded(x, padding)), ((0, 0), (0, 0))
        result = lax.conv_general_dilated_p.bind(
            x, kernel, dimension_numbers=canonical_layout(4), padding=padding, **steps, **others
        )
    return stored_in(result, (out_batch, *out_space, out_feature))


def canonical_layout(rank: int) -> lax.ConvDimensionNumbers:
    """NHWC, HWIO, NHWC, or the like for another rank."""
    images = (0, rank - 1, *range(1, rank - 1))
    return lax.ConvDimensionNumbers(images, (rank - 1, rank - 2, *range(rank - 2)), images)


def in_canonical_layout(
    x: jax.Array, kernel: jax.Array, numbers: lax.ConvDimensionNumbers
) -> tuple[jax.Array, jax.Array]:
    """Images and a kernel in the canonical layout."""
    (batch, feature, *space), (output, taken, *window), _ = numbers
    # The barrier keeps XLA from folding transposes into another layout.
    return lax.optimization_barrier((x.transpose(batch, *space, feature), kernel.transpose(*window, taken, output)))


def dtype_of_sums(dtype: Any) -> Any:
    """The dtype of sums, in which those of half-precision numbers are kept."""
    return dtype if dtype.itemsize >= 4 else jnp.float32


def stored_in(x: jax.Array, order: Sequence[int]) -> jax.Array:
    """`x` with axis i moved to position `order[i]`."""
    return x.transpose([order.index(axis) for axis in range(x.ndim)])


def _has_phases(
    kernel: Sequence[int], *, lhs_dilation: Pair, rhs_dilation: Pair, window_strides: Pair, **_: Any
) -> bool:
    """Whether images alone are dilated, as in the gradient of the input of a convolution with strides."""
    few = math.prod(lhs_dilation) <= _MANY_PARTS or tuple(kernel[:2]) == tuple(lhs_dilation)
    return few and lhs_dilation != _ONCE and rhs_dilation == window_strides == _ONCE


def _is_small(x: Sequence[int], kernel: Sequence[int], *, lhs_dilation: Pair, rhs_dilation: Pair, **_: Any) -> bool:
    """Whether images have fewer pixels than the kernel: XLA then uses a loop that is up to 100 times slower."""
    return lhs_dilation == rhs_dilation == _ONCE and math.prod(x[1:3]) < math.prod(kernel[:2])


def _padded(x: jax.Array, padding: Padding) -> jax.Array:
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)))


def parts_of(
    x: jax.Array, count: Sequence[int], apart: Sequence[int], size: Sequence[int], steps: Sequence[int]
) -> list[jax.Array]:
    """The parts (n, *size, c) of images, each with these steps: `count` parts by rows, whose starts are `apart`."""

    def read(position: Sequence[int]) -> jax.Array:
        start = [i * distance for i, distance in zip(position, apart, strict=True)]
        last = [at + (many - 1) * step + 1 for at, many, step in zip(start, size, steps, strict=True)]
        return lax.slice(x, (0, *start, 0), (len(x), *last, x.shape[-1]), (1, *steps, 1))

    return list(map(read, positions(*map(range, count))))


def _of_small_images(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """A convolution as one product with a matrix, which has the kernel's entries for all pixels and outputs."""
    end = [
        (size + sum(pads) - k) // stride * stride
        for size, pads, k, stride in zip(x.shape[1:3], padding, kernel.shape[:2], strides, strict=True)
    ]
    # Output u takes pixel i by entry i + low - stride * u. The outputs are read from the last to the first.
    around = [
        (last - low, size + low - k)
        for last, (low, _), size, k in zip(end, padding, x.shape[1:3], kernel.shape[:2], strict=True)
    ]
    out = [last // stride + 1 for last, stride in zip(end, strides, strict=True)]
    entries = lax.optimization_barrier(kernel.transpose(2, 0, 1, 3))
    matrix = lax.optimization_barrier(jnp.stack(parts_of(_padded(entries, around), x.shape[1:3], _ONCE, out, strides)))
    return jnp.tensordot(x.reshape(len(x), -1, x.shape[3]), matrix, 2)[:, ::-1, ::-1]


def _by_phases(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """A convolution of dilated images, as the gradient of the input: one of the images themselves for each phase."""
    if tuple(kernel.shape[:2]) == tuple(strides):
        # Patches that do not overlap are one product.
        patches = jnp.einsum("nhwc,ijcd->nhiwjd", x, kernel[::-1, ::-1])
        images = patches.reshape(
            len(x), *(size * stride for size, stride in zip(x.shape[1:3], strides, strict=True)), -1
        )
        return _padded(
            images, [[pad - stride + 1 for pad in pads] for pads, stride in zip(padding, strides, strict=True)]
        )
    out = [
        (size - 1) * stride + 1 + sum(pads) - k + 1
        for size, stride, pads, k in zip(x.shape[1:3], strides, padding, kernel.shape[:2], strict=True)
    ]
    whole = [-(-size // stride) for size, stride in zip(out, strides, strict=True)]

    def phase(*phases: int) -> jax.Array:
        # Result stride * u + phase takes input u + shift + j by every tap first + stride * j of the kernel.
        first = [(low - at) % stride for (low, _), at, stride in zip(padding, phases, strides, strict=True)]
        part = lax.optimization_barrier(kernel[first[0] :: strides[0], first[1] :: strides[1]])
        if 0 in part.shape:
            return jnp.zeros((len(x), *whole, kernel.shape[3]), x.dtype)
        shift = [
            (at + tap - low) // stride
            for (low, _), at, tap, stride in zip(padding, phases, first, strides, strict=True)
        ]
        around = [
            (-start, start + size + taps - 1 - given)
            for start, size, taps, given in zip(shift, whole, part.shape[:2], x.shape[1:3], strict=True)
        ]
        return lax.conv_general_dilated(x, part, _ONCE, around, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    rows = [jnp.stack([phase(row, column) for column in range(strides[1])], 3) for row in range(strides[0])]
    # Interleave the phases, and cut off the rows and columns beyond the result.
    full = jnp.stack(rows, 2).reshape(len(x), whole[0] * strides[0], whole[1] * strides[1], kernel.shape[3])
    return full[:, : out[0], : out[1]]


def _kernel_gradient(x: jax.Array, g: jax.Array, window: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """The gradient of a kernel (*window, c, d) from images (n, h, w, c) and the gradient of the result (n, h', w', d).

    One product for each position in the window. If these are many and those of the result fewer, one for each of them.
    """
    out, x = g.shape[1:3], _padded(x, padding)
    product = partial(jnp.einsum, preferred_element_type=dtype_of_sums(x.dtype))
    if tuple(window) == tuple(strides):
        # Patches that do not overlap.
        taken = x[:, : out[0] * window[0], : out[1] * window[1]]
        patches = taken.reshape(len(x), out[0], window[0], out[1], window[1], -1)
        return product("nhiwjc,nhwd->ijcd", patches, g).astype(x.dtype)
    if math.prod(window) > max(_FEW_POSITIONS, math.prod(out)):
        parts = zip(parts_of(x, out, strides, window, _ONCE), parts_of(g, out, _ONCE, _ONCE, _ONCE), strict=True)
        return reduce(jnp.add, [product("nijc,nuvd->ijcd", part, at) for part, at in parts]).astype(x.dtype)
    reads = parts_of(x, window, _ONCE, out, strides)
    if math.prod(out) >= max(x.shape[3], g.shape[3]):
        # One product per image, which runs on several cores but writes one matrix per image.
        products = [product("nhwc,nhwd->ncd", read, g).sum(0) for read in reads]
    else:
        products = [product("nhwc,nhwd->cd", read, g) for read in reads]
    return jnp.stack(products).reshape(*window, x.shape[3], g.shape[3]).astype(x.dtype)


try:
    _of_jax = mlir._platform_specific_lowerings["cpu"][lax.conv_general_dilated_p].rule
except (AttributeError, KeyError):
    # These names are private to JAX. In a version without them its own rule stays, and only speed is lost.
    pass
else:
    mlir.register_lowering(lax.conv_general_dilated_p, _lower, platform="cpu")


def materialize(x: jax.Array) -> jax.Array:
    """`x`, computed once: XLA on the CPU would recompute a long sum at every use."""
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
