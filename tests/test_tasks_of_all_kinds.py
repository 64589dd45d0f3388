"""Tasks of many kinds, from loss to measurement: each is trained, joined by a curve, and measured against an oracle."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import says
from streams import from_host

import mcjax
from mcjax import InputError, trees
from mcjax.training import Criterion

ADAM = optax.adam(2e-2)
TRAINING = mcjax.TrainConfig(epochs=20, batch_size=20, optimizer=ADAM, weight_decay=0.0)
CURVE = mcjax.FitConfig(epochs=10, batch_size=20, optimizer=ADAM, weight_decay=0.0)


@pytest.fixture(autouse=True)
def broadcasting():
    """As users have it, whose losses broadcast biases over batches."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def points():
    """120 points of the plane."""
    return jax.random.normal(jax.random.key(3), (120, 2))


@pytest.fixture(scope="module")
def mlp():
    return mcjax.models.create("mlp", 4, (2,), widths=(16,), activation="tanh")


class Heads(nn.Module):
    """Two heads in a dict, behind dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(nn.Dense(16)(x.reshape(len(x), -1))))
        return {"classes": nn.Dense(3)(x), "brightness": nn.Dense(1)(x)[:, 0]}


def joined(task, spec, mean_loss=None):
    """Train two networks of a task, join them, and return the endpoints and the metrics along the curve.

    The curve is no worse than the line, the ends learned something, and the train loss in the middle is `mean_loss` of
    the network there, computed by the test itself.
    """
    keys = jax.random.split(jax.random.key(0), 2)
    fresh = trees.stack([task.init(key) for key in keys])
    trained = mcjax.train_endpoints(keys, task, TRAINING)
    assert (trained.history["loss"][:, -1] < trained.history["loss"][:, 0]).all()
    theta_1, theta_2 = trees.unstack(trained.theta)
    curve = mcjax.bezier(spec)
    fit = mcjax.fit_curve(jax.random.key(1), task, curve, theta_1, theta_2, config=CURVE)
    found = mcjax.evaluate_path(task, fit.path, ts=5)
    line = mcjax.evaluate_path(task, mcjax.linear(spec).bind(theta_1, theta_2), ts=5)
    assert found.train_loss[0] == pytest.approx(line.train_loss[0], rel=1e-5)
    assert found.train_loss.mean() < line.train_loss.mean()
    if mean_loss is not None:
        assert found.train_loss[2] == pytest.approx(float(mean_loss(fit.path(0.5))), rel=1e-4)
    assert jax.tree.structure(fit.path(0.5)) == jax.tree.structure(trees.index(fresh, 0))
    return theta_1, theta_2, found


def test_multiple_labels(points, mlp):
    labels = jnp.stack([points[:, 0] > 0, points[:, 1] > 0, points.sum(1) > 0, points.prod(1) > 0], 1)

    def loss(theta, batch, key):
        x, y = batch
        return optax.sigmoid_binary_cross_entropy(mlp.apply(theta, x), y).mean()

    def by_hand(theta):
        logits = np.asarray(mlp.apply(theta, points), np.float64)
        signs = np.where(labels, 1.0, -1.0)
        return np.log1p(np.exp(-signs * logits)).mean()

    joined(mcjax.Task(loss, (points, labels), model=mlp), mlp.spec, by_hand)


def test_contrastive_loss(points, mlp):
    """Two views of a point attract, those of different points repel (InfoNCE); the batch is one array."""

    def loss(theta, batch, key):
        views = batch[None] + 0.1 * jax.random.normal(key, (2, *batch.shape))
        a, b = (z / jnp.linalg.norm(z, axis=-1, keepdims=True) for z in map(lambda v: mlp.apply(theta, v), views))
        return optax.softmax_cross_entropy_with_integer_labels(a @ b.T / 0.5, jnp.arange(len(a))).mean()

    theta_1, theta_2, _ = joined(mcjax.Task(loss, points, model=mlp), mlp.spec)
    match = mcjax.match_activations(mcjax.Task(loss, points, model=mlp), theta_1, theta_2)
    assert match.info["after"]["dense_0"] > match.info["before"]["dense_0"]


def test_physics_informed_residual():
    """u'' = -u with u(0) = 0, u'(0) = 1 has the solution sin: the loss differentiates the network by its input."""

    def network(theta, x):
        return (jnp.tanh(x * theta["in"] + theta["bias"]) * theta["out"]).sum()

    def init(key):
        keys = jax.random.split(key, 3)
        scales = {"in": 1.0, "bias": 1.0, "out": 0.3}
        return {name: s * jax.random.normal(each, (16,)) for (name, s), each in zip(scales.items(), keys, strict=True)}

    def loss(theta, batch, key):
        def u(x):
            return network(theta, x)

        def second(x):
            return jax.jvp(jax.grad(u), (x,), (jnp.ones_like(x),))[1]

        residual = jax.vmap(lambda x: second(x) + u(x))(batch["inside"])
        return jnp.square(residual).mean() + jnp.square(u(0.0)) + jnp.square(jax.grad(u)(0.0) - 1)

    inside = jnp.linspace(0, 2, 100)
    task = mcjax.Task(
        loss,
        {"inside": inside},
        init=init,
        metrics=lambda theta, batch: {
            "off_sine": jnp.square(
                jax.vmap(lambda x: network(theta, x))(batch["inside"]) - jnp.sin(batch["inside"])
            ).mean()
        },
    )
    config = mcjax.TrainConfig(epochs=300, batch_size=50, optimizer=ADAM, weight_decay=0.0)
    trained = mcjax.train_endpoints(jax.random.split(jax.random.key(0), 2), task, config).theta
    train, test = mcjax.evaluate(task, trained)
    assert (train["off_sine"] < 1e-3).all()
    assert test == {}
    theta_1, theta_2 = trees.unstack(trained)
    spec = mcjax.infer_spec(
        lambda theta, x: jnp.tanh(x[:, None] * theta["in"] + theta["bias"]) @ theta["out"], theta_1, inside
    )
    assert spec.group_sizes(theta_1) == {"in": 16}
    curve = mcjax.bezier(spec)
    fit = mcjax.fit_curve(jax.random.key(1), task, curve, theta_1, theta_2, config=CURVE)
    line = mcjax.evaluate_path(task, mcjax.linear(spec).bind(theta_1, theta_2), ts=9)
    assert mcjax.evaluate_path(task, fit.path, ts=9).train_loss.max() < line.train_loss.max()
    # Second derivatives by theta of a loss with derivatives by its inputs.
    eigenvalues = np.linalg.eigvalsh(mcjax.hessian.dense_hessian(mcjax.full_batch_loss(task), theta_1))
    assert eigenvalues[-1] > 0


