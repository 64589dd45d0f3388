"""Small random colour images, as a data set is made from them."""

import numpy as np


def arrays(**changes):
    """The arguments of `from_arrays`: six training and three test images of four classes."""
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (6, 4, 5, 3)).astype(np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": rng.integers(0, 256, (3, 4, 5, 3)).astype(np.uint8),
        "test_labels": np.array([2, 1, 3]),
        **changes,
    }
