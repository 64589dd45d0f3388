"""Training of the endpoints of paths: several seeds in one program."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from mcjax import trees
from mcjax.errors import InputError
from mcjax.models.base import LeadingAxis
from mcjax.runs.recorder import History, Recorder, checked_recorder
from mcjax.runtime.compiling import jit
from mcjax.shown import short_repr
from mcjax.training.config import TrainConfig, check_config, make_optimizer
from mcjax.training.criterion import Criterion, EarlyStopping
from mcjax.training.fit import ComputeDtype, Descent, Fit, FitState, fit_of
from mcjax.training.loop import EpochPlan, epoch_plan, run_epochs
from mcjax.training.task import Task, check_task


@short_repr
class Endpoints(NamedTuple):
    """Trained networks.

    Attributes:
        theta: Variables, with a leading axis of keys if there were several.
        history: Training metrics by name, "loss" among them, float32 ([keys,] epochs).
        criterion: The criterion of every network at its end, float32 ([keys]); above the target if the epochs were not
            enough. None without a target.
    """

    theta: trees.Tree
    history: History
    criterion: np.ndarray | None = None


def identity(variables: trees.Tree, fixed: Any, t: Any) -> trees.Tree:
    """The network itself: the embedding of endpoints."""
    return variables


def endpoint_fit(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    weight_decay: float = 0.0,
    statistics_momentum: float = 0.9,
    compute_dtype: ComputeDtype = "float32",
) -> Fit:
    """The training of a network as a `Fit`, for a loop of your own; `train_endpoints` has one.

    Args:
        task: The task.
        optimizer: Any optimiser of optax.
        weight_decay: Factor of ||params||^2 / 2 in the objective.
        statistics_momentum: Weight of the old value in the running batch statistics at each step.
        compute_dtype: Dtype of the forward and backward pass.

    Returns:
        The fit. `init(theta)` makes its state, whose `variables` are the network.

    Raises:
        InputError: If the task or the optimiser is none.

    Example::

        fit = endpoint_fit(task, optax.adam(1e-3))
        state = fit.init(model.init(key))
        state, metrics = jax.jit(fit.step)(state, batch, key)
    """
    descent = Descent(
        identity,
        optimizer,
        weight_decay=weight_decay,
        statistics_momentum=statistics_momentum,
        compute_dtype=compute_dtype,
    )
    return fit_of(descent, check_task(task, arrays=()).loss, Descent.start)


def configured_fit(task: Task, config: TrainConfig, plan: EpochPlan) -> Fit:
    """The training of a network by a config."""
    return endpoint_fit(
        task,
        make_optimizer(config.optimizer, config.epochs, plan.steps),
        weight_decay=config.weight_decay,
        statistics_momentum=config.statistics_momentum,
        compute_dtype=config.compute_dtype,
    )


def train_endpoints(
    keys: jax.Array,
    task: Task,
    config: TrainConfig | None = None,
    *,
    recorder: Recorder | None = None,
    mesh: Mesh | None = None,
    target: Any = None,
    criterion: Criterion | None = None,
) -> Endpoints:
    """Train one network per key, all in one program, with one compiled call per epoch.

    The network of a key does not depend on the other keys or on the number of devices, up to rounding.

    Args:
        keys: Typed keys (n,), or one for a single network, without a leading axis.
        task: The task, with a model or `init`.
        config: Settings. None: `TrainConfig()`.
        recorder: `Recorder()` for a progress line, and with a run folder an interrupted call resumes. None: silent.
        mesh: A mesh from `make_mesh`: networks are distributed along `pair`, batches along `data`.
        target: One number, or one per key. A network stops after the epoch in which its criterion is at most the
            target, or after the last epoch. None: all epochs.
        criterion: The metric that is compared with the target. None: the loss on all training examples.

    Returns:
        The trained networks.

    Raises:
        InputError: If the task has no `init`, the mesh does not divide a batch, or a target is not positive.
        RunError: If a loss becomes infinite or NaN.

    Example::

        endpoints = train_endpoints(jax.random.split(jax.random.key(0), 2), task)
        theta_1, theta_2 = (jax.tree.map(lambda leaf: leaf[i], endpoints.theta) for i in range(2))
    """
    config = check_config(config, TrainConfig)
    init = check_trainable(task)
    axis = LeadingAxis(trees.check_keys(keys, 1).ndim > 0)
    keys, task = keys.reshape(-1), jax.device_put(task)
    plan = epoch_plan(task, config.batch_size, config.steps_per_epoch)
    fit = configured_fit(task, config, plan)
    init_keys, epoch_keys = jax.vmap(partial(jax.random.split, num=2), out_axes=1)(keys)
    stopping = None if target is None else _early_stopping(task, criterion or Criterion(), target, len(keys))
    states = fresh_states(fit, init, init_keys)
    settings = {"config": config, "criterion": criterion}
    recorder = checked_recorder(recorder).of(settings, keys=keys, data=task.train, target=target)
    states, history = run_epochs(
        fit, task, plan, states, epoch_keys, config.epochs, recorder, mesh=mesh, stopping=stopping
    )
    return axis.remove(Endpoints(states.variables, history, None if stopping is None else stopping.values))


def check_trainable(task: Task) -> Callable[[jax.Array], trees.Tree]:
    """The `init` of a task. Raises InputError if it has none."""
    init = check_task(task, arrays=()).init
    if init is None:
        raise InputError(
            f"{task.name} has no init, expected Task(..., init=init) with init(key) -> theta, or a model: networks are "
            "trained from it."
        )
    return init


@jit(static_argnames=("init",))
def fresh_states(fit: Fit, init: Callable[[jax.Array], trees.Tree], keys: jax.Array) -> FitState:
    """A fresh network and optimiser for every key, in one program."""
    return jax.vmap(lambda key: fit.init(init(key)))(keys)


def _early_stopping(task: Task, criterion: Criterion, target: Any, count: int) -> EarlyStopping:
    if not isinstance(criterion, Criterion):
        raise InputError(f"got {criterion!r} for criterion, expected a Criterion: Criterion('error', 'test').")
    criterion.check(task)
    values = np.asarray(target, np.float32)
    if values.shape not in ((), (count,)) or not (np.isfinite(values) & (values > 0)).all():
        raise InputError(
            f"got target={np.array2string(values, threshold=8)}, expected a positive number, or one for each of "
            f"the {count} keys."
        )
    return EarlyStopping(criterion, task, np.broadcast_to(values, (count,)))
