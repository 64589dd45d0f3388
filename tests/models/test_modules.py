"""Models of one's own Flax modules, Linen and NNX: spec and activations inferred, or given."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import modules
import numpy as np
import pytest
from flax import nnx, serialization

from mcjax import (
    Axis,
    InputError,
    SpecError,
    check_invariance,
    checkpoint,
    invert,
    match_activations,
    models,
    permute,
    random_permutation,
    trees,
)
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
SPEC = declare.join(CONV, NORM, DENSE, LAST)
CAPTURES = {"conv": "BatchNorm_0", "dense": ["Dense_0"]}
SHAPE = (4, 5, 2)
EXAMPLE = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)


def from_net(*parts, activations=CAPTURES, momentum=0.9, **options):
    spec = declare.join(*parts) if parts else SPEC
    return models.from_flax(Net(momentum), EXAMPLE, spec=spec, activations=activations, nonlinearity=nn.relu, **options)


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


def running(theta, x):
    stats = theta["batch_stats"]["BatchNorm_0"]
    return finished(theta, convolved(theta, x), stats["mean"], stats["var"])


class Tower(nnx.Module):
    """A norm, then more layers than there are digits, all of one width, then dropout."""

    def __init__(self, rngs, rate=0.5, depth=12):
        self.first, self.norm = nnx.Linear(3, 5, rngs=rngs), nnx.BatchNorm(5, momentum=0.8, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(5, 5, rngs=rngs) for _ in range(depth)])
        self.drop, self.last = nnx.Dropout(rate, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.first(x))
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.last(self.drop(x))


def steady(rngs):
    return Tower(rngs, rate=0.0, depth=2)


ROWS = np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32)


def tower(theta, x, mean, var, depth=12):
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


class Pictures(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Conv(2, 4, (3, 3), rngs=rngs), nnx.Conv(4, 6, (3, 3), (2, 2), rngs=rngs)])
        self.norm, self.drop = nnx.BatchNorm(6, rngs=rngs), nnx.Dropout(0.3, rngs=rngs)
        self.out = nnx.Linear(36, 3, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.out(self.drop(self.norm(x)).reshape(x.shape[0], -1))


ALONE = {
    "Linen": (Net(), images(), [4, 5]),
    "Linen, tokens": (modules.Transformer(1), np.arange(12, dtype=np.int32).reshape(2, 6) % 11, [3, 4, 4, 10, 12]),
    "NNX class": (Pictures, images(), [4, 6]),
    "NNX class, many layers": (Tower, ROWS, [5] * 13),
    "NNX function": (steady, ROWS, [5] * 3),
}


@pytest.mark.parametrize("name", ALONE)
def test_the_module_alone_is_enough(name, key):
    module, x, sizes = ALONE[name]
    model = models.from_flax(module, x)
    theta = model.init(key)
    assert sorted(model.spec.group_sizes(theta).values()) == sizes
    assert check_invariance(model, theta, x, key) is None
    assert model.input_dtype == str(x.dtype)
    outputs = model.apply(theta, x)
    assert (outputs.shape[0], outputs.shape[-1]) == (len(x), model.num_classes)


def test_apply_and_activations():
    model, x = from_net(), images()
    theta = variables(model)
    conv, dense, outputs = running(theta, x)
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
    tokens = models.from_flax(modules.Transformer(1), ALONE["Linen, tokens"][1])
    assert (tokens.input_dtype, tokens.convolutions, tokens.num_classes) == ("int32", "none", 11)
    assert models.from_flax(steady, ROWS.astype(np.float16)).input_dtype == "float32"
    assert [models.from_flax(make, ROWS).name for make in (Tower, steady)] == ["Tower", "steady"]


def test_activations_by_a_function():
    def activations(theta, x):
        return {"conv": (x[..., :1] * jnp.ones((1, 1, 1, 4)),), "dense": (jnp.ones((x.shape[0], 5)),)}

    model = from_net(activations=activations)
    np.testing.assert_array_equal(model.activations(variables(model), images())["dense"][0], np.ones((6, 5)))


def test_a_spec_by_hand_and_activations_read_off():
    model, x = models.from_flax(Net(), EXAMPLE, spec=SPEC), images()
    theta = variables(model)
    conv, dense, _ = running(theta, x)
    activations = model.activations(theta, x)
    assert activations.keys() == {"conv", "dense"}
    np.testing.assert_allclose(activations["conv"][0], conv.reshape(6, 20, 4), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(activations["dense"][0], dense, rtol=1e-4, atol=1e-3)


def test_a_spec_read_off_and_activations_by_name():
    captures = {"Conv_0": "Conv_0", "Dense_0": ["Dense_0"]}
    model, x = models.from_flax(Net(), EXAMPLE, activations=captures, nonlinearity=jnp.sin), images()
    theta = variables(model)
    np.testing.assert_allclose(model.activations(theta, x)["Conv_0"][0], np.sin(convolved(theta, x)), atol=1e-4)
    assert check_invariance(model, theta, x, jax.random.key(0)) is None


@pytest.mark.parametrize("module", [Net(), Pictures])
def test_an_edited_spec_can_be_given_back(module, key):
    whole = models.from_flax(module, EXAMPLE)
    for group in whole.spec.groups:
        model = models.from_flax(module, EXAMPLE, spec=whole.spec.without(group))
        theta, x = model.init(key), images()
        (kept,) = set(whole.spec.groups) - {group}
        assert model.spec.groups == (kept,)
        (got,), (expected,) = model.activations(theta, x).values(), [whole.activations(theta, x)[kept]]
        jax.tree.map(np.testing.assert_array_equal, got, expected)
        assert check_invariance(model, theta, x, key) is None


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


def test_an_nnx_module_starts_from_its_key():
    model = models.from_flax(Tower, ROWS)
    one, again, other = (model.init(jax.random.key(seed)) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    kernels = [theta["params"]["layers"][str(i)]["kernel"] for theta in (one, other) for i in range(12)]
    assert len({np.asarray(kernel).tobytes() for kernel in kernels}) == 24
    many = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 2))
    assert many["params"]["first"]["kernel"].shape == (2, 3, 5)


def test_the_layers_of_an_nnx_list_keep_their_order():
    model = models.from_flax(Tower, ROWS)
    theta = variables(model)
    stats = theta["batch_stats"]["norm"]
    hidden, outputs = tower(theta, first(theta, ROWS), stats["mean"], stats["var"])
    np.testing.assert_allclose(model.apply(theta, ROWS), outputs, rtol=1e-3, atol=1e-4)
    activations = model.activations(theta, ROWS)
    assert len(activations) == 13
    for value in hidden:
        assert sum(np.allclose(value, array, atol=1e-4) for (array,) in activations.values()) == 1


def test_statistics_of_an_nnx_module_are_those_of_the_batch_itself(key):
    model = models.from_flax(steady, ROWS)
    for seed in range(2):
        theta = {**variables(model), "batch_stats": variables(model, seed)["batch_stats"]}
        inside = first(theta, ROWS)
        mean, var = inside.mean(0), inside.var(0)
        outputs, stats = jax.jit(model.apply_train)(theta, ROWS, key)
        assert trees.shapes(stats) == trees.shapes(theta["batch_stats"])
        np.testing.assert_allclose(stats["norm"]["mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["norm"]["var"], var, rtol=1e-4)
        np.testing.assert_allclose(outputs, tower(theta, inside, mean, var, 2)[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("module", "without"),
    [(Outer(), Outer(0.0)), (Tower, lambda rngs: Tower(rngs, rate=0.0))],
    ids=["Linen", "NNX"],
)
def test_dropout_follows_the_key_in_training_and_is_off_in_testing(module, without):
    model, plain = models.from_flax(module, ROWS), models.from_flax(without, ROWS)
    theta, train = variables(model), jax.jit(model.apply_train)
    one, again, other = (train(theta, ROWS, jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1
    assert np.abs(one - plain.apply_train(theta, ROWS, jax.random.key(0))[0]).max() > 0.1
    np.testing.assert_array_equal(model.apply(theta, ROWS), plain.apply(theta, ROWS))


def test_variables_of_an_nnx_module_are_dicts_of_arrays_and_come_back_from_disk(key, tmp_path):
    model = models.from_flax(Tower, ROWS)
    theta = model.init(key)

    def keys(tree):
        assert type(tree) is dict
        return [k for name, part in tree.items() for k in [name, *(keys(part) if isinstance(part, dict) else ())]]

    assert all(type(name) is str for name in keys(theta))
    assert theta["batch_stats"].keys() == {"norm"}
    assert set(theta["params"]["layers"]) == {str(i) for i in range(12)}
    checkpoint.save(tmp_path / "orbax", theta)
    (tmp_path / "a.msgpack").write_bytes(serialization.to_bytes(theta))
    for there in ("orbax", "a.msgpack"):
        back = checkpoint.load(tmp_path / there)
        assert trees.shapes(back) == trees.shapes(theta)
        jax.tree.map(np.testing.assert_array_equal, back, theta)
        np.testing.assert_array_equal(model.apply(back, ROWS), model.apply(theta, ROWS))


def test_a_planted_permutation_is_recovered_from_tokens(key):
    tokens = jax.random.randint(key, (64, 6), 0, 11)
    model = models.from_flax(modules.Transformer(1), tokens)
    theta = variables(model)
    planted = random_permutation(key, model.spec, theta)
    match = match_activations(model, theta, permute(model.spec, planted, theta), tokens, batch_size=24)
    assert match.P.keys() == set(model.spec.groups)
    for group, p in invert(planted).items():
        np.testing.assert_array_equal(match.P[group], p)
        np.testing.assert_allclose(match.after[group], 1, atol=1e-4)
    with pytest.raises(InputError, match="got images of float32, expected int32"):
        match_activations(model, theta, theta, np.zeros((4, 6), np.float32))


def test_the_size_of_the_example_does_not_matter(key):
    x = images(5)
    one, many = (models.from_flax(Net(), x[:n]) for n in (1, 5))
    assert one.spec == many.spec
    theta = one.init(key)
    for n in (1, 2, 5):
        np.testing.assert_array_equal(one.apply(theta, x[:n]), many.apply(theta, x[:n]))
        jax.tree.map(np.testing.assert_array_equal, one.activations(theta, x[:n]), many.activations(theta, x[:n]))
        assert one.activations(theta, x[:n])["Conv_0"][0].shape == (n, 20, 4)


def test_a_model_is_static_under_jit(key):
    model, other = models.from_flax(Tower, ROWS), models.from_flax(steady, ROWS)
    assert {model: 1, other: 2, model._replace(name="Tower"): 3} == {model: 3, other: 2}
    traces = []

    def fn(model, theta):
        traces.append(model.name)
        return model.apply(theta, ROWS)

    jitted = jax.jit(fn, static_argnums=0)
    for each in (model, other, model, other):
        theta = each.init(key)
        np.testing.assert_allclose(jitted(each, theta), each.apply(theta, ROWS), atol=1e-5)
    assert traces == ["Tower", "steady"]


def test_activations_trace_the_module_once_a_shape():
    calls = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x):
            calls.append(x.shape)
            return nn.Dense(2)(nn.relu(nn.Dense(4)(x)))

    model = models.from_flax(Counted(), ROWS)
    theta = variables(model)
    calls.clear()
    for _ in range(3):
        model.activations(theta, ROWS)
    assert calls == [ROWS.shape]
    model.activations(theta, ROWS[:4])
    assert calls == [ROWS.shape, (4, 3)]


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


class Counting(nnx.Module):
    def __init__(self, rngs):
        self.layer, self.count = nnx.Linear(3, 2, rngs=rngs), nnx.Variable(jnp.zeros(1))

    def __call__(self, x):
        return self.layer(x) + self.count[...][None]


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        return nn.Dense(2)(x) * mask


class MaskedToo(Tower):
    def __call__(self, x, *, mask):
        return super().__call__(x) * mask


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x), x


class OneNumber(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x)[:, 0]


class Remembering(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x) + self.variable("memory", "seen", jnp.zeros, (1, 2)).value


BAD = {
    "one number an image": (OneNumber(), {}, "OneNumber returns .*expected one array"),
    "a collection of its own": (
        Remembering(),
        {},
        "Remembering failed when it was called with what mcjax keeps.*memory",
    ),
    "nothing in an image": (Tower, {"example_input": np.zeros((2, 0), np.float32)}, r"of shape \(2, 0\)"),
    "what makes a Linen module": (lambda rngs: OneNumber(), {}, "got what makes a OneNumber of nnx.Rngs"),
    "an NNX instance": (nnx.Linear(3, 2, rngs=nnx.Rngs(0)), {}, r"of the NNX module Linear.*lambda rngs: Linear\("),
    "a Linen class": (Net, {}, r"got the class Net, expected a Linen module made of it: Net\("),
    "a number": (3, {}, "got 3, expected a Linen module or what makes an NNX module"),
    "two outputs": (Two(), {}, r"Two returns \(\(2, 2\), \(2, 3\)\), expected one array"),
    "a scalar": (Tower, {"example_input": 1.0}, r"got example_input of shape \(\)"),
    "a variable of another kind": (Counting, {}, "the module holds count.*, which are neither parameters nor batch"),
    "another argument": (Masked(), {}, "Masked needs 'mask' to be called.*Give 'mask' a default"),
    "another argument by name": (MaskedToo, {}, "MaskedToo needs 'mask' to be called"),
    "submodules of NNX": (Tower, {"activations": {"first": "first"}}, "activations by submodule are for Linen"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_model_is_refused(case):
    module, options, message = BAD[case]
    with pytest.raises(InputError, match=message):
        models.from_flax(module, **{"example_input": ROWS, **options})


@pytest.mark.parametrize("shape", [(2, 4, 5, 1), (4, 5, 2), (2, 4, 5), ()])
def test_images_of_another_shape_are_refused(shape, key):
    x = np.zeros(shape, np.float32)
    for model in (from_net(), models.from_flax(Pictures, images(1), name="Net"), models.from_flax(Net(), images(1))):
        for call in (model.apply, model.activations, lambda theta, x, model=model: model.apply_train(theta, x, key)):
            with pytest.raises(InputError, match=r"Net takes images of shape \(4, 5, 2\): got an array"):
                call({}, x)


class Frozen(nn.Module):
    momentum: float
    frozen: bool

    @nn.compact
    def __call__(self, x, train):
        norm = nn.BatchNorm(use_running_average=self.frozen or not train, momentum=self.momentum)
        return nn.Dense(2)(norm(nn.Dense(4)(x)))


@pytest.mark.parametrize(("momentum", "frozen"), [(0.9, True), (1.0, False), (1.0, True)])
def test_statistics_that_do_not_update_are_kept(momentum, frozen, key):
    model = models.from_flax(Frozen(momentum, frozen), ROWS)
    theta = variables(model)
    outputs, stats = model.apply_train(theta, ROWS, key)
    jax.tree.map(np.testing.assert_array_equal, stats, theta["batch_stats"])
    if frozen:
        np.testing.assert_allclose(outputs, model.apply(theta, ROWS), rtol=1e-4, atol=1e-5)
    assert np.isfinite(outputs).all()


class Steps(nnx.Module):
    def __init__(self, rngs):
        self.cells, self.out = nnx.RNN(nnx.LSTMCell(3, 4, rngs=rngs), rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.cells(x)[:, -1])


def test_an_nnx_recurrent_network_with_streams_of_its_own(key):
    x = np.random.default_rng(0).normal(size=(5, 6, 3)).astype(np.float32)
    model = models.from_flax(Steps, x)
    theta = model.init(key)
    assert list(model.spec.group_sizes(theta).values()) == [4]
    assert check_invariance(model, theta, x, key) is None
    np.testing.assert_allclose(model.apply_train(theta, x, key)[0], model.apply(theta, x), rtol=1e-5, atol=1e-6)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4)(x)
        return nn.Dense(2)(x + train * jax.random.normal(self.make_rng("noise"), x.shape) if train else x)


def test_random_streams_of_other_names_are_given(key):
    model = models.from_flax(Noisy(), ROWS)
    theta = model.init(key)
    one, same, other = (model.apply_train(theta, ROWS, jax.random.key(i))[0] for i in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        steps = self.variable("batch_stats", "steps", jnp.zeros, ())
        if train and not self.is_initializing():
            steps.value = steps.value + 1
        return nn.Dense(2)(nn.tanh(nn.SpectralNorm(nn.Dense(4))(x, update_stats=train)))


def test_statistics_that_are_no_running_means_stay_as_they_are(key):
    model = models.from_flax(Spectral(), ROWS)
    theta = jax.jit(model.init)(key)
    jax.tree.map(np.testing.assert_array_equal, model.apply_train(theta, ROWS, key)[1], theta["batch_stats"])


def test_a_model_of_two_functions(key):
    def init(key):
        one, two = jax.random.split(key)
        return {"a": jax.random.normal(one, (3, 6)), "b": jax.random.normal(two, (6, 2))}

    model = models.from_function(init, lambda theta, x: jnp.tanh(x @ theta["a"]) @ theta["b"], ROWS, name="two")
    theta = model.init(key)
    assert (model.name, model.input_shape, model.num_classes, model.convolutions) == ("two", (3,), 2, "none")
    assert model.spec.group_sizes(theta) == {"a": 6}
    assert check_invariance(model, theta, ROWS, key) is None
    np.testing.assert_array_equal(model.apply_train(theta, ROWS, key)[0], model.apply(theta, ROWS))
    P = {"a": np.array([3, 0, 1, 2, 5, 4])}
    np.testing.assert_array_equal(match_activations(model, permute(model.spec, P, theta), theta, ROWS).P["a"], P["a"])
    with pytest.raises(InputError, match=r"two takes images of shape \(3,\)"):
        model.apply(theta, np.zeros((2, 4), np.float32))


def test_arguments_the_wrong_way_round():
    with pytest.raises(InputError, match=r"expected from_flax\(module, example_input\)"):
        models.from_flax(ROWS, Two())
