"""`convolve` against XLA's own convolution: value, both gradients, second derivatives, in loops and under vmap."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mcjax.runtime.compiling import compiler_options, jit
from mcjax.runtime.convolution import (
    computed_once,
    convolve,
    one_after_another,
    over_models,
    over_points,
    stepped_from_host,
)

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


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="says what is fast on the CPU")
@pytest.mark.parametrize(
    ("convolutions", "sequence", "host"), [("none", False, False), ("canonical", True, False), ("plain", True, True)]
)
def test_what_is_fast_on_the_cpu(convolutions, sequence, host):
    assert one_after_another(convolutions) is sequence
    assert stepped_from_host(convolutions) is host


@pytest.mark.parametrize("convolutions", ["none", "canonical"])
def test_over_models_is_the_loop(convolutions):
    a, b = drawn((3, 2, 2), (3, 2))
    many = over_models(lambda tree, y: {"z": tree["x"] @ y}, convolutions)
    result = jax.jit(many)({"x": a}, b)
    np.testing.assert_allclose(result["z"], np.einsum("mij,mj->mi", a, b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("convolutions", ["none", "canonical"])
@pytest.mark.parametrize("chunk", [None, 1, 3, 20])
def test_over_points_is_the_loop(convolutions, chunk):
    ts = np.linspace(0, 1, 17).astype(np.float32)
    result = jax.jit(lambda ts: over_points(lambda t: (t**2, jnp.sin(t)), ts, convolutions, chunk))(ts)
    np.testing.assert_allclose(result, (ts**2, np.sin(ts)), rtol=1e-5)


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

    once, anew = read_twice(computed_once), read_twice(lambda x: x)
    counts = [fn.lower(x).compile().cost_analysis()["flops"] for fn in (once, anew)]
    assert counts == [3 * x.size, 6 * x.size]
    chex.assert_trees_all_equal(once(x), anew(x))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(computed_once(x**2))))(x)
    np.testing.assert_allclose(gradient, 2 * x)
