"""Several networks at once, points between two of them, and what a perceptron measures on a data set, all in numpy."""

import jax
import numpy as np
from variables import alive, cross_entropy, mlp, normalized, stacked


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
