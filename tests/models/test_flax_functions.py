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
from mcjax.models.flax_functions import linen_functions
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


@pytest.mark.parametrize("stored", [None, 0.0, 1e6, np.inf, np.nan])
def test_statistics_are_those_of_the_batch_whatever_is_stored(stored):
    model = made("NNX function")
    stats = variables(model, 1)["batch_stats"]
    stats = stats if stored is None else jax.tree.map(lambda leaf: np.full_like(leaf, stored), stats)
    theta = {**variables(model), "batch_stats": stats}
    inside = first(theta, ROWS)
    mean, var = inside.mean(0), inside.var(0)
    outputs, new = jax.jit(model.apply_train)(theta, ROWS, KEY)
    assert trees.shapes(new) == trees.shapes(stats)
    np.testing.assert_allclose(new["norm"]["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["norm"]["var"], var, rtol=1e-4)
    np.testing.assert_allclose(outputs, tower(theta, inside, mean, var, 2)[1], rtol=1e-3, atol=1e-4)


M = 0.9
RULES = {
    "mean": lambda old, x: M * old + (1 - M) * x.mean(0),
    "mean, written otherwise": lambda old, x: old - 0.01 * (old - x.mean(0)),
    "last": lambda old, x: x.mean(0),
    "two": lambda old, x: M * (M * old + (1 - M) * x.mean(0)) + (1 - M) * x.mean(0),
    "large": lambda old, x: M * old + (1 - M) * 1e6 * x.mean(0),
    "half": lambda old, x: (0.75 * old + 0.25 * x.mean(0)).astype(old.dtype),
    "fixed": lambda old, x: old,
    "momentum 1": lambda old, x: 1.0 * old + 0.0 * x.mean(0),
    "count": lambda old, x: old + 1,
    "steps": lambda old, x: old + 1,
    "max": lambda old, x: jnp.maximum(old, x.max(0)),
    "min": lambda old, x: jnp.minimum(old, x.min(0)),
    "product": lambda old, x: 0.5 * old * jnp.abs(x.mean(0)),
    "spread": lambda old, x: M * old + (1 - M) * jnp.square(x - old[None]).mean(0),
}
KEPT = tuple(RULES)[6:]
DTYPES = {"half": jnp.bfloat16, "steps": jnp.int32}


class Rules(nn.Module):
    """Statistics of the inputs by all these rules, and of what a frozen norm makes of the inputs."""

    @nn.compact
    def __call__(self, x, train):
        for name, rule in RULES.items():
            stored = self.variable("batch_stats", name, jnp.zeros, 3, DTYPES.get(name, jnp.float32))
            if train:
                stored.value = rule(stored.value, x)
        other = self.variable("batch_stats", "other", jnp.zeros, 3)
        if train:
            other.value = M * other.value + (1 - M) * self.get_variable("batch_stats", "mean")
        x = nn.Dense(4)(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(2)(nn.BatchNorm(use_running_average=not train, momentum=M)(x))


def test_running_averages_become_those_of_the_batch_and_other_statistics_stay():
    x = ROWS + 3
    model = models.from_flax(Rules(), x)
    theta = variables(model)
    old = theta["batch_stats"]
    for name, dtype in DTYPES.items():
        old[name] = np.asarray(jnp.arange(3, dtype=dtype))
    outputs, new = jax.jit(model.apply_train)(theta, x, KEY)
    # Those of the batch are float32 at least.
    assert jax.tree.map(lambda leaf: leaf.dtype, new) == jax.tree.map(lambda leaf: leaf.dtype, trees.widened(old))
    for name in ("mean", "mean, written otherwise", "last", "two"):
        np.testing.assert_allclose(new[name], x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(new["large"], 1e6 * x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(new["half"].astype(np.float32), x.mean(0), rtol=2e-2)
    chex.assert_trees_all_equal(
        *({name: tree[name] for name in (*KEPT, "other", "BatchNorm_0")} for tree in (new, old))
    )
    # The second norm is computed from what the stored statistics of the first one give.
    norm, dense = theta["params"]["BatchNorm_0"], theta["params"]["Dense_0"]
    mean, var = old["BatchNorm_0"]["mean"], old["BatchNorm_0"]["var"]
    inside = (x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
    inside = inside @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(new["BatchNorm_1"]["mean"], inside.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(new["BatchNorm_1"]["var"], inside.var(0), rtol=1e-4)
    np.testing.assert_allclose(outputs, Rules().apply(theta, x, True, mutable="batch_stats")[0], rtol=1e-4, atol=1e-4)


class Frozen(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x)))


def test_a_module_that_only_reads_statistics_keeps_them():
    model = models.from_flax(Frozen(), ROWS)
    theta = variables(model)
    outputs, _, (trained, stats) = run(model)(theta, ROWS, KEY)
    chex.assert_trees_all_equal(stats, theta["batch_stats"])
    np.testing.assert_allclose(trained, outputs, rtol=1e-5, atol=1e-6)


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(nn.tanh(nn.SpectralNorm(nn.Dense(4))(x, update_stats=train)))


def test_a_vector_that_is_read_stays_and_a_value_made_of_it_is_new():
    model = models.from_flax(Spectral(), ROWS)
    theta = variables(model)
    old = theta["batch_stats"]["SpectralNorm_0"]
    new = jax.jit(model.apply_train)(theta, ROWS, KEY)[1]["SpectralNorm_0"]
    np.testing.assert_array_equal(new["Dense_1/kernel/u"], old["Dense_1/kernel/u"])
    # One step of power iteration.
    kernel = theta["params"]["Dense_1"]["kernel"]
    left = old["Dense_1/kernel/u"][0] @ kernel.T
    sigma = np.linalg.norm(left @ kernel) / np.linalg.norm(left)
    np.testing.assert_allclose(new["Dense_1/kernel/sigma"], sigma, rtol=1e-5)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return jnp.tanh(nn.BatchNorm(use_running_average=not train, momentum=M)(nn.Dense(3)(x)))


class Looped(nn.Module):
    """Three layers, in a Python loop or in a compiled one."""

    kind: str

    @nn.compact
    def __call__(self, x, train):
        if self.kind == "scan":
            axes = {"variable_axes": {"params": 0, "batch_stats": 0}, "split_rngs": {"params": True}, "length": 3}
            return nn.scan(lambda layer, x, _: (layer(x, train), None), **axes)(Layer(name="layers"), x, None)[0]
        layer = {"loop": Layer, "remat": nn.remat(Layer, static_argnums=2), "jit": nn.jit(Layer, static_argnums=2)}
        for i in range(3):
            x = layer[self.kind](name=f"layer_{i}")(x, train)
        return x


@pytest.mark.parametrize("kind", ["loop", "remat", "jit", "scan"])
def test_norms_in_loops_and_in_lifted_layers(kind):
    rng = np.random.default_rng(0)
    kernels, x, expected = rng.normal(size=(3, 3, 3)).astype(np.float32), ROWS, []
    for kernel in kernels:
        x = x @ kernel
        expected.append((x.mean(0), x.var(0)))
        x = np.tanh((x - expected[-1][0]) / np.sqrt(expected[-1][1] + 1e-5))

    def whole(layers):
        return dict(layers=layers) if kind == "scan" else {f"layer_{i}": trees.index(layers, i) for i in range(3)}

    zeros, ones = np.zeros((3, 3), np.float32), np.ones((3, 3), np.float32)
    params = {"Dense_0": {"kernel": kernels, "bias": zeros}, "BatchNorm_0": {"scale": ones, "bias": zeros}}
    stored = {"BatchNorm_0": {"mean": ones, "var": ones}}
    train = linen_functions(Looped(kind), jax.ShapeDtypeStruct(ROWS.shape, ROWS.dtype)).train
    outputs, stats = jax.jit(train)({"params": whole(params), "batch_stats": whole(stored)}, ROWS, KEY)
    np.testing.assert_allclose(outputs, x, rtol=1e-3, atol=1e-4)
    layers = (
        jax.tree.map(lambda *each: np.stack(each), *(stats[f"layer_{i}"] for i in range(3)))
        if kind != "scan"
        else stats["layers"]
    )
    mean, var = map(np.stack, zip(*expected, strict=True))
    np.testing.assert_allclose(layers["BatchNorm_0"]["mean"], mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(layers["BatchNorm_0"]["var"], var, rtol=1e-3, atol=1e-4)


def test_training_traces_a_module_once_and_computes_every_layer_once():
    calls = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            calls.append(train)
            return Looped("loop")(x, train)

    functions = linen_functions(Counted(), jax.ShapeDtypeStruct(ROWS.shape, ROWS.dtype))
    theta = jax.eval_shape(functions.init, KEY)
    calls.clear()
    program = jax.make_jaxpr(functions.train)(theta, ROWS, KEY)
    assert calls == [True]
    products = [eqn for eqn in program.eqns if eqn.primitive.name == "dot_general"]
    assert [eqn.outvars[0].aval.shape for eqn in products] == [ROWS.shape] * 3


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
