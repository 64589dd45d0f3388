"""Hessian and Gauss-Newton matrix: against jax.hessian of the loss written out, and J^T H J with closed forms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from variables import alive, permuted, spaced

from mcjax import InputError, PermutationSpec, Task, data, models, supervised, trees
from mcjax.hessian.full_batch import full_batch_loss
from mcjax.hessian.products import curvature_operator, dense_hessian, gauss_newton_product, hessian_product


@pytest.fixture(scope="module")
def network(line):
    return jax.tree.map(np.float64, alive(line[1]))


@pytest.fixture(scope="module")
def hessian(line, network):
    """The Hessian in float64 of the loss by one formula, with weight decay 0.1."""
    points, model = line
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(network["params"])

        def whole(vector):
            outputs = model.apply({"params": unravel(vector)}, jnp.asarray(points.train_images))
            return jnp.square(outputs - points.train_labels).mean() + 0.05 * vector @ vector

        return np.asarray(jax.jit(jax.hessian(whole))(flat))


def test_dense_hessian_is_that_of_the_loss_written_out(line_task, network, hessian):
    with jax.enable_x64(True):
        loss = full_batch_loss(line_task, batch_size=5, weight_decay=0.1)
        got = dense_hessian(loss, network, chunk=7)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, hessian, atol=1e-12)
    np.testing.assert_array_equal(got, got.T)
    leaves = trees.flatten(trees.params(network))
    names = [name for name, leaf in leaves.items() for _ in range(leaf.size)]
    assert len(names) == len(got)
    # An output's loss is a square: the last bias has the same curvature in all of its entries.
    last = np.array([name == "Dense_2/bias" for name in names])
    np.testing.assert_allclose(np.asarray(got)[np.ix_(last, last)], 1.1 * np.eye(2), atol=1e-12)


@pytest.mark.parametrize("product", [hessian_product, gauss_newton_product])
def test_batches_are_summed_in_float32_for_networks_of_bfloat16(product):
    """The loss w^2 on each of 600 examples has the curvature 2; ones summed in bfloat16 stay at 256."""
    x, y = np.ones((600, 1)), np.zeros((600, 1))
    model = models.from_function(lambda key: {"w": jnp.ones((1, 1))}, lambda theta, x: x @ theta["w"], x)
    loss = full_batch_loss(supervised(model, data.regression(x, y, x, y)), batch_size=1)
    theta = {"w": jnp.ones((1, 1), jnp.bfloat16)}
    found = product(loss, theta, theta)["w"]
    assert found.dtype == jnp.bfloat16
    # The share of an example is rounded to bfloat16, the sum is not.
    np.testing.assert_allclose(found, 2, rtol=0.005)
    np.testing.assert_allclose(jax.grad(loss)(theta)["w"], 2, rtol=0.005)


def test_products_are_those_with_the_matrix_under_jit_and_vmap(line_task, network, hessian):
    with jax.enable_x64(True):
        loss = full_batch_loss(line_task, batch_size=9, weight_decay=0.1)
        vectors = np.random.default_rng(0).normal(size=(3, len(hessian)))
        unravel = curvature_operator(loss, network).unravel
        many = jax.jit(jax.vmap(lambda vector: hessian_product(loss, network, unravel(vector))))(vectors)
    got = np.concatenate([np.asarray(leaf).reshape(3, -1) for leaf in jax.tree.leaves(many)], 1)
    np.testing.assert_allclose(got, vectors @ hessian, atol=1e-12)


def test_a_permuted_network_has_the_same_eigenvalues(line_task, network, hessian):
    moved = permuted(line_task.spec, {"dense_0": np.array([2, 0, 1]), "dense_1": np.array([1, 0])}, network)
    with jax.enable_x64(True):
        got = dense_hessian(full_batch_loss(line_task, batch_size=5, weight_decay=0.1), moved, chunk=7)
    assert not np.allclose(got, hessian)
    np.testing.assert_allclose(np.linalg.eigvalsh(got), np.linalg.eigvalsh(hessian), atol=1e-12)


def softmax_curvature(logits):
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return np.einsum("nc,cd->ncd", p, np.eye(p.shape[-1])) - np.einsum("nc,nd->ncd", p, p)


def explicit_gauss_newton(model, theta, x, curvature):
    """J^T H J summed over examples, J by jax.jacobian of the outputs, H in closed form."""
    flat, unravel = ravel_pytree(trees.params(theta))

    @jax.jit
    def both(vector):
        def outputs(vector):
            return model.apply(trees.with_params(theta, unravel(vector)), x)

        return jax.jacrev(outputs)(vector), outputs(vector)

    jacobian, outputs = map(np.asarray, both(flat))
    return np.einsum("nca,ncd,ndb->ab", jacobian, curvature(outputs), jacobian)


def test_gauss_newton_of_classes_and_of_numbers_is_that_written_out(line, line_task, network):
    points, model = line
    with jax.enable_x64(True):
        loss = full_batch_loss(line_task, batch_size=10, weight_decay=0.1)
        n = len(points.train_labels)
        # The mean over examples and two outputs of a square.
        expected = explicit_gauss_newton(
            model, network, points.train_images, lambda outputs: np.tile(np.eye(2) / n, (n, 1, 1))
        )
        got = dense_hessian(loss, network, curvature="gauss_newton")
        np.testing.assert_allclose(got, expected + 0.1 * np.eye(len(expected)), atol=1e-12)
        # The same network as a classifier: floats pass normalisation as they are.
        labels = np.arange(n, dtype=np.int32) % 2
        classes = data.Dataset(points.train_images, labels, points.test_images, labels, 2, np.zeros(1), np.ones(1))
        got = dense_hessian(
            full_batch_loss(supervised(model, classes), batch_size=10), network, curvature="gauss_newton"
        )
        expected = explicit_gauss_newton(
            model, network, points.train_images, lambda outputs: softmax_curvature(outputs) / n
        )
        np.testing.assert_allclose(got, expected, atol=1e-12)
        assert np.linalg.eigvalsh(got).min() > -1e-14


def curved(outputs, labels):
    """Two losses for each example, one of them of the first output alone, which is not convex."""
    return jnp.stack([jnp.cos(outputs[:, 0]) * labels[:, 1], outputs[:, 0] ** 2 * outputs[:, 1]], 1)


def curvature_of_curved(outputs, labels):
    matrices = np.zeros((len(outputs), 2, 2))
    matrices[:, 0, 0] = -np.cos(outputs[:, 0]) * labels[:, 1] + 2 * outputs[:, 1]
    matrices[:, 0, 1] = matrices[:, 1, 0] = 2 * outputs[:, 0]
    return matrices / 2


# All in one batch, and in two batches and a rest.
@pytest.mark.parametrize("batch_size", [23, 10])
def test_gauss_newton_of_losses_of_ones_own(line, network, batch_size):
    points, model = line
    with jax.enable_x64(True):
        loss = full_batch_loss(supervised(model, points, loss=curved), batch_size=batch_size, weight_decay=0.1)
        got = dense_hessian(loss, network, curvature="gauss_newton")
    assert got.dtype == jnp.float64
    n, labels = len(points.train_labels), points.train_labels
    with jax.enable_x64(True):
        expected = explicit_gauss_newton(
            model, network, points.train_images, lambda outputs: curvature_of_curved(outputs, labels) / n
        )
    np.testing.assert_allclose(got, expected + 0.1 * np.eye(len(expected)), atol=1e-12)
    # The loss is not convex in the outputs.
    assert np.linalg.eigvalsh(expected).min() < -1e-2


def test_gauss_newton_of_a_tree_of_outputs(line, network):
    """One output in each leaf, with the squared error of both: the matrix of the regression."""
    points, model = line

    def apply(theta, x):
        outputs = model.apply(theta, x)
        return {"first": outputs[:, 0], "second": (outputs[:, 1],)}

    def losses(outputs, labels):
        return jnp.square(jnp.stack([outputs["first"], *outputs["second"]], 1) - labels)

    with jax.enable_x64(True):
        both = model._replace(apply=apply, apply_train=lambda theta, x, key: (apply(theta, x), {}))
        task = supervised(both, points, loss=losses)
        got, expected = (
            dense_hessian(full_batch_loss(each, batch_size=10), network, curvature="gauss_newton")
            for each in (task, supervised(model, points))
        )
    np.testing.assert_allclose(got, expected, atol=1e-13)


def test_gauss_newton_takes_losses_of_outputs_only(line_task, network):
    """The outputs that a loss or metrics of one's own are of are not known."""
    model = line_task.model

    def loss(theta, batch, key):
        return jnp.square(model.apply(theta, batch[0]) - batch[1]).mean()

    theta = trees.cast(network, jnp.float32)
    own = Task(loss, line_task.train, model=model)
    metrics = replace(line_task, metrics=lambda theta, batch: {"loss": loss(theta, batch, None)})
    for task in (own, metrics):
        whole = full_batch_loss(task)
        np.testing.assert_allclose(whole(theta), full_batch_loss(line_task)(theta), rtol=1e-5)
        with pytest.raises(InputError, match=r"loss or metrics.*supervised\(model, data.*curvature=\"hessian\""):
            dense_hessian(whole, theta, curvature="gauss_newton")


