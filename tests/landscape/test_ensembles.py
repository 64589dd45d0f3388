"""Ensembles: accuracy, loss and calibration error against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variables import measured, mlp, normalized
from variables import networks as networks_of

from mcjax import InputError, SpecError, Task, data, models, supervised, trees
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
def test_against_numpy(tiny_task, tiny_data, split, batch_size):
    thetas = networks(tiny_task.model)
    images, labels = (np.asarray(getattr(tiny_data, f"{split}_{what}")) for what in ("images", "labels"))
    outputs = np.stack([mlp(trees.index(thetas, i), normalized(images, tiny_data))[-1] for i in range(3)])
    got = ensemble_accuracy(tiny_task, thetas, batch_size, split=split)
    np.testing.assert_allclose(got, by_hand(outputs, labels), rtol=1e-4)
    assert got.calibration_error > 0.02


@pytest.mark.slow
def test_convolutions_and_batch_statistics(tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    thetas, apply = networks(model, 2), jax.jit(model.apply)
    x = normalized(tiny_colour_data.test_images, tiny_colour_data)
    outputs = np.stack([np.float64(apply(trees.index(thetas, i), x)) for i in range(2)])
    expected = by_hand(outputs, np.asarray(tiny_colour_data.test_labels))
    found = ensemble_accuracy(supervised(model, tiny_colour_data), thetas)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_one_network_is_itself_and_extremes_stay_finite(tiny_task, tiny_data):
    thetas = networks(tiny_task.model, 1)
    got, (*_, loss, accuracy) = ensemble_accuracy(tiny_task, thetas), measured(trees.index(thetas, 0), tiny_data)
    np.testing.assert_allclose((got.loss, got.accuracy), (loss, accuracy), rtol=1e-4)
    large = ensemble_accuracy(tiny_task, jax.tree.map(lambda leaf: 1e3 * leaf, thetas))
    assert np.isfinite(large.loss)
    np.testing.assert_allclose(large.calibration_error, 1 - large.accuracy, atol=1e-4)  # sure of everything


def test_a_network_of_nan_makes_the_ensemble_nan(tiny_task):
    thetas = networks(tiny_task.model, 2)
    broken = jax.tree.map(lambda leaf: jnp.asarray(leaf).at[1].set(jnp.nan), thetas)
    np.testing.assert_array_equal(ensemble_accuracy(tiny_task, broken), (np.nan,) * 3)


def test_the_order_of_networks_does_not_matter_and_one_program_serves(tiny_task, compiled):
    thetas = networks(tiny_task.model)
    first = ensemble_accuracy(tiny_task, thetas)
    compiled.clear()
    other = ensemble_accuracy(tiny_task, trees.index(thetas, np.array([2, 0, 1])))
    assert not compiled
    np.testing.assert_allclose(first, other, rtol=1e-5)


def test_next_tokens_are_classes_by_position():
    """Every position of a text counts, against numpy."""

    def init(key):
        return {"table": jax.random.normal(key, (5, 5))}

    model = models.from_function(init, lambda theta, x: theta["table"][x], np.zeros((2, 7), np.int32))
    tokens = np.random.default_rng(0).integers(0, 5, (40, 8)).astype(np.int32)
    train, test = tokens[:30], tokens[30:]
    text = data.Dataset(train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:], 5, np.zeros(1), np.ones(1))
    thetas = networks_of(model, 3)
    outputs = np.float64(thetas["table"])[:, test[:, :-1].ravel()]
    got = ensemble_accuracy(supervised(model, text), thetas, 4)
    np.testing.assert_allclose(got, by_hand(outputs, test[:, 1:].ravel()), rtol=1e-4)


def test_wrong_input_is_named(tiny_model, tiny_task, tiny_data):
    thetas = networks(tiny_model)
    for wrong, named in (({"split": "all"}, "'all'"), ({"batch_size": 0}, "batch_size=0")):
        with pytest.raises(InputError, match=named):
            ensemble_accuracy(tiny_task, thetas, **wrong)
    narrow = supervised(models.create("mlp", 3, (8, 8, 1), widths=(7,)), tiny_data)
    numbers = supervised(tiny_model, tiny_data, loss=lambda outputs, labels: jnp.abs(outputs[:, 0] - labels))
    squares = np.float32(np.random.default_rng(0).normal(size=(20, 8, 8, 1)))
    regression = supervised(tiny_model, data.regression(squares, squares[:, :3, 0, 0], squares, squares[:, :3, 0, 0]))
    own = Task(tiny_task.loss.__call__, tiny_task.train, tiny_task.test, model=tiny_model)
    for kind, arguments, named in (
        (InputError, (tiny_task, trees.index(thetas, 0)), "one network"),
        (InputError, (regression, thetas), "classes"),
        (InputError, (own, thetas), "its own loss"),
        (InputError, (tiny_task.replace(test=None), thetas), "no test split"),
        (SpecError, (narrow, thetas), "mlp"),
    ):
        with pytest.raises(kind, match=named):
            ensemble_accuracy(*arguments)
    assert 0 <= ensemble_accuracy(numbers, thetas).accuracy <= 1  # logits of classes, by another loss
