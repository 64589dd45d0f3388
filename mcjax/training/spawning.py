"""Networks spawned from one parent (instability analysis), and snapshots of one network at several epochs."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.errors import InputError, check_whole
from mcjax.models.base import LeadingAxis
from mcjax.runs.recorder import History, Recorder, checked_recorder
from mcjax.runtime.compiling import jit
from mcjax.shown import short_repr
from mcjax.training.config import TrainConfig, check_config
from mcjax.training.endpoints import Endpoints, check_trainable, configured_fit, fresh_states
from mcjax.training.fit import Fit, FitState
from mcjax.training.loop import EpochPlan, epoch_plan, join_histories, run_epochs
from mcjax.training.task import Task


@short_repr
class Spawned(NamedTuple):
    """Children of one parent, spawned at several epochs; with a leading axis of seeds for several keys.

    Attributes:
        theta: The trained children, with leading axes ([seeds,] spawn epochs, children).
        parents: The parent at each spawn epoch, with leading axes ([seeds,] spawn epochs).
        history: Training metrics of the children by name, float32 ([seeds,] spawn epochs, children, epochs), equal to
            those of the parent before the spawn epoch.
    """

    theta: trees.Tree
    parents: trees.Tree
    history: History


class _Training(NamedTuple):
    """The task, its settings, and where the segments of training report."""

    task: Task
    config: TrainConfig
    recorder: Recorder
    mesh: Mesh | None

    def start(self, keys: jax.Array, copies: int) -> FitState:
        """A fresh network and optimiser per key, each repeated `copies` times: (keys * copies, ...)."""
        init = check_trainable(self.task)
        return _repeated(fresh_states(self.fit, init, keys), copies)

    @property
    def plan(self) -> EpochPlan:
        """The batches of an epoch."""
        return epoch_plan(self.task, self.config.batch_size, self.config.steps_per_epoch)

    @property
    def fit(self) -> Fit:
        """The fit of every network, whose schedule extends over all segments."""
        return configured_fit(self.task, self.config, self.plan)

    def segment(self, states: FitState, keys: jax.Array, first: int, last: int) -> tuple[FitState, History]:
        """Epochs first + 1 to last of all fits, as one stage of the run; all segments share one program."""
        segment_keys = jax.vmap(lambda key: jax.random.fold_in(key, first))(keys)
        title = f"{self.recorder.title}, epochs {first + 1} to {last} of {self.config.epochs}"
        recorder = replace(self.recorder, title=title, stage=f"{self.recorder.stage}_{first}")
        given = (self.fit, self.task, self.plan, states, segment_keys, last - first, recorder)
        return run_epochs(*given, mesh=self.mesh, before=first)


@jit(static_argnames=("copies",))
def _repeated(states: FitState, copies: int) -> FitState:
    return trees.index(states, np.arange(len(jax.tree.leaves(states)[0])).repeat(copies))


def spawn(
    key: jax.Array,
    task: Task,
    spawn_epochs: Sequence[int],
    config: TrainConfig | None = None,
    *,
    children: int = 2,
    recorder: Recorder | None = None,
    mesh: Mesh | None = None,
) -> Spawned:
    """Train a parent to each of several epochs, and from there its children, each with its own SGD noise.

    The children start from the parent's parameters, batch statistics and optimiser, and continue the same schedule to
    the end of training. From the spawn epoch on, each has its own order of the data, augmentation and dropout.

    All spawn epochs, children and seeds run in one program, compiled once and called for every epoch. Every child also
    computes the epochs of its parent, which costs little, since most spawn epochs are early. In every segment between
    two spawn epochs, the first epoch is folded into the keys: the parent's key before the spawn epoch, the child's own
    key after it. Batches from the host are the same for all: children then differ by augmentation and dropout alone.
    Source: Frankle, Dziugaite, Roy and Carbin 2020, Linear Mode Connectivity and the Lottery Ticket Hypothesis,
    Algorithm 1.

    Args:
        key: Typed key, or several (seeds,) for as many parents.
        task: The task, with a model or `init`.
        spawn_epochs: Increasing whole numbers from 0 (children share the initial values only) to config.epochs
            (children are equal). With `config.steps_per_epoch`, an epoch can be a single step.
        config: Settings. None: `TrainConfig()`.
        children: Number of children per spawn epoch.
        recorder: `Recorder()` for a progress line, and with a run folder an interrupted call resumes to the same bits;
            every segment is one stage. None: silent.
        mesh: A mesh from `make_mesh`, as in `train_endpoints`.

    Returns:
        The children, their parents and the history.

    Raises:
        InputError: If the spawn epochs are not such numbers, and as `train_endpoints`.
        RunError: If a loss becomes infinite or NaN.

    Example::

        spawned = spawn(key, task, (0, 2, 10), TrainConfig(epochs=30))
        first, second = (jax.tree.map(lambda leaf: leaf[:, i], spawned.theta) for i in range(2))
        lines = evaluate_path(task, linear(task.spec).bind_pairs(first, second))
        print(barrier(lines, "test_accuracy", "mean"))  # the instability at each spawn epoch
    """
    config = check_config(config, TrainConfig)
    check_trainable(task)
    keys = trees.check_keys(key, 1).reshape(-1)
    _check_epochs("spawn_epochs", spawn_epochs, 0, config.epochs)
    check_whole("children", children)
    settings = {"config": config, "spawn_epochs": list(spawn_epochs), "children": children}
    recorder = checked_recorder(recorder).of(settings, keys=keys, data=task.train)
    # Algorithm 1 for all spawn epochs and children at once: every child starts as its parent.
    training = _Training(task, config, recorder, mesh)
    spawned_at = np.repeat(np.asarray(spawn_epochs), children)
    parent_keys, own_keys = _fit_keys(keys, spawn_epochs, children)
    states = training.start(jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys), len(spawned_at))
    fits = np.arange(len(keys) * len(spawned_at)).reshape(len(keys), len(spawned_at))
    theta_at = {0: states.variables}
    histories = []
    for first, last in pairwise(sorted({0, *spawn_epochs, config.epochs})):
        # SGD noise of the parent before the spawn epoch, of the child after it.
        segment_keys = jnp.where(np.tile(spawned_at <= first, len(keys)), own_keys, parent_keys)
        states, history = training.segment(states, segment_keys, first, last)
        source = fits.copy()
        if (waiting := spawned_at >= last).any():
            # Replace the children that are not spawned yet by the first one: they differ by rounding at most.
            source[:, waiting] = fits[:, waiting][:, :1]
        states, history = trees.index((states, history), source.ravel())
        theta_at[last] = states.variables
        histories.append(history)
    parents = [trees.index(theta_at[k], fits[:, i * children]) for i, k in enumerate(spawn_epochs)]
    shape = (len(keys), len(spawn_epochs), children)
    found = Spawned(
        jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), states.variables),
        jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *parents),
        {name: history.reshape(*shape, -1) for name, history in join_histories(histories).items()},
    )
    return found if key.ndim else Spawned(*(trees.index(part, 0) for part in found))


def snapshots(
    keys: jax.Array,
    task: Task,
    epochs: Sequence[int],
    config: TrainConfig | None = None,
    *,
    recorder: Recorder | None = None,
    mesh: Mesh | None = None,
) -> Endpoints:
    """Train one network per key, like `train_endpoints`, and return each at several epochs.

    Keys are folded at each of the epochs, as in `spawn`, so the networks differ from those of `train_endpoints`.

    Args:
        keys: Typed keys (n,), or one for a single network.
        task: The task, with a model or `init`.
        epochs: Increasing whole numbers from 1 to config.epochs. Training ends at the last.
        config: Settings. None: `TrainConfig()`.
        recorder: As in `spawn`.
        mesh: A mesh from `make_mesh`, as in `train_endpoints`.

    Returns:
        Networks with leading axes ([keys,] epochs), and the history up to the last of the epochs, float32 ([keys,]
        epochs).

    Raises:
        InputError: If the epochs are not such numbers, and as `train_endpoints`.
        RunError: If a loss becomes infinite or NaN.
    """
    config = check_config(config, TrainConfig)
    check_trainable(task)
    axis, keys = LeadingAxis(trees.check_keys(keys, 1).ndim > 0), keys.reshape(-1)
    _check_epochs("epochs", epochs, 1, config.epochs)
    recorder = checked_recorder(recorder).of({"config": config, "epochs": list(epochs)}, keys=keys, data=task.train)
    training = _Training(task, config, recorder, mesh)
    init_keys, order_keys = (jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys) for i in range(2))
    states = training.start(init_keys, 1)
    kept, histories = [], []
    for first, last in pairwise((0, *epochs)):
        states, history = training.segment(states, order_keys, first, last)
        kept.append(states.variables)
        histories.append(history)
    theta = jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *kept)
    return axis.remove(Endpoints(theta, join_histories(histories)))


def _fit_keys(keys: jax.Array, spawn_epochs: Sequence[int], children: int) -> tuple[jax.Array, jax.Array]:
    """The parent's key and the own key of every fit, (seeds * spawn epochs * children,) each."""
    copies = [(epoch, child) for epoch in spawn_epochs for child in range(children)]

    def own(key: jax.Array) -> jax.Array:
        base = jax.random.fold_in(key, 2)
        return jnp.stack([jax.random.fold_in(jax.random.fold_in(base, epoch), child) for epoch, child in copies])

    parents = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    return parents[np.arange(len(keys)).repeat(len(copies))], jax.vmap(own)(keys).ravel()


def _check_epochs(name: str, epochs: Sequence[int], least: int, most: int) -> None:
    if not isinstance(epochs, Sequence | np.ndarray) or isinstance(epochs, str):
        raise InputError(f"got {name}={epochs!r}, expected increasing whole numbers, one or more: ({least}, {most}).")
    epochs = list(epochs)
    whole = all(isinstance(epoch, int | np.integer) and least <= epoch <= most for epoch in epochs)
    if not epochs or not whole or epochs != sorted(set(epochs)):
        raise InputError(
            f"got {name}={tuple(epochs)}, expected increasing whole numbers from {least} to {most}, the epochs of the "
            "config."
        )
