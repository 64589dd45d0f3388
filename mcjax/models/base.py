"""The type of all models: pure functions of one architecture, and the spec of its permutation symmetry."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.errors import InputError
from mcjax.symmetry import PermutationSpec, SpecError

Activations = dict[str, tuple[jax.Array, ...]]
"""group -> its activations after the nonlinearity: float[n, ..., units], one array per layer that consumes them."""


class Model(NamedTuple):
    """The pure functions of one architecture, and the spec of its symmetry. Hashable, so static under jit.

    Attributes:
        init: `init(key) -> theta`, `{"params": ..., "batch_stats": ...}`.
        apply: `apply(theta, x) -> outputs`, in evaluation mode, by the batch statistics in theta;
            x is (n, *input_shape).
        apply_train: `apply_train(theta, x, key) -> (outputs, batch_stats)`, in training mode. The statistics are the
            batch's own mean and variance, not a running average.
        activations: `activations(theta, x) -> {group: (float[n, ..., units], ...)}`, after the nonlinearity; a
            residual trunk gives one array per block.
        spec: The permutation symmetry of the variables.
        name: The name of the architecture, for messages.
        input_shape: The shape of one input, (height, width, channels) for images.
        num_classes: Number of outputs: the last axis of one array of them; 0 for outputs of another kind.
        input_dtype: "float32" for images, "int32" for tokens.
    """

    init: Callable[[jax.Array], trees.Tree]
    apply: Callable[[trees.Tree, jax.Array], Any]
    apply_train: Callable[[trees.Tree, jax.Array, jax.Array], tuple[Any, trees.Tree]]
    activations: Callable[[trees.Tree, jax.Array], Activations]
    spec: PermutationSpec
    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    input_dtype: str = "float32"


def make_model(
    module: nn.Module,
    spec: PermutationSpec,
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    input_dtype: str = "float32",
) -> Model:
    """The Model of a Linen module that is called as `module(x, train)` and sows its activations.

    Args:
        module: The module. It calls `self.sow("activations", group, x)` for every group.
        spec: The permutation symmetry of its variables.
        name: The model's name.
        input_shape: The shape of one input.
        num_classes: Number of outputs.
        input_dtype: The dtype of inputs.

    Returns:
        The model.

    Raises:
        InputError: If the module cannot take inputs of this shape.
    """

    @jax.jit
    def init(key: jax.Array) -> trees.Tree:
        variables = module.init(key, jnp.zeros((1, *input_shape), input_dtype), train=False)
        return {name: variables[name] for name in ("params", "batch_stats") if name in variables}

    def apply(theta: trees.Tree, x: jax.Array) -> jax.Array:
        check_input(name, input_shape, x)
        outputs: Any = module.apply(theta, x, train=False)
        return outputs

    def apply_train(theta: trees.Tree, x: jax.Array, key: jax.Array) -> tuple[jax.Array, trees.Tree]:
        check_input(name, input_shape, x)
        outputs, updates = module.apply(theta, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        return outputs, updates.get("batch_stats", {})

    def activations(theta: trees.Tree, x: jax.Array) -> Activations:
        check_input(name, input_shape, x)
        return module.apply(theta, x, train=False, mutable=["activations"])[1]["activations"]

    functions = (init, apply, apply_train, activations)
    model = Model(*functions, spec, name, input_shape, num_classes, input_dtype)
    try:
        theta = jax.eval_shape(init, jax.random.key(0))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{name} cannot take images of shape {input_shape}: {error}") from error
    if any(0 in shape for shape in trees.shapes(theta).values()):
        raise InputError(f"{name} cannot take images of shape {input_shape}: they are too small for its layers.")
    spec.validate(theta)
    return model


def check_input(name: str, input_shape: tuple[int, ...], x: Any) -> None:
    """Raise InputError if `x` is not a batch (n, *input_shape)."""
    if jnp.shape(x)[1:] != input_shape or jnp.ndim(x) == 0:
        raise InputError(
            f"{name} takes images of shape {input_shape}: got an array {jnp.shape(x)}, expected (n, "
            f"{', '.join(map(str, input_shape))}). Create the model with input_shape={tuple(jnp.shape(x)[1:])}."
        )


def check_image_shape(name: str, input_shape: tuple[int, ...]) -> None:
    """Raise InputError unless `input_shape` is (height, width, channels)."""
    if len(input_shape) != 3:
        raise InputError(f"{name} takes images: got input_shape={input_shape}, expected (height, width, channels).")


class Networks(Protocol):
    """A model or a task, which knows the shapes of its networks."""

    @property
    def init(self) -> Callable[[jax.Array], trees.Tree] | None:
        """`init(key) -> theta`, or None if the shapes are not known."""

    @property
    def name(self) -> str:
        """The name in messages."""


def has_leading_axis(theta: trees.Tree, networks: Networks) -> bool:
    """Whether `theta` holds several networks along a leading axis (True) or one (False).

    One network is assumed if the shapes of the networks are not known.

    Raises:
        SpecError: If it holds neither. The message names the leaves that differ.
    """
    if networks.init is None:
        return False
    expected = trees.shapes(jax.eval_shape(networks.init, jax.random.key(0)))
    got = trees.shapes(theta)
    if got == expected:
        return False
    leading = {shape[0] for shape in got.values() if shape}
    many = len(leading) == 1 and all(shape[1:] == expected.get(name) for name, shape in got.items())
    if many and got.keys() == expected.keys():
        return True
    wrong = [
        f"{name}: got {got.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
        for name in sorted(got.keys() | expected.keys())
        if got.get(name) != expected.get(name)
    ]
    shown = wrong[:12] + ([f"... and {len(wrong) - 12} more"] if len(wrong) > 12 else [])
    hint = ""
    if {f"params/{name}" for name in got} <= expected.keys():
        hint = "\nThese are bare parameters: give {'params': ...}, with batch_stats if the model has them."
    raise SpecError(f"these variables are not those of {networks.name}:\n  " + "\n  ".join(shown) + hint)


class LeadingAxis(NamedTuple):
    """The leading axis of the caller's networks: one network and many go through the same program.

    Attributes:
        given: Whether the caller's networks have a leading axis.
    """

    given: bool

    def add(self, tree: trees.Tree) -> trees.Tree:
        """A tree of the caller's, with a leading axis of one network if it had none."""
        return tree if self.given else trees.index(tree, None)

    def remove(self, tree: trees.Tree) -> trees.Tree:
        """A result for the caller: without the leading axis, unless the networks had one."""
        return tree if self.given else trees.index(tree, 0)


def leading_axis(networks: Networks, theta: trees.Tree, *others: trees.Tree) -> LeadingAxis:
    """The leading axis of networks of a model or task, all of which have one of the same length, or none.

    Raises:
        InputError: If they hold different numbers of networks.
        SpecError: If they are not networks of this model or task.
    """
    given = has_leading_axis(theta, networks)
    for each in others:
        if networks.init is None and (other := trees.shapes(each)) != (first := trees.shapes(theta)):
            name = next(name for name in [*first, *other] if first.get(name) != other.get(name))
            raise SpecError(
                f"theta_1 and theta_2 differ at {name}: got {first.get(name, 'nothing')} and "
                f"{other.get(name, 'nothing')}, expected two of one architecture."
            )
        if has_leading_axis(each, networks) != given or trees.shapes(each) != trees.shapes(theta):
            raise InputError("theta_1 and theta_2 hold different numbers of networks: expected as many of each.")
    return LeadingAxis(given)
