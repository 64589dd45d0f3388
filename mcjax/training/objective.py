"""The training loss and its metrics, and evaluation over whole splits."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mcjax import trees
from mcjax.data import Dataset, normalize
from mcjax.data.datasets import check_dataset
from mcjax.errors import InputError
from mcjax.models.base import Model, leading_axis
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models
from mcjax.training.config import ComputeDtype


class Metrics(NamedTuple):
    """Metrics of a network on a batch or a split, float32 scalars.

    Attributes:
        loss: Mean cross entropy in nats; for float labels, the mean squared error.
        accuracy: Share of correct labels; for float labels, one minus the mean absolute error.
    """

    loss: jax.Array
    accuracy: jax.Array


def label_losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of every label, in the labels' shape: cross entropy, or the squared error for float labels.

    Its dtype is that of the logits, at least float32.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return jnp.square(logits - labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def loss_and_accuracy(logits: jax.Array, labels: jax.Array) -> Metrics:
    """Metrics of logits (n, ..., classes) against labels int32 (n, ...), or of outputs against float labels.

    The loss of float64 logits is float64.
    """
    loss = label_losses(logits, labels).mean()
    if jnp.issubdtype(labels.dtype, jnp.floating):
        difference = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) - labels
        return Metrics(loss, 1 - jnp.abs(difference).mean())
    return Metrics(loss, (logits.argmax(-1) == labels).mean(dtype=jnp.float32))


def training_loss(
    model: Model,
    theta: trees.Tree,
    x: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    weight_decay: float,
    compute_dtype: ComputeDtype = "float32",
) -> tuple[jax.Array, tuple[Metrics, trees.Tree]]:
    """The training loss: cross entropy in training mode plus weight_decay / 2 * ||params||^2.

    The L2 term contains all parameters, including biases and norms, as in the papers.

    Args:
        model: The model.
        theta: Variables of one network.
        x: Normalised inputs, float32 (n, *input_shape).
        labels: int32 (n, ...) or float32 (n, ...).
        key: Key of the model's dropout.
        weight_decay: Factor of the L2 term.
        compute_dtype: Dtype of the model's forward and backward pass. Logits, loss, gradient and statistics are
            float32 in any case.

    Returns:
        The loss, and (metrics without the L2 term, batch statistics of this batch).
    """
    params = trees.params(theta)
    computed = theta
    if compute_dtype != "float32":
        computed, x = trees.with_params(theta, trees.cast(params, compute_dtype)), trees.cast(x, compute_dtype)
    logits, batch_stats = model.apply_train(computed, x, key)
    metrics = loss_and_accuracy(logits, labels)
    statistics = jax.tree.map(lambda new, old: new.astype(old.dtype), batch_stats, trees.batch_stats(theta))
    return metrics.loss + weight_decay / 2 * trees.dot(params, params), (metrics, statistics)


def evaluate_images(
    model: Model, theta: trees.Tree, images: jax.Array, labels: jax.Array, mean: Any, std: Any, batch_size: int
) -> Metrics:
    """Metrics of one network over all images. Pure.

    Args:
        model: The model.
        theta: Variables of one network, whose batch statistics are used.
        images: Images uint8 (n, h, w, c), or other inputs of a Dataset.
        labels: Labels (n, ...).
        mean: The mean per channel to normalise by, (c,).
        std: The standard deviation per channel to normalise by, (c,).
        batch_size: Images per batch; a smaller last batch is weighted by its size.

    Returns:
        The metrics, float32 scalars.
    """

    def sums(batch: jax.Array, batch_labels: jax.Array) -> jax.Array:
        metrics = loss_and_accuracy(model.apply(theta, normalize(batch, mean, std)), batch_labels)
        return jnp.stack(metrics) * len(batch_labels)

    # Whole batches in a scan, then the remainder, each weighted by its size.
    n, size = len(labels), min(batch_size, len(labels))
    whole = n // size * size
    batches = (images[:whole].reshape(-1, size, *images.shape[1:]), labels[:whole].reshape(-1, size, *labels.shape[1:]))
    total = jax.lax.scan(lambda carry, batch: (carry + sums(*batch), None), jnp.zeros(2), batches)[0]
    if whole < n:
        total = total + sums(images[whole:], labels[whole:])
    return Metrics(*(total / n))


def evaluate_splits(model: Model, theta: trees.Tree, data: Dataset, batch_size: int) -> tuple[Metrics, Metrics]:
    """Metrics on the training and on the test images. Pure.

    Args:
        model: The model of the network.
        theta: One network.
        data: The data set.
        batch_size: Images in memory at once.

    Returns:
        Train and test metrics, as of `evaluate_images`.
    """
    return (
        evaluate_images(model, theta, data.train_images, data.train_labels, data.mean, data.std, batch_size),
        evaluate_images(model, theta, data.test_images, data.test_labels, data.mean, data.std, batch_size),
    )


def evaluate(model: Model, theta: trees.Tree, data: Dataset, batch_size: int = 1000) -> tuple[Metrics, Metrics]:
    """Training and test metrics of a network, by the batch statistics in `theta`.

    Args:
        model: The model.
        theta: Variables of one network, or of several along a leading axis.
        data: The data set.
        batch_size: Images per batch.

    Returns:
        Metrics on the training and on the test images, float32 scalars, or (networks,) with a leading axis.

    Raises:
        SpecError: If theta is not of this model.
        InputError: If model and data do not match.

    Example::

        train, test = evaluate(model, theta, data)
        print(test.loss, test.accuracy)
    """
    check_model_and_data(model, data)
    axis = leading_axis(model, theta)
    return axis.remove(_evaluate(model, axis.add(theta), data, batch_size))


@jit(static_argnames=("model", "batch_size"))
def _evaluate(model: Model, theta: trees.Tree, data: Dataset, batch_size: int) -> tuple[Metrics, Metrics]:
    return over_models(lambda one: evaluate_splits(model, one, data, batch_size), model.convolutions)(theta)


def check_model_and_data(model: Model, data: Dataset) -> None:
    """Raise InputError unless the inputs and outputs of the model match the data, with at least as many classes."""
    check_dataset(data)
    if tuple(data.image_shape) != tuple(model.input_shape):
        raise InputError(
            f"{model.name} takes images of shape {tuple(model.input_shape)}, {data.name} has images of shape "
            f"{tuple(data.image_shape)}. Create the model with the input_shape of the data."
        )
    returned, labels = _output_shape(model), tuple(data.train_labels.shape[1:])
    classes = jnp.issubdtype(data.train_labels.dtype, jnp.integer)
    if classes and data.num_classes > model.num_classes:
        raise InputError(
            f"{data.name} has {data.num_classes} classes, {model.name} has {model.num_classes}. "
            "Create the model with the num_classes of the data."
        )
    tokens = jnp.issubdtype(data.train_images.dtype, jnp.integer) and data.train_images.dtype != jnp.uint8
    if tokens != jnp.issubdtype(model.input_dtype, jnp.integer):
        raise InputError(
            f"{model.name} takes {model.input_dtype}, the inputs of {data.name} are {data.train_images.dtype}: "
            f"expected {'a model of tokens' if tokens else 'images in float32'}."
        )
    if returned != ((*labels, model.num_classes) if classes else labels):
        outputs = f"{(*labels, data.num_classes)}, one logit a class" if classes else f"{labels}, as the labels are"
        raise InputError(
            f"{model.name} returns {returned} for every input: expected {outputs}. "
            "Specs, matching and curves of other models work, without data."
        )


@lru_cache(maxsize=64)
def _output_shape(model: Model) -> tuple[int, ...]:
    """The shape of a model's output for one input."""
    theta = jax.eval_shape(model.init, jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((2, *model.input_shape), model.input_dtype)
    return jax.eval_shape(model.apply, theta, inputs).shape[1:]
