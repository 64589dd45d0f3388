"""The LSTM against a loop in numpy over words, gates and units."""

import jax
import numpy as np
import pytest
from refusals import says
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
def test_forward_pass_and_no_output_depends_on_later_words(layers, key):
    model = models.create("lstm", 7, (5,), width=0.02, layers=layers)
    theta, x = drawn(model), np.random.default_rng(1).integers(0, 7, (3, 5)).astype(np.int32)
    x[2], x[2, 3] = x[1], (x[1, 3] + 1) % 7
    logits, activations, (outputs, stats) = jax.jit(
        lambda theta, x: (model.apply(theta, x), model.activations(theta, x), model.apply_train(theta, x, key))
    )(theta, x)
    params = theta["params"]
    for n in range(3):
        units = params["embedding"][x[n]]
        np.testing.assert_allclose(activations["embedding"][0][n], units, rtol=1e-6)
        for i in range(layers):
            units = layer(units, *(params[f"LSTM_{i}"][name] for name in ("kernel", "recurrent", "bias")))
            np.testing.assert_allclose(activations[f"lstm_{i}"][0][n], units, rtol=1e-4, atol=1e-5)
        expected = units @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
        np.testing.assert_allclose(logits[n], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(logits[1, :3], logits[2, :3])
    assert np.abs(logits[1, 3:] - logits[2, 3:]).max() > 0.01
    np.testing.assert_array_equal(outputs, logits)
    assert stats == {}


def test_the_published_size_and_start(key):
    theta = jax.eval_shape(models.create("lstm", 10_000, (20,)).init, key)
    assert trees.parameter_count(theta) == 4_651_600
    small = trees.flatten(jax.jit(models.create("lstm", 50, (4,), width=0.1).init)(key))
    for name, leaf in small.items():
        if name.endswith("bias"):
            assert float(np.abs(leaf).max()) == 0
        else:
            assert 0.09 < float(np.abs(leaf).max()) <= 0.1


def test_units_are_permuted_gate_by_gate():
    model = models.create("lstm", 7, (5,), width=0.02)
    assert model.spec.group_sizes(drawn(model)) == {"embedding": 4, "lstm_0": 4, "lstm_1": 4}
    axes = dict(model.spec.producers("lstm_0"))
    assert axes.keys() == {"params/LSTM_0/kernel", "params/LSTM_0/recurrent", "params/LSTM_0/bias"}
    assert dict(model.spec.consumers("lstm_0")).keys() == {"params/LSTM_0/recurrent", "params/LSTM_1/kernel"}


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((4, 4, 1), {}, ("lstm", "input_shape=(4, 4, 1)", "(length,)")),
        ((4,), {"layers": 0}, ("layers=0",)),
        ((4,), {"activation": "relu"}, ("lstm", "'activation'")),
    ],
)
def test_bad_arguments_are_refused(shape, options, words):
    with says(InputError, *words):
        models.create("lstm", 7, shape, **options)
