"""The check of a symmetry: silent for a right spec, and it names what a wrong one gets wrong."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import PermutationSpec, SpecError, check_invariance

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


@pytest.mark.parametrize("seed", range(3))
def test_a_right_spec_passes(theta, seed):
    before = jax.tree.map(np.copy, theta)
    assert check_invariance(network(), theta, X, jax.random.key(seed)) is None
    jax.tree.map(np.testing.assert_array_equal, theta, before)
    assert jnp.zeros(()).dtype == jnp.float32


@pytest.mark.parametrize(
    ("leaf", "axes", "group", "other"),
    [
        ("params/one/bias", (None,), "one", "two"),
        ("params/norm/scale", None, "one", "two"),
        ("batch_stats/norm/mean", (None,), "one", "two"),
        ("batch_stats/norm/var", (None,), "one", "two"),
        ("params/one/kernel", (None, None), "one", "two"),
        ("params/two/kernel", (None, "two"), "one", "two"),
        ("params/two/bias", (None,), "two", "one"),
        ("params/out/kernel", (None, None), "two", "one"),
    ],
)
def test_a_forgotten_axis_is_found_and_its_group_named(theta, leaf, axes, group, other, key):
    with pytest.raises(SpecError, match=f"permuting '{group}' changes the outputs") as caught:
        check_invariance(network({leaf: axes}), theta, X, key)
    assert f"permuting '{other}'" not in str(caught.value)


def test_activations_in_another_order_are_found(theta, key):
    def reordered(theta, x):
        one, two = hidden(theta, x)
        return {"one": (one,), "two": (two, two[:, ::-1])}

    message = r"permuting 'two' puts the activations of 'two' in another order"
    with pytest.raises(SpecError, match=message) as caught:
        check_invariance(network(activations=reordered), theta, X, key)
    assert "changes the outputs" not in str(caught.value)
    assert "permuting 'one'" not in str(caught.value)


def test_activations_of_swapped_groups_are_found(theta, key):
    square = jax.tree.map(lambda leaf: leaf, theta)
    square["params"]["two"] = {"kernel": np.eye(6, dtype=np.float32) + 0.5, "bias": np.zeros(6, np.float32)}
    square["params"]["out"] = {"kernel": np.ones((6, 3), np.float32)}
    with pytest.raises(SpecError, match=r"(?s)permuting 'one' puts .*permuting 'two' puts "):
        check_invariance(
            network(activations=lambda *args: dict(zip(("two", "one"), zip(hidden(*args)), strict=True))),
            square,
            X,
            key,
        )


def test_variables_that_the_spec_does_not_describe_are_refused(theta, key):
    del theta["params"]["two"]["bias"]
    with pytest.raises(SpecError, match="params/two/bias: in the spec, missing from the variables"):
        check_invariance(network(), theta, X, key)


def test_activations_of_another_width_are_found(theta, key):
    def narrow(theta, x):
        one, two = hidden(theta, x)
        return {"one": (one,), "two": (two[:, :2],)}

    with pytest.raises(SpecError, match=r"permuting 'two' needs activations of \d+ units, and gets \[2\]"):
        check_invariance(network(activations=narrow), theta, X, key)
