"""TinySix, TinyTen, the VGGs and GoogLeNet: parameter counts, a forward pass in numpy, images they cannot take."""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from refusals import says
from variables import drawn

from mcjax import InputError, models, trees
from mcjax.models import convnets


def convolved(x, layer, stride, padding):
    kernel = layer["kernel"]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))[:, ::stride, ::stride]
    return np.einsum("nhwcij,ijcd->nhwd", windows, kernel) + layer["bias"]


def forward(theta, x, layers):
    hidden = []
    for i, (stride, padding, pool) in enumerate(layers):
        x = convolved(x, theta["params"][f"Conv_{i}"], stride, padding)
        norm, stats = theta["params"][f"BatchNorm_{i}"], theta["batch_stats"][f"BatchNorm_{i}"]
        x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
        x = np.maximum(x, 0)
        hidden.append(x)
        if pool:
            n, h, w, c = x.shape
            x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    dense = [name for name in theta["params"] if name.startswith("Dense")]
    x = x.mean((1, 2))
    for i in range(len(dense)):
        x = x @ theta["params"][f"Dense_{i}"]["kernel"] + theta["params"][f"Dense_{i}"]["bias"]
        if i + 1 < len(dense):
            x = np.maximum(x, 0)
            hidden.append(x)
    return x, hidden


SIX = [(1, 1, 0), (2, 1, 0), (2, 1, 0), (1, 0, 0)]
TEN = [(1, 1, 0)] * 2 + [(2, 1, 0)] + [(1, 1, 0)] * 2 + [(2, 1, 0), (1, 0, 0), (1, 0, 0)]
ELEVEN = [(1, 1, pool) for pool in (1, 1, 0, 1, 0, 1, 0, 1)]


