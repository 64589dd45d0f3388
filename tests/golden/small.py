"""Inputs of golden cases: one data set, one model, networks that are drawn and not trained."""

from functools import cache
from itertools import pairwise

import jax
import numpy as np
from images import bars as images

import mcjax
from mcjax import trees

WIDTHS = (6, 5)
# 60 images, 20 of them a step: six steps of SGD, which amplify rounding by little.
TRAINING = mcjax.TrainConfig(epochs=2, batch_size=20, optimizer=mcjax.SGD(0.05), weight_decay=1e-3)
IDENTITY = {f"dense_{i}": np.tile(np.arange(n, dtype=np.int32), (2, 1)) for i, n in enumerate(WIDTHS)}
SHUFFLED = {"dense_0": np.int32([[2, 0, 1, 5, 4, 3]] * 2), "dense_1": np.int32([[1, 0, 2, 4, 3], [4, 3, 2, 1, 0]])}


def key(seed=0):
    return jax.random.key(seed)


@cache
def bars():
    """60 train and 24 test images, 4x4 grey, 3 classes."""
    return images(60, 24, 4, 1)


@cache
def mlp():
    """An MLP 16-6-5-3 for the bars."""
    return mcjax.models.create("mlp", 3, (4, 4, 1), widths=WIDTHS)


@cache
def task():
    """The classification of the bars by the MLP."""
    return mcjax.supervised(mlp(), bars())


def drawn(widths, count, seed=0):
    """Networks of an MLP along a leading axis, numpy."""
    rng = np.random.default_rng(seed)
    layers = {}
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        kernel = rng.normal(size=(count, inputs, outputs)) / np.sqrt(inputs)
        layers[f"Dense_{i}"] = {"kernel": np.float32(kernel), "bias": np.float32(rng.normal(size=(count, outputs)) / 4)}
    return {"params": layers}


@cache
def networks():
    """Four of the MLP."""
    return drawn((16, *WIDTHS, 3), 4)


def network(i):
    """One of the four."""
    return trees.index(networks(), i)


def pairs():
    """The four as two pairs: theta_1 of both, and theta_2."""
    return tuple(trees.index(networks(), slice(i, None, 2)) for i in range(2))


@cache
def trained():
    """Four of the MLP after six steps of SGD."""
    return mcjax.train_endpoints(jax.random.split(key(), 4), task(), TRAINING)


@cache
def trained_pairs():
    """The four as two pairs."""
    theta = jax.device_get(trained().theta)
    return tuple(trees.index(theta, slice(i, None, 2)) for i in range(2))
