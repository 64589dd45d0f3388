"""Re-estimated batch statistics against numpy over all images at once."""

import jax
import numpy as np
import pytest

from mcjax import Augmentation, InputError, data, models, recalibrate, reestimate, trees


@pytest.fixture
def network(key):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.5)
    images = jax.random.randint(key, (60, 8, 8, 3), 0, 256).astype("uint8")
    # Images in order of brightness, so that batches differ and the variance of their means counts.
    return model, model.init(key), images[np.argsort(np.asarray(images).mean((1, 2, 3)))]


MEAN, STD = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)


@pytest.mark.parametrize("batch_size", [10, 20, 60, 100])
def test_the_first_norm_is_pooled_exactly(network, batch_size):
    model, theta, images = network
    stats = reestimate(model, theta, images, MEAN, STD, batch_size)["batch_stats"]["BatchNorm_0"]
    kernel, bias = (np.asarray(theta["params"]["Conv_0"][name], np.float64) for name in ("kernel", "bias"))
    x = np.pad((np.asarray(images, np.float64) / 255 - 0.5) / 0.25, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = bias + sum(x[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    np.testing.assert_allclose(stats["mean"], out.mean((0, 1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stats["var"], out.var((0, 1, 2)), rtol=1e-4)


def test_later_norms_are_the_mean_of_batches_and_the_spread_of_their_means(network, key):
    model, theta, images = network
    batches = [
        model.apply_train(theta, data.normalize(images[i : i + 15], MEAN, STD), key)[1] for i in range(0, 60, 15)
    ]
    stats = reestimate(model, theta, images, MEAN, STD, 15)["batch_stats"]
    for norm in stats:
        means, variances = (np.stack([b[norm][kind] for b in batches]).astype(np.float64) for kind in ("mean", "var"))
        np.testing.assert_allclose(stats[norm]["mean"], means.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats[norm]["var"], variances.mean(0) + means.var(0), rtol=1e-4)


def test_parameters_stay_and_a_network_without_statistics_is_returned(network, key, tiny_model, tiny_data):
    model, theta, images = network
    after = reestimate(model, theta, images, MEAN, STD)
    jax.tree.map(np.testing.assert_array_equal, after["params"], theta["params"])
    plain = tiny_model.init(key)
    assert reestimate(tiny_model, plain, tiny_data.train_images, MEAN[:1], STD[:1]) is plain


def test_many_networks_under_jit_and_vmap(network, key):
    model, theta, images = network
    both = trees.stack([theta, model.init(jax.random.fold_in(key, 1))])
    together = jax.jit(jax.vmap(lambda one: reestimate(model, one, images, MEAN, STD, 20)))(both)
    alone = reestimate(model, trees.index(both, 1), images, MEAN, STD, 20)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-5), together, alone)


def test_dropout_in_front_of_norms_is_off(key):
    images = np.asarray(jax.random.randint(key, (40, 32, 32, 3), 0, 256)).astype(np.uint8)
    plain, dropped = (
        models.create("vgg11", 3, (32, 32, 3), width=1 / 32, channel_dropout=(rate,)) for rate in (0.0, 0.5)
    )
    theta = plain.init(key)
    expected, got = (reestimate(model, theta, images, MEAN, STD, 20) for model in (plain, dropped))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    x = data.normalize(images[:2], MEAN, STD)
    trained, expected = (model.apply_train(theta, x, key)[0] for model in (dropped, plain))
    assert not np.allclose(trained, expected)


def test_augmented_images_bring_their_black_borders_into_the_statistics(network):
    model, theta, _ = network
    # The first unit is the middle pixel's first channel: 1 in a white image, 0 beyond its border.
    kernel = theta["params"]["Conv_0"]["kernel"].at[..., 0].set(0.0).at[1, 1, 0, 0].set(1.0)
    theta = {**theta, "params": {**theta["params"], "Conv_0": {**theta["params"]["Conv_0"], "kernel": kernel}}}
    white = np.full((400, 8, 8, 3), 255, np.uint8)
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    shifted = [
        reestimate(model, theta, white, zero, one, 50, Augmentation(flip=True, crop=2, rotate=0.0)) for _ in range(2)
    ]
    jax.tree.map(np.testing.assert_array_equal, *shifted)
    inside = (1 - np.mean([2, 1, 0, 1, 2]) / 8) ** 2
    np.testing.assert_allclose(shifted[0]["batch_stats"]["BatchNorm_0"]["mean"][0], inside, rtol=0.02)
    whole = reestimate(model, theta, white, zero, one, 50)["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose((whole["mean"][0], whole["var"][0]), (1, 0), atol=1e-5)


def test_recalibrating_many_is_reestimating_each(network):
    model, theta, images = network
    other = trees.scale(1.5, theta)
    labels = np.arange(60) % 3
    dataset = data.from_arrays(np.asarray(images), labels, np.asarray(images[:6]), labels[:6])
    both = recalibrate(model, trees.stack([theta, other]), dataset, batch_size=10, calibration_images=40)
    for i, one in enumerate((theta, other)):
        augmentation = dataset.default_augmentation()
        expected = reestimate(model, one, images[:40], dataset.mean, dataset.std, 10, augmentation)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), both, expected)
    assert trees.norm(trees.subtract(trees.batch_stats(trees.index(both, 0)), trees.batch_stats(theta))) > 0.1
    with pytest.raises(InputError, match="got one network, expected several"):
        recalibrate(model, theta, dataset)
