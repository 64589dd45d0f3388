"""The training loop of all fits: an epoch of several fits in one compiled call, with recording and resuming."""

from collections.abc import Callable, Sequence
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
from mcjax.runtime.mapping import Convolutions, over_models, steps_from_host
from mcjax.runtime.mesh import Placement, check_mesh, on_mesh, split
from mcjax.training.config import TrainConfig
from mcjax.training.early_stopping import EarlyStopping
from mcjax.training.objective import Metrics

State = Any
"""The state of a fit: the trained variables and the state of their optimiser."""


class Step(Protocol):
    """One step of a fit on a batch: `step(context, state, x, labels, key) -> (state, metrics)`.

    A step is pure and hashable, such as a frozen dataclass with config and model. `context` holds the arrays of the fit
    that are not trained, such as the endpoints of a curve.
    """

    @property
    def config(self) -> TrainConfig:
        """The settings of batches, augmentation and epochs."""

    @property
    def convolutions(self) -> Convolutions:
        """The kind of convolutions in the model, by which `mcjax.runtime` chooses how to run an epoch."""

    def __call__(
        self, context: Any, state: State, x: jax.Array, labels: jax.Array, key: jax.Array, /
    ) -> tuple[State, Metrics]: ...


def steps_per_epoch(config: TrainConfig, data: Dataset) -> int:
    """Number of steps per epoch: that of the config, or the number of whole batches in the training set.

    Raises:
        InputError: If a batch is larger than the training set.
    """
    n = len(data.train_labels)
    if config.batch_size > n:
        raise InputError(
            f"got batch_size={config.batch_size}, expected at most the {n} training images of {data.name}."
        )
    return config.steps_per_epoch or n // config.batch_size


def check_typed_keys(keys: Any) -> jax.Array:
    """`keys`. Raises InputError unless they are typed keys, as from `jax.random.key`."""
    if not isinstance(keys, jax.Array) or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise InputError(f"got {type(keys).__name__} for a key, expected a typed one: jax.random.key(seed).")
    return keys


def training_augmentation(config: TrainConfig, data: Dataset) -> Augmentation:
    """The augmentation of training: that of the config, or the data set's default.

    Raises:
        InputError: If the config augments inputs that are not images.
    """
    augmentation = data.default_augmentation() if config.augmentation is None else config.augmentation
    if len(data.image_shape) != 3 and augmentation != Augmentation.none():
        raise InputError(
            f"got {augmentation}, but {data.name} has inputs of shape {data.image_shape}, which are not images: "
            "expected Augmentation.none()."
        )
    return augmentation


