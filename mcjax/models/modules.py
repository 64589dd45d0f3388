"""Models of arbitrary Flax modules, Linen or NNX, and of pure functions."""

import warnings
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import FlaxError

from mcjax import trees
from mcjax.errors import InputError, InputWarning, check_function
from mcjax.models.base import Activations, Model, check_input
from mcjax.models.estimation import running_statistics
from mcjax.models.flax_functions import Captures, Functions, capture_linen, linen_functions, nnx_functions, own_name
from mcjax.symmetry import PermutationSpec, SpecError, infer_activations, infer_spec

Selector = Callable[[Any], Any]
ActivationFunction = Callable[[trees.Tree, jax.Array], Activations]


def from_flax(
    module: Any,
    example_input: Any,
    *,
    spec: PermutationSpec | None = None,
    activations: Captures | ActivationFunction | None = None,
    nonlinearity: Callable[[jax.Array], jax.Array] | None = None,
    outputs: Selector | None = None,
    name: str | None = None,
) -> Model:
    """A Model of any Flax module; its permutation symmetry is inferred from its computation.

    The module returns an array (n, ...) or a tree of such arrays. The built-in loss of `supervised` takes one of shape
    (n, classes) for images with classes: `outputs` takes it out of a tree; for other outputs, give a loss. If the
    module accepts `train`, `training`, `is_training`, `deterministic` or `use_running_average`, this argument sets the
    mode.

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
        outputs: `outputs(returned) -> array`, the part of what the module returns that the model returns, such as
            `lambda returned: returned["logits"]`. None: all of it.
        name: The model's name. None: the name of the class or function; of a lambda, that of the class that it makes.

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
        functions = linen_functions(module, batch)
    elif isinstance(module, nnx.Module) or (isinstance(module, type) and issubclass(module, nn.Module)):
        raise InputError(_class_or_instance(module))
    elif callable(module):
        functions = nnx_functions(module)
    else:
        raise InputError(f"got {module!r}, expected a Linen module, or a callable that makes an NNX module.")
    if isinstance(activations, Mapping):
        if not isinstance(module, nn.Module):
            raise InputError("activations by submodule are for Linen modules: give a function, or leave them out.")
        activations = capture_linen(module, batch, activations, nonlinearity or (lambda x: x))
    return _model(functions, batch, name, outputs, spec, activations)


def from_function(
    init: Callable[[jax.Array], trees.Tree],
    apply: Callable[[trees.Tree, Any], Any],
    example_input: Any,
    *,
    outputs: Selector | None = None,
    name: str | None = None,
) -> Model:
    """A Model of two pure functions; spec and activations are inferred, and batch statistics never change.

    All floating-point leaves of theta are trained, or those of theta["params"] if there is such a collection: what no
    gradient should move is kept in another one, such as "batch_stats", or named to the optimiser by a mask, as in
    `optax.chain(optimizer, optax.transforms.freeze(mask))`.

    Args:
        init: `init(key) -> theta`.
        apply: `apply(theta, x) -> outputs`, an array (n, ...) or a tree of such arrays.
        example_input: A batch (n, ...) of floats or integers, or its `jax.ShapeDtypeStruct`.
        outputs: As in `from_flax`.
        name: The model's name. None: that of `apply`, or "function" for a lambda.

    Returns:
        The model.

    Raises:
        InputError: If the functions do not take these arguments, or `apply` does not return arrays (n, ...).

    Warns:
        InputWarning: If running means and variances are among the leaves that are trained.

    Example::

        model = from_function(init, lambda theta, x: jnp.tanh(x @ theta["a"]) @ theta["b"], x)
    """
    check_function("init(key) -> theta", init)
    check_function("apply(theta, x) -> outputs", apply)
    if statistics := running_statistics(trees.flatten(trees.trained(jax.eval_shape(init, jax.random.key(0))))):
        warnings.warn(
            f"got {', '.join(statistics)} among the parameters, which training changes like weights. If they are "
            'statistics, expected theta = {"params": ..., "batch_stats": ...}, or an optimiser that leaves them: '
            "optax.transforms.freeze(mask).",
            InputWarning,
            stacklevel=2,
        )

    def train(theta: trees.Tree, x: Any, key: jax.Array) -> tuple[Any, trees.Tree]:
        return apply(theta, x), trees.batch_stats(theta)

    functions = Functions(init, apply, train, own_name(apply, "function"))
    return _model(functions, _batch_of_two(example_input), name, outputs)


def _batch_of_two(example_input: Any) -> jax.ShapeDtypeStruct:
    if not isinstance(example_input, Real) and not hasattr(example_input, "dtype"):
        kind = type(example_input).__name__
        raise InputError(f"got {kind} as example_input, expected one array, a batch (n, ...).")
    shape, dtype = tuple(jnp.shape(example_input)), jnp.result_type(example_input)
    if not shape or 0 in shape[1:]:
        raise InputError(f"got example_input of shape {shape}, expected a batch (n, ...), none of its lengths 0.")
    return jax.ShapeDtypeStruct((2, *shape[1:]), jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype)


def _model(
    functions: Functions,
    batch: jax.ShapeDtypeStruct,
    name: str | None,
    outputs: Selector | None,
    spec: PermutationSpec | None = None,
    activations: ActivationFunction | None = None,
) -> Model:
    """The Model of these functions; spec and activations are inferred where they are not given."""
    shape, name = batch.shape[1:], name or functions.name
    if outputs is not None:
        check_function("outputs(returned) -> array", outputs)

    def selected(returned: Any) -> Any:
        return returned if outputs is None else outputs(returned)

    def apply(variables: trees.Tree, x: jax.Array) -> Any:
        check_input(name, shape, x)
        return selected(functions.apply(trees.like(theta, variables), x))

    def apply_train(variables: trees.Tree, x: jax.Array, key: jax.Array) -> tuple[Any, trees.Tree]:
        check_input(name, shape, x)
        returned, stats = functions.train(trees.like(theta, variables), x, key)
        return selected(returned), stats

    try:
        theta = jax.eval_shape(functions.init, jax.random.key(0))
        found = jax.eval_shape(apply, theta, batch)
        jax.eval_shape(apply_train, theta, batch, jax.random.key(0))
    except FlaxError as error:
        raise InputError(
            f"{name} failed when called with parameters and batch statistics, all that mcjax keeps: {error}"
        ) from error
    leaves = jax.tree.leaves(found)
    if not leaves or any(leaf.shape[:1] != batch.shape[:1] for leaf in leaves):
        raise InputError(
            f"{name} returns {jax.tree.map(jnp.shape, found)} for {batch.shape[0]} inputs, expected arrays (n, ...): "
            "outputs=returned -> arrays selects what depends on the input alone."
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
