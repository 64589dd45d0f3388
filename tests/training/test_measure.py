"""Metrics of networks on every split against numpy, one number for thresholds, and what is refused."""

import re
from itertools import product

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from scipy.special import expit
from streams import from_host, rows_of
from variables import alive, cross_entropy, mlp, normalized, spaced, stacked

from mcjax import InputError, SpecError, Task, data, evaluate, models, supervised, trees
from mcjax.errors import InputWarning
from mcjax.training import Criterion, estimate_statistics
from mcjax.training.criterion import mean_metric, measure_networks
from mcjax.training.measure import metrics_of


def values(logits, labels):
    """Loss, error, perplexity and accuracy of logits."""
    loss, accuracy = cross_entropy(logits, labels).mean(), (logits.argmax(-1) == labels).mean()
    return {"loss": loss, "perplexity": np.exp(loss), "error": 1 - accuracy, "accuracy": accuracy}


def test_every_measure_on_every_split(tiny_data, tiny_model):
    dataset, theta = tiny_data.hold_out(30), alive(tiny_model)
    task = supervised(tiny_model, dataset)
    names = ("loss", "error", "perplexity")
    cases = list(product(names, ("train", "validation", "test"), (None, 11)))
    criteria = [Criterion(*case, batch_size=7) for case in cases]
    measured = jax.jit(lambda theta, task: [each(task, theta) for each in criteria])(theta, task)
    for (metric, split, count), criterion, got in zip(cases, criteria, measured, strict=True):
        criterion.check(task)
        assert criterion.label == f"{split} {metric}"
        stored = (getattr(dataset, f"{split}_{what}") for what in ("images", "labels"))
        x, labels = (spaced(each, count or len(each)) for each in stored)
        want = values(mlp(theta, normalized(x, dataset))[-1], labels)[metric]
        np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=f"{metric} {split} {count}")


def largest(theta, batch):
    """A metric of one's own: the mean of the largest pixel."""
    return (theta["params"]["Dense_0"]["bias"][0] * batch[0].max((1, 2, 3))).mean()


def test_a_metric_of_ones_own(tiny_data, tiny_model, tiny_task):
    theta = alive(tiny_model)
    criterion = Criterion(largest, "test", 33, batch_size=10)
    criterion.check(tiny_task)
    assert criterion.label == "test largest"
    got = jax.jit(lambda theta, task: criterion(task, theta))(theta, tiny_task)
    pixels = np.float64(spaced(tiny_data.test_images, 33)).max((1, 2, 3))
    np.testing.assert_allclose(got, theta["params"]["Dense_0"]["bias"][0] * pixels.mean(), rtol=1e-5)


def test_a_metric_of_the_task_goes_before_one_of_the_same_name_that_is_derived(tiny_model, tiny_data):
    images = (tiny_data.train_images, tiny_data.train_labels)

    def loss(theta, batch, key):
        return jnp.square(tiny_model.apply(theta, batch[0] / 255.0)).mean()

    def metrics(theta, batch):
        return {"error": jnp.float32(0.25), "accuracy": jnp.float32(0.5)}

    task = Task(loss, images, images, model=tiny_model, metrics=metrics)
    assert mean_metric(task, alive(tiny_model), images, "error", 50) == 0.25
    bare = Task(loss, images, images, model=tiny_model)
    assert mean_metric(bare, alive(tiny_model), images, "perplexity", 50) > 1
    with says(InputError, "'error'", "loss, perplexity"):
        mean_metric(bare, alive(tiny_model), images, "error", 50)


def test_a_regression():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 2)), rng.normal(size=(23, 3))
    model = models.create("mlp", 3, (2,), widths=(4,), output="sigmoid")
    task, theta = supervised(model, data.regression(x, y, x[:5], y[:5])), alive(model)
    difference = expit(mlp(theta, np.float32(x))[-1]) - y
    for metric, want in (("loss", np.square(difference).mean()), ("error", np.abs(difference).mean())):
        got = jax.jit(lambda theta, metric=metric: Criterion(metric, batch_size=10)(task, theta))(theta)
        np.testing.assert_allclose(got, want, rtol=1e-5)
    train, test = evaluate(task, theta)
    assert train.keys() == test.keys() == {"loss", "error"}
    np.testing.assert_allclose(train["loss"], np.square(difference).mean(), rtol=1e-5)
    np.testing.assert_allclose(test["error"], np.abs(difference[:5]).mean(), rtol=1e-5)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(nn.relu(nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1))))


