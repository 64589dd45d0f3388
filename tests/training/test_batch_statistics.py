"""Re-estimated batch statistics against numpy over all images at once."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from streams import from_host, rows_of
from variables import alive, spaced, stacked

from mcjax import Augmentation, InputError, SpecError, Task, data, models, reestimate, supervised, trees
from mcjax.training import estimate_statistics

MEAN, STD = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
estimated = jax.jit(estimate_statistics, static_argnums=(2, 3))


def task_of(model, images, mean=MEAN, std=STD, augmentation=None):
    """The classification of these images, in some way."""
    labels = np.arange(len(images)) % 3
    dataset = data.Dataset(images, labels, images[:6], labels[:6], 3, mean, std, "colours")
    return supervised(model, dataset, augmentation=augmentation or Augmentation.none())


@pytest.fixture(scope="module")
def network():
    """A task and a network of it, and its images."""
    model = models.create("tinysix", 3, (8, 8, 3), width=0.5)
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    # Images in order of brightness, so that batches differ and the variance of their means counts.
    images = images[np.argsort(images.mean((1, 2, 3)))]
    return task_of(model, images), alive(model), images


@pytest.mark.parametrize(("batch_size", "used"), [(7, 54), (100, 60)])
def test_the_first_norm_is_pooled_exactly(network, batch_size, used):
    """Equal batches of at most so many: nine of six, or one of all."""
    task, theta, images = network
    stats = estimated(task, theta, None, batch_size)["batch_stats"]["BatchNorm_0"]
    kernel, bias = (np.asarray(theta["params"]["Conv_0"][name], np.float64) for name in ("kernel", "bias"))
    x = np.pad((np.asarray(images[:used], np.float64) / 255 - 0.5) / 0.25, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = bias + sum(x[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    np.testing.assert_allclose(stats["mean"], out.mean((0, 1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stats["var"], out.var((0, 1, 2)), rtol=1e-4)


def test_later_norms_are_the_mean_of_batches_and_the_spread_of_their_means(network, key):
    task, theta, images = network
    train = jax.jit(task.model.apply_train)
    x = ((images / 255 - MEAN) / STD).astype(np.float32)
    batches = [train(theta, x[i : i + 6], key)[1] for i in range(0, 54, 6)]
    after = estimated(task, theta, None, 7)
    for norm, stats in after["batch_stats"].items():
        means, variances = (np.stack([b[norm][kind] for b in batches]).astype(np.float64) for kind in ("mean", "var"))
        np.testing.assert_allclose(stats["mean"], means.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["var"], variances.mean(0) + means.var(0), rtol=1e-4)
    chex.assert_trees_all_equal(after["params"], theta["params"])


def test_a_network_without_statistics_is_returned(tiny_model, tiny_task):
    plain = alive(tiny_model)
    assert estimate_statistics(tiny_task, plain) is plain


def test_statistics_that_the_loss_does_not_return_stay(network):
    task, theta, images = network

    def loss(theta, batch, key):
        return jnp.square(task.model.apply(theta, batch / 255.0)).mean()

    chex.assert_trees_all_equal(estimated(Task(loss, images, model=task.model), theta, None, 7), theta)


def test_statistics_of_a_loss_of_ones_own():
    """A mean with a variance is pooled, and one of another name is averaged, over batches of equal size."""
    x = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32) + np.arange(30, dtype=np.float32)[:, None]

    def loss(theta, batch, key):
        stats = {"norm": {"mean": batch.mean(0), "var": batch.var(0)}, "largest": batch.max(0)}
        return jnp.square(batch @ theta["params"]).mean(), {}, stats

    zeros = np.zeros(2, np.float32)
    theta = {"params": zeros, "batch_stats": {"norm": {"mean": zeros, "var": zeros}, "largest": zeros}}
    stats = estimated(Task(loss, x, init=lambda key: theta), theta, 20, 10)["batch_stats"]
    x = spaced(x, 20)
    np.testing.assert_allclose(stats["norm"]["mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["norm"]["var"], np.float64(x).var(0), rtol=1e-5)
    np.testing.assert_allclose(stats["largest"], (x[:10].max(0) + x[10:].max(0)) / 2, rtol=1e-5)


NAMES = [("mean", "var"), ("running_mean", "running_var"), ("moving_mean", "moving_variance"), ("avg", "var")]


@pytest.mark.parametrize("names", NAMES, ids="-".join)
@pytest.mark.parametrize("where", ["", "norm/"], ids=["alone", "in a layer"])
def test_variances_of_any_name_are_pooled(names, where):
    """Beside a counter and a statistic of another kind, against numpy over all examples."""
    mean, variance = (where + name for name in names)
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    x += np.repeat(np.arange(3), 10)[:, None]  # batches differ

    def loss(theta, batch, key):
        found = {mean: batch.mean(0), variance: batch.var(0), where + "largest": batch.max(0), where + "count": 1}
        return jnp.square(batch @ theta["params"]["w"]).mean(), {}, trees.nest(found)

    start = {mean: np.zeros(4), variance: np.ones(4), where + "largest": np.zeros(4)}
    stats = {name: leaf.astype(np.float32) for name, leaf in start.items()} | {where + "count": np.int32(7)}
    theta = {"params": {"w": jnp.ones(4)}, "batch_stats": trees.nest(stats)}
    found = trees.flatten(estimated(Task(loss, x), theta, None, 10)["batch_stats"])
    np.testing.assert_allclose(found[mean], x.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[variance], x.var(0), rtol=1e-5)
    np.testing.assert_allclose(found[where + "largest"], x.reshape(3, 10, 4).max(1).mean(0), rtol=1e-5)
    assert found[where + "count"] == 7
    assert found[where + "count"].dtype == np.int32


@pytest.mark.parametrize("name", ["var", "running_std", "norm/moving_variance"])
def test_a_variance_without_its_mean_is_refused(name):
    def loss(theta, batch, key):
        return (batch @ theta["params"]["w"]).mean(), {}, trees.nest({name: batch.var(0)})

    theta = {"params": {"w": jnp.ones(4)}, "batch_stats": trees.nest({name: jnp.ones(4)})}
    with says(InputError, name, "mean"):
        reestimate(Task(loss, np.ones((20, 4), np.float32)), theta)


def test_many_networks_under_jit_and_vmap(network):
    task, theta, _ = network
    both = stacked([theta, alive(task.model, 1)])
    together = jax.jit(jax.vmap(lambda one: estimate_statistics(task, one, None, 7)))(both)
    for i in range(2):
        alone = estimated(task, trees.index(both, i), None, 7)
        chex.assert_trees_all_close(trees.index(together, i), alone, rtol=1e-4, atol=1e-5)


class Dropped(nn.Module):
    """Dropout in front of a norm."""

    rate: float

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(nn.Dense(5)(x.reshape(len(x), -1))))
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(x))


def test_dropout_in_front_of_norms_is_off(network, key):
    images = network[2]
    plain, dropped = (models.from_flax(Dropped(rate), np.zeros((1, 8, 8, 3), np.float32)) for rate in (0.0, 0.5))
    theta = alive(plain)
    expected, got = (estimated(task_of(model, images), theta, None, 20) for model in (plain, dropped))
    chex.assert_trees_all_equal(got, expected)
    x = ((images[:8] / 255 - MEAN) / STD).astype(np.float32)
    trained, expected = (jax.jit(model.apply_train)(theta, x, key)[0] for model in (dropped, plain))
    assert not np.allclose(trained, expected)


def test_augmented_images_bring_their_black_borders_into_the_statistics(network):
    task, theta, _ = network
    # The first unit is the middle pixel's first channel: 1 in a white image, 0 beyond its border.
    layer = jax.tree.map(np.array, theta["params"]["Conv_0"])
    layer["kernel"][..., 0], layer["bias"][0] = 0, 0
    layer["kernel"][1, 1, 0, 0] = 1
    theta = {**theta, "params": {**theta["params"], "Conv_0": layer}}
    white, zero, one = np.full((400, 8, 8, 3), 255, np.uint8), np.zeros(3, np.float32), np.ones(3, np.float32)

    def run(augmentation):
        return estimated(task_of(task.model, white, zero, one, augmentation), theta, None, 50)

    shifted = [run(Augmentation(flip=True, crop=2, rotate=0.0)) for _ in range(2)]
    chex.assert_trees_all_equal(*shifted)
    inside = (1 - np.mean([2, 1, 0, 1, 2]) / 8) ** 2
    np.testing.assert_allclose(shifted[0]["batch_stats"]["BatchNorm_0"]["mean"][0], inside, rtol=0.02)
    whole = run(None)["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose((whole["mean"][0], whole["var"][0]), (1, 0), atol=1e-5)


def test_reestimating_many_is_estimating_each(network):
    plain, theta, images = network
    both = stacked([theta, alive(plain.model, 1)])
    augmentation = data.from_arrays(images, np.zeros(60, int), images[:6], np.zeros(6, int), 3).default_augmentation()
    assert augmentation != Augmentation.none()
    task = task_of(plain.model, images, augmentation=augmentation)
    got = reestimate(task, both, batch_size=10, calibration_examples=40)
    for i in range(2):
        expected = estimated(task, trees.index(both, i), 40, 10)
        chex.assert_trees_all_close(trees.index(got, i), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(got["batch_stats"]["BatchNorm_0"]["mean"] - both["batch_stats"]["BatchNorm_0"]["mean"]).max() > 0.1
    one = reestimate(task, theta, batch_size=10, calibration_examples=40)
    chex.assert_trees_all_close(one, trees.index(got, 0), rtol=1e-6)


def test_bad_arguments_are_refused(network, tiny_task):
    task, theta, _ = network
    for changes, error, words in (
        ({"task": task.model}, InputError, ("Model", "mcjax.supervised(model, data)")),
        ({"calibration_examples": 61}, InputError, ("calibration_examples=61", "60")),
        ({"calibration_examples": 0}, InputError, ("calibration_examples=0",)),
        ({"batch_size": 0}, InputError, ("batch_size=0",)),
        ({"task": tiny_task}, SpecError, ("mlp", "BatchNorm_0")),
    ):
        with says(error, *words):
            reestimate(**{"task": task, "theta": theta, **changes})


def test_statistics_on_a_stream_are_those_on_arrays(normed, normed_task, tiny_model, tiny_task):
    """Augmented equally, where the batches are the same; read once, and not at all where there are none."""
    thetas = stacked([alive(normed, seed) for seed in range(2)])
    for size, n, batch_size in ((17, None, 40), (50, 90, 40), (7, 25, 100)):
        streamed, sources = from_host(normed_task, "train", size=size)
        options = {"batch_size": batch_size, "calibration_examples": n}
        first = normed_task.with_examples(train=rows_of(normed_task.train, slice(n)))
        chex.assert_trees_all_equal(reestimate(streamed, thetas, **options), reestimate(first, thetas, **options))
        assert sources["train"].begun == [0]
    streamed, sources = from_host(tiny_task, "train")
    chex.assert_trees_all_equal(reestimate(streamed, alive(tiny_model)), alive(tiny_model))
    assert sources["train"].begun == []
    streamed, _ = from_host(normed_task, "train")
    with says(InputError, "batches from the host", "task.load(train=10_000)"):
        estimate_statistics(streamed, alive(normed))
    with says(InputError, "got 120 examples", "at least 130"):
        reestimate(streamed, alive(normed), calibration_examples=130)
