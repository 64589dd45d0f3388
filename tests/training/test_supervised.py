"""Tasks of a model and a data set: losses and metrics against numpy, losses of one's own, what does not fit."""

from dataclasses import replace

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import says
from variables import alive, cross_entropy, mlp, normalized

from mcjax import Augmentation, InputError, TrainConfig, data, evaluate, models, supervised, train_endpoints, trees
from mcjax.data import PgdAttack
from mcjax.training.endpoints import endpoint_fit
from mcjax.training.fit import parts_of
from mcjax.training.loss import outcome
from mcjax.training.supervised import SupervisedLoss, is_classes, label_losses, right
from mcjax.training.task import Task

KEY = jax.random.key(0)


@jax.jit
def measured(outputs, labels):
    """The metrics of outputs, whatever made them."""
    unused = jnp.zeros(1)
    return SupervisedLoss(None, jax.tree_util.Partial(label_losses), unused, unused).measure(outputs, labels)


@pytest.mark.parametrize("places", [(40,), (4, 7)], ids=["classes", "sequences"])
def test_metrics_of_classes_against_numpy(places):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(*places, 5)).astype(np.float32), rng.integers(0, 5, places)
    found = measured(logits, labels)
    assert found.keys() == {"loss", "accuracy"}
    np.testing.assert_allclose(found["loss"], cross_entropy(logits, labels).mean(), rtol=1e-6)
    np.testing.assert_allclose(found["accuracy"], (logits.argmax(-1) == labels).mean(), rtol=1e-6)


def test_metrics_of_numbers_against_numpy():
    outputs, labels = np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)
    found = measured(outputs, labels)
    assert found.keys() == {"loss", "error"}
    np.testing.assert_allclose(found["loss"], np.square(outputs - labels).mean(), rtol=1e-6)
    np.testing.assert_allclose(found["error"], np.abs(outputs - labels).mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "labels", "expected"),
    [
        ((5, 3), (5,), True),
        ((5, 7, 3), (5, 7), True),
        ((5, 1), (5,), False),  # a logit
        ((5, 3), (5, 3), False),  # several labels each
        ((5,), (5,), False),
        ((5, 7, 3), (5,), False),
    ],
)
def test_outputs_are_of_classes_if_there_is_a_number_for_each(outputs, labels, expected):
    numbers = np.zeros(outputs, np.float32)
    assert is_classes(numbers, np.zeros(labels, int)) is expected
    assert not is_classes(numbers, np.zeros(labels, np.float32))
    assert not is_classes({"a": numbers}, np.zeros(labels, int))


@pytest.mark.parametrize("places", [(6,), (3, 2)], ids=["classes", "sequences"])
def test_nan_among_the_outputs_is_no_class(places):
    outputs = np.random.default_rng(0).normal(size=(*places, 4)).astype(np.float32)
    labels = outputs.argmax(-1)
    assert measured(jnp.asarray(outputs), jnp.asarray(labels))["accuracy"] == 1
    outputs[(0,) * outputs.ndim] = np.inf
    np.testing.assert_array_equal(right(jnp.asarray(outputs), jnp.asarray(labels)), outputs.argmax(-1) == labels)
    outputs[(1,) * outputs.ndim] = np.nan
    assert np.isnan(right(jnp.asarray(outputs), jnp.asarray(labels))).sum() == 1
    assert np.isnan(measured(jnp.asarray(outputs), jnp.asarray(labels))["accuracy"])


def test_losses_keep_double_precision_and_are_at_least_float32():
    rng = np.random.default_rng(0)
    logits, labels, targets = rng.normal(size=(6, 5)), rng.integers(0, 5, 6), rng.normal(size=(6, 5))
    with jax.enable_x64(True):
        got = label_losses(jnp.asarray(logits), jnp.asarray(labels))
        np.testing.assert_allclose(got, cross_entropy(logits, labels), rtol=1e-14)
        np.testing.assert_allclose(label_losses(jnp.asarray(logits), jnp.asarray(targets)), np.square(logits - targets))
        assert jax.eval_shape(measured, logits, labels)["loss"].dtype == np.float64
    rough = jax.ShapeDtypeStruct((6, 5), jnp.bfloat16)
    for wanted in (labels, targets.astype(np.float32)):
        found = jax.eval_shape(measured, rough, wanted)
        assert {each.dtype.name for each in found.values()} == {"float32"}


