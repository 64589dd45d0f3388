"""Fits: gradient descent on `task.loss(embed(variables))`, as two pure functions in the manner of optax."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import optax

from mcjax import trees
from mcjax.errors import InputError, check_fields
from mcjax.shown import short_repr
from mcjax.training.loss import Batch, Loss, Outcome, check_parameters, outcome

ComputeDtype = Literal["float32", "bfloat16"]


@short_repr
class Fit(NamedTuple):
    """A fit, in the manner of optax. A pytree whose functions are static.

    Every fit of mcjax is one: endpoints, curves, the permutations of PAM and of straight-through matching, beads.

    Attributes:
        init: The function that makes the initial `FitState`; its arguments are those of the kind of fit.
        step: `step(state, batch, key) -> (state, metrics)`, one optimiser step on the loss of a batch. The metrics are
            "loss" and those of the task, float32 scalars without the L2 and other terms of the fit, and, for a fit at
            random points of a path, "t". Pure: works under jit, vmap and scan.
    """

    init: Callable[..., Any]
    step: Callable[[Any, Batch, jax.Array], tuple[Any, dict[str, jax.Array]]]


@short_repr
class FitState(NamedTuple):
    """The state of a fit.

    Attributes:
        variables: What is trained: a network, control points, matrices. Leaves that are not floating-point, such as
            counters and keys, keep their values, and the optimiser has no state for them.
        optimizer: The state of the optimiser.
        fixed: What the fit needs and does not change: the endpoints of a curve, the neighbours of a bead.
    """

    variables: trees.Tree
    optimizer: optax.OptState
    fixed: Any = ()


@jax.tree_util.register_static
@dataclass(frozen=True)
class Descent:
    """The functions and settings of a fit. Hashable: fits with equal ones share their programs.

    Attributes:
        embed: `embed(variables, fixed, t) -> theta`, the network whose loss is descended.
        optimizer: Any optimiser of optax; those that take the loss's value, or search along a line, are given them.
        sample_t: `sample_t(key, points) -> ts`, points of the path, (points,). None: there is no path, t is None.
        points: Number of t per step; the gradient is the mean over them.
        penalty: `penalty(variables, fixed) -> scalar`, a term of the objective. None: none.
        retract: `retract(variables, updates, fixed) -> variables`, the step along the optimiser's updates, onto a
            constraint. None: addition.
        weight_decay: Factor of ||params(theta)||^2 / 2 in the objective. The term contains all parameters, including
            biases and norms, as in the papers.
        compute_dtype: Dtype of theta in the forward and backward pass; "float32" leaves theta in its own. Variables,
            gradient and optimiser keep their dtype, and the loss is at least float32.
        statistics_momentum: Weight of the old value in the running batch statistics at each step, for variables that
            are a network. None: the variables are no network, and batch statistics are not kept.
    """

    embed: Callable[[Any, Any, Any], trees.Tree]
    optimizer: optax.GradientTransformation
    sample_t: Callable[[jax.Array, int], jax.Array] | None = None
    points: int = 1
    penalty: Callable[[Any, Any], jax.Array] | None = None
    retract: Callable[[Any, Any, Any], Any] | None = None
    weight_decay: float = 0.0
    compute_dtype: ComputeDtype = "float32"
    statistics_momentum: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, optax.GradientTransformation):
            raise not_an_optimizer(self.optimizer, "")
        check_fields(self)
        if not self.weight_decay >= 0 or not 0 <= (self.statistics_momentum or 0) < 1:
            raise InputError(
                f"got weight_decay={self.weight_decay} and statistics_momentum={self.statistics_momentum}, expected "
                "at least 0, and in [0, 1)."
            )

    def trained(self, variables: Any) -> Any:
        """The floating-point leaves of the variables, or of a network's parameters, which the optimiser changes.

        None, which is no leaf, is in place of all others (`trees.floating`).
        """
        return trees.floating(variables) if self.statistics_momentum is None else trees.trained(variables)

    def with_trained(self, variables: Any, trained: Any) -> Any:
        """The variables with other leaves in place of those that the optimiser changes."""
        put_back = trees.with_floating if self.statistics_momentum is None else trees.with_trained
        return put_back(variables, trained)

    def start(self, variables: Any, fixed: Any = ()) -> FitState:
        """The state of a fit from these variables. Raises InputError unless there are real numbers to train in them."""
        trained = self.trained(variables)
        check_parameters(trained)
        return FitState(variables, self.optimizer.init(trained), fixed)

    def objective(
        self, trained: Any, loss: Loss, state: FitState, batch: Batch, t: Any, key: jax.Array
    ) -> tuple[jax.Array, Outcome]:
        """The objective at t as a function of what is trained, and the outcome of the loss there."""
        theta = self.embed(self.with_trained(state.variables, trained), state.fixed, t)
        params, computed = trees.params(theta), theta
        if self.compute_dtype != "float32":
            computed = trees.with_params(theta, trees.cast(params, self.compute_dtype))
        found = outcome(loss, computed, batch, key)
        value = found.value
        if self.weight_decay:
            value = value + self.weight_decay / 2 * trees.dot(params, params)
        if self.penalty is not None:
            value = value + self.penalty(trained, state.fixed)
        return value, found

    def gradient(
        self, loss: Loss, state: FitState, batch: Batch, t: Any, key: jax.Array
    ) -> tuple[tuple[jax.Array, Outcome], Any]:
        """The objective at t and the outcome of the loss there, and the gradient."""
        differentiated = jax.value_and_grad(self.objective, has_aux=True)
        return differentiated(self.trained(state.variables), loss, state, batch, t, key)

    def step(self, loss: Loss, state: FitState, batch: Batch, key: jax.Array) -> tuple[FitState, dict[str, jax.Array]]:
        """One optimiser step; the metrics are means over the points t."""
        # The point of the path, and the loss and its gradient there.
        at: tuple[Any, jax.Array] = (None, key)
        more = {}
        if self.sample_t is not None:
            t_key, loss_key = jax.random.split(key)
            ts = self.sample_t(t_key, self.points)
            at = (ts[0], loss_key) if self.points == 1 else (ts, jax.random.split(loss_key, self.points))
            more = {"t": ts.mean()}

        def mean_over_points(fn: Callable[..., Any]) -> Any:
            if self.points == 1:
                return fn(*at)
            return jax.tree.map(lambda values: values.mean(0), jax.lax.map(lambda each: fn(*each), at))

        (value, found), gradient = mean_over_points(partial(self.gradient, loss, state, batch))
        # The optimiser's step, along a constraint if there is one.
        trained = self.trained(state.variables)

        def value_fn(trained: Any) -> jax.Array:
            return mean_over_points(partial(self.objective, trained, loss, state, batch))[0]

        updates, optimizer_state = optax.with_extra_args_support(self.optimizer).update(
            gradient, state.optimizer, trained, value=value, grad=gradient, value_fn=value_fn
        )
        if self.retract is None:
            trained = optax.apply_updates(trained, updates)
        else:
            trained = self.retract(trained, updates, state.fixed)
        variables = self.with_trained(state.variables, trained)
        if self.statistics_momentum is not None:
            stats = _running(self.statistics_momentum, state.variables, found.batch_stats)
            variables = trees.with_batch_stats(variables, stats)
        return FitState(variables, optimizer_state, state.fixed), {**found.metrics, **more}


def _running(share: float, theta: trees.Tree, stats: trees.Tree) -> trees.Tree:
    """The running batch statistics: an exponential moving average over batches, `share` of it the old value.

    A counter or a key is no average: it gets the value that the loss returns.
    """
    if not jax.tree.leaves(stats):
        return {}
    old = trees.batch_stats(theta)
    new = trees.like(old, stats)
    averaged = trees.combine(lambda old, new: share * old + (1 - share) * new, old, new)
    return jax.tree.map(lambda each, new: each if trees.is_floating(each) else new.astype(each.dtype), averaged, new)


def not_an_optimizer(got: Any, otherwise: str) -> InputError:
    """The error for what is no optimiser of optax, with the call that makes one, and what else could be given."""
    name = got if isinstance(got, str) else getattr(got, "__name__", "")
    remedy = f"optax.{name}(1e-3)" if hasattr(optax, name or "-") else "optax.adam(1e-3)"
    if hasattr(got, "gradient_transformation"):
        remedy = "its .gradient_transformation()"
    return InputError(f"got optimizer={got!r}, expected an optimiser of optax: {remedy}{otherwise}.")


def uniform_t(key: jax.Array, points: int) -> jax.Array:
    """t drawn uniformly from [0, 1], float32 (points,)."""
    return jax.random.uniform(key, (points,))


@dataclass(frozen=True)
class Proximal:
    """The proximal term ||variables - anchor||^2 / (2 nu), with the anchor in what the fit does not change."""

    nu: float

    def __call__(self, variables: Any, fixed: Any) -> jax.Array:
        change = trees.subtract(variables, trees.floating(fixed.anchor))
        return trees.dot(change, change) / (2 * self.nu)


def fit_of(descent: Descent, loss: Loss, init: Callable[..., FitState]) -> Fit:
    """The fit of a descent on a loss, which is a pytree, as that of a task.

    Args:
        descent: The functions and settings.
        loss: The loss of a task.
        init: `init(descent, ...) -> state`, which gets the descent as its first argument.

    Returns:
        The fit.
    """
    return Fit(jax.tree_util.Partial(init, descent), jax.tree_util.Partial(Descent.step, descent, loss))


def parts_of(fit: Fit) -> tuple[Descent, Loss]:
    """The descent and the loss of a fit made by `fit_of`."""
    descent, loss = fit.step.args  # type: ignore[attr-defined]
    return descent, loss


__all__ = [
    "ComputeDtype",
    "Descent",
    "Fit",
    "FitState",
    "Proximal",
    "fit_of",
    "not_an_optimizer",
    "parts_of",
    "uniform_t",
]
