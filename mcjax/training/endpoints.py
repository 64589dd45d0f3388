"""Training the networks that paths join: many seeds in one program."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from mcjax import trees
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.runs.recorder import History, Recorder
from mcjax.runtime.convolution import Convolutions
from mcjax.training.config import TrainConfig, optimizer
from mcjax.training.criterion import Criterion
from mcjax.training.early_stopping import Watch
from mcjax.training.loop import check_keys, initial_states, run_epochs, steps_per_epoch
from mcjax.training.objective import Measured, check_fit, objective


class Endpoints(NamedTuple):
    """Trained networks: `theta` with a leading axis, one network a key; history float32 (keys, epochs).

    criterion: with a target, what was measured of each network when it stopped, float32 (keys,); above the
    target if the epochs were not enough.
    """

    theta: trees.Tree
    history: History
    criterion: np.ndarray | None = None


class EndpointState(NamedTuple):
    """What training carries: the variables and the optimiser's state."""

    theta: trees.Tree
    optimizer: optax.OptState


@dataclass(frozen=True)
class EndpointStep:
    """One step on the objective; running batch statistics follow.

    A subclass may add a `penalty` to the objective, and `project` the parameters after each step.
    """

    model: Model
    config: TrainConfig
    steps: int

    @property
    def convolutions(self) -> Convolutions:
        """What the model convolves with."""
        return self.model.convolutions

    def init(self, key: jax.Array) -> EndpointState:
        """A fresh network and optimiser."""
        return self.start(self.model.init(key))

    def start(self, theta: trees.Tree) -> EndpointState:
        """A network as it is, and a fresh optimiser."""
        return EndpointState(theta, optimizer(self.config, self.steps).init(trees.params(theta)))

    def penalty(self, context: Any, params: trees.Tree) -> jax.Array:
        """A term added to the objective: here zero."""
        return jnp.zeros(())

    def project(self, context: Any, params: trees.Tree) -> trees.Tree:
        """A projection applied after every step: here the identity."""
        return params

    def __call__(
        self, context: Any, state: EndpointState, x: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[EndpointState, Measured]:
        theta, params = state.theta, trees.params(state.theta)

        def loss(params: trees.Tree) -> tuple[jax.Array, tuple[Measured, trees.Tree]]:
            moved = trees.with_params(theta, params)
            settings = (self.config.weight_decay, self.config.compute_dtype)
            value, measured = objective(self.model, moved, x, labels, key, *settings)
            return value + self.penalty(context, params), measured

        gradient, (measured, batch_stats) = jax.grad(loss, has_aux=True)(params)
        updates, optimizer_state = optimizer(self.config, self.steps).update(gradient, state.optimizer, params)
        moved = trees.with_params(theta, self.project(context, optax.apply_updates(params, updates)))
        running = jax.tree.map(
            lambda old, new: self.config.statistics_momentum * old + (1 - self.config.statistics_momentum) * new,
            trees.batch_stats(theta),
            batch_stats,
        )
        return EndpointState(trees.with_batch_stats(moved, running), optimizer_state), measured


def train_endpoints(
    keys: jax.Array,
    model: Model,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    recorder: Recorder | None = None,
    mesh: Mesh | None = None,
    target: Any = None,
    criterion: Criterion | None = None,
) -> Endpoints:
    """Train one network a key, all in one program, a whole epoch a call.

    keys: typed keys (n,). The seed decides everything: the network of a key is the same, to
    rounding, whatever the other keys are, and however many devices a mesh of `make_mesh` has: the
    networks lie side by side along its `pair` axis, and each batch along `data`. config defaults to
    `TrainConfig()`. target: a number, or one a key; each network is trained until `criterion` (default: the
    loss on all training images) is at most that at the end of an epoch, or until the epochs are over.
    Raises InputError if model and data do not fit, if the mesh does not divide a batch, or if the target
    is not positive, RunError if a loss becomes infinite or NaN.

        endpoints = train_endpoints(jax.random.split(jax.random.key(0), 2), model, data)
        theta_1, theta_2 = (jax.tree.map(lambda leaf: leaf[i], endpoints.theta) for i in range(2))
    """
    config = config or TrainConfig()
    check_fit(model, data)
    keys = check_keys(keys).reshape(-1)
    step = EndpointStep(model, config, steps_per_epoch(config, data))
    init_keys, epoch_keys = jax.vmap(partial(jax.random.split, num=2), out_axes=1)(keys)
    watch = None if target is None else _watch(model, data, criterion or Criterion(), target, len(keys))
    states = initial_states(step, init_keys)
    states, history = run_epochs(step, data, {}, states, epoch_keys, recorder, mesh=mesh, watch=watch)
    return Endpoints(states.theta, history, None if watch is None else watch.values)


def _watch(model: Model, data: Dataset, criterion: Criterion, target: Any, count: int) -> Watch:
    if not isinstance(criterion, Criterion):
        raise InputError(f"got {criterion!r} for criterion, expected a Criterion: Criterion('error', 'test').")
    criterion.check(data)
    values = np.asarray(target, np.float32)
    if values.shape not in ((), (count,)) or not (np.isfinite(values) & (values > 0)).all():
        raise InputError(
            f"got target={np.array2string(values, threshold=8)}, expected a positive number, or one for each of "
            f"the {count} keys."
        )
    return Watch(model, criterion, jax.device_put(data), np.broadcast_to(values, (count,)))
