"""Collections of a network, what is trained, what is finite, fingerprints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from leaves import random_tree
from refusals import says

from mcjax import InputError, trees


@pytest.mark.parametrize(
    ("theta", "params", "stats"),
    [
        ({"params": {"w": 1}, "batch_stats": {"m": 2}}, {"w": 1}, {"m": 2}),
        ({"params": {"w": 1}}, {"w": 1}, {}),
        ({"w": 1}, {"w": 1}, {}),
        ([1, 2], [1, 2], {}),
    ],
)
def test_collections(theta, params, stats):
    assert trees.params(theta) == params
    assert trees.batch_stats(theta) == stats


def test_with_batch_stats_replaces_only_them():
    theta = {"params": {"w": 1}, "batch_stats": {"m": 2}}
    assert trees.with_batch_stats(theta, {"m": 5}) == {"params": {"w": 1}, "batch_stats": {"m": 5}}
    assert theta["batch_stats"] == {"m": 2}
    assert trees.with_batch_stats(theta, {}) is theta
    assert trees.with_batch_stats([1], {}) == [1]


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_leaves_that_are_not_finite_are_named(array):
    bad = {"nan": [1, np.nan], "inf": [[np.inf], [0]], "low": [-np.inf]}
    good = {"a": [1.0, 2.0], "empty": np.zeros(0, np.float32), "count": np.arange(3)}
    tree = {name: array(leaf) for name, leaf in {**bad, **good}.items()} | {"key": jax.random.key(0)}
    assert sorted(trees.not_finite(tree)) == sorted(bad)
    assert trees.not_finite({"c": array([1 + 1j * np.inf])}) == ["c"]
    assert trees.not_finite({"b": jnp.array([jnp.nan], jnp.bfloat16), "s": jax.ShapeDtypeStruct((3,), np.float32)}) == [
        "b"
    ]


def test_shapes_and_count_need_no_arrays():
    tree = random_tree(0)
    expected = {
        "batch_stats/b/mean": (4,),
        "params/a/scale": (),
        "params/b/bias": (4,),
        "params/b/kernel": (3, 4),
    }
    abstract = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))
    for each in (tree, abstract):
        assert trees.shapes(each) == expected
        assert trees.parameter_count(each) == 12 + 4 + 1


def test_with_params_keeps_the_other_collections_or_stands_for_all():
    theta = {"params": {"a": 1.0}, "batch_stats": {"m": 2.0}}
    assert trees.with_params(theta, {"a": 3.0}) == {"params": {"a": 3.0}, "batch_stats": {"m": 2.0}}
    assert trees.with_params({"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}) == {"a": 3.0, "b": 4.0}


def test_fingerprints_tell_values_names_shapes_and_types_apart():
    base = {"a": np.float32([1, 2]), "b": {"c": np.int32(3)}}
    assert trees.fingerprint(base) == trees.fingerprint({"b": {"c": jnp.int32(3)}, "a": jnp.float32([1, 2])})
    others = [
        {"a": np.float32([1, 2]), "b": {"d": np.int32(3)}},
        {"a": np.float32([1, np.nextafter(np.float32(2), 3)]), "b": {"c": np.int32(3)}},
        {"a": np.float32([[1, 2]]), "b": {"c": np.int32(3)}},
        {"a": np.int32([1, 2]), "b": {"c": np.int32(3)}},
        {"a": np.float32([1, 2])},
    ]
    assert len({trees.fingerprint(tree) for tree in [base, *others]}) == 1 + len(others)


def test_trees_are_alike_up_to_what_is_not_floating():
    a = {"w": np.ones((2, 3), np.float32), "n": np.int32(1), "k": jax.random.key(0)}
    for good in (a, {**a, "n": None}, {**a, "n": {"x": 1}}, {**a, "w": jax.ShapeDtypeStruct((2, 3), jnp.int8)}):
        trees.check_alike(a, good)
    for bad, words in (
        ({**a, "w": np.ones(3)}, (" at w", "(3,)", "(2, 3)")),
        ({"n": 1, "k": 1}, (" at w", "nothing")),
        ({**a, "more": np.ones(4)}, (" at more", "(4,)")),
        (np.ones(2), (" at w",)),
    ):
        with says(InputError, *words):
            trees.check_alike(a, bad)
    with says(InputError, "its root", "(3,)", "(2,)"):
        trees.check_alike(np.ones(2), np.ones(3))
