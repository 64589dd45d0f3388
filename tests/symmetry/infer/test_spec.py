"""Specs inferred from computations: every group of modules without a declared spec is found, and is a symmetry."""

import inspect
import sys
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from infer.functions import difference, moving, traced
from modules import feedforward, sequences
from refusals import says
from variables import permuted

from mcjax import PermutationSpec, SpecError, infer_spec, models, permute, trees
from mcjax.symmetry import infer_activations
from mcjax.symmetry.axis import axes_of
from mcjax.symmetry.infer.operation import no_rule
from mcjax.symmetry.infer.program import trace
from mcjax.symmetry.infer.propagation import RULES

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 5)).astype(np.int32)

# name: (module, inputs, the sizes of the groups that must be found)
ZOO = {
    "pre-activation residual": (feedforward.Residual(), IMAGES, [4, 5, 5, 6, 7, 7]),
    "bottleneck residual": (feedforward.ResNet50(3, (1, 2), 4), IMAGES, [3, 3, 3, 6, 6, 6, 6, 12, 24]),
    "padded shortcut": (feedforward.PaddedShortcut(), IMAGES, [2, 4, 4, 5]),
    "dense blocks": (feedforward.DenseNet(), IMAGES, [3] * 6 + [4, 5]),
    "dense blocks, flattened": (feedforward.DenseNet(flatten=True), IMAGES, [3] * 6 + [4, 5]),
    "grouped convolution": (feedforward.Grouped(), IMAGES, [2, 3, 4, 6]),
    "depthwise, squeeze and excite": (feedforward.Depthwise(), IMAGES, [2, 3, 3, 4, 6, 6]),
    "norms": (feedforward.Normed(), IMAGES, [2, 3, 4, 5, 7]),
    "pooled and flattened": (feedforward.Flattened(), IMAGES, [4, 5, 6]),
    "decoder": (feedforward.Decoder(), IMAGES, [4, 5, 5, 6, 7]),
    "gates": (feedforward.Gated(), IMAGES, [2, 4, 4, 5, 6]),
    "mixer": (feedforward.Mixer(), IMAGES, [5, 5, 6, 7, 7]),
    "LSTM": (sequences.Recurrent(), IMAGES, [4, 5]),
    "LSTM, fused": (sequences.Recurrent(nn.OptimizedLSTMCell), IMAGES, [4, 5]),
    "LSTM by hand": (sequences.FusedCell(), IMAGES, [5]),
    "GRU, backwards": (sequences.Recurrent(nn.GRUCell, reverse=True), IMAGES, [4, 5]),
    "transformer": (sequences.Transformer(), TOKENS, [3, 3, 4, 4, 4, 4, 10, 10, 12]),
    "fused attention": (sequences.FusedAttention(), TOKENS, [3, 4, 4, 9, 12]),
    "interleaved attention": (sequences.FusedAttention(interleaved=True), TOKENS, [3, 4, 4, 9, 12]),
    "vision transformer": (sequences.ViT(), IMAGES, [2, 2, 4, 4, 4, 4, 8, 9, 9]),
    "rotary positions": (sequences.Rotary(), TOKENS, [2, 4, 8]),
    "shared layer": (feedforward.Shared(), IMAGES, [5]),
    "odd leaves": (feedforward.Odd(), IMAGES, [4, 4, 6]),
    "scanned layers": (feedforward.Layered(), IMAGES, [5, 6]),
    "ensemble": (feedforward.Ensemble(), IMAGES, [4, 5]),
    "adapted weights": (feedforward.Adapted(), IMAGES, [3, 5, 6, 7]),
    "branches and loops": (feedforward.Branching(), IMAGES, [6, 6]),
    "positions": (feedforward.Positional(), IMAGES, [4, 6]),
}


def variables(module, x, seed=0):
    """Variables off every special value, as float64; integers and masks as they are."""
    theta = jax.eval_shape(module.init, jax.random.key(0), x)
    rng = np.random.default_rng(seed)
    if any(not np.issubdtype(leaf.dtype, np.floating) for leaf in jax.tree.leaves(theta)):
        theta = jax.device_get(jax.jit(module.init)(jax.random.key(0), x))

    def draw(name, leaf):
        if not np.issubdtype(leaf.dtype, np.floating):
            return leaf
        return rng.normal(size=leaf.shape) if "kernel" in name else rng.random(leaf.shape) + 0.5

    return trees.map_with_name(draw, theta)


