"""Endpoints: seeds that do not depend on each other, loops of one's own, running statistics, what does not fit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import says
from streams import Epochs, from_host
from variables import alive, cross_entropy, mlp, normalized

from mcjax import (
    SGD,
    Augmentation,
    FitConfig,
    InputError,
    RunError,
    Task,
    TrainConfig,
    evaluate,
    models,
    supervised,
    train_endpoints,
    trees,
)
from mcjax.training import Criterion
from mcjax.training.endpoints import endpoint_fit
from mcjax.training.loop import EpochPlan
from mcjax.training.loss import outcome


def test_networks_learn_and_differ(tiny_task, tiny_networks):
    _, test = evaluate(tiny_task, tiny_networks)
    np.testing.assert_array_equal(test["accuracy"], 1.0)
    kernels = np.asarray(tiny_networks["params"]["Dense_0"]["kernel"])
    assert all(np.abs(kernels[i] - kernels[j]).max() > 0.1 for i in range(4) for j in range(i))


def test_the_network_of_a_key_does_not_depend_on_the_others(tiny_task, tiny_networks):
    keys, config = jax.random.split(jax.random.key(1), 4), TrainConfig(epochs=15, batch_size=20)
    chex.assert_trees_all_equal(train_endpoints(keys, tiny_task, config).theta, tiny_networks)
    alone = train_endpoints(keys[1], tiny_task, config)  # one key, one network, without an axis
    chex.assert_trees_all_close(alone.theta, trees.index(tiny_networks, 1), rtol=1e-3, atol=1e-5)
    assert alone.history["loss"].shape == (15,)


def batches_of(task, key, batch_size):
    """The batches of an epoch and their keys, as the loop draws them: its order, then its augmentation."""
    order_key, steps_key = jax.random.split(key)
    n = len(task.train[1])
    steps = n // batch_size
    order = jax.random.permutation(order_key, n)[: steps * batch_size].reshape(steps, batch_size)
    for indices, step_key in zip(order, jax.random.split(steps_key, steps), strict=True):
        augment_key, loss_key = jax.random.split(step_key)
        batch = jax.tree.map(lambda leaf, indices=indices: jnp.asarray(leaf)[indices], task.train)
        yield (batch if task.augment is None else task.augment(augment_key, batch)), loss_key


ADAM = optax.adam(3e-3)
# Adam would scale up the rounding in the gradient of a bias in front of a norm, which is zero.
MOMENTUM = optax.sgd(0.05, momentum=0.9)


@pytest.mark.parametrize("augmented", [False, True], ids=["plain", "flipped"])
def test_a_loop_of_ones_own_is_that_of_train_endpoints(augmented, key, normed, tiny_data):
    flips = Augmentation(flip=True, crop=0, rotate=0.0)
    task = supervised(normed, tiny_data, augmentation=flips if augmented else None)
    config = TrainConfig(epochs=3, batch_size=25, optimizer=MOMENTUM, weight_decay=0.01, statistics_momentum=0.8)
    found = train_endpoints(key[None], task, config)
    init_key, epoch_key = jax.random.split(key)
    fit = endpoint_fit(task, MOMENTUM, weight_decay=0.01, statistics_momentum=0.8)
    step, losses = jax.jit(fit.step), []
    state = fit.init(jax.jit(normed.init)(init_key))
    for epoch in range(3):
        for batch, loss_key in batches_of(task, jax.random.fold_in(epoch_key, epoch), 25):
            state, metrics = step(state, batch, loss_key)
            losses.append(metrics["loss"])
    chex.assert_trees_all_close(state.variables, trees.index(found.theta, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.history["loss"][0], np.reshape(losses, (3, 4)).mean(1), rtol=1e-5)


def test_a_loop_of_ones_own_goes_without_a_model_or_a_data_set():
    """A line through points by gradient descent, in closed form: w <- (1 - 2 r c) w + 2 r c w*, with c the squares."""
    x = np.float32([[1.0], [2.0], [-1.0]])

    def loss(theta, batch, key):
        return jnp.square(batch[0] * theta - batch[1]).mean()

    fit = endpoint_fit(Task(loss, (x, 3 * x)), optax.sgd(0.05))
    state, step = fit.init(jnp.float32(0.5)), jax.jit(fit.step)
    for _ in range(4):
        state, metrics = step(state, (x, 3 * x), jax.random.key(0))
    rest = (1 - 2 * 0.05 * 2) ** 4
    np.testing.assert_allclose(state.variables, 3 + (0.5 - 3) * rest, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 2 * 2.5**2 * (1 - 0.2) ** 6, rtol=1e-5)


def test_running_statistics_mix_in_those_of_the_batch(key, tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    task, theta = supervised(model, tiny_colour_data), alive(model)
    fit = endpoint_fit(task, optax.sgd(0.1), statistics_momentum=0.75)
    batch = (tiny_colour_data.train_images[:6], tiny_colour_data.train_labels[:6])

    @jax.jit
    def run(theta):
        x = task.model_inputs(batch)
        return fit.step(fit.init(theta), batch, key)[0].variables, model.apply_train(theta, x, key)[1]

    after, stats = run(theta)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, theta["batch_stats"], dict(stats))
    chex.assert_trees_all_close(after["batch_stats"], expected, rtol=1e-5, atol=1e-6)


def test_the_momentum_of_statistics_is_that_of_the_config(key, normed_task):
    """After one step of zero rate, the statistics are momentum * initial + the rest of the batch's."""
    means = []
    for momentum in (0.0, 0.5):
        config = TrainConfig(1, 120, optimizer=optax.sgd(0.0), steps_per_epoch=1, statistics_momentum=momentum)
        theta = train_endpoints(key[None], normed_task, config).theta
        means.append(np.asarray(theta["batch_stats"]["BatchNorm_0"]["mean"]))
    assert np.abs(means[0]).max() > 0.1
    np.testing.assert_allclose(means[1], 0.5 * means[0], rtol=1e-5)  # they start at zero


