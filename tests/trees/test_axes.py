"""Networks along a leading axis."""

import chex
import jax
import numpy as np
from leaves import random_tree
from refusals import says

from mcjax import InputError, trees


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
