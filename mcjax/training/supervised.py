"""Tasks of a model and a data set: classification, regression, next tokens, or any loss of outputs and labels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mcjax import trees
from mcjax.data import Augmentation, Dataset, PgdAttack, augment, normalize
from mcjax.data.datasets import check_classes, check_dataset
from mcjax.errors import InputError, check_function, check_kind
from mcjax.models.base import Model, check_model
from mcjax.shown import short_repr
from mcjax.training.loss import Batch, at_least_float32
from mcjax.training.task import Task

LabelLoss = Callable[[Any, Any], jax.Array]
"""`loss(outputs, labels) -> losses`, one or more for each example, (n, ...)."""


def supervised(
    model: Model,
    data: Dataset,
    *,
    loss: LabelLoss | None = None,
    augmentation: Augmentation | None = None,
    attack: PgdAttack | None = None,
) -> Task:
    """The task of learning the labels of a data set.

    By default the loss is the cross entropy in nats for integer labels, the classes of images or the next tokens of a
    text, and the squared error for float labels, also for those that are 0 or 1. It is computed in training mode;
    metrics are measured in evaluation mode, by the batch statistics in theta. They are "loss", and for classes with one
    output each "accuracy", the share of correct ones; for the squared error "error", the mean absolute error. Losses
    and metrics are float32 whatever the dtype of theta, or float64 if that is.

    Args:
        model: The model.
        data: The data set.
        loss: `loss(outputs, labels) -> losses`, one or more for each example (n, ...), whose mean is descended. The
            outputs are those of the model, in any structure. None: as above.
        augmentation: Augmentation of the training images. None: the data set's default.
        attack: Attack on the images of every training batch, against the network that is trained: adversarial training.
            Evaluation has "robust_loss" and "robust_accuracy" too, on attacked images. None: no attack.

    Returns:
        The task, whose batches are `(inputs, labels)` as the data set stores them: images are augmented and normalised
        when they are used.

    Raises:
        InputError: If model and data do not match, a label is no class or a number is not finite, the loss is not one
            value or more for each example, or inputs that are no images are to be augmented or attacked.

    Example::

        task = supervised(model, data)
        robust = supervised(model, data, attack=PgdAttack(steps=5))
        smooth = supervised(model, data, loss=lambda logits, labels: optax.softmax_cross_entropy(
            logits, optax.smooth_labels(jax.nn.one_hot(labels, 10), 0.1)))
    """
    check_dataset(data)
    check_model(model)
    check_inputs(model, data)
    if loss is None:
        check_outputs(model, data)
    else:
        check_function("loss(outputs, labels) -> losses", loss)
    if attack is not None:
        check_kind("attack", attack, PgdAttack, "PgdAttack(steps=5)")
    augmentation = _augmentation(data, augmentation)
    losses = label_losses if loss is None else loss
    if jax.tree_util.all_leaves([losses]):
        losses = jax.tree_util.Partial(losses)
    if attack is not None and data.train_images.dtype != jnp.uint8:
        raise InputError(f"got an attack on {data.name}, whose inputs are no images, expected none.")
    training = SupervisedLoss(model, losses, jnp.asarray(data.mean), jnp.asarray(data.std), attack)
    splits: dict[str, Any] = {
        split: (getattr(data, f"{split}_images"), getattr(data, f"{split}_labels"))
        for split in ("train", "test", "validation")
        if getattr(data, f"{split}_labels") is not None
    }
    # A loss of one's own is checked on networks of the model, the others need no check.
    networks: dict[str, Any] = {} if loss is None else {"model": model}
    task = Task(
        training,
        **splits,
        **networks,
        metrics=jax.tree_util.Partial(SupervisedLoss.evaluate, training),
        inputs=jax.tree_util.Partial(SupervisedLoss.inputs, training),
        augment=None if augmentation == Augmentation.none() else AugmentImages(augmentation),
        name=f"{model.name} on {data.name}",
    )
    return task.replace(model=model, init=model.init, spec=model.spec)


@short_repr
@partial(jax.tree_util.register_dataclass, data_fields=("losses", "mean", "std"), meta_fields=("model", "attack"))
@dataclass(frozen=True, eq=False)
class SupervisedLoss:
    """The loss of a supervised task, called as `loss(theta, batch, key) -> (value, metrics, batch_stats)`. A pytree.

    Attributes:
        model: The model.
        losses: The losses of outputs and labels, a pytree.
        mean: The mean per channel that images are normalised by.
        std: The standard deviation per channel that images are normalised by.
        attack: The attack on images, or None.
    """

    model: Model
    losses: Any
    mean: jax.Array
    std: jax.Array
    attack: PgdAttack | None = None

    @property
    def built_in(self) -> bool:
        """Whether the losses are cross entropies or squared errors."""
        return getattr(self.losses, "func", None) is label_losses

    def __call__(
        self, theta: trees.Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], trees.Tree]:
        x = self.inputs(batch)
        dtype = jnp.result_type(*jax.tree.leaves(trees.trained(theta)))
        if dtype in (jnp.bfloat16, jnp.float16):
            x = trees.cast(x, dtype)
        if self.attack is not None:
            constant = jax.lax.stop_gradient(theta)
            attack_key, key = jax.random.split(key)
            x = self._attacked(attack_key, x, lambda x: self.model.apply_train(constant, x, key)[0], batch[1])
        outputs, stats = self.model.apply_train(theta, x, key)
        metrics = self.measure(outputs, batch[1])
        return metrics["loss"], metrics, stats

    def inputs(self, batch: Batch) -> jax.Array:
        """The normalised inputs of a batch, what the model takes."""
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise InputError(f"got batches {trees.shapes(batch)}, expected (inputs, labels), as in a Dataset.")
        return normalize(batch[0], self.mean, self.std)

    def evaluate(self, theta: trees.Tree, batch: Batch) -> dict[str, jax.Array]:
        """The metrics of a network on a batch in evaluation mode."""
        x = self.inputs(batch)
        metrics = self.measure(self.model.apply(theta, x), batch[1])
        if self.attack is not None:
            # A fixed key, so that measurements of one network are equal.
            x = self._attacked(jax.random.key(0), x, partial(self.model.apply, theta), batch[1])
            attacked = self.measure(self.model.apply(theta, x), batch[1])
            metrics |= {f"robust_{name}": value for name, value in attacked.items()}
        return metrics

    def _attacked(self, key: jax.Array, x: jax.Array, outputs: Callable[[Any], Any], labels: jax.Array) -> jax.Array:
        assert self.attack is not None
        return self.attack(key, x, lambda x: self.measure(outputs(x), labels)["loss"], self.mean, self.std)

    def measure(self, outputs: Any, labels: jax.Array) -> dict[str, jax.Array]:
        """The metrics of outputs against labels."""
        losses = self.losses(outputs, labels)
        shape = jax.tree.map(jnp.shape, losses)
        if not isinstance(losses, jax.Array) or shape[:1] != labels.shape[:1]:
            raise InputError(
                f"got losses of shape {shape} for labels of shape {labels.shape}, expected one or more for each "
                "example, (n, ...): without the mean over the examples, which the task takes."
            )
        metrics = {"loss": losses.mean()}
        if is_classes(outputs, labels):
            metrics["accuracy"] = right(outputs, labels).mean()
        elif self.built_in:
            metrics["error"] = jnp.abs(at_least_float32(outputs) - labels).mean()
        return metrics


@jax.tree_util.register_static
@dataclass(frozen=True)
class AugmentImages:
    """Augmentation of the images of a batch, called as `augment(key, batch) -> batch`."""

    augmentation: Augmentation

    def __call__(self, key: jax.Array, batch: Batch) -> Batch:
        return augment(key, batch[0], self.augmentation), batch[1]


def label_losses(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of every label, in the labels' shape: cross entropy, or the squared error for float labels.

    Its dtype is that of the outputs, at least float32.
    """
    outputs = at_least_float32(outputs)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return jnp.square(outputs - labels)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)


