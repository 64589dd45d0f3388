"""Re-estimated batch statistics against numpy over all images at once."""

from functools import partial

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from variables import alive, stacked

from mcjax import Augmentation, data, models, reestimate, trees
from mcjax.training import estimate_statistics

MEAN, STD = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
estimated = jax.jit(estimate_statistics, static_argnums=(0, 5, 6))


@pytest.fixture(scope="module")
def network():
    model = models.create("tinysix", 3, (8, 8, 3), width=0.5)
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    # Images in order of brightness, so that batches differ and the variance of their means counts.
    return model, alive(model), images[np.argsort(images.mean((1, 2, 3)))]


@pytest.mark.parametrize(("batch_size", "used"), [(7, 54), (100, 60)])
def test_the_first_norm_is_pooled_exactly(network, batch_size, used):
    """Equal batches of at most so many: nine of six, or one of all."""
    model, theta, images = network
    stats = estimated(model, theta, images, MEAN, STD, batch_size)["batch_stats"]["BatchNorm_0"]
    kernel, bias = (np.asarray(theta["params"]["Conv_0"][name], np.float64) for name in ("kernel", "bias"))
    x = np.pad((np.asarray(images[:used], np.float64) / 255 - 0.5) / 0.25, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = bias + sum(x[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    np.testing.assert_allclose(stats["mean"], out.mean((0, 1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stats["var"], out.var((0, 1, 2)), rtol=1e-4)


def test_later_norms_are_the_mean_of_batches_and_the_spread_of_their_means(network, key):
    model, theta, images = network
    train = jax.jit(model.apply_train)
    x = ((images / 255 - MEAN) / STD).astype(np.float32)
    batches = [train(theta, x[i : i + 6], key)[1] for i in range(0, 54, 6)]
    after = estimated(model, theta, images, MEAN, STD, 7)
    for norm, stats in after["batch_stats"].items():
        means, variances = (np.stack([b[norm][kind] for b in batches]).astype(np.float64) for kind in ("mean", "var"))
        np.testing.assert_allclose(stats["mean"], means.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["var"], variances.mean(0) + means.var(0), rtol=1e-4)
    chex.assert_trees_all_equal(after["params"], theta["params"])


def test_a_network_without_statistics_is_returned(tiny_model, tiny_data):
    plain = alive(tiny_model)
    assert estimate_statistics(tiny_model, plain, tiny_data.train_images, MEAN[:1], STD[:1]) is plain


def test_many_networks_under_jit_and_vmap(network):
    model, theta, images = network
    both = stacked([theta, alive(model, 1)])
    together = jax.jit(jax.vmap(lambda one: estimate_statistics(model, one, images, MEAN, STD, 7)))(both)
    for i in range(2):
        alone = estimated(model, trees.index(both, i), images, MEAN, STD, 7)
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
    expected, got = (estimated(model, theta, images, MEAN, STD, 20) for model in (plain, dropped))
    chex.assert_trees_all_equal(got, expected)
    x = ((images[:8] / 255 - MEAN) / STD).astype(np.float32)
    trained, expected = (jax.jit(model.apply_train)(theta, x, key)[0] for model in (dropped, plain))
    assert not np.allclose(trained, expected)


def test_augmented_images_bring_their_black_borders_into_the_statistics(network):
    model, theta, _ = network
    # The first unit is the middle pixel's first channel: 1 in a white image, 0 beyond its border.
    layer = jax.tree.map(np.array, theta["params"]["Conv_0"])
    layer["kernel"][..., 0], layer["bias"][0] = 0, 0
    layer["kernel"][1, 1, 0, 0] = 1
    theta = {**theta, "params": {**theta["params"], "Conv_0": layer}}
    white, zero, one = np.full((400, 8, 8, 3), 255, np.uint8), np.zeros(3, np.float32), np.ones(3, np.float32)
    run = partial(estimated, model, theta, white, zero, one, 50)
    shifted = [run(Augmentation(flip=True, crop=2, rotate=0.0)) for _ in range(2)]
    chex.assert_trees_all_equal(*shifted)
    inside = (1 - np.mean([2, 1, 0, 1, 2]) / 8) ** 2
    np.testing.assert_allclose(shifted[0]["batch_stats"]["BatchNorm_0"]["mean"][0], inside, rtol=0.02)
    whole = run(None)["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose((whole["mean"][0], whole["var"][0]), (1, 0), atol=1e-5)


def test_reestimating_many_is_estimating_each(network):
    model, theta, images = network
    both = stacked([theta, alive(model, 1)])
    labels = np.arange(60) % 3
    dataset = data.from_arrays(images, labels, images[:6], labels[:6])
    got = reestimate(model, both, dataset, batch_size=10, calibration_images=40)
    assert dataset.default_augmentation() != Augmentation.none()
    for i in range(2):
        expected = estimated(
            model, trees.index(both, i), images[:40], dataset.mean, dataset.std, 10, dataset.default_augmentation()
        )
        chex.assert_trees_all_close(trees.index(got, i), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(got["batch_stats"]["BatchNorm_0"]["mean"] - both["batch_stats"]["BatchNorm_0"]["mean"]).max() > 0.1
    one = reestimate(model, theta, dataset, batch_size=10, calibration_images=40)
    chex.assert_trees_all_close(one, trees.index(got, 0), rtol=1e-6)