def convolved(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_gauss_newton_of_convolutions(key, tiny_data, tiny_model):
    def apply(theta, x):
        padding, layout = ((1, 1), (1, 1)), ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, theta["kernel"], (2, 2), padding, dimension_numbers=layout).max((1, 2))

    model = tiny_model._replace(
        init=lambda key: {"kernel": jax.random.normal(key, (2, 2, 1, 3))},
        apply=apply,
        spec=PermutationSpec({"kernel": (None,) * 4}),
    )
    theta = model.init(key)
    x = data.normalize(spaced(tiny_data.train_images, 9), tiny_data.mean, tiny_data.std)
    loss = full_batch_loss(supervised(model, tiny_data), examples=9, batch_size=4)
    got = dense_hessian(loss, theta, curvature="gauss_newton")
    expected = explicit_gauss_newton(model, theta, x, lambda outputs: softmax_curvature(outputs) / 9)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_any_function_of_any_tree_and_batch_statistics_stand_still():
    a, b = np.diag([3.0, -1.0]), np.array([[2.0, 1.0], [1.0, 0.0]])

    def loss(theta):
        u, v = theta["params"]["u"], theta["params"]["v"]
        return theta["batch_stats"]["s"] ** 2 * (u @ a @ u + v.ravel() @ b @ v.ravel()) / 2

    theta = {"params": {"v": jnp.ones((2, 1)), "u": jnp.ones(2)}, "batch_stats": {"s": jnp.asarray(2.0)}}
    expected = 4 * np.block([[a, np.zeros((2, 2))], [np.zeros((2, 2)), b]])
    np.testing.assert_allclose(dense_hessian(loss, theta), expected, atol=1e-6)
    got = hessian_product(loss, theta, {"v": np.ones((2, 1)), "u": np.array([1, 0])})
    np.testing.assert_allclose(got["v"], [[12], [4]])
    np.testing.assert_allclose(got["u"], [12, 0])


