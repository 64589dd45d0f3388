"""Convolution whose gradient stays fast inside a compiled loop.

The fast CPU kernel of XLA requires the canonical layout (NHWC, HWIO, NHWC), and XLA converts other layouts to it only
outside loops. The gradients of a convolution are convolutions in other layouts: inside `lax.scan` they run up to 100
times slower. Here the convolution and both of its gradients are written in the canonical layout.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_PRIMITIVE = ContextVar("primitive", default=False)
_FEW_POSITIONS = 64
"""Largest number of output positions at which the gradient of the kernel is faster as matrix products (measured)."""


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    """Convolve like `lax.conv_general_dilated`, with a gradient that is fast on every platform.

    On the CPU the reverse-mode gradient is written in canonical layouts. It can be differentiated again in any mode;
    forward mode over the convolution itself takes two reverse passes.

    Args:
        x: Images, (n, h, w, c).
        kernel: The kernel, (kh, kw, c, d).
        strides: Strides along height and width.
        padding: Low and high padding, along height and width.

    Returns:
        The convolution, (n, h', w', d).
    """
    if jax.default_backend() == "cpu" and not _PRIMITIVE.get():
        return _canonical(x, kernel, strides, padding)
    return _plain(x, kernel, strides, padding)


@contextmanager
def primitive_convolutions() -> Iterator[None]:
    """Trace convolutions as XLA's primitive inside the context: for spec inference and forward-mode derivatives."""
    token = _PRIMITIVE.set(True)
    try:
        yield
    finally:
        _PRIMITIVE.reset(token)


def _plain(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


def _on_cpu(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    if all(size >= k for size, k in zip(x.shape[1:3], kernel.shape[:2], strict=True)):
        return _plain(x, kernel, strides, padding)
    # For images smaller than the kernel, XLA uses a loop that is up to 70 times slower than this product.
    size = [
        (size + low + high - k) // stride + 1
        for size, (low, high), k, stride in zip(x.shape[1:3], padding, kernel.shape[:2], strides, strict=True)
    ]
    reads = _reads(x, kernel.shape[:2], strides, padding, size)
    patches = lax.optimization_barrier(jnp.stack(reads, -2))
    return jnp.tensordot(patches, kernel.reshape(-1, *kernel.shape[2:]), 2)


def _reads(
    x: jax.Array, kernel: Sequence[int], strides: tuple[int, int], padding: Padding, out: Sequence[int]
) -> list[jax.Array]:
    """The inputs under each kernel position for all output positions, by rows of the kernel: (n, *out, c) each."""
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)))

    def read(i: int, j: int) -> jax.Array:
        last = [at + (size - 1) * step + 1 for at, size, step in zip((i, j), out, strides, strict=True)]
        return lax.slice(padded, (0, i, j, 0), (len(x), *last, x.shape[3]), (1, *strides, 1))

    return [read(i, j) for i in range(kernel[0]) for j in range(kernel[1])]


_canonical = jax.custom_vjp(_on_cpu, nondiff_argnums=(2, 3))


def _forward(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> tuple:
    return _on_cpu(x, kernel, strides, padding), (x, kernel)


def _backward(strides: tuple[int, int], padding: Padding, residuals: tuple, g: jax.Array) -> tuple:
    # Without the barrier, fusion would recompute these from the neighbouring layers in both gradients.
    x, kernel, g = lax.optimization_barrier((*map(jnp.asarray, residuals), g))
    return _input_gradient(strides, padding, x, kernel, g), _kernel_gradient(strides, padding, x, kernel, g)


def _input_gradient(strides: tuple[int, int], padding: Padding, x: jax.Array, kernel: jax.Array, g: jax.Array) -> Any:
    """The gradient of x: for each phase of the strides, g convolved with the kernel rows and columns of that phase."""
    images, height, width, channels = x.shape
    # Input row stride * u + phase contributes to output row u + shift through kernel row phase + low - stride * shift.
    rows, columns = (
        [_reaching(phase, stride, low, size) for phase in range(stride)]
        for stride, (low, _), size in zip(strides, padding, kernel.shape[:2], strict=True)
    )
    whole = [-(-size // stride) for size, stride in zip((height, width), strides, strict=True)]

    def phase(row: tuple[list[int], int], column: tuple[list[int], int]) -> jax.Array:
        (i, top), (j, left) = row, column
        if not i or not j:
            return jnp.zeros((images, *whole, channels), g.dtype)
        # The barriers keep XLA from folding transposes into another layout.
        part = lax.optimization_barrier(kernel[np.ix_(i, j)].swapaxes(2, 3))
        rows_around, columns_around = (
            (-first, size + first + len(taps) - 1 - out)
            for first, size, taps, out in zip((top, left), whole, (i, j), g.shape[1:3], strict=True)
        )
        return _on_cpu(g, part, (1, 1), (rows_around, columns_around))

    phases = jnp.stack([jnp.stack([phase(row, column) for column in columns], 3) for row in rows], 2)
    # Interleave the phases, and cut off the rows and columns beyond the image.
    full = phases.reshape(images, whole[0] * strides[0], whole[1] * strides[1], channels)
    return full[:, :height, :width]


def _reaching(phase: int, stride: int, low: int, size: int) -> tuple[list[int], int]:
    """The kernel indices of a phase, by increasing output index, and the shift of the first."""
    indices = [i for i in reversed(range(size)) if (phase + low - i) % stride == 0]
    return indices, (phase + low - indices[0]) // stride if indices else 0


def _kernel_gradient(strides: tuple[int, int], padding: Padding, x: jax.Array, kernel: jax.Array, g: jax.Array) -> Any:
    """The gradient of the kernel: one convolution, or one matrix product per kernel position."""
    if strides == (1, 1) and kernel.shape[:2] != (1, 1) and g.shape[1] * g.shape[2] > _FEW_POSITIONS:
        around = [
            (low, k + out - 1 - size - low)
            for (low, _), size, k, out in zip(padding, x.shape[1:3], kernel.shape[:2], g.shape[1:3], strict=True)
        ]
        # Input channels act as the batch, images as the channels, and the output gradient as the kernel.
        x_t = lax.optimization_barrier(x.transpose(3, 1, 2, 0))
        g_t = lax.optimization_barrier(g.transpose(1, 2, 0, 3))
        return lax.conv_general_dilated(x_t, g_t, (1, 1), around, dimension_numbers=_LAYOUT).transpose(1, 2, 0, 3)
    reads = _reads(x, kernel.shape[:2], strides, padding, g.shape[1:3])
    if g.shape[1] * g.shape[2] >= max(x.shape[3], g.shape[3]):
        # One product per image, which runs on several cores but writes one matrix per image.
        products = [jnp.einsum("nhwc,nhwd->ncd", read, g).sum(0) for read in reads]
    else:
        products = [jnp.tensordot(read, g, ((0, 1, 2), (0, 1, 2))) for read in reads]
    return jnp.stack(products).reshape(kernel.shape)


_canonical.defvjp(_forward, _backward)


def materialize(x: jax.Array) -> jax.Array:
    """`x`, computed once: XLA on the CPU would recompute a long sum at every use."""
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x
