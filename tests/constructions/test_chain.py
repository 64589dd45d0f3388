"""Chains of layers: what they are made of, whose units cannot be dropped alone, and rows and columns of units."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variables import drawn

from mcjax import InputError, models, trees
from mcjax.constructions.chain import Chain, Layer, UnitAxis, chain_of, scale_outputs
from mcjax.symmetry.axis import Axis


def test_an_mlp():
    model = models.create("mlp", 3, (4, 4, 1), widths=(7, 5))
    found = chain_of(model)
    assert found.groups == ("dense_0", "dense_1")
    assert found.sizes == (7, 5)
    assert [layer.kernel for layer in found.layers] == [f"params/Dense_{i}/kernel" for i in range(3)]
    assert found.output_biases == ("params/Dense_2/bias",)
    assert found.top.group is None


@pytest.mark.parametrize(
    ("name", "depth", "size"),
    [("tinysix", 4, 8), ("mnist_convnet", 3, 8), pytest.param("vgg11", 10, 32, marks=pytest.mark.slow)],
)
def test_convolutions_with_and_without_batch_norm(name, depth, size):
    model = models.create(name, 3, (size, size, 1), width=0.2 if size == 8 else 0.05)
    found = chain_of(model)
    assert len(found.groups) == depth
    makes = {unit_axis.name for layer in found.layers for unit_axis in layer.incoming}
    assert makes | {found.top.kernel, *found.output_biases} == set(model.spec.axes)


class Net(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Dense(6)(x))
        if self.kind == "norm":
            x = nn.LayerNorm()(x)
        if self.kind == "twice":
            return nn.Dense(3)(x) + nn.Dense(3)(nn.relu(nn.Dense(4)(x)))
        if self.kind == "joined":
            x = jnp.concatenate([nn.relu(nn.Dense(4)(x)), nn.relu(nn.Dense(5)(x))], -1)
        if self.kind == "residual":
            x = x + nn.Dense(6)(nn.relu(nn.Dense(4)(x)))
        x = nn.relu(nn.Dense(5)(x))
        x = nn.Dense(3)(x)
        if self.kind == "scaled":
            return x * self.param("scale", nn.initializers.ones, (1, 1))
        return nn.tanh(x) if self.kind == "curved" else x


def of_kind(kind):
    return models.from_flax(Net(kind), jax.ShapeDtypeStruct((2, 4), jnp.float32), name=kind)


def test_a_module_of_ones_own():
    assert len(chain_of(of_kind("plain")).groups) == 2


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("norm", "units of 'Dense_0'"),
        ("twice", "is read by"),
        ("joined", "joined|branches|is read by"),
        ("residual", "'Dense_0'|'Dense_2'"),
        ("scaled", "not affine in .*scale"),
        ("curved", "not affine"),
    ],
)
def test_layers_that_are_no_chain_are_named(kind, named):
    with pytest.raises(InputError, match=named):
        chain_of(of_kind(kind))


@pytest.mark.parametrize("name", ["resnet20", "lstm"])
def test_trunks_and_recurrence_are_refused(name):
    model = models.create(name, 10, (5,) if name == "lstm" else (8, 8, 3), width=0.25 if name != "lstm" else 0.05)
    with pytest.raises(InputError, match=f"{name}: .*one by one"):
        chain_of(model)


def test_no_hidden_layer():
    model = models.from_flax(nn.Dense(3), jax.ShapeDtypeStruct((2, 4), jnp.float32))
    with pytest.raises(InputError, match="no hidden units"):
        chain_of(model)


def test_rows_and_columns_of_units():
    unit_axis = UnitAxis("leaf", 1, Axis("g", outer=2, inner=3))
    leaf = np.arange(5 * 24).reshape(5, 24)
    rows = unit_axis.take(leaf, np.array([3, 0]))
    np.testing.assert_array_equal(rows[:, 0], [9, 10, 11, 21, 22, 23, 0, 1, 2, 12, 13, 14])
    new = unit_axis.put(leaf, np.array([1]), 0)
    np.testing.assert_array_equal(np.flatnonzero(new[1] == 0), [3, 4, 5, 15, 16, 17])
    assert leaf[1, 3] == 27


@pytest.mark.parametrize(("name", "shape"), [("mlp", (4, 4, 1)), ("mnist_convnet", (8, 8, 1))])
def test_scaled_outputs_are_scaled_activations(name, shape):
    model = models.create(name, 3, shape, width=0.2)
    found, theta = chain_of(model), jax.tree.map(np.float32, drawn(model))
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(4, *shape)))
    factors = {g: np.float32(rng.random(n)) for g, n in zip(found.groups, found.sizes, strict=True)}
    first = found.groups[0]

    @jax.jit
    def run(factors):
        return scale_outputs(found, theta, factors), model.activations(scale_outputs(found, theta, factors), x)[first]

    (same, before), (scaled, after) = run({g: np.ones_like(each) for g, each in factors.items()}), run(factors)
    chex.assert_trees_all_equal(same, theta)
    # What comes out of the first layer is not scaled, what reads it is.
    np.testing.assert_allclose(after[0], before[0], rtol=1e-6)
    for group in found.groups:
        kernel, position, axis = found.outgoing(group)
        got, was = (np.moveaxis(np.asarray(trees.flatten(of)[kernel]), position, -1) for of in (scaled, theta))
        np.testing.assert_allclose(got, was * np.tile(factors[group], axis.outer), rtol=1e-6)


def test_outputs_of_units_that_are_several_rows_each():
    """On an axis of two blocks of units of three rows, every row is scaled as its unit is."""
    axis = Axis("g", outer=2, inner=3)
    chain = Chain((Layer("a", None, "g", ()), Layer("b", UnitAxis("b", 0, axis), None, ())), (), (4,))
    theta = {"a": np.ones((1, 4), np.float32), "b": np.ones((24, 2), np.float32)}
    scaled = scale_outputs(chain, theta, {"g": np.float32([1, 2, 3, 4])})
    expected = [unit for _ in range(2) for unit in (1, 2, 3, 4) for _ in range(3)]
    np.testing.assert_array_equal(scaled["b"], np.float32(expected)[:, None] * np.ones((1, 2)))
    np.testing.assert_array_equal(scaled["a"], theta["a"])