def test_bad_arguments_are_refused(line_task, network):
    loss = full_batch_loss(line_task)
    theta = trees.cast(network, jnp.float32)

    def square(x):
        return jnp.square(x).sum()

    class Unhashable:
        __hash__ = None

        def __call__(self, theta):
            return 0.0

    for said, call in (
        ("full_batch_loss", lambda: dense_hessian(3, theta)),
        ("Unhashable", lambda: dense_hessian(Unhashable(), theta)),
        (r"float32 \(3,\)", lambda: dense_hessian(jnp.sin, jnp.ones(3))),
        ("no floating-point parameters", lambda: dense_hessian(square, {"params": {}})),
        ("no floating-point parameters", lambda: dense_hessian(square, {"k": jnp.arange(3)})),
        ("6000 parameters", lambda: dense_hessian(square, jnp.ones(6000))),
        ("chunk=0", lambda: dense_hessian(loss, theta, chunk=0)),
        ("'fisher'", lambda: dense_hessian(loss, theta, curvature="fisher")),
        ("without access to the outputs", lambda: gauss_newton_product(square, jnp.ones(3), jnp.ones(3))),
        (
            r"vector: .*\(4,\).*\(3,\)",
            lambda: hessian_product(square, jnp.ones(3), jnp.ones(4)),
        ),
        ("vector: .*Dense_0/bias", lambda: gauss_newton_product(loss, theta, theta)),
    ):
        with pytest.raises(InputError, match=said):
            call()
