"""What a model is to mcjax: a handful of pure functions and a spec. Making one from a Flax module."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.errors import InputError
from mcjax.models.convolution import Convolutions
from mcjax.symmetry import PermutationSpec, SpecError

Activations = dict[str, tuple[jax.Array, ...]]


class Model(NamedTuple):
    """The pure functions of one architecture, and its spec. Hashable, so static under jit.

    init(key) -> theta
    apply(theta, x) -> outputs, by the statistics that theta holds; x is float32 (n, *input_shape)
    apply_train(theta, x, key) -> (outputs, batch_stats): by batch; the batch's own mean and variance
    activations(theta, x) -> {group: (float[n, ..., units], ...)}, after the nonlinearity; a residual
        trunk gives one array a block
    input_shape, num_classes: of one image, and how many logits
    convolutions: what it convolves with, which decides how several models and whole epochs are run
    """

    init: Callable[[jax.Array], trees.Tree]
    apply: Callable[[trees.Tree, jax.Array], jax.Array]
    apply_train: Callable[[trees.Tree, jax.Array, jax.Array], tuple[jax.Array, trees.Tree]]
    activations: Callable[[trees.Tree, jax.Array], Activations]
    spec: PermutationSpec
    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    convolutions: Convolutions = "none"


def from_own(
    module: nn.Module,
    spec: PermutationSpec,
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    convolutions: Convolutions,
) -> Model:
    """A Model of one of mcjax's modules: called as `module(x, train)`, activations sown by group.

    Raises InputError if the module cannot take images of this shape.
    """

    def init(key: jax.Array) -> trees.Tree:
        variables = module.init(key, jnp.zeros((1, *input_shape)), train=False)
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

    model = Model(init, apply, apply_train, activations, spec, name, input_shape, num_classes, convolutions)
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


Captures = Mapping[str, str | Sequence[str]]


def from_flax(
    module: nn.Module,
    example_input: Any,
    *,
    spec: PermutationSpec,
    activations: Captures | Callable[[trees.Tree, jax.Array], Activations],
    nonlinearity: Callable[[jax.Array], jax.Array] | None = None,
    name: str | None = None,
) -> Model:
    """A Model of any Linen module, with the spec of its permutation symmetry.

    `example_input` is a batch, or its `jax.ShapeDtypeStruct`. `activations` maps every group to the
    submodules (`"Dense_0"`, `"Block_0/Conv_1"`) whose outputs are its units, each passed through
    `nonlinearity` (default: as they are); or it is the function (theta, x) -> {group: (array, ...)}
    itself. A module that takes `train`, `training` or `is_training`, or `deterministic` or
    `use_running_average`, is called with it. Raises SpecError if spec, activations and module do not
    fit, InputError if the module needs other arguments.

        model = from_flax(module, x, spec=spec, activations={"dense_0": "Dense_0"}, nonlinearity=nn.relu)
    """
    shape, name = tuple(jnp.shape(example_input)), name or type(module).__name__
    example = jax.ShapeDtypeStruct(shape, jnp.float32)
    training, testing = _mode_arguments(module)
    nonlinear = nonlinearity or (lambda x: x)

    def init(key: jax.Array) -> trees.Tree:
        variables = module.init(key, jnp.zeros((1, *shape[1:])), **testing)
        return {name: variables[name] for name in variables if name in ("params", "batch_stats")}

    def apply(theta: trees.Tree, x: jax.Array) -> jax.Array:
        check_input(name, shape[1:], x)
        outputs: Any = module.apply(theta, x, **testing)
        return outputs

    def apply_train(theta: trees.Tree, x: jax.Array, key: jax.Array) -> tuple[jax.Array, trees.Tree]:
        check_input(name, shape[1:], x)

        def call(stats: trees.Tree) -> tuple[jax.Array, trees.Tree]:
            variables = trees.with_batch_stats(theta, stats)
            outputs, updates = module.apply(variables, x, rngs={"dropout": key}, mutable=["batch_stats"], **training)
            return outputs, updates.get("batch_stats", {})

        # Flax mixes old and new, m * old + (1 - m) * batch: from old = 0 and old = 1 follow m and
        # the batch's own statistics. The forward pass is the same in both, and XLA keeps one.
        stats = trees.batch_stats(theta)
        outputs, from_zero = call(jax.tree.map(jnp.zeros_like, stats))
        _, from_one = call(jax.tree.map(jnp.ones_like, stats))
        return outputs, jax.tree.map(lambda a, b: a / (1 - (b - a)), from_zero, from_one)

    def captured(theta: trees.Tree, x: jax.Array) -> Activations:
        check_input(name, shape[1:], x)
        _, state = module.apply(theta, x, capture_intermediates=True, mutable=["intermediates"], **testing)
        outputs = trees.flatten(state["intermediates"])
        assert not callable(activations)
        return {
            group: tuple(nonlinear(_captured(outputs, path)) for path in ([paths] if isinstance(paths, str) else paths))
            for group, paths in activations.items()
        }

    take = activations if callable(activations) else captured
    theta = jax.eval_shape(init, jax.random.key(0))
    spec.validate(theta)
    given = jax.eval_shape(take, theta, example)
    if given.keys() != set(spec.groups):
        raise SpecError(
            f"activations are of groups {sorted(given)}, expected those of the spec: {sorted(spec.groups)}."
        )
    outputs = jax.eval_shape(apply, theta, example)
    program = str(jax.make_jaxpr(apply)(theta, example))
    convolutions: Convolutions = "plain" if "conv_general_dilated" in program else "none"
    return Model(init, apply, apply_train, take, spec, name, shape[1:], outputs.shape[-1], convolutions)


def _mode_arguments(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    accepted = inspect.signature(type(module).__call__).parameters
    known = ("train", "training", "is_training", "deterministic", "use_running_average")
    for name, parameter in list(accepted.items())[2:]:
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and name not in known:
            raise InputError(
                f"{type(module).__name__} needs {name!r} to be called: mcjax gives the images and, where the module "
                f"takes them, {', '.join(known)}. Give {name!r} a default, or wrap the module."
            )
    training: dict[str, Any] = {name: True for name in ("train", "training", "is_training") if name in accepted}
    training |= {name: False for name in ("deterministic", "use_running_average") if name in accepted}
    return training, {name: not value for name, value in training.items()}


def _captured(outputs: dict[str, jax.Array], path: str) -> jax.Array:
    for name in (f"{path}/__call__/0", f"{path}/0"):
        if name in outputs:
            return outputs[name]
    there = sorted(name.removesuffix("/0").removesuffix("/__call__") for name in outputs)
    raise SpecError(f"no submodule {path!r} to take activations from; the module has {', '.join(there)}.")


def has_leading_axis(theta: trees.Tree, model: Model) -> bool:
    """Whether `theta` holds many networks along a leading axis (True) or one (False).

    Raises SpecError, leaf by leaf, if it holds neither: another architecture.
    """
    expected = trees.shapes(jax.eval_shape(model.init, jax.random.key(0)))
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
        hint = "\nThese are parameters alone: give {'params': ...}, with batch_stats if the model has them."
    raise SpecError(f"these variables are not those of {model.name}:\n  " + "\n  ".join(shown) + hint)


def check_ends(model: Model, theta_1: trees.Tree, theta_2: trees.Tree) -> bool:
    """Whether both endpoints have a leading pair axis. Raises SpecError if they do not go together."""
    pairs = has_leading_axis(theta_1, model)
    if has_leading_axis(theta_2, model) != pairs or trees.shapes(theta_1) != trees.shapes(theta_2):
        raise InputError("theta_1 and theta_2 hold different numbers of networks: expected as many of each.")
    return pairs
