"""REPAIR against plain numpy: statistics equal to the goal, planted scales undone, what is left as it is."""

from dataclasses import replace

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modules import feedforward
from streams import from_host
from variables import alive, networks, normalized, spaced, stacked

from mcjax import (
    Augmentation,
    InputError,
    SpecError,
    Task,
    TrainConfig,
    data,
    evaluate,
    match_activations,
    models,
    permute,
    supervised,
    train_endpoints,
    trees,
)
from mcjax.landscape.repair import repair, repaired_layers
from mcjax.training import estimate_statistics


def mean_of(thetas):
    return jax.tree.map(lambda leaf: leaf.mean(0), thetas)


@pytest.fixture(scope="module")
def ends(tiny_model):
    return networks(tiny_model, 3)


def statistics(theta, dataset):
    """Means and standard deviations of the pre-activations of an MLP, over all training images, in float64."""
    params = jax.tree.map(np.float64, theta["params"])
    x = np.float64(normalized(dataset.train_images, dataset))
    x, found = x.reshape(len(x), -1), []
    for i in range(len(params) - 1):
        x = x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
        found.append((x.mean(0), x.std(0)))
        x = np.maximum(x, 0)
    return found


def close(a, b, rtol=1e-4, atol=1e-5):
    chex.assert_trees_all_close(jax.tree.map(np.asarray, a), jax.tree.map(np.asarray, b), rtol=rtol, atol=atol)


@pytest.mark.parametrize("batch_size", [50, 500])
def test_statistics_become_those_of_the_ends_mixed(ends, tiny_task, tiny_data, batch_size):
    merged = mean_of(ends)
    at_ends = [statistics(trees.index(ends, i), tiny_data) for i in range(3)]
    before = statistics(merged, tiny_data)
    for weights in (None, [0.2, 0.5, 0.3], [0.0, 1.0, 0.0]):
        repaired = repair(tiny_task, merged, ends, weights, batch_size=batch_size)
        after, shares = statistics(repaired, tiny_data), np.full(3, 1 / 3) if weights is None else np.asarray(weights)
        for layer in range(2):
            for kind in range(2):
                goal = sum(share * end[layer][kind] for share, end in zip(shares, at_ends, strict=True))
                np.testing.assert_allclose(after[layer][kind], goal, rtol=1e-4, atol=1e-5)
                # A plain mean has the mean of the means in the first layer already.
                if (layer, kind) != (0, 0) or weights is not None:
                    assert np.abs(before[layer][kind] - goal).max() > 0.05
        np.testing.assert_array_equal(repaired["params"]["Dense_2"]["kernel"], merged["params"]["Dense_2"]["kernel"])
        np.testing.assert_array_equal(repaired["params"]["Dense_2"]["bias"], merged["params"]["Dense_2"]["bias"])


def test_identical_ends_stay_as_they_are(ends, tiny_task):
    theta = trees.index(ends, 0)
    close(repair(tiny_task, theta, stacked([theta] * 3)), theta, rtol=1e-5, atol=1e-6)


class NoBias(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), use_bias=False)(x))
        return nn.Dense(3)(nn.gelu(nn.Dense(6, use_bias=False)(x.mean((1, 2)))))


@pytest.mark.parametrize("kind", [feedforward.Flattened, feedforward.Gated, NoBias])
def test_planted_scales_and_shifts_are_undone_layer_by_layer(kind, tiny_data):
    """Every layer's units scaled and shifted: repaired by the network that they were made of, it is that one again."""
    model = models.from_flax(kind(), jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32))
    theta = alive(model)
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
    repaired = repair(supervised(model, tiny_data), planted, stacked([theta]), batch_size=40)
    close(repaired, theta, rtol=2e-3, atol=2e-4)


def test_units_that_never_vary_are_shifted_and_not_scaled(ends, tiny_task, tiny_data):
    merged = jax.tree.map(np.array, mean_of(ends))
    merged["params"]["Dense_0"]["kernel"][:, 2] = 0.0
    repaired = repair(tiny_task, merged, ends)
    np.testing.assert_array_equal(repaired["params"]["Dense_0"]["kernel"][:, 2], 0)
    goal = np.mean([statistics(trees.index(ends, i), tiny_data)[0][0][2] for i in range(3)])
    np.testing.assert_allclose(repaired["params"]["Dense_0"]["bias"][2], goal, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(repaired))


