"""The MLP against a numpy one."""

import jax
import numpy as np
import pytest
from scipy.special import expit

from mcjax import InputError, models, trees

SIGMOIDS = {"relu": lambda x: np.maximum(x, 0), "sigmoid": expit}


def drawn(model, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), jax.eval_shape(model.init, jax.random.key(0))
    )


@pytest.mark.parametrize("activation", SIGMOIDS)
@pytest.mark.parametrize("input_shape", [(4, 3, 2), (5,)])
def test_forward(activation, input_shape, key):
    model = models.create("mlp", 3, input_shape, widths=(6, 5), activation=activation)
    theta, x = drawn(model), np.random.default_rng(1).normal(size=(7, *input_shape)).astype(np.float32)
    units, hidden = x.reshape(7, -1), {}
    for i in range(2):
        layer = theta["params"][f"Dense_{i}"]
        units = SIGMOIDS[activation](units @ layer["kernel"] + layer["bias"])
        hidden[f"dense_{i}"] = units
    last = theta["params"]["Dense_2"]
    expected = units @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(model.apply(theta, x), expected, rtol=1e-4, atol=1e-4)
    outputs, stats = model.apply_train(theta, x, key)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    assert stats == {}
    activations = model.activations(theta, x)
    assert activations.keys() == hidden.keys() == set(model.spec.groups)
    for group, units in hidden.items():
        assert len(activations[group]) == 1
        np.testing.assert_allclose(activations[group][0], units, rtol=1e-4, atol=1e-4)


def test_sizes(key):
    model = models.create("mlp", 3, (8, 8, 1), widths=(6, 10), width=0.5)
    theta = jax.eval_shape(model.init, key)
    assert model.spec.group_sizes(theta) == {"dense_0": 3, "dense_1": 5}
    assert trees.parameter_count(theta) == (64 * 3 + 3) + (3 * 5 + 5) + (5 * 3 + 3)


@pytest.mark.parametrize("widths", [(), (6, 0), (-1,)])
def test_widths_that_cannot_be(widths):
    with pytest.raises(InputError, match=r"expected at least one hidden layer of at least one unit"):
        models.create("mlp", widths=widths)


def test_a_regression_without_biases(key):
    model = models.create("mlp", 2, (3,), widths=(4,), activation="sigmoid", output="sigmoid", bias=False)
    theta, x = drawn(model), np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    assert list(trees.shapes(theta).values()) == [(3, 4), (4, 2)]
    first, second = (theta["params"][f"Dense_{i}"]["kernel"] for i in range(2))
    np.testing.assert_allclose(model.apply(theta, x), expit(expit(x @ first) @ second), rtol=1e-5)
    assert len(model.spec.producers("dense_0")) == 1
    # 1-4-4-1: 24 weights.
    small = models.create("mlp", 1, (1,), widths=(4, 4), bias=False)
    assert trees.parameter_count(jax.eval_shape(small.init, key)) == 24
    with pytest.raises(InputError, match="unknown activation: got 'sigmid'"):
        models.create("mlp", 1, (1,), output="sigmid")
