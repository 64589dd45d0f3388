"""Flax modules as pure functions: Linen by `apply`, NNX by its functional API."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from mcjax import trees
from mcjax.errors import InputError
from mcjax.models.base import Activations, check_input
from mcjax.models.estimation import prepare
from mcjax.symmetry import SpecError

Leaves = dict[str, Any]
"""Leaves of a tree by name."""

Captures = Mapping[str, str | Sequence[str]]
"""group -> path or paths of the Linen submodules whose outputs are its units."""


class Functions(NamedTuple):
    """The pure functions of a module.

    Attributes:
        init: `init(key) -> theta`.
        apply: `apply(theta, x) -> outputs`, in evaluation mode.
        train: `train(theta, x, key) -> (outputs, batch_stats)`, in training mode, with the statistics of this batch.
        name: The name of the module's class, or of the function that makes it.
    """

    init: Callable[[jax.Array], trees.Tree]
    apply: Callable[[trees.Tree, Any], Any]
    train: Callable[[trees.Tree, Any, jax.Array], tuple[Any, trees.Tree]]
    name: str


def linen_functions(module: nn.Module, batch: jax.ShapeDtypeStruct) -> Functions:
    """The pure functions of a Linen module, for inputs like `batch`."""
    training, evaluation = _mode_arguments(type(module))

    @jax.jit
    def init(key: jax.Array) -> trees.Tree:
        variables = nn.meta.unbox(module.init(key, jnp.zeros((1, *batch.shape[1:]), batch.dtype), **evaluation))
        return {name: variables[name] for name in variables if name in ("params", "batch_stats")}

    def train(theta: trees.Tree, x: jax.Array, key: jax.Array) -> tuple[Any, trees.Tree]:
        # Flax draws random streams of any other name from that of "params".
        keys = {"dropout": key, "params": jax.random.fold_in(key, 1)}
        outputs, updates = module.apply(theta, x, rngs=keys, mutable=["batch_stats"], **training)
        return outputs, updates.get("batch_stats", {})

    def apply(theta: trees.Tree, x: Any) -> Any:
        return module.apply(theta, x, **evaluation)

    return Functions(init, apply, _with_own_statistics(train), type(module).__name__)


def capture_linen(
    module: nn.Module, batch: jax.ShapeDtypeStruct, captures: Captures, nonlinearity: Callable[[jax.Array], jax.Array]
) -> Callable[[trees.Tree, jax.Array], Activations]:
    """The function (theta, x) -> activations of every group, from the outputs of submodules of a Linen module.

    Args:
        module: The module.
        batch: Shape and dtype of its inputs.
        captures: The submodules of each group.
        nonlinearity: Applied to their outputs.

    Returns:
        The function (theta, x) -> {group: (float[n, ..., units], ...)}.
    """
    _, evaluation = _mode_arguments(type(module))

    def activations(theta: trees.Tree, x: jax.Array) -> Activations:
        check_input(type(module).__name__, batch.shape[1:], x)
        _, state = module.apply(theta, x, capture_intermediates=True, mutable=["intermediates"], **evaluation)
        outputs = trees.flatten(state["intermediates"])
        return {
            group: tuple(
                nonlinearity(_output(outputs, path)) for path in ([paths] if isinstance(paths, str) else paths)
            )
            for group, paths in captures.items()
        }

    return activations


def _output(outputs: dict[str, jax.Array], path: str) -> jax.Array:
    for name in (f"{path}/__call__/0", f"{path}/0"):
        if name in outputs:
            return outputs[name]
    available = sorted(name.removesuffix("/0").removesuffix("/__call__") for name in outputs)
    raise SpecError(f"no submodule {path!r} to take activations from; the module has {', '.join(available)}.")


def nnx_functions(make: Callable[..., Any]) -> Functions:
    """The pure functions of an NNX module; `make` takes an `nnx.Rngs` and returns the module."""
    kinds, rngs = (nnx.Param, nnx.BatchStat, nnx.RngState), _rngs_argument(make)

    def split(key: Any, train: bool) -> tuple[Any, ...]:
        module = make(**{rngs: nnx.Rngs(key)}) if rngs else make(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise InputError(
                f"got a callable that makes a {type(module).__name__} from nnx.Rngs, expected an NNX module."
            )
        module.train() if train else module.eval()
        return nnx.split(module, *kinds, ...)

    graph, params, stats, random, others = nnx.eval_shape(lambda: split(0, False))
    if jax.tree.leaves(others):
        raise InputError(
            f"the module holds {', '.join(_variables(others))}, which are neither parameters nor batch statistics: "
            "expected none. Compute them in the call, or wrap the module in pure functions (from_function)."
        )
    kind = type(nnx.merge(graph, params, stats, random, others))
    training, evaluation = _mode_arguments(kind)

    def to_theta(params: Any, stats: Any) -> trees.Tree:
        parts = {"params": params, "batch_stats": stats}
        return {name: trees.nest(_variables(part)) for name, part in parts.items() if jax.tree.leaves(part)}

    def to_states(theta: trees.Tree) -> tuple[Any, Any]:
        return _fill(params, theta.get("params", {})), _fill(stats, theta.get("batch_stats", {}))

    def init(key: jax.Array) -> trees.Tree:
        return to_theta(*split(key, False)[1:3])

    def apply(theta: trees.Tree, x: Any) -> Any:
        # Random streams of the module (such as that of a recurrent cell, for its initial state) restart at every call.
        return nnx.merge(graph, *to_states(theta), jax.tree.map(_stream, random), others)(x, **evaluation)

    def train(theta: trees.Tree, x: Any, key: jax.Array) -> tuple[Any, trees.Tree]:
        training_graph, _, _, streams, none = split(key, True)
        module = nnx.merge(training_graph, *to_states(theta), streams, none)
        prepare(module)
        outputs = module(x, **training)
        return outputs, to_theta({}, nnx.state(module, nnx.BatchStat)).get("batch_stats", {})

    return Functions(init, apply, _with_own_statistics(train), own_name(make, kind.__name__))


def own_name(function: Any, otherwise: str) -> str:
    """The name of a function; another for a lambda and for objects that have none."""
    name = getattr(function, "__name__", "<")
    return otherwise if name.startswith("<") else name


def _rngs_argument(make: Callable[..., Any]) -> str:
    """The name by which a callable takes `nnx.Rngs`; empty if by position.

    Raises InputError if it needs other arguments.
    """
    made = isinstance(make, type)
    # The metaclass of NNX modules hides the arguments of their classes.
    parameters = list(inspect.signature(make.__init__ if made else make).parameters.values())[made:]
    name = "rngs" if any(each.name == "rngs" for each in parameters) else ""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]
    others = [each for each in needed if each != "rngs"]
    if len(others) > (not name):
        called = getattr(make, "__name__", type(make).__name__)
        raise InputError(
            f"got {called}, which needs {', '.join(needed)}, expected what makes an NNX module from nnx.Rngs: "
            f"lambda rngs: {called}({', '.join(f'{each}=...' for each in others)}, rngs=rngs)."
        )
    return name


def _with_own_statistics(train: Callable[..., tuple[Any, trees.Tree]]) -> Callable[..., tuple[Any, trees.Tree]]:
    """`train` with the statistics of the batch in place of running averages.

    Flax updates a running average by m * old + (1 - m) * batch, with m unknown here. The updates of three values
    determine m and the statistic of the batch. All that does not depend on these values is computed once. Statistics
    are in float32 at least here, since bfloat16 would round m too much.
    """

    def own(theta: trees.Tree, x: Any, key: jax.Array) -> tuple[Any, trees.Tree]:
        theta = trees.with_batch_stats(theta, trees.widened(trees.batch_stats(theta)))
        stats = trees.flatten(trees.batch_stats(theta))

        def with_stats(new: Leaves) -> trees.Tree:
            return trees.map_with_name(lambda name, leaf: new.get(name, leaf), trees.batch_stats(theta))

        # A new function at every call: JAX would remember the program of an old one, with dropout or without.
        def run(stats: Leaves, theta: trees.Tree, *inputs: Any) -> tuple[Any, Leaves]:
            outputs, updated = train(trees.with_batch_stats(theta, with_stats(stats)), *inputs)
            return outputs, trees.flatten(updated)

        program: Any
        program, result = jax.make_jaxpr(run, return_shape=True)(stats, theta, x, key)
        # A running average is not read in training mode: neither the outputs nor other statistics depend on it.
        counts = [len(jax.tree.leaves(part)) for part in result]
        is_read = dce_jaxpr(getattr(program, "jaxpr", program), [True] * counts[0] + [False] * counts[1])[1]
        unread = [name for name, read in zip(sorted(stats), is_read, strict=False) if not read]
        unread = [name for name in unread if jnp.issubdtype(stats[name].dtype, jnp.floating)]

        def update(old: Leaves) -> tuple[Leaves, Any]:
            leaves = jaxpr_as_fun(program)(*jax.tree.leaves(({**stats, **old}, theta, x, key)))
            outputs, updated = jax.tree.unflatten(jax.tree.structure(result), leaves)
            return {name: updated[name] for name in old}, outputs

        if not unread:
            return update({})[1], trees.batch_stats(theta)
        starts = {name: _starts(i, stats[name]) for i, name in enumerate(unread)}
        updated, outputs = jax.vmap(update, out_axes=(0, None))(starts)
        return outputs, with_stats({name: _of_batch(stats[name], starts[name], updated[name]) for name in unread})

    return own


def _starts(number: int, leaf: jax.Array) -> jax.Array:
    """Values of a statistic before an update, (3, ...): zero, one far above, and one far below of each number."""
    above = 2.0 ** (jnp.finfo(leaf.dtype).maxexp // 2)
    return jnp.stack([jnp.full_like(leaf, value) for value in (0, above, -above / (2 + number))])


def _of_batch(stored: jax.Array, starts: jax.Array, updated: jax.Array) -> jax.Array:
    """The statistic of the batch if the updates of these starts are a running average, or else the stored value."""
    m, again = (updated[1:] - updated[:1]) / starts[1:]
    # With m = 1, a statistic is frozen.
    is_average = ((jnp.abs(m - again) <= 16 * jnp.finfo(stored.dtype).eps) & (m >= 0) & (m < 1 - 1e-6)).all()
    return jnp.where(is_average, updated[0] / jnp.where(is_average, 1 - m, 1), stored).astype(stored.dtype)


def _variables(state: Any) -> dict[str, Any]:
    """The variables of an NNX state by name, without the `value` that their paths end in."""
    return {name.removesuffix("/value"): leaf for name, leaf in trees.flatten(state).items()}


def _fill(state: Any, tree: trees.Tree) -> Any:
    """An NNX state like `state` with the leaves of `tree`."""
    leaves = trees.flatten(tree)
    return jax.tree.unflatten(jax.tree.structure(state), [leaves[name] for name in _variables(state)])


def _stream(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.random.key(0) if trees.is_key(leaf) and not leaf.shape else jnp.zeros(leaf.shape, leaf.dtype)


def _mode_arguments(kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that set a module of this class to training mode, and to evaluation mode."""
    accepted = inspect.signature(kind.__call__).parameters
    modes = ("train", "training", "is_training", "deterministic", "use_running_average")
    for name, parameter in list(accepted.items())[2:]:
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variadic and name not in modes:
            raise InputError(
                f"{kind.__name__} needs {name!r} to be called: mcjax gives the images and, where the module "
                f"takes them, {', '.join(modes)}. Give {name!r} a default, or wrap the module."
            )
    training: dict[str, Any] = {name: True for name in ("train", "training", "is_training") if name in accepted}
    training |= {name: False for name in ("deterministic", "use_running_average") if name in accepted}
    return training, {name: not value for name, value in training.items()}


__all__ = ["Captures", "Functions", "capture_linen", "linen_functions", "nnx_functions"]
