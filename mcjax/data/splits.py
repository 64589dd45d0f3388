"""One data set divided into two that share no image, with other shares of the classes."""

from dataclasses import replace

import numpy as np

from mcjax.data.datasets import Dataset, check_dataset
from mcjax.errors import InputError, check_whole


def split_by_class(data: Dataset, share: float = 0.8, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Two data sets that have every training image between them, each in exactly one.

    The first has `share` of the training images of every class in the first half of the classes (of an odd number the
    larger half) and 1 - share of those of every other class, drawn at random, to the nearest whole image; the second
    has the rest. The images keep their order. Test and validation images, mean, deviation and name are those of
    `data`, in both: what is trained on one can be measured on the other. share: in [0, 1]; at 0 and 1 the two share no
    class. Raises InputError if the labels are not one class an image, for another share, or if one of the two
    would be empty. Ainsworth et al., 2022, "Git Re-Basin", section 5 (CIFAR-100, 0.8).

        first, second = split_by_class(data)
        theta_1 = train_endpoints(keys[:1], model, first).theta
        theta_2 = train_endpoints(keys[1:], model, second).theta
    """
    check_dataset(data)
    labels = np.asarray(data.train_labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{data.name} has labels {labels.dtype} {labels.shape}, expected one class an image: integers (n,)."
        )
    if not (isinstance(share, int | float) and 0 <= share <= 1):
        raise InputError(f"got share={share!r}, expected it in [0, 1].")
    check_whole("seed", seed, 0)
    rng = np.random.default_rng(seed)
    first = np.zeros(len(labels), bool)
    for number in range(data.num_classes):
        own = rng.permutation(np.flatnonzero(labels == number))
        taken = share if 2 * number < data.num_classes else 1 - share
        first[own[: round(taken * len(own))]] = True
    if first.all() or not first.any():
        raise InputError(
            f"got share={share}, which leaves one of the two sets without an image of {data.name}'s {len(labels)}: "
            "expected classes and images enough for both."
        )
    return _only(data, first), _only(data, ~first)


def _only(data: Dataset, kept: np.ndarray) -> Dataset:
    images, labels = (np.asarray(each)[kept] for each in (data.train_images, data.train_labels))
    return replace(data, train_images=images, train_labels=labels)
