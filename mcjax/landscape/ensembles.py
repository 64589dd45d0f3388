"""The ensemble of several networks: the mean of their predicted probabilities."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.errors import InputError, check_whole
from mcjax.models.base import has_leading_axis
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models
from mcjax.shown import short_repr
from mcjax.training.batches import mean_over
from mcjax.training.loss import Batch, at_least_float32
from mcjax.training.supervised import SupervisedLoss, is_classes, right
from mcjax.training.task import SplitName, Task, check_task

BINS = 15


@short_repr
class Ensemble(NamedTuple):
    """The performance of an ensemble, float32 scalars.

    Attributes:
        accuracy: The share of examples classified correctly.
        loss: The negative log-likelihood in nats.
        calibration_error: The expected calibration error: the mean over examples of |confidence - accuracy| of their
            bin, with 15 bins of equal width.
    """

    accuracy: jax.Array
    loss: jax.Array
    calibration_error: jax.Array


def ensemble_accuracy(task: Task, thetas: trees.Tree, batch_size: int = 1000, *, split: SplitName = "test") -> Ensemble:
    """Accuracy, loss and calibration of the mean of the softmax outputs of many networks.

    Source: Guo, Pleiss, Sun and Weinberger 2017, On Calibration of Modern Neural Networks, for the calibration error.

    Args:
        task: The task of the networks, made by `supervised` of labels that are classes.
        thetas: Networks along a leading axis, with the batch statistics that they hold.
        batch_size: Examples in memory at once.
        split: The examples that are classified.

    Returns:
        Accuracy, loss and calibration error.

    Raises:
        InputError: If `thetas` is one network, the outputs are not one logit for each class, or the task does not have
            the split.
        SpecError: If the networks are not of this task.
    """
    task = check_task(task, arrays=(split,))
    if not isinstance(task.loss, SupervisedLoss):
        raise InputError(
            f"{task.name} has its own loss, expected mcjax.supervised(model, data) with classes as labels."
        )
    if not has_leading_axis(thetas, task):
        raise InputError("got one network, expected several along a leading axis: mcjax.trees.stack([...]).")
    stored = task.split(split)
    check_whole("batch_size", batch_size)
    outputs = jax.eval_shape(_outputs, task.loss, trees.index(thetas, 0), stored)
    if not is_classes(outputs, stored[1]):
        raise InputError(
            f"{task.name} has outputs and labels that are no classes, expected one logit for each class: an ensemble "
            "averages probabilities."
        )
    return _evaluate(task.functions(), thetas, stored, batch_size)


def _outputs(loss: SupervisedLoss, theta: trees.Tree, batch: Batch) -> Any:
    return loss.model.apply(theta, loss.inputs(batch))


@jit(static_argnames=("batch_size",))
def _evaluate(task: Task, thetas: trees.Tree, stored: Batch, batch_size: int) -> Ensemble:
    def means(batch: Batch, number: Any) -> tuple[jax.Array, jax.Array]:
        logits = over_models(lambda theta: _outputs(task.loss, theta, batch))(thetas)
        # The log of the mean of the networks' probabilities.
        each = jax.nn.log_softmax(at_least_float32(logits))
        log_mean = jax.nn.logsumexp(each, 0) - jnp.log(len(each))
        log_mean, labels = log_mean.reshape(-1, log_mean.shape[-1]), batch[1].ravel()
        losses = -jnp.take_along_axis(log_mean, labels[:, None], 1)[:, 0]
        correct = right(log_mean, labels)
        return losses.mean(), _by_confidence(jnp.exp(log_mean.max(-1)), correct) / labels.size

    loss, bins = mean_over(means, stored, batch_size)
    confidence, correct = bins.T
    return Ensemble(correct.sum(), loss, jnp.abs(confidence - correct).sum())


def _by_confidence(confidence: jax.Array, correct: jax.Array) -> jax.Array:
    """The sum of confidences and the number of correct predictions in every bin, (bins, 2)."""
    # Bins are open below and closed above, as in the paper. The margin keeps rounding from crossing an edge, such as
    # the confidence 2/3 where two of three networks are certain.
    at = jnp.clip(jnp.ceil(confidence * BINS - 1e-4).astype(jnp.int32) - 1, 0, BINS - 1)
    return jnp.zeros((BINS, 2)).at[at].add(jnp.stack([confidence, correct], -1))