def test_the_splits_are_those_of_the_data_as_they_are_stored(tiny_model, tiny_data):
    held = tiny_data.hold_out(30)
    task = supervised(tiny_model, held)
    for split in ("train", "validation", "test"):
        images, labels = task.split(split)
        assert images is getattr(held, f"{split}_images")
        assert labels is getattr(held, f"{split}_labels")
        assert images.dtype == np.uint8
    assert supervised(tiny_model, tiny_data).validation is None
    assert task.name == "mlp on bars"
    assert task.model is tiny_model
    batch = (tiny_data.test_images, tiny_data.test_labels)
    x = jax.jit(Task.model_inputs)(task, batch)
    np.testing.assert_allclose(x, normalized(tiny_data.test_images, held), rtol=1e-5, atol=1e-5)


def test_the_loss_is_in_training_mode_and_metrics_in_evaluation_mode(normed, normed_task, tiny_data):
    theta, batch = alive(normed), (tiny_data.train_images[:40], tiny_data.train_labels[:40])
    x = normalized(batch[0], tiny_data)
    dense, norm, last = (theta["params"][name] for name in ("Dense_0", "BatchNorm_0", "Dense_1"))
    hidden = np.float64(x).reshape(40, -1) @ dense["kernel"] + dense["bias"]
    stats = theta["batch_stats"]["BatchNorm_0"]

    def logits(mean, var):
        units = (hidden - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
        return np.maximum(units, 0) @ last["kernel"] + last["bias"]

    found = jax.jit(lambda task, theta, batch: outcome(task.loss, theta, batch, KEY))(normed_task, theta, batch)
    expected = cross_entropy(logits(hidden.mean(0), hidden.var(0)), batch[1]).mean()
    np.testing.assert_allclose([found.value, found.metrics["loss"]], expected, rtol=1e-4)
    got = found.batch_stats["BatchNorm_0"]
    np.testing.assert_allclose(got["mean"], hidden.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["var"], hidden.var(0), rtol=1e-4)
    evaluated = jax.jit(Task.measure)(normed_task, theta, batch)
    outputs = logits(stats["mean"], stats["var"])
    np.testing.assert_allclose(evaluated["loss"], cross_entropy(outputs, batch[1]).mean(), rtol=1e-4)
    np.testing.assert_allclose(evaluated["accuracy"], (outputs.argmax(1) == batch[1]).mean(), rtol=1e-6)


def test_attacks_raise_the_loss_in_training_and_are_measured_beside_the_images(tiny_model, tiny_data, tiny_task, key):
    """A network, attacked by hand in either mode, whose gradient is that of a loss of the attacked images."""
    attack = PgdAttack(epsilon=0.1, step_size=0.05, steps=3)
    robust, theta = supervised(tiny_model, tiny_data, attack=attack), alive(tiny_model)
    images, labels = (each[:30] for each in robust.train)
    x, moments = normalized(images, tiny_data), (tiny_data.mean, tiny_data.std)

    def loss(theta, x):
        return optax.softmax_cross_entropy_with_integer_labels(tiny_model.apply(theta, x), labels).mean()

    attack_key, _ = jax.random.split(key)
    attacked = attack(attack_key, x, lambda x: loss(theta, x), *moments)
    training = jax.value_and_grad(lambda theta: robust.loss(theta, (images, labels), key)[:2], has_aux=True)
    (value, found), gradient = training(theta)
    expected, slope = jax.value_and_grad(loss)(theta, attacked)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    chex.assert_trees_all_close(gradient, slope, rtol=1e-4, atol=1e-6)
    assert value > loss(theta, x) + 0.05
    assert found.keys() == {"loss", "accuracy"}
    measured, clean = (task.measure(theta, (images, labels)) for task in (robust, tiny_task))
    assert measured.keys() == {"loss", "accuracy", "robust_loss", "robust_accuracy"}
    np.testing.assert_allclose(measured["loss"], clean["loss"], rtol=1e-6)
    again = attack(jax.random.key(0), x, lambda x: loss(theta, x), *moments)
    np.testing.assert_allclose(measured["robust_loss"], loss(theta, again), rtol=1e-5)
    assert measured["robust_accuracy"] <= measured["accuracy"]


def test_training_against_attacks_makes_networks_robust(tiny_model, tiny_data, key):
    attack = PgdAttack(epsilon=0.25, step_size=0.1, steps=3)
    robust = supervised(tiny_model, tiny_data, attack=attack)
    config = TrainConfig(epochs=20, batch_size=20)
    plain, hardened = (train_endpoints(key, task, config).theta for task in (supervised(tiny_model, tiny_data), robust))
    losses = [evaluate(robust, theta)[0]["robust_loss"].item() for theta in (plain, hardened)]
    assert losses[1] < 0.7 * losses[0]


def test_images_are_augmented_by_the_default_of_the_data_or_as_it_is_said(tiny_data, tiny_colour_data, tiny_model):
    images, labels = tiny_colour_data.train_images[:60], tiny_colour_data.train_labels[:60]
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    assert supervised(tiny_model, tiny_data).augment is None  # grey images have no default
    assert supervised(model, tiny_colour_data, augmentation=Augmentation.none()).augment is None
    flips = supervised(model, tiny_colour_data, augmentation=Augmentation(flip=True, crop=0, rotate=0.0))
    augment = jax.jit(lambda task, key: task.augment(key, (images, labels)))
    drawn, same = augment(flips, KEY)
    np.testing.assert_array_equal(same, labels)
    kept, mirrored = ((np.asarray(drawn) == each).all((1, 2, 3)) for each in (images, images[:, :, ::-1]))
    assert (kept ^ mirrored).all()
    assert 15 < mirrored.sum() < 45
    default = supervised(model, tiny_colour_data).augment
    assert default.augmentation == tiny_colour_data.default_augmentation() != Augmentation.none()


def value_and_gradient(task, theta):
    def value(params):
        return outcome(task.loss, trees.with_params(theta, params), task.train, KEY)[:2]

    return jax.value_and_grad(value, has_aux=True)(trees.params(theta))


def test_a_loss_of_ones_own_that_is_the_default_gives_its_bits(tiny_model, tiny_data, tiny_task):
    theta = alive(tiny_model)
    own = supervised(tiny_model, tiny_data, loss=lambda outputs, labels: label_losses(outputs, labels))
    run = jax.jit(value_and_gradient)
    chex.assert_trees_all_equal(run(own, theta), run(tiny_task, theta))
    measure = jax.jit(Task.measure)
    chex.assert_trees_all_equal(measure(own, theta, own.test), measure(tiny_task, theta, own.test))


def test_losses_of_ones_own_against_numpy(tiny_model, tiny_data):
    theta = alive(tiny_model)
    logits = mlp(theta, normalized(tiny_data.train_images, tiny_data))[-1]
    hot = 0.8 * np.eye(3)[tiny_data.train_labels] + 0.2 / 3
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def smooth(outputs, labels):
        return optax.softmax_cross_entropy(outputs, optax.smooth_labels(jax.nn.one_hot(labels, 3), 0.2))

    task = supervised(tiny_model, tiny_data, loss=smooth)
    found = jax.jit(Task.measure)(task, theta, task.train)
    np.testing.assert_allclose(found["loss"], -(hot * logs).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], (logits.argmax(1) == tiny_data.train_labels).mean(), rtol=1e-6)

    # One loss for each class of an example.
    def each(outputs, labels):
        return optax.sigmoid_binary_cross_entropy(outputs, jax.nn.one_hot(labels, 3))

    task = supervised(tiny_model, tiny_data, loss=each)
    signs = 1 - 2 * np.eye(3)[tiny_data.train_labels]
    found = jax.jit(Task.measure)(task, theta, task.train)
    np.testing.assert_allclose(found["loss"], np.log1p(np.exp(signs * logits)).mean(), rtol=1e-5)


