"""Ensembles: accuracy, loss and calibration error against numpy in float64."""

import jax
import numpy as np
import pytest

from mcjax import InputError, SpecError, evaluate, models, trees
from mcjax.data import normalize
from mcjax.landscape.ensembles import _evaluate, ensemble_accuracy


def networks(model, key, n=3):
    thetas = jax.vmap(model.init)(jax.random.split(key, n))
    return {**thetas, "params": jax.tree.map(lambda leaf: 3 * leaf, thetas["params"])}  # some sure, some not


def by_hand(model, thetas, images, labels, data):
    x = normalize(images, data.mean, data.std)
    n = len(jax.tree.leaves(thetas)[0])
    logits = np.stack([np.float64(model.apply(trees.index(thetas, i), x)) for i in range(n)])
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    p = (powers / powers.sum(-1, keepdims=True)).mean(0)
    confidence, right = p.max(-1), p.argmax(-1) == labels
    error = 0.0
    for low in range(15):
        inside = (confidence > low / 15 + 1e-5) & (confidence <= (low + 1) / 15 + 1e-5)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return right.mean(), -np.log(p[np.arange(len(labels)), labels]).mean(), error


@pytest.mark.parametrize("batch_size", [7, 50, 1000])
@pytest.mark.parametrize("split", ["train", "test"])
def test_against_numpy(tiny_model, tiny_data, key, batch_size, split):
    thetas = networks(tiny_model, key)
    images, labels = (getattr(tiny_data, f"{split}_{what}") for what in ("images", "labels"))
    expected = by_hand(tiny_model, thetas, images, labels, tiny_data)
    got = ensemble_accuracy(tiny_model, thetas, tiny_data, batch_size, split=split)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert got.calibration_error > 0.02


@pytest.mark.slow
def test_convolutions_and_batch_statistics(tiny_colour_data, key):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    thetas = jax.vmap(model.init)(jax.random.split(key))
    expected = by_hand(model, thetas, tiny_colour_data.test_images, tiny_colour_data.test_labels, tiny_colour_data)
    np.testing.assert_allclose(ensemble_accuracy(model, thetas, tiny_colour_data), expected, rtol=1e-4)


def test_one_network_is_itself_and_extremes_stay_finite(tiny_model, tiny_data, key):
    thetas = networks(tiny_model, key, 1)
    got = ensemble_accuracy(tiny_model, thetas, tiny_data)
    _, test = evaluate(tiny_model, thetas, tiny_data)
    np.testing.assert_allclose((got.loss, got.accuracy), (test.loss[0], test.accuracy[0]), rtol=1e-5)
    large = ensemble_accuracy(tiny_model, jax.tree.map(lambda leaf: 1e3 * leaf, thetas), tiny_data)
    assert np.isfinite(large.loss)
    np.testing.assert_allclose(large.calibration_error, 1 - large.accuracy, atol=1e-4)  # sure of everything


def test_the_order_of_networks_does_not_matter_and_one_program_serves(tiny_model, tiny_data, key):
    thetas = networks(tiny_model, key, 4)
    _evaluate.jitted.clear_cache()
    first, other = (
        ensemble_accuracy(tiny_model, trees.index(thetas, np.array(i)), tiny_data) for i in ([0, 1, 2, 3], [3, 1, 0, 2])
    )
    np.testing.assert_allclose(first, other, rtol=1e-5)
    assert _evaluate.jitted._cache_size() == 1


def test_wrong_input_is_named(tiny_model, tiny_data, tiny_colour_data, key):
    thetas = networks(tiny_model, key)
    with pytest.raises(InputError, match="got one network, expected several"):
        ensemble_accuracy(tiny_model, trees.index(thetas, 0), tiny_data)
    with pytest.raises(InputError, match="split='all'"):
        ensemble_accuracy(tiny_model, thetas, tiny_data, split="all")
    with pytest.raises(InputError, match="batch_size=0"):
        ensemble_accuracy(tiny_model, thetas, tiny_data, 0)
    with pytest.raises(InputError, match="takes images of shape"):
        ensemble_accuracy(tiny_model, thetas, tiny_colour_data)
    with pytest.raises(SpecError, match="not those of"):
        ensemble_accuracy(models.create("mlp", 3, (8, 8, 1), widths=(7,)), thetas, tiny_data)
