"""The functions of Flax modules, Linen and NNX: variables, statistics of batches, dropout and other random streams."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, serialization
from modules.own import KEY, ROWS, Tower, assert_unchanged, made, run, variables

from mcjax import models, trees
from mcjax.runs import checkpoint
from mcjax.symmetry import layer_specs


def tower(theta, x, mean, var, depth=11):
    """Hidden values and outputs of a Tower in numpy."""
    params, values = theta["params"], []

    def linear(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    x = (x - mean) / np.sqrt(var + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    for i in range(depth):
        values.append(x)
        x = np.tanh(linear(params["layers"][str(i)], x))
    return [*values, x], linear(params["last"], x)


def first(theta, x):
    return x @ theta["params"]["first"]["kernel"] + theta["params"]["first"]["bias"]


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x)


class Outer(nn.Module):
    rate: float = 0.5

    @nn.compact
    def __call__(self, x, deterministic):
        x = nn.relu(Inner(name="Block_0")(x))
        return nn.Dense(2)(nn.Dropout(self.rate, deterministic=deterministic)(x))


def test_a_nested_module_with_dropout_and_without_statistics():
    spec = layer_specs.join(
        layer_specs.dense("Block_0/Dense_0", None, "units"), layer_specs.dense("Dense_0", "units", None)
    )
    given = {"spec": spec, "activations": {"units": "Block_0/Dense_0"}, "nonlinearity": nn.relu}
    model = models.from_flax(Outer(), ROWS, **given)
    theta = variables(model)
    first, last = theta["params"]["Block_0"]["Dense_0"], theta["params"]["Dense_0"]
    hidden = np.maximum(ROWS @ first["kernel"] + first["bias"], 0)
    outputs, activations, (trained, stats) = run(model)(theta, ROWS, KEY)
    np.testing.assert_allclose(activations["units"][0], hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs, hidden @ last["kernel"] + last["bias"], rtol=1e-4, atol=1e-5)
    assert stats == {}
    assert (np.asarray(trained) != np.asarray(outputs)).any()


def test_an_nnx_module_starts_from_its_key_and_its_variables_come_back_from_disk(tmp_path):
    """Variables are dicts of arrays, by strings."""
    three = jax.jit(jax.vmap(made("NNX class, many layers").init))(
        jnp.stack([jax.random.key(seed) for seed in (3, 3, 4)])
    )
    assert three["params"]["first"]["kernel"].shape == (3, 3, 5)
    theta, again, other = (jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], three) for i in range(3))
    chex.assert_trees_all_equal(theta, again)
    kernels = [each["params"]["layers"][str(i)]["kernel"] for each in (theta, other) for i in range(11)]
    assert len({kernel.tobytes() for kernel in kernels}) == 22

    def keys(tree):
        assert type(tree) is dict
        return [k for name, part in tree.items() for k in [name, *(keys(part) if isinstance(part, dict) else ())]]

    assert all(type(name) is str for name in keys(theta))
    assert theta["batch_stats"].keys() == {"norm"}
    assert set(theta["params"]["layers"]) == {str(i) for i in range(11)}
    checkpoint.save(tmp_path / "orbax", theta)
    (tmp_path / "a.msgpack").write_bytes(serialization.to_bytes(theta))
    for there in ("orbax", "a.msgpack"):
        chex.assert_trees_all_equal(checkpoint.load(tmp_path / there), theta)


def test_the_layers_of_an_nnx_list_keep_their_order():
    model = made("NNX class, many layers")
    theta = variables(model)
    stats = theta["batch_stats"]["norm"]
    hidden, expected = tower(theta, first(theta, ROWS), stats["mean"], stats["var"])
    outputs, activations, _ = run(model)(theta, ROWS, KEY)
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-4)
    assert len(activations) == 12
    for value in hidden:
        assert sum(np.allclose(value, array, atol=1e-4) for (array,) in activations.values()) == 1


def test_statistics_of_an_nnx_module_are_those_of_the_batch_itself():
    model = made("NNX function")
    for seed in range(2):
        theta = {**variables(model), "batch_stats": variables(model, seed)["batch_stats"]}
        inside = first(theta, ROWS)
        mean, var = inside.mean(0), inside.var(0)
        _, _, (outputs, stats) = run(model)(theta, ROWS, KEY)
        assert trees.shapes(stats) == trees.shapes(theta["batch_stats"])
        np.testing.assert_allclose(stats["norm"]["mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["norm"]["var"], var, rtol=1e-4)
        np.testing.assert_allclose(outputs, tower(theta, inside, mean, var, 2)[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["Linen", "NNX"])
def test_dropout_follows_the_key_in_training_and_is_off_in_testing(kind):
    if kind == "Linen":
        model, plain = (models.from_flax(module, ROWS) for module in (Outer(), Outer(0.0)))
    else:
        model, plain = models.from_flax(lambda rngs: Tower(rngs, depth=2), ROWS), made("NNX function")
    theta = variables(model)
    one, again, other = (run(model)(theta, ROWS, jax.random.key(seed)) for seed in (0, 0, 1))
    off = run(plain)(theta, ROWS, KEY)
    np.testing.assert_array_equal(one[2][0], again[2][0])
    assert np.abs(one[2][0] - other[2][0]).max() > 0.1
    assert np.abs(one[2][0] - off[2][0]).max() > 0.1
    np.testing.assert_array_equal(one[0], off[0])


class Steps(nnx.Module):
    def __init__(self, rngs):
        self.cells, self.out = nnx.RNN(nnx.LSTMCell(3, 4, rngs=rngs), rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.cells(x)[:, -1])


def test_an_nnx_recurrent_network_with_streams_of_its_own():
    x = np.random.default_rng(0).normal(size=(5, 6, 3)).astype(np.float32)
    model = models.from_flax(Steps, x)
    theta = variables(model)
    assert list(model.spec.group_sizes(theta).values()) == [4]
    assert_unchanged(model, theta, x)
    outputs, _, (trained, _) = run(model)(theta, x, KEY)
    np.testing.assert_allclose(trained, outputs, rtol=1e-5, atol=1e-6)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4)(x)
        return nn.Dense(2)(x + train * jax.random.normal(self.make_rng("noise"), x.shape) if train else x)


def test_random_streams_of_other_names_are_given():
    model = models.from_flax(Noisy(), ROWS)
    theta, train = variables(model), jax.jit(model.apply_train)
    one, same, other = (train(theta, ROWS, jax.random.key(i))[0] for i in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01
