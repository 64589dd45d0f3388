"""Batch statistics at a new point of parameter space, pooled over images."""

from typing import Any

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.data import Augmentation, Dataset, augment, normalize
from mcjax.models.base import Model, has_leading_axis
from mcjax.models.dropout import without_dropout
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models
from mcjax.training.moments import Moments, accumulate
from mcjax.training.objective import check_model_and_data

Statistics = dict[str, jax.Array]
"""Batch statistics by the names of their leaves, such as `BatchNorm_0/mean` and `BatchNorm_0/var`."""


def estimate_statistics(
    model: Model,
    theta: trees.Tree,
    images: jax.Array,
    mean: Any,
    std: Any,
    batch_size: int = 128,
    augmentation: Augmentation | None = None,
) -> trees.Tree:
    """`theta` with the batch statistics that uint8 `images` give it: pooled mean and pooled variance.

    The images are cut into equal batches, and a remainder of fewer images than there are batches is left out. The
    pooled variance is that of all values about their common mean: the mean of the batches' variances plus the variance
    of their means. Pure: works under jit and vmap.

    Dropout is off, as it is when the network is used: masks in front of a norm would widen its variance, and
    permuted units would meet other masks.

    Args:
        model: The model of the network.
        theta: Variables of one network. Without batch statistics it is returned as it is.
        images: uint8 (n, h, w, c).
        mean: The mean per channel to normalise by.
        std: The standard deviation per channel to normalise by.
        batch_size: The largest size of a batch.
        augmentation: The augmentation of the images, the same at every call; None is none. It should be that of
            training: the statistics describe the black borders of shifted and turned images too, and a network loses
            accuracy by statistics without them.

    Returns:
        `theta` with new batch statistics.
    """
    stats = trees.batch_stats(theta)
    if not jax.tree.leaves(stats):
        return theta
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
    """A network, or several along a leading axis, with the batch statistics that the training images give it.

    `evaluate_path` does this at every point. One compiled program; inside your own, call `estimate_statistics`.

    Args:
        model: The model of the networks.
        theta: Variables of one network, or of several along a leading axis.
        data: The data set whose training images are used.
        batch_size: Images per batch.
        calibration_images: How many of the first training images are used. None uses all.
        augmentation: The augmentation of the images. None is the data set's default.

    Returns:
        `theta` with new batch statistics.

    Raises:
        InputError: If model and data do not fit.
        SpecError: If `theta` is not of this model.
    """
    check_model_and_data(model, data)
    many = has_leading_axis(theta, model)
    thetas = theta if many else jax.tree.map(lambda leaf: leaf[None], theta)
    images = data.train_images[:calibration_images]
    augmentation = data.default_augmentation() if augmentation is None else augmentation
    found = _reestimate(model, thetas, images, data.mean, data.std, batch_size, augmentation)
    return found if many else trees.index(found, 0)


@jit(static_argnames=("model", "batch_size", "augmentation"))
def _reestimate(
    model: Model, thetas: trees.Tree, images: Any, mean: Any, std: Any, batch_size: int, augmentation: Augmentation
) -> trees.Tree:
    def one(theta: trees.Tree) -> trees.Tree:
        return estimate_statistics(model, theta, images, mean, std, batch_size, augmentation)

    return over_models(one, model.convolutions)(thetas)


def _as_moments(statistics: Statistics) -> dict[str, Moments]:
    """The statistics of one batch by the names of the means. Batches are of one size, so each is a sample of weight 1.

    A statistic without a variance beside it is averaged only.
    """
    one = jnp.ones((), jnp.promote_types(jnp.result_type(*statistics.values()), jnp.float32))
    means = {name: value for name, value in statistics.items() if name.rpartition("/")[2] != "var"}
    variances = {name: statistics.get(_variance_of(name), jnp.zeros_like(value)) for name, value in means.items()}
    return {name: Moments(one, value, variances[name]) for name, value in means.items()}


def _as_statistics(moments: dict[str, Moments]) -> Statistics:
    means = {name: each.mean for name, each in moments.items()}
    return means | {_variance_of(name): each.variance for name, each in moments.items()}


def _variance_of(name: str) -> str:
    """The name of the variance that belongs to a mean, or an empty name for another statistic."""
    norm, slash, kind = name.rpartition("/")
    return f"{norm}{slash}var" if kind == "mean" else ""
