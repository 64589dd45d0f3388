"""Arithmetic of trees against numpy, leaf by leaf."""

from operator import itemgetter

import chex
import jax
import jax.numpy as jnp
import numpy as np
from leaves import random_tree

from mcjax import trees


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


def test_arithmetic_under_vmap():
    a, b = random_tree(0, (3,)), random_tree(1, (3,))
    expected = [inner(*(jax.tree.map(itemgetter(i), tree) for tree in (a, b))) for i in range(3)]
    np.testing.assert_allclose(jax.vmap(trees.dot)(a, b), expected, rtol=1e-5)
