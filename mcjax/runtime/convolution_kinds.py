"""Convolutions of groups of channels, and of sequences and volumes, on the CPU.

XLA's CPU kernels are slow for groups, and inside compiled loops for the gradients of groups, of sequences and of
volumes: by factors of 3 to 100. Here these are lowered to the ungrouped convolutions of images of `convolution`, to
sums of shifted images, and volumes to the canonical layout. Groups stay apart, so that a NaN in one does not reach
another: the networks of a `vmap` are such groups. For other platforms nothing changes.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import mlir

from mcjax.runtime import convolution as convolution
from mcjax.runtime.convolution import canonical_layout, dtype_of_sums, in_canonical_layout, parts_of, stored_in

Convolution = Callable[..., jax.Array]
_FEW_POSITIONS = 64
"""Largest number of positions at which a convolution of single channels is a sum of shifted images."""


def _lower(ctx: Any, lhs: Any, rhs: Any, **params: Any) -> Any:
    """The lowering rule: another form of this convolution, if there is one, or else the rule of `convolution`."""
    form = _form(*ctx.avals_in, *ctx.avals_out, **params)
    if form is None:
        return _of_images(ctx, lhs, rhs, **params)
    return mlir.lower_fun(partial(form, **params), multiple_results=False)(ctx, lhs, rhs)


def _form(x: Any, kernel: Any, result: Any, **params: Any) -> Convolution | None:
    """The function that computes a convolution of these types, or None for those that stay."""
    sizes, numbers = (*x.shape, *kernel.shape, *result.shape), params["dimension_numbers"]
    known = (
        x.dtype == kernel.dtype == result.dtype
        and jnp.issubdtype(x.dtype, jnp.floating)
        and x.dtype.itemsize > 1
        and all(isinstance(size, int) and size > 0 for size in sizes)
        and params.get("out_sharding") is None
    )
    features, images = params["feature_group_count"], params["batch_group_count"]
    if not known:
        return None
    if features * images > 1:
        shifted: Convolution
        if features > 1:
            size, shifted = x.shape[numbers.lhs_spec[1]], _of_channels
            positions = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
        else:
            size, shifted = x.shape[numbers.lhs_spec[0]], _gradient_of_channels
            positions = [result.shape[axis] for axis in numbers.out_spec[2:]]
        alone = size == features * images and math.prod(positions) <= _FEW_POSITIONS
        return shifted if alone else _group_by_group
    if x.ndim == 3:
        return _with_height
    return _in_order if x.ndim > 4 and numbers != canonical_layout(x.ndim) else None


def _in_order(x: jax.Array, kernel: jax.Array, *, dimension_numbers: Any, **params: Any) -> jax.Array:
    """A convolution whose operands and result are in the canonical layout, which is fast inside loops."""
    out = dimension_numbers.out_spec
    given = in_canonical_layout(x, kernel, dimension_numbers)
    result = lax.conv_general_dilated_p.bind(*given, dimension_numbers=canonical_layout(x.ndim), **params)
    return stored_in(result, (out[0], *out[2:], out[1]))


def _with_height(x: jax.Array, kernel: jax.Array, *, dimension_numbers: Any, **params: Any) -> jax.Array:
    """A convolution of sequences as one of images of height 1."""
    lhs, rhs, out = dimension_numbers
    numbers = lax.ConvDimensionNumbers(
        *((*(axis + (axis >= spec[2]) for axis in spec[:2]), spec[2], spec[2] + 1) for spec in dimension_numbers)
    )
    steps = {name: (1, *params.pop(name)) for name in ("window_strides", "lhs_dilation", "rhs_dilation")}
    padding = ((0, 0), *params.pop("padding"))
    x, kernel = jnp.expand_dims(x, lhs[2]), jnp.expand_dims(kernel, rhs[2])
    result = lax.conv_general_dilated_p.bind(x, kernel, dimension_numbers=numbers, padding=padding, **steps, **params)
    return result.squeeze(out[2])


def _group_by_group(
    x: jax.Array,
    kernel: jax.Array,
    *,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **params: Any,
) -> jax.Array:
    """A convolution of groups of features or, for the gradient of its kernel, of images: one group after another."""
    lhs, rhs, out = dimension_numbers
    groups = feature_group_count * batch_group_count

    def split(array: jax.Array, axis: int) -> jax.Array:
        parts = array.reshape(*array.shape[:axis], groups, -1, *array.shape[axis + 1 :])
        return jnp.moveaxis(parts, axis, 0)

    def one(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
        return lax.conv_general_dilated_p.bind(
            *operands, dimension_numbers=dimension_numbers, feature_group_count=1, batch_group_count=1, **params
        )

    axis = lhs[1] if feature_group_count > 1 else lhs[0]
    operands = lax.optimization_barrier((split(x, axis), split(kernel, rhs[0])))
    result = jnp.moveaxis(lax.map(one, operands), 0, out[1])
    return result.reshape(*result.shape[: out[1]], -1, *result.shape[out[1] + 2 :])


def _of_channels(
    x: jax.Array,
    kernel: jax.Array,
    *,
    dimension_numbers: Any,
    window_strides: Sequence[int],
    rhs_dilation: Sequence[int],
    **params: Any,
) -> jax.Array:
    """A convolution of each channel alone: shifted images times one number each, summed over the window."""
    lhs, rhs, out = dimension_numbers
    kernel = kernel.transpose(*rhs[2:], rhs[1], rhs[0])
    *window, _, channels = kernel.shape
    images = _padded(x.transpose(lhs[0], *lhs[2:], lhs[1]), channels, **params)
    size = [
        (given - (k - 1) * dilation - 1) // stride + 1
        for given, k, dilation, stride in zip(images.shape[1:-1], window, rhs_dilation, window_strides, strict=True)
    ]
    numbers = kernel.astype(images.dtype).reshape(-1, *[1] * (x.ndim - 1), channels)
    reads = parts_of(images, window, rhs_dilation, size, window_strides)
    total = sum((read * number for read, number in zip(reads, numbers, strict=True)), jnp.zeros((), images.dtype))
    return stored_in(total.astype(x.dtype), (out[0], *out[2:], out[1]))


def _gradient_of_channels(
    x: jax.Array,
    gradient: jax.Array,
    *,
    dimension_numbers: Any,
    window_strides: Sequence[int],
    rhs_dilation: Sequence[int],
    **params: Any,
) -> jax.Array:
    """The gradient of the kernel of `_of_channels`: shifted images times the gradient of the result, summed.

    To the convolution, channels are the batch and images the features.
    """
    lhs, rhs, out = dimension_numbers
    gradient = gradient.transpose(rhs[1], *rhs[2:], rhs[0])
    *size, channels = gradient.shape[1:]
    images = _padded(x.transpose(lhs[1], *lhs[2:], lhs[0]), channels, **params)
    gradient = lax.optimization_barrier(gradient.astype(images.dtype))
    window = [
        (given - (k - 1) * dilation - 1) // stride + 1
        for given, k, dilation, stride in zip(images.shape[1:-1], size, rhs_dilation, window_strides, strict=True)
    ]
    reads = parts_of(images, window, window_strides, size, rhs_dilation)
    sums = [(read * gradient).sum(range(1, x.ndim - 1)).sum(0) for read in reads]
    sums_of_window = jnp.stack(sums).reshape(1, *window, channels).astype(x.dtype)
    return stored_in(sums_of_window, (out[0], *out[2:], out[1]))


def _padded(
    x: jax.Array, channels: int, *, padding: Sequence[Sequence[int]], lhs_dilation: Sequence[int], **_: Any
) -> jax.Array:
    """Images (n, ..., c), padded and dilated, each channel as often as there are results of it, at least float32."""
    x = jnp.repeat(x.astype(dtype_of_sums(x.dtype)), channels // x.shape[-1], -1)
    around = [(low, high, step - 1) for (low, high), step in zip(padding, lhs_dilation, strict=True)]
    return lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *around, (0, 0, 0))))


_of_images = convolution._lower
# Without the rule of `convolution`, that of JAX stays.
if hasattr(convolution, "_of_jax"):
    mlir.register_lowering(lax.conv_general_dilated_p, _lower, platform="cpu")
