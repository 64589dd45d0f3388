"""TinySix, TinyTen and the VGGs: parameter counts, a forward pass in numpy, images they cannot take."""

import flax.linen as nn
import jax
import numpy as np
import pytest
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
    x = x.reshape(len(x), -1) if len(dense) > 1 else x.mean((1, 2))
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
    [("tinysix", 10, 28_746), ("tinysix", 100, 34_596), ("tinyten", 10, 86_778), ("vgg16", 10, 15_253_578)],
)
def test_parameter_counts(name, num_classes, count, key):
    assert trees.parameter_count(jax.eval_shape(models.create(name, num_classes).init, key)) == count


@pytest.mark.parametrize(
    ("name", "input_shape", "message"),
    [
        (
            "tinyten",
            (8, 8, 3),
            r"tinyten cannot take images of shape \(8, 8, 3\): nothing is left of them after layer 6",
        ),
        ("tinyten", (32, 8, 3), "after layer 6"),
        ("vgg16", (16, 16, 3), r"vgg16 cannot take images .* after layer 12"),
        ("vgg11", (31, 32, 3), "after layer 7"),
        (
            "tinysix",
            (28, 28),
            r"tinysix takes images: got input_shape=\(28, 28\), expected \(height, width, channels\)",
        ),
    ],
)
def test_images_that_a_model_cannot_take(name, input_shape, message):
    with pytest.raises(InputError, match=message):
        models.create(name, 10, input_shape)


@pytest.mark.parametrize(
    ("name", "input_shape"), [("tinyten", (9, 9, 1)), ("vgg16", (32, 32, 1)), ("tinysix", (1, 1, 1))]
)
def test_the_smallest_images(name, input_shape, key):
    model = models.create(name, 3, input_shape, width=0.02)
    outputs = jax.eval_shape(lambda k: model.apply(model.init(k), np.zeros((2, *input_shape), np.float32)), key)
    assert outputs.shape == (2, 3)


def test_dropout_acts_in_training_alone():
    model = models.create("vgg11", 3, width=0.02)
    theta, x = jax.tree.map(np.float32, (drawn(model), np.random.default_rng(0).normal(size=(4, 32, 32, 3))))
    run = jax.jit(lambda key: (model.apply_train(theta, x, key)[0], model.apply(theta, x)))
    (one, still), (two, same) = run(jax.random.key(0)), run(jax.random.key(1))
    assert (np.asarray(one) != np.asarray(two)).any()
    np.testing.assert_array_equal(still, same)
    np.testing.assert_array_equal(run(jax.random.key(0))[0], one)


def test_channels_are_dropped_whole_at_the_rate_of_their_layer(key):
    # After a sigmoid nothing else is zero.
    layers = (convnets.Layer(40), convnets.Layer(30))
    module = convnets.ConvNet(layers, (20,), 3, "sigmoid", "kaiming", (0.0, 0.25, 0.5))
    x = np.random.default_rng(0).normal(size=(1, 6, 5, 2)).astype(np.float32)
    variables = module.init(key, x, train=False)

    def dropped(key):
        _, state = module.apply(
            variables,
            x,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
        )
        return [state["intermediates"][f"Dropout_{i}"]["__call__"][0] == 0 for i in range(3)]

    zeros = [np.asarray(each) for each in jax.vmap(dropped)(jax.random.split(key, 200))]
    for zero, rate in zip(zeros, (0, 0.25, 0.5), strict=True):
        pixels = zero.reshape(200, -1, zero.shape[-1])
        np.testing.assert_array_equal(pixels.any(1), pixels.all(1))
        np.testing.assert_allclose(zero.mean(), rate, atol=0.02)


def test_channel_dropout_is_no_variable(key):
    plain, dropping = (
        models.create("vgg11", 3, (32, 32, 1), width=0.02, channel_dropout=rates) for rates in ((), (0.25, 0.5))
    )
    assert trees.shapes(jax.eval_shape(plain.init, key)) == trees.shapes(jax.eval_shape(dropping.init, key))


@pytest.mark.parametrize("rates", [0.5, (1.0,), (-0.1,), (0.5,) * 11])
def test_rates_that_cannot_be(rates):
    with pytest.raises(InputError, match="vgg11: got channel_dropout="):
        models.create("vgg11", 3, (32, 32, 1), width=0.02, channel_dropout=rates)
