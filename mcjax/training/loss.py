"""Losses of any kind: what they return, in one form, and the check that they can be descended."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal as Constant

from mcjax import trees
from mcjax.errors import InputError
from mcjax.trees import at_least_float32

Batch = Any
"""A pytree of arrays with a common leading axis, the examples."""
Loss = Callable[[trees.Tree, Batch, jax.Array], Any]
"""`loss(theta, batch, key) -> value`, `(value, metrics)` or `(value, metrics, batch_stats)`."""
Metric = Callable[[trees.Tree, Batch], jax.Array]
"""`metric(theta, batch) -> scalar`, a mean over the examples of the batch."""


class Outcome(NamedTuple):
    """The result of a loss, in one form.

    Attributes:
        value: The loss, a scalar.
        metrics: The metrics by name, scalars, with the loss among them.
        batch_stats: The batch statistics of the batch; empty without any.
    """

    value: jax.Array
    metrics: dict[str, jax.Array]
    batch_stats: trees.Tree


def outcome(loss: Loss, theta: trees.Tree, batch: Batch, key: jax.Array) -> Outcome:
    """The outcome of a loss that returns a value, `(value, metrics)` or `(value, metrics, batch_stats)`."""
    found = loss(theta, batch, key)
    parts = found if isinstance(found, tuple | list) else (found,)
    if not 1 <= len(parts) <= 3:
        raise InputError(f"got {len(parts)} values from the loss, expected (value, metrics, batch_stats) at most.")
    value, metrics, stats = (*parts, {}, {})[:3]
    named = {**named_metrics("metrics of the loss", metrics), "loss": value}
    # A loss in bfloat16 is averaged and reported in float32.
    value, named = jax.tree.map(at_least_float32, (value, named))
    return Outcome(value, named, stats if jax.tree.leaves(stats) else {})


def named_metrics(what: str, metrics: Any) -> Mapping[str, jax.Array]:
    """The metrics. Raises InputError unless they are a dict."""
    if not isinstance(metrics, Mapping):
        raise InputError(f"got {type(metrics).__name__} for the {what}, expected a dict of scalars by name.")
    return metrics


def check_loss(loss: Loss, theta: trees.Tree, batch: Batch) -> None:
    """Raise InputError unless the loss is a scalar that depends differentiably on the parameters of theta."""
    trained, stats = trees.trained(theta), trees.shapes(trees.batch_stats(theta))
    check_parameters(trained)

    def value(trained: trees.Tree, batch: Batch, key: jax.Array) -> jax.Array:
        found = outcome(loss, trees.with_trained(theta, trained), batch, key)
        if found.value.shape or not jnp.issubdtype(found.value.dtype, jnp.floating):
            raise InputError(
                f"got a loss of {found.value.dtype} {found.value.shape}, expected a floating-point scalar: the mean "
                "over the examples of the batch, as in losses.mean()."
            )
        check_scalars("metrics of the loss", found.metrics)
        if taken := {"t", "bad_step", "bad_t"} & found.metrics.keys():
            raise InputError(f"got metrics named {', '.join(sorted(taken))}, which fits report: expected other names.")
        if jax.tree.leaves(found.batch_stats) and trees.shapes(found.batch_stats) != stats:
            raise InputError(
                f"got batch statistics {trees.shapes(found.batch_stats)} from the loss, expected those of theta: "
                f"{stats}."
            )
        return found.value

    program = jax.make_jaxpr(jax.grad(value))(trained, batch, jax.random.key(0))
    # Go back from the gradient through the program: does it depend on anything?
    reached = {var for var in program.jaxpr.outvars if not isinstance(var, Constant)}
    for equation in reversed(program.jaxpr.eqns):
        if reached.intersection(equation.outvars):
            reached.update(var for var in equation.invars if not isinstance(var, Constant))
    if not reached.intersection((*program.jaxpr.invars, *program.jaxpr.constvars)):
        raise InputError(
            "got a loss whose gradient depends on neither theta nor the batch, expected a differentiable one: the "
            "gradient of an accuracy, a rounding or a stop_gradient is zero everywhere."
        )


def check_parameters(trained: trees.Tree) -> None:
    """Raise InputError unless there is something to train, a tree as from `trees.trained`, and it is real."""
    leaves = trees.flatten(trained)
    if not leaves:
        raise InputError(
            "got no floating-point parameters to train, expected at least one array of them. Integers, masks and keys "
            "keep their values: cast what is to be trained to float32."
        )
    if wrong := [name for name, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jnp.complexfloating)]:
        raise InputError(
            f"got complex parameters {', '.join(wrong)}, expected real ones: keep the real and the imaginary part of "
            "each as two leaves."
        )


def check_scalars(what: str, found: Mapping[str, Any]) -> None:
    """Raise InputError unless all metrics are scalars."""
    shapes = {name: jax.tree.map(jnp.shape, leaf) for name, leaf in found.items()}
    if any(shape != () for shape in shapes.values()):
        raise InputError(f"got {what} {shapes}, expected a dict of scalars: the means over the examples of the batch.")


__all__ = [
    "Batch",
    "Loss",
    "Metric",
    "Outcome",
    "at_least_float32",
    "check_loss",
    "check_parameters",
    "check_scalars",
    "named_metrics",
    "outcome",
]
