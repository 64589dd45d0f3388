"""Estimation of batch statistics at a new point of parameter space."""

from typing import Any

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.data import Augmentation, Dataset, augment, normalize
from mcjax.models.base import Model, leading_axis
from mcjax.models.dropout import without_dropout
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models
from mcjax.training.moments import Moments, accumulate
from mcjax.training.objective import check_model_and_data

Statistics = dict[str, jax.Array]
"""Batch statistics by name of the leaf, such as `BatchNorm_0/mean` and `BatchNorm_0/var`."""


def estimate_statistics(
    model: Model,
    theta: trees.Tree,
    images: jax.Array,
    mean: Any,
    std: Any,
    batch_size: int = 128,
    augmentation: Augmentation | None = None,
) -> trees.Tree:
    """`theta` with batch statistics estimated on uint8 `images`: pooled mean and pooled variance.

    The images are divided into equal batches; a remainder of fewer images than batches is dropped. The pooled variance
    is that of all values about their common mean: the mean of the batches' variances plus the variance of their means.
    Pure: works under jit and vmap.

    Dropout is off, as in evaluation mode: dropout before a norm would increase its variance, and its masks are not
    permuted with the units.

    Args:
        model: The model of the network.
        theta: Variables of one network. Without batch statistics it is returned unchanged.
        images: uint8 (n, h, w, c).
        mean: The mean per channel to normalise by.
        std: The standard deviation per channel to normalise by.
        batch_size: Maximum batch size.
        augmentation: Augmentation of the images, equal at every call. None: no augmentation. It should be that of
            training, since statistics without the black borders of shifted and rotated images cost accuracy.

    Returns:
        `theta` with new batch statistics.
    """
    stats = trees.batch_stats(theta)
    if not jax.tree.leaves(stats):
        return theta
    # Equal batches.
    count = -(-len(images) // batch_size)
    size = len(images) // count
    batches = images[: count * size].reshape(count, size, *images.shape[1:])

    def moments(numbered: tuple[jax.Array, jax.Array]) -> dict[str, Moments]:
        number, batch = numbered
        augment_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(0), number))
        batch = augment(augment_key, batch, augmentation or Augmentation.none())
        with without_dropout():
            _, new = model.apply_train(theta, normalize(batch, mean, std), model_key)
        return _as_moments(trees.flatten(new))

    # Pool the moments of all batches.
    pooled = _as_statistics(accumulate(moments, (jnp.arange(count), batches)))
    return trees.with_batch_stats(theta, trees.map_with_name(lambda name, _: pooled[name], stats))


def reestimate(
    model: Model,
    theta: trees.Tree,
    data: Dataset,
    *,
    batch_size: int = 500,
    calibration_images: int | None = None,
    augmentation: Augmentation | None = None,
) -> trees.Tree:
    """One network, or several along a leading axis, with batch statistics estimated on the training images.

    `evaluate_path` does this at every point. This is one compiled program; inside your own, use `estimate_statistics`.

    Args:
        model: The model of the networks.
        theta: Variables of one network, or of several along a leading axis.
        data: The data set.
        batch_size: Images per batch.
        calibration_images: Number of training images used, the first ones. None: all.
        augmentation: Augmentation of the images. None: the data set's default.

    Returns:
        `theta` with new batch statistics.

    Raises:
        InputError: If model and data do not match.
        SpecError: If `theta` is not of this model.
    """
    check_model_and_data(model, data)
    axis = leading_axis(model, theta)
    images = data.train_images[:calibration_images]
    augmentation = data.default_augmentation() if augmentation is None else augmentation
    found = _reestimate(model, axis.add(theta), images, data.mean, data.std, batch_size, augmentation)
    return axis.remove(found)


@jit(static_argnames=("model", "batch_size", "augmentation"))
def _reestimate(
    model: Model, thetas: trees.Tree, images: Any, mean: Any, std: Any, batch_size: int, augmentation: Augmentation
) -> trees.Tree:
    def one(theta: trees.Tree) -> trees.Tree:
        return estimate_statistics(model, theta, images, mean, std, batch_size, augmentation)

    return over_models(one, model.convolutions)(thetas)


def _as_moments(statistics: Statistics) -> dict[str, Moments]:
    """The statistics of one batch as moments, by the names of the means. Batches have equal size, hence weight 1.

    A statistic that is not a mean with a variance is only averaged.
    """
    one = jnp.ones((), jnp.promote_types(jnp.result_type(*statistics.values()), jnp.float32))
    means = {name: value for name, value in statistics.items() if name.rpartition("/")[2] != "var"}
    variances = {name: statistics.get(_variance_of(name), jnp.zeros_like(value)) for name, value in means.items()}
    return {name: Moments(one, value, variances[name]) for name, value in means.items()}


def _as_statistics(moments: dict[str, Moments]) -> Statistics:
    means = {name: each.mean for name, each in moments.items()}
    return means | {_variance_of(name): each.variance for name, each in moments.items()}


def _variance_of(name: str) -> str:
    """The name of the variance that belongs to a mean, or an empty string for other statistics."""
    norm, slash, kind = name.rpartition("/")
    return f"{norm}{slash}var" if kind == "mean" else ""
