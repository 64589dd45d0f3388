"""Models of one's own Flax modules, Linen and NNX: spec and activations inferred, or given."""

from functools import cache

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from modules.own import (
    ALONE,
    EXAMPLE,
    KEY,
    ROWS,
    SHAPE,
    Net,
    Tower,
    assert_unchanged,
    images,
    made,
    run,
    steady,
    variables,
)
from refusals import says
from variables import inverse, order, permuted

from mcjax import (
    Axis,
    FitConfig,
    InputError,
    SpecError,
    Task,
    TrainConfig,
    bezier,
    fit_curve,
    match_activations,
    models,
    train_endpoints,
    trees,
)
from mcjax.errors import InputWarning
from mcjax.symmetry import layer_specs

CONV, DENSE = layer_specs.conv("Conv_0", None, "conv"), layer_specs.dense("Dense_0", Axis("conv", outer=20), "dense")
NORM, LAST = layer_specs.norm("BatchNorm_0", "conv"), layer_specs.dense("Dense_1", "dense", None)
SPEC = layer_specs.join(CONV, NORM, DENSE, LAST)
CAPTURES = {"conv": "BatchNorm_0", "dense": ["Dense_0"]}


def from_net(*parts, activations=CAPTURES, **options):
    spec = layer_specs.join(*parts) if parts else SPEC
    return models.from_flax(Net(), EXAMPLE, spec=spec, activations=activations, nonlinearity=nn.relu, **options)


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


@cache
def by_hand():
    """The model of Net whose spec and activations are given."""
    return from_net()


@pytest.mark.parametrize("name", ALONE)
def test_the_module_alone_is_enough(name):
    _, x, sizes = ALONE[name]
    model = made(name)
    theta = variables(model)
    assert sorted(model.spec.group_sizes(theta).values()) == sizes
    assert_unchanged(model, theta, x)
    assert model.input_dtype == str(x.dtype)
    outputs = jax.eval_shape(model.apply, theta, x)
    assert (outputs.shape[0], outputs.shape[-1]) == (len(x), model.num_classes)


