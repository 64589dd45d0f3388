"""Loss, accuracy and the L2 term against numpy."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from variables import alive, cross_entropy, mlp, normalized, stacked

from mcjax import InputError, SpecError, data, models, trees
from mcjax.training.objective import check_model_and_data, evaluate, evaluate_images, loss_and_accuracy, training_loss

measured = jax.jit(loss_and_accuracy)


@pytest.mark.parametrize("places", [(40,), (4, 7)], ids=["classes", "sequences"])
def test_measure_against_numpy(places):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(*places, 5)).astype(np.float32), rng.integers(0, 5, places)
    loss, accuracy = measured(logits, labels)
    np.testing.assert_allclose(loss, cross_entropy(logits, labels).mean(), rtol=1e-6)
    np.testing.assert_allclose(accuracy, (logits.argmax(-1) == labels).mean(), rtol=1e-6)


def test_labels_that_are_numbers():
    outputs, labels = np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)
    loss, accuracy = measured(outputs, labels)
    np.testing.assert_allclose(loss, np.square(outputs - labels).mean(), rtol=1e-6)
    np.testing.assert_allclose(accuracy, 1 - np.abs(outputs - labels).mean(), atol=1e-6)


def pixels(key):
    return {"w": jnp.ones((1, 3))}


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (("mlp", 1, (2,)), 2, ("(1,)", "(3,)")),
        (("mlp", 2, (2,)), 2, ("(2,)", "(3,)")),
        (("lstm", 9, (8,)), 8, ("lstm", "int32", "float32")),
    ],
)
def test_models_that_do_not_fit_a_regression_are_refused(model, inputs, words):
    line = data.regression(np.ones((4, inputs)), np.ones((4, 3)), np.ones((2, inputs)), np.ones((2, 3)))
    check_model_and_data(models.create("mlp", 3, (inputs,)), line)
    with says(InputError, *words):
        check_model_and_data(models.create(*model, **({"width": 0.02} if model[0] == "lstm" else {})), line)


def test_models_that_do_not_fit_images_and_classes_are_refused(tiny_data):
    example = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    each = models.from_function(pixels, lambda theta, x: x[:, 0] @ theta["w"], example)
    for model, words in ((each, ("(8, 3)", "(3,)")), (models.create("mlp", 2, (8, 8, 1)), ("3 classes", "mlp", "2"))):
        with says(InputError, *words):
            check_model_and_data(model, tiny_data)


def test_objective_adds_half_the_squared_norm_of_all_parameters(key, tiny_data, tiny_model):
    theta = alive(tiny_model)
    x, labels = normalized(tiny_data.train_images[:20], tiny_data), tiny_data.train_labels[:20]
    value, (found, _) = jax.jit(lambda theta: training_loss(tiny_model, theta, x, labels, key, 0.01))(theta)
    squares = sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(theta["params"]))
    expected = cross_entropy(mlp(theta, x)[-1], labels).mean()
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    np.testing.assert_allclose(value, expected + 0.005 * squares, rtol=1e-5)


def test_every_image_counts_once_whatever_the_batches(tiny_data, tiny_model):
    theta = alive(tiny_model)
    logits = mlp(theta, normalized(tiny_data.test_images, tiny_data))[-1]
    expected = cross_entropy(logits, tiny_data.test_labels).mean(), (logits.argmax(1) == tiny_data.test_labels).mean()
    run = jax.jit(evaluate_images, static_argnums=(0, 6))
    for batch_size in (1, 7, 64):
        found = run(
            tiny_model, theta, tiny_data.test_images, tiny_data.test_labels, tiny_data.mean, tiny_data.std, batch_size
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=str(batch_size))


def test_evaluate_measures_both_splits_of_one_or_many_networks_and_refuses_others(tiny_data, tiny_model):
    thetas = [alive(tiny_model, seed) for seed in range(2)]
    together = evaluate(tiny_model, stacked(thetas), tiny_data)
    for i, theta in enumerate(thetas):
        for many, one, split in zip(together, evaluate(tiny_model, theta, tiny_data), ("train", "test"), strict=True):
            images, labels = (getattr(tiny_data, f"{split}_{what}") for what in ("images", "labels"))
            logits = mlp(theta, normalized(images, tiny_data))[-1]
            expected = cross_entropy(logits, labels).mean(), (logits.argmax(1) == labels).mean()
            np.testing.assert_allclose(one, expected, rtol=1e-5)
            np.testing.assert_allclose((many.loss[i], many.accuracy[i]), expected, rtol=1e-5)
    with says(SpecError, "mlp", "{'params': ...}"):
        evaluate(tiny_model, thetas[0]["params"], tiny_data)
    with says(InputError, "3 classes", "mlp", "2"):
        evaluate(models.create("mlp", 2, (8, 8, 1)), thetas[0], tiny_data)


class Own(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
        return nn.Dense(3)(x.mean((1, 2)))


@pytest.mark.parametrize("own", [False, True], ids=["mcjax's", "flax's"])
def test_bfloat16_is_for_the_forward_and_backward_pass_alone(own, key):
    x, labels = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype(np.float32), np.arange(64) % 3
    model = models.from_flax(Own(), x[:1]) if own else models.create("tinysix", 3, (8, 8, 3), width=0.25)
    theta = alive(model)
    seen = []

    def apply_train(theta, x, key):
        outputs = model.apply_train(theta, x, key)
        seen.append({leaf.dtype.name for leaf in jax.tree.leaves((theta["params"], x, outputs[0]))})
        return outputs

    def gradient(theta, dtype):
        def loss(params):
            moved = trees.with_params(theta, params)
            return training_loss(model._replace(apply_train=apply_train), moved, x, labels, key, 0.01, dtype)

        return jax.value_and_grad(loss, has_aux=True)(theta["params"])

    run = jax.jit(gradient, static_argnums=1)
    (value, (_, exact)), slope = run(theta, "float32")
    (rough, (_, statistics)), rough_slope = run(theta, "bfloat16")
    assert seen == [{"float32"}, {"bfloat16"}]
    assert {leaf.dtype.name for leaf in jax.tree.leaves((rough, rough_slope, statistics))} == {"float32"}
    # What the running statistics are does not matter, and they are not in the norm.
    far = {**theta, "batch_stats": jax.tree.map(lambda leaf: leaf + 100, theta["batch_stats"])}
    np.testing.assert_allclose(run(far, "float32")[0][0], value, rtol=1e-6)
    # Eight bits of mantissa: near the exact values, and not equal to them.
    assert 0 < abs(rough - value) < 0.02 * value
    apart, size = (
        np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(tree)))
        for tree in (jax.tree.map(np.subtract, rough_slope, slope), slope)
    )
    assert 0 < apart < 0.2 * size
    chex.assert_trees_all_close(statistics, exact, rtol=0.05, atol=0.02)