@pytest.mark.parametrize("name", ZOO)
def test_every_group_is_found_and_the_function_is_unchanged(name):
    module, x, expected = ZOO[name]
    theta = variables(module, x)
    with jax.enable_x64(True):
        x = x.astype(np.float64) if x.dtype == np.float32 else x
        fn = traced(module.apply, theta, x)
        spec = infer_spec(fn, theta, x)
        sizes = spec.group_sizes(theta)
        assert sorted(sizes.values()) == expected
        P, activations = moving(sizes, 1), infer_activations(fn, spec)
        both = jax.jit(lambda theta: (fn(theta, x), activations(theta, x)))
        (outputs, before), (outputs_after, after) = jax.device_get([both(theta), both(permuted(spec, P, theta))])
    assert difference(outputs, outputs_after) < 1e-10
    assert before.keys() == set(spec.groups)
    for group, p in P.items():
        assert before[group]
        for a, b in zip(before[group], after[group], strict=True):
            assert a.shape[-1] == len(p)
            np.testing.assert_allclose(a[..., p], b, rtol=0, atol=1e-9 * np.abs(a).max())
            assert np.abs(a - a[..., p]).max() > 1e-6  # it does tell the units apart


@pytest.mark.parametrize("name", models.REGISTRY)
def test_registered_models_are_inferred_as_they_are_declared(name):
    model = models.create(name, input_shape=(9,) if name == "lstm" else (32, 32, 3))
    theta = jax.eval_shape(model.init, jax.random.key(0))
    spec = infer_spec(model.apply, theta, jax.ShapeDtypeStruct((2, *model.input_shape), model.input_dtype))
    declared, same = model.spec, {}
    for leaf, entries in spec.axes.items():
        for entry, other in zip(entries, declared.axes[leaf], strict=True):
            for axis, expected in zip(axes_of(entry), axes_of(other), strict=True):
                assert replace(axis, group=expected.group) == expected, leaf
                assert same.setdefault(axis.group, expected.group) == expected.group
    assert len(set(same.values())) == len(same) == len(declared.groups)
    assert spec.axes.keys() == declared.axes.keys()


def test_resnet50_without_allocating_it():
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    theta = jax.eval_shape(feedforward.ResNet50().init, jax.random.key(0), x)
    spec = infer_spec(feedforward.ResNet50().apply, theta, x, strict=True)
    sizes = spec.group_sizes(theta)
    blocks = [64] * 6 + [128] * 8 + [256] * 12 + [512] * 6
    assert sorted(sizes.values()) == sorted([64, 256, 512, 1024, 2048, *blocks])
    # The trunk of the first stage: three blocks end in it and three begin from it, the next stage too.
    assert len(spec.consumers("Bottleneck_0.Conv_2")) == 4
    kernels = [leaf for leaf, _ in spec.producers("Bottleneck_0.Conv_2") if leaf.endswith("kernel")]
    assert len(kernels) == 4


def shapes_of(layers):
    x = jax.ShapeDtypeStruct((2, 6), jnp.int32)
    module = sequences.Transformer(layers)
    theta = jax.eval_shape(module.init, jax.random.key(0), x)
    return module, theta, x


def counted(fn, calls):
    return lambda op: calls.append(op) or fn(op)


