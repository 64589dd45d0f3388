"""Convolution whose gradient stays fast inside a compiled loop, and how to run several models at once.

XLA on the CPU rewrites convolutions in unusual layouts to its fast kernel only outside loops, and a
convolution's gradients are such convolutions: inside `lax.scan` they run up to 100 times slower.
Here every one of the three convolutions is written in the canonical layout (NHWC, HWIO, NHWC).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]
Convolutions = Literal["none", "canonical", "plain"]
"""What a model convolves with: nothing, `convolve`, or convolutions whose gradients are XLA's own."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_PLAINLY = ContextVar("plainly", default=False)
_FEW_POSITIONS = 64
"""Output positions up to which a kernel's gradient is faster as matrix products, measured."""


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    """x (n, h, w, c) convolved with kernel (kh, kw, c, d), as `lax.conv_general_dilated`, to (n, h', w', d).

    On the CPU the reverse-mode gradient is written in canonical layouts. It can be differentiated
    again in any mode; forward mode over the convolution itself is had by two reverse passes.
    """
    if jax.default_backend() == "cpu" and not _PLAINLY.get():
        return _canonical(x, kernel, strides, padding)
    return _plain(x, kernel, strides, padding)


@contextmanager
def plainly() -> Iterator[None]:
    """What is traced in here convolves by the primitive that a convolution is: to be looked at, or derived forward."""
    token = _PLAINLY.set(True)
    try:
        yield
    finally:
        _PLAINLY.reset(token)


def _plain(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


def _on_cpu(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    if all(size >= k for size, k in zip(x.shape[1:3], kernel.shape[:2], strict=True)):
        return _plain(x, kernel, strides, padding)
    # Of images smaller than the kernel XLA makes a loop that is up to 70 times slower than this product.
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
    """For every kernel position, row by row, what it reads of x for every output position: (n, *out, c) each."""
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)))

    def read(i: int, j: int) -> jax.Array:
        last = [at + (size - 1) * step + 1 for at, size, step in zip((i, j), out, strides, strict=True)]
        return lax.slice(padded, (0, i, j, 0), (len(x), *last, x.shape[3]), (1, *strides, 1))

    return [read(i, j) for i in range(kernel[0]) for j in range(kernel[1])]


_canonical = jax.custom_vjp(_on_cpu, nondiff_argnums=(2, 3))


