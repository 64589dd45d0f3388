"""Layers as units: their vectors against numpy indexing, and layers whose units act on each other, refused by name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variables import drawn

from mcjax import InputError, models, trees
from mcjax.constructions.unit_layers import check_units, unit_layer
from mcjax.errors import check_whole
from mcjax.symmetry import SpecError


class BatchNormed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(2, (3, 3))(x.reshape(-1, 1, 3, 1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(2)(x.mean((1, 2)))


class LayerNormed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(2)(nn.LayerNorm()(nn.Dense(4)(x)))


def of(module):
    return models.from_flax(module, jax.ShapeDtypeStruct((2, 3), jnp.float32), name="own")


def flattened():
    """A convolutional model whose last feature maps, of 2 x 2 pixels, are read by a dense layer."""
    model = models.create("mnist_convnet", 3, (8, 8, 1), width=0.1)
    group = [name for name in model.spec.groups if name.startswith("conv")][-1]
    return model, group


@pytest.fixture(scope="module")
def mlp():
    model = models.create("mlp", 3, (2,), widths=(6, 5))
    return unit_layer(model, "dense_1"), trees.flatten(drawn(model))


@pytest.fixture(scope="module")
def convolutional():
    model, group = flattened()
    return unit_layer(model, group), trees.flatten(drawn(model))


@pytest.fixture(scope="module")
def normed():
    model = of(BatchNormed())
    return unit_layer(model, model.spec.groups[0]), trees.flatten(drawn(model))


def changed(values, new):
    """Only these leaves differ, and they are these."""
    return {name for name in values if not np.array_equal(values[name], new[name])}


def test_units_of_a_dense_layer(mlp):
    layer, values = mlp
    kernel, bias, above = (values[f"params/{name}"] for name in ("Dense_1/kernel", "Dense_1/bias", "Dense_2/kernel"))
    assert (layer.group, layer.size) == ("dense_1", 5)
    for unit in range(5):
        parts = {"params/Dense_1/kernel": kernel[:, unit], "params/Dense_1/bias": bias[[unit]]}
        expected = np.concatenate([parts[place.name] for place in layer.incoming])
        np.testing.assert_array_equal(layer.parameters(values, unit), np.float32(expected))
        np.testing.assert_array_equal(layer.outputs(values, unit), np.float32(above[unit]))
    assert layer.statistics == ()


def test_units_are_taken_and_put_elsewhere(mlp):
    layer, values = mlp
    made = layer.with_parameters(values, 3, layer.parameters(values, 1))
    assert changed(values, made) == {"params/Dense_1/kernel", "params/Dense_1/bias"}
    for name, axis in (("params/Dense_1/kernel", 1), ("params/Dense_1/bias", 0)):
        expected = np.take(np.float32(values[name]), [0, 1, 2, 1, 4], axis)
        np.testing.assert_array_equal(made[name], expected)
    read = layer.with_outputs(values, 0, jnp.arange(3.0))
    expected = np.float32(values["params/Dense_2/kernel"])
    expected[0] = [0, 1, 2]
    np.testing.assert_array_equal(read["params/Dense_2/kernel"], expected)
    assert changed(values, read) == {"params/Dense_2/kernel"}
    silent = layer.without(values, jnp.array([True, False, False, True, False]))
    expected = np.float32(values["params/Dense_2/kernel"])
    expected[[0, 3]] = 0
    np.testing.assert_array_equal(silent["params/Dense_2/kernel"], expected)


def test_units_may_be_traced(mlp):
    layer, values = mlp
    taken = jax.vmap(lambda unit: layer.parameters(values, unit))(jnp.arange(5))
    np.testing.assert_array_equal(taken, np.stack([layer.parameters(values, unit) for unit in range(5)]))


def test_flattened_feature_maps(convolutional):
    layer, values = convolutional
    name = layer.outgoing.name
    kernel = np.float32(values[name])
    pixels = len(kernel) // layer.size
    assert pixels > 1
    maps = kernel.reshape(pixels, layer.size, -1)
    np.testing.assert_array_equal(layer.outputs(values, 2), maps[:, 2].ravel())
    vector = np.arange(maps[:, 0].size, dtype=np.float32)
    expected = maps.copy()
    expected[:, 1] = vector.reshape(pixels, -1)
    np.testing.assert_array_equal(layer.with_outputs(values, 1, vector)[name], expected.reshape(kernel.shape))
    silent = np.arange(layer.size) == 3
    expected = maps * ~silent[None, :, None]
    np.testing.assert_array_equal(layer.without(values, jnp.asarray(silent))[name], expected.reshape(kernel.shape))


def test_batch_norm(normed):
    layer, values = normed
    parts = {name: np.float32(leaf)[..., 1].ravel() for name, leaf in values.items()}
    expected = np.concatenate([parts[place.name] for place in layer.incoming])
    np.testing.assert_array_equal(layer.parameters(values, 1), expected)
    assert {place.name.split("/")[1] for place in layer.incoming} == {"Conv_0", "BatchNorm_0"}
    names = {place.name for place in layer.statistics}
    assert names == {"batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var"}
    mixed = layer.with_statistics(values, 0, values, (0, 1), (0.25, 0.75))
    for name in names:
        leaf = np.float32(values[name])
        np.testing.assert_allclose(mixed[name][0], 0.25 * leaf[0] + 0.75 * leaf[1], rtol=1e-6)
        np.testing.assert_array_equal(mixed[name][1:], leaf[1:])
    assert changed(values, mixed) == names


@pytest.mark.slow
def test_the_inner_channels_of_a_residual_network_can_be_merged():
    assert unit_layer(models.create("resnet20", 10, (8, 8, 3), width=0.25), "block_0").size == 4


def test_a_residual_trunk_is_refused_by_name():
    with pytest.raises(InputError, match=r"resnet20: 'trunk_0' is produced by .*cannot be dropped one by one"):
        unit_layer(models.create("resnet20", 10, (8, 8, 3), width=0.25), "trunk_0")


def test_recurrent_units_are_refused():
    model = models.create("lstm", 10, (5,), width=0.05)
    for group in model.spec.groups:
        if group.startswith("lstm"):
            with pytest.raises(InputError, match=f"'{group}'.*cannot be dropped one by one"):
                unit_layer(model, group)


def test_a_norm_over_units_is_refused():
    model = of(LayerNormed())
    with pytest.raises(InputError, match=f"own: units of '{model.spec.groups[0]}' act on each other"):
        unit_layer(model, model.spec.groups[0])


def test_no_such_group_and_a_group_of_one():
    with pytest.raises(SpecError, match="dense_7"):
        unit_layer(models.create("mlp", 3, (2,), widths=(6, 5)), "dense_7")
    with pytest.raises(InputError, match="'dense_0' has one unit, expected at least two"):
        unit_layer(models.create("mlp", 3, (2,), widths=(1, 5)), "dense_0")


@pytest.mark.parametrize(
    ("units", "named"),
    [
        ((2, 2), r"units=\(2, 2\)"),
        ((0, 5), "second unit=5, .* 0 to 4"),
        ((-1, 2), "first unit=-1"),
        ((0, 1.0), "second unit=1.0"),
        ((True, 2), "first unit=True"),
        ((("dense_0", 1), ("dense_1", 2)), "'dense_1'.*one layer"),
        (("dense_0", "dense_1"), "'dense_1'.*one layer"),
        ((0, 1, 2), r"\(0, 1, 2\).*two of the 5 units of 'dense_1'"),
        (3, "units=3, .*two of the 5 units"),
        ("01", "'01', .*two of the 5 units"),
    ],
)
def test_bad_pairs_of_units_are_refused(mlp, units, named):
    with pytest.raises(InputError, match=named):
        check_units(mlp[0], units)


def test_pairs_of_units(mlp):
    for units in ((4, 0), [4, 0], (np.int64(4), np.int32(0))):
        pair = check_units(mlp[0], units)
        assert pair == (4, 0)
        for unit in pair:
            check_whole("unit", unit, 0)
