"""Toy networks that are their own teachers, so that the loss starts at zero, and the same networks in numpy."""

from functools import cache

import jax
import numpy as np

import mcjax
from mcjax.permutation_points.config import PermutationConfig

POINTS, INPUTS, UNITS = 60, 2, 4
GROUP = "dense_0"
CONFIG = PermutationConfig(steps=12, iterations=60, products=60, knots=300, rise_tolerance=1e3)


@cache
def toy(seed, outputs=1):
    """A network 2-4-outputs of tanh units, and the task of the labels that it made: (task, theta)."""
    rng = np.random.default_rng(seed)
    x = np.float32(rng.normal(size=(POINTS, INPUTS)))
    theta = {
        "params": {
            "Dense_0": {"kernel": rng.normal(size=(INPUTS, UNITS)), "bias": rng.normal(size=UNITS) / 2},
            "Dense_1": {"kernel": rng.normal(size=(UNITS, outputs)), "bias": np.zeros(outputs)},
        }
    }
    theta = jax.tree.map(np.float32, theta)
    y = Network(theta).outputs(x)
    return mcjax.supervised(model_of(outputs), mcjax.data.regression(x, y, x, y, "teacher")), theta


@cache
def model_of(outputs=1):
    """One model for all seeds, so that programs are compiled once."""
    return mcjax.models.create("mlp", outputs, (INPUTS,), widths=(UNITS,), activation="tanh")


@cache
def fitted(seed, units, outputs=1):
    """The permutation path of two units of a toy."""
    return mcjax.permutation_points.permutation_path(*toy(seed, outputs), GROUP, units, CONFIG)


class Network:
    """One hidden layer of tanh units in float64: made (units, inputs + 1), the bias last; read (units, outputs)."""

    def __init__(self, theta):
        first, last = (
            {name: np.asarray(leaf, np.float64) for name, leaf in theta["params"][f"Dense_{i}"].items()} for i in (0, 1)
        )
        self.made = np.concatenate([first["kernel"], first["bias"][None]]).T
        self.read, self.bias = last["kernel"], last["bias"]

    def hidden(self, x):
        return np.tanh(with_ones(x) @ self.made.T)

    def outputs(self, x):
        return self.hidden(x) @ self.read + self.bias

    def residuals(self, task):
        x, y = task.train
        return self.outputs(x) - np.asarray(y, np.float64)

    def loss(self, task):
        return np.square(self.residuals(task)).mean()

    def gradient(self, task):
        """By hand: of what makes the units, of what reads them, of the outputs' bias."""
        x, y = task.train
        hidden, x = self.hidden(x), with_ones(x)
        back = 2 * self.residuals(task) / np.size(y)
        return ((back @ self.read.T) * (1 - hidden**2)).T @ x, hidden.T @ back, back.sum(0)

    def distance(self, units):
        """The distance between the parameter vectors of two units."""
        return np.linalg.norm(self.made[units[1]] - self.made[units[0]])

    def output_norm(self, units):
        """The norm of the output weights of two units, both vectors together."""
        return np.linalg.norm(self.read[list(units)])

    def gradient_norm(self, task):
        return np.sqrt(sum(np.square(part).sum() for part in self.gradient(task)))


def with_ones(x):
    x = np.asarray(x, np.float64)
    return np.concatenate([x, np.ones((len(x), 1))], 1)


def knot(path, i):
    """One network of a path."""
    return jax.tree.map(lambda leaf: leaf[i], path.knots)


def equal(a, b):
    """Whether two networks are the same to the last bit."""
    return all(np.array_equal(one, other) for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
