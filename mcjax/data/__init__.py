"""Data sets as arrays, and what happens to an image inside the compiled step."""

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