def weighted(weights, outputs, labels):
    return weights[labels] * label_losses(outputs, labels)


def test_class_weights_of_a_partial_are_traced(tiny_model, tiny_data):
    theta, traces = alive(tiny_model), []
    logits = mlp(theta, normalized(tiny_data.train_images, tiny_data))[-1]

    @jax.jit
    def value(task, theta):
        traces.append(1)
        return outcome(task.loss, theta, task.train, KEY).value

    for weights in ([1.0, 1.0, 1.0], [3.0, 1.0, 0.5]):
        loss = jax.tree_util.Partial(weighted, jnp.asarray(weights))
        got = value(supervised(tiny_model, tiny_data, loss=loss), theta)
        losses = np.asarray(weights)[tiny_data.train_labels] * cross_entropy(logits, tiny_data.train_labels)
        np.testing.assert_allclose(got, losses.mean(), rtol=1e-5)
    assert len(traces) == 1


def test_outputs_may_be_a_tree(tiny_model, tiny_data):
    """Two heads; the loss of one's own reads both."""

    def heads(outputs):
        return {"logits": outputs, "norm": jnp.square(outputs).sum(-1)}

    model = tiny_model._replace(
        apply=lambda theta, x: heads(tiny_model.apply(theta, x)),
        apply_train=lambda theta, x, key: (heads(tiny_model.apply_train(theta, x, key)[0]), {}),
    )

    def loss(outputs, labels):
        return label_losses(outputs["logits"], labels) + 0.1 * outputs["norm"]

    task, theta = supervised(model, tiny_data, loss=loss), alive(tiny_model)
    logits = mlp(theta, normalized(tiny_data.test_images, tiny_data))[-1]
    found = jax.jit(Task.measure)(task, theta, task.test)
    assert found.keys() == {"loss"}
    expected = cross_entropy(logits, tiny_data.test_labels) + 0.1 * np.square(logits).sum(1)
    np.testing.assert_allclose(found["loss"], expected.mean(), rtol=1e-5)
    (value, _), gradient = jax.jit(value_and_gradient)(task, theta)
    assert np.isfinite(value)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    with says(InputError, "norm", "logits", "loss=(outputs, labels)"):
        supervised(model, tiny_data)


