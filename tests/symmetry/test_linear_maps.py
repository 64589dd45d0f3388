"""Where kernels are applied: against matrices made of basis vectors, for dense layers, convolutions and norms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import SpecError, trees
from mcjax.symmetry.linear_maps import frobenius_norm, linear_maps, linear_part
from mcjax.symmetry.program import trace


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), strides=(2, 1))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        x = nn.leaky_relu(nn.Dense(5)(x))
        return nn.Dense(3)(x)


KERNELS = [f"params/{name}/kernel" for name in ("Conv_0", "Dense_0", "Dense_1")]


@pytest.fixture(scope="module")
def traced():
    module, image = Net(), np.random.default_rng(0).normal(size=(1, 7, 6, 2)).astype(np.float32)
    rng = np.random.default_rng(1)
    # Statistics and biases that are nothing special.
    theta = jax.tree.map(
        lambda leaf: np.asarray(leaf) if leaf.ndim > 1 else np.float32(0.5 + rng.random(leaf.shape)),
        module.init(jax.random.key(0), image),
    )
    return trace(module.apply, theta, image), theta, image


def convolved(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return np.asarray(jax.lax.conv_general_dilated(x, kernel, (2, 1), "SAME", dimension_numbers=numbers))


def test_slots_and_norms(traced):
    program, theta, image = traced
    inputs, leaves = [*jax.tree.leaves(theta), image], trees.flatten(theta)
    found = linear_maps(program, list(leaves), KERNELS)
    conv = convolved(image, leaves[KERNELS[0]])
    factor = leaves["params/BatchNorm_0/scale"] / np.sqrt(leaves["batch_stats/BatchNorm_0/var"] + 1e-5)
    shifted = conv + leaves["params/Conv_0/bias"] - leaves["batch_stats/BatchNorm_0/mean"]
    normed = shifted * factor + leaves["params/BatchNorm_0/bias"]
    pooled = np.asarray(nn.max_pool(np.maximum(normed, 0), (2, 2), (2, 2))).reshape(1, -1)
    dense = pooled @ leaves[KERNELS[1]]
    want = [(conv, normed, image), (dense, dense + leaves["params/Dense_0/bias"], pooled)]
    for each, (product, preactivation, reads) in zip(found, want, strict=False):
        places = [(each.product,), (each.preactivation,), (each.reads,)]
        got = program.values(inputs, places)
        for place, array in zip(places, (product, preactivation, reads), strict=True):
            np.testing.assert_allclose(got[place], array, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        linear_part(program, found[0], inputs, jnp.asarray(conv)), conv * factor, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(linear_part(program, found[1], inputs, jnp.asarray(dense)), dense, rtol=1e-3, atol=1e-5)
    place = (found[2].preactivation,)
    np.testing.assert_allclose(program.values(inputs, [place])[place], Net().apply(theta, image), rtol=1e-5)
    # The matrices, column by column from basis vectors.
    basis = np.eye(image.size, dtype=np.float32).reshape(-1, *image.shape[1:])
    first = np.linalg.norm(convolved(basis, leaves[KERNELS[0]]) * factor)
    for each, norm in zip(found, (first, *(np.linalg.norm(leaves[name]) for name in KERNELS[1:])), strict=True):
        np.testing.assert_allclose(frobenius_norm(program, each, inputs), norm, rtol=1e-4)


def test_what_is_given_replaces_what_is_computed(traced):
    program, theta, image = traced
    inputs = [*jax.tree.leaves(theta), image]
    found = linear_maps(program, list(trees.flatten(theta)), KERNELS)
    value = np.random.default_rng(2).normal(size=(1, 5)).astype(np.float32)
    place = (program.outputs[0],)
    got = program.values(inputs, [place], {found[1].preactivation: value})[place]
    last = theta["params"]["Dense_1"]
    np.testing.assert_allclose(got, np.where(value > 0, value, 0.01 * value) @ last["kernel"] + last["bias"], rtol=1e-4)


def test_kernels_that_are_used_twice_are_named():
    def twice(theta, x):
        return jnp.tanh(x @ theta["kernel"]) @ theta["kernel"]

    theta, x = {"kernel": jnp.ones((3, 3))}, jnp.ones((1, 3))
    with pytest.raises(SpecError, match="kernel: expected a kernel that is used once"):
        linear_maps(trace(twice, theta, x), ["kernel"], ["kernel"])
