"""Data sets as arrays, and the augmentation and normalisation of images.

A `Dataset` holds the train and test split, and perhaps a validation split, as arrays: images uint8
(n, height, width, channels) and integer labels (n,), with the mean and standard deviation of the training images. It
lives on the device as it is; augmentation and normalisation happen inside the compiled training step. Inputs
of another kind, float32 or tokens, and labels that are numbers stand in the same places.

- `load(name)` reads scikit-learn's digits, any TFDS image-classification set, an .npz file, or a folder of texts.
- `from_arrays(...)` takes your own images and labels, and `regression(...)` your own numbers.
- `data.take(train, test)` keeps the first images; `data.hold_out(n)` moves the last training images to validation.
- `split_by_class(data)` makes two sets with other shares of the classes (Ainsworth et al., 2022).

Example::

    import numpy as np
    import mcjax

    digits = mcjax.data.load("digits").hold_out(200)  # part of scikit-learn: no download
    print(len(digits.train_labels), len(digits.validation_labels), digits.image_shape, digits.num_classes)

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 8, 8, 3), np.uint8)
    labels = np.arange(100) % 4
    data = mcjax.data.from_arrays(images[:80], labels[:80], images[80:], labels[80:])
    print(data.default_augmentation())
    x = mcjax.data.normalize(data.train_images[:5], data.mean, data.std)
    print(x.shape, x.dtype)
"""

from mcjax.data.augment import Augmentation, augment, normalize
from mcjax.data.datasets import KNOWN, Dataset, from_arrays, load
from mcjax.data.regression import regression
from mcjax.data.splits import split_by_class

__all__ = [
    "KNOWN",
    "Augmentation",
    "Dataset",
    "augment",
    "from_arrays",
    "load",
    "normalize",
    "regression",
    "split_by_class",
]