def _forward(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> tuple:
    return _on_cpu(x, kernel, strides, padding), (x, kernel)


def _backward(strides: tuple[int, int], padding: Padding, residuals: tuple, g: jax.Array) -> tuple:
    # Once each, or both gradients compute them anew from the layers around, at every entry, in an order of their own.
    x, kernel, g = lax.optimization_barrier((*map(jnp.asarray, residuals), g))
    return _input_gradient(strides, padding, x, kernel, g), _kernel_gradient(strides, padding, x, kernel, g)


def _input_gradient(strides: tuple[int, int], padding: Padding, x: jax.Array, kernel: jax.Array, g: jax.Array) -> Any:
    """Of every phase of the strides, the convolution of g with those kernel rows and columns that reach it."""
    images, height, width, channels = x.shape
    # Input row stride * u + phase is read by output row u + shift through kernel row phase + low - stride * shift.
    rows, columns = (
        [_reaching(phase, stride, low, size) for phase in range(stride)]
        for stride, (low, _), size in zip(strides, padding, kernel.shape[:2], strict=True)
    )
    whole = [-(-size // stride) for size, stride in zip((height, width), strides, strict=True)]

    def phase(row: tuple[list[int], int], column: tuple[list[int], int]) -> jax.Array:
        (i, top), (j, left) = row, column
        if not i or not j:
            return jnp.zeros((images, *whole, channels), g.dtype)
        # The barriers keep XLA from folding transposes back into an unusual layout.
        part = lax.optimization_barrier(kernel[np.ix_(i, j)].swapaxes(2, 3))
        rows_around, columns_around = (
            (-first, size + first + len(taps) - 1 - out)
            for first, size, taps, out in zip((top, left), whole, (i, j), g.shape[1:3], strict=True)
        )
        return _on_cpu(g, part, (1, 1), (rows_around, columns_around))

    phases = jnp.stack([jnp.stack([phase(row, column) for column in columns], 3) for row in rows], 2)
    full = phases.reshape(images, whole[0] * strides[0], whole[1] * strides[1], channels)
    return full[:, :height, :width]


def _reaching(phase: int, stride: int, low: int, size: int) -> tuple[list[int], int]:
    """The kernel indices that reach inputs of a phase, by increasing output index, and the shift of the first."""
    indices = [i for i in reversed(range(size)) if (phase + low - i) % stride == 0]
    return indices, (phase + low - indices[0]) // stride if indices else 0


def _kernel_gradient(strides: tuple[int, int], padding: Padding, x: jax.Array, kernel: jax.Array, g: jax.Array) -> Any:
    if strides == (1, 1) and kernel.shape[:2] != (1, 1) and g.shape[1] * g.shape[2] > _FEW_POSITIONS:
        around = [
            (low, k + out - 1 - size - low)
            for (low, _), size, k, out in zip(padding, x.shape[1:3], kernel.shape[:2], g.shape[1:3], strict=True)
        ]
        # Input channels are the batch, images the features, the output gradient the kernel.
        x_t = lax.optimization_barrier(x.transpose(3, 1, 2, 0))
        g_t = lax.optimization_barrier(g.transpose(1, 2, 0, 3))
        return lax.conv_general_dilated(x_t, g_t, (1, 1), around, dimension_numbers=_LAYOUT).transpose(1, 2, 0, 3)
    reads = _reads(x, kernel.shape[:2], strides, padding, g.shape[1:3])
    if g.shape[1] * g.shape[2] >= max(x.shape[3], g.shape[3]):
        # Image by image, which both cores can share; but there is a matrix to be written for every image.
        products = [jnp.einsum("nhwc,nhwd->ncd", read, g).sum(0) for read in reads]
    else:
        products = [jnp.tensordot(read, g, ((0, 1, 2), (0, 1, 2))) for read in reads]
    return jnp.stack(products).reshape(kernel.shape)


_canonical.defvjp(_forward, _backward)


def computed_once(x: jax.Array) -> jax.Array:
    """x, kept by XLA on the CPU from being computed anew, with all that it is a sum of, wherever it is read."""
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


def one_after_another(convolutions: Convolutions) -> bool:
    """Whether models with such convolutions run faster in sequence than under `vmap` on this platform.

    `vmap` over models makes grouped convolutions of them, which XLA's CPU kernels run 2 to 4 times
    slower than the same work in sequence. Elsewhere, and without convolutions, `vmap` it is.
    """
    return convolutions != "none" and jax.default_backend() == "cpu"


def stepped_from_host(convolutions: Convolutions) -> bool:
    """Whether a training step must stay outside compiled loops: gradients of XLA's own, on the CPU."""
    return convolutions == "plain" and jax.default_backend() == "cpu"


def over_models(fn: Callable[..., Any], convolutions: Convolutions) -> Callable[..., Any]:
    """`fn` over the leading axis of every argument: the way to run many networks in one program."""
    if one_after_another(convolutions):
        return lambda *args: lax.map(lambda each: fn(*each), args)
    return jax.vmap(fn)


def chunk_for(convolutions: Convolutions) -> int:
    """How many networks to evaluate at once: 1 where one after another is faster, and 16 elsewhere."""
    return 1 if one_after_another(convolutions) else 16


def over_points(fn: Callable[[Any], Any], points: Any, convolutions: Convolutions, chunk: int | None = None) -> Any:
    """`fn` over the leading axis of `points`, at most `chunk` (None: `chunk_for`) of them in memory at once."""
    size = chunk or chunk_for(convolutions)
    return lax.map(fn, points, batch_size=None if size == 1 else size)


__all__ = [
    "Convolutions",
    "Padding",
    "chunk_for",
    "computed_once",
    "convolve",
    "one_after_another",
    "over_models",
    "over_points",
    "plainly",
    "stepped_from_host",
]
