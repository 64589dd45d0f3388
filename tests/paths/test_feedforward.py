"""Chains of layers: what they are made of, whose units cannot be dropped alone, and rows and columns of units."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variables import drawn

from mcjax import InputError, models, trees
from mcjax.paths.feedforward import chain, put, scale_outputs, take
from mcjax.symmetry.axis import Axis


def test_an_mlp():
    model = models.create("mlp", 3, (4, 4, 1), widths=(7, 5))
    found = chain(model)
    assert found.groups == ("dense_0", "dense_1")
    assert found.sizes == (7, 5)
    assert [layer.kernel for layer in found.layers] == [f"params/Dense_{i}/kernel" for i in range(3)]
    assert found.beside == ("params/Dense_2/bias",)
    assert found.top.group is None


@pytest.mark.parametrize(("name", "depth"), [("tinysix", 4), ("mnist_convnet", 3), ("vgg11", 10)])
def test_convolutions_with_and_without_batch_norm(name, depth):
    model = models.create(name, 3, (32, 32, 1), width=0.05)
    found = chain(model)
    assert len(found.groups) == depth
    makes = {leaf for layer in found.layers for leaf, _, _ in layer.makes}
    assert makes | {found.top.kernel, *found.beside} == set(model.spec.axes)


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
    assert len(chain(of_kind("plain")).groups) == 2


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("norm", "units of 'Dense_0'"),
        ("twice", "is read by"),
        ("joined", "joined|branches|is read by"),
        ("residual", "'Dense_0'|'Dense_2'"),
        ("scaled", "not affine in .*scale"),
        ("curved", "not affine"),
    ],
)
def test_what_is_no_chain_is_named(kind, said):
    with pytest.raises(InputError, match=said):
        chain(of_kind(kind))


@pytest.mark.parametrize("name", ["resnet20", "lstm"])
def test_trunks_and_recurrence_are_refused(name):
    model = models.create(name, 10, (5,) if name == "lstm" else (32, 32, 3), width=0.25 if name != "lstm" else 0.05)
    with pytest.raises(InputError, match="alone"):
        chain(model)


def test_no_hidden_layer():
    model = models.from_flax(nn.Dense(3), jax.ShapeDtypeStruct((2, 4), jnp.float32))
    with pytest.raises(InputError, match="no hidden units"):
        chain(model)


def test_rows_and_columns_of_units():
    axis = Axis("g", outer=2, inner=3)
    leaf = np.arange(5 * 24).reshape(5, 24)
    rows = take(leaf, 1, axis, np.array([3, 0]))
    np.testing.assert_array_equal(rows[:, 0], [9, 10, 11, 21, 22, 23, 0, 1, 2, 12, 13, 14])
    new = put(leaf, 1, axis, np.array([1]), 0)
    np.testing.assert_array_equal(np.flatnonzero(new[1] == 0), [3, 4, 5, 15, 16, 17])
    assert leaf[1, 3] == 27


@pytest.mark.parametrize(("name", "shape"), [("mlp", (4, 4, 1)), ("mnist_convnet", (8, 8, 1))])
def test_scaled_outputs_are_scaled_activations(name, shape, key):
    model = models.create(name, 3, shape, width=0.1)
    found, theta = chain(model), jax.tree.map(np.float32, drawn(model))
    x = jax.random.normal(key, (4, *shape))
    rng = np.random.default_rng(0)
    factors = {g: np.float32(rng.random(n)) for g, n in zip(found.groups, found.sizes, strict=True)}
    scaled = scale_outputs(found, theta, factors)
    # Layer by layer: what comes out of the first layer is not scaled, what reads it is.
    first = found.groups[0]
    before, after = (
        model.activations(theta, x),
        model.activations(scale_outputs(found, theta, {first: factors[first]}), x),
    )
    np.testing.assert_allclose(after[first][0], before[first][0], rtol=1e-6)
    kernel, position, axis = found.reader(first)
    wide = np.moveaxis(np.asarray(theta_of(scaled, kernel)), position, -1)
    want = np.moveaxis(np.asarray(theta_of(theta, kernel)), position, -1) * np.tile(factors[first], axis.outer)
    np.testing.assert_allclose(wide, want, rtol=1e-6)


def theta_of(theta, name):
    return trees.flatten(theta)[name]