def _batch(
    step: Step, data: Dataset, indices: jax.Array, key: jax.Array, mesh: Mesh | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The augmented, normalised inputs and the labels of a batch, and the key of the step."""
    augment_key, step_key = jax.random.split(key)
    indices = split(indices, mesh)
    # Augment in uint8, then normalise: the data set stays uint8 on the device.
    images = jnp.asarray(data.train_images)[indices]
    images = augment(augment_key, images, training_augmentation(step.config, data))
    x, labels = split((normalize(images, data.mean, data.std), jnp.asarray(data.train_labels)[indices]), mesh)
    return x, labels, step_key


def _epoch_order(step: Step, data: Dataset, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The image indices of every batch of an epoch, int (steps, batch_size), and a key per step."""
    steps, size = steps_per_epoch(step.config, data), step.config.batch_size
    order_key, steps_key = jax.random.split(key)
    n, passes = len(data.train_labels), -(-steps // (len(data.train_labels) // size))
    # The shuffled order of images, in as many passes over them as the steps need.
    if size == n:  # the order inside a full batch does not matter
        order = jnp.broadcast_to(jnp.arange(n), (steps, n))
    elif passes == 1:
        order = jax.random.permutation(order_key, n)[: steps * size]
    else:  # every pass has its own order, and leaves out other images
        keys = jax.random.split(order_key, passes)
        order = jax.vmap(lambda key: jax.random.permutation(key, n)[: n // size * size])(keys).ravel()[: steps * size]
    return order.reshape(steps, size), jax.random.split(steps_key, steps)


def epoch(
    step: Step, data: Dataset, context: trees.Tree, state: State, key: jax.Array, *, mesh: Mesh | None = None
) -> tuple[State, Metrics]:
    """One epoch of one fit: a pass over the shuffled training images, or the number of steps in the config.

    Images beyond the last whole batch are left out, other ones in every epoch. Pure: works under jit and vmap.

    Args:
        step: The step of the fit.
        data: The data set.
        context: Arrays of the fit that are not trained.
        state: State of the fit.
        key: Key of the epoch, for the order, augmentation and the random parts of the step.
        mesh: The mesh, inside `on_mesh`; batches are then split along its `data` axis.

    Returns:
        The new state, and the metrics averaged over steps.
    """

    def one_step(state: State, batch: tuple[jax.Array, jax.Array]) -> tuple[State, Metrics]:
        return step(context, state, *_batch(step, data, *batch, mesh))

    state, metrics = jax.lax.scan(one_step, state, _epoch_order(step, data, key))
    return state, jax.tree.map(lambda values: values.mean(0), metrics)


@jit(static_argnames=("step", "mesh"))
def _compiled_epoch(
    step: Step,
    data: Dataset,
    contexts: trees.Tree,
    states: State,
    keys: jax.Array,
    number: jax.Array,
    which: jax.Array | None,
    mesh: Mesh | None,
) -> tuple[State, Metrics]:
    """Epoch `number` of the fits `which`, int32 (k,), where indices beyond the last are padding. None: all fits.

    Returns the states of all fits, and the metrics of the fits `which`.
    """

    def train(data: Dataset, number: jax.Array, *fits: Any) -> tuple[State, Metrics]:
        def one(context: trees.Tree, state: State, key: jax.Array) -> tuple[State, Metrics]:
            return epoch(step, data, context, state, jax.random.fold_in(key, number), mesh=mesh)

        return over_models(one, step.convolutions)(*fits)

    fits = (contexts, states, keys)
    if which is not None:
        # Padding repeats the last fit; `_put_back` drops it.
        fits = trees.index(fits, jnp.minimum(which, len(keys) - 1))
    new, metrics = on_mesh(train, mesh, everywhere=2)(data, number, *fits)
    return _put_back(states, which, new), metrics


@jit(static_argnames="step")
def _single_step(
    step: Step, data: Dataset, context: trees.Tree, state: State, indices: jax.Array, key: jax.Array
) -> tuple[State, Metrics]:
    return step(context, state, *_batch(step, data, indices, key))


def _epoch_from_host(
    step: Step,
    data: Dataset,
    contexts: trees.Tree,
    states: State,
    keys: jax.Array,
    number: int,
    which: np.ndarray | None,
    mesh: None,
) -> tuple[State, Metrics]:
    """`_compiled_epoch` with one compiled call per step, for models whose gradients are slow in compiled loops."""
    fits = np.arange(len(keys)) if which is None else which[which < len(keys)]
    new, means = [], []
    for i in map(int, fits):
        context, state = trees.index(contexts, i), trees.index(states, i)
        metrics = []
        for indices, key in zip(*_epoch_order(step, data, jax.random.fold_in(keys[i], number)), strict=True):
            state, measured = _single_step(step, data, context, state, indices, key)
            metrics.append(measured)
        new.append(state)
        means.append(jax.tree.map(lambda *values: jnp.stack(values).mean(), *metrics))
    return _put_back(states, None if which is None else fits, trees.stack(new)), trees.stack(means)


def _put_back(states: State, which: Any, new: State) -> State:
    """The states with `new` at the indices `which`; indices beyond the last are dropped. None: all are replaced."""
    if which is None:
        return new
    return jax.tree.map(lambda leaf, rows: leaf.at[which].set(rows, mode="drop"), states, new)


def join_histories(histories: Sequence[History]) -> History:
    """The concatenated histories of successive epochs of the same fits."""
    return {name: np.concatenate([history[name] for history in histories], 1) for name in histories[0]}


@jit(static_argnames="step")
def initial_states(step: Any, given: Any) -> Any:
    """`step.init` mapped over the leading axis of `given`, in one program."""
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
    stopping: EarlyStopping | None = None,
) -> tuple[State, History]:
    """Train several fits at once, with one compiled call per epoch.

    Args:
        step: The step of every fit.
        data: The data set.
        contexts: Arrays of the fits that are not trained, with a leading axis of fits.
        states: Initial states, with a leading axis of fits.
        keys: Typed keys (fits,), one per fit.
        recorder: The progress line, and the run folder in which complete epochs are saved, also on interruption, and
            from which fits resume. None: silent.
        epochs: Number of epochs. None: that of the step's config.
        mesh: A mesh from `make_mesh`: fits are distributed along `pair`, batches along `data`.
        stopping: Early stopping. A stopped fit keeps its state; when all have stopped, training ends.

    Returns:
        The final states, ordinary arrays that are equal in every process, and the history {"loss", "accuracy"}, float32
        (fits, epochs), in which a stopped fit repeats its last metrics.

    Raises:
        RunError: At the first epoch with a loss that is not finite; the previous epoch is kept.
        InputError: If the mesh does not divide a batch, or is combined with early stopping.
    """
    if mesh is not None:
        check_mesh(mesh, step.config.batch_size)
        if stopping is not None:
            raise InputError(
                "got a mesh and a target: expected one of them, because stopped networks would leave devices idle."
            )
    # Start, or resume from the last complete epoch.
    placement = Placement(mesh, len(keys))
    epochs = step.config.epochs if epochs is None else epochs
    images = steps_per_epoch(step.config, data) * step.config.batch_size * len(keys)
    recording = Recording(recorder or Recorder("the fit", progress=False), states, placement, epochs, images)
    if stopping is not None and recording.done:
        # Resumed fits may be at their target already.
        stopping.update(recording.states)
    # Choose one compiled call per epoch or per step, and place the arrays.
    from_host = mesh is None and steps_from_host(step.convolutions)
    run_epoch: Callable[..., tuple[State, Metrics]] = _epoch_from_host if from_host else _compiled_epoch
    data, contexts, keys = placement.put_everywhere(data), placement.put(contexts), placement.put_keys(keys)
    # Train, record and check for early stopping, epoch by epoch.
    try:
        while recording.done < epochs and (stopping is None or len(stopping.running)):
            which = None if stopping is None else stopping.selection()
            new, metrics = run_epoch(step, data, contexts, recording.states, keys, recording.done, which, mesh)
            values = {name: np.asarray(value) for name, value in placement.get(metrics._asdict()).items()}
            recording.add(new, values if stopping is None else stopping.record(values, recording.history))
            if stopping is not None:
                stopping.update(recording.states)
    finally:
        recording.close()
    return placement.get(recording.states), recording.history
