"""Convolutions of groups, sequences and volumes against sums in numpy: values, gradients, `vmap`; their programs."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from mcjax.runtime.compiling import jit

LAST = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
FIRST = {1: ("NCW", "OIW", "NCW"), 2: ("NCHW", "OIHW", "NCHW"), 3: ("NCDHW", "OIDHW", "NCDHW")}


def every(steps):
    return [slice(None, None, step) for step in steps]


class Case(NamedTuple):
    """A convolution of images (n, *space, c) with a kernel (*window, inputs of a group, outputs)."""

    x: tuple
    kernel: tuple
    strides: tuple
    padding: tuple
    features: int = 1
    images: int = 1
    lhs_dilation: tuple | None = None
    rhs_dilation: tuple | None = None
    layout: dict = LAST

    @property
    def rank(self):
        return len(self.strides)

    def dilations(self):
        return (each or (1,) * self.rank for each in (self.lhs_dilation, self.rhs_dilation))

    def convolve(self, x, kernel):
        """The convolution by JAX, of arrays with channels last, which are transposed to the layout and back."""
        lhs, rhs, out = self.layout[self.rank]
        last = LAST[self.rank]
        result = lax.conv_general_dilated(
            x.transpose([last[0].index(axis) for axis in lhs]),
            kernel.transpose([last[1].index(axis) for axis in rhs]),
            self.strides,
            self.padding,
            *self.dilations(),
            dimension_numbers=(lhs, rhs, out),
            feature_group_count=self.features,
            batch_group_count=self.images,
        )
        return result.transpose([out.index(axis) for axis in last[2]])

    def summed(self, x, kernel):
        """The same in numpy."""
        space = tuple(range(1, self.rank + 1))
        lhs_dilation, rhs_dilation = self.dilations()
        size = [(n - 1) * d + 1 for n, d in zip(x.shape[1:-1], lhs_dilation, strict=True)]
        full = np.zeros((len(x), *size, x.shape[-1]))
        full[:, *every(lhs_dilation)] = x
        full = np.pad(full, [(0, 0), *((max(low, 0), max(high, 0)) for low, high in self.padding), (0, 0)])
        full = full[:, *(slice(max(-low, 0), min(high, 0) or None) for low, high in self.padding)]
        window = [(k - 1) * d + 1 for k, d in zip(kernel.shape[: self.rank], rhs_dilation, strict=True)]
        views = np.lib.stride_tricks.sliding_window_view(full, window, space)
        views = views[:, *every(self.strides), :, *every(rhs_dilation)]
        groups = self.features * self.images
        parts = np.split(views, groups, 0 if self.images > 1 else self.rank + 1)
        product = "n...cijk,ijkcd->n...d".replace("ijk", "ijk"[: self.rank])
        kernels = np.split(kernel, groups, -1)
        return np.concatenate([np.einsum(product, *pair) for pair in zip(parts, kernels, strict=True)], -1)

    def drawn(self, dtype=np.float64):
        rng = np.random.default_rng(0)
        return [rng.normal(size=shape).astype(dtype) for shape in (self.x, self.kernel)]


IMAGES, SAME = ((2, 6, 7, 4), (3, 3, 2, 6)), ((1, 1), (1, 1))
CASES = {
    "two groups": Case(*IMAGES, (1, 1), SAME, 2),
    "two groups, strides": Case(*IMAGES, (2, 3), ((0, 1), (2, 1)), 2),
    "two groups, channels first": Case(*IMAGES, (2, 1), SAME, 2, layout=FIRST),
    "two groups, dilated": Case(*IMAGES, (1, 2), SAME, 2, rhs_dilation=(2, 1)),
    "two groups, transposed": Case(*IMAGES, (1, 1), ((2, 1), (1, 2)), 2, lhs_dilation=(2, 3)),
    "channels": Case((2, 6, 7, 3), (3, 2, 1, 3), (1, 1), SAME, 3),
    "channels, strides": Case((2, 6, 7, 3), (3, 3, 1, 3), (2, 3), ((0, 1), (2, 1)), 3),
    "channels, channels first": Case((2, 6, 7, 3), (3, 3, 1, 3), (2, 2), SAME, 3, layout=FIRST),
    "channels, two results each": Case((2, 6, 7, 3), (3, 3, 1, 6), (2, 1), SAME, 3),
    "channels, dilated": Case((2, 6, 7, 3), (3, 3, 1, 3), (1, 2), ((2, 2), (0, 1)), 3, rhs_dilation=(2, 1)),
    "channels, transposed": Case((2, 4, 3, 3), (3, 3, 1, 6), (1, 1), ((2, 1), (-1, 2)), 3, lhs_dilation=(2, 2)),
    "channels, a large kernel": Case((2, 9, 9, 3), (9, 9, 1, 3), (1, 1), ((4, 4), (4, 4)), 3),
    "groups of images": Case((4, 5, 4, 3), (2, 3, 3, 6), (1, 2), SAME, 1, 2),
    "single images": Case((4, 5, 4, 3), (4, 3, 3, 8), (1, 2), SAME, 1, 4, rhs_dilation=(1, 2)),
    "single images, a small kernel": Case((4, 9, 9, 3), (1, 1, 3, 8), (1, 1), ((0, 0), (0, 0)), 1, 4),
    "sequences": Case((2, 9, 3), (3, 3, 4), (1,), ((1, 1),)),
    "sequences, strides": Case((2, 9, 3), (3, 3, 4), (2,), ((0, 3),)),
    "sequences, channels first": Case((2, 9, 3), (4, 3, 2), (2,), ((1, 1),), layout=FIRST),
    "sequences, causal": Case((2, 9, 3), (3, 3, 4), (1,), ((4, 0),), rhs_dilation=(2,)),
    "sequences, two groups": Case((2, 9, 4), (3, 2, 6), (1,), ((1, 1),), 2),
    "sequences, channels": Case((2, 9, 3), (3, 1, 3), (2,), ((1, 1),), 3),
    "volumes": Case((2, 4, 5, 3, 2), (3, 3, 2, 2, 3), (1, 1, 1), ((1, 1), (1, 1), (0, 1))),
    "volumes, channels first": Case(
        (2, 4, 5, 3, 2), (2, 3, 2, 2, 3), (2, 1, 2), ((1, 1), (0, 0), (0, 1)), layout=FIRST
    ),
    "volumes, channels": Case((2, 4, 5, 3, 2), (2, 3, 2, 1, 2), (1, 2, 1), ((1, 1), (0, 0), (0, 1)), 2),
}


def results(fn):
    """fn(case, x, kernel) of all cases in float64, in one program."""
    with jax.enable_x64(True):
        return jax.jit(lambda arrays: {name: fn(CASES[name], *own) for name, own in arrays.items()})(
            {name: case.drawn() for name, case in CASES.items()}
        )


def test_values():
    for name, result in results(Case.convolve).items():
        np.testing.assert_allclose(result, CASES[name].summed(*CASES[name].drawn()), rtol=1e-9, atol=1e-9, err_msg=name)


def test_gradients_are_adjoint_to_the_sums():
    """<g, convolution of x'> = <gradient of x, x'>, and the same for kernels."""
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(size=case.summed(*case.drawn()).shape) for name, case in CASES.items()}

    def both(case, x, kernel):
        (name,) = (name for name in CASES if CASES[name] is case)
        return jax.grad(lambda *args: jnp.vdot(weights[name], case.convolve(*args)), (0, 1))(x, kernel)

    for name, (dx, dk) in results(both).items():
        case, (x, kernel) = CASES[name], CASES[name].drawn()
        for _ in range(3):
            a, b = rng.normal(size=x.shape), rng.normal(size=kernel.shape)
            expected = np.vdot(weights[name], case.summed(a, kernel)), np.vdot(weights[name], case.summed(x, b))
            np.testing.assert_allclose((np.vdot(dx, a), np.vdot(dk, b)), expected, rtol=1e-9, atol=1e-9, err_msg=name)


def test_groups_under_vmap_are_those_of_each():
    case = CASES["two groups"]
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=(3, *shape)) for shape in (case.x, case.kernel))
    with jax.enable_x64(True):
        result = jax.jit(jax.vmap(case.convolve))(x, kernel)
    np.testing.assert_allclose(
        result, np.stack([case.summed(*pair) for pair in zip(x, kernel, strict=True)]), rtol=1e-9
    )


@pytest.mark.parametrize("name", ["two groups", "channels", "channels, two results each", "channels, a large kernel"])
def test_a_nan_stays_in_its_group(name):
    case = CASES[name]
    x, kernel = case.drawn(np.float32)
    inputs, outputs = (size // case.features for size in (x.shape[-1], kernel.shape[-1]))
    x[..., inputs] = np.nan

    def both(x, kernel):
        return case.convolve(x, kernel), jax.grad(lambda kernel: case.convolve(x, kernel).sum())(kernel)

    for array in jax.jit(both)(x, kernel):
        wrong = np.isnan(array).any(tuple(range(array.ndim - 1)))
        np.testing.assert_array_equal(wrong, np.arange(kernel.shape[-1]) // outputs == 1)


def test_channels_in_half_precision_are_summed_in_float32():
    case = CASES["channels, two results each"]
    arrays = [jnp.asarray(array, jnp.bfloat16) for array in case.drawn()]
    result = jax.jit(case.convolve)(*arrays)
    assert result.dtype == jnp.bfloat16
    expected = case.summed(*(np.asarray(array, np.float64) for array in arrays))
    np.testing.assert_allclose(np.asarray(result, np.float64), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about programs for the CPU")
def test_gradients_in_a_loop_are_in_the_canonical_layout_and_have_no_groups():
    chosen = {name: case for name, case in CASES.items() if "single images" not in name}
    arrays = {name: case.drawn(np.float32) for name, case in chosen.items()}

    def loss(kernels, scale):
        parts = (jnp.square(case.convolve(scale * arrays[name][0], kernels[name])) for name, case in chosen.items())
        return sum(part.sum() for part in parts)

    def step(kernels, scale):
        gradient, slope = jax.grad(loss, (0, 1))(kernels, scale)
        return gradient, slope

    kernels = {name: kernel for name, (_, kernel) in arrays.items()}
    program = jit()(lambda kernels: lax.scan(step, kernels, jnp.ones(2))).lower(kernels).compile().as_text()
    layouts = set(re.findall(r"dim_labels=(\w+->\w+)", program))
    assert layouts == {"b01f_01io->b01f", "b012f_012io->b012f"}
    assert "group_count" not in program


def test_what_has_no_other_form_stays():
    case = CASES["channels"]
    x, kernel = (np.rint(3 * array).astype(np.int32) for array in case.drawn())
    np.testing.assert_array_equal(jax.jit(case.convolve)(x, kernel), case.summed(x, kernel))
    # Batches of any size, for programs that are exported.
    (n,) = export.symbolic_shape("n")
    x, kernel = case.drawn(np.float32)
    spec = jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype)
    program = export.export(jax.jit(lambda x: case.convolve(x, kernel)), platforms=["cpu"])(spec)
    if jax.default_backend() == "cpu":
        np.testing.assert_allclose(program.call(x), case.summed(x, kernel), rtol=1e-4, atol=1e-4)
