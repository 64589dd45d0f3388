"""Typed keys."""

import jax
from refusals import says

from mcjax import InputError, trees


def test_keys_are_typed_and_as_many_as_are_taken():
    one, many = jax.random.key(0), jax.random.split(jax.random.key(0))
    assert trees.check_keys(one, 0) is one
    assert trees.check_keys(many, 1) is many
    raw = jax.random.PRNGKey(0)
    for wrong, most, word in ((0, 0, "int"), (raw, 1, "uint32"), (many, 0, "(2,)"), (many[None], 1, "(1, 2)")):
        with says(InputError, word, "key"):
            trees.check_keys(wrong, most)
    jax.eval_shape(trees.check_keys, one)
