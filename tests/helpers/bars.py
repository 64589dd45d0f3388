"""Small images whose classes are told apart by where they are bright."""

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