def test_data_sets_of_one_shape_share_a_program(tiny_model, tiny_data):
    traces, theta = [], alive(tiny_model)

    @jax.jit
    def value(task, theta):
        traces.append(1)
        return task.measure(theta, task.train)["loss"]

    dark = replace(tiny_data, train_images=tiny_data.train_images // 2, mean=tiny_data.mean / 2)
    assert value(supervised(tiny_model, tiny_data), theta) != value(supervised(tiny_model, dark), theta)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda outputs, labels: label_losses(outputs, labels).mean(), ("shape ()", "(n, ...)")),
        (lambda outputs, labels: label_losses(outputs, labels).sum(keepdims=True), ("shape (1,)", "(n, ...)")),
        (lambda outputs, labels: {"a": label_losses(outputs, labels)}, ("'a'", "(n, ...)")),
        (lambda outputs, labels: outputs.argmax(-1) != labels, ("zero everywhere", "accuracy")),
        (3, ("got 3 for loss", "loss(outputs, labels)")),
    ],
)
def test_losses_of_the_wrong_shape_or_without_a_gradient_are_refused(loss, words, tiny_model, tiny_data):
    with says(InputError, *words):
        supervised(tiny_model, tiny_data, loss=loss)


def pixels(key):
    return {"w": jnp.ones((1, 3))}


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (("mlp", 1, (2,)), 2, ("(1,)", "(3,)", "loss=(outputs, labels)")),
        (("mlp", 2, (2,)), 2, ("(2,)", "(3,)")),
        (("lstm", 9, (8,)), 8, ("lstm", "int32", "float32")),
    ],
)
def test_models_that_do_not_fit_a_regression_are_refused(model, inputs, words):
    line = data.regression(np.ones((4, inputs)), np.ones((4, 3)), np.ones((2, inputs)), np.ones((2, 3)))
    supervised(models.create("mlp", 3, (inputs,)), line)
    with says(InputError, *words):
        supervised(models.create(*model, **({"width": 0.02} if model[0] == "lstm" else {})), line)


def test_labels_that_are_no_classes_are_refused(tiny_data, tiny_model):
    for split in ("train", "test", "validation"):
        images, labels = getattr(tiny_data, f"{split}_images"), getattr(tiny_data, f"{split}_labels")
        if labels is None:
            images, labels = tiny_data.test_images, tiny_data.test_labels
        for offset, words in ((1, ("1 to 3", "0 to 2")), (-1, ("-1 to 1", "0 to 2")), (2**33, ("0 to 2",))):
            changed = {f"{split}_images": images, f"{split}_labels": labels.astype(np.int64) + offset}
            with says(InputError, f"{split}_labels", *words):
                supervised(tiny_model, replace(tiny_data, **changed))
            # A loss of one's own knows what its labels mean.
            if offset < 2**31:
                own = supervised(tiny_model, replace(tiny_data, **changed), loss=lambda out, y: out[:, 0] * y)
                assert np.isfinite(evaluate(own, tiny_model.init(jax.random.key(0)))[0]["loss"])


