"""Whole epochs in one compiled call, for one or many models at once, with progress, metrics and resume."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.data import Augmentation, Dataset, augment, normalize
from mcjax.errors import InputError
from mcjax.runs.recorder import History, Recorder, Recording
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import Convolutions, over_models, stepped_from_host
from mcjax.runtime.mesh import Placement, check_mesh, on_mesh, split
from mcjax.training.config import TrainConfig
from mcjax.training.early_stopping import Watch
from mcjax.training.objective import Measured

State = Any
"""What a fit carries from step to step: the variables it moves and the optimiser's state."""


class Step(Protocol):
    """One step of a fit, pure and hashable: a frozen dataclass with its config and model.

    `context` holds the arrays that the fit reads and never moves (the endpoints of a curve).
    """

    @property
    def config(self) -> TrainConfig:
        """How to train."""

    @property
    def convolutions(self) -> Convolutions:
        """What the model convolves with."""

    def __call__(
        self, context: Any, state: State, x: jax.Array, labels: jax.Array, key: jax.Array, /
    ) -> tuple[State, Measured]: ...


def steps_per_epoch(config: TrainConfig, data: Dataset) -> int:
    """As many as the config says, or whole batches in the training set. Raises InputError if there is no batch."""
    n = len(data.train_labels)
    if config.batch_size > n:
        raise InputError(
            f"got batch_size={config.batch_size}, expected at most the {n} training images of {data.name}."
        )
    return config.steps_per_epoch or n // config.batch_size


def check_keys(keys: Any) -> jax.Array:
    """Raise InputError unless `keys` are typed keys, as `jax.random.key` makes them."""
    if not isinstance(keys, jax.Array) or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise InputError(f"got {type(keys).__name__} for a key, expected a typed one: jax.random.key(seed).")
    return keys


def resolve(config: TrainConfig, data: Dataset) -> Augmentation:
    """The augmentation that a config asks for: its own, or the data set's default."""
    augmentation = data.default_augmentation() if config.augmentation is None else config.augmentation
    if len(data.image_shape) != 3 and augmentation != Augmentation.none():
        raise InputError(
            f"got {augmentation}, but {data.name} has inputs of shape {data.image_shape}, which are no images: "
            "expected Augmentation.none()."
        )
    return augmentation


