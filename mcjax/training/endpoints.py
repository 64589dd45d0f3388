"""Training of the endpoints of paths: several seeds in one program."""

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
from mcjax.runtime.mapping import Convolutions
from mcjax.training.config import TrainConfig, optimizer
from mcjax.training.criterion import Criterion
from mcjax.training.early_stopping import EarlyStopping
from mcjax.training.loop import check_typed_keys, initial_states, run_epochs, steps_per_epoch
from mcjax.training.objective import Metrics, check_model_and_data, training_loss


class Endpoints(NamedTuple):
    """Trained networks.

    Attributes:
        theta: Variables with a leading axis of keys.
        history: {"loss", "accuracy"}, training metrics, float32 (keys, epochs).
        criterion: The criterion of every network at its end, float32 (keys,); above the target if the epochs were not
            enough. None without a target.
    """

    theta: trees.Tree
    history: History
    criterion: np.ndarray | None = None


class EndpointState(NamedTuple):
    """State of training: the variables and the state of their optimiser."""

    theta: trees.Tree
    optimizer: optax.OptState


@dataclass(frozen=True)
class EndpointStep:
    """One optimiser step on the training loss, and an update of the running batch statistics.

    `steps` is the number of steps per epoch. Subclasses can override `penalty`, a term of the objective, and `project`,
    a projection of the parameters after each step.
    """

    model: Model
    config: TrainConfig
    steps: int

    @property
    def convolutions(self) -> Convolutions:
        """The kind of convolutions in the model."""
        return self.model.convolutions

    def init(self, key: jax.Array) -> EndpointState:
        """A fresh network and optimiser."""
        return self.start(self.model.init(key))

    def start(self, theta: trees.Tree) -> EndpointState:
        """The network `theta` and a fresh optimiser."""
        return EndpointState(theta, optimizer(self.config, self.steps).init(trees.params(theta)))

    def penalty(self, context: Any, params: trees.Tree) -> jax.Array:
        """A term of the objective, zero by default."""
        return jnp.zeros(())

    def project(self, context: Any, params: trees.Tree) -> trees.Tree:
        """A projection after every step, the identity by default."""
        return params

    def __call__(
        self, context: Any, state: EndpointState, x: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[EndpointState, Metrics]:
        theta, params = state.theta, trees.params(state.theta)

        def loss(params: trees.Tree) -> tuple[jax.Array, tuple[Metrics, trees.Tree]]:
            moved = trees.with_params(theta, params)
            settings = (self.config.weight_decay, self.config.compute_dtype)
            value, measured = training_loss(self.model, moved, x, labels, key, *settings)
            return value + self.penalty(context, params), measured

        # Optimiser step on the parameters.
        gradient, (metrics, batch_stats) = jax.grad(loss, has_aux=True)(params)
        updates, optimizer_state = optimizer(self.config, self.steps).update(gradient, state.optimizer, params)
        moved = trees.with_params(theta, self.project(context, optax.apply_updates(params, updates)))
        # Running batch statistics: an exponential moving average over batches.
        share = self.config.statistics_momentum
        running = jax.tree.map(
            lambda old, new: share * old + (1 - share) * new,
            trees.batch_stats(theta),
            batch_stats,
        )
        return EndpointState(trees.with_batch_stats(moved, running), optimizer_state), metrics


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
    """Train one network per key, all in one program, with one compiled call per epoch.

    The network of a key does not depend on the other keys or on the number of devices, up to rounding.

    Args:
        keys: Typed keys (n,).
        model: The model.
        data: The data set.
        config: Settings. None: `TrainConfig()`.
        recorder: The progress line, and the run folder from which an interrupted call resumes. None: silent.
        mesh: A mesh from `make_mesh`: networks are distributed along `pair`, batches along `data`.
        target: One number, or one per key. A network stops after the epoch in which its criterion is at most the
            target, or after the last epoch. None: all epochs.
        criterion: The metric that is compared with the target. None: the loss on all training images.

    Returns:
        The trained networks.

    Raises:
        InputError: If model and data do not match, the mesh does not divide a batch, or a target is not positive.
        RunError: If a loss becomes infinite or NaN.

    Example::

        endpoints = train_endpoints(jax.random.split(jax.random.key(0), 2), model, data)
        theta_1, theta_2 = (jax.tree.map(lambda leaf: leaf[i], endpoints.theta) for i in range(2))
    """
    config = config or TrainConfig()
    check_model_and_data(model, data)
    keys = check_typed_keys(keys).reshape(-1)
    step = EndpointStep(model, config, steps_per_epoch(config, data))
    init_keys, epoch_keys = jax.vmap(partial(jax.random.split, num=2), out_axes=1)(keys)
    stopping = None if target is None else _early_stopping(model, data, criterion or Criterion(), target, len(keys))
    states = initial_states(step, init_keys)
    states, history = run_epochs(step, data, {}, states, epoch_keys, recorder, mesh=mesh, stopping=stopping)
    return Endpoints(states.theta, history, None if stopping is None else stopping.values)


def _early_stopping(model: Model, data: Dataset, criterion: Criterion, target: Any, count: int) -> EarlyStopping:
    if not isinstance(criterion, Criterion):
        raise InputError(f"got {criterion!r} for criterion, expected a Criterion: Criterion('error', 'test').")
    criterion.check(data)
    values = np.asarray(target, np.float32)
    if values.shape not in ((), (count,)) or not (np.isfinite(values) & (values > 0)).all():
        raise InputError(
            f"got target={np.array2string(values, threshold=8)}, expected a positive number, or one for each of "
            f"the {count} keys."
        )
    return EarlyStopping(model, criterion, jax.device_put(data), np.broadcast_to(values, (count,)))
