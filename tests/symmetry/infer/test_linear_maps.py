"""Linear maps of kernels: against matrices made of basis vectors, for dense layers, convolutions and norms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import SpecError, trees
from mcjax.symmetry.infer.linear_maps import frobenius_norm, linear_maps, linear_part
from mcjax.symmetry.infer.program import trace


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
        lambda leaf: np.float32(0.4 * rng.normal(size=leaf.shape) if leaf.ndim > 1 else 0.5 + rng.random(leaf.shape)),
        jax.eval_shape(module.init, jax.random.key(0), image),
    )
    return trace(module.apply, theta, image), theta, image


def convolved(x, kernel):
    """A convolution with steps 2 and 1 and zeros around the image, window by window."""
    n, height, width, _ = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((n, -(-height // 2), width, kernel.shape[-1]))
    for i, j in np.ndindex(out.shape[1:3]):
        out[:, i, j] = np.tensordot(x[:, 2 * i : 2 * i + 3, j : j + 3], kernel, 3)
    return out


def test_slots_and_norms(traced):
    program, theta, image = traced
    inputs, leaves = [*jax.tree.leaves(theta), image], trees.flatten(theta)
    found = linear_maps(program, list(leaves), KERNELS)
    conv = convolved(image, leaves[KERNELS[0]])
    factor = leaves["params/BatchNorm_0/scale"] / np.sqrt(leaves["batch_stats/BatchNorm_0/var"] + 1e-5)
    shifted = conv + leaves["params/Conv_0/bias"] - leaves["batch_stats/BatchNorm_0/mean"]
    normed = shifted * factor + leaves["params/BatchNorm_0/bias"]
    pooled = np.maximum(normed, 0).reshape(1, 2, 2, 3, 2, 4).max((2, 4)).reshape(1, -1)
    dense = pooled @ leaves[KERNELS[1]]
    biased = dense + leaves["params/Dense_0/bias"]
    hidden = np.where(biased > 0, biased, 0.01 * biased)
    last = hidden @ leaves[KERNELS[2]]
    want = [(conv, normed, image), (dense, biased, pooled), (last, last + leaves["params/Dense_1/bias"], hidden)]

    @jax.jit
    def computed(inputs):
        addresses = [[(each.product,), (each.preactivation,), (each.input,)] for each in found]
        got = program.values(inputs, [address for each in addresses for address in each])
        parts = [
            linear_part(program, each, inputs, np.float32(product))
            for each, (product, *_) in zip(found, want, strict=True)
        ]
        norms = [frobenius_norm(program, each, inputs) for each in found]
        return [[got[address] for address in each] for each in addresses], parts, norms

    got, parts, norms = computed(inputs)
    for arrays, expected in zip(got, want, strict=True):
        for array, value in zip(arrays, expected, strict=True):
            np.testing.assert_allclose(array, value, rtol=1e-4, atol=1e-5)
    for part, value in zip(parts, (conv * factor, dense, last), strict=True):
        np.testing.assert_allclose(part, value, rtol=1e-3, atol=1e-5)
    # The matrices, column by column from basis vectors.
    basis = np.eye(image.size).reshape(-1, *image.shape[1:])
    first = np.linalg.norm(convolved(basis, leaves[KERNELS[0]]) * factor)
    np.testing.assert_allclose(norms, [first, *(np.linalg.norm(leaves[name]) for name in KERNELS[1:])], rtol=1e-4)


def test_given_values_replace_computed_ones(traced):
    program, theta, image = traced
    inputs = [*jax.tree.leaves(theta), image]
    found = linear_maps(program, list(trees.flatten(theta)), KERNELS)
    value = np.random.default_rng(2).normal(size=(1, 5)).astype(np.float32)
    address = (program.outputs[0],)
    got = jax.jit(lambda value: program.values(inputs, [address], {found[1].preactivation: value})[address])(value)
    last = theta["params"]["Dense_1"]
    np.testing.assert_allclose(got, np.where(value > 0, value, 0.01 * value) @ last["kernel"] + last["bias"], rtol=1e-4)


def test_kernels_that_are_used_twice_are_named():
    def twice(theta, x):
        return jnp.tanh(x @ theta["kernel"]) @ theta["kernel"]

    theta, x = {"kernel": np.ones((3, 3))}, np.ones((1, 3))
    with pytest.raises(SpecError, match="kernel"):
        linear_maps(trace(twice, theta, x), ["kernel"], ["kernel"])