def test_models_that_do_not_fit_images_and_classes_are_refused(tiny_data, tiny_model):
    example = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    each = models.from_function(pixels, lambda theta, x: x[:, 0] @ theta["w"], example)
    for model, words in (
        (each, ("(8, 3)", "(3,)")),
        (models.create("mlp", 2, (8, 8, 1)), ("bars", "3 classes", "mlp", "2")),
        (models.create("mlp", 3, (4, 4, 1)), ("(4, 4, 1)", "(8, 8, 1)")),
        (tiny_data, ("Dataset", "expected Model")),
    ):
        with says(InputError, *words):
            supervised(model, tiny_data)
    with says(InputError, "NoneType", "Dataset"):
        supervised(tiny_model, None)
    # A loss of one's own may read outputs of any shape, of these inputs.
    supervised(each, tiny_data, loss=lambda outputs, labels: label_losses(outputs.mean(1), labels))
    with says(InputError, "(4, 4, 1)", "(8, 8, 1)"):
        supervised(models.create("mlp", 3, (4, 4, 1)), tiny_data, loss=label_losses)


def test_batches_of_another_structure_are_refused(tiny_task):
    images, labels = tiny_task.train
    for batch in ({"image": images, "label": labels}, images):
        with says(InputError, "(inputs, labels)", str(images.shape)):
            tiny_task.with_examples(train=batch)
        with says(InputError, "(inputs, labels)", str(images.shape)):
            tiny_task.with_examples(train=lambda given=batch: iter([given]))


def test_images_alone_are_augmented():
    line = data.regression(np.ones((4, 2)), np.ones((4, 1)), np.ones((1, 2)), np.ones((1, 1)))
    model = models.create("mlp", 1, (2,))
    assert supervised(model, line).augment is None
    with says(InputError, "(2,)", "Augmentation.none()"):
        supervised(model, line, augmentation=Augmentation())


class Own(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
        return nn.Dense(3)(x.mean((1, 2)))


@pytest.mark.parametrize("own", [False, True], ids=["mcjax's", "flax's"])
def test_bfloat16_is_for_the_forward_and_backward_pass_alone(own, tiny_colour_data):
    batch = tiny_colour_data.train_images[:64], tiny_colour_data.train_labels[:64]
    example = np.zeros((1, 8, 8, 3), np.float32)
    model = models.from_flax(Own(), example) if own else models.create("tinysix", 3, (8, 8, 3), width=0.25)
    theta = alive(model)
    seen = []

    def apply_train(theta, x, key):
        outputs = model.apply_train(theta, x, key)
        seen.append({leaf.dtype.name for leaf in jax.tree.leaves((theta["params"], x, outputs[0]))})
        return outputs

    task = supervised(model._replace(apply_train=apply_train), tiny_colour_data)

    def gradient(theta, dtype):
        fit = endpoint_fit(task, optax.sgd(1.0), weight_decay=0.01, statistics_momentum=0.0, compute_dtype=dtype)
        descent, loss = parts_of(fit)
        (_, found), slope = descent.gradient(loss, fit.init(theta), batch, None, KEY)
        after, _ = fit.step(fit.init(theta), batch, KEY)
        return slope, found.metrics["loss"], after.variables["batch_stats"]

    run = jax.jit(gradient, static_argnums=1)
    seen.clear()
    slope, value, exact = run(theta, "float32")
    assert {*map(frozenset, seen)} == {frozenset({"float32"})}
    seen.clear()
    rough_slope, rough, statistics = run(theta, "bfloat16")
    assert {*map(frozenset, seen)} == {frozenset({"bfloat16"})}
    assert {leaf.dtype.name for leaf in jax.tree.leaves((rough, rough_slope, statistics))} == {"float32"}
    # What the running statistics are does not matter.
    far = {**theta, "batch_stats": jax.tree.map(lambda leaf: leaf + 100, theta["batch_stats"])}
    np.testing.assert_allclose(run(far, "float32")[1], value, rtol=1e-6)
    # Eight bits of mantissa: near the exact values, and not equal to them.
    assert 0 < abs(rough - value) < 0.02 * value
    apart, size = (
        np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(tree)))
        for tree in (jax.tree.map(np.subtract, rough_slope, slope), slope)
    )
    assert 0 < apart < 0.2 * size
    chex.assert_trees_all_close(statistics, exact, rtol=0.05, atol=0.02)