def _batch(
    step: Step, data: Dataset, indices: jax.Array, key: jax.Array, mesh: Mesh | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    augment_key, step_key = jax.random.split(key)
    indices = split(indices, mesh)
    images = augment(augment_key, jnp.asarray(data.train_images)[indices], resolve(step.config, data))
    x, labels = split((normalize(images, data.mean, data.std), jnp.asarray(data.train_labels)[indices]), mesh)
    return x, labels, step_key


def _order(step: Step, data: Dataset, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    steps, size = steps_per_epoch(step.config, data), step.config.batch_size
    order_key, steps_key = jax.random.split(key)
    n, passes = len(data.train_labels), -(-steps // (len(data.train_labels) // size))
    if size == n:  # a batch of all has no order
        order = jnp.broadcast_to(jnp.arange(n), (steps, n))
    elif passes == 1:
        order = jax.random.permutation(order_key, n)[: steps * size]
    else:
        keys = jax.random.split(order_key, passes)
        order = jax.vmap(lambda key: jax.random.permutation(key, n)[: n // size * size])(keys).ravel()[: steps * size]
    return order.reshape(steps, size), jax.random.split(steps_key, steps)


def epoch(
    step: Step, data: Dataset, context: trees.Tree, state: State, key: jax.Array, *, mesh: Mesh | None = None
) -> tuple[State, Measured]:
    """One pass over the shuffled training images, or as many steps as the config says: the pure core of every fit.

    Returns the new state and the means of what the steps measured. Images beyond the last whole
    batch are left out, others every time. Works under jit and vmap; with data and context bound it
    is `epoch(state, key) -> (state, metrics)`. With a mesh it runs inside `on_mesh`, and its batches
    are split along `data`.
    """

    def scanned(state: State, at: tuple[jax.Array, jax.Array]) -> tuple[State, Measured]:
        return step(context, state, *_batch(step, data, *at, mesh))

    state, measured = jax.lax.scan(scanned, state, _order(step, data, key))
    return state, jax.tree.map(lambda values: values.mean(0), measured)


@jit(static_argnames=("step", "mesh"))
def _epoch_of_many(
    step: Step,
    data: Dataset,
    contexts: trees.Tree,
    states: State,
    keys: jax.Array,
    number: jax.Array,
    mesh: Mesh | None = None,
) -> tuple[State, Measured]:
    def many(data: Dataset, number: jax.Array, *fits: Any) -> tuple[State, Measured]:
        def one(context: trees.Tree, state: State, key: jax.Array) -> tuple[State, Measured]:
            return epoch(step, data, context, state, jax.random.fold_in(key, number), mesh=mesh)

        return over_models(one, step.convolutions)(*fits)

    return on_mesh(many, mesh, everywhere=2)(data, number, contexts, states, keys)


@jit(static_argnames="step")
def _epoch_of_some(
    step: Step, data: Dataset, contexts: trees.Tree, states: State, keys: jax.Array, number: jax.Array, which: jax.Array
) -> tuple[State, Measured]:
    """An epoch of the fits `which`, int32 (k,); a number beyond the last fit is of none, and changes none."""

    def one(context: trees.Tree, state: State, key: jax.Array) -> tuple[State, Measured]:
        return epoch(step, data, context, state, jax.random.fold_in(key, number))

    there = jnp.minimum(which, len(keys) - 1)
    moved, measured = over_models(one, step.convolutions)(*trees.index((contexts, states, keys), there))
    return jax.tree.map(lambda leaf, new: leaf.at[which].set(new, mode="drop"), states, moved), measured


@jit(static_argnames="step")
def _single_step(
    step: Step, data: Dataset, context: trees.Tree, state: State, indices: jax.Array, key: jax.Array
) -> tuple[State, Measured]:
    return step(context, state, *_batch(step, data, indices, key))


def _epoch_from_host(
    step: Step, data: Dataset, contexts: trees.Tree, states: State, keys: jax.Array, number: int
) -> tuple[State, Measured]:
    """`_epoch_of_many`, one jitted step a call, for gradients that are slow inside compiled loops."""
    results = []
    for i in range(len(keys)):
        context, state = trees.index(contexts, i), trees.index(states, i)
        measured = []
        order, step_keys = _order(step, data, jax.random.fold_in(keys[i], number))
        for at, key in zip(order, step_keys, strict=True):
            state, one = _single_step(step, data, context, state, at, key)
            measured.append(one)
        results.append((state, jax.tree.map(lambda *values: jnp.stack(values).mean(), *measured)))
    return trees.stack([state for state, _ in results]), trees.stack([one for _, one in results])


def _some_from_host(
    step: Step, data: Dataset, contexts: trees.Tree, states: State, keys: jax.Array, number: int, which: np.ndarray
) -> tuple[State, Measured]:
    """`_epoch_of_some`, one jitted step a call."""
    which = which[which < len(keys)]
    some = (trees.index(contexts, which), trees.index(states, which), keys[which])
    moved, measured = _epoch_from_host(step, data, some[0], some[1], some[2], number)
    return jax.tree.map(lambda leaf, new: leaf.at[which].set(new), states, moved), measured


@jit(static_argnames="step")
def initial_states(step: Any, given: Any) -> Any:
    """`step.init` of every entry of the leading axis, in one program."""
    return jax.vmap(step.init)(given)


def run_epochs(
    step: Step,
    data: Dataset,
    contexts: trees.Tree,
    states: State,
    keys: jax.Array,
    recorder: Recorder | None = None,
    epochs: int | None = None,
    mesh: Mesh | None = None,
    watch: Watch | None = None,
) -> tuple[State, History]:
    """All epochs of many fits at once, one compiled call an epoch; every tree has a leading axis.

    `epochs` is how many, where that is not all that the step's config plans for. A fit that is at its target,
    by the watch, stays as it is, and when all are, training ends. Returns the final states and {"loss",
    "accuracy"}: float32 (fits, epochs), in which a fit that stays repeats its last. With a recorder in a run
    folder it starts from what was saved there, and saves complete epochs, also when it is interrupted. With a
    mesh the fits lie along its `pair` axis and their batches along `data`; what comes back are ordinary arrays
    again, the same in every process. Raises RunError at the epoch whose loss is not finite; the one before it
    is kept. Raises InputError if the mesh does not divide a batch, or if there is a target too.
    """
    if mesh is not None:
        check_mesh(mesh, step.config.batch_size)
        if watch is not None:
            raise InputError("got a mesh and a target: expected one of them, since networks that are done leave none.")
    placement = Placement(mesh, len(keys))
    images = steps_per_epoch(step.config, data) * step.config.batch_size * len(keys)
    epochs = step.config.epochs if epochs is None else epochs
    recording = Recording(recorder or Recorder("the fit", progress=False), states, placement, epochs, images)
    from_host = mesh is None and stepped_from_host(step.convolutions)
    advance: Callable[..., tuple[State, Measured]]
    if watch is not None:
        advance = _some_from_host if from_host else _epoch_of_some
        if recording.done:
            watch.look(recording.states)
    else:
        advance = _epoch_from_host if from_host else partial(_epoch_of_many, mesh=mesh)
    data, contexts, keys = placement.put_everywhere(data), placement.put(contexts), placement.put_keys(keys)
    try:
        while recording.done < epochs and (watch is None or len(watch.going)):
            which = () if watch is None else (watch.padded(),)
            new, measured = advance(step, data, contexts, recording.states, keys, recording.done, *which)
            values = {name: np.asarray(value) for name, value in placement.get(measured._asdict()).items()}
            recording.add(new, values if watch is None else watch.count(values, recording.history))
            if watch is not None:
                watch.look(recording.states)
    finally:
        recording.close()
    return placement.get(recording.states), recording.history
