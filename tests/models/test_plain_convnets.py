"""The tutorials' networks: published sizes, and the forward pass by scipy and loops."""

import jax
import numpy as np
import pytest
from scipy.signal import correlate2d

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


@pytest.mark.parametrize(("name", "window"), [("mnist_convnet", 2), ("cifar_convnet", 3)])
def test_forward(name, window):
    model = models.create(name, 3, (9, 10, 2), width=0.05)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    theta = jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) / 3).astype(np.float32), shapes)
    image = rng.normal(size=(9, 10, 2)).astype(np.float32)
    params, x = theta["params"], image
    for i in range(2):
        kernel, bias = params[f"Conv_{i}"]["kernel"], params[f"Conv_{i}"]["bias"]
        maps = [
            sum(correlate2d(x[..., c], kernel[..., c, k], "same") for c in range(x.shape[-1])) + bias[k]
            for k in range(len(bias))
        ]
        x = pooled(np.maximum(np.stack(maps, -1), 0), window)
    x = x.ravel()
    last = len(params) - 3
    for i in range(last):
        x = np.maximum(x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"], 0)
    expected = x @ params[f"Dense_{last}"]["kernel"] + params[f"Dense_{last}"]["bias"]
    np.testing.assert_allclose(model.apply(theta, image[None])[0], expected, rtol=1e-3, atol=1e-3)


def test_forward_of_filters_alone():
    model = models.create("filters_convnet", 3, (7, 6, 2), width=0.07)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    theta = jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) / 3).astype(np.float32), shapes)
    image = rng.normal(size=(7, 6, 2)).astype(np.float32)
    x = image
    for i in range(3):
        kernel = theta["params"][f"Conv_{i}"]["kernel"]
        maps = [
            sum(correlate2d(x[..., c], kernel[..., c, k], "same") for c in range(x.shape[-1]))
            for k in range(kernel.shape[-1])
        ]
        x = np.maximum(np.stack(maps, -1), 0)
    expected = x.ravel() @ theta["params"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(model.apply(theta, image[None])[0], expected, rtol=1e-3, atol=1e-3)


def test_dropout_is_for_training_alone(key):
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    for dropout, differs in ((0.5, True), (0.0, False)):
        model = models.create("mnist_convnet", 3, (8, 8, 1), width=0.05, dropout=dropout)
        theta = model.init(key)
        outputs, _ = model.apply_train(theta, x, key)
        assert (np.abs(outputs - model.apply(theta, x)).max() > 1e-3) == differs


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((64,), {}, "mnist_convnet takes images: got input_shape="),
        ((8, 8, 1), {"dropout": 1.0}, r"got dropout=1.0, expected it in \[0, 1\)"),
    ],
)
def test_what_cannot_be(shape, options, message):
    with pytest.raises(InputError, match=message):
        models.create("mnist_convnet", 3, shape, **options)
