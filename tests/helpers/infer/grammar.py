"""Random small networks: a few layers drawn from a grammar in which sizes coincide as often as they can."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from infer.grammar_layers import LAYERS
from infer.grammar_operations import OPERATIONS

SIZES = (2, 3, 4, 6)
MOST = 600  # entries of one value


class Net(NamedTuple):
    """`fn(theta, x)`, the shapes of its leaves, an input, and what it is made of."""

    fn: Callable[[dict[str, Any], Any], Any]
    shapes: dict[str, tuple[int, ...]]
    x: np.ndarray
    layers: tuple[str, ...]


class Draft:
    """A network in the making: `rng` to choose by, the shapes of all values, and the leaves so far."""

    def __init__(self, rng):
        self.rng, self.shapes, self.leaves = rng, [], {}

    def leaf(self, *shape):
        """The name of a leaf of this shape: a new one, or one in four times one that is there."""
        same = [name for name, there in self.leaves.items() if there == shape]
        if same and self.rng.random() < 0.25:
            return str(self.rng.choice(same))
        name = f"w{len(self.leaves)}"
        self.leaves[name] = shape
        return name

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))] if len(choices) else None

    def size(self):
        return int(self.pick(SIZES))

    def axis(self, shape):
        return int(self.rng.integers(len(shape)))

    def other(self, shape):
        """The index of another value of this shape, the last one if there is none."""
        return self.pick([i for i, there in enumerate(self.shapes) if there == shape])


def random_net(seed, depth=6, through=None):
    """The network of this seed: x of two or three axes, `depth` layers, and a layer that reads the last value.

    `through` is a kind of layer, or of operation, to put second, after one that makes units.
    """
    rng = np.random.default_rng(seed)
    d = Draft(rng)
    x = rng.normal(size=(2, 3, d.size())[: 3 if rng.random() < 0.8 else 2])
    d.shapes.append(x.shape)
    steps, names = [], []
    while len(steps) < depth:
        name = str(rng.choice(list(LAYERS)))
        if through and len(steps) < 2:
            name = through if steps else ("dense", "members", "along")[seed % 3]
        leaves = dict(d.leaves)
        step = {**LAYERS, **OPERATIONS}[name](d, d.shapes[-1])
        out = step and _shape_of(step, d)
        if not out or math.prod(out) > MOST or not 1 <= len(out) <= 4 or math.prod(out) < 2:
            d.leaves, through = leaves, None
            continue
        d.shapes.append(out)
        steps.append(step)
        names.append(name)
    end = d.leaf(d.shapes[-1][-1], 3) if rng.random() < 0.8 else None

    def fn(theta, x):
        values = [x]
        for step in steps:
            values.append(step(values[-1], theta, values))
        return values[-1].sum(-1) if end is None else jnp.tanh(values[-1] @ theta[end])

    return Net(fn, d.leaves, x, tuple(names))


def _shape_of(step, d):
    theta = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in d.leaves.items()}
    values = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in d.shapes]
    return jax.eval_shape(lambda theta, values: step(values[-1], theta, values), theta, values).shape
