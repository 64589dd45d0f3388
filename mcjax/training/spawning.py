"""Networks that begin as one and part at an epoch (instability analysis), and one network at several epochs."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.data import Dataset
from mcjax.errors import InputError, check_whole
from mcjax.models.base import Model
from mcjax.runs.recorder import History, Recorder
from mcjax.runtime.compiling import jit
from mcjax.training.config import TrainConfig
from mcjax.training.endpoints import Endpoints, EndpointState, EndpointStep
from mcjax.training.loop import check_keys, run_epochs, steps_per_epoch
from mcjax.training.objective import check_fit


class Spawned(NamedTuple):
    """Networks that part from one at several epochs; with a leading axis of seeds if there were several keys.

    theta: the trained children, leading axes ([seeds,] spawn epochs, children). parents: the network at each spawn
    epoch, ([seeds,] spawn epochs). history: float32 ([seeds,] spawn epochs, children, epochs), up to the spawn epoch
    that of the parent.
    """

    theta: trees.Tree
    parents: trees.Tree
    history: History


@jit(static_argnames=("step", "copies"))
def _start(step: EndpointStep, keys: jax.Array, copies: int) -> EndpointState:
    """A fresh network and optimiser a key, each `copies` times over: (keys * copies, ...)."""
    one_each = jax.vmap(step.init)(keys)
    return jax.tree.map(lambda leaf: leaf.repeat(copies, 0, total_repeat_length=len(leaf) * copies), one_each)


def _stretch(
    step: EndpointStep,
    data: Dataset,
    states: EndpointState,
    keys: jax.Array,
    ends: tuple[int, int],
    recorder: Recorder | None,
    mesh: Mesh | None,
) -> tuple[EndpointState, History]:
    """Epochs first + 1 to last of all fits, by the program of every other stretch, in a stage of its own."""
    first, last = ends
    here = jax.vmap(lambda key: jax.random.fold_in(key, first))(keys)
    if recorder is not None:
        title = f"{recorder.title}, epochs {first + 1} to {last} of {step.config.epochs}"
        recorder = recorder._replace(title=title, stage=f"{recorder.stage}_{first}")
    return run_epochs(step, data, {}, states, here, recorder, last - first, mesh)


def spawn(
    key: jax.Array,
    model: Model,
    data: Dataset,
    spawn_epochs: Sequence[int],
    config: TrainConfig | None = None,
    *,
    children: int = 2,
    recorder: Recorder | None = None,
    mesh: Mesh | None = None,
) -> Spawned:
    """Train one network to each of several epochs, and from there copies of it, each by an SGD noise of its own.

    The copies go on from the parent's parameters, statistics and optimiser, along the same schedule, to the end of
    training; from the spawn epoch on each has its own order of the data, augmentation and dropout. key: typed; several
    keys (n,) are as many parents, and everything has a leading axis for them. spawn_epochs: whole numbers from 0 (the
    copies share their initial values alone) to config.epochs (nothing is left to tell them apart: they are equal); an
    epoch is as short as config.steps_per_epoch says, so that networks can be spawned at any step. children: copies at
    each.

    All spawn epochs, children and seeds run side by side in one program, compiled once and called for every epoch.
    So every copy computes the epochs of its parent too, which is little work where most are spawned early, as
    stability sets in early. What the keys decide: every stretch between two spawn epochs folds its first epoch into the
    key, that of the parent for networks that have not been spawned, their own for the others. With a recorder in a
    run folder every stretch is a stage of its own there, and an interrupted call goes on to the same bits. mesh as in
    `train_endpoints`. Raises InputError for other spawn epochs, and what `train_endpoints` raises. Frankle, Dziugaite,
    Roy and Carbin, 2020: Linear Mode Connectivity and the Lottery Ticket Hypothesis, Algorithm 1.

        spawned = spawn(key, model, data, (0, 2, 10), TrainConfig(epochs=30))
        first, second = (jax.tree.map(lambda leaf: leaf[:, i], spawned.theta) for i in range(2))
        lines = evaluate_path(model, linear(model.spec).bind_pairs(first, second), data)
        print(barrier(lines, "test_accuracy", "mean"))  # the instability at each spawn epoch
    """
    config = config or TrainConfig()
    check_fit(model, data)
    keys = check_keys(key).reshape(-1)
    _check_epochs("spawn_epochs", spawn_epochs, 0, config.epochs)
    check_whole("children", children)
    step = EndpointStep(model, config, steps_per_epoch(config, data))
    at = np.repeat(np.asarray(spawn_epochs), children)
    together, alone = _keys(keys, spawn_epochs, children)
    states = _start(step, jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys), len(at))
    fits = np.arange(len(keys) * len(at)).reshape(len(keys), len(at))
    networks = {0: states.theta}
    histories = []
    for ends in pairwise(sorted({0, *spawn_epochs, config.epochs})):
        now = jnp.where(np.tile(at <= ends[0], len(keys)), alone, together)
        states, history = _stretch(step, data, states, now, ends, recorder, mesh)
        source = fits.copy()
        if (waiting := at >= ends[1]).any():
            # One network is the parent of all that follow, whatever rounding the others met beside it.
            source[:, waiting] = fits[:, waiting][:, :1]
        states = trees.index(states, source.ravel())
        networks[ends[1]] = states.theta
        histories.append({name: values[source.ravel()] for name, values in history.items()})
    parents = [trees.index(networks[k], fits[:, i * children]) for i, k in enumerate(spawn_epochs)]
    shape = (len(keys), len(spawn_epochs), children)
    found = Spawned(
        jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), states.theta),
        jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *parents),
        {name: np.concatenate([each[name] for each in histories], 1).reshape(*shape, -1) for name in histories[0]},
    )
    return found if key.ndim else Spawned(*(trees.index(part, 0) for part in found))


def snapshots(
    keys: jax.Array,
    model: Model,
    data: Dataset,
    epochs: Sequence[int],
    config: TrainConfig | None = None,
    *,
    recorder: Recorder | None = None,
    mesh: Mesh | None = None,
) -> Endpoints:
    """Train one network a key, as `train_endpoints` does, and keep each at several epochs of its training.

    keys: typed (n,). epochs: increasing whole numbers from 1 to config.epochs; training ends at the last. Returns
    `theta` with leading axes (keys, epochs), and the history up to the last, float32 (keys, epochs). One program for
    all, compiled once. Between two of the epochs the keys are folded as by `spawn`, so that the networks are not those
    of `train_endpoints` to the bit. Raises InputError for other epochs, and what `train_endpoints` raises.
    """
    config = config or TrainConfig()
    check_fit(model, data)
    keys = check_keys(keys).reshape(-1)
    _check_epochs("epochs", epochs, 1, config.epochs)
    step = EndpointStep(model, config, steps_per_epoch(config, data))
    init_keys, order_keys = (jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys) for i in range(2))
    states = _start(step, init_keys, 1)
    kept, histories = [], []
    for ends in pairwise((0, *epochs)):
        states, history = _stretch(step, data, states, order_keys, ends, recorder, mesh)
        kept.append(states.theta)
        histories.append(history)
    theta = jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *kept)
    return Endpoints(theta, {name: np.concatenate([each[name] for each in histories], 1) for name in histories[0]})


def _keys(keys: jax.Array, spawn_epochs: Sequence[int], children: int) -> tuple[jax.Array, jax.Array]:
    """Of every fit its parent's key and its own, (seeds * spawn epochs * children,) each."""
    each = [(epoch, child) for epoch in spawn_epochs for child in range(children)]

    def own(key: jax.Array) -> jax.Array:
        apart = jax.random.fold_in(key, 2)
        return jnp.stack([jax.random.fold_in(jax.random.fold_in(apart, epoch), child) for epoch, child in each])

    parents = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    return parents[np.arange(len(keys)).repeat(len(each))], jax.vmap(own)(keys).ravel()


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
