"""The check of a symmetry: silent for a right spec, and it names what a wrong one gets wrong."""

import re
from types import SimpleNamespace

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import Axis, PermutationSpec, SpecError, check_invariance, models

AXES = {
    "params/one/kernel": (None, "one"),
    "params/one/bias": ("one",),
    "params/norm/scale": ("one",),
    "batch_stats/norm/mean": ("one",),
    "batch_stats/norm/var": ("one",),
    "params/two/kernel": ("one", "two"),
    "params/two/bias": ("two",),
    "params/out/kernel": ("two", None),
}


def hidden(theta, x):
    params, stats = theta["params"], theta["batch_stats"]["norm"]
    one = x @ params["one"]["kernel"] + params["one"]["bias"][None]
    one = (one - stats["mean"][None]) / jnp.sqrt(stats["var"] + 1e-5)[None] * params["norm"]["scale"][None]
    one = jnp.maximum(one, 0)
    return one, jnp.maximum(one @ params["two"]["kernel"] + params["two"]["bias"][None], 0)


def network(axes=None, activations=None):
    return SimpleNamespace(
        spec=PermutationSpec(AXES | (axes or {})),
        apply=lambda theta, x: hidden(theta, x)[1] @ theta["params"]["out"]["kernel"],
        activations=activations or (lambda theta, x: dict(zip(("one", "two"), zip(hidden(theta, x)), strict=True))),
    )


@pytest.fixture
def theta():
    # As a network begins: biases and means of zero, scales and variances of one.
    def draw(*shape):
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)

    zeros, ones = np.zeros(6, np.float32), np.ones(6, np.float32)
    return {
        "params": {
            "one": {"kernel": draw(4, 6), "bias": zeros},
            "norm": {"scale": ones},
            "two": {"kernel": draw(6, 5), "bias": np.zeros(5, np.float32)},
            "out": {"kernel": draw(5, 3)},
        },
        "batch_stats": {"norm": {"mean": zeros, "var": ones}},
    }


X = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)


def test_a_right_spec_passes(theta):
    before = jax.tree.map(np.copy, theta)
    for seed in range(3):
        assert check_invariance(network(), theta, X, jax.random.key(seed)) is None
    chex.assert_trees_all_equal(theta, before)
    assert jnp.zeros(()).dtype == jnp.float32


def accused(model, theta, x, key):
    """The findings of the check for each group, read off its error."""
    with pytest.raises(SpecError) as caught:
        check_invariance(model, theta, x, key)
    return dict(re.findall(r"permuting '(\w+)' (.*)", str(caught.value)))


@pytest.mark.parametrize(
    ("leaf", "axes", "group"),
    [
        ("params/one/bias", (None,), "one"),
        ("params/norm/scale", None, "one"),
        ("batch_stats/norm/mean", (None,), "one"),
        ("batch_stats/norm/var", (None,), "one"),
        ("params/one/kernel", (None, None), "one"),
        ("params/two/kernel", (None, "two"), "one"),
        ("params/two/bias", (None,), "two"),
        ("params/out/kernel", (None, None), "two"),
    ],
)
def test_a_forgotten_axis_is_found_and_its_group_named(theta, leaf, axes, group, key):
    found = accused(network({leaf: axes}), theta, X, key)
    assert found.keys() == {group}
    assert found[group].startswith("changes the outputs")


def test_activations_in_another_order_are_found(theta, key):
    def reordered(theta, x):
        one, two = hidden(theta, x)
        return {"one": (one,), "two": (two, two[:, ::-1])}

    found = accused(network(activations=reordered), theta, X, key)
    assert found == {"two": "puts the activations of 'two' in another order"}


def test_activations_of_swapped_groups_are_found(theta, key):
    theta["params"]["two"] = {"kernel": np.eye(6, dtype=np.float32) + 0.5, "bias": np.zeros(6, np.float32)}
    theta["params"]["out"] = {"kernel": np.ones((6, 3), np.float32)}
    swapped = network(activations=lambda *args: dict(zip(("two", "one"), zip(hidden(*args)), strict=True)))
    found = accused(swapped, theta, X, key)
    assert found.keys() == {"one", "two"}
    assert all("another order" in why for why in found.values())


def test_activations_of_another_width_are_found(theta, key):
    def narrow(theta, x):
        one, two = hidden(theta, x)
        return {"one": (one,), "two": (two[:, :2],)}

    found = accused(network(activations=narrow), theta, X, key)
    assert found["two"] == "needs activations of 5 units, and gets [2]"


def test_variables_that_the_spec_does_not_describe_are_refused(theta, key):
    del theta["params"]["two"]["bias"]
    with pytest.raises(SpecError, match="params/two/bias"):
        check_invariance(network(), theta, X, key)


TOKENS = np.array([[0, 3, 1], [2, 2, 4]], np.int32)


def embedded(theta, x):
    return jnp.tanh(theta["table"][x])


@pytest.mark.parametrize(("table", "right"), [((None, "units"), True), (("units", None), False)])
def test_integers_stay_integers(table, right, key):
    theta = {"table": np.zeros((5, 5), np.float32), "out": np.eye(5, 2, dtype=np.float32)}
    seen = set()

    def apply(theta, x):
        seen.add((x.dtype, theta["out"].dtype))
        return embedded(theta, x).sum(1) @ theta["out"]

    spec = PermutationSpec({"table": table, "out": ("units", None)})
    model = SimpleNamespace(spec=spec, apply=apply, activations=lambda theta, x: {"units": (embedded(theta, x),)})
    if right:
        assert check_invariance(model, theta, TOKENS, key) is None
    else:
        (why,) = accused(model, theta, TOKENS, key).values()
        assert "outputs" in why
        assert "another order" in why
    assert seen == {(np.dtype(np.int32), np.dtype(np.float64))}


