"""Residual networks: parameter counts, a forward pass in numpy, one array a block of a trunk."""

import jax
import numpy as np
import pytest
from variables import drawn

from mcjax import models, trees


def unit(theta, x, path, number, stride=1):
    params, stats = theta["params"], theta["batch_stats"]
    for part in path:
        params, stats = params[part], stats[part]
    kernel, norm, stats = (
        params[f"Conv_{number}"]["kernel"],
        params[f"BatchNorm_{number}"],
        stats[f"BatchNorm_{number}"],
    )
    pad = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))[:, ::stride, ::stride]
    x = np.einsum("nhwcij,ijcd->nhwd", windows, kernel)
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]


def forward(theta, x, blocks):
    x = np.maximum(unit(theta, x, (), 0), 0)
    hidden = {"trunk_0": [x]}
    for number in range(3 * blocks):
        stage, path = number // blocks, (f"Block_{number}",)
        first = stage > 0 and number % blocks == 0
        inner = np.maximum(unit(theta, x, path, 0, 2 if first else 1), 0)
        skip = unit(theta, x, path, 2, 2) if first else x
        x = np.maximum(skip + unit(theta, inner, path, 1), 0)
        hidden[f"block_{number}"] = [inner]
        hidden.setdefault(f"trunk_{stage}", []).append(x)
    last = theta["params"]["Dense_0"]
    return x.mean((1, 2)) @ last["kernel"] + last["bias"], hidden


def test_forward():
    model = models.create("resnet20", 3, (7, 8, 2), width=0.15)
    theta, x = drawn(model), np.random.default_rng(1).normal(size=(2, 7, 8, 2))
    expected, hidden = forward(theta, x, 3)
    with jax.enable_x64(True):
        outputs, activations = jax.jit(lambda: (model.apply(theta, x), model.activations(theta, x)))()
        np.testing.assert_allclose(outputs, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
        assert activations.keys() == hidden.keys()
        for group, arrays in hidden.items():
            assert len(activations[group]) == len(arrays)
            for ours, theirs in zip(activations[group], arrays, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8 * theirs.max())


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet32", 5)])
def test_a_trunk_gives_one_array_a_block(name, blocks):
    model = models.create(name, 3, (8, 8, 3), width=0.1)
    shapes = jax.eval_shape(
        lambda k: model.activations(model.init(k), np.zeros((2, 8, 8, 3), np.float32)), jax.random.key(0)
    )
    counts = {group: len(arrays) for group, arrays in shapes.items()}
    trunks = {"trunk_0": blocks + 1, "trunk_1": blocks, "trunk_2": blocks}
    assert counts == trunks | {f"block_{i}": 1 for i in range(3 * blocks)}


def test_parameter_count(key):
    assert trees.parameter_count(jax.eval_shape(models.create("resnet32").init, key)) == 466_906
