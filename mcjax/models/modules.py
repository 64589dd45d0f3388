"""Models of arbitrary Flax modules, Linen or NNX, and of pure functions."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import FlaxError

from mcjax import trees
from mcjax.errors import InputError
from mcjax.models.base import Activations, Model, check_input
from mcjax.models.flax_functions import Captures, Functions, capture_linen, linen_functions, nnx_functions
from mcjax.symmetry import PermutationSpec, SpecError, infer_activations, infer_spec

ActivationFunction = Callable[[trees.Tree, jax.Array], Activations]


def from_flax(
    module: Any,
    example_input: Any,
    *,
    spec: PermutationSpec | None = None,
    activations: Captures | ActivationFunction | None = None,
    nonlinearity: Callable[[jax.Array], jax.Array] | None = None,
    name: str | None = None,
) -> Model:
    """A Model of any Flax module; its permutation symmetry is inferred from its computation.

    The module returns an array (n, ...) or a tree of such arrays. The built-in loss of `supervised` takes one of shape
    (n, classes) for images with classes; for other outputs, give a loss. If the module accepts `train`, `training`,
    `is_training`, `deterministic` or `use_running_average`, this argument sets the mode.

    `theta` is `{"params": ..., "batch_stats": ...}`; for an existing NNX module, `nnx.to_pure_dict(nnx.state(module,
    nnx.Param))` and the same with `nnx.BatchStat`. In training mode, running averages, which are updated by
    m * old + (1 - m) * new and not read, are replaced by the statistics of the batch, in float32 at least; all others,
    counters and keys among them, keep their values.

    Args:
        module: A Linen module, or a callable that makes an NNX module from `nnx.Rngs`: its class, or a function.
        example_input: A batch (n, ...) of floats or integers, or its `jax.ShapeDtypeStruct`.
        spec: The permutation symmetry of the module in evaluation mode. None: inferred by `infer_spec`.
        activations: A function (theta, x) -> {group: (array, ...)}; or, for Linen, group -> the submodule or
            submodules whose outputs are its activations, such as `"Block_0/Conv_1"`. None: inferred by
            `infer_activations`.
        nonlinearity: Applied to the outputs of those submodules. None: the identity.
        name: The model's name. None: the name of the class or function.

    Returns:
        The model.

    Raises:
        SpecError: If spec, activations and module do not match.
        InputError: If the module needs other arguments, or holds variables other than parameters and batch statistics.

    Example::

        model = from_flax(Net(), x)
        print(model.spec)
    """
    if isinstance(example_input, nn.Module | nnx.Module):
        raise InputError("got a module as example_input, expected from_flax(module, example_input).")
    batch = _batch_of_two(example_input)
    if isinstance(module, nn.Module):
        functions, default_name = linen_functions(module, batch), type(module).__name__
    elif isinstance(module, nnx.Module) or (isinstance(module, type) and issubclass(module, nn.Module)):
        raise InputError(_class_or_instance(module))
    elif callable(module):
        functions, default_name = nnx_functions(module), getattr(module, "__name__", "nnx")
    else:
        raise InputError(f"got {module!r}, expected a Linen module, or a callable that makes an NNX module.")
    if isinstance(activations, Mapping):
        if not isinstance(module, nn.Module):
            raise InputError("activations by submodule are for Linen modules: give a function, or leave them out.")
        activations = capture_linen(module, batch, activations, nonlinearity or (lambda x: x))
    return _model(functions, batch, name or default_name, spec, activations)


def from_function(
    init: Callable[[jax.Array], trees.Tree],
    apply: Callable[[trees.Tree, Any], Any],
    example_input: Any,
    *,
    name: str = "function",
) -> Model:
    """A Model of two pure functions; spec and activations are inferred, and batch statistics never change.

    Args:
        init: `init(key) -> theta`.
        apply: `apply(theta, x) -> outputs`, an array (n, ...) or a tree of such arrays.
        example_input: A batch (n, ...) of floats or integers, or its `jax.ShapeDtypeStruct`.
        name: The model's name.

    Returns:
        The model.

    Raises:
        InputError: If `apply` does not return arrays (n, ...).

    Example::

        model = from_function(init, lambda theta, x: jnp.tanh(x @ theta["a"]) @ theta["b"], x)
    """
    functions = Functions(init, apply, lambda theta, x, key: (apply(theta, x), trees.batch_stats(theta)))
    return _model(functions, _batch_of_two(example_input), name)


def _batch_of_two(example_input: Any) -> jax.ShapeDtypeStruct:
    shape, dtype = tuple(jnp.shape(example_input)), jnp.result_type(example_input)
    if not shape or 0 in shape[1:]:
        raise InputError(f"got example_input of shape {shape}, expected a batch (n, ...), none of its lengths 0.")
    return jax.ShapeDtypeStruct((2, *shape[1:]), jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype)


def _model(
    functions: Functions,
    batch: jax.ShapeDtypeStruct,
    name: str,
    spec: PermutationSpec | None = None,
    activations: ActivationFunction | None = None,
) -> Model:
    """The Model of these functions; spec and activations are inferred where they are not given."""
    shape = batch.shape[1:]

    def apply(variables: trees.Tree, x: jax.Array) -> jax.Array:
        check_input(name, shape, x)
        outputs: Any = functions.apply(trees.like(theta, variables), x)
        return outputs

    def apply_train(variables: trees.Tree, x: jax.Array, key: jax.Array) -> tuple[jax.Array, trees.Tree]:
        check_input(name, shape, x)
        return functions.train(trees.like(theta, variables), x, key)

    try:
        theta = jax.eval_shape(functions.init, jax.random.key(0))
        outputs = jax.eval_shape(apply, theta, batch)
        jax.eval_shape(apply_train, theta, batch, jax.random.key(0))
    except FlaxError as error:
        raise InputError(
            f"{name} failed when called with parameters and batch statistics, all that mcjax keeps: {error}"
        ) from error
    leaves = jax.tree.leaves(outputs)
    if not leaves or any(leaf.shape[:1] != batch.shape[:1] for leaf in leaves):
        raise InputError(
            f"{name} returns {jax.tree.map(jnp.shape, outputs)} for {batch.shape[0]} inputs, expected arrays (n, ...): "
            "wrap the module in one that returns what depends on the input alone."
        )
    spec = infer_spec(apply, theta, batch) if spec is None else spec
    spec.validate(theta)
    activations = infer_activations(apply, spec) if activations is None else activations
    groups = jax.eval_shape(activations, theta, batch).keys()
    if groups != set(spec.groups):
        raise SpecError(
            f"activations are of groups {sorted(groups)}, expected those of the spec: {sorted(spec.groups)}."
        )
    pure = (functions.init, apply, apply_train, activations)
    # Outputs in several arrays, or one number for each input, have no classes.
    classes = leaves[0].shape[-1] if len(leaves) == 1 and len(leaves[0].shape) > 1 else 0
    return Model(*pure, spec, name, shape, classes, str(batch.dtype))


def _class_or_instance(module: Any) -> str:
    """The message for a class where an instance is expected (Linen), or the reverse (NNX)."""
    if isinstance(module, nnx.Module):
        kind = type(module).__name__
        return (
            f"got an instance of the NNX module {kind}, which holds only one network: expected a callable that makes "
            f"one from nnx.Rngs, as in from_flax(lambda rngs: {kind}(..., rngs=rngs), x)."
        )
    return f"got the class {module.__name__}, expected a Linen module made of it: {module.__name__}(...)."


__all__ = ["from_flax", "from_function"]
