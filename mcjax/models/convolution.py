"""Convolution whose gradient stays fast inside a compiled loop, and how to run several models at once.

XLA on the CPU rewrites convolutions in unusual layouts to its fast kernel only outside loops, and a
convolution's gradients are such convolutions: inside `lax.scan` they run up to 100 times slower.
Here every one of the three convolutions is written in the canonical layout (NHWC, HWIO, NHWC).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]
Convolutions = Literal["none", "canonical", "plain"]
"""What a model convolves with: nothing, `convolve`, or convolutions whose gradients are XLA's own."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    """x (n, h, w, c) convolved with kernel (kh, kw, c, d), as `lax.conv_general_dilated`, to (n, h', w', d).

    On the CPU the reverse-mode gradient is written in canonical layouts. It can be differentiated
    again in any mode; forward mode over the convolution itself is had by two reverse passes.
    """
    if jax.default_backend() == "cpu":
        return _canonical(x, kernel, strides, padding)
    return _plain(x, kernel, strides, padding)


def _plain(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


_canonical = jax.custom_vjp(_plain, nondiff_argnums=(2, 3))


def _forward(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> tuple:
    return _plain(x, kernel, strides, padding), (x, kernel)


def _backward(strides: tuple[int, int], padding: Padding, residuals: tuple, g: jax.Array) -> tuple:
    x, kernel = residuals
    # What is needed on the far side so that the result has the size of x, of the kernel.
    spans = [(out - 1) * stride + 1 for out, stride in zip(g.shape[1:3], strides, strict=True)]
    ahead = [k - 1 - low for k, (low, _) in zip(kernel.shape[:2], padding, strict=True)]
    x_padding = [
        (low, size + k - 1 - span - low)
        for low, size, k, span in zip(ahead, x.shape[1:3], kernel.shape[:2], spans, strict=True)
    ]
    kernel_padding = [
        (low, k + span - 1 - size - low)
        for (low, _), size, k, span in zip(padding, x.shape[1:3], kernel.shape[:2], spans, strict=True)
    ]
    # The barriers keep XLA from folding the transposes back into an unusual layout.
    flipped = lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    x_gradient = lax.conv_general_dilated(
        g, flipped, (1, 1), x_padding, lhs_dilation=strides, dimension_numbers=_LAYOUT
    )
    # Input channels are the batch, images the features, the output gradient the kernel.
    x_t = lax.optimization_barrier(x.transpose(3, 1, 2, 0))
    g_t = lax.optimization_barrier(g.transpose(1, 2, 0, 3))
    kernel_gradient = lax.conv_general_dilated(
        x_t, g_t, (1, 1), kernel_padding, rhs_dilation=strides, dimension_numbers=_LAYOUT
    )
    return x_gradient, kernel_gradient.transpose(1, 2, 0, 3)


_canonical.defvjp(_forward, _backward)


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


def over_points(fn: Callable[[Any], Any], points: Any, convolutions: Convolutions, chunk: int | None = None) -> Any:
    """`fn` over the leading axis of `points`, at most `chunk` of them in memory at once.

    `chunk` is 1 where one after another is faster, and 16 elsewhere, unless it is given.
    """
    size = chunk or (1 if one_after_another(convolutions) else 16)
    return lax.map(fn, points, batch_size=None if size == 1 else size)


__all__ = [
    "Convolutions",
    "Padding",
    "convolve",
    "one_after_another",
    "over_models",
    "over_points",
    "stepped_from_host",
]
