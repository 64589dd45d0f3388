"""Models of one's own Linen and NNX modules, their variables, and what every such model must satisfy."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from modules import sequences
from variables import order, permuted

from mcjax import models, trees


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.relu(nn.Dense(5)(x.reshape(x.shape[0], -1)))
        return nn.Dense(3)(x)


SHAPE = (4, 5, 2)
EXAMPLE = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)


def variables(model, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def draw(name, leaf):
        return rng.random(leaf.shape) + 0.5 if name.endswith("var") else rng.normal(size=leaf.shape)

    return jax.tree.map(np.float32, trees.map_with_name(draw, shapes))


def images(n=6, seed=1):
    return np.random.default_rng(seed).normal(size=(n, *SHAPE)).astype(np.float32)


class Tower(nnx.Module):
    """A norm, then more layers than there are digits, all of one width, then dropout."""

    def __init__(self, rngs, rate=0.5, depth=11):
        self.first, self.norm = nnx.Linear(3, 5, rngs=rngs), nnx.BatchNorm(5, momentum=0.8, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(5, 5, rngs=rngs) for _ in range(depth)])
        self.drop, self.last = nnx.Dropout(rate, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.first(x))
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.last(self.drop(x))


def steady(rngs):
    return Tower(rngs, rate=0.0, depth=2)


ROWS = np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32)


class Pictures(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Conv(2, 4, (3, 3), rngs=rngs), nnx.Conv(4, 6, (3, 3), (2, 2), rngs=rngs)])
        self.norm, self.drop = nnx.BatchNorm(6, rngs=rngs), nnx.Dropout(0.3, rngs=rngs)
        self.out = nnx.Linear(36, 3, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.out(self.drop(self.norm(x)).reshape(x.shape[0], -1))


ALONE = {
    "Linen": (Net(), images(), [4, 5]),
    "Linen, tokens": (sequences.Transformer(1), np.arange(12, dtype=np.int32).reshape(2, 6) % 11, [3, 4, 4, 10, 12]),
    "NNX class": (Pictures, images(), [4, 6]),
    "NNX class, many layers": (Tower, ROWS, [5] * 12),
    "NNX function": (steady, ROWS, [5] * 3),
}


@cache
def made(name):
    """A model of ALONE: to read a spec off takes long, so that tests share it."""
    return models.from_flax(*ALONE[name][:2])


@cache
def run(model):
    """(theta, x, key) -> outputs, activations, and what training gives, as one program."""
    return jax.jit(
        lambda theta, x, key: (model.apply(theta, x), model.activations(theta, x), model.apply_train(theta, x, key))
    )


KEY = jax.random.key(0)


def assert_unchanged(model, theta, x):
    """Permuting all groups leaves the outputs as they are, and permutes the activations."""
    P = {group: np.roll(p, 1) if (p == np.arange(len(p))).all() else p for group, p in order(model.spec, theta).items()}
    (outputs, units, _), (same, moved, _) = (
        run(model)(each, x, KEY) for each in (theta, permuted(model.spec, P, theta))
    )
    pairs = list(zip(jax.tree.leaves(outputs), jax.tree.leaves(same), strict=True))
    pairs += [(a[..., P[group]], b) for group in P for a, b in zip(units[group], moved[group], strict=True)]
    for a, b in jax.tree.map(np.asarray, pairs):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * np.abs(a).max())