def test_work_grows_linearly_and_depth_needs_no_recursion(monkeypatch):
    counts = []
    for layers in (1, 2, 4):
        module, theta, x = shapes_of(layers)
        fn, applied = traced(module.apply, theta, x), []
        for name, rule in list(RULES.items()):
            monkeypatch.setitem(RULES, name, counted(rule, applied))
        infer_spec(fn, theta, x)
        monkeypatch.undo()
        counts.append((len(applied), trace(fn, theta, x).num_equations))
    assert all(applied == equations for applied, equations in counts)
    assert counts[2][1] - counts[1][1] == 2 * (counts[1][1] - counts[0][1])

    def deep(theta, x):
        for w in theta:
            x = jnp.tanh(x @ w)
        return x

    theta = [jax.ShapeDtypeStruct((4, 4), jnp.float32)] * 300
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack(0)) + 250)
        spec = infer_spec(deep, theta, jax.ShapeDtypeStruct((2, 4), jnp.float32))
    finally:
        sys.setrecursionlimit(limit)
    assert len(spec.groups) == 299


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Conv(4, 5, (3, 3), rngs=rngs)])
        self.norm, self.drop = nnx.BatchNorm(5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.out(self.drop(self.norm(x)).mean((1, 2)))


def test_an_nnx_module_in_its_functional_form():
    module = nnx.jit(Net)(nnx.Rngs(0))
    module.eval()
    graph, state = nnx.split(module)

    @jax.jit
    def fn(state, x):
        return nnx.merge(graph, state)(x)

    spec = infer_spec(fn, state, IMAGES)
    assert spec.group_sizes(state) == {"layers.0": 4, "layers.1": 5}
    P = {"layers.0": np.array([2, 3, 1, 0]), "layers.1": np.array([4, 0, 1, 2, 3])}
    moved = permute(spec, P, state)
    np.testing.assert_allclose(fn(moved, IMAGES), fn(state, IMAGES), atol=1e-5)
    bias, before = (np.asarray(each["layers"][0]["bias"][...]) for each in (moved, state))
    np.testing.assert_array_equal(bias, before[P["layers.0"]])


def spec_of(name):
    """The spec inferred for a module of the zoo, from shapes."""
    module, x, _ = ZOO[name]
    return infer_spec(module.apply, jax.eval_shape(module.init, jax.random.key(0), x), x)


def test_names_roles_and_reasons():
    spec = infer_spec(sequences.Transformer(1).apply, *shapes_of(1)[1:])
    attention = "MultiHeadDotProductAttention_0"
    assert set(spec.groups) == {
        "Embed_0",
        "Dense_1",
        *(f"{attention}.{name}" for name in ("query:1", "query:2", "value")),
    }
    embedding = ("params/Embed_0/embedding", 1)
    assert embedding in spec.producers("Embed_0")  # it makes the stream, though the end reads it too
    assert set(spec.consumers(f"{attention}.query:1")) == {(f"params/{attention}/out/kernel", 0)}
    assert (f"params/{attention}/query/kernel", 1) in spec.producers(f"{attention}.query:1")
    assert spec.pinned["params/Embed_0/embedding", 0] == "positions matter to gather"
    assert spec.pinned["params/positions", 0].startswith("an axis of the inputs")
    assert "params/Embed_0/embedding  (-, Embed_0)" in " ".join(str(spec).split()).replace(") ", ")  ").replace(
        "embedding (", "embedding  ("
    )


def test_leaves_nobody_reads_scalars_and_integers():
    spec = spec_of("odd leaves")
    assert spec.axes["params/unused"] == (None, None)
    assert spec.pinned["params/unused", 0] == "not used by the function"
    assert spec.axes["params/scale"] == spec.axes["params/count"] == ()
    assert {axis.group for axis in spec.axes["params/both"]} == {"Dense_0"}  # one leaf, both ways round
    assert spec.axes["params/keep"][0].group == spec.axes["params/order"][0].group


@pytest.mark.parametrize("groups", [1, 2])
def test_axes_without_entries_are_in_no_group(groups):
    theta = {"in": (3, 0), "kernel": (2, 0, 4), "out": (0, 2)}
    theta = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in theta.items()}

    def fn(theta, x):
        h = jnp.tanh(x @ theta["in"])
        numbers = ("NWC", "WIO", "NWC")
        image = jax.lax.conv_general_dilated(
            h, theta["kernel"], (1,), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )
        return h @ theta["out"], image

    assert infer_spec(fn, theta, np.zeros((2, 5, 3), "f")).group_sizes(theta) == {}


def test_leaves_of_one_name_are_refused():
    theta = {"a/b": np.ones((3, 4)), "a": {"b": np.ones((4, 2))}}
    with says(SpecError, "a/b"):
        infer_spec(lambda theta, x: jnp.tanh(x @ theta["a/b"]) @ theta["a"]["b"], theta, np.ones((2, 3)))


def test_a_spec_survives_json():
    spec = spec_of("fused attention")
    again = PermutationSpec.from_json(spec.to_json())
    assert again == spec
    assert again.pinned == spec.pinned
    assert str(again) == str(spec)


def odd_one(theta, x):
    h = jnp.tanh(x @ theta["a"])
    square = h.T @ h
    return jnp.tanh(h @ theta["b"]) @ theta["c"] + jnp.linalg.cholesky(square).sum()


def test_an_unknown_primitive_is_pinned_and_named_or_refused():
    theta = {name: np.ones(shape, np.float32) for name, shape in {"a": (3, 4), "b": (4, 5), "c": (5, 2)}.items()}
    x = np.ones((2, 3), np.float32)
    spec = infer_spec(odd_one, theta, x)
    assert spec.groups == ("b",)
    assert spec.pinned["a", 1] == spec.pinned["b", 0] == "no rule for cholesky"
    assert "cholesky" in str(spec)
    with says(SpecError, "cholesky"):
        infer_spec(odd_one, theta, x, strict=True)


@pytest.mark.usefixtures("loose_ranks")
def test_nothing_known_is_nothing_permuted(monkeypatch):
    for name in list(RULES):
        monkeypatch.setitem(RULES, name, no_rule)
    assert spec_of("pooled and flattened").groups == ()


@pytest.mark.parametrize(
    "fn",
    [
        lambda theta, x: x @ (theta["made"] @ theta["read"].T),
        # What is chosen by data depends on it, though neither of the branches does.
        lambda theta, x: theta["read"] @ jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, theta["made"][0]),
    ],
    ids=["product of variables", "branches"],
)
def test_units_are_read_along_a_last_axis(fn):
    theta = {"made": np.ones((1, 4), np.float32), "read": np.ones((2, 4), np.float32)}
    spec = infer_spec(fn, theta, np.ones((2, 1), np.float32))
    (group,) = spec.groups
    assert (spec.producers(group), spec.consumers(group)) == ((("made", 1),), (("read", 1),))
