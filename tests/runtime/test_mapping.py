"""Mapping over networks and points: equal to the loop in every way, and the way chosen by convolutions and platform."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mcjax.runtime import mapping
from mcjax.runtime.mapping import default_chunk, has_convolutions, over_models, over_points
from mcjax.runtime.target import compiling_for

LAYOUT = ("NHWC", "HWIO", "NHWC")
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(5, 2, 6, 6, 3)).astype(np.float32)
KERNELS = RNG.normal(size=(5, 3, 3, 3, 4)).astype(np.float32)


def convolve(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


def multiply(x, kernel):
    return jnp.einsum("nhwc,cd->nhwd", x, kernel[0, 0])


@pytest.mark.parametrize("product", [convolve, multiply])
def test_over_models_is_the_loop(product):
    """With trees, typed keys, and values from outside, in compiled programs and outside of them."""
    keys = jax.random.split(jax.random.key(0), 5)

    def run(outside, images, kernels, keys):
        def one(tree, key):
            noise = jax.random.normal(key, (4,))
            return {"z": product(tree["x"], tree["k"]) * outside + noise[None, None, None], "key": key}

        return over_models(one)({"x": images, "k": kernels}, keys)

    for way in (run, jax.jit(run)):
        found = way(jnp.float32(2), IMAGES, KERNELS, keys)
        for i in range(5):
            noise = np.asarray(jax.random.normal(keys[i], (4,)))
            expected = 2 * np.asarray(product(IMAGES[i], KERNELS[i])) + noise
            np.testing.assert_allclose(found["z"][i], expected, rtol=1e-4, atol=1e-4)
        assert (jax.random.key_data(found["key"]) == jax.random.key_data(keys)).all()


@pytest.mark.parametrize("chunk", [None, 1, 2, 5, 7])
@pytest.mark.parametrize("product", [convolve, multiply])
def test_over_points_is_the_loop(product, chunk):
    found = jax.jit(lambda ks: over_points(lambda k: (product(IMAGES[0], k), k.sum()), ks, chunk))(KERNELS)
    for i in range(5):
        np.testing.assert_allclose(found[0][i], product(IMAGES[0], KERNELS[i]), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[1][i], KERNELS[i].sum(), rtol=1e-4, atol=1e-5)


def test_it_is_differentiated_and_mapped():
    def total(kernels):
        return jnp.sum(over_models(lambda x, k: jnp.sin(convolve(x, k)))(IMAGES, kernels))

    alone = jax.grad(lambda k: jnp.sum(jnp.sin(convolve(IMAGES[1], k))))(KERNELS[1])
    np.testing.assert_allclose(jax.grad(total)(KERNELS)[1], alone, rtol=1e-4, atol=1e-4)
    both = jax.vmap(total)(np.stack([KERNELS, 2 * KERNELS]))
    np.testing.assert_allclose(both, [total(KERNELS), total(2 * KERNELS)], rtol=1e-4)


WRAPPED = {
    "itself": convolve,
    "compiled": jax.jit(convolve),
    "in a loop": lambda x, k: lax.scan(lambda c, _: (convolve(x, k), None), jnp.zeros((2, 6, 6, 4)), length=2)[0],
    "in a branch": lambda x, k: lax.cond(x.sum() > 0, convolve, multiply, x, k),
    "recomputed": jax.checkpoint(convolve),
    "with a derivative of its own": jax.custom_vjp(convolve),
    "its gradient": jax.grad(lambda x, k: convolve(x, k).sum()),
    "mapped": lambda x, k: jax.vmap(partial(convolve, x))(k[None]),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_convolutions_are_found_wherever_they_are(name):
    fn = WRAPPED[name]
    if name == "with a derivative of its own":
        fn.defvjp(lambda x, k: (convolve(x, k), k), lambda k, g: (g, k))
    assert has_convolutions(jax.make_jaxpr(fn)(IMAGES[0], KERNELS[0]))
    assert not has_convolutions(jax.make_jaxpr(jax.jit(multiply))(IMAGES[0], KERNELS[0]))


def loops(fn, *args):
    return str(jax.make_jaxpr(fn)(*args)).count("scan[")


@pytest.mark.parametrize(("platform", "sequence"), [("cpu", True), ("tpu", False), ("cuda", False)])
def test_the_way_is_that_of_the_platform(platform, sequence):
    with compiling_for(platform):
        assert loops(over_models(convolve), IMAGES, KERNELS) == sequence
        assert loops(over_models(multiply), IMAGES, KERNELS) == 0
        assert (default_chunk(True), default_chunk(False)) == (1 if sequence else 16, 16)
        # 20 points in chunks of 16, or one by one.
        program = jax.make_jaxpr(lambda ks: over_points(partial(convolve, IMAGES[0]), ks))(
            np.tile(KERNELS, (4, 1, 1, 1, 1))
        )
        assert f"length={20 if sequence else 1}" in str(program)


def test_a_function_is_traced_once_for_the_choice_and_the_program():
    calls = []

    def one(x, k):
        calls.append(1)
        return multiply(x, k)

    jax.jit(over_models(one))(IMAGES, KERNELS)
    assert len(calls) == 1
    with compiling_for("cpu"):
        assert mapping.convolutions_are_sequential()
