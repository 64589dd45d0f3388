"""The tutorials' networks: published sizes, and the forward pass by scipy and loops."""

import jax
import numpy as np
import pytest
from refusals import says
from scipy.signal import correlate2d
from variables import alive, mlp

from mcjax import InputError, models, trees


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("mnist_convnet", (28, 28, 1), 3_274_634),
        ("cifar_convnet", (24, 24, 3), 1_068_298),
        ("filters_convnet", (28, 28, 1), 269_600),
    ],
)
def test_the_published_sizes(name, shape, parameters, key):
    assert trees.parameter_count(jax.eval_shape(models.create(name, 10, shape).init, key)) == parameters


def pooled(x, window):
    """Windows every two pixels; those that reach over the border are cut, more of it at the end."""
    height, width, channels = x.shape
    out = np.empty((-(-height // 2), -(-width // 2), channels))
    starts = [(max((-(-side // 2) - 1) * 2 + window - side, 0)) // 2 for side in (height, width)]
    for i, j in np.ndindex(out.shape[:2]):
        top, left = 2 * i - starts[0], 2 * j - starts[1]
        part = x[max(top, 0) : top + window, max(left, 0) : left + window]
        out[i, j] = part.max((0, 1))
    return out


def maps(x, layer):
    """One image through a convolution and a ReLU."""
    kernel, bias = layer["kernel"], layer.get("bias", np.zeros(layer["kernel"].shape[-1]))
    outputs = [
        sum(correlate2d(x[..., c], kernel[..., c, k], "same") for c in range(x.shape[-1])) + bias[k]
        for k in range(len(bias))
    ]
    return np.maximum(np.stack(outputs, -1), 0)


@pytest.mark.parametrize(
    ("name", "convolutions", "window"),
    [("mnist_convnet", 2, 2), ("cifar_convnet", 2, 3), ("filters_convnet", 3, None)],
)
def test_forward(name, convolutions, window):
    model = models.create(name, 3, (9, 10, 2), width=0.05)
    theta, image = alive(model), np.random.default_rng(0).normal(size=(9, 10, 2)).astype(np.float32)
    params, x = theta["params"], image
    for i in range(convolutions):
        x = maps(x, params[f"Conv_{i}"])
        x = x if window is None else pooled(x, window)
    dense = {"params": {name: layer for name, layer in params.items() if name.startswith("Dense")}}
    expected = mlp(dense, x[None])[-1]
    np.testing.assert_allclose(jax.jit(model.apply)(theta, image[None]), expected, rtol=1e-3, atol=1e-3)


def test_dropout_is_for_training_alone(key):
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    for dropout, differs in ((0.5, True), (0.0, False)):
        model = models.create("mnist_convnet", 3, (8, 8, 1), width=0.05, dropout=dropout)
        theta = alive(model)
        trained, outputs = jax.jit(lambda t, m=model: (m.apply_train(t, x, key)[0], m.apply(t, x)))(theta)
        assert (np.abs(trained - outputs).max() > 1e-3) == differs


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((64,), {}, ("mnist_convnet", "input_shape=(64,)")),
        ((8, 8, 1), {"dropout": 1.0}, ("dropout=1.0", "[0, 1)")),
    ],
)
def test_bad_arguments_are_refused(shape, options, words):
    with says(InputError, *words):
        models.create("mnist_convnet", 3, shape, **options)
