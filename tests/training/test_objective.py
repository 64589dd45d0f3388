"""Loss, accuracy and the L2 term against numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import InputError, SpecError, data, models, trees
from mcjax.training.objective import check_fit, evaluate, evaluate_images, measure, objective


def cross_entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]


def test_measure_against_numpy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 5, 40)
    measured = measure(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(measured.loss, cross_entropy(logits, labels).mean(), rtol=1e-6)
    np.testing.assert_allclose(measured.accuracy, (logits.argmax(1) == labels).mean(), rtol=1e-6)


def test_labels_of_every_place_in_a_sequence():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 7, 5)).astype(np.float32), rng.integers(0, 5, (4, 7))
    measured = measure(jnp.asarray(logits), jnp.asarray(labels))
    flat = cross_entropy(logits.reshape(28, 5), labels.ravel())
    np.testing.assert_allclose(measured.loss, flat.mean(), rtol=1e-6)
    np.testing.assert_allclose(measured.accuracy, (logits.argmax(-1) == labels).mean(), rtol=1e-6)


def test_labels_that_are_numbers():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(2, 9, 3)).astype(np.float32)
    measured = measure(jnp.asarray(outputs), jnp.asarray(labels))
    np.testing.assert_allclose(measured.loss, np.square(outputs - labels).mean(), rtol=1e-6)
    np.testing.assert_allclose(measured.accuracy, 1 - np.abs(outputs - labels).mean(), atol=1e-6)


def test_what_does_not_go_together(tiny_data):
    line = data.regression(np.ones((4, 2)), np.ones((4, 3)), np.ones((2, 2)), np.ones((2, 3)))
    for outputs in (1, 2):
        with pytest.raises(InputError, match=rf"returns \({outputs},\) for every input: expected \(3,\), as the"):
            check_fit(models.create("mlp", outputs, (2,)), line)
    check_fit(models.create("mlp", 3, (2,)), line)
    words = models.create("lstm", 9, (8,), width=0.02)
    with pytest.raises(InputError, match="lstm takes int32, the inputs of regression are float32"):
        check_fit(words, data.regression(np.ones((4, 8)), np.ones((4, 3)), np.ones((2, 8)), np.ones((2, 3))))


def test_objective_adds_half_the_squared_norm_of_all_parameters(key, tiny_data, tiny_model):
    theta = tiny_model.init(key)
    x = data.normalize(tiny_data.train_images[:20], tiny_data.mean, tiny_data.std)
    labels = jnp.asarray(tiny_data.train_labels[:20])
    value, (measured, _) = objective(tiny_model, theta, x, labels, key, 0.01)
    squares = sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(theta["params"]))
    np.testing.assert_allclose(value, measured.loss + 0.005 * squares, rtol=1e-5)


def test_objective_normalises_by_the_batch_and_leaves_batch_statistics_out_of_the_norm(key):
    model = models.create("tinysix", 3, (12, 12, 3), width=0.25)
    theta = model.init(key)
    far = trees.with_batch_stats(theta, jax.tree.map(lambda leaf: leaf + 100.0, theta["batch_stats"]))
    x, labels = jax.random.normal(key, (6, 12, 12, 3)), jnp.arange(6) % 3
    one, _ = objective(model, theta, x, labels, key, 0.1)
    other, _ = objective(model, far, x, labels, key, 0.1)
    assert float(one) == float(other)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_every_image_counts_once_whatever_the_batches(key, tiny_data, tiny_model, batch_size):
    theta = tiny_model.init(key)
    logits = tiny_model.apply(theta, data.normalize(tiny_data.test_images, tiny_data.mean, tiny_data.std))
    measured = evaluate_images(
        tiny_model, theta, *map(jnp.asarray, (tiny_data.test_images, tiny_data.test_labels)),
        tiny_data.mean, tiny_data.std, batch_size,
    )  # fmt: skip
    np.testing.assert_allclose(measured.loss, cross_entropy(logits, tiny_data.test_labels).mean(), rtol=1e-5)
    expected = (np.asarray(logits).argmax(1) == tiny_data.test_labels).mean()
    np.testing.assert_allclose(measured.accuracy, expected, rtol=1e-6)


def test_evaluate_measures_both_splits(key, tiny_data, tiny_model):
    theta = tiny_model.init(key)
    train, test = evaluate(tiny_model, theta, tiny_data)
    for split, images, labels in (
        (train, tiny_data.train_images, tiny_data.train_labels),
        (test, tiny_data.test_images, tiny_data.test_labels),
    ):
        logits = tiny_model.apply(theta, data.normalize(images, tiny_data.mean, tiny_data.std))
        np.testing.assert_allclose(split.loss, cross_entropy(logits, labels).mean(), rtol=1e-5)


def test_evaluate_takes_many_networks_and_refuses_others(key, tiny_data, tiny_model):
    thetas = [tiny_model.init(k) for k in jax.random.split(key)]
    together = evaluate(tiny_model, trees.stack(thetas), tiny_data)
    for i, theta in enumerate(thetas):
        for many, one in zip(together, evaluate(tiny_model, theta, tiny_data), strict=True):
            np.testing.assert_allclose((many.loss[i], many.accuracy[i]), one, rtol=1e-5)
    with pytest.raises(SpecError, match="parameters alone: give"):
        evaluate(tiny_model, thetas[0]["params"], tiny_data)
    with pytest.raises(InputError, match="has 3 classes, mlp tells 2 apart"):
        evaluate(models.create("mlp", 2, (8, 8, 1)), thetas[0], tiny_data)


def test_what_is_no_classifier_of_images_is_refused(tiny_data):
    pixels = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    each = models.from_function(lambda key: {"w": jnp.ones((1, 3))}, lambda theta, x: x[:, 0] @ theta["w"], pixels)
    with pytest.raises(InputError, match=r"returns \(8, 3\) for every input: expected \(3,\), one logit a class"):
        check_fit(each, tiny_data)


class Own(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
        return nn.Dense(3)(x.mean((1, 2)))


@pytest.mark.parametrize("own", [False, True], ids=["mcjax's", "flax's"])
def test_bfloat16_is_for_the_forward_and_backward_pass_alone(own, key):
    x, labels = jax.random.normal(key, (64, 12, 12, 3)), jnp.arange(64) % 3
    model = models.from_flax(Own(), x[:1]) if own else models.create("tinysix", 3, (12, 12, 3), width=0.25)
    theta = model.init(key)
    seen = []

    def apply_train(theta, x, key):
        outputs = model.apply_train(theta, x, key)
        seen.append({leaf.dtype.name for leaf in jax.tree.leaves((theta["params"], x, outputs[0]))})
        return outputs

    def gradient(dtype):
        def loss(params):
            moved = trees.with_params(theta, params)
            return objective(model._replace(apply_train=apply_train), moved, x, labels, key, 0.01, dtype)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(theta["params"])

    (value, (_, exact)), slope = gradient("float32")
    (rough, (_, statistics)), rough_slope = gradient("bfloat16")
    assert seen == [{"float32"}, {"bfloat16"}]
    assert {leaf.dtype.name for leaf in jax.tree.leaves((rough, rough_slope, statistics))} == {"float32"}
    # Eight bits of mantissa: near the exact values, and not equal to them.
    assert 0 < abs(rough - value) < 0.02 * value
    assert 0 < trees.norm(trees.subtract(rough_slope, slope)) < 0.2 * trees.norm(slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02), statistics, exact)
