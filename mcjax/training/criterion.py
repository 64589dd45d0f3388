"""One number per network, for thresholds and early stopping: loss, error or perplexity on a split."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data import Dataset
from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.models.base import Model
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models
from mcjax.training.batch_statistics import estimate_statistics
from mcjax.training.objective import evaluate_images

Metric = Literal["loss", "error", "perplexity"]
SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Criterion:
    """A metric on a split, called as `criterion(model, theta, data)`. Pure; returns a float32 scalar.

    Batch statistics, if the model has them, are re-estimated first.

    Attributes:
        metric: "loss", the training loss without its L2 term; "error", the share of wrong labels, or the mean absolute
            error of a regression; "perplexity", the exponential of the loss.
        split: The split of the data.
        images: Number of images of the split used, the first ones. None: all.
        batch_size: Images per batch.
        calibration_images: Number of training images for batch statistics, the first ones. None: all.
    """

    metric: Metric = "loss"
    split: SplitName = "train"
    images: int | None = None
    batch_size: int = 500
    calibration_images: int | None = None

    def __post_init__(self) -> None:
        for name, kind in (("metric", Metric), ("split", SplitName)):
            if getattr(self, name) not in get_args(kind):
                raise unknown_name(name, getattr(self, name), get_args(kind))
        for name in ("images", "batch_size", "calibration_images"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name))

    def __call__(self, model: Model, theta: trees.Tree, data: Dataset) -> jax.Array:
        # Estimate batch statistics with the augmentation of training, then measure without it.
        calibration = data.train_images[: self.calibration_images]
        augmentation = data.default_augmentation()
        theta = estimate_statistics(model, theta, calibration, data.mean, data.std, self.batch_size, augmentation)
        images, labels = (getattr(data, f"{self.split}_{what}")[: self.images] for what in ("images", "labels"))
        metrics = evaluate_images(model, theta, images, labels, data.mean, data.std, self.batch_size)
        if self.metric == "error":
            return 1 - metrics.accuracy
        return metrics.loss if self.metric == "loss" else jnp.exp(metrics.loss)

    def check(self, data: Dataset) -> None:
        """Raise InputError if the data do not have the split, or have too few images."""
        labels = getattr(data, f"{self.split}_labels")
        if labels is None:
            raise InputError(f"{data.name} has no validation split: data.hold_out(n) makes one of training images.")
        for name, available in (("images", len(labels)), ("calibration_images", len(data.train_labels))):
            if (getattr(self, name) or 1) > available:
                raise InputError(f"got {name}={getattr(self, name)}, expected at most the {available} of {data.name}.")


def measure_networks(criterion: Criterion, model: Model, thetas: trees.Tree, data: Dataset) -> np.ndarray:
    """The criterion of several networks, in one compiled program.

    Args:
        criterion: The criterion.
        model: The model of the networks.
        thetas: Networks along a leading axis.
        data: The data set.

    Returns:
        float32 (networks,).
    """
    return np.asarray(_measure_networks(criterion, model, thetas, data))


@jit(static_argnames=("criterion", "model"))
def _measure_networks(criterion: Criterion, model: Model, thetas: trees.Tree, data: Any) -> jax.Array:
    return over_models(lambda theta: criterion(model, theta, data), model.convolutions)(thetas)
