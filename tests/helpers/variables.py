"""Variables of networks for tests that need no training, drawn and moved by numpy: nothing is compiled for them."""

from itertools import pairwise

import jax
import numpy as np

from mcjax import trees


def drawn(model, seed=0):
    """Normal kernels, and all else in [0.5, 1.5), so that a variance is positive."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return trees.map_with_name(
        lambda name, leaf: rng.normal(size=leaf.shape) if name.endswith("kernel") else rng.random(leaf.shape) + 0.5,
        shapes,
    )


def alive(model, seed=0):
    """float32, at a scale at which the units of deep networks vary, and no leaf at a special value."""
    rng = np.random.default_rng(seed)

    def draw(name, leaf):
        value, inputs = rng.normal(size=leaf.shape), tuple(range(len(leaf.shape) - 1))
        if name.endswith(("scale", "var")):
            value = 0.5 + rng.random(leaf.shape)
        elif inputs:  # what is common to all inputs of a unit would leave it always on, or always off
            value = (value - value.mean(inputs)) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            value = 0.2 * value + 0.3 * name.endswith("bias")
        return np.float32(value)

    return trees.map_with_name(draw, jax.eval_shape(model.init, jax.random.key(0)))


def order(spec, theta, seed=0):
    """A hard permutation of every group."""
    rng = np.random.default_rng(seed)
    return {group: rng.permutation(n).astype(np.int32) for group, n in spec.group_sizes(theta).items()}


def permuted(spec, P, theta):
    """`permute` for a hard P, unit by unit in numpy."""
    leaves = {name: np.asarray(leaf) for name, leaf in trees.flatten(theta).items()}
    for group in spec.groups:
        for name, position, axis in spec.places(group):
            at = axis.positions(leaves[name].shape[position])
            index = np.arange(leaves[name].shape[position])
            index[at] = at[np.asarray(P[group])]
            leaves[name] = leaves[name].take(index, position)
    return trees.nest(leaves)


def inverse(P):
    """The hard permutation that undoes P."""
    return {group: np.argsort(p).astype(np.int32) for group, p in P.items()}


def stacked(each):
    """Trees along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def normalized(images, data):
    """uint8 images as models of `data` take them."""
    return ((images / 255 - np.asarray(data.mean)) / np.asarray(data.std)).astype(np.float32)


def cross_entropy(logits, labels):
    """The loss of every label (n, ...), in float64."""
    logits = np.asarray(logits, np.float64)
    picked = np.take_along_axis(logits, np.asarray(labels)[..., None], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - picked


def mlp(theta, x, nonlinear=lambda x: np.maximum(x, 0)):
    """Every layer of an MLP in float64, hidden ones after their nonlinearity: [dense_0, ..., outputs]."""
    layers = [theta["params"][f"Dense_{i}"] for i in range(len(theta["params"]))]
    units, values = np.asarray(x, np.float64).reshape(len(x), -1), []
    for i, layer in enumerate(layers):
        units = units @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer.get("bias", 0.0), np.float64)
        units = units if i + 1 == len(layers) else nonlinear(units)
        values.append(units)
    return values


def networks(model, count, seed=0):
    """Networks along a leading axis, float32."""
    return stacked([alive(model, 100 * seed + i) for i in range(count)])


def mixed(a, b, t):
    """(1 - t) a + t b, float32."""
    return jax.tree.map(lambda u, v: np.float32((1 - t) * u + t * v), a, b)


def measured(theta, data):
    """Train loss and accuracy, test loss and accuracy of an MLP."""
    found = []
    for split in ("train", "test"):
        images, labels = (np.asarray(getattr(data, f"{split}_{what}")) for what in ("images", "labels"))
        outputs = mlp(theta, normalized(images, data))[-1]
        found += [cross_entropy(outputs, labels).mean(), (outputs.argmax(-1) == labels).mean()]
    return found


def spaced(array, count):
    """So many entries of an array, one of each equal part: those that functions take when they are given a number."""
    golden, parts = (5**0.5 - 1) / 2, [i * len(array) // count for i in range(count + 1)]
    return np.stack([array[a + int(i * golden % 1 * (b - a))] for i, (a, b) in enumerate(pairwise(parts))])