def test_small_variation_is_scaled_and_rounding_of_a_constant_unit_is_not(ends, tiny_task, tiny_data):
    """Unit 0 of the second layer is constant up to rounding; unit 1 varies a little around it."""
    merged = jax.tree.map(np.array, mean_of(ends))
    first, second = merged["params"]["Dense_0"], merged["params"]["Dense_1"]
    first["kernel"][:, 5], first["bias"][5] = 0, 1
    for copy in (1, 2):
        first["kernel"][:, copy], first["bias"][copy] = first["kernel"][:, 0], first["bias"][0]
    second["kernel"][:, 0] = np.float32([17.1, 23.3, -(np.float32(17.1) + np.float32(23.3)), 0, 0, 10])
    second["kernel"][:, 1] = np.float32([0.03, 0, 0, 0, 0, 10])
    # The ends have the first layer of the merged network, so that its units stay copies.
    shared = {**ends["params"], "Dense_0": jax.tree.map(lambda leaf: np.stack([leaf] * 3), first)}
    repaired = repair(tiny_task, merged, {"params": shared})
    mean, deviation = statistics(merged, tiny_data)[1]
    assert deviation[0] < 1e-6 * mean[0]
    assert 1e-5 < deviation[1] / mean[1] < 1e-2
    at_ends = [statistics({"params": jax.tree.map(lambda leaf, i=i: leaf[i], shared)}, tiny_data)[1] for i in range(3)]
    goals = np.mean(at_ends, 0)
    assert goals[1].min() > 0.1
    np.testing.assert_array_equal(repaired["params"]["Dense_1"]["kernel"][:, 0], second["kernel"][:, 0])
    after = statistics(repaired, tiny_data)[1]
    np.testing.assert_allclose(after[0], goals[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(after[1][1:], goals[1][1:], rtol=1e-2)


def test_several_networks_of_the_same_ends_in_one_program(ends, tiny_task, compiled):
    weights = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]], np.float32)
    several = jax.tree.map(lambda leaf: np.tensordot(weights, leaf, 1), ends)
    together = repair(tiny_task, several, ends, weights)
    compiled.clear()
    repair(tiny_task, several, ends, weights[::-1])
    assert not compiled
    shared = repair(tiny_task, several, ends, weights[1])
    for i in range(2):
        close(trees.index(together, i), repair(tiny_task, trees.index(several, i), ends, weights[i]))
    close(trees.index(together, 1), trees.index(shared, 1))


def test_batch_statistics_are_re_estimated_instead(normed, tiny_colour_data):
    ends = networks(normed, 2)
    merged, kind = mean_of(ends), Augmentation(flip=True, crop=1, rotate=0.0)
    task = supervised(normed, tiny_colour_data, augmentation=kind)
    got = repair(task, merged, ends, batch_size=40, calibration_examples=100)
    close(got, jax.jit(lambda theta: estimate_statistics(task, theta, 100, 40))(merged))
    assert repaired_layers(normed) == ()


def test_images_are_augmented_in_the_same_way_at_every_call_and_some_are_taken(ends, tiny_model, tiny_task, tiny_data):
    merged, shifted = mean_of(ends), Augmentation(flip=True, crop=2, rotate=0.0)
    augmented = supervised(tiny_model, tiny_data, augmentation=shifted)
    one, two = (repair(augmented, merged, ends) for _ in range(2))
    chex.assert_trees_all_equal(one, two)
    plain = repair(tiny_task, merged, ends)
    assert not np.allclose(one["params"]["Dense_0"]["kernel"], plain["params"]["Dense_0"]["kernel"], rtol=1e-3)
    few = repair(tiny_task, merged, ends, calibration_examples=60)
    images, labels = (spaced(each, 60) for each in (tiny_data.train_images, tiny_data.train_labels))
    taken = replace(tiny_data, train_images=images, train_labels=labels)
    goals = jax.tree.map(lambda *each: np.mean(each, 0), *(statistics(trees.index(ends, i), taken) for i in range(3)))
    chex.assert_trees_all_close(statistics(few, taken), goals, rtol=1e-4, atol=1e-5)


def test_a_network_whose_kernels_are_all_normalised_is_returned(tiny_data):
    def init(key):
        return {"first": jax.random.normal(key, (64, 5)), "last": jax.random.normal(key, (5, 3))}

    def apply(theta, x):
        first = theta["first"] / jnp.linalg.norm(theta["first"], axis=0)[None]
        return jax.nn.relu(x.reshape(len(x), -1) @ first) @ theta["last"]

    model = models.from_function(init, apply, jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32))
    assert model.spec.groups
    assert repaired_layers(model) == ()
    ends = networks(model, 2)
    merged = mean_of(ends)
    chex.assert_trees_all_equal(repair(supervised(model, tiny_data), merged, ends), merged)


