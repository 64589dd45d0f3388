"""The loss of outputs, the L2 term, and exact evaluation over a whole set."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mcjax import trees
from mcjax.data import Dataset, normalize
from mcjax.data.datasets import check_dataset
from mcjax.errors import InputError
from mcjax.models.base import Model, has_leading_axis
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import over_models
from mcjax.training.config import ComputeDtype


class Measured(NamedTuple):
    """Mean cross entropy in nats and the share of labels told right, float32 scalars.

    Of labels that are floats: the mean squared error, and one minus the mean absolute error.
    """

    loss: jax.Array
    accuracy: jax.Array


def losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of every label, in the labels' shape, in the logits' precision, at least float32; see `measure`."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return jnp.square(logits - labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def measure(logits: jax.Array, labels: jax.Array) -> Measured:
    """Loss and accuracy of logits (n, ..., classes) against labels int32 (n, ...), or of outputs against floats.

    The loss of float64 logits is float64.
    """
    loss = losses(logits, labels).mean()
    if jnp.issubdtype(labels.dtype, jnp.floating):
        difference = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) - labels
        return Measured(loss, 1 - jnp.abs(difference).mean())
    return Measured(loss, (logits.argmax(-1) == labels).mean(dtype=jnp.float32))


def objective(
    model: Model,
    theta: trees.Tree,
    x: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    weight_decay: float,
    compute_dtype: ComputeDtype = "float32",
) -> tuple[jax.Array, tuple[Measured, trees.Tree]]:
    """What training descends: cross entropy by batch statistics + weight_decay / 2 * ||params||^2.

    Returns the objective, what it measured without the L2 term, and the statistics of the batch.
    All parameters are in the L2 term, biases and norms too, as in the papers. compute_dtype: of the
    model's own forward and backward pass; logits and what comes after them are float32 in any case,
    and so are the gradient and the statistics.
    """
    params = trees.params(theta)
    computed, images = (
        (theta, x)
        if compute_dtype == "float32"
        else (trees.with_params(theta, trees.cast(params, compute_dtype)), trees.cast(x, compute_dtype))
    )
    logits, batch_stats = model.apply_train(computed, images, key)
    measured = measure(logits, labels)
    statistics = jax.tree.map(lambda new, old: new.astype(old.dtype), batch_stats, trees.batch_stats(theta))
    return measured.loss + weight_decay / 2 * trees.dot(params, params), (measured, statistics)


def evaluate_images(
    model: Model, theta: trees.Tree, images: jax.Array, labels: jax.Array, mean: Any, std: Any, batch_size: int
) -> Measured:
    """Loss and accuracy of one network over uint8 images, every image once, `batch_size` at a time."""

    def sums(batch: jax.Array, batch_labels: jax.Array) -> jax.Array:
        measured = measure(model.apply(theta, normalize(batch, mean, std)), batch_labels)
        return jnp.stack(measured) * len(batch_labels)

    n, size = len(labels), min(batch_size, len(labels))
    whole = n // size * size
    batches = (images[:whole].reshape(-1, size, *images.shape[1:]), labels[:whole].reshape(-1, size, *labels.shape[1:]))
    total = jax.lax.scan(lambda carry, batch: (carry + sums(*batch), None), jnp.zeros(2), batches)[0]
    if whole < n:
        total = total + sums(images[whole:], labels[whole:])
    return Measured(*(total / n))


def evaluate_splits(model: Model, theta: trees.Tree, data: Dataset, batch_size: int) -> tuple[Measured, Measured]:
    """`evaluate_images` on the train images and on the test images. Pure."""
    return (
        evaluate_images(model, theta, data.train_images, data.train_labels, data.mean, data.std, batch_size),
        evaluate_images(model, theta, data.test_images, data.test_labels, data.mean, data.std, batch_size),
    )


def evaluate(model: Model, theta: trees.Tree, data: Dataset, batch_size: int = 1000) -> tuple[Measured, Measured]:
    """Train and test loss and accuracy of a network, by the statistics that `theta` holds.

    float32 scalars; (networks,) if theta has a leading axis. Raises SpecError if theta is not of this
    model, InputError if model and data do not fit.
    """
    check_fit(model, data)
    many = has_leading_axis(theta, model)
    measured = _evaluate(model, theta if many else jax.tree.map(lambda leaf: leaf[None], theta), data, batch_size)
    return measured if many else jax.tree.map(lambda value: value[0], measured)


@jit(static_argnames=("model", "batch_size"))
def _evaluate(model: Model, theta: trees.Tree, data: Dataset, batch_size: int) -> tuple[Measured, Measured]:
    return over_models(lambda one: evaluate_splits(model, one, data, batch_size), model.convolutions)(theta)


def check_fit(model: Model, data: Dataset) -> None:
    """Raise InputError if the model is not for such data: other inputs, other outputs, fewer classes."""
    check_dataset(data)
    if tuple(data.image_shape) != tuple(model.input_shape):
        raise InputError(
            f"{model.name} takes images of shape {tuple(model.input_shape)}, {data.name} has images of shape "
            f"{tuple(data.image_shape)}. Create the model with the input_shape of the data."
        )
    returned, labels = _returned(model), tuple(data.train_labels.shape[1:])
    classes = jnp.issubdtype(data.train_labels.dtype, jnp.integer)
    if classes and data.num_classes > model.num_classes:
        raise InputError(
            f"{data.name} has {data.num_classes} classes, {model.name} tells {model.num_classes} apart. "
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
def _returned(model: Model) -> tuple[int, ...]:
    """The shape of what a model returns for one input."""
    theta = jax.eval_shape(model.init, jax.random.key(0))
    return jax.eval_shape(model.apply, theta, jax.ShapeDtypeStruct((2, *model.input_shape), model.input_dtype)).shape[
        1:
    ]
