"""Variables of a network for tests that need no training."""

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