class Cell(nn.Module):
    """A recurrent layer whose state is float32 whatever its inputs are."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.RNN(nn.LSTMCell(4))(x)[:, -1])


@pytest.fixture(scope="module")
def cell():
    x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    model = models.from_flax(Cell(), x)
    return model, jax.jit(model.init)(jax.random.key(0)), x


def test_a_state_of_float32_is_checked_in_float32(cell, key):
    model, theta, x = cell
    (group,) = model.spec.groups
    dtypes = []

    def apply(theta, x):
        outputs = model.apply(theta, x)  # raises in float64
        dtypes.append(outputs.dtype)
        return outputs

    assert check_invariance(model._replace(apply=apply), theta, x, key) is None
    assert dtypes == [np.float32]
    assert model.spec.group_sizes(theta) == {group: 4}


@pytest.mark.parametrize("kernel", ["hi", "hf", "hg", "ho", "ii"])
def test_a_wrong_spec_is_refused_in_float32_too(cell, key, kernel):
    model, theta, x = cell
    (leaf,) = [leaf for leaf in model.spec.axes if leaf.endswith(f"/{kernel}/kernel")]
    forgotten = PermutationSpec({**model.spec.axes, leaf: (model.spec.axes[leaf][0], None)})
    with pytest.raises(SpecError, match="changes the outputs"):
        check_invariance(model._replace(spec=forgotten), theta, x, key)


HEADS, UNITS = Axis("heads", inner=5), Axis("units", outer=4)


def split(theta, x):
    """Four heads of five units each, every unit minus the mean of its head."""
    h = jnp.tanh(x @ theta["a"]).reshape(-1, 4, 5)
    return h - h.mean(2, keepdims=True)


def headed(a=(HEADS, UNITS), b=(HEADS, UNITS)):
    return SimpleNamespace(
        spec=PermutationSpec({"a": (None, a), "b": (b, None)}),
        apply=lambda theta, x: split(theta, x).reshape(-1, 20) @ theta["b"],
        activations=lambda theta, x: {
            group: (jnp.square(split(theta, x)).mean(axis),) for group, axis in (("heads", 2), ("units", 1))
        },
    )


@pytest.fixture
def heads():
    rng = np.random.default_rng(3)
    return {"a": rng.normal(size=(4, 20)).astype(np.float32), "b": rng.normal(size=(20, 2)).astype(np.float32)}


def test_two_groups_on_one_axis(heads):
    for seed in range(3):
        assert check_invariance(headed(), heads, X, jax.random.key(seed)) is None


@pytest.mark.parametrize(
    ("wrong", "group"),
    [
        ({"b": HEADS}, "units"),
        ({"a": UNITS}, "heads"),
        ({"b": (Axis("heads", outer=5), UNITS)}, "heads"),
        ({"b": (HEADS, Axis("units", inner=4))}, "units"),
        ({"b": (HEADS, Axis("units", stop=5))}, "units"),
    ],
)
def test_of_two_groups_on_one_axis_the_wrong_one_is_named(heads, wrong, group, key):
    assert accused(headed(**wrong), heads, X, key).keys() == {group}


SEGMENTS = (Axis("one", stop=5), Axis("two", start=5))


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        (SEGMENTS, ()),
        ((Axis("two", stop=5), Axis("one", start=5)), ("one", "two")),
        (SEGMENTS[:1], ("two",)),
        (SEGMENTS[1:], ("one",)),
    ],
)
def test_segments_of_a_concatenation(entry, wrong):
    rng = np.random.default_rng(4)
    theta = {name: rng.normal(size=(4, 5)) for name in ("one", "two")} | {"out": rng.normal(size=(10, 2))}

    def parts(theta, x):
        return {name: (jnp.tanh(x @ theta[name]),) for name in ("one", "two")}

    model = SimpleNamespace(
        spec=PermutationSpec({"one": (None, "one"), "two": (None, "two"), "out": (entry, None)}),
        apply=lambda theta, x: jnp.concatenate([part for (part,) in parts(theta, x).values()], 1) @ theta["out"],
        activations=parts,
    )
    if wrong:
        assert accused(model, theta, X, jax.random.key(0)).keys() == set(wrong)
    else:
        assert check_invariance(model, theta, X, jax.random.key(0)) is None


def test_a_pair_of_units_is_always_exchanged():
    theta = {"a": np.ones((3, 2), np.float32), "b": np.ones((2, 4), np.float32)}
    wrong = PermutationSpec({"a": (None, "pair"), "b": (None, None)})

    def apply(theta, x):
        return jnp.tanh(x @ theta["a"]) @ theta["b"]

    activations = lambda theta, x: {"pair": (jnp.tanh(x @ theta["a"]),)}  # noqa: E731
    model = SimpleNamespace(spec=wrong, apply=apply, activations=activations)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    for seed in range(10):
        with pytest.raises(SpecError, match="permuting 'pair' changes the outputs"):
            check_invariance(model, theta, x, jax.random.key(seed))