def test_batch_statistics_are_those_of_the_training_images(tiny_data):
    model = models.from_flax(Normed(), np.zeros((1, 8, 8, 1), np.float32))
    task, theta = supervised(model, tiny_data), alive(model)
    norm, dense = (jax.tree.map(np.float64, theta["params"][name]) for name in ("BatchNorm_0", "Dense_0"))
    train, test = (
        np.float64(normalized(images, tiny_data)).reshape(len(images), -1)
        for images in (tiny_data.train_images, tiny_data.test_images)
    )
    for count, calibration in ((None, None), (None, 10), (20, None)):
        known = spaced(train, calibration or len(train))
        images = spaced(test, count or len(test))
        x = (images - known.mean(0)) / np.sqrt(known.var(0) + 1e-5) * norm["scale"] + norm["bias"]
        logits = np.maximum(x, 0) @ dense["kernel"] + dense["bias"]
        criterion = Criterion("loss", "test", count, calibration_examples=calibration)
        got = jax.jit(lambda theta, c=criterion: c(task, theta))(theta)
        labels = spaced(tiny_data.test_labels, count or len(test))
        np.testing.assert_allclose(got, values(logits, labels)["loss"], rtol=1e-4)


def test_batch_statistics_are_those_under_the_augmentation_of_training(tiny_colour_data):
    model = models.from_flax(Normed(), np.zeros((1, 8, 8, 3), np.float32))
    theta, x = alive(model), normalized(tiny_colour_data.test_images, tiny_colour_data)
    task = supervised(model, tiny_colour_data)
    plain = supervised(model, tiny_colour_data, augmentation=tiny_colour_data.default_augmentation().none())
    losses = []
    for each in (task, plain):
        known = jax.jit(lambda theta, task: estimate_statistics(task, theta, None, 500))(theta, each)
        losses.append(cross_entropy(jax.jit(model.apply)(known, x), tiny_colour_data.test_labels).mean())
    got = jax.jit(lambda theta: Criterion("loss", "test")(task, theta))(theta)
    np.testing.assert_allclose(got, losses[0], rtol=1e-4)
    assert abs(got - losses[1]) > 1e-3


def test_many_networks_in_one_call(tiny_data, tiny_model, tiny_task):
    thetas = stacked([alive(tiny_model, seed) for seed in range(3)])
    got = measure_networks(Criterion(), tiny_task, thetas)
    for i in range(3):
        logits = mlp(trees.index(thetas, i), normalized(tiny_data.train_images, tiny_data))[-1]
        np.testing.assert_allclose(got[i], values(logits, tiny_data.train_labels)["loss"], rtol=1e-5)


def test_every_example_counts_once_whatever_the_batches(tiny_data, tiny_model, tiny_task):
    theta = alive(tiny_model)
    logits = mlp(theta, normalized(tiny_data.test_images, tiny_data))[-1]
    expected = values(logits, tiny_data.test_labels)
    run = jax.jit(metrics_of, static_argnums=3)
    for batch_size in (1, 7, 64):
        found = run(tiny_task, theta, tiny_task.test, batch_size)
        assert found.keys() == {"loss", "accuracy"}
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=f"{name} {batch_size}")


def test_evaluate_measures_both_splits_of_one_or_many_networks_and_refuses_others(tiny_data, tiny_model, tiny_task):
    thetas = [alive(tiny_model, seed) for seed in range(2)]
    together = evaluate(tiny_task, stacked(thetas))
    for i, theta in enumerate(thetas):
        for many, one, split in zip(together, evaluate(tiny_task, theta), ("train", "test"), strict=True):
            images, labels = (getattr(tiny_data, f"{split}_{what}") for what in ("images", "labels"))
            expected = values(mlp(theta, normalized(images, tiny_data))[-1], labels)
            assert one.keys() == many.keys() == {"loss", "accuracy"}
            for name in one:
                np.testing.assert_allclose((one[name], many[name][i]), expected[name], rtol=1e-5)
    with says(SpecError, "mlp", "{'params': ...}"):
        evaluate(tiny_task, thetas[0]["params"])
    with says(InputError, "Model", "mcjax.supervised(model, data)"):
        evaluate(tiny_model, thetas[0])


SCALES = {"[0, 1]": (0, 1), "[-1, 1]": (0.5, 0.5), "0 to 255": (0, 1 / 255), "deviation 1": (None, None)}


@pytest.mark.parametrize("units", SCALES)
@pytest.mark.parametrize("given", ["[0, 1]", "deviation 1"])
def test_networks_that_were_trained_on_pixels_in_other_units_are_said(units, given):
    """A network that tells grey images from bright and dark ones by their mean pixel, in units of its own."""
    pixels = np.random.default_rng(0).integers(0, 256, (80, 1, 1, 1)).astype(np.uint8)
    pixels = np.broadcast_to(pixels, (80, 4, 4, 1))
    labels = (np.abs(pixels[:, 0, 0, 0] - 127.5) < 64).astype(np.int32)

    def dataset(name):
        mean, std = SCALES[name]
        return data.from_arrays(pixels, labels, pixels[:9], labels[:9], mean=mean, std=std)

    own = dataset(units)
    grey, width = (0.5 - own.mean.item()) / own.std.item(), 64 / 255 / own.std.item()

    def apply(theta, x):
        away = jnp.abs(x.mean((1, 2, 3)) - theta["grey"]) - theta["width"]
        return jnp.stack([away, -away], 1)

    start = {"grey": jnp.float32(grey), "width": jnp.float32(width)}
    model = models.from_function(lambda key: start, apply, np.zeros((2, 4, 4, 1)))
    theta = model.init(jax.random.key(0))
    task, right = (supervised(model, dataset(name)) for name in (given, units))
    assert evaluate(right, theta)[0]["accuracy"] == 1
    if given == units:
        evaluate(task, theta)
        return
    with pytest.warns(InputWarning, match=re.escape(units)):
        found = evaluate(task, theta)[0]["accuracy"]
    assert found < 0.9
    np.testing.assert_array_equal(evaluate(task, theta)[0]["accuracy"], found)  # said once


