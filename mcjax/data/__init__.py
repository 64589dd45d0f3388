"""Data sets as arrays, and the normalisation and augmentation of images inside compiled steps.

A `Dataset` holds training, test and perhaps validation examples as arrays with a leading axis: uint8 images with
classes, float32 inputs with float32 targets, or tokens with the next tokens. Images stay uint8 on the device, and are
normalised and augmented inside the compiled step. A Dataset is a pytree: `jax.device_put(data)` moves all of it.

A `Stream` holds no examples: it reads batches on the host, pass by pass, from a loader of grain, torch or TFDS, or
from a function. `Task(loss, train=batches)` and `task.with_examples(train=batches)` make one; made by hand, it also
takes the bytes that its blocks may have. What the loader itself reads in advance is not counted there.

    load             a data set by name: digits, a TFDS set, an .npz file, a folder of texts
    from_arrays      your own images and classes
    regression       your own inputs and real-valued targets
    split_by_class   two disjoint parts with different class distributions
    Stream           batches from the host, for data larger than memory
    Augmentation     random flips, crops and rotations; augment, normalize: the pure functions
    PgdAttack        attacks on images, for adversarial training: `supervised(model, data, attack=PgdAttack())`

Example::

    import numpy as np
    import mcjax

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 8, 8, 1)).astype(np.uint8)
    labels = images.mean((1, 2, 3)).argsort().argsort() // 100  # dark, middle, bright
    data = mcjax.data.from_arrays(images[:200], labels[:200], images[200:], labels[200:])
    print(data.image_shape, data.num_classes, data.mean)
    small = data.take(train=100).hold_out(20)
    print(len(small.train_labels), len(small.validation_labels), len(small.test_labels))
"""

from mcjax.data.attacks import PgdAttack
from mcjax.data.augment import Augmentation, augment, normalize
from mcjax.data.datasets import Dataset, from_arrays
from mcjax.data.loading import KNOWN, load
from mcjax.data.regression import regression
from mcjax.data.splits import split_by_class
from mcjax.data.stream import Stream

__all__ = [
    "KNOWN",
    "Augmentation",
    "Dataset",
    "PgdAttack",
    "Stream",
    "augment",
    "from_arrays",
    "load",
    "normalize",
    "regression",
    "split_by_class",
]
