"""Pre-activations of kernels, before their bias: against Flax's captured outputs, and kernels that are left out."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modules import feedforward

from mcjax import PermutationSpec, infer_spec, models, trees
from mcjax.symmetry.infer.preactivations import KernelLayer, infer_preactivations


def normal(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def network(module, shape):
    model = models.from_flax(module, np.zeros((1, *shape), np.float32))
    shapes, rng = jax.eval_shape(model.init, jax.random.key(0)), np.random.default_rng(1)

    def drawn(name, leaf):
        values = 0.3 * rng.normal(size=leaf.shape) if name.endswith("kernel") else 0.5 + rng.random(leaf.shape)
        return values.astype(np.float32)

    return model, trees.map_with_name(drawn, shapes), normal(4, *shape)


def found_by(fn, theta, x, spec=None, run=jax.jit):
    """The values that `infer_preactivations` finds, in one program."""
    spec = infer_spec(fn, theta, x) if spec is None else spec
    layers = []

    def values(theta, x):
        found = infer_preactivations(fn, spec, theta, x)
        layers[:] = [layer for layer, _ in found]
        return [value for _, value in found]

    values = run(values)(theta, x)
    return list(zip(layers, values, strict=True))


def layers_of(fn, theta, x, spec=None):
    """The layers alone, of which nothing is computed."""
    return [layer for layer, _ in found_by(fn, theta, x, spec, lambda values: partial(jax.eval_shape, values))]


def kernels_of(*args):
    return [layer.kernel for layer in layers_of(*args)]


LAYERS = {
    feedforward.Flattened: {"Conv_0", "Conv_1", "Dense_0"},
    feedforward.Depthwise: {f"Conv_{i}" for i in range(7)} | {f"Dense_{i}" for i in range(4)},
    feedforward.Decoder: {"Conv_0", "Conv_1", "Dense_0", "Dense_1", "ConvTranspose_0"},
    feedforward.Gated: {"Dense_0", "Dense_1", "Dense_2", "Dense_3", "Dense_5"},
    feedforward.Mixer: {"Conv_0", "Dense_1", "Dense_2", "Dense_3", "Dense_5", "Dense_6", "Dense_7"},
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] * (k is not feedforward.Flattened)) for k in LAYERS],
    ids=lambda kind: kind.__name__,
)
def test_they_are_the_outputs_of_layers_less_their_bias(kind):
    model, theta, x = network(kind(), (8, 8, 1))
    found = found_by(model.apply, theta, x, model.spec)
    leaves = trees.flatten(theta)
    apply = partial(kind().apply, capture_intermediates=True, mutable=["intermediates"])
    captured = jax.jit(apply)(theta, x)[1]
    outputs = trees.flatten(captured["intermediates"])
    names = [layer.kernel.split("/")[1] for layer, _ in found]
    assert sorted(names) == sorted(LAYERS[kind])
    for layer, value in found:
        parent = layer.kernel.removesuffix("/kernel")
        there = f"{parent}/bias" in leaves
        assert layer.bias == (f"{parent}/bias" if there else None)
        assert layer.axis == leaves[layer.kernel].ndim - 1
        expected = np.asarray(outputs[f"{parent.removeprefix('params/')}/__call__/0"])
        units = value.shape[-1]
        bias = np.asarray(leaves[layer.bias]) if there else np.zeros(units)
        assert value.size == expected.size
        np.testing.assert_allclose(
            np.sort(np.asarray(value).reshape(-1, units), 0),
            np.sort(expected.reshape(-1, units) - bias[None], 0),
            rtol=1e-4,
            atol=1e-4,
        )


def test_units_first_transposed_cast_and_the_bias_first():
    shapes = {"a": (6, 5), "b": (6,), "c": (7, 6), "d": (8, 7), "e": (3, 8)}
    theta, x = {name: normal(*shape) for name, shape in shapes.items()}, normal(4, 5)

    def fn(theta, x):
        y = jax.nn.relu(theta["b"][None] + x @ theta["a"].T)
        z = jax.nn.relu(jnp.einsum("oi,bi->ob", theta["c"].astype(jnp.bfloat16), y.astype(jnp.bfloat16)))
        z = jax.nn.relu(jnp.einsum("bi,oi->bo", z.astype(jnp.float32).T, theta["d"]))
        return z @ theta["e"].T

    (first, one), (second, two), (third, three) = found_by(fn, theta, x)
    assert (first, second, third) == (KernelLayer("a", 0, "b"), KernelLayer("c", 0, None), KernelLayer("d", 0, None))
    np.testing.assert_allclose(one, x @ theta["a"].T, rtol=1e-5, atol=1e-5)
    y = np.maximum(x @ theta["a"].T + theta["b"], 0)
    np.testing.assert_allclose(np.float32(two), y @ theta["c"].T, rtol=0.05, atol=0.2)
    assert two.shape == (4, 7)
    assert three.shape == (4, 8)


def product(theta, x):
    return jax.nn.relu(x @ (theta["a"] @ theta["c"])) @ theta["out"]


def tied(theta, x):
    return jax.nn.relu(x @ theta["a"]) @ theta["c"] @ theta["c"].T @ theta["out"]


def normalised(theta, x):
    return jax.nn.relu(x @ (theta["a"] / jnp.linalg.norm(theta["a"], axis=0)[None])) @ theta["out"]


def regularised(theta, x):
    return jax.nn.relu(x @ theta["a"]) @ theta["out"] + jnp.square(theta["a"]).sum()


def looped(theta, x):
    def step(h, row):
        return jax.nn.tanh(h @ theta["c"] + row @ theta["a"]), None

    return jax.lax.scan(step, jnp.zeros((x.shape[0], 6)), jnp.stack([x, x]))[0] @ theta["out"]


def several_axes(theta, x):
    return jax.nn.relu(jnp.einsum("bi,ijk->bjk", x, theta["heads"])).reshape(-1, 6) @ theta["out"]


SHAPES = {"a": (5, 6), "c": (6, 6), "out": (6, 3), "heads": (5, 2, 3)}


@pytest.mark.parametrize(
    ("fn", "used", "kernels"),
    [
        (product, "a c out", []),
        (tied, "a c out", ["a"]),
        (normalised, "a out", []),
        (regularised, "a out", []),
        (looped, "a c out", []),
        (several_axes, "heads out", []),
    ],
)
def test_other_kernels_are_left_out(fn, used, kernels):
    assert kernels_of(fn, {name: normal(*SHAPES[name]) for name in used.split()}, normal(4, 5)) == kernels


def test_only_units_of_the_spec(tiny_model):
    theta, x = jax.eval_shape(tiny_model.init, jax.random.key(0)), np.zeros((2, 8, 8, 1), np.float32)
    spec, both = tiny_model.spec, ["params/Dense_0/kernel", "params/Dense_1/kernel"]
    half = PermutationSpec({**spec.axes, both[0]: (None, None)})
    for left, kernels in (
        (spec, both),
        (spec.without("dense_0"), both[1:]),
        (spec.without("dense_0", "dense_1"), []),
        (half, both[1:]),
    ):
        assert kernels_of(tiny_model.apply, theta, x, left) == kernels


def test_what_is_no_bias_of_its_own_is_not_taken_for_one():
    theta = {name: normal(*shape) for name, shape in {"a": (5, 6), "b": (6,), "out": (6, 3)}.items()}
    x = normal(6, 5)  # as many samples as units, so that only the axis tells them apart
    spec = PermutationSpec({"a": (None, "g"), "b": ("g",), "out": ("g", None)})

    def bias_of(relu):
        (layer,) = layers_of(lambda p, x: relu(x @ p["a"], p["b"]) @ p["out"], theta, x, spec)
        return layer.bias

    relu = jax.nn.relu
    assert bias_of(lambda y, b: relu(y + b[None])) == "b"
    for other in (
        lambda y, b: relu(y + b[:, None]),
        lambda y, b: relu(y * b[None]),
        lambda y, b: relu(y - b[None]),
        lambda y, b: relu(y + b[None] + b[None]),
        lambda y, b: relu(y) + relu(y + b[None]),
    ):
        assert bias_of(other) is None


def test_without_jit_and_under_vmap(tiny_model):
    shapes, x = jax.eval_shape(tiny_model.init, jax.random.key(0)), normal(5, 8, 8, 1)
    thetas = jax.tree.map(lambda leaf: 0.3 * normal(2, *leaf.shape), shapes)

    def values(theta):
        return [value for _, value in infer_preactivations(tiny_model.apply, tiny_model.spec, theta, x)]

    one, two = jax.jit(jax.vmap(values))(thetas)
    layers = thetas["params"]
    first = np.einsum("bi,nij->nbj", x.reshape(5, -1), layers["Dense_0"]["kernel"])
    hidden = np.maximum(first + layers["Dense_0"]["bias"][:, None], 0)
    np.testing.assert_allclose(one, first, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(two, hidden @ layers["Dense_1"]["kernel"], rtol=1e-4, atol=1e-4)

    theta, x = {"a": normal(5, 6), "out": normal(6, 3)}, normal(4, 5)
    ((layer, value),) = found_by(lambda theta, x: jnp.tanh(x @ theta["a"]) @ theta["out"], theta, x, run=lambda fn: fn)
    assert layer == KernelLayer("a", 1, None)
    np.testing.assert_allclose(value, x @ theta["a"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_of_attention_only_the_layer_that_joins_the_heads():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(6)(x.reshape(x.shape[0], 4, -1))
            x = x + nn.MultiHeadDotProductAttention(2)(x)
            return nn.Dense(3)(nn.gelu(nn.Dense(5)(x)).mean(1))

    model, theta, x = network(Net(), (8, 8, 1))
    kernels = kernels_of(model.apply, theta, x, model.spec)
    joined = "MultiHeadDotProductAttention_0/out"
    assert kernels == [f"params/{layer}/kernel" for layer in ("Dense_0", joined, "Dense_2")]