def right(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where the largest output is that of the label, and 0 elsewhere; NaN where an output is. float32."""
    # The place of a NaN would be counted as a class.
    return jnp.where(jnp.isnan(outputs).any(-1), jnp.nan, (outputs.argmax(-1) == labels).astype(jnp.float32))


def is_classes(outputs: Any, labels: Any) -> bool:
    """Whether labels (n, ...) are classes and outputs (n, ..., classes) hold one number for each."""
    integers = hasattr(labels, "dtype") and jnp.issubdtype(labels.dtype, jnp.integer)
    # One output for each example is no class, but its logit.
    return integers and hasattr(outputs, "shape") and outputs.shape[:-1] == labels.shape and outputs.shape[-1] > 1


def _augmentation(data: Dataset, given: Augmentation | None) -> Augmentation:
    """The augmentation given, or the data set's default. Raises InputError for inputs that are no images."""
    augmentation = data.default_augmentation() if given is None else given
    check_kind("augmentation", augmentation, Augmentation, "Augmentation(crop=4)")
    if len(data.image_shape) != 3 and augmentation != Augmentation.none():
        raise InputError(
            f"got {augmentation}, but {data.name} has inputs of shape {data.image_shape}, which are not images: "
            "expected Augmentation.none()."
        )
    return augmentation


def check_inputs(model: Model, data: Dataset) -> None:
    """Raise InputError unless the model takes the inputs of the data."""
    if tuple(data.image_shape) != tuple(model.input_shape):
        raise InputError(
            f"{model.name} takes images of shape {tuple(model.input_shape)}, {data.name} has images of shape "
            f"{tuple(data.image_shape)}. Create the model with the input_shape of the data."
        )
    tokens = jnp.issubdtype(data.train_images.dtype, jnp.integer) and data.train_images.dtype != jnp.uint8
    if tokens != jnp.issubdtype(model.input_dtype, jnp.integer):
        raise InputError(
            f"{model.name} takes {model.input_dtype}, the inputs of {data.name} are {data.train_images.dtype}: "
            f"expected {'a model of tokens' if tokens else 'images in float32'}."
        )


def check_outputs(model: Model, data: Dataset) -> None:
    """Raise InputError unless the model has an output for every class of the labels, or for every number."""
    returned, labels = _output_shapes(model), tuple(data.train_labels.shape[1:])
    classes = jnp.issubdtype(data.train_labels.dtype, jnp.integer)
    if returned != ((*labels, model.num_classes) if classes else labels):
        outputs = f"{(*labels, data.num_classes)}, one logit a class" if classes else f"{labels}, as the labels are"
        raise InputError(f"{model.name} returns {returned} for every input: expected {outputs}. {OTHER_OUTPUTS}")
    if classes and data.num_classes > model.num_classes:
        raise InputError(
            f"{data.name} has {data.num_classes} classes, {model.name} has {model.num_classes}. "
            f"Create the model with the num_classes of the data. {OTHER_OUTPUTS}"
        )
    if classes:
        for split in ("train", "test", "validation"):
            if (given := getattr(data, f"{split}_labels")) is not None:
                check_classes(f"{data.name}: {split}_labels", given, data.num_classes)


OTHER_OUTPUTS = (
    "In Python, supervised(..., loss=(outputs, labels) -> losses) takes other outputs: "
    "loss=optax.sigmoid_binary_cross_entropy takes one logit and float labels of 0 and 1. models.from_flax(..., "
    "outputs=returned -> array) selects one of several."
)


@lru_cache(maxsize=64)
def _output_shapes(model: Model) -> Any:
    """The shapes of a model's outputs for one input: a tuple, or a tree of them."""
    theta = jax.eval_shape(model.init, jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((2, *model.input_shape), model.input_dtype)
    return jax.tree.map(lambda leaf: leaf.shape[1:], jax.eval_shape(model.apply, theta, inputs))


__all__ = ["LabelLoss", "SupervisedLoss", "is_classes", "label_losses", "right", "supervised"]
