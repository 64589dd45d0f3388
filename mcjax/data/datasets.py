"""The type of all data sets, and data sets made from arrays."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data.augment import Augmentation
from mcjax.errors import InputError
from mcjax.shown import is_known

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
"""The arrays of every data set."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=(*ARRAYS, "mean", "std", "validation_images", "validation_labels"),
    meta_fields=("num_classes", "name"),
)
@dataclass(frozen=True)
class Dataset:
    """Training, test and perhaps validation examples, as arrays.

    Inputs, called images, are uint8 pixels (n, h, w, c), float32 (n, ...), or tokens int32 (n, length). The labels
    are classes, int32 (n, ...), or targets, float32 (n, ...). `mcjax.supervised` makes a task of them and a model,
    which sees pixels as (x / 255 - mean) / std, and other inputs as they are.

    Attributes:
        train_images: Training inputs.
        train_labels: Training labels.
        test_images: Test inputs.
        test_labels: Test labels.
        num_classes: Number of classes, or of target values per example.
        mean: What is subtracted from pixels in [0, 1], a number or one for each channel (c,).
        std: What they are divided by then, likewise.
        name: The name in messages and results.
        validation_images: Validation inputs, or None.
        validation_labels: Validation labels, or None.
    """

    train_images: Any
    train_labels: Any
    test_images: Any
    test_labels: Any
    num_classes: int
    mean: Any = 0.0
    std: Any = 1.0
    name: str = "data"
    validation_images: Any = None
    validation_labels: Any = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one input: height, width and channels of an image."""
        return tuple(self.train_images.shape[1:])

    def __repr__(self) -> str:
        seen = ", seen as they are"
        if self.train_images.dtype == np.uint8:
            mean, std = (np.array2string(np.asarray(each), precision=3) for each in (self.mean, self.std))
            seen = f", seen as (x / 255 - {mean}) / {std}"
        kind = f"{self.train_images.dtype} {self.image_shape}"
        return f"Dataset({self.name}: {len(self.train_labels):,} train, {len(self.test_labels):,} test of {kind}{seen})"

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
    """Raise InputError unless `data` is a Dataset of finite numbers, and its splits have arrays of one kind."""
    if not isinstance(data, Dataset):
        raise InputError(f"got a {type(data).__name__} for data, expected a Dataset: mcjax.data.load or from_arrays.")
    for split in ("train", "test", "validation"):
        for what in ("images", "labels"):
            array, like = getattr(data, f"{split}_{what}"), getattr(data, f"train_{what}")
            if array is None:
                continue
            name = f"{data.name}: {split}_{what}"
            if not hasattr(array, "dtype") or _kind(array) is None:
                kind = getattr(array, "dtype", type(array).__name__)
                raise InputError(f"{name} are {kind}, expected an array of uint8, integers or floats.")
            if _kind(array) != _kind(like) or array.shape[1:] != like.shape[1:]:
                got, expected = (f"{each.dtype} of shape {tuple(each.shape[1:])}" for each in (array, like))
                raise InputError(f"{name} are {got} each, expected {expected}, as in train_{what}.")
            if trees.not_finite(array):
                raise InputError(f"{name} hold values that are not finite: expected finite numbers.")
    given = np.concatenate([np.ravel(data.mean), np.ravel(data.std)])
    if not (np.isfinite(given).all() and np.min(data.std) > 0):
        raise InputError(f"{data.name}: got mean={data.mean}, std={data.std}, expected finite ones, std positive.")


def check_classes(name: str, labels: Any, num_classes: int) -> None:
    """Raise InputError unless labels of this name are from 0 to the number of classes."""
    if is_known(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise InputError(f"{name} run from {low} to {high}, expected classes from 0 to {num_classes - 1}.")


def _kind(array: Any) -> str | None:
    """The kind of numbers that an array is taken for, or None."""
    if array.dtype == np.uint8:
        return "uint8"
    kinds = {"integers": jnp.integer, "floats": jnp.floating}
    return next((name for name, kind in kinds.items() if jnp.issubdtype(array.dtype, kind)), None)


def from_arrays(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    num_classes: int | None = None,
    name: str = "data",
    *,
    mean: Any = None,
    std: Any = None,
) -> Dataset:
    """A Dataset of images and classes, from arrays.

    A network sees pixels as (x / 255 - mean) / std, and must have been trained on the same: if it was on pixels in
    [0, 1], give `mean=0, std=1`. It sees floats as they are, or as (x - mean) / std where these are given.

    Args:
        train_images: uint8 (n, h, w, c) or (n, h, w), or floats (n, ...).
        train_labels: Integers (n,).
        test_images: Like `train_images`.
        test_labels: Integers (n,).
        num_classes: Number of classes. None: one more than the largest label.
        name: The name in messages and results.
        mean: A number, or one for each channel (c,). None: the mean of the training pixels in [0, 1].
        std: The same for the deviation. None: that of the training pixels; 1 for a channel that is constant.

    Returns:
        The data set.

    Raises:
        InputError: If an array has another dtype or shape, the arrays do not match, a label is out of range, or a
            number is not finite.

    Example::

        data = from_arrays(images, labels, test_images, test_labels, mean=0.5, std=0.5)  # pixels in [-1, 1]
    """
    splits = {}
    for split, images, labels in (("train", train_images, train_labels), ("test", test_images, test_labels)):
        images, labels = np.asarray(images), np.asarray(labels)
        pixels = images.dtype == np.uint8
        if not pixels and not np.issubdtype(images.dtype, np.floating):
            raise InputError(
                f"{name}: {split}_images are {images.dtype}, expected an array of uint8, pixels in 0..255, or floats."
            )
        if pixels and images.ndim == 3:
            images = images[..., None]
        wrong = images.ndim != 4 if pixels else images.ndim < 2
        if wrong or labels.shape != images.shape[:1] or len(labels) == 0:
            raise InputError(
                f"{name}: {split} has images {images.shape} and labels {labels.shape}, expected (n, h, w, c) and (n,)."
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"{name}: {split}_labels are {labels.dtype}, expected integers.")
        splits[split] = images, labels
    num_classes = int(_or(num_classes, max(labels.max() for _, labels in splits.values()) + 1))
    for split, (images, labels) in splits.items():
        check_classes(f"{name}: {split}_labels", labels, num_classes)
        if images.dtype != np.uint8:
            images = np.asarray((images - _or(mean, 0)) / _or(std, 1), np.float32)
        splits[split] = images, labels.astype(np.int32)
    data = Dataset(*splits["train"], *splits["test"], num_classes, name=name)
    if data.train_images.dtype == np.uint8:
        own_mean, own_std = _mean_and_std(data.train_images)
        data = replace(data, mean=np.float32(_or(mean, own_mean)), std=np.float32(_or(std, own_std)))
    check_dataset(data)
    return data


def _or(given: Any, default: Any) -> Any:
    return default if given is None else np.asarray(given)


def _mean_and_std(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Computed from a histogram of each channel: exact, and without a float copy of the images.
    values = np.arange(256) / 255.0
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    variance = (share * np.square(values - mean[:, None])).sum(1)
    # A channel of one value keeps its scale: divided by its rounding, other values would be huge.
    constant = (counts > 0).sum(1) == 1
    return mean.astype(np.float32), np.where(constant, 1, np.sqrt(variance)).astype(np.float32)
