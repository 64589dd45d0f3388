"""The ensemble of several networks: the mean of their predicted probabilities."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.data import Dataset, normalize
from mcjax.errors import InputError
from mcjax.models.base import Model, has_leading_axis
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models
from mcjax.training.objective import check_model_and_data

BINS = 15


class Ensemble(NamedTuple):
    """The performance of an ensemble, float32 scalars.

    Attributes:
        accuracy: The share of images classified correctly.
        loss: The negative log-likelihood in nats.
        calibration_error: The expected calibration error: the mean over images of |confidence - accuracy| of their
            bin, with 15 bins of equal width.
    """

    accuracy: jax.Array
    loss: jax.Array
    calibration_error: jax.Array


def ensemble_accuracy(
    model: Model,
    thetas: trees.Tree,
    data: Dataset,
    batch_size: int = 1000,
    *,
    split: Literal["train", "test"] = "test",
) -> Ensemble:
    """Accuracy, loss and calibration of the mean of the softmax outputs of many networks.

    Source: Guo, Pleiss, Sun and Weinberger 2017, On Calibration of Modern Neural Networks, for the calibration error.

    Args:
        model: The model of the networks.
        thetas: Networks along a leading axis, with the batch statistics that they hold.
        data: The data set.
        batch_size: Images in memory at once.
        split: The images that are classified.

    Returns:
        Accuracy, loss and calibration error.

    Raises:
        InputError: If `thetas` is one network, or the data are a regression.
        SpecError: If the networks are not of this model.
    """
    check_model_and_data(model, data)
    if not has_leading_axis(thetas, model):
        raise InputError("got one network, expected several along a leading axis: mcjax.trees.stack([...]).")
    if jnp.issubdtype(data.train_labels.dtype, jnp.floating):
        raise InputError(f"{data.name} is a regression, expected classes: an ensemble averages probabilities.")
    if split not in ("train", "test") or batch_size < 1:
        raise InputError(f"got split={split!r}, batch_size={batch_size}, expected train or test, and at least 1.")
    return _evaluate(model, thetas, data, batch_size, split)


@jit(static_argnames=("model", "batch_size", "split"))
def _evaluate(model: Model, thetas: trees.Tree, data: Dataset, batch_size: int, split: str) -> Ensemble:
    images, labels = (getattr(data, f"{split}_{what}") for what in ("images", "labels"))

    def sums(batch: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = normalize(batch, data.mean, data.std)
        logits = over_models(lambda theta: model.apply(theta, x), model.convolutions)(thetas)
        # The log of the mean of the networks' probabilities.
        each = jax.nn.log_softmax(logits.astype(jnp.float32))
        log_mean = jax.nn.logsumexp(each, 0) - jnp.log(len(each))
        log_mean, labels = log_mean.reshape(-1, log_mean.shape[-1]), labels.ravel()
        losses = -jnp.take_along_axis(log_mean, labels[:, None], 1)[:, 0]
        right = log_mean.argmax(-1) == labels
        return losses.sum(), _by_confidence(jnp.exp(log_mean.max(-1)), right)

    n, size = len(labels), min(batch_size, len(labels))
    whole = n // size * size
    batches = (images[:whole].reshape(-1, size, *images.shape[1:]), labels[:whole].reshape(-1, size, *labels.shape[1:]))
    start = (jnp.zeros(()), jnp.zeros((BINS, 2)))
    total = jax.lax.scan(lambda carry, batch: (trees.add(carry, sums(*batch)), None), start, batches)[0]
    if whole < n:
        total = trees.add(total, sums(images[whole:], labels[whole:]))
    loss, (confidence, right), n = total[0], total[1].T, labels.size
    return Ensemble(right.sum() / n, loss / n, jnp.abs(confidence - right).sum() / n)


def _by_confidence(confidence: jax.Array, right: jax.Array) -> jax.Array:
    """The sum of confidences and the number of correct predictions in every bin, (bins, 2)."""
    # Bins are open below and closed above, as in the paper. The margin keeps rounding from crossing an edge, such as
    # the confidence 2/3 where two of three networks are certain.
    at = jnp.clip(jnp.ceil(confidence * BINS - 1e-4).astype(jnp.int32) - 1, 0, BINS - 1)
    return jnp.zeros((BINS, 2)).at[at].add(jnp.stack([confidence, right.astype(jnp.float32)], -1))
