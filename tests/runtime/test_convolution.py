"""`convolve` against XLA's own convolution: value, both gradients, second derivatives, in loops and under vmap."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mcjax.runtime.compiling import compiler_options, jit
from mcjax.runtime.convolution import convolve, materialize

CASES = [  # images, kernel, strides, padding
    ((2, 8, 8, 3), (3, 3, 3, 4), (1, 1), ((1, 1), (1, 1))),
    ((2, 8, 8, 3), (3, 3, 3, 4), (2, 2), ((1, 1), (1, 1))),
    ((2, 7, 7, 3), (3, 3, 3, 4), (2, 2), ((1, 1), (1, 1))),
    ((2, 7, 7, 2), (3, 3, 2, 1), (2, 2), ((0, 0), (0, 0))),
    ((1, 8, 8, 2), (3, 3, 2, 5), (3, 3), ((0, 0), (0, 0))),
    ((3, 9, 6, 1), (1, 1, 1, 2), (1, 1), ((0, 0), (0, 0))),
    ((3, 9, 6, 2), (1, 1, 2, 3), (2, 2), ((0, 0), (0, 0))),
    ((2, 5, 8, 2), (2, 3, 2, 2), (1, 2), ((1, 0), (0, 2))),
    ((2, 6, 6, 2), (5, 5, 2, 2), (1, 1), ((2, 2), (2, 2))),
    ((2, 11, 10, 2), (5, 4, 2, 3), (3, 2), ((0, 3), (2, 1))),
    ((2, 3, 3, 2), (3, 3, 2, 2), (1, 1), ((0, 0), (0, 0))),
    ((2, 1, 1, 2), (3, 3, 2, 2), (2, 2), ((1, 1), (1, 1))),
]


def plain(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def drawn(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def compared(cases, fn):
    """fn(convolution, strides, padding, *arrays) of ours and of XLA's in float64, all cases in one program."""
    arrays = [drawn(images, kernel, images, kernel) for images, kernel, _, _ in cases]

    def each(arrays):
        return [
            [fn(partial(one, strides=strides, padding=padding), *own) for one in (convolve, plain)]
            for own, (_, _, strides, padding) in zip(arrays, cases, strict=True)
        ]

    with jax.enable_x64(True):
        for case, (ours, theirs) in zip(cases, jax.jit(each)(arrays), strict=True):
            for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9, err_msg=str(case))


def test_value_gradients_and_second_derivatives():
    def second(convolution, x, k, dx, dk):
        def gradients(x, k):
            return jax.grad(lambda x, k: jnp.sum(jnp.sin(convolution(x, k))), (0, 1))(x, k)

        return convolution(x, k), jax.jvp(gradients, (x, k), (dx, dk))

    compared(CASES, second)


def test_the_same_inside_scan_and_under_vmap():
    images, kernel, strides, padding = CASES[2]
    xs, ks = drawn((3, *images), (3, *kernel))

    def gradients(fn, x, k):
        value, pull = jax.vjp(lambda x, k: fn(x, k, strides, padding), x, k)
        return value, *pull(jnp.cos(value))

    def scanned(xs, ks):
        return lax.scan(lambda carry, xk: (carry, gradients(convolve, *xk)), 0.0, (xs, ks))[1]

    with jax.enable_x64(True):
        each = jax.jit(lambda x, k: gradients(plain, x, k))
        expected = [np.stack(values) for values in zip(*map(each, xs, ks), strict=True)]
        for run in (scanned, jax.vmap(lambda x, k: gradients(convolve, x, k))):
            for ours, theirs in zip(jax.jit(run)(xs, ks), expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
        # Images shared, kernels many: as when several networks see one batch.
        shared = jax.jit(jax.vmap(lambda k: gradients(convolve, xs[0], k)))(ks)
        for i, k in enumerate(ks):
            for ours, theirs in zip(shared, each(xs[0], k), strict=True):
                np.testing.assert_allclose(ours[i], theirs, rtol=1e-9, atol=1e-9)


def test_dtypes_stay():
    def value_and_pull(x, k):
        value, pull = jax.vjp(lambda x, k: convolve(x, k, (1, 1), ((1, 1), (1, 1))), x, k)
        return value, *pull(value)

    for dtype in (jnp.float32, jnp.bfloat16):
        given = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((1, 4, 4, 2), (3, 3, 2, 2)))
        assert [each.dtype for each in jax.eval_shape(value_and_pull, *given)] == [dtype] * 3


def test_small_images_and_many_channels():
    """On both sides of where the gradient is written as matrix products."""
    sides = [(1, (1, 1)), (2, (1, 1)), (2, (2, 2)), (6, (1, 1)), (9, (1, 1)), (9, (2, 1))]
    cases = [
        ((3, side, side, c), (3, 3, c, d), strides, ((1, 1), (1, 1)))
        for side, strides in sides
        for c, d in ((3, 4), (40, 50))
    ]

    def gradients(convolution, x, k, *_):
        return jax.value_and_grad(lambda x, k: jnp.sum(jnp.sin(convolution(x, k))), (0, 1))(x, k)

    compared(cases, gradients)


@pytest.mark.skipif(not compiler_options(), reason="of XLA on the CPU, where it takes the options")
def test_computed_once_is_computed_once():
    x = np.linspace(-1.0, 1.0, 64 * 64 * 8, dtype=np.float32).reshape(64, 64, 8)

    def read_twice(keep):
        def fn(x):
            y = keep(jnp.maximum(2 * x + 1, 0))
            return y.transpose(2, 0, 1), y.transpose(1, 2, 0)

        return jit()(fn)

    once, anew = read_twice(materialize), read_twice(lambda x: x)
    counts = [fn.lower(x).compile().cost_analysis()["flops"] for fn in (once, anew)]
    assert counts == [3 * x.size, 6 * x.size]
    chex.assert_trees_all_equal(once(x), anew(x))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(materialize(x**2))))(x)
    np.testing.assert_allclose(gradient, 2 * x)
