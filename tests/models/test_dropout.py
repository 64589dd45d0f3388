"""Dropout that is off against the same module with a rate of zero."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

from mcjax import models
from mcjax.models.dropout import without_dropout


class Linen(nn.Module):
    """Dropout in front of a norm."""

    rate: float

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(self.rate)(nn.relu(nn.Dense(8)(x)), deterministic=not train)
        return nn.Dense(2)(nn.BatchNorm(use_running_average=not train)(x))


class Nnx(nnx.Module):
    """The same, its dropout told by an argument."""

    def __init__(self, rate, *, rngs):
        self.first, self.norm = nnx.Linear(3, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.drop, self.last = nnx.Dropout(rate, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x, deterministic):
        return self.last(self.norm(self.drop(nnx.relu(self.first(x)), deterministic=deterministic)))


MODULES = {"linen": Linen, "nnx": lambda rate: lambda rngs: Nnx(rate, rngs=rngs)}


@pytest.mark.parametrize("kind", MODULES)
def test_training_mode_without_it_is_that_of_rate_zero(kind, key):
    x = jax.random.normal(key, (16, 3))
    plain, dropped = (models.from_flax(MODULES[kind](rate), x) for rate in (0.0, 0.5))
    theta = plain.init(key)
    expected = plain.apply_train(theta, x, key)
    with without_dropout():
        off = dropped.apply_train(theta, x, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), off, expected)
    on = dropped.apply_train(theta, x, key)
    assert not np.allclose(on[0], expected[0])
    jax.tree.map(lambda a, b: np.testing.assert_raises(AssertionError, np.testing.assert_allclose, a, b), on[1], off[1])
