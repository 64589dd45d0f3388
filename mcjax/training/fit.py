"""Fits: gradient descent on `task.loss(embed(variables))`, as two pure functions in the manner of optax."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import optax

from mcjax import trees
from mcjax.training.loss import Batch, Loss, Outcome, outcome

ComputeDtype = Literal["float32", "bfloat16"]


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


class FitState(NamedTuple):
    """The state of a fit.

    Attributes:
        variables: What is trained: a network, control points, matrices.
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
        optimizer: Any optimiser of optax.
        sample_t: `sample_t(key, points) -> ts`, points of the path, (points,). None: there is no path, t is None.
        points: Number of t per step; the gradient is the mean over them.
        penalty: `penalty(variables, fixed) -> scalar`, a term of the objective. None: none.
        retract: `retract(variables, updates, fixed) -> variables`, the step along the optimiser's updates, onto a
            constraint. None: addition.
        weight_decay: Factor of ||params(theta)||^2 / 2 in the objective. The term contains all parameters, including
            biases and norms, as in the papers.
        compute_dtype: Dtype of theta in the forward and backward pass. The loss, the gradient and the optimiser are
            float32 in any case.
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

    def trained(self, variables: Any) -> Any:
        """The part of the variables that the optimiser changes: the parameters of a network, or all of them."""
        return variables if self.statistics_momentum is None else trees.params(variables)

    def start(self, variables: Any, fixed: Any = ()) -> FitState:
        """The state of a fit that starts from these variables."""
        return FitState(variables, self.optimizer.init(self.trained(variables)), fixed)

    def gradient(self, loss: Loss, state: FitState, batch: Batch, t: Any, key: jax.Array) -> tuple[Any, Outcome]:
        """The gradient of the objective at t, and the outcome of the loss there."""

        def objective(trained: Any) -> tuple[jax.Array, Outcome]:
            network = self.statistics_momentum is not None
            variables = trees.with_params(state.variables, trained) if network else trained
            theta = self.embed(variables, state.fixed, t)
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

        return jax.grad(objective, has_aux=True)(self.trained(state.variables))

    def step(self, loss: Loss, state: FitState, batch: Batch, key: jax.Array) -> tuple[FitState, dict[str, jax.Array]]:
        """One optimiser step; the metrics are means over the points t."""
        # The point of the path, and the loss and its gradient there.
        if self.sample_t is None:
            gradient, found = self.gradient(loss, state, batch, None, key)
            metrics = found.metrics
        else:
            t_key, loss_key = jax.random.split(key)
            ts = self.sample_t(t_key, self.points)
            if self.points == 1:
                gradient, found = self.gradient(loss, state, batch, ts[0], loss_key)
            else:
                at = (ts, jax.random.split(loss_key, self.points))
                each = jax.lax.map(lambda at: self.gradient(loss, state, batch, *at), at)
                gradient, found = jax.tree.map(lambda values: values.mean(0), each)
            metrics = {**found.metrics, "t": ts.mean()}
        # The optimiser's step, along a constraint if there is one.
        trained = self.trained(state.variables)
        updates, optimizer_state = self.optimizer.update(gradient, state.optimizer, trained)
        if self.retract is None:
            trained = optax.apply_updates(trained, updates)
        else:
            trained = self.retract(trained, updates, state.fixed)
        variables = trained
        if self.statistics_momentum is not None:
            variables = trees.with_params(state.variables, trained)
            stats = _running(self.statistics_momentum, state.variables, found.batch_stats)
            variables = trees.with_batch_stats(variables, stats)
        return FitState(variables, optimizer_state, state.fixed), metrics


def _running(share: float, theta: trees.Tree, stats: trees.Tree) -> trees.Tree:
    """The running batch statistics: an exponential moving average over batches, `share` of it the old value."""
    old = trees.batch_stats(theta) if jax.tree.leaves(stats) else {}
    return jax.tree.map(lambda old, new: share * old + (1 - share) * new.astype(old.dtype), old, stats)


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


__all__ = ["ComputeDtype", "Descent", "Fit", "FitState", "fit_of", "parts_of"]