def test_one_step_descends_the_numerical_gradient(tiny_data, tiny_model, tiny_task, key):
    theta = jax.tree.map(np.float64, alive(tiny_model))
    images, labels = tiny_data.train_images[:9], tiny_data.train_labels[:9]
    x = np.float64(normalized(images, tiny_data))
    with jax.enable_x64(True):
        fit = endpoint_fit(tiny_task, optax.sgd(0.5), weight_decay=0.1)
        after = jax.jit(lambda theta: fit.step(fit.init(theta), (images, labels), key)[0].variables)(theta)
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


def test_weight_decay_is_of_the_parameters_alone(key, normed, normed_task):
    """One step with decay less one without it is minus the rate times decay times the parameters."""
    theta, batch = alive(normed), tuple(part[:20] for part in normed_task.train)
    fits = [endpoint_fit(normed_task, optax.sgd(0.1), weight_decay=decay) for decay in (0.0, 0.3)]
    plain, decayed = (jax.jit(fit.step)(fit.init(theta), batch, key)[0].variables for fit in fits)
    expected = jax.tree.map(lambda moved, leaf: moved - 0.1 * 0.3 * leaf, plain["params"], theta["params"])
    chex.assert_trees_all_close(decayed["params"], expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(decayed["batch_stats"], plain["batch_stats"])


def test_a_convolutional_network_learns(key, tiny_colour_data):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    task = supervised(model, tiny_colour_data, augmentation=Augmentation.none())
    endpoints = train_endpoints(jax.random.split(key, 2), task, TrainConfig(epochs=12, batch_size=20))
    assert endpoints.history["accuracy"][:, -1].min() > 0.9


def test_any_loss_and_any_init_are_trained(key):
    """The median of points by the mean distance to them; the history has the metrics of the loss."""
    points = np.random.default_rng(0).normal(size=(101, 1)).astype(np.float32)

    def loss(theta, batch, key):
        value = jnp.abs(batch - theta["centre"][None]).mean()
        return value, {"twice": 2 * value}

    task = Task(loss, points, init=lambda key: {"centre": jax.random.normal(key, (1,))})
    config = TrainConfig(200, 101, optax.sgd(optax.cosine_decay_schedule(0.2, 200)), weight_decay=0.0)
    found = train_endpoints(jax.random.split(key, 2), task, config)
    np.testing.assert_allclose(found.theta["centre"], np.full((2, 1), np.median(points)), atol=2e-3)
    assert found.history.keys() == {"loss", "twice"}
    assert found.history["loss"].shape == (2, 200)
    np.testing.assert_allclose(found.history["twice"], 2 * found.history["loss"], rtol=1e-6)


def test_a_loss_that_is_not_finite_names_the_batch(key):
    """The square of one point alone is infinite; a full batch has it, the batch that has it is named else."""
    points = np.ones((12, 1), np.float32)
    points[7] = 1e30

    def loss(theta, batch, key):
        return jnp.square(batch * theta["w"][None]).mean()

    task = Task(loss, points, init=lambda key: {"w": jnp.ones(1)})
    config = TrainConfig(3, 4, optax.sgd(1e-3))
    order_key, _ = jax.random.split(jax.random.fold_in(jax.random.split(key)[1], 0))
    at = int(np.flatnonzero(np.asarray(jax.random.permutation(order_key, 12)) == 7)[0]) // 4
    with says(RunError, "number 0 of 1", "epoch 1", f"batch {at + 1}.", "learning rate"):
        train_endpoints(key[None], task, config)


def test_what_does_not_fit_is_refused(key, tiny_task, tiny_data, tiny_model):
    keys = jax.random.split(key, 1)
    bare = Task(tiny_task.loss, tiny_task.train, name="mine")
    for given, words in (
        ((0, tiny_task), ("int",)),
        ((jax.random.PRNGKey(0), tiny_task), ("jax.random.key(seed)",)),
        ((keys, tiny_model), ("Model", "mcjax.supervised(model, data)")),
        ((keys, tiny_data), ("Dataset", "mcjax.supervised(model, data)")),
        ((keys, bare), ("mine", "no init", "Task(..., init=init)")),
        ((keys, tiny_task, FitConfig()), ("FitConfig", "TrainConfig")),
        ((keys, tiny_task, SGD()), ("SGD", "TrainConfig")),
        ((keys, tiny_task, TrainConfig(batch_size=121)), ("batch_size=121", "120", "mlp on bars")),
    ):
        with says(InputError, *words):
            train_endpoints(*given)
    with says(InputError, "optimizer='adam'", "optax.adam(1e-3)"):
        endpoint_fit(tiny_task, "adam")
    with says(InputError, "Model", "mcjax.supervised(model, data)"):
        endpoint_fit(tiny_model, ADAM)


def test_dropout_and_augmentation_have_keys_of_their_own(key, tiny_task):
    """The loss of a step sees the second half of the step's key, whatever the augmentation draws."""
    seen = []

    def loss(theta, batch, key):
        jax.debug.callback(lambda data: seen.append(tuple(np.asarray(data).tolist())), jax.random.key_data(key))
        return outcome(tiny_task.loss, theta, batch, key).value

    task = Task(loss, tiny_task.train, model=tiny_task.model)
    train_endpoints(key[None], task, TrainConfig(2, 60, ADAM))
    jax.effects_barrier()
    epoch_key = jax.random.split(key)[1]
    expected = {
        tuple(jax.random.key_data(loss_key).tolist())
        for epoch in range(2)
        for _, loss_key in batches_of(task, jax.random.fold_in(epoch_key, epoch), 60)
    }
    assert {*seen} == expected
    assert len(expected) == 4


@pytest.mark.parametrize("kind", ["tiny_model", "normed"])
def test_networks_trained_from_the_host_are_those_of_the_same_batches(kind, request, tiny_data, key):
    """With augmentation, and with batch statistics or a target that is measured on a stream too."""
    model = request.getfixturevalue(kind)
    task = supervised(model, tiny_data, augmentation=Augmentation(flip=True, crop=1, rotate=0.0))
    config = TrainConfig(epochs=4, batch_size=20, steps_per_epoch=6, optimizer=MOMENTUM)
    options = {"target": 0.9, "criterion": Criterion("loss", "test")} if kind == "tiny_model" else {}
    source = Epochs(task.train, 17, EpochPlan(20, 6), jax.random.split(key)[1])
    streamed = from_host(task, "test")[0].with_examples(train=source.stream(4, 20))
    got, expected = (train_endpoints(key[None], each, config, **options) for each in (streamed, task))
    chex.assert_trees_all_equal(got, expected)
    assert not options or 0 < got.criterion[0] < 0.9
