"""Loss, error and perplexity on every split against numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import Criterion, InputError, data, evaluate, models, trees
from mcjax.data import normalize
from mcjax.training.criterion import measure_networks

SPLITS = ("train", "validation", "test")


def expected(model, theta, dataset, of, on, images=None):
    x, labels = (getattr(dataset, f"{on}_{what}")[:images] for what in ("images", "labels"))
    logits = np.asarray(model.apply(theta, normalize(x, dataset.mean, dataset.std)), np.float64)
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    values = {"loss": losses.mean(), "perplexity": np.exp(losses.mean()), "error": (logits.argmax(-1) != labels).mean()}
    return values[of]


@pytest.mark.parametrize("on", SPLITS)
@pytest.mark.parametrize("of", ["loss", "error", "perplexity"])
def test_every_measure_on_every_split(of, on, tiny_data, tiny_model, key):
    dataset, theta = tiny_data.hold_out(30), tiny_model.init(key)
    for images in (None, 11):
        criterion = Criterion(of, on, images, batch_size=7)
        criterion.check(dataset)
        want = expected(tiny_model, theta, dataset, of, on, images)
        np.testing.assert_allclose(criterion(tiny_model, theta, dataset), want, rtol=1e-5)


def test_a_regression():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 2)), rng.normal(size=(23, 3))
    dataset = data.regression(x, y, x[:5], y[:5])
    model = models.create("mlp", 3, (2,), widths=(4,), output="sigmoid")
    theta = model.init(jax.random.key(0))
    difference = np.asarray(model.apply(theta, np.float32(x))) - y
    for of, want in (("loss", np.square(difference).mean()), ("error", np.abs(difference).mean())):
        np.testing.assert_allclose(Criterion(of, batch_size=10)(model, theta, dataset), want, rtol=1e-5)
    train, test = evaluate(model, theta, dataset)
    np.testing.assert_allclose(train.loss, np.square(difference).mean(), rtol=1e-5)
    np.testing.assert_allclose(test.accuracy, 1 - np.abs(difference[:5]).mean(), rtol=1e-5)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(nn.relu(nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1))))


def test_batch_statistics_are_those_of_the_training_images(tiny_data, key):
    model = models.from_flax(Normed(), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32))
    theta = model.init(key)
    x = np.asarray(normalize(tiny_data.train_images, tiny_data.mean, tiny_data.std)).reshape(120, -1)
    stats = {"BatchNorm_0": {"mean": jnp.asarray(x.mean(0)), "var": jnp.asarray(x.var(0))}}
    want = expected(model, trees.with_batch_stats(theta, stats), tiny_data, "loss", "test")
    np.testing.assert_allclose(Criterion("loss", "test")(model, theta, tiny_data), want, rtol=1e-4)
    few = Criterion("loss", "test", calibration_images=10)(model, theta, tiny_data)
    assert abs(float(few) - want) > 1e-3


def test_many_networks_in_one_call(tiny_data, tiny_model, key):
    thetas = jax.vmap(tiny_model.init)(jax.random.split(key, 3))
    got = measure_networks(Criterion(), tiny_model, thetas, tiny_data)
    for i in range(3):
        want = expected(tiny_model, trees.index(thetas, i), tiny_data, "loss", "train")
        np.testing.assert_allclose(got[i], want, rtol=1e-5)


def test_what_the_data_do_not_have(tiny_data):
    with pytest.raises(InputError, match=r"bars has no validation split: data.hold_out\(n\)"):
        Criterion(on="validation").check(tiny_data)
    with pytest.raises(InputError, match="got images=51, expected at most the 50 of bars"):
        Criterion(on="test", images=51).check(tiny_data)
    with pytest.raises(InputError, match="got calibration_images=121, expected at most the 120"):
        Criterion(calibration_images=121).check(tiny_data)
    with pytest.raises(InputError, match="unknown criterion"):
        Criterion("acuracy")
