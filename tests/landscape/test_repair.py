"""REPAIR against plain numpy: statistics equal to the goal, planted scales undone, what is left as it is."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import modules
import numpy as np
import pytest

from mcjax import (
    Augmentation,
    InputError,
    SpecError,
    TrainConfig,
    data,
    evaluate,
    match_activations,
    models,
    permute,
    reestimate,
    train_endpoints,
    trees,
)
from mcjax.landscape.repair import _repair, repair, repaired_layers


def mean_of(thetas):
    return jax.tree.map(lambda leaf: leaf.mean(0), thetas)


@pytest.fixture
def ends(key, tiny_model):
    thetas = jax.vmap(tiny_model.init)(jax.random.split(key, 3))
    return trees.map_with_name(
        lambda name, leaf: leaf + 0.3 * jax.random.normal(key, leaf.shape) if name.endswith("bias") else leaf, thetas
    )


def statistics(theta, dataset):
    """Means and standard deviations of the pre-activations of an MLP, over all training images, in float64."""
    params = jax.tree.map(np.float64, theta["params"])
    x = (dataset.train_images / 255.0 - dataset.mean) / dataset.std
    x, found = x.reshape(len(x), -1), []
    for i in range(len(params) - 1):
        x = x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
        found.append((x.mean(0), x.std(0)))
        x = np.maximum(x, 0)
    return found


@pytest.mark.parametrize("batch_size", [30, 120, 500])
@pytest.mark.parametrize("weights", [None, [0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
def test_statistics_become_those_of_the_ends_mixed(ends, tiny_model, tiny_data, weights, batch_size):
    merged = mean_of(ends)
    repaired = repair(tiny_model, merged, ends, tiny_data, weights, batch_size=batch_size)
    shares = np.full(3, 1 / 3) if weights is None else np.asarray(weights)
    at_ends = [statistics(trees.index(ends, i), tiny_data) for i in range(3)]
    after, before = statistics(repaired, tiny_data), statistics(merged, tiny_data)
    for layer in range(2):
        for kind in range(2):
            goal = sum(share * end[layer][kind] for share, end in zip(shares, at_ends, strict=True))
            np.testing.assert_allclose(after[layer][kind], goal, rtol=1e-4, atol=1e-5)
            if (layer, kind) != (0, 0) or weights is not None:  # a plain mean has the mean of the means there already
                assert np.abs(before[layer][kind] - goal).max() > 0.05
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(repaired["params"]["Dense_2"][name], merged["params"]["Dense_2"][name])


def test_identical_ends_stay_as_they_are(ends, tiny_model, tiny_data):
    theta = trees.index(ends, 0)
    repaired = repair(tiny_model, theta, trees.stack([theta, theta]), tiny_data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), repaired, theta)


class NoBias(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), use_bias=False)(x))
        return nn.Dense(3)(nn.gelu(nn.Dense(6, use_bias=False)(x.mean((1, 2)))))


@pytest.mark.parametrize("kind", [modules.Flattened, pytest.param(modules.Gated, marks=pytest.mark.slow), NoBias])
def test_planted_scales_and_shifts_are_undone_layer_by_layer(kind, key, tiny_data):
    """Every layer's units scaled and shifted: repaired by the network that they were made of, it is that one again."""
    model = models.from_flax(kind(), jnp.zeros((1, 8, 8, 1)))
    theta = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), model.init(key))
    leaves, layers = trees.flatten(theta), repaired_layers(model)
    assert layers
    rng = np.random.default_rng(0)
    for layer in layers:
        kernel = leaves[layer.kernel]
        ratio = rng.uniform(0.2, 2, kernel.shape[layer.axis]).astype(np.float32)
        leaves[layer.kernel] = kernel * ratio.reshape([-1 if i == layer.axis else 1 for i in range(kernel.ndim)])
        if layer.bias:
            leaves[layer.bias] = leaves[layer.bias] + rng.normal(size=ratio.shape).astype(np.float32)
    planted = trees.map_with_name(lambda name, _: leaves[name], theta)
    repaired = repair(model, planted, trees.stack([theta]), tiny_data, batch_size=40)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), repaired, theta)


def test_units_that_never_vary_are_shifted_and_not_scaled(ends, tiny_model, tiny_data):
    merged = mean_of(ends)
    first = merged["params"]["Dense_0"]
    first = {**first, "kernel": first["kernel"].at[:, 2].set(0.0)}
    merged = {"params": {**merged["params"], "Dense_0": first}}
    repaired = repair(tiny_model, merged, ends, tiny_data)
    np.testing.assert_array_equal(repaired["params"]["Dense_0"]["kernel"][:, 2], 0)
    goal = np.mean([statistics(trees.index(ends, i), tiny_data)[0][0][2] for i in range(3)])
    np.testing.assert_allclose(repaired["params"]["Dense_0"]["bias"][2], goal, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(repaired))


