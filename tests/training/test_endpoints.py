"""Endpoints: seeds that do not depend on each other, running statistics, what does not fit."""

import chex
import jax
import numpy as np
from refusals import says
from variables import alive, cross_entropy, mlp, normalized

from mcjax import Augmentation, InputError, TrainConfig, evaluate, models, train_endpoints, trees
from mcjax.training.endpoints import EndpointStep


def test_networks_learn_and_differ(tiny_data, tiny_model, tiny_networks):
    _, test = evaluate(tiny_model, tiny_networks, tiny_data)
    np.testing.assert_array_equal(test.accuracy, 1.0)
    kernels = np.asarray(tiny_networks["params"]["Dense_0"]["kernel"])
    assert all(np.abs(kernels[i] - kernels[j]).max() > 0.1 for i in range(4) for j in range(i))


def test_the_network_of_a_key_does_not_depend_on_the_others(tiny_data, tiny_model, tiny_networks):
    keys, config = jax.random.split(jax.random.key(1), 4), TrainConfig(epochs=15, batch_size=20)
    chex.assert_trees_all_equal(train_endpoints(keys, tiny_model, tiny_data, config).theta, tiny_networks)
    alone = train_endpoints(keys[1:2], tiny_model, tiny_data, config).theta
    chex.assert_trees_all_close(alone, trees.index(tiny_networks, slice(1, 2)), rtol=1e-3, atol=1e-5)


def test_running_statistics_mix_in_those_of_the_batch(key):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    config = TrainConfig(learning_rate=0.1, schedule="constant", statistics_momentum=0.75)
    step, theta = EndpointStep(model, config, 1), alive(model)
    x, labels = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32), np.arange(6) % 3

    @jax.jit
    def run(theta):
        return step({}, step.start(theta), x, labels, key)[0].theta, model.apply_train(theta, x, key)[1]

    after, batch = run(theta)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, theta["batch_stats"], dict(batch))
    chex.assert_trees_all_close(after["batch_stats"], expected, rtol=1e-5, atol=1e-6)


def test_one_step_descends_the_numerical_gradient(tiny_data, tiny_model, key):
    config = TrainConfig(learning_rate=0.5, schedule="constant", momentum=0.0, weight_decay=0.1)
    step, theta = EndpointStep(tiny_model, config, 1), jax.tree.map(np.float64, alive(tiny_model))
    x, labels = np.float64(normalized(tiny_data.train_images[:9], tiny_data)), tiny_data.train_labels[:9]
    with jax.enable_x64(True):
        after = jax.jit(lambda theta: step({}, step.start(theta), x, labels, key)[0].theta)(theta)
        after = jax.tree.map(np.asarray, after)

    def value(layer, leaf, at, shift):
        moved = jax.tree.map(np.array, theta)
        moved["params"][layer][leaf][at] += shift
        squares = sum((leaf**2).sum() for leaf in jax.tree.leaves(moved))
        return cross_entropy(mlp(moved, x)[-1], labels).mean() + 0.05 * squares

    for layer, leaf, at in (("Dense_1", "kernel", (2, 3)), ("Dense_0", "kernel", (9, 4)), ("Dense_2", "bias", (1,))):
        slope = (value(layer, leaf, at, 1e-4) - value(layer, leaf, at, -1e-4)) / 2e-4
        moved = after["params"][layer][leaf][at] - theta["params"][layer][leaf][at]
        np.testing.assert_allclose(moved, -0.5 * slope, rtol=1e-4, atol=1e-8)


def test_a_convolutional_network_learns(key, tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    config = TrainConfig(epochs=12, batch_size=20, augmentation=Augmentation.none())
    endpoints = train_endpoints(jax.random.split(key, 2), model, tiny_colour_data, config)
    assert endpoints.history["accuracy"][:, -1].min() > 0.9


def test_model_and_data_that_do_not_fit_are_refused(key, tiny_data, tiny_model):
    keys = jax.random.split(key, 1)
    for keys_, model, words in (
        (keys, models.create("mlp", 3, (4, 4, 1)), ("(4, 4, 1)", "(8, 8, 1)")),
        (0, tiny_model, ("int",)),
        (jax.random.PRNGKey(0), tiny_model, ("jax.random.key(seed)",)),
        (keys, models.create("mlp", 2, (8, 8, 1)), ("bars", "3 classes", "mlp", "2")),
    ):
        with says(InputError, *words):
            train_endpoints(keys_, model, tiny_data)
