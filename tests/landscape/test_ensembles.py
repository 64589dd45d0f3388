"""Ensembles: accuracy, loss and calibration error against numpy in float64."""

import jax
import numpy as np
import pytest
from variables import measured, mlp, normalized
from variables import networks as networks_of

from mcjax import InputError, SpecError, models, trees
from mcjax.landscape.ensembles import ensemble_accuracy


def networks(model, count=3):
    thetas = networks_of(model, count)
    return {**thetas, "params": jax.tree.map(lambda leaf: 1.5 * leaf, thetas["params"])}  # some sure, some not


def by_hand(outputs, labels):
    """Metrics of the outputs of several networks, (networks, images, classes) in float64."""
    powers = np.exp(outputs - outputs.max(-1, keepdims=True))
    p = (powers / powers.sum(-1, keepdims=True)).mean(0)
    confidence, right = p.max(-1), p.argmax(-1) == labels
    error = 0.0
    for low in range(15):
        inside = (confidence > low / 15 + 1e-5) & (confidence <= (low + 1) / 15 + 1e-5)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return right.mean(), -np.log(p[np.arange(len(labels)), labels]).mean(), error


@pytest.mark.parametrize(("split", "batch_size"), [("train", 7), ("test", 50), ("test", 1000)])
def test_against_numpy(tiny_model, tiny_data, split, batch_size):
    thetas = networks(tiny_model)
    images, labels = (np.asarray(getattr(tiny_data, f"{split}_{what}")) for what in ("images", "labels"))
    outputs = np.stack([mlp(trees.index(thetas, i), normalized(images, tiny_data))[-1] for i in range(3)])
    got = ensemble_accuracy(tiny_model, thetas, tiny_data, batch_size, split=split)
    np.testing.assert_allclose(got, by_hand(outputs, labels), rtol=1e-4)
    assert got.calibration_error > 0.02


@pytest.mark.slow
def test_convolutions_and_batch_statistics(tiny_colour_data):
    model, data = models.create("tinysix", 3, (8, 8, 3), width=0.25), tiny_colour_data
    thetas, apply = networks(model, 2), jax.jit(model.apply)
    x = normalized(data.test_images, data)
    outputs = np.stack([np.float64(apply(trees.index(thetas, i), x)) for i in range(2)])
    expected = by_hand(outputs, np.asarray(data.test_labels))
    np.testing.assert_allclose(ensemble_accuracy(model, thetas, data), expected, rtol=1e-4)


def test_one_network_is_itself_and_extremes_stay_finite(tiny_model, tiny_data):
    thetas = networks(tiny_model, 1)
    got, (*_, loss, accuracy) = (
        ensemble_accuracy(tiny_model, thetas, tiny_data),
        measured(trees.index(thetas, 0), tiny_data),
    )
    np.testing.assert_allclose((got.loss, got.accuracy), (loss, accuracy), rtol=1e-4)
    large = ensemble_accuracy(tiny_model, jax.tree.map(lambda leaf: 1e3 * leaf, thetas), tiny_data)
    assert np.isfinite(large.loss)
    np.testing.assert_allclose(large.calibration_error, 1 - large.accuracy, atol=1e-4)  # sure of everything


def test_the_order_of_networks_does_not_matter_and_one_program_serves(tiny_model, tiny_data, compiled):
    thetas = networks(tiny_model)
    first = ensemble_accuracy(tiny_model, thetas, tiny_data)
    compiled.clear()
    other = ensemble_accuracy(tiny_model, trees.index(thetas, np.array([2, 0, 1])), tiny_data)
    assert not compiled
    np.testing.assert_allclose(first, other, rtol=1e-5)


def test_wrong_input_is_named(tiny_model, tiny_data, tiny_colour_data):
    thetas = networks(tiny_model)
    for wrong, named in (({"split": "all"}, "split='all'"), ({"batch_size": 0}, "batch_size=0")):
        with pytest.raises(InputError, match=named):
            ensemble_accuracy(tiny_model, thetas, tiny_data, **wrong)
    narrow = models.create("mlp", 3, (8, 8, 1), widths=(7,))
    for kind, arguments, named in (
        (InputError, (tiny_model, trees.index(thetas, 0), tiny_data), "one network"),
        (InputError, (tiny_model, thetas, tiny_colour_data), r"\(8, 8, 1\)"),
        (SpecError, (narrow, thetas, tiny_data), "mlp"),
    ):
        with pytest.raises(kind, match=named):
            ensemble_accuracy(*arguments)
