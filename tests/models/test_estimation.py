"""Training mode for estimation: dropout that is off against a rate of zero, variances against numpy."""

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx
from variables import alive

from mcjax import models, trees
from mcjax.models.estimation import estimation
from mcjax.models.layers import BatchNorm


class Linen(nn.Module):
    """Dropout in front of a norm, and behind it, its inputs by name."""

    rate: float

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(self.rate)(nn.relu(nn.Dense(8)(x)), deterministic=not train)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(2)(nn.Dropout(self.rate)(inputs=x, deterministic=not train))


class Nnx(nnx.Module):
    """The first of these, told by an argument."""

    def __init__(self, rate, *, rngs):
        self.first, self.norm = nnx.Linear(3, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.drop, self.last = nnx.Dropout(rate, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x, deterministic):
        return self.last(self.norm(self.drop(nnx.relu(self.first(x)), deterministic=deterministic)))


MODULES = {"linen": Linen, "nnx": lambda rate: lambda rngs: Nnx(rate, rngs=rngs)}


@pytest.mark.parametrize("kind", MODULES)
def test_training_mode_without_it_is_that_of_rate_zero(kind, key):
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    plain, dropped = (models.from_flax(MODULES[kind](rate), x) for rate in (0.0, 0.5))
    theta = alive(plain)

    @jax.jit
    def run(theta):
        with estimation():
            off = dropped.apply_train(theta, x, key)
        return plain.apply_train(theta, x, key), off, dropped.apply_train(theta, x, key)

    expected, off, on = run(theta)
    chex.assert_trees_all_close(off, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(on[0], expected[0])
    assert all(not np.allclose(a, b) for a, b in zip(*map(jax.tree.leaves, (on[1], off[1])), strict=True))


class Shifted(nn.Module):
    """A norm of inputs whose mean is large."""

    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(x)


class ShiftedNnx(nnx.Module):
    """The same in NNX."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x):
        return self.norm(x)


class Own(nn.Module):
    """The same with mcjax's norm."""

    @nn.compact
    def __call__(self, x, train):
        return BatchNorm()(x, train)


@pytest.mark.parametrize("module", [Shifted(), ShiftedNnx, Own()], ids=["linen", "nnx", "mcjax"])
def test_variances_keep_their_digits_where_means_are_large(module, key):
    x = (1000 + np.random.default_rng(0).normal(size=(4000, 3))).astype(np.float32)
    model = models.from_flax(module, x)
    theta = model.init(key)

    def variance():
        stats = trees.flatten(jax.jit(lambda theta: model.apply_train(theta, x, key)[1])(theta))
        return next(leaf for name, leaf in stats.items() if name.endswith("var"))

    with estimation():
        exact = variance()
    np.testing.assert_allclose(exact, np.float64(x).var(0), rtol=1e-4)
    assert not np.allclose(variance(), exact, rtol=1e-3)  # in training, one pass