def test_several_networks_of_the_same_ends_in_one_program(ends, tiny_model, tiny_data):
    weights = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]], np.float32)
    several = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), ends)
    _repair.jitted.clear_cache()
    together = repair(tiny_model, several, ends, tiny_data, weights)
    repair(tiny_model, several, ends, tiny_data, weights[::-1])
    assert _repair.jitted._cache_size() == 1
    shared = repair(tiny_model, several, ends, tiny_data, weights[1])
    for i in range(2):
        alone = repair(tiny_model, trees.index(several, i), ends, tiny_data, weights[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), together, alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b[1], rtol=1e-4, atol=1e-5), together, shared)


def test_batch_statistics_are_re_estimated_instead(key, tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    ends = jax.vmap(model.init)(jax.random.split(key))
    merged, kind = mean_of(ends), Augmentation(flip=True, crop=1, rotate=0.0)
    got = repair(model, merged, ends, tiny_colour_data, batch_size=40, augmentation=kind, calibration_images=100)
    images, mean, std = tiny_colour_data.train_images[:100], tiny_colour_data.mean, tiny_colour_data.std
    expected = reestimate(model, merged, images, mean, std, 40, kind)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)
    assert repaired_layers(model) == ()


def test_images_are_augmented_in_the_same_way_at_every_call(ends, tiny_model, tiny_data):
    merged, shifted = mean_of(ends), Augmentation(flip=True, crop=2, rotate=0.0)
    one, two = (repair(tiny_model, merged, ends, tiny_data, augmentation=shifted) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    plain = repair(tiny_model, merged, ends, tiny_data)
    assert not np.allclose(one["params"]["Dense_0"]["kernel"], plain["params"]["Dense_0"]["kernel"], rtol=1e-3)
    few = repair(tiny_model, merged, ends, tiny_data, calibration_images=60)
    taken = repair(tiny_model, merged, ends, tiny_data.take(60))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), few, taken)


def test_a_network_whose_kernels_are_all_normalised_is_returned(key, tiny_data):
    def init(key):
        return {"first": jax.random.normal(key, (64, 5)), "last": jax.random.normal(key, (5, 3))}

    def apply(theta, x):
        first = theta["first"] / jnp.linalg.norm(theta["first"], axis=0)[None]
        return jax.nn.relu(x.reshape(len(x), -1) @ first) @ theta["last"]

    model = models.from_function(init, apply, jnp.zeros((1, 8, 8, 1)))
    assert model.spec.groups
    assert repaired_layers(model) == ()
    ends = jax.vmap(model.init)(jax.random.split(key))
    merged = mean_of(ends)
    jax.tree.map(np.testing.assert_array_equal, repair(model, merged, ends, tiny_data), merged)


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ([0.5, 0.5], {}, r"of shape \(2,\), expected \(3,\)"),
        ([0.5, 0.5, 0.5], {}, "not negative and of sum 1"),
        ([1.5, -0.5, 0.0], {}, "not negative and of sum 1"),
        ([np.nan, 0.5, 0.5], {}, "not negative and of sum 1"),
        (None, {"batch_size": 0}, "batch_size=0"),
        (None, {"calibration_images": 121}, "calibration_images=121, .*1 to 120"),
    ],
)
def test_wrong_input_is_named(ends, tiny_model, tiny_data, weights, options, message):
    with pytest.raises(InputError, match=message):
        repair(tiny_model, mean_of(ends), ends, tiny_data, weights, **options)


def test_networks_of_another_kind_are_named(ends, tiny_model, tiny_data, key):
    merged = mean_of(ends)
    with pytest.raises(InputError, match="got one network as ends"):
        repair(tiny_model, merged, merged, tiny_data)
    with pytest.raises(SpecError, match="not those of"):
        repair(models.create("mlp", 3, (8, 8, 1), widths=(7, 5)), merged, ends, tiny_data)


@pytest.mark.slow
def test_independent_digits_networks_gain_accuracy_by_repair():
    digits, model = data.load("digits"), models.create("mlp", 10, (8, 8, 1), widths=(128, 128, 128))
    thetas = train_endpoints(jax.random.split(jax.random.key(0), 6), model, digits, TrainConfig(epochs=15)).theta
    firsts, seconds = trees.index(thetas, slice(0, 3)), trees.index(thetas, slice(3, 6))
    P = match_activations(model, firsts, seconds, digits).P
    matched = jax.vmap(lambda p, theta: permute(model.spec, p, theta))(P, seconds)
    for others, least in ((seconds, 0.05), (matched, 0.002)):
        gains, losses = [], []
        for i in range(3):
            ends = trees.stack([trees.index(firsts, i), trees.index(others, i)])
            merged = mean_of(ends)
            before = evaluate(model, merged, digits)[0]
            after = evaluate(model, repair(model, merged, ends, digits), digits)[0]
            gains.append(after.accuracy - before.accuracy)
            losses.append(after.loss / before.loss)
        assert np.mean(gains) > least
        assert np.max(losses) < 0.8
