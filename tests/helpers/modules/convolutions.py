"""Two-dimensional convolutions by numpy, as sums over all entries; and their programs with JAX's own lowering."""

import re
from contextlib import contextmanager
from dataclasses import dataclass

import jax
import numpy as np
from jax import lax
from jax.interpreters import mlir

from mcjax.runtime import convolution

ONCE = (1, 1)
LAYOUTS = (("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NHWC", "OIHW", "NCHW"), ("CHWN", "IHWO", "CHWN"))


@dataclass(frozen=True)
class Case:
    """A convolution of images (n, h, w, c) and a kernel (kh, kw, c, d), which are stored in a layout."""

    images: tuple
    kernel: tuple
    strides: tuple = ONCE
    padding: tuple = ((0, 0), (0, 0))
    dilation: tuple = ONCE
    kernel_dilation: tuple = ONCE
    layout: tuple = LAYOUTS[0]

    def __call__(self, x, kernel):
        """JAX's convolution of arrays in the layout."""
        return lax.conv_general_dilated(
            x, kernel, self.strides, self.padding, self.dilation, self.kernel_dilation, self.layout
        )

    def stored(self, *arrays):
        """Images, kernels and results from canonical order in that of the layout, by their number."""
        axes = ["NHWC", "HWIO", "NHWC"]
        return [
            np.transpose(array, [order.index(axis) for axis in kept])
            for array, order, kept in zip(arrays, axes, self.layout, strict=False)
        ]

    def reached(self, axis):
        """(taps, outputs, pixels): one where an output takes a pixel by a tap."""
        size, taps = self.images[1 + axis], self.kernel[axis]
        (low, high), stride = self.padding[axis], self.strides[axis]
        apart, step = self.dilation[axis], self.kernel_dilation[axis]
        outputs = ((size - 1) * apart + 1 + low + high - (taps - 1) * step - 1) // stride + 1
        tap, output, pixel = np.ogrid[:taps, :outputs, :size]
        return (output * stride + tap * step - low == pixel * apart).astype(float)

    def by_numpy(self, subscripts, *arrays):
        """A sum over all entries: t, s taps; o, p outputs; i, j pixels; n images; c, d channels."""
        rows, columns = self.reached(0), self.reached(1)
        given, result = subscripts.split("->")
        return np.einsum(f"toi,spj,{given}->{result}", rows, columns, *arrays, optimize=True)

    def value(self, x, kernel):
        return self.by_numpy("nijc,tscd->nopd", x, kernel)

    def pullback(self, x, kernel, g):
        """The gradients of images and kernel from that of the result."""
        return self.by_numpy("tscd,nopd->nijc", kernel, g), self.by_numpy("nijc,nopd->tscd", x, g)


def random_case(rng):
    """A small convolution whose result is not empty: of any strides, padding, dilations and layout."""
    while True:
        n, c, d = (int(v) for v in rng.integers(1, 4, 3))
        size, taps = rng.integers(1, 9, 2), rng.integers(1, 5, 2)
        strides, padding = rng.integers(1, 4, 2), rng.integers(-2, 4, (2, 2))
        dilation, kernel_dilation = rng.choice([1, 1, 2, 3], 2), rng.choice([1, 1, 1, 2], 2)
        whole = (size - 1) * dilation + 1 + padding.sum(1)
        if (whole > (taps - 1) * kernel_dilation).all():
            pairs = [tuple(map(int, pair)) for pair in (size, taps, strides, dilation, kernel_dilation)]
            around = tuple(tuple(map(int, pair)) for pair in padding)
            size, taps, strides, *dilations = pairs
            layout = LAYOUTS[rng.integers(len(LAYOUTS))]
            return Case((n, *size, c), (*taps, c, d), strides, around, *dilations, layout)


@contextmanager
def lowering_of_jax():
    """The context in which convolutions are lowered for the CPU as JAX does it by itself."""
    ours = mlir._platform_specific_lowerings["cpu"][lax.conv_general_dilated_p].rule
    mlir.register_lowering(lax.conv_general_dilated_p, convolution._of_jax, platform="cpu")
    try:
        yield
    finally:
        mlir.register_lowering(lax.conv_general_dilated_p, ours, platform="cpu")


def lowered(fn, *args, platform="cpu"):
    """The text of a program, lowered anew."""
    return jax.jit(lambda *args: fn(*args)).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def convolutions_in(text):
    """(dimension numbers, window, shape of the images, shape of the kernel) of every convolution of a program."""
    pattern = r"stablehlo\.convolution.*dim_numbers = (.*), window = \{(.*?)\} .*: \(tensor<(\S+)>, tensor<(\S+)>\)"
    found = re.findall(pattern, text)
    assert len(found) == text.count("stablehlo.convolution")
    return [
        (numbers, window, *([int(n) for n in shape.split("x")[:-1]] for shape in shapes))
        for numbers, window, *shapes in found
    ]