def test_apply_activations_and_the_statistics_of_the_batch_itself():
    model, x = by_hand(), images()
    for seed in range(2):  # whatever the running statistics are
        theta = {**variables(model), "batch_stats": variables(model, seed)["batch_stats"]}
        outputs, activations, (trained, stats) = run(model)(theta, x, KEY)
        conv, dense, expected = running(theta, x)
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-3)
        assert {group: len(arrays) for group, arrays in activations.items()} == {"conv": 1, "dense": 1}
        np.testing.assert_allclose(activations["conv"][0], conv, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(activations["dense"][0], dense, rtol=1e-4, atol=1e-3)
        maps = convolved(theta, x)
        mean, var = maps.mean((0, 1, 2)), maps.var((0, 1, 2))
        assert trees.shapes(stats) == trees.shapes(theta["batch_stats"])
        np.testing.assert_allclose(stats["BatchNorm_0"]["mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["BatchNorm_0"]["var"], var, rtol=1e-4)
        np.testing.assert_allclose(trained, finished(theta, maps, mean, var)[2], rtol=1e-4, atol=1e-3)


def test_the_fields_of_a_model(key):
    model = by_hand()
    assert (model.name, model.input_shape, model.num_classes) == ("Net", SHAPE, 3)
    assert from_net(name="mine").name == "mine"
    assert jax.eval_shape(model.init, key).keys() == {"params", "batch_stats"}
    tokens = made("Linen, tokens")
    assert (tokens.input_dtype, tokens.num_classes) == ("int32", 11)
    assert models.from_flax(steady, ROWS.astype(np.float16)).input_dtype == "float32"
    assert [made(name).name for name in ("NNX class, many layers", "NNX function")] == ["Tower", "steady"]


def test_activations_by_a_function():
    def activations(theta, x):
        return {"conv": (np.zeros((*x.shape[:3], 4), np.float32),), "dense": (np.ones((x.shape[0], 5), np.float32),)}

    model = from_net(activations=activations)
    np.testing.assert_array_equal(model.activations(variables(model), images())["dense"][0], np.ones((6, 5)))


def test_a_spec_by_hand_and_activations_read_off():
    model, x = models.from_flax(Net(), EXAMPLE, spec=SPEC), images()
    theta = variables(model)
    conv, dense, _ = running(theta, x)
    activations = jax.jit(model.activations)(theta, x)
    assert activations.keys() == {"conv", "dense"}
    np.testing.assert_allclose(activations["conv"][0], conv.reshape(6, 20, 4), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(activations["dense"][0], dense, rtol=1e-4, atol=1e-3)


def test_a_spec_read_off_and_activations_by_name():
    captures = {"Conv_0": "Conv_0", "Dense_0": ["Dense_0"]}
    model, x = models.from_flax(Net(), EXAMPLE, activations=captures, nonlinearity=jnp.sin), images()
    theta = variables(model)
    activations = run(model)(theta, x, KEY)[1]
    np.testing.assert_allclose(activations["Conv_0"][0], np.sin(convolved(theta, x)), atol=1e-4)
    assert_unchanged(model, theta, x)


@pytest.mark.parametrize("name", ["Linen", "NNX class"])
def test_an_edited_spec_can_be_given_back(name):
    module, x, _ = ALONE[name]
    whole = made(name)
    group, kept = whole.spec.groups
    model = models.from_flax(module, EXAMPLE, spec=whole.spec.without(group))
    theta = variables(model)
    assert model.spec.groups == (kept,)
    (got,), expected = run(model)(theta, x, KEY)[1].values(), run(whole)(theta, x, KEY)[1][kept]
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)
    assert_unchanged(model, theta, x)


def task_of(model, x):
    """The inputs alone, under a loss that nothing here looks at."""
    return Task(lambda theta, batch, key: jnp.square(model.apply(theta, batch)).mean(), x, model=model)


def test_a_planted_permutation_is_recovered_from_tokens():
    tokens = np.random.default_rng(0).integers(0, 11, (48, 6)).astype(np.int32)
    model = made("Linen, tokens")
    theta = variables(model)
    planted = order(model.spec, theta)
    ends = theta, permuted(model.spec, planted, theta)
    match = match_activations(task_of(model, tokens), *ends, examples=48, batch_size=24)
    chex.assert_trees_all_equal(match.P, inverse(planted))
    for value in match.info["after"].values():
        np.testing.assert_allclose(value, 1, atol=1e-4)


class Heads(nn.Module):
    """A trunk of hidden units that is read by two heads, of which one is a number for each input."""

    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.Dense(5)(x))
        return {"classes": nn.Dense(2)(x), "size": (nn.Dense(1)(x)[:, 0], x.sum(-1))}


class Size(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(jnp.tanh(nn.Dense(5)(x)))[:, 0]


@pytest.mark.parametrize(
    ("module", "classes"), [(Heads(), 0), (Size(), 0), (nn.Dense(4), 4)], ids=["tree", "number", "4"]
)
def test_outputs_are_any_tree_of_arrays_of_as_many_as_the_inputs(module, classes):
    model = models.from_flax(module, ROWS)
    theta = variables(model)
    assert model.num_classes == classes
    assert list(model.spec.group_sizes(theta).values()) == ([5] if classes == 0 else [])
    outputs, _, (trained, stats) = run(model)(theta, ROWS, KEY)
    assert stats == {}
    chex.assert_trees_all_close(trained, outputs, rtol=1e-6)
    chex.assert_trees_all_close(outputs, module.apply(theta, ROWS), rtol=1e-5, atol=1e-6)
    assert_unchanged(model, theta, ROWS)


def test_two_functions_may_return_a_tree_too():
    def apply(theta, x):
        hidden = jnp.tanh(x @ theta["a"])
        return hidden @ theta["b"], {"energy": jnp.square(hidden).sum(-1)}

    model = models.from_function(lambda key: {"a": jnp.ones((3, 6)), "b": jnp.ones((6, 2))}, apply, ROWS)
    theta = variables(model)
    assert model.spec.group_sizes(theta) == {"a": 6}
    assert model.num_classes == 0
    assert_unchanged(model, theta, ROWS)
    for wrong, shown in ((lambda theta, x: theta["a"].sum(), "()"), (lambda theta, x: (), "()")):
        with says(InputError, "function", shown, "(n, ...)"):
            models.from_function(lambda key: {"a": jnp.ones((3, 6))}, wrong, ROWS)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        hidden = jnp.tanh(nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x)))
        return {"classes": nn.Dense(2)(hidden), "hidden": hidden}


class NormedToo(nnx.Module):
    def __init__(self, *, rngs):
        self.inner, self.norm = nnx.Linear(3, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)
        self.outer, self.rngs = nnx.Linear(5, 2, rngs=rngs), rngs

    def __call__(self, x):
        hidden = jnp.tanh(self.norm(self.inner(x)))
        noise = 0.0 if self.norm.use_running_average else jax.random.normal(self.rngs.noise(), hidden.shape)
        return hidden + noise, self.outer(hidden)


@pytest.mark.parametrize(
    ("module", "outputs"),
    [(Normed(), lambda returned: returned["classes"]), (NormedToo, lambda returned: returned[1])],
    ids=["Linen", "NNX"],
)
def test_outputs_are_selected_in_both_modes_and_before_inference(module, outputs):
    model, whole = (models.from_flax(module, ROWS, outputs=each) for each in (outputs, None))
    theta = variables(model)
    assert (model.num_classes, whole.num_classes) == (2, 0)
    chex.assert_trees_all_equal(model.apply(theta, ROWS), outputs(whole.apply(theta, ROWS)))
    (trained, stats), (every, same) = (each.apply_train(theta, ROWS, KEY) for each in (model, whole))
    chex.assert_trees_all_equal((trained, stats), (outputs(every), same))
    assert jax.tree.leaves(stats)
    # The other output is that of the units themselves: with it, none of them can be permuted.
    assert list(model.spec.group_sizes(theta).values()) == [5]
    assert whole.spec.groups == ()
    assert_unchanged(model, theta, ROWS)


def test_streams_of_other_names_are_drawn_in_training():
    model = models.from_flax(NormedToo, ROWS, outputs=lambda returned: returned[0])
    theta = variables(model)
    drawn = [np.asarray(model.apply_train(theta, ROWS, jax.random.key(seed))[0]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).all()


def test_names_are_those_of_classes_and_functions():
    def energy(theta, x):
        return x @ theta

    def init(key):
        return jnp.ones((3, 2))

    def named(rngs):
        return Tower(rngs)

    for model, name in (
        (models.from_flax(NormedToo, ROWS), "NormedToo"),
        (models.from_flax(lambda rngs: NormedToo(rngs=rngs), ROWS), "NormedToo"),
        (models.from_flax(named, ROWS), "named"),
        (models.from_flax(lambda rngs: Tower(rngs), ROWS, name="mine"), "mine"),
        (models.from_function(init, energy, ROWS), "energy"),
        (models.from_function(init, lambda theta, x: x @ theta, ROWS), "function"),
    ):
        assert model.name == name


def test_the_size_of_the_example_does_not_matter():
    x, many = images(5), made("Linen")
    one = models.from_flax(Net(), x[:1])
    assert one.spec == many.spec
    theta = variables(one)
    (outputs, activations, _), expected = (run(model)(theta, x, KEY) for model in (one, many))
    chex.assert_trees_all_equal((outputs, activations), expected[:2])
    assert activations["Conv_0"][0].shape == (5, 20, 4)
    alone = run(one)(theta, x[:1], KEY)[:2]
    chex.assert_trees_all_close(alone, jax.tree.map(lambda leaf: leaf[:1], (outputs, activations)), atol=1e-4)


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
    jax.eval_shape(model.activations, theta, ROWS[:4])
    assert calls == [ROWS.shape, (4, 3)]


@pytest.mark.parametrize(
    ("parts", "activations", "words"),
    [
        ((CONV, NORM, DENSE), CAPTURES, ("params/Dense_1/bias", "params/Dense_1/kernel", "missing from the spec")),
        ((CONV, NORM, DENSE, LAST, layer_specs.dense("Dense_2", None, None)), CAPTURES, ("params/Dense_2/bias",)),
        ((CONV, layer_specs.norm("BatchNorm_0", "dense"), DENSE, LAST), CAPTURES, ("'dense'", "unequal", "4 at")),
        ((CONV, NORM, layer_specs.dense("Dense_0", "conv", "dense"), LAST), CAPTURES, ("'conv'", "unequal")),
        ((), {"conv": "Conv_0"}, ("['conv']", "['conv', 'dense']")),
        ((), {**CAPTURES, "more": "Dense_1"}, ("['conv', 'dense', 'more']",)),
        ((), {**CAPTURES, "conv": "Conv_1"}, ("'Conv_1'", "Conv_0, Dense_0")),
    ],
)
def test_specs_and_activations_that_do_not_fit_the_module_are_refused(parts, activations, words):
    with says(SpecError, *words):
        from_net(*parts, activations=activations)


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


class Pooled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return {"each": nn.Dense(2)(x), "all": x.mean(0)}


class Remembering(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x) + self.variable("memory", "seen", jnp.zeros, (1, 2)).value


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (Pooled(), {}, ("Pooled", "'each': (2, 2)", "'all': (3,)", "2 inputs")),
        (Remembering(), {}, ("Remembering", "memory")),
        (Tower, {"example_input": np.zeros((2, 0), np.float32)}, ("(2, 0)",)),
        (Tower, {"example_input": 1.0}, ("example_input", "()")),
        (lambda rngs: Pooled(), {}, ("Pooled", "nnx.Rngs")),
        (nnx.Linear(3, 2, rngs=nnx.Rngs(0)), {}, ("NNX module Linear", "lambda rngs: Linear(")),
        (Net, {}, ("class Net", "Net(")),
        (3, {}, ("got 3",)),
        (ROWS, {"example_input": Pooled()}, ("from_flax(module, example_input)",)),
        (Counting, {}, ("count",)),
        (lambda width, rngs: Tower(rngs), {}, ("width, rngs", "lambda rngs: <lambda>(width=..., rngs=rngs)")),
        (nnx.Linear, {}, ("Linear", "in_features, out_features, rngs", "lambda rngs: Linear(in_features=...")),
        (Tower, {"outputs": "logits"}, ("'logits'", "outputs(returned)")),
        (Masked(), {}, ("Masked", "'mask'")),
        (MaskedToo, {}, ("MaskedToo", "'mask'")),
        (Tower, {"activations": {"first": "first"}}, ("Linen",)),
    ],
)
def test_modules_that_are_no_model_are_refused(module, options, words):
    with says(InputError, *words):
        models.from_flax(module, **{"example_input": ROWS, **options})


