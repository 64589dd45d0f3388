"""Small image data sets: bars that tell classes apart, and random colours."""

import numpy as np

import mcjax


def bars(train, test, side, apart):
    """So many train and test images, grey, of 3 classes; each class has a bright bar, `apart` columns from the next."""
    rng = np.random.default_rng(0)
    splits = []
    for n in (train, test):
        labels = np.arange(n) % 3
        images = rng.integers(0, 90, (n, side, side, 1))
        for i, label in enumerate(labels):
            images[i, :, apart * label : apart * label + 2] += 120
        splits += [images.astype(np.uint8), labels]
    return mcjax.data.from_arrays(*splits, num_classes=3, name="bars")


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
