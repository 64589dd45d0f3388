"""The MLP against a numpy one."""

import jax
import numpy as np
import pytest
from refusals import says
from scipy.special import expit
from variables import alive, mlp

from mcjax import InputError, models, trees

SIGMOIDS = {"relu": lambda x: np.maximum(x, 0), "sigmoid": expit}


@pytest.mark.parametrize(("activation", "input_shape"), [("relu", (4, 3, 2)), ("sigmoid", (5,))])
def test_forward(activation, input_shape, key):
    model = models.create("mlp", 3, input_shape, widths=(6, 5), activation=activation)
    theta, x = alive(model), np.random.default_rng(1).normal(size=(7, *input_shape)).astype(np.float32)
    *hidden, expected = mlp(theta, x, SIGMOIDS[activation])
    outputs, activations, (trained, stats) = jax.jit(
        lambda: (model.apply(theta, x), model.activations(theta, x), model.apply_train(theta, x, key))
    )()
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(trained, expected, rtol=1e-4, atol=1e-4)
    assert stats == {}
    assert activations.keys() == set(model.spec.groups) == {"dense_0", "dense_1"}
    for group, units in zip(model.spec.groups, hidden, strict=True):
        assert len(activations[group]) == 1
        np.testing.assert_allclose(activations[group][0], units, rtol=1e-4, atol=1e-4)


def test_sizes(key):
    model = models.create("mlp", 3, (8, 8, 1), widths=(6, 10), width=0.5)
    theta = jax.eval_shape(model.init, key)
    assert model.spec.group_sizes(theta) == {"dense_0": 3, "dense_1": 5}
    assert trees.parameter_count(theta) == (64 * 3 + 3) + (3 * 5 + 5) + (5 * 3 + 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": ()}, ("widths=()",)),
        ({"widths": (6, 0)}, ("widths=(6, 0)",)),
        ({"widths": (-1,)}, ("widths=(-1,)",)),
        ({"output": "sigmid"}, ("'sigmid'", "sigmoid")),
    ],
)
def test_bad_arguments_are_refused(options, words):
    with says(InputError, *words):
        models.create("mlp", **options)


def test_a_regression_without_biases(key):
    model = models.create("mlp", 2, (3,), widths=(4,), activation="sigmoid", output="sigmoid", bias=False)
    theta, x = alive(model), np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    assert list(trees.shapes(theta).values()) == [(3, 4), (4, 2)]
    np.testing.assert_allclose(jax.jit(model.apply)(theta, x), expit(mlp(theta, x, expit)[-1]), rtol=1e-5)
    assert len(model.spec.producers("dense_0")) == 1
    # 1-4-4-1: 24 weights.
    small = models.create("mlp", 1, (1,), widths=(4, 4), bias=False)
    assert trees.parameter_count(jax.eval_shape(small.init, key)) == 24
