"""Convolutions on the CPU: JAX's own primitive, lowered so that its gradients stay fast inside a compiled loop.

The fast CPU kernel of XLA requires the canonical layout (NHWC, HWIO, NHWC), and XLA converts other layouts to it only
outside loops. The gradients of a convolution are convolutions in other layouts: inside `lax.scan` they run up to 100
times slower. Once mcjax is imported, every two-dimensional convolution of floating-point numbers is lowered for a CPU
in the canonical layout. Derivatives of all modes, `vmap`, and modules of any library have this from JAX's own rules.
For other platforms nothing changes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import mlir

Pair = tuple[int, int]
_CANONICAL = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
"""NHWC, HWIO, NHWC as in `lax.ConvDimensionNumbers`: the positions of (batch, feature, row, column) in the images and
in the result, and of (output, input, row, column) in the kernel."""
_KERNEL_GRADIENT = ((3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1))
"""The gradient of a canonical kernel: channels are the batch, images the features, and the kernel is the gradient of
the result."""
_ONCE = (1, 1)
_FEW_POSITIONS = 64
"""Largest number of output positions at which the gradient of the kernel is faster as matrix products (measured)."""


def _lower(ctx: Any, lhs: Any, rhs: Any, **params: Any) -> Any:
    """The lowering rule: the canonical form of this convolution, if there is one, or else JAX's own rule."""
    (x, kernel), (result,) = ctx.avals_in, ctx.avals_out
    known = (
        x.ndim == 4
        and x.dtype == kernel.dtype == result.dtype
        and jnp.issubdtype(x.dtype, jnp.floating)
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and params["out_sharding"] is None
    )
    canonical = tuple(params["dimension_numbers"]) == _CANONICAL
    if not known or (canonical and not _has_phases(**params) and not _is_small(x.shape, kernel.shape, **params)):
        return _of_jax(ctx, lhs, rhs, **params)
    return mlir.lower_fun(partial(_canonical, **params), multiple_results=False)(ctx, lhs, rhs)


def _canonical(
    x: jax.Array,
    kernel: jax.Array,
    *,
    dimension_numbers: lax.ConvDimensionNumbers,
    window_strides: Pair,
    padding: Sequence[Pair],
    lhs_dilation: Pair,
    rhs_dilation: Pair,
    **others: Any,
) -> jax.Array:
    """The convolution with these parameters, whose operands and result are in canonical layout."""
    # Without the barrier, fusion would recompute the operands from the neighbouring layers in both gradients.
    x, kernel = lax.optimization_barrier((x, kernel))
    if tuple(dimension_numbers) == _KERNEL_GRADIENT and lhs_dilation == window_strides == _ONCE:
        window = [
            sum(pads) + size - step * (out - 1)
            for pads, size, out, step in zip(padding, x.shape[1:3], kernel.shape[1:3], rhs_dilation, strict=True)
        ]
        if rhs_dilation != _ONCE or window == [1, 1] or kernel.shape[1] * kernel.shape[2] <= _FEW_POSITIONS:
            return _kernel_gradient(x, kernel, rhs_dilation, padding, window)
    (batch, feature, *space), (output, taken, *window), (out_batch, out_feature, *out_space) = dimension_numbers
    # The barriers keep XLA from folding transposes into another layout.
    x, kernel = lax.optimization_barrier(
        (x.transpose(batch, *space, feature), kernel.transpose(*window, taken, output))
    )
    steps = {"window_strides": window_strides, "lhs_dilation": lhs_dilation, "rhs_dilation": rhs_dilation}
    if _has_phases(**steps):
        result = _by_phases(x, kernel, lhs_dilation, padding)
    elif _is_small(x.shape, kernel.shape, **steps):
        result = _of_small_images(x, kernel, window_strides, padding)
    else:
        numbers = lax.ConvDimensionNumbers(*_CANONICAL)
        result = lax.conv_general_dilated_p.bind(
            x, kernel, dimension_numbers=numbers, padding=padding, **steps, **others
        )
    stored = (out_batch, *out_space, out_feature)
    return result.transpose([stored.index(axis) for axis in range(4)])


def _has_phases(*, lhs_dilation: Pair, rhs_dilation: Pair, window_strides: Pair, **_: Any) -> bool:
    """Whether images alone are dilated, as in the gradient of the input of a convolution with strides."""
    return lhs_dilation != _ONCE and rhs_dilation == window_strides == _ONCE


def _is_small(x: Sequence[int], kernel: Sequence[int], *, lhs_dilation: Pair, rhs_dilation: Pair, **_: Any) -> bool:
    """Whether images are smaller than the kernel: XLA then uses a loop that is up to 70 times slower than a product."""
    return lhs_dilation == rhs_dilation == _ONCE and any(size < k for size, k in zip(x[1:3], kernel[:2], strict=True))


def _of_small_images(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Sequence[Pair]) -> jax.Array:
    """A convolution as one product with the inputs under all positions of the kernel."""
    size = [
        (size + low + high - k) // stride + 1
        for size, (low, high), k, stride in zip(x.shape[1:3], padding, kernel.shape[:2], strides, strict=True)
    ]
    patches = lax.optimization_barrier(jnp.stack(_reads(x, kernel.shape[:2], strides, padding, size), -2))
    return jnp.tensordot(patches, kernel.reshape(-1, *kernel.shape[2:]), 2)


def _reads(
    x: jax.Array, kernel: Sequence[int], strides: Pair, padding: Sequence[Pair], out: Sequence[int]
) -> list[jax.Array]:
    """The inputs under each kernel position for all output positions, by rows of the kernel: (n, *out, c) each."""
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)))

    def read(i: int, j: int) -> jax.Array:
        last = [at + (size - 1) * step + 1 for at, size, step in zip((i, j), out, strides, strict=True)]
        return lax.slice(padded, (0, i, j, 0), (len(x), *last, x.shape[3]), (1, *strides, 1))

    return [read(i, j) for i in range(kernel[0]) for j in range(kernel[1])]


def _by_phases(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Sequence[Pair]) -> jax.Array:
    """A convolution of dilated images, as the gradient of the input: one of the images themselves for each phase."""
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


def _kernel_gradient(
    x: jax.Array, g: jax.Array, strides: Pair, padding: Sequence[Pair], window: Sequence[int]
) -> jax.Array:
    """The gradient of a kernel of this size, from images and the gradient of the result: a product per position."""
    reads = _reads(x, window, strides, padding, g.shape[1:3])
    if g.shape[1] * g.shape[2] >= max(x.shape[3], g.shape[3]):
        # One product per image, which runs on several cores but writes one matrix per image.
        products = [jnp.einsum("nhwc,nhwd->ncd", read, g).sum(0) for read in reads]
    else:
        products = [jnp.tensordot(read, g, ((0, 1, 2), (0, 1, 2))) for read in reads]
    return jnp.stack(products).reshape(*window, x.shape[3], g.shape[3])


_of_jax = mlir._platform_specific_lowerings["cpu"][lax.conv_general_dilated_p].rule
mlir.register_lowering(lax.conv_general_dilated_p, _lower, platform="cpu")


def materialize(x: jax.Array) -> jax.Array:
    """`x`, computed once: XLA on the CPU would recompute a long sum at every use."""
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
