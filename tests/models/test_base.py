"""Models of one's own Flax modules, and telling one network from many."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import Axis, InputError, SpecError, check_invariance, models, trees
from mcjax.models.base import check_input, has_leading_axis
from mcjax.symmetry import declare


class Net(nn.Module):
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=self.momentum)(x))
        x = nn.relu(nn.Dense(5)(x.reshape(x.shape[0], -1)))
        return nn.Dense(3)(x)


CONV, DENSE = declare.conv("Conv_0", None, "conv"), declare.dense("Dense_0", Axis("conv", outer=20), "dense")
NORM, LAST = declare.norm("BatchNorm_0", "conv"), declare.dense("Dense_1", "dense", None)
CAPTURES = {"conv": "BatchNorm_0", "dense": ["Dense_0"]}
SHAPE = (4, 5, 2)


def from_net(*parts, activations=CAPTURES, momentum=0.9, **options):
    spec = declare.join(*(parts or (CONV, NORM, DENSE, LAST)))
    example = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    return models.from_flax(Net(momentum), example, spec=spec, activations=activations, nonlinearity=nn.relu, **options)


def variables(model, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def draw(name, leaf):
        return rng.random(leaf.shape) + 0.5 if name.endswith("var") else rng.normal(size=leaf.shape)

    return jax.tree.map(np.float32, trees.map_with_name(draw, shapes))


def images(n=6, seed=1):
    return np.random.default_rng(seed).normal(size=(n, *SHAPE)).astype(np.float32)


def convolved(theta, x):
    layer = theta["params"]["Conv_0"]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return np.einsum("nhwcij,ijcd->nhwd", windows, layer["kernel"]) + layer["bias"]


def finished(theta, x, mean, var):
    norm, one, two = (theta["params"][name] for name in ("BatchNorm_0", "Dense_0", "Dense_1"))
    conv = np.maximum((x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"], 0)
    dense = np.maximum(conv.reshape(len(conv), -1) @ one["kernel"] + one["bias"], 0)
    return conv, dense, dense @ two["kernel"] + two["bias"]


def test_apply_and_activations():
    model, x = from_net(), images()
    theta = variables(model)
    stats = theta["batch_stats"]["BatchNorm_0"]
    conv, dense, outputs = finished(theta, convolved(theta, x), stats["mean"], stats["var"])
    np.testing.assert_allclose(model.apply(theta, x), outputs, rtol=1e-4, atol=1e-3)
    activations = model.activations(theta, x)
    assert {group: len(arrays) for group, arrays in activations.items()} == {"conv": 1, "dense": 1}
    np.testing.assert_allclose(activations["conv"][0], conv, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(activations["dense"][0], dense, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_apply_train_gives_the_statistics_of_the_batch_itself(momentum, key):
    model, x = from_net(momentum=momentum), images()
    step = jax.jit(model.apply_train)
    for seed in range(3):  # whatever the running statistics are
        theta = {**variables(model), "batch_stats": variables(model, seed)["batch_stats"]}
        maps = convolved(theta, x)
        mean, var = maps.mean((0, 1, 2)), maps.var((0, 1, 2))
        outputs, stats = step(theta, x, key)
        assert trees.shapes(stats) == trees.shapes(theta["batch_stats"])
        np.testing.assert_allclose(stats["BatchNorm_0"]["mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["BatchNorm_0"]["var"], var, rtol=1e-4)
        np.testing.assert_allclose(outputs, finished(theta, maps, mean, var)[2], rtol=1e-4, atol=1e-3)


def test_what_a_model_says_of_itself(key):
    model = from_net()
    assert (model.name, model.input_shape, model.num_classes, model.convolutions) == ("Net", SHAPE, 3, "plain")
    assert from_net(name="mine").name == "mine"
    theta = jax.jit(model.init)(key)
    assert theta.keys() == {"params", "batch_stats"}
    assert check_invariance(model, theta, images(2), key) is None


def test_activations_by_a_function():
    def activations(theta, x):
        return {"conv": (x[..., :1] * jnp.ones((1, 1, 1, 4)),), "dense": (jnp.ones((x.shape[0], 5)),)}

    model = from_net(activations=activations)
    np.testing.assert_array_equal(model.activations(variables(model), images())["dense"][0], np.ones((6, 5)))


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x)


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        x = nn.relu(Inner(name="Block_0")(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=deterministic)(x))


def test_a_nested_module_with_dropout_and_without_statistics():
    spec = declare.join(declare.dense("Block_0/Dense_0", None, "units"), declare.dense("Dense_0", "units", None))
    given = {"spec": spec, "activations": {"units": "Block_0/Dense_0"}, "nonlinearity": nn.relu}
    model = models.from_flax(Outer(), np.zeros((1, 3), np.float32), **given)
    theta, x = variables(model), np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    first, last = theta["params"]["Block_0"]["Dense_0"], theta["params"]["Dense_0"]
    hidden = np.maximum(x @ first["kernel"] + first["bias"], 0)
    np.testing.assert_allclose(model.activations(theta, x)["units"][0], hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.apply(theta, x), hidden @ last["kernel"] + last["bias"], rtol=1e-4, atol=1e-5)
    outputs, stats = model.apply_train(theta, x, jax.random.key(0))
    assert stats == {}
    assert (np.asarray(outputs) != np.asarray(model.apply(theta, x))).any()
    assert model.convolutions == "none"


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ((CONV, NORM, DENSE), {}, "(?s)params/Dense_1/bias: in the variables, missing from the spec.*Dense_1/kernel"),
        (
            (CONV, NORM, DENSE, LAST, declare.dense("Dense_2", None, None)),
            {},
            "params/Dense_2/bias: in the spec, missing",
        ),
        ((CONV, declare.norm("BatchNorm_0", "dense"), DENSE, LAST), {}, "group 'dense' has axes of unequal size: 4 at"),
        ((CONV, NORM, declare.dense("Dense_0", "conv", "dense"), LAST), {}, "group 'conv' has axes of unequal size"),
        (
            (),
            {"activations": {"conv": "Conv_0"}},
            r"activations are of groups \['conv'\], expected .*\['conv', 'dense'\]",
        ),
        (
            (),
            {"activations": {**CAPTURES, "more": "Dense_1"}},
            r"activations are of groups \['conv', 'dense', 'more'\]",
        ),
        (
            (),
            {"activations": {**CAPTURES, "conv": "Conv_1"}},
            "no submodule 'Conv_1' .* the module has .*Conv_0, Dense_0",
        ),
    ],
)
def test_what_does_not_fit_the_module_is_refused(parts, options, message):
    with pytest.raises(SpecError, match=message):
        from_net(*parts, **options)


@pytest.mark.parametrize("shape", [(2, 4, 5, 1), (4, 5, 2), (2, 4, 5), ()])
def test_images_of_another_shape_are_refused(shape, key):
    model = from_net()
    for call in (model.apply, model.activations, lambda theta, x: model.apply_train(theta, x, key)):
        with pytest.raises(InputError, match=r"Net takes images of shape \(4, 5, 2\): got an array"):
            call({}, np.zeros(shape, np.float32))


def test_check_input_takes_a_batch_of_any_size():
    for n in (0, 1, 7):
        assert check_input("model", SHAPE, np.zeros((n, *SHAPE))) is None


def test_one_network_or_many():
    model = from_net()
    theta = variables(model)
    assert has_leading_axis(theta, model) is False
    assert has_leading_axis(trees.stack([theta] * 3), model) is True
    assert has_leading_axis(trees.stack([theta]), model) is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"params": t["params"]}, r"batch_stats/BatchNorm_0/mean: got nothing, expected \(4,\)"),
        (lambda t: {**t, "more": np.zeros(2)}, r"more: got \(2,\), expected nothing"),
        (lambda t: jax.tree.map(lambda leaf: leaf[:-1], t), r"params/Conv_0/bias: got \(3,\), expected \(4,\)"),
        (lambda t: jax.tree.map(lambda leaf: leaf[None, None], t), r"Conv_0/bias: got \(1, 1, 4\), expected \(4,\)"),
        (
            lambda t: {**jax.tree.map(lambda leaf: leaf[None], t), "params": t["params"]},
            r"got \(1, 4\), expected \(4,\)",
        ),
    ],
)
def test_variables_of_another_architecture_are_refused(change, message):
    model = from_net()
    with pytest.raises(SpecError, match=f"(?s)these variables are not those of Net:.*{message}"):
        has_leading_axis(change(variables(model)), model)
