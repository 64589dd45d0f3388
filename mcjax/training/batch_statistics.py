"""Batch statistics at a new point of parameter space, pooled over images."""

from typing import Any

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.data import Augmentation, Dataset, augment, normalize
from mcjax.models.base import Model, has_leading_axis
from mcjax.models.dropout import without_dropout
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import over_models
from mcjax.training.objective import check_model_and_data

Statistics = dict[str, jax.Array]


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

    The images are cut into equal batches of at most `batch_size`; fewer images than there are
    batches are left out for that. The pooled variance is that of all values about their common mean
    (the mean of the batches' variances plus the variance of their means).

    augmentation: what the images undergo first, in the same way at every call (None: nothing). It
    should be that of training: the black borders of shifted and turned images are part of what the
    statistics describe, and a network loses accuracy by statistics without them. Flax's Dropout layers are off, as
    they are when the network is used: masks in front of a norm would widen its variance, and units that are
    exchanged would meet other masks. A theta without batch statistics is returned as it is. Pure: works under jit
    and vmap.
    """
    stats = trees.batch_stats(theta)
    if not jax.tree.leaves(stats):
        return theta
    count = -(-len(images) // batch_size)
    size = len(images) // count
    batches = images[: count * size].reshape(count, size, *images.shape[1:])

    def merged(pooled: Statistics, numbered: tuple[jax.Array, jax.Array]) -> tuple[Statistics, None]:
        number, batch = numbered
        augment_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(0), number))
        batch = augment(augment_key, batch, augmentation or Augmentation.none())
        with without_dropout():
            _, new = model.apply_train(theta, normalize(batch, mean, std), model_key)
        return _pool(pooled, trees.flatten(new), 1 / (number + 1)), None

    start = {name: jnp.zeros_like(leaf) for name, leaf in trees.flatten(stats).items()}
    pooled, _ = jax.lax.scan(merged, start, (jnp.arange(count), batches))
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
        augmentation: What the images undergo. None is the data set's default.

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


def _pool(old: Statistics, new: Statistics, share: jax.Array) -> Statistics:
    pooled = {}
    for name, value in new.items():
        pooled[name] = old[name] + share * (value - old[name])
        norm, _, kind = name.rpartition("/")
        if kind == "var":
            shift = new[f"{norm}/mean"] - old[f"{norm}/mean"]
            pooled[name] = pooled[name] + share * (1 - share) * jnp.square(shift)
    return pooled
