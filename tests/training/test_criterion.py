"""Loss, error and perplexity on every split against numpy."""

from itertools import product

import flax.linen as nn
import jax
import numpy as np
from refusals import says
from scipy.special import expit
from variables import alive, cross_entropy, mlp, normalized, stacked

from mcjax import InputError, data, evaluate, models, trees
from mcjax.training import Criterion, estimate_statistics
from mcjax.training.criterion import measure_networks


def values(logits, labels):
    """Loss, error and perplexity of logits."""
    loss = cross_entropy(logits, labels).mean()
    return {"loss": loss, "perplexity": np.exp(loss), "error": (logits.argmax(-1) != labels).mean()}


def test_every_measure_on_every_split(tiny_data, tiny_model):
    dataset, theta = tiny_data.hold_out(30), alive(tiny_model)
    cases = list(product(("loss", "error", "perplexity"), ("train", "validation", "test"), (None, 11)))
    criteria = [Criterion(*case, batch_size=7) for case in cases]
    measured = jax.jit(lambda theta, data: [each(tiny_model, theta, data) for each in criteria])(theta, dataset)
    for (of, on, images), criterion, got in zip(cases, criteria, measured, strict=True):
        criterion.check(dataset)
        x, labels = (getattr(dataset, f"{on}_{what}")[:images] for what in ("images", "labels"))
        want = values(mlp(theta, normalized(x, dataset))[-1], labels)[of]
        np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=f"{of} {on} {images}")


def test_a_regression():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 2)), rng.normal(size=(23, 3))
    dataset = data.regression(x, y, x[:5], y[:5])
    model = models.create("mlp", 3, (2,), widths=(4,), output="sigmoid")
    theta = alive(model)
    difference = expit(mlp(theta, np.float32(x))[-1]) - y
    for of, want in (("loss", np.square(difference).mean()), ("error", np.abs(difference).mean())):
        got = jax.jit(lambda theta, of=of: Criterion(of, batch_size=10)(model, theta, dataset))(theta)
        np.testing.assert_allclose(got, want, rtol=1e-5)
    train, test = evaluate(model, theta, dataset)
    np.testing.assert_allclose(train.loss, np.square(difference).mean(), rtol=1e-5)
    np.testing.assert_allclose(test.accuracy, 1 - np.abs(difference[:5]).mean(), rtol=1e-5)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(nn.relu(nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1))))


def test_batch_statistics_are_those_of_the_training_images(tiny_data):
    model = models.from_flax(Normed(), np.zeros((1, 8, 8, 1), np.float32))
    theta = alive(model)
    norm, dense = (jax.tree.map(np.float64, theta["params"][name]) for name in ("BatchNorm_0", "Dense_0"))
    train, test = (
        np.float64(normalized(images, tiny_data)).reshape(len(images), -1)
        for images in (tiny_data.train_images, tiny_data.test_images)
    )
    for images, calibration in ((None, None), (None, 10), (20, None)):
        known = train[:calibration]
        x = (test[:images] - known.mean(0)) / np.sqrt(known.var(0) + 1e-5) * norm["scale"] + norm["bias"]
        logits = np.maximum(x, 0) @ dense["kernel"] + dense["bias"]
        criterion = Criterion("loss", "test", images, calibration_images=calibration)
        got = jax.jit(lambda theta, c=criterion: c(model, theta, tiny_data))(theta)
        np.testing.assert_allclose(got, values(logits, tiny_data.test_labels[:images])["loss"], rtol=1e-4)


def test_batch_statistics_are_those_under_the_augmentation_of_training(tiny_colour_data):
    model = models.from_flax(Normed(), np.zeros((1, 8, 8, 3), np.float32))
    theta, x = alive(model), normalized(tiny_colour_data.test_images, tiny_colour_data)
    given = tiny_colour_data.train_images, tiny_colour_data.mean, tiny_colour_data.std
    losses = []
    for augmentation in (tiny_colour_data.default_augmentation(), None):
        known = jax.jit(lambda theta, how=augmentation: estimate_statistics(model, theta, *given, 500, how))(theta)
        losses.append(cross_entropy(jax.jit(model.apply)(known, x), tiny_colour_data.test_labels).mean())
    got = jax.jit(lambda theta: Criterion("loss", "test")(model, theta, tiny_colour_data))(theta)
    np.testing.assert_allclose(got, losses[0], rtol=1e-4)
    assert abs(got - losses[1]) > 1e-3


def test_many_networks_in_one_call(tiny_data, tiny_model):
    thetas = stacked([alive(tiny_model, seed) for seed in range(3)])
    got = measure_networks(Criterion(), tiny_model, thetas, tiny_data)
    for i in range(3):
        logits = mlp(trees.index(thetas, i), normalized(tiny_data.train_images, tiny_data))[-1]
        np.testing.assert_allclose(got[i], values(logits, tiny_data.train_labels)["loss"], rtol=1e-5)


def test_criteria_that_the_data_do_not_have_are_refused(tiny_data):
    for options, words in (
        ({"split": "validation"}, ("bars", "validation", "hold_out")),
        ({"split": "test", "images": 51}, ("images=51", "50", "bars")),
        ({"calibration_images": 121}, ("calibration_images=121", "120")),
        ({"metric": "acuracy"}, ("'acuracy'",)),
        ({"split": "tset"}, ("'tset'", "Did you mean 'test'")),
        ({"images": 0}, ("images=0",)),
        ({"batch_size": 2.5}, ("batch_size=2.5",)),
    ):
        with says(InputError, *words):
            Criterion(**options).check(tiny_data)
