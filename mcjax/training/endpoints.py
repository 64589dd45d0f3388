"""Training the networks that paths join: many seeds in one program."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from mcjax import trees
from mcjax.compiling import jit
from mcjax.data import Dataset
from mcjax.models.base import Model
from mcjax.models.convolution import Convolutions
from mcjax.training.config import TrainConfig, optimizer
from mcjax.training.loop import check_keys, run_epochs, steps_per_epoch
from mcjax.training.objective import Measured, check_fit, objective
from mcjax.training.recorder import History, Recorder


class Endpoints(NamedTuple):
    """Trained networks: `theta` with a leading axis, one network a key; history float32 (keys, epochs)."""

    theta: trees.Tree
    history: History


class EndpointState(NamedTuple):
    """What training carries: the variables and the optimiser's state."""

    theta: trees.Tree
    optimizer: optax.OptState


@dataclass(frozen=True)
class EndpointStep:
    """One step of SGD on the objective; running batch statistics follow."""

    model: Model
    config: TrainConfig
    steps: int

    @property
    def convolutions(self) -> Convolutions:
        """What the model convolves with."""
        return self.model.convolutions

    def init(self, key: jax.Array) -> EndpointState:
        """A fresh network and optimiser."""
        theta = self.model.init(key)
        return EndpointState(theta, optimizer(self.config, self.steps).init(trees.params(theta)))

    def __call__(
        self, context: Any, state: EndpointState, x: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[EndpointState, Measured]:
        theta, params = state.theta, trees.params(state.theta)

        def loss(params: trees.Tree) -> tuple[jax.Array, tuple[Measured, trees.Tree]]:
            moved = trees.with_params(theta, params)
            return objective(self.model, moved, x, labels, key, self.config.weight_decay, self.config.compute_dtype)

        gradient, (measured, batch_stats) = jax.grad(loss, has_aux=True)(params)
        updates, optimizer_state = optimizer(self.config, self.steps).update(gradient, state.optimizer, params)
        moved = trees.with_params(theta, optax.apply_updates(params, updates))
        running = jax.tree.map(
            lambda old, new: self.config.statistics_momentum * old + (1 - self.config.statistics_momentum) * new,
            trees.batch_stats(theta),
            batch_stats,
        )
        return EndpointState(trees.with_batch_stats(moved, running), optimizer_state), measured


@jit(static_argnames="step")
def _init(step: EndpointStep, keys: jax.Array) -> EndpointState:
    return jax.vmap(step.init)(keys)


def train_endpoints(
    keys: jax.Array,
    model: Model,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    recorder: Recorder | None = None,
    mesh: Mesh | None = None,
) -> Endpoints:
    """Train one network a key, all in one program, a whole epoch a call.

    keys: typed keys (n,). The seed decides everything: the network of a key is the same, to
    rounding, whatever the other keys are, and however many devices a mesh of `make_mesh` has: the
    networks lie side by side along its `pair` axis, and each batch along `data`. config defaults to
    `TrainConfig()`. Raises InputError if model and data do not fit, or if the mesh does not divide a
    batch, RunError if a loss becomes infinite or NaN.

        endpoints = train_endpoints(jax.random.split(jax.random.key(0), 2), model, data)
        theta_1, theta_2 = (jax.tree.map(lambda leaf: leaf[i], endpoints.theta) for i in range(2))
    """
    config = config or TrainConfig()
    check_fit(model, data)
    keys = check_keys(keys).reshape(-1)
    step = EndpointStep(model, config, steps_per_epoch(config, data))
    init_keys, epoch_keys = jax.vmap(partial(jax.random.split, num=2), out_axes=1)(keys)
    states, history = run_epochs(step, data, {}, _init(step, init_keys), epoch_keys, recorder, mesh=mesh)
    return Endpoints(states.theta, history)