def test_evaluate_takes_any_task():
    """No model, no init, no test examples: one network, whose loss is checked when it comes."""
    x = np.float32(np.random.default_rng(0).normal(size=(11, 2)))

    def loss(theta, batch, key):
        return jnp.abs(batch @ theta).mean(), {"sum": theta.sum()}

    theta = np.float32([0.5, -2])
    train, test = evaluate(Task(loss, x), theta, 4)
    assert test == {}
    np.testing.assert_allclose(train["loss"], np.abs(x @ theta).mean(), rtol=1e-6)
    np.testing.assert_allclose(train["sum"], -1.5, rtol=1e-6)
    with says(InputError, "float32 (11,)", "scalar"):
        evaluate(Task(lambda theta, batch, key: jnp.abs(batch @ theta), x), theta)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "validation"}, ("bars", "validation", "hold_out")),
        ({"split": "test", "examples": 51}, ("examples=51", "50", "bars")),
        ({"calibration_examples": 121}, ("calibration_examples=121", "120")),
        ({"metric": "eror"}, ("'eror'", "Did you mean 'error'")),
        ({"metric": "accuracy"}, ("'accuracy'", "higher", "'error'")),
        ({"metric": lambda theta, batch: batch[0]}, ("metric of shape (120, 8, 8, 1)", "scalar")),
        ({"metric": 3}, ("got 3 for metric", "metric(theta, batch)")),
        ({"split": "tset"}, ("'tset'", "Did you mean 'test'")),
        ({"examples": 0}, ("examples=0",)),
        ({"batch_size": 2.5}, ("batch_size=2.5",)),
    ],
)
def test_criteria_that_the_task_does_not_have_are_refused(options, words, tiny_task):
    with says(InputError, *words):
        Criterion(**options).check(tiny_task)


def test_metrics_on_streams_are_those_on_arrays_and_read_each_once(tiny_model, tiny_task):
    thetas = stacked([alive(tiny_model, seed) for seed in range(2)])
    streamed, sources = from_host(tiny_task, "train", "test")
    chex.assert_trees_all_equal(evaluate(streamed, thetas, 50), evaluate(tiny_task, thetas, 50))
    assert sources["train"].begun == sources["test"].begun == [0]
    # A split from the host goes with one of arrays, and without test examples.
    mixed, _ = from_host(tiny_task, "test")
    chex.assert_trees_all_equal(evaluate(mixed, thetas, 50), evaluate(tiny_task, thetas, 50))
    train, test = evaluate(streamed.with_examples(test=None), trees.index(thetas, 0), 50)
    assert test == {}
    assert train["loss"] == evaluate(tiny_task, thetas, 50)[0]["loss"][0]


@pytest.mark.parametrize("kind", ["tiny", "normed"])
def test_criteria_on_streams_read_training_examples_for_statistics_alone(kind, request, tiny_data):
    model, task = request.getfixturevalue(f"{kind}_model" if kind == "tiny" else kind), None
    task = supervised(model, tiny_data.hold_out(30))
    streamed, sources = from_host(task, "train", "validation", "test")
    thetas = stacked([alive(model, seed) for seed in range(2)])
    for split, n in (("test", None), ("validation", 20)):
        criterion = Criterion("error", split, n, batch_size=15, calibration_examples=60)
        criterion.check(streamed)
        got = measure_networks(criterion, streamed, thetas)
        some = {"train": rows_of(task.train, slice(60)), split: rows_of(task.split(split), slice(n))}
        np.testing.assert_array_equal(got, measure_networks(criterion, task.with_examples(**some), thetas))
        assert sources[split].begun == [0]
    assert sources["train"].begun == ([] if kind == "tiny" else [0, 0])


def test_what_cannot_be_of_streams_is_named(tiny_model, tiny_task):
    streamed, sources = from_host(tiny_task, "train", "test")
    theta = alive(tiny_model)
    with says(InputError, "batches from the host", "for train of", "task.load(train=10_000)"):
        Criterion()(streamed, theta)
    with says(InputError, "'eror'", "Did you mean 'error'"):
        Criterion("eror").check(streamed)
    # Nobody knows how many examples there are before they are read.
    criterion = Criterion(examples=121)
    criterion.check(streamed)
    with says(InputError, "got 120 examples", "at least 121"):
        measure_networks(criterion, streamed, stacked([theta]))
    assert sources["test"].begun == []