def test_images_of_another_shape_are_refused():
    for model in (by_hand(), made("NNX class"), made("Linen")):
        for call, more in ((model.apply, ()), (model.activations, ()), (model.apply_train, (KEY,))):
            with says(InputError, model.name, "(4, 5, 2)", "array (2, 4, 5, 1)"):
                call({}, np.zeros((2, 4, 5, 1), np.float32), *more)


def test_a_model_of_two_functions():
    def init(key):
        one, two = jax.random.split(key)
        return {"a": jax.random.normal(one, (3, 6)), "b": jax.random.normal(two, (6, 2))}

    model = models.from_function(init, lambda theta, x: jnp.tanh(x @ theta["a"]) @ theta["b"], ROWS, name="two")
    theta = variables(model)
    assert (model.name, model.input_shape, model.num_classes) == ("two", (3,), 2)
    assert model.spec.group_sizes(theta) == {"a": 6}
    assert_unchanged(model, theta, ROWS)
    outputs, _, (trained, stats) = run(model)(theta, ROWS, KEY)
    np.testing.assert_array_equal(trained, outputs)
    assert stats == {}
    np.testing.assert_allclose(outputs, np.tanh(ROWS @ theta["a"]) @ theta["b"], rtol=1e-4, atol=1e-5)
    P = {"a": np.array([3, 0, 1, 2, 5, 4])}
    match = match_activations(task_of(model, ROWS), permuted(model.spec, P, theta), theta, examples=len(ROWS))
    np.testing.assert_array_equal(match.P["a"], P["a"])
    with says(InputError, "two", "(3,)", "(2, 4)"):
        model.apply(theta, np.zeros((2, 4), np.float32))


