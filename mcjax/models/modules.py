"""Models of Flax modules that mcjax has never seen, Linen or NNX."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import FlaxError

from mcjax import trees
from mcjax.errors import InputError
from mcjax.models.base import Activations, Model, check_input
from mcjax.models.dropout import heed_without_dropout
from mcjax.runtime.convolution import Convolutions
from mcjax.symmetry import PermutationSpec, SpecError, infer_activations, infer_spec

Captures = Mapping[str, str | Sequence[str]]


class Functions(NamedTuple):
    """A module as pure functions: `train` also returns the batch statistics after one update."""

    init: Callable[[jax.Array], trees.Tree]
    apply: Callable[[trees.Tree, Any], Any]
    train: Callable[[trees.Tree, Any, jax.Array], tuple[Any, trees.Tree]]


def from_flax(
    module: Any,
    example_input: Any,
    *,
    spec: PermutationSpec | None = None,
    activations: Captures | Callable[[trees.Tree, jax.Array], Activations] | None = None,
    nonlinearity: Callable[[jax.Array], jax.Array] | None = None,
    name: str | None = None,
) -> Model:
    """A Model of any Flax module, its permutation symmetry read off its computation.

    `module` is a Linen module, or what makes an NNX module of `nnx.Rngs` (its class, or a function).
    `example_input` is a batch, or its `jax.ShapeDtypeStruct`: floats or integers, (n, ...). The module
    returns one array (n, ..., classes); to train, fit and measure it on a Dataset it takes images and
    returns (n, classes). If it takes `train`, `training` or `is_training`, or
    `deterministic` or `use_running_average`, it is called with it.

    `theta` is `{"params": ..., "batch_stats": ...}`; of an NNX module that is at hand,
    `nnx.to_pure_dict(nnx.state(module, nnx.Param))` and the same with `nnx.BatchStat`. Batch statistics
    that training moves by m * old + (1 - m) * new are kept as the batch's own; others stay as they are.

    `spec` and `activations` are those of the function that testing computes, inferred (`infer_spec`,
    `infer_activations`) unless they are given: a spec of one's own, or an inferred one that was edited;
    activations as the submodules of every group (`"Dense_0"`, `"Block_0/Conv_1"`; Linen alone) whose
    outputs are its units, each passed through `nonlinearity` (default: as they are), or as the
    function (theta, x) -> {group: (array, ...)}.
    Raises SpecError if spec, activations and module do not fit, InputError if the module needs
    other arguments or holds variables other than parameters and batch statistics.

        model = from_flax(Net(), x)
        print(model.spec)
    """
    if isinstance(example_input, nn.Module | nnx.Module):
        raise InputError("got a module as example_input, expected from_flax(module, example_input).")
    batch = _batch_of_two(example_input)
    if isinstance(module, nn.Module):
        functions, named = _linen(module, batch), type(module).__name__
    elif isinstance(module, nnx.Module) or (isinstance(module, type) and issubclass(module, nn.Module)):
        raise InputError(_other_kind(module))
    elif callable(module):
        functions, named = _nnx(module), getattr(module, "__name__", "nnx")
    else:
        raise InputError(f"got {module!r}, expected a Linen module or what makes an NNX module of nnx.Rngs.")
    if isinstance(activations, Mapping):
        if not isinstance(module, nn.Module):
            raise InputError("activations by submodule are for Linen modules: give a function, or leave them out.")
        activations = _captured(module, batch, activations, nonlinearity or (lambda x: x))
    return _model(functions, batch, name or named, spec, activations)


def from_function(
    init: Callable[[jax.Array], trees.Tree],
    apply: Callable[[trees.Tree, Any], Any],
    example_input: Any,
    *,
    name: str = "function",
) -> Model:
    """A Model of two pure functions, init(key) -> theta and apply(theta, x) -> logits (n, classes).

    Spec and activations are inferred, as by `from_flax`; training moves no batch statistics.
    """
    functions = Functions(init, apply, lambda theta, x, key: (apply(theta, x), trees.batch_stats(theta)))
    return _model(functions, _batch_of_two(example_input), name)


def _batch_of_two(example_input: Any) -> jax.ShapeDtypeStruct:
    shape, dtype = tuple(jnp.shape(example_input)), jnp.result_type(example_input)
    if not shape or 0 in shape[1:]:
        raise InputError(f"got example_input of shape {shape}, expected a batch (n, ...) of something.")
    return jax.ShapeDtypeStruct((2, *shape[1:]), jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype)


def _model(
    functions: Functions,
    batch: jax.ShapeDtypeStruct,
    called: str,
    spec: PermutationSpec | None = None,
    activations: Callable[[trees.Tree, jax.Array], Activations] | None = None,
) -> Model:
    """The Model of these functions; spec and activations are inferred where they are not given."""
    shape = batch.shape[1:]

    def apply(theta: trees.Tree, x: jax.Array) -> jax.Array:
        check_input(called, shape, x)
        outputs: Any = functions.apply(theta, x)
        return outputs

    def apply_train(theta: trees.Tree, x: jax.Array, key: jax.Array) -> tuple[jax.Array, trees.Tree]:
        check_input(called, shape, x)

        # Flax mixes old and new, m * old + (1 - m) * batch: from old = 0 and old = 1 follow m and
        # the batch's own statistics. The forward pass is the same in all, and XLA keeps one. What is
        # frozen (m = 1), or no such mean (from what is stored it is not so), stays as it is stored.
        def own(stored: jax.Array, moved: jax.Array, zero: jax.Array, one: jax.Array) -> jax.Array:
            share = 1 - (one - zero)
            expected = (1 - share) * stored + zero
            mean = jnp.abs(moved - expected) <= 1e-3 * (1 + jnp.abs(stored) + jnp.abs(zero))
            mixes = (share > 1e-6) & (share < 1 + 1e-4) & mean.all()
            return jnp.where(mixes, zero / jnp.where(mixes, share, 1), stored)

        outputs, moved = functions.train(theta, x, key)
        stats = trees.batch_stats(theta)
        fixed = [jax.tree.map(lambda leaf, value=value: jnp.full_like(leaf, value), stats) for value in (0, 1)]
        zero, one = (functions.train(trees.with_batch_stats(theta, each), x, key)[1] if stats else {} for each in fixed)
        return outputs, jax.tree.map(own, stats, moved, zero, one)

    try:
        theta = jax.eval_shape(functions.init, jax.random.key(0))
        outputs = jax.eval_shape(apply, theta, batch)
        jax.eval_shape(apply_train, theta, batch, jax.random.key(0))
    except FlaxError as error:
        raise InputError(
            f"{called} failed when it was called with what mcjax keeps, parameters and batch statistics: {error}"
        ) from error
    if not isinstance(outputs, jax.ShapeDtypeStruct) or len(outputs.shape) < 2:
        raise InputError(
            f"{called} returns {jax.tree.map(jnp.shape, outputs)}, expected one array (n, ..., classes): wrap the "
            "module in one that returns its logits alone."
        )
    spec = infer_spec(apply, theta, batch) if spec is None else spec
    spec.validate(theta)
    take = infer_activations(apply, spec) if activations is None else activations
    given = jax.eval_shape(take, theta, batch)
    if given.keys() != set(spec.groups):
        raise SpecError(
            f"activations are of groups {sorted(given)}, expected those of the spec: {sorted(spec.groups)}."
        )
    program = str(jax.make_jaxpr(apply)(theta, batch))
    convolutions: Convolutions = "plain" if "conv_general_dilated" in program else "none"
    classes, dtype = outputs.shape[-1], str(batch.dtype)
    return Model(functions.init, apply, apply_train, take, spec, called, shape, classes, convolutions, dtype)


def _other_kind(module: Any) -> str:
    if isinstance(module, nnx.Module):
        kind = type(module).__name__
        return (
            f"got an instance of the NNX module {kind}, which can start only one network: expected what makes "
            f"one of nnx.Rngs, as in from_flax(lambda rngs: {kind}(..., rngs=rngs), x)."
        )
    return f"got the class {module.__name__}, expected a Linen module made of it: {module.__name__}(...)."


def _linen(module: nn.Module, batch: jax.ShapeDtypeStruct) -> Functions:
    training, testing = _mode_arguments(type(module))

    def init(key: jax.Array) -> trees.Tree:
        variables = nn.meta.unbox(module.init(key, jnp.zeros((1, *batch.shape[1:]), batch.dtype), **testing))
        return {name: variables[name] for name in variables if name in ("params", "batch_stats")}

    def train(theta: trees.Tree, x: jax.Array, key: jax.Array) -> tuple[Any, trees.Tree]:
        # What asks for a stream of another name is given that of "params".
        keys = {"dropout": key, "params": jax.random.fold_in(key, 1)}
        outputs, updates = module.apply(theta, x, rngs=keys, mutable=["batch_stats"], **training)
        return outputs, updates.get("batch_stats", {})

    return Functions(init, lambda theta, x: module.apply(theta, x, **testing), train)


def _nnx(make: Callable[..., Any]) -> Functions:
    """An NNX module by its functional form: graph definition and state, split by kind of variable."""
    kinds = (nnx.Param, nnx.BatchStat, nnx.RngState)

    def split(key: Any, train: bool) -> tuple[Any, ...]:
        module = make(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise InputError(f"got what makes a {type(module).__name__} of nnx.Rngs, expected an NNX module.")
        module.train() if train else module.eval()
        return nnx.split(module, *kinds, ...)

    graph, params, stats, random, others = nnx.eval_shape(lambda: split(0, False))
    if jax.tree.leaves(others):
        raise InputError(
            f"the module holds {', '.join(_leaves(others))}, which are neither parameters nor batch statistics: "
            "expected none. Compute them in the call, or wrap the module in pure functions (infer_spec)."
        )
    training, testing = _mode_arguments(type(nnx.merge(graph, params, stats, random, others)))

    def to_theta(params: Any, stats: Any) -> trees.Tree:
        parts = {"params": params, "batch_stats": stats}
        return {name: trees.nest(_leaves(part)) for name, part in parts.items() if jax.tree.leaves(part)}

    def to_states(theta: trees.Tree) -> tuple[Any, Any]:
        def filled(state: Any, part: trees.Tree) -> Any:
            leaves = trees.flatten(part)
            return jax.tree.unflatten(jax.tree.structure(state), [leaves[name] for name in _leaves(state)])

        return filled(params, theta.get("params", {})), filled(stats, theta.get("batch_stats", {}))

    def init(key: jax.Array) -> trees.Tree:
        return to_theta(*split(key, False)[1:3])

    def apply(theta: trees.Tree, x: Any) -> Any:
        # Streams of the module's own (a recurrent cell has one for its first state) start anew at every call.
        return nnx.merge(graph, *to_states(theta), jax.tree.map(_stream, random), others)(x, **testing)

    def train(theta: trees.Tree, x: Any, key: jax.Array) -> tuple[Any, trees.Tree]:
        training_graph, _, _, drawn, none = split(key, True)
        module = nnx.merge(training_graph, *to_states(theta), drawn, none)
        heed_without_dropout(module)
        outputs = module(x, **training)
        return outputs, to_theta({}, nnx.state(module, nnx.BatchStat)).get("batch_stats", {})

    return Functions(init, apply, train)


def _stream(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key(0) if is_key and not leaf.shape else jnp.zeros(leaf.shape, leaf.dtype)


def _leaves(state: Any) -> dict[str, Any]:
    """The variables of an NNX state by name, without the `value` that its own paths end in."""
    return {name.removesuffix("/value"): leaf for name, leaf in trees.flatten(state).items()}


def _mode_arguments(kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that put a module of this class into training and into testing mode."""
    accepted = inspect.signature(kind.__call__).parameters
    known = ("train", "training", "is_training", "deterministic", "use_running_average")
    for name, parameter in list(accepted.items())[2:]:
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variadic and name not in known:
            raise InputError(
                f"{kind.__name__} needs {name!r} to be called: mcjax gives the images and, where the module "
                f"takes them, {', '.join(known)}. Give {name!r} a default, or wrap the module."
            )
    training: dict[str, Any] = {name: True for name in ("train", "training", "is_training") if name in accepted}
    training |= {name: False for name in ("deterministic", "use_running_average") if name in accepted}
    return training, {name: not value for name, value in training.items()}


def _captured(
    module: nn.Module, batch: jax.ShapeDtypeStruct, captures: Captures, nonlinear: Callable[[jax.Array], jax.Array]
) -> Callable[[trees.Tree, jax.Array], Activations]:
    _, testing = _mode_arguments(type(module))

    def activations(theta: trees.Tree, x: jax.Array) -> Activations:
        check_input(type(module).__name__, batch.shape[1:], x)
        _, state = module.apply(theta, x, capture_intermediates=True, mutable=["intermediates"], **testing)
        outputs = trees.flatten(state["intermediates"])
        return {
            group: tuple(nonlinear(_output(outputs, path)) for path in ([paths] if isinstance(paths, str) else paths))
            for group, paths in captures.items()
        }

    return activations


def _output(outputs: dict[str, jax.Array], path: str) -> jax.Array:
    for name in (f"{path}/__call__/0", f"{path}/0"):
        if name in outputs:
            return outputs[name]
    there = sorted(name.removesuffix("/0").removesuffix("/__call__") for name in outputs)
    raise SpecError(f"no submodule {path!r} to take activations from; the module has {', '.join(there)}.")
