"""Pytrees by path, and the vector arithmetic of parameter space, against numpy."""

from operator import itemgetter
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says

from mcjax import InputError, trees


class Pair(NamedTuple):
    left: object
    right: object


def random_tree(seed, lead=()):
    rng = np.random.default_rng(seed)
    shapes = {
        "params": {"b": {"kernel": (3, 4), "bias": (4,)}, "a": {"scale": ()}},
        "batch_stats": {"b": {"mean": (4,)}},
    }

    def draw(shape):
        return rng.normal(size=(*lead, *shape)).astype(np.float32)

    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"params": {"Conv_0": {"kernel": 1, "bias": 2}}}, ["params/Conv_0/bias", "params/Conv_0/kernel"]),
        ([1, (2, 3)], ["0", "1/0", "1/1"]),
        (Pair({"x": 1}, [2]), ["left/x", "right/0"]),
        ({"a": {}, "b": None, "c": 1}, ["c"]),
        ({}, []),
        (5, [""]),
    ],
)
def test_flatten_names_leaves_by_their_keys(tree, names):
    flat = trees.flatten(tree)
    assert list(flat) == names
    assert list(flat.values()) == jax.tree.leaves(tree)


def test_nest_undoes_flatten():
    tree = random_tree(0)
    again = trees.nest(trees.flatten(tree))
    chex.assert_trees_all_equal(again, tree)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True))


def test_map_with_name_gives_name_and_all_leaves():
    tree = {"a": [1, 2], "b": 3}
    other = {"a": [10, 20], "b": 30}
    mapped = trees.map_with_name(lambda name, x, y: (name, x + y), tree, other)
    assert mapped == {"a": [("a/0", 11), ("a/1", 22)], "b": ("b", 33)}


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


class Arithmetic(chex.TestCase):
    """Against numpy, leaf by leaf."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_sums_and_multiples(self):
        a, b = random_tree(0), random_tree(1)
        found = self.variant(lambda a, b: (trees.add(a, b), trees.subtract(a, b), trees.scale(-2.5, a)))(a, b)
        of = (lambda x, y: x + y, lambda x, y: x - y, lambda x, y: -2.5 * x)
        for got, expected in zip(found, of, strict=True):
            chex.assert_trees_all_close(got, jax.tree.map(expected, a, b), rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_products(self):
        a, b = random_tree(0), random_tree(1)
        dot, norm = self.variant(lambda a, b: (trees.dot(a, b), trees.norm(a)))(a, b)
        np.testing.assert_allclose(dot, inner(a, b), rtol=1e-5)
        np.testing.assert_allclose(norm, np.sqrt(inner(a, a)), rtol=1e-5)


def inner(a, b):
    return sum(np.vdot(*np.float64(pair)) for pair in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_dot_is_float32_and_zero_of_nothing():
    assert trees.dot({}, {}) == 0
    assert trees.dot(*[{"a": jnp.ones(3, jnp.bfloat16)}] * 2).dtype == jnp.float32


def test_a_deviation_is_float32_at_least():
    one, small = ({"a": jnp.asarray([value], jnp.bfloat16)} for value in (1.0, 2.0**-10))
    np.testing.assert_array_equal(trees.subtract(one, small)["a"], np.float32([1 - 2.0**-10]))


def test_products_of_complex_leaves_are_those_of_their_parts():
    a, b = (np.random.default_rng(seed).normal(size=(2, 3, 4)).astype(np.float32) for seed in range(2))
    whole = [{"w": parts[0] + 1j * parts[1]} for parts in (a, b)]
    np.testing.assert_allclose(trees.dot(*whole), np.vdot(a, b), rtol=1e-5)
    assert trees.norm(whole[0]).dtype == jnp.float32


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


def test_arithmetic_under_vmap():
    a, b = random_tree(0, (3,)), random_tree(1, (3,))
    expected = [inner(*(jax.tree.map(itemgetter(i), tree) for tree in (a, b))) for i in range(3)]
    np.testing.assert_allclose(jax.vmap(trees.dot)(a, b), expected, rtol=1e-5)


def test_stack_then_index():
    several = [random_tree(i) for i in range(3)]
    stacked = trees.stack(several)
    chex.assert_trees_all_equal(stacked, jax.tree.map(lambda *leaves: np.stack(leaves), *several))
    for i, tree in enumerate(several):
        chex.assert_trees_all_equal(trees.index(stacked, i), tree)
    chex.assert_trees_all_equal(trees.index(stacked, slice(1, 3)), jax.tree.map(lambda leaf: leaf[1:], stacked))


def test_entries_of_host_arrays_are_views_and_masks_are_taken():
    stacked = trees.stack([random_tree(i) for i in range(3)])
    on_host = jax.tree.map(np.asarray, stacked)
    for leaf, entry in zip(jax.tree.leaves(on_host), jax.tree.leaves(trees.index(on_host, -1)), strict=True):
        assert np.shares_memory(leaf, entry) or entry.ndim == 0
    for of in (stacked, on_host):
        chex.assert_trees_all_equal(trees.index(of, -1), random_tree(2))
        masked = trees.index(of, np.array([True, False, True]))
        chex.assert_trees_all_equal(masked, jax.tree.map(lambda leaf: leaf[::2], on_host))


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


def test_keys_are_typed_and_as_many_as_are_taken():
    one, many = jax.random.key(0), jax.random.split(jax.random.key(0))
    assert trees.check_keys(one, 0) is one
    assert trees.check_keys(many, 1) is many
    raw = jax.random.PRNGKey(0)
    for wrong, most, word in ((0, 0, "int"), (raw, 1, "uint32"), (many, 0, "(2,)"), (many[None], 1, "(1, 2)")):
        with says(InputError, word, "key"):
            trees.check_keys(wrong, most)
    jax.eval_shape(trees.check_keys, one)


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


def test_the_length_of_networks():
    assert trees.length({"a": np.ones((3, 2)), "b": np.ones(3)}) == 3
    for wrong in ({"a": np.ones((3, 2)), "b": np.ones(2)}, {"a": np.float32(1)}, {}, None, [np.ones(2), np.ones(3)]):
        for function in (trees.length, trees.mean):
            with says(InputError, "leading", "trees.stack("):
                function(wrong)


def test_networks_of_one_architecture_are_stacked():
    for wrong, words in (({"a": np.ones(3)}, (" at a", "(3,)", "(2,)")), ({"b": np.ones(2)}, (" at a", "nothing"))):
        with says(InputError, *words):
            trees.stack([{"a": np.ones(2)}] * 2 + [wrong])