def test_running_statistics_among_the_parameters_are_asked_about_and_can_be_frozen():
    def init(key):
        a, b = jax.random.normal(key, (3, 6)), jax.random.normal(key, (6, 2))
        return {"a": a, "running_mean": jnp.ones(6), "running_var": jnp.full(6, 2.0), "b": b}

    def apply(theta, x):
        h = (x @ theta["a"] - theta["running_mean"][None]) / jnp.sqrt(theta["running_var"])[None]
        return jnp.tanh(h) @ theta["b"]

    with pytest.warns(InputWarning, match="running_mean, running_var.*batch_stats.*freeze"):
        model = models.from_function(init, apply, ROWS)
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    task = Task(lambda theta, x, key: jnp.square(apply(theta, x)).mean(), x, model=model)
    frozen = optax.transforms.freeze({"a": False, "running_mean": True, "running_var": True, "b": False})
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), frozen)
    config = {"epochs": 2, "batch_size": 10, "optimizer": optimizer, "weight_decay": 0.1}
    theta = train_endpoints(jax.random.split(KEY, 1), task, TrainConfig(**config)).theta
    np.testing.assert_array_equal(theta["running_mean"], np.ones((1, 6)))
    np.testing.assert_array_equal(theta["running_var"], np.full((1, 6), 2))
    ends = trees.index(theta, 0), model.init(jax.random.key(5))
    fit = fit_curve(KEY, task, bezier(model.spec), *ends, config=FitConfig(**config))
    middle, line = fit.path(0.5), trees.interpolate(*ends, 0.5)
    np.testing.assert_array_equal(middle["running_var"], line["running_var"])
    assert np.abs(middle["a"] - line["a"]).max() > 1e-3

    # In a collection of their own, they are no parameters.
    def apart(key):
        theta = init(key)
        return {"params": {name: theta.pop(name) for name in "ab"}, "batch_stats": theta}

    models.from_function(apart, lambda theta, x: apply({**theta["params"], **theta["batch_stats"]}, x), ROWS)