@pytest.mark.parametrize(
    ("name", "layers", "input_shape", "width"),
    [
        ("tinysix", SIX, (7, 10, 3), 0.2),
        ("tinyten", TEN, (11, 12, 3), 0.15),
        pytest.param("vgg11", ELEVEN, (33, 64, 3), 0.02, marks=pytest.mark.slow),
    ],
)
def test_forward(name, layers, input_shape, width):
    model = models.create(name, 3, input_shape, width=width)
    theta, x = drawn(model), np.random.default_rng(1).normal(size=(2, *input_shape))
    expected, hidden = forward(theta, x, layers)
    with jax.enable_x64(True):
        outputs, activations = jax.jit(lambda: (model.apply(theta, x), model.activations(theta, x)))()
        np.testing.assert_allclose(outputs, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
        for group, ours in zip(model.spec.groups, hidden, strict=True):
            assert len(activations[group]) == 1
            np.testing.assert_allclose(activations[group][0], ours, rtol=1e-8, atol=1e-8 * ours.max())


@pytest.mark.parametrize(
    ("name", "num_classes", "count"),
    [
        ("tinysix", 10, 28_746),
        ("tinysix", 100, 34_596),
        ("tinyten", 10, 86_778),
        ("vgg16", 10, 15_253_578),
        ("googlenet", 10, 5_610_154),
    ],
)
def test_parameter_counts(name, num_classes, count, key):
    assert trees.parameter_count(jax.eval_shape(models.create(name, num_classes).init, key)) == count


def test_images_of_every_size_have_as_many_parameters(key):
    model = models.create("vgg16", 10, (96, 96, 3))
    assert trees.parameter_count(jax.eval_shape(model.init, key)) == 15_253_578


def test_googlenet_pools_twice(key):
    """As in the published code for small images: the last seven blocks see a quarter of the height and width."""
    model = models.create("googlenet", 10, (32, 32, 3), width=0.125)
    made = jax.eval_shape(lambda key: model.activations(model.init(key), np.zeros((1, 32, 32, 3), np.float32)), key)
    sizes = [made[f"inception_{block}_0"][0].shape[1:3] for block in range(9)]
    assert sizes == [(16, 16)] * 2 + [(8, 8)] * 7


@pytest.mark.parametrize(
    ("name", "input_shape", "words"),
    [
        ("tinyten", (8, 8, 3), ("tinyten", "(8, 8, 3)", "layer 6")),
        ("tinyten", (32, 8, 3), ("layer 6",)),
        ("vgg16", (16, 16, 3), ("vgg16", "layer 12")),
        ("vgg11", (31, 32, 3), ("layer 7",)),
        ("tinysix", (28, 28), ("tinysix", "input_shape=(28, 28)")),
    ],
)
def test_images_that_a_model_cannot_take(name, input_shape, words):
    with says(InputError, *words):
        models.create(name, 10, input_shape)


@pytest.mark.parametrize(
    ("name", "input_shape"), [("tinyten", (9, 9, 1)), ("vgg16", (32, 32, 1)), ("tinysix", (1, 1, 1))]
)
def test_the_smallest_images(name, input_shape, key):
    model = models.create(name, 3, input_shape, width=0.02)
    outputs = jax.eval_shape(lambda k: model.apply(model.init(k), np.zeros((2, *input_shape), np.float32)), key)
    assert outputs.shape == (2, 3)


def test_channels_are_dropped_whole_at_the_rate_of_their_layer_and_in_training_alone(key):
    # After a sigmoid nothing else is zero.
    layers = (convnets.Layer(40), convnets.Layer(30))
    module = convnets.ConvNet(layers, (20,), 3, "sigmoid", "kaiming", (0.0, 0.25, 0.5))
    x = np.random.default_rng(0).normal(size=(1, 6, 5, 2)).astype(np.float32)
    variables = jax.jit(lambda key: module.init(key, x, train=False))(key)

    def dropped(train, key):
        _, state = module.apply(
            variables,
            x,
            train=train,
            rngs={"dropout": key},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
        )
        return [state["intermediates"][f"Dropout_{i}"]["__call__"][0] == 0 for i in range(3)]

    keys = jax.random.split(key, 200)
    zeros, none = jax.jit(lambda keys: (jax.vmap(partial(dropped, True))(keys), dropped(False, keys[0])))(keys)
    for zero, rate in zip(map(np.asarray, zeros), (0, 0.25, 0.5), strict=True):
        pixels = zero.reshape(200, -1, zero.shape[-1])
        np.testing.assert_array_equal(pixels.any(1), pixels.all(1))
        np.testing.assert_allclose(zero.mean(), rate, atol=0.02)
    assert not any(np.asarray(zero).any() for zero in none)


def test_inputs_of_dense_layers_are_dropped_where_no_rates_are_given(key):
    module = convnets.ConvNet((convnets.Layer(4),), (20,), 3, "sigmoid", "kaiming")
    x = np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype(np.float32)

    @jax.jit
    def run(keys):
        variables = module.init(key, x, train=False)
        still = module.apply(variables, x, train=False)
        train = partial(module.apply, variables, x, train=True, mutable=["batch_stats"])
        return *(train(rngs={"dropout": k})[0] for k in keys), still

    one, same, other, still = map(np.asarray, run(jax.random.split(key)[np.array([0, 0, 1])]))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (one != still).any()


def test_channel_dropout_is_no_variable(key):
    plain, dropping = (
        models.create("vgg11", 3, (32, 32, 1), width=0.02, channel_dropout=rates) for rates in ((), (0.25, 0.5))
    )
    assert trees.shapes(jax.eval_shape(plain.init, key)) == trees.shapes(jax.eval_shape(dropping.init, key))


@pytest.mark.parametrize("rates", [0.5, (1.0,), (-0.1,), (0.5,) * 11])
def test_rates_that_cannot_be(rates):
    with says(InputError, "vgg11", f"channel_dropout={rates}"):
        models.create("vgg11", 3, (32, 32, 1), width=0.02, channel_dropout=rates)
