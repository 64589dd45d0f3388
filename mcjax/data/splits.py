"""Two parts of a data set with different class distributions."""

from dataclasses import replace

import numpy as np

from mcjax.data.datasets import Dataset, check_dataset
from mcjax.errors import InputError, check_whole


def split_by_class(data: Dataset, share: float = 0.8, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Divide the training images into two disjoint sets by class ("Git Re-Basin", Ainsworth et al. 2023, section 5).

    The first set gets a random `share` of the images of each class in the first half of the classes (rounded up), and
    1 - share of the images of each other class; the second set gets the rest. Images keep their order. Test and
    validation images, mean, std and name are those of `data` in both.

    Args:
        data: Images with one class each.
        share: In [0, 1]; the paper uses 0.8 on CIFAR-100. With 0 and 1 the two sets have no class in common.
        seed: Seed of the random choice.

    Returns:
        The two data sets.

    Raises:
        InputError: If the labels are not one class per image, an argument is out of range, or a set would be empty.

    Example::

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
            "expected enough classes and images for both."
        )
    return _keep(data, first), _keep(data, ~first)


def _keep(data: Dataset, kept: np.ndarray) -> Dataset:
    images, labels = (np.asarray(each)[kept] for each in (data.train_images, data.train_labels))
    return replace(data, train_images=images, train_labels=labels)