def test_autoencoder(tiny_data):
    model = mcjax.models.from_flax(Coder(), jnp.zeros((1, 8, 8, 1)))
    images = jnp.asarray(tiny_data.train_images, jnp.float32) / 255

    def loss(theta, batch, key):
        return jnp.square(model.apply(theta, batch) - batch).mean()

    def by_hand(theta):
        return np.square(np.asarray(model.apply(theta, images)) - np.asarray(images)).mean()

    theta_1, theta_2, _ = joined(mcjax.Task(loss, images, images[:30], model=model), model.spec, by_hand)
    assert mcjax.repair(mcjax.Task(loss, images, model=model), theta_1, trees.stack([theta_1, theta_2])) is not None


class Coder(nn.Module):
    @nn.compact
    def __call__(self, x):
        code = nn.relu(nn.Dense(8)(x.reshape(len(x), -1)))
        return nn.Dense(64)(code).reshape(x.shape)


def test_language_model_on_tokens():
    tokens = jax.random.randint(jax.random.key(0), (120, 7), 0, 5).at[:, 1:].set(0).cumsum(1) % 5
    tokens = (tokens[:, :1] + jnp.arange(7)) % 5
    model = mcjax.models.from_flax(NextToken(), jnp.zeros((1, 6), jnp.int32))

    def loss(theta, batch, key):
        logits = model.apply(theta, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    task = mcjax.Task(loss, tokens, model=model, inputs=lambda batch: batch[:, :-1])
    theta_1, theta_2, found = joined(task, model.spec)
    assert found.train_loss[0] < 0.5  # the next token is the last one plus one
    match = mcjax.match_activations(task, theta_1, theta_2)
    assert match.P.keys() == set(model.spec.groups)


class NextToken(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(nn.relu(nn.Dense(16)(nn.Embed(5, 8)(x))))


def test_binary_classification_with_one_logit(tiny_data):
    model = mcjax.models.create("mlp", 1, (8, 8, 1), widths=(8,))
    zero = (tiny_data.train_labels > 0, tiny_data.test_labels > 0)
    data = mcjax.data.from_arrays(
        tiny_data.train_images, zero[0].astype(int), tiny_data.test_images, zero[1].astype(int)
    )
    with pytest.raises(mcjax.InputError, match="loss="):
        mcjax.supervised(model, data)
    task = mcjax.supervised(model, data, loss=lambda logits, y: optax.sigmoid_binary_cross_entropy(logits[:, 0], y))

    def by_hand(theta):
        x = mcjax.data.normalize(data.train_images, data.mean, data.std)
        logits = np.asarray(model.apply(theta, x), np.float64)[:, 0]
        return np.log1p(np.exp(-np.where(data.train_labels > 0, 1, -1) * logits)).mean()

    _, _, found = joined(task, model.spec, by_hand)
    assert found.values.keys() == {"train_loss", "test_loss"}


def test_model_that_returns_a_dict_and_has_dropout(tiny_data):
    model = mcjax.models.from_flax(Heads(), jnp.zeros((1, 8, 8, 1)))

    def losses(outputs, labels):
        return optax.softmax_cross_entropy_with_integer_labels(outputs["classes"], labels) + outputs["brightness"] ** 2

    task = mcjax.supervised(model, tiny_data, loss=losses)

    def by_hand(theta):  # without dropout
        x = mcjax.data.normalize(tiny_data.train_images, tiny_data.mean, tiny_data.std)
        return losses(model.apply(theta, x), jnp.asarray(tiny_data.train_labels)).mean()

    theta_1, _, _ = joined(task, model.spec, by_hand)
    batch = jax.tree.map(lambda leaf: leaf[:20], task.train)
    one, two = (task.loss(theta_1, batch, jax.random.key(seed))[0] for seed in range(2))
    assert one != two  # in training, dropout is drawn by the key


def test_class_weights_and_label_smoothing(tiny_data, tiny_model):
    weights = jnp.array([1.0, 2.0, 5.0])

    def losses(weights, logits, labels):
        smooth = optax.smooth_labels(jax.nn.one_hot(labels, 3), 0.1)
        return weights[labels] * optax.softmax_cross_entropy(logits, smooth)

    task = mcjax.supervised(tiny_model, tiny_data, loss=jax.tree_util.Partial(losses, weights))

    def by_hand(theta):
        x = mcjax.data.normalize(tiny_data.train_images, tiny_data.mean, tiny_data.std)
        logs = np.asarray(jax.nn.log_softmax(tiny_model.apply(theta, x)), np.float64)
        each = -(0.9 * logs[np.arange(len(logs)), tiny_data.train_labels] + 0.1 * logs.mean(1))
        return (np.asarray(weights)[tiny_data.train_labels] * each).mean()

    _, _, found = joined(task, tiny_model.spec, by_hand)
    assert "train_accuracy" in found.values


def test_plain_jax(points):
    """Parameters in a tuple of lists; no Flax and no model anywhere."""
    y = jnp.sin(points[:, :1]) + points[:, 1:]

    def network(theta, x):
        (a, b), (c, d) = theta
        return jnp.tanh(x @ a + b) @ c + d

    def init(key):
        one, two = jax.random.split(key)
        return ([jax.random.normal(one, (2, 16)), jnp.zeros(16)], [0.2 * jax.random.normal(two, (16, 1)), jnp.zeros(1)])

    def loss(theta, batch, key):
        return jnp.square(network(theta, batch["x"]) - batch["y"]).mean(), {"shift": theta[1][1][0]}

    task = mcjax.Task(loss, {"x": points, "y": y}, {"x": points[:9], "y": y[:9]}, init=init)
    spec = mcjax.infer_spec(network, init(jax.random.key(0)), points)
    theta_1, theta_2, found = joined(task, spec, lambda theta: np.square(np.asarray(network(theta, points) - y)).mean())
    assert found.values.keys() == {"train_loss", "train_shift", "test_loss", "test_shift"}
    P = mcjax.match_weights(jax.random.key(0), spec, theta_1, theta_2).P
    config = mcjax.PamConfig(curve=CURVE, permutation=mcjax.curves.PermutationFitConfig(epochs=3), iterations=2)
    pam = mcjax.fit_pam(jax.random.key(2), task, mcjax.bezier(spec), theta_1, theta_2, P, config)
    assert (np.diff(pam.objective) <= 0).all()
    # Tasks without init take single networks.
    bare = mcjax.Task(loss, {"x": points, "y": y}, spec=spec)
    fit = mcjax.fit_curve(jax.random.key(1), bare, mcjax.bezier(spec), theta_1, theta_2, config=CURVE)
    assert np.isfinite(fit.history["loss"]).all()
    config = mcjax.matching.StraightThroughConfig(epochs=3, batch_size=20)
    through = mcjax.match_straight_through(jax.random.key(3), bare, theta_1, theta_2, P, config)
    assert through.objective <= through.info["objectives"][0]
    threshold = 1.5 * float(found.train_loss[[0, -1]].max())
    config = mcjax.strings.StringConfig(training=TRAINING, criterion=Criterion(batch_size=60))
    string = mcjax.strings.sample_string(jax.random.key(4), bare, theta_1, theta_2, threshold, config=config)
    assert string.connected
    assert string.heights.max() <= 1.02 * threshold


def test_equinox_module(points):
    """A module of arrays and functions: its arrays are theta, by `eqx.partition`."""
    y = jnp.sin(points[:, 0])

    def make(key):
        return eqx.nn.MLP(2, "scalar", 16, 2, key=key)

    _, static = eqx.partition(make(jax.random.key(0)), eqx.is_inexact_array)

    def init(key):
        return eqx.partition(make(key), eqx.is_inexact_array)[0]

    def network(theta, x):
        return jax.vmap(eqx.combine(theta, static))(x)

    def loss(theta, batch, key):
        x, y = batch
        return jnp.square(network(theta, x) - y).mean()

    task = mcjax.Task(loss, (points, y), init=init)
    theta = init(jax.random.key(0))
    spec = mcjax.infer_spec(network, theta, points)
    assert sorted(spec.group_sizes(theta).values()) == [16, 16]
    P = mcjax.random_permutation(jax.random.key(1), spec, theta)
    np.testing.assert_allclose(network(mcjax.permute(spec, P, theta), points), network(theta, points), atol=1e-5)
    joined(task, spec, lambda theta: np.square(np.asarray(network(theta, points) - y)).mean())


def test_a_metric_of_the_users_along_paths_on_planes_and_for_strings(tiny_task, tiny_networks, tiny_ends):
    def worst(theta, batch):
        """The share of examples of class 0 that are classified wrongly, times its share."""
        outputs = tiny_task.model.apply(theta, tiny_task.model_inputs(batch))
        return ((outputs.argmax(-1) != batch[1]) & (batch[1] == 0)).mean(dtype=jnp.float32)

    spec = tiny_task.spec
    path = mcjax.linear(spec).bind(*tiny_ends)
    found = mcjax.evaluate_path(tiny_task, path, ts=3, metric=worst)
    expected = [float(worst(path(t), tiny_task.train)) for t in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(found.train_worst, expected, atol=1e-6)
    assert found.values.keys() >= {"train_loss", "train_accuracy", "train_worst", "test_worst"}
    corners = [trees.index(tiny_networks, i) for i in range(3)]
    plane = mcjax.plane(tiny_task, *corners, 3, metric=worst, splits="train")
    assert plane.values["train_worst"].shape == (3, 3)
    config = mcjax.strings.StringConfig(training=TRAINING, criterion=Criterion(worst, "test"))
    string = mcjax.strings.sample_string(jax.random.key(0), tiny_task, *tiny_ends, 0.5, config=config)
    assert string.connected
    assert string.values[0] == pytest.approx(float(worst(tiny_ends[0], tiny_task.test)), abs=1e-6)


def test_what_needs_arrays_says_so_of_a_stream_and_takes_what_is_loaded(tiny_task, tiny_model, tiny_ends):
    streamed, _ = from_host(tiny_task, "train", "test")
    key, (theta, other) = jax.random.key(0), tiny_ends
    curve = mcjax.linear(tiny_task.spec).bind(theta, other)
    group = next(iter(tiny_task.spec.groups))
    calls = (
        lambda task: mcjax.strings.sample_string(key, task, theta, other, 1.0),
        lambda task: mcjax.strings.sample_strings(key, task, theta, other, 1.0),
        lambda task: mcjax.strings.train_string(key, task, 1.0, theta, other),
        mcjax.hessian.full_batch_loss,
        lambda task: mcjax.landscape.ensemble_accuracy(task, trees.stack(tiny_ends)),
        lambda task: mcjax.landscape.noise_stability(key, task, theta),
        lambda task: mcjax.landscape.correlation_signature(task, curve),
        lambda task: mcjax.constructions.dropout_stability(key, task, theta),
        lambda task: mcjax.permutation_points.permutation_path(task, theta, group, (0, 1)),
        lambda task: mcjax.training.Criterion()(task, theta),
    )
    for call in calls:
        with says(InputError, "batches from the host", "task.load("):
            call(streamed)
    loaded = streamed.load(train=20, test=None)
    for got, whole, n in ((loaded.train, tiny_task.train, 20), (loaded.test, tiny_task.test, 50)):
        for leaf, expected in zip(got, whole, strict=True):
            np.testing.assert_array_equal(leaf, np.asarray(expected)[:n])
    # Only the examples that are used need be arrays.
    half = tiny_task.with_examples(test=lambda: iter([tiny_task.test]))
    mcjax.hessian.full_batch_loss(half)
    mcjax.landscape.ensemble_accuracy(half, trees.stack(tiny_ends), split="train")
    first = tiny_task.with_examples(train=loaded.train)
    np.testing.assert_allclose(
        mcjax.hessian.full_batch_loss(loaded)(theta), mcjax.hessian.full_batch_loss(first)(theta), 1e-6
    )
