"""The type of all data sets, and data sets made from arrays."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from mcjax.data.augment import Augmentation
from mcjax.errors import InputError
from mcjax.shown import short_repr

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
"""The arrays of every data set."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=(*ARRAYS, "mean", "std", "validation_images", "validation_labels"),
    meta_fields=("num_classes", "name"),
)
@short_repr
@dataclass(frozen=True)
class Dataset:
    """Training, test and perhaps validation examples, as arrays.

    Inputs, called images, are uint8 pixels (n, h, w, c), float32 (n, ...), or tokens int32 (n, length). The labels
    are classes, int32 (n, ...), or targets, float32 (n, ...); `mcjax.supervised` makes a task of them and a model.

    Attributes:
        train_images: Training inputs.
        train_labels: Training labels.
        test_images: Test inputs.
        test_labels: Test labels.
        num_classes: Number of classes, or of target values per example.
        mean: The mean of the training pixels, scaled to [0, 1], float32 (c,); unused for other inputs.
        std: The standard deviation of the same, float32 (c,).
        name: The name in messages and results.
        validation_images: Validation inputs, or None.
        validation_labels: Validation labels, or None.
    """

    train_images: Any
    train_labels: Any
    test_images: Any
    test_labels: Any
    num_classes: int
    mean: Any
    std: Any
    name: str = "data"
    validation_images: Any = None
    validation_labels: Any = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one input: height, width and channels of an image."""
        return tuple(self.train_images.shape[1:])

    def take(self, train: int | None = None, test: int | None = None) -> "Dataset":
        """The data set with the first `train` and `test` images only (None: all), and unchanged mean and std."""
        for split, wanted, count in (("train", train, len(self.train_labels)), ("test", test, len(self.test_labels))):
            if wanted is not None and not 0 < wanted <= count:
                raise InputError(f"{self.name} has {count} {split} images: got {wanted}, expected 1 to {count}.")
        return replace(
            self,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            test_images=self.test_images[:test],
            test_labels=self.test_labels[:test],
        )

    def hold_out(self, count: int) -> "Dataset":
        """The data set with its last `count` training images moved to the validation split."""
        total = len(self.train_labels)
        if not 0 < count < total:
            raise InputError(
                f"{self.name} has {total} train images: got {count}, expected to hold out 1 to {total - 1}."
            )
        return replace(
            self,
            train_images=self.train_images[:-count],
            train_labels=self.train_labels[:-count],
            validation_images=self.train_images[-count:],
            validation_labels=self.train_labels[-count:],
        )

    def default_augmentation(self) -> Augmentation:
        """The papers' augmentation for colour images, and none for grey images and other inputs.

        Images smaller than 32 pixels are shifted by up to an eighth of their shorter side, not by the papers' 4 pixels.
        """
        if self.train_images.dtype != np.uint8 or self.image_shape[-1] != 3:
            return Augmentation.none()
        return Augmentation(crop=min(4, min(self.image_shape[:2]) // 8))


def check_dataset(data: Any) -> None:
    """Raise InputError unless `data` is a Dataset."""
    if not isinstance(data, Dataset):
        raise InputError(f"got a {type(data).__name__} for data, expected a Dataset: mcjax.data.load or from_arrays.")


def from_arrays(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    num_classes: int | None = None,
    name: str = "data",
) -> Dataset:
    """A Dataset of images and classes, from arrays.

    Args:
        train_images: uint8 (n, h, w, c) or (n, h, w).
        train_labels: Integers (n,).
        test_images: uint8 (n, h, w, c) or (n, h, w).
        test_labels: Integers (n,).
        num_classes: Number of classes. None: one more than the largest label.
        name: The name in messages and results.

    Returns:
        The data set.

    Raises:
        InputError: If an array has another dtype or shape, the arrays do not match, or a label is out of range.
    """
    splits = {}
    for split, images, labels in (("train", train_images, train_labels), ("test", test_images, test_labels)):
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8:
            raise InputError(f"{name}: {split}_images are {images.dtype}, expected uint8 with pixels in 0..255.")
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or labels.shape != images.shape[:1] or len(labels) == 0:
            raise InputError(
                f"{name}: {split} has images {images.shape} and labels {labels.shape}, expected (n, h, w, c) and (n,)."
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"{name}: {split}_labels are {labels.dtype}, expected integers.")
        splits[split] = images, labels.astype(np.int32)
    (train_images, train_labels), (test_images, test_labels) = splits["train"], splits["test"]
    if train_images.shape[1:] != test_images.shape[1:]:
        raise InputError(
            f"{name}: got train images {train_images.shape[1:]} and test images {test_images.shape[1:]}, "
            "expected one size."
        )
    if num_classes is None:
        num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    for split, (_, labels) in splits.items():
        if labels.min() < 0 or labels.max() >= num_classes:
            raise InputError(
                f"{name}: {split}_labels run from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}."
            )
    mean, std = _mean_and_std(train_images)
    return Dataset(train_images, train_labels, test_images, test_labels, num_classes, mean, std, name)


def _mean_and_std(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Computed from a histogram of each channel: exact, and without a float copy of the images.
    values = np.arange(256) / 255.0
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    variance = share @ values**2 - mean**2
    return mean.astype(np.float32), np.sqrt(np.maximum(variance, 1e-12)).astype(np.float32)