@pytest.mark.parametrize(
    ("weights", "options", "named"),
    [
        ([0.5, 0.5], {}, r"\(2,\).*\(3,\)"),
        ([0.5, 0.5, 0.5], {}, r"\[0\.5 0\.5 0\.5\].*sum 1"),
        ([1.5, -0.5, 0.0], {}, r"-0\.5.*not negative"),
        ([np.nan, 0.5, 0.5], {}, "nan"),
        (None, {"batch_size": 0}, "batch_size=0"),
        (None, {"calibration_examples": 121}, "calibration_examples=121, .*1 to 120"),
    ],
)
def test_wrong_input_is_named(ends, tiny_task, weights, options, named):
    with pytest.raises(InputError, match=named):
        repair(tiny_task, mean_of(ends), ends, weights, **options)


def test_networks_of_another_kind_are_named(ends, tiny_task, tiny_data):
    merged = mean_of(ends)
    with pytest.raises(InputError, match="one network as ends"):
        repair(tiny_task, merged, merged)
    with pytest.raises(SpecError, match="mlp"):
        repair(supervised(models.create("mlp", 3, (8, 8, 1), widths=(7, 5)), tiny_data), merged, ends)
    alone = Task(tiny_task.loss, tiny_task.train, init=tiny_task.init, name="a loss alone")
    with pytest.raises(InputError, match="a loss alone has no model"):
        repair(alone, merged, ends)


def test_a_model_of_several_outputs_and_a_loss_of_the_users_own():
    """Inputs and labels in a dict, and outputs in one: units get the statistics of the ends."""
    shapes = {"hidden": (5, 6), "bias": (6,), "score": (6, 3), "value": (6, 1)}

    def init(key):
        keys = dict(zip(shapes, jax.random.split(key, 4), strict=True))
        return {name: jax.random.normal(keys[name], shape) for name, shape in shapes.items()}

    def apply(theta, x):
        hidden = jax.nn.relu(x @ theta["hidden"] + theta["bias"][None])
        return {"scores": hidden @ theta["score"], "value": hidden @ theta["value"]}

    def loss(theta, batch, key):
        outputs = apply(theta, batch["x"])
        return jnp.square(outputs["value"][:, 0] - batch["y"]).mean() + jnp.abs(outputs["scores"]).mean()

    rng = np.random.default_rng(0)
    examples = {"x": rng.normal(size=(90, 5)).astype(np.float32), "y": rng.normal(size=90).astype(np.float32)}
    model = models.from_function(init, apply, examples["x"][:2])
    task = Task(loss, examples, model=model, inputs=lambda batch: batch["x"])
    ends = stacked([jax.tree.map(np.asarray, init(jax.random.key(seed))) for seed in range(2)])
    repaired = repair(task, mean_of(ends), ends, [0.25, 0.75], batch_size=30)

    def units(theta):
        found = np.float64(examples["x"]) @ np.float64(theta["hidden"]) + np.float64(theta["bias"])
        return found.mean(0), found.std(0)

    at_ends = [units(trees.index(ends, i)) for i in range(2)]
    for got, first, second in zip(units(repaired), *at_ends, strict=True):
        np.testing.assert_allclose(got, 0.25 * first + 0.75 * second, rtol=1e-4, atol=1e-5)
    assert {layer.kernel for layer in repaired_layers(model)} == {"hidden"}


@pytest.mark.slow
def test_independent_digits_networks_gain_accuracy_by_repair():
    digits, model = data.load("digits"), models.create("mlp", 10, (8, 8, 1), widths=(128, 128, 128))
    task = supervised(model, digits)
    thetas = train_endpoints(jax.random.split(jax.random.key(0), 6), task, TrainConfig(epochs=15)).theta
    firsts, seconds = trees.index(thetas, slice(0, 3)), trees.index(thetas, slice(3, 6))
    P = match_activations(task, firsts, seconds).P
    matched = jax.vmap(lambda p, theta: permute(model.spec, p, theta))(P, seconds)
    for others, least in ((seconds, 0.05), (matched, 0.002)):
        gains, losses = [], []
        for i in range(3):
            ends = trees.stack([trees.index(firsts, i), trees.index(others, i)])
            merged = mean_of(ends)
            before = evaluate(task, merged)[0]
            after = evaluate(task, repair(task, merged, ends))[0]
            gains.append(after["accuracy"] - before["accuracy"])
            losses.append(after["loss"] / before["loss"])
        assert np.mean(gains) > least
        assert np.max(losses) < 0.8


def test_networks_are_repaired_on_streams_as_on_arrays(ends, tiny_task, normed, normed_task):
    """A pass for the ends and one for every layer; with batch statistics, one pass for them."""
    for task, thetas, reads in ((tiny_task, ends, 3), (normed_task, networks(normed, 2), 1)):
        streamed, sources = from_host(task, "train")
        options = {"batch_size": 40, "calibration_examples": 120}
        got, expected = (repair(each, mean_of(thetas), thetas, **options) for each in (streamed, task))
        chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-7)
        assert len(sources["train"].begun) == reads
