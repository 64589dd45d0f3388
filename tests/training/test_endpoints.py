"""Endpoints: seeds that do not depend on each other, running statistics, what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import Augmentation, InputError, TrainConfig, data, evaluate, models, train_endpoints, trees
from mcjax.training.endpoints import EndpointState, EndpointStep

CONFIG = TrainConfig(epochs=4, batch_size=20)


def test_networks_learn_and_differ(tiny_data, tiny_model, key):
    endpoints = train_endpoints(jax.random.split(key, 3), tiny_model, tiny_data, TrainConfig(epochs=15, batch_size=20))
    for i in range(3):
        _, test = evaluate(tiny_model, trees.index(endpoints.theta, i), tiny_data)
        assert test.accuracy == 1.0
    kernels = endpoints.theta["params"]["Dense_0"]["kernel"]
    assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 0.1


def test_the_network_of_a_key_does_not_depend_on_the_others(tiny_data, tiny_model, key):
    keys = jax.random.split(key, 3)
    together = train_endpoints(keys, tiny_model, tiny_data, CONFIG)
    alone = train_endpoints(keys[1:2], tiny_model, tiny_data, CONFIG)
    again = train_endpoints(keys, tiny_model, tiny_data, CONFIG)
    for name, leaf in trees.flatten(together.theta).items():
        np.testing.assert_allclose(leaf[1], trees.flatten(alone.theta)[name][0], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(leaf, trees.flatten(again.theta)[name])


def test_running_statistics_mix_in_those_of_the_batch(key):
    model = models.create("tinysix", 3, (12, 12, 3), width=0.25)
    config = TrainConfig(learning_rate=0.1, schedule="constant", statistics_momentum=0.75)
    step = EndpointStep(model, config, 1)
    state = jax.jit(step.init)(key)
    x, labels = jax.random.normal(key, (6, 12, 12, 3)), jnp.arange(6) % 3
    after, _ = jax.jit(step)({}, state, x, labels, key)
    _, batch = jax.jit(model.apply_train)(state.theta, x, key)
    for name, leaf in trees.flatten(after.theta["batch_stats"]).items():
        expected = 0.75 * trees.flatten(state.theta["batch_stats"])[name] + 0.25 * trees.flatten(batch)[name]
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)


def test_one_step_descends_the_numerical_gradient(tiny_data, tiny_model, key):
    config = TrainConfig(learning_rate=0.5, schedule="constant", momentum=0.0, weight_decay=0.1)
    step = EndpointStep(tiny_model, config, 1)
    with jax.enable_x64(True):
        theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tiny_model.init(key))
        x = jnp.asarray(data.normalize(tiny_data.train_images[:9], tiny_data.mean, tiny_data.std), jnp.float64)
        labels = jnp.asarray(tiny_data.train_labels[:9])
        after, _ = step({}, EndpointState(theta, step.init(key).optimizer), x, labels, key)

        def value(shift):
            moved = theta["params"]["Dense_1"]["kernel"].at[2, 3].add(shift)
            params = {**theta["params"], "Dense_1": {**theta["params"]["Dense_1"], "kernel": moved}}
            logits = np.asarray(tiny_model.apply({"params": params}, x))
            losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(9), np.asarray(labels)]
            squares = sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(params))
            return losses.mean() + 0.05 * squares

        slope = (value(1e-4) - value(-1e-4)) / 2e-4
        moved = after.theta["params"]["Dense_1"]["kernel"][2, 3] - theta["params"]["Dense_1"]["kernel"][2, 3]
    np.testing.assert_allclose(moved, -0.5 * slope, rtol=1e-4)


def test_a_convolutional_network_learns(key, tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    config = TrainConfig(epochs=12, batch_size=20, augmentation=Augmentation.none())
    endpoints = train_endpoints(jax.random.split(key, 2), model, tiny_colour_data, config)
    assert endpoints.history["accuracy"][:, -1].min() > 0.9


def test_model_and_data_that_do_not_fit_are_refused(key, tiny_data):
    keys = jax.random.split(key, 1)
    with pytest.raises(InputError, match=r"takes images of shape \(4, 4, 1\).*\(8, 8, 1\)"):
        train_endpoints(keys, models.create("mlp", 3, (4, 4, 1)), tiny_data)
    for key_ in (0, jax.random.PRNGKey(0)):
        with pytest.raises(InputError, match="expected a typed one"):
            train_endpoints(key_, models.create("mlp", 3, (8, 8, 1)), tiny_data)
    with pytest.raises(InputError, match="has 3 classes, mlp tells 2 apart"):
        train_endpoints(keys, models.create("mlp", 2, (8, 8, 1)), tiny_data)
