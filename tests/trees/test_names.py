"""Leaves by name, in containers of all kinds."""

from typing import NamedTuple

import chex
import jax
import numpy as np
import pytest
from leaves import random_tree

from mcjax import InputError, trees


class Pair(NamedTuple):
    left: object
    right: object


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


def test_leaves_are_hung_on_other_containers_by_name():
    rows = [np.float32([i]) for i in range(11)]  # as a dict, 10 stands before 2
    named = {str(i): row for i, row in enumerate(rows)}
    assert [int(row[0]) for row in trees.like(rows, named)] == list(range(11))
    assert trees.like(named, rows) == named
    total = trees.add(rows, named)
    assert isinstance(total, list)
    np.testing.assert_array_equal(np.concatenate(total), 2 * np.arange(11))
    assert float(trees.dot(rows, named)) == sum(i * i for i in range(11))


def test_leaves_of_one_name_are_refused():
    with pytest.raises(InputError, match="a/b"):
        trees.flatten({"a/b": 1, "a": {"b": 2}})
