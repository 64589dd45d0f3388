"""The LSTM against a loop in numpy over words, gates and units."""

import jax
import numpy as np
import pytest
from scipy.special import expit

from mcjax import InputError, models, trees


def drawn(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), jax.eval_shape(model.init, jax.random.key(0))
    )


def layer(x, kernel, recurrent, bias):
    """One sequence (length, inputs) through one layer, word by word."""
    n, outputs = recurrent.shape[0], []
    h, c = np.zeros(n), np.zeros(n)
    for word in x:
        gates = word @ kernel + h @ recurrent + bias
        i, f, g, o = (gates[k * n : (k + 1) * n] for k in range(4))
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


@pytest.mark.parametrize("layers", [1, 2])
def test_forward(layers, key):
    model = models.create("lstm", 7, (5,), width=0.02, layers=layers)
    theta, x = drawn(model), np.random.default_rng(1).integers(0, 7, (3, 5)).astype(np.int32)
    logits, activations = model.apply(theta, x), model.activations(theta, x)
    outputs, stats = model.apply_train(theta, x, key)
    params = theta["params"]
    for n in range(3):
        units = params["embedding"][x[n]]
        np.testing.assert_allclose(activations["embedding"][0][n], units, rtol=1e-6)
        for i in range(layers):
            units = layer(units, *(params[f"LSTM_{i}"][name] for name in ("kernel", "recurrent", "bias")))
            np.testing.assert_allclose(activations[f"lstm_{i}"][0][n], units, rtol=1e-4, atol=1e-5)
        expected = units @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
        np.testing.assert_allclose(logits[n], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(outputs, logits)
    assert stats == {}


def test_what_comes_later_changes_nothing_before(key):
    model = models.create("lstm", 7, (6,), width=0.02)
    theta, x = drawn(model), np.random.default_rng(1).integers(0, 7, (1, 6)).astype(np.int32)
    other = x.copy()
    other[0, 3] = (x[0, 3] + 1) % 7
    a, b = model.apply(theta, x), model.apply(theta, other)
    np.testing.assert_array_equal(a[0, :3], b[0, :3])
    assert np.abs(a[0, 3:] - b[0, 3:]).max() > 0.01


def test_the_published_size_and_start(key):
    theta = jax.eval_shape(models.create("lstm", 10_000, (20,)).init, key)
    assert trees.parameter_count(theta) == 4_651_600
    small = trees.flatten(models.create("lstm", 50, (4,)).init(key))
    for name, leaf in small.items():
        if name.endswith("bias"):
            assert float(np.abs(leaf).max()) == 0
        else:
            assert 0.09 < float(np.abs(leaf).max()) <= 0.1


def test_units_are_permuted_gate_by_gate(key):
    model = models.create("lstm", 7, (5,), width=0.02)
    assert model.spec.group_sizes(model.init(key)) == {"embedding": 4, "lstm_0": 4, "lstm_1": 4}
    axes = dict(model.spec.producers("lstm_0"))
    assert axes.keys() == {"params/LSTM_0/kernel", "params/LSTM_0/recurrent", "params/LSTM_0/bias"}
    assert dict(model.spec.consumers("lstm_0")).keys() == {"params/LSTM_0/recurrent", "params/LSTM_1/kernel"}


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 4, 1), {}, r"lstm reads sequences of tokens: got input_shape=\(4, 4, 1\), expected \(length,\)"),
        ((4,), {"layers": 0}, "got layers=0, expected at least 1"),
        ((4,), {"activation": "relu"}, "unknown option of lstm: got 'activation'"),
    ],
)
def test_what_cannot_be(shape, options, message):
    with pytest.raises(InputError, match=message):
        models.create("lstm", 7, shape, **options)
