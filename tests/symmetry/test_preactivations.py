"""What kernels compute before their bias: against Flax's own captured outputs, and which kernels are left out."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import modules
import numpy as np
import pytest

from mcjax import PermutationSpec, models, trees
from mcjax.symmetry.preactivations import Layer, infer_preactivations


def network(module, shape, key):
    model = models.from_flax(module, jnp.zeros((1, *shape)))

    def drawn(key):
        return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), model.init(key))

    return model, jax.jit(drawn)(key), jax.random.normal(key, (4, *shape))


def compiled(fn, spec, theta, x):
    """What `infer_preactivations` finds, all values in one program."""
    layers = []

    def values(theta, x):
        found = infer_preactivations(fn, spec, theta, x)
        layers[:] = [layer for layer, _ in found]
        return [value for _, value in found]

    values = jax.jit(values)(theta, x)
    return list(zip(layers, values, strict=True))


def of(fn, theta, x, spec=None):
    spec = models.from_function(lambda key: theta, fn, x).spec if spec is None else spec
    return infer_preactivations(fn, spec, theta, x)


LAYERS = {
    modules.Flattened: {"Conv_0", "Conv_1", "Dense_0"},
    modules.Depthwise: {f"Conv_{i}" for i in range(7)} | {f"Dense_{i}" for i in range(4)},
    modules.Decoder: {"Conv_0", "Conv_1", "Dense_0", "Dense_1", "ConvTranspose_0"},
    modules.Gated: {"Dense_0", "Dense_1", "Dense_2", "Dense_3", "Dense_5"},
    modules.Mixer: {"Conv_0", "Dense_1", "Dense_2", "Dense_3", "Dense_5", "Dense_6", "Dense_7"},
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] * (k is not modules.Flattened)) for k in LAYERS],
    ids=lambda kind: kind.__name__,
)
def test_they_are_what_the_layers_put_out_less_their_bias(kind, key):
    model, theta, x = network(kind(), (8, 8, 1), key)
    found = compiled(model.apply, model.spec, theta, x)
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


def test_units_first_transposed_cast_and_the_bias_first(key):
    theta = {
        "a": jax.random.normal(key, (6, 5)),
        "b": jax.random.normal(key, (6,)),
        "c": jax.random.normal(key, (7, 6)),
        "d": jax.random.normal(key, (8, 7)),
        "e": jax.random.normal(key, (3, 8)),
    }
    x = jax.random.normal(key, (4, 5))

    def fn(theta, x):
        y = jax.nn.relu(theta["b"][None] + x @ theta["a"].T)
        z = jax.nn.relu(jnp.einsum("oi,bi->ob", theta["c"].astype(jnp.bfloat16), y.astype(jnp.bfloat16)))
        z = jax.nn.relu(jnp.einsum("bi,oi->bo", z.astype(jnp.float32).T, theta["d"]))
        return z @ theta["e"].T

    (first, one), (second, two), (third, three) = of(fn, theta, x)
    assert (first, second, third) == (Layer("a", 0, "b"), Layer("c", 0, None), Layer("d", 0, None))
    np.testing.assert_allclose(one, np.asarray(x) @ np.asarray(theta["a"]).T, rtol=1e-5, atol=1e-5)
    y = np.maximum(np.asarray(one) + np.asarray(theta["b"]), 0)
    np.testing.assert_allclose(two.astype(jnp.float32), y @ np.asarray(theta["c"]).T, rtol=0.05, atol=0.2)
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


@pytest.mark.parametrize(
    ("fn", "kernels"),
    [(product, []), (tied, ["a"]), (normalised, []), (regularised, []), (looped, []), (several_axes, [])],
)
def test_other_kernels_are_left_out(fn, kernels, key):
    shapes = {"a": (5, 6), "c": (6, 6), "out": (6, 3), "heads": (5, 2, 3)}
    used = {
        product: "a c out",
        tied: "a c out",
        normalised: "a out",
        regularised: "a out",
        looped: "a c out",
        several_axes: "heads out",
    }
    theta = {name: jax.random.normal(key, shapes[name]) for name in used[fn].split()}
    found = of(fn, theta, jax.random.normal(key, (4, 5)))
    assert [layer.kernel for layer, _ in found] == kernels


def test_only_units_of_the_spec(key, tiny_model):
    theta, x = tiny_model.init(key), jnp.zeros((2, 8, 8, 1))
    for groups, kernels in (((), ["Dense_0", "Dense_1"]), (("dense_0",), ["Dense_1"]), (("dense_0", "dense_1"), [])):
        found = of(tiny_model.apply, theta, x, tiny_model.spec.without(*groups))
        assert [layer.kernel for layer, _ in found] == [f"params/{kernel}/kernel" for kernel in kernels]
    half = {**tiny_model.spec.axes, "params/Dense_0/kernel": (None, None)}
    assert [layer.kernel for layer, _ in of(tiny_model.apply, theta, x, PermutationSpec(half))] == [
        "params/Dense_1/kernel"
    ]


def test_what_is_no_bias_of_its_own_is_not_taken_for_one(key):
    theta = {name: jax.random.normal(key, shape) for name, shape in {"a": (5, 6), "b": (6,), "out": (6, 3)}.items()}
    x = jax.random.normal(key, (6, 5))  # as many samples as units, so that only the axis tells them apart

    def layer(fn):
        ((found, _),) = of(fn, theta, x, PermutationSpec({"a": (None, "g"), "b": ("g",), "out": ("g", None)}))
        return found.bias

    relu = jax.nn.relu
    assert layer(lambda p, x: relu(x @ p["a"] + p["b"][None]) @ p["out"]) == "b"
    assert layer(lambda p, x: relu(x @ p["a"] + p["b"][:, None]) @ p["out"]) is None
    assert layer(lambda p, x: relu(x @ p["a"] * p["b"][None]) @ p["out"]) is None
    assert layer(lambda p, x: relu(x @ p["a"] - p["b"][None]) @ p["out"]) is None
    assert layer(lambda p, x: relu(x @ p["a"] + p["b"][None] + p["b"][None]) @ p["out"]) is None
    assert layer(lambda p, x: (lambda y: relu(y) + relu(y + p["b"][None]))(x @ p["a"]) @ p["out"]) is None


def test_under_jit_and_vmap(key, tiny_model):
    thetas = trees.stack([tiny_model.init(k) for k in jax.random.split(key)])
    x = jax.random.normal(key, (5, 8, 8, 1))

    def values(theta):
        return [value for _, value in infer_preactivations(tiny_model.apply, tiny_model.spec, theta, x)]

    together = jax.jit(jax.vmap(values))(thetas)
    for i in range(2):
        for a, b in zip(together, values(trees.index(thetas, i)), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_of_attention_only_the_layer_that_joins_the_heads(key):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(6)(x.reshape(x.shape[0], 4, -1))
            x = x + nn.MultiHeadDotProductAttention(2)(x)
            return nn.Dense(3)(nn.gelu(nn.Dense(5)(x)).mean(1))

    model, theta, x = network(Net(), (8, 8, 1), key)
    kernels = [layer.kernel for layer, _ in infer_preactivations(model.apply, model.spec, theta, x)]
    joined = "MultiHeadDotProductAttention_0/out"
    assert kernels == [f"params/{layer}/kernel" for layer in ("Dense_0", joined, "Dense_2")]
