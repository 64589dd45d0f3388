"""The training loop of all fits: an epoch of several fits in one compiled call, with recording and resuming."""

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.data.stream import Stream
from mcjax.errors import InputError
from mcjax.runs.recorder import History, Recorder, Recording, checked_recorder
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models
from mcjax.runtime.mesh import Placement, check_mesh, check_parts, on_mesh, put_batches, split
from mcjax.training.criterion import EarlyStopping
from mcjax.training.fit import Fit
from mcjax.training.loss import Batch
from mcjax.training.task import Task, examples, reading_processes

State = Any
"""The state of a fit, a NamedTuple such as `FitState`, with what never changes in its field `fixed`."""
Metrics = dict[str, jax.Array]


class EpochPlan(NamedTuple):
    """The batches of an epoch. Static under jit.

    Attributes:
        batch_size: Examples per step.
        steps: Number of steps; for an epoch that is one pass over a stream, the largest number.
        passes: Whether an epoch is one pass over the training examples.
    """

    batch_size: int
    steps: int
    passes: bool = True


def epoch_plan(task: Task, batch_size: int, steps_per_epoch: int | None) -> EpochPlan:
    """The plan of an epoch: so many steps, or as many as there are whole batches among the training examples.

    Raises:
        InputError: If a batch is larger than the training split, or nobody says how many batches a stream has.
    """
    stream = task.train if isinstance(task.train, Stream) else None
    n: Any = examples(task.train) if stream is None else stream.most_of(reading_processes())
    if n is None and steps_per_epoch is None:
        raise InputError(
            f"got {task.train.name} without a length, or without an end, expected steps_per_epoch, the steps of an "
            "epoch; or mcjax.data.Stream(batches, examples=n), the number of a pass."
        )
    if n is not None and batch_size > n:
        raise InputError(f"got batch_size={batch_size}, expected at most the {n} training examples of {task.name}.")
    return EpochPlan(batch_size, steps_per_epoch or n // batch_size, steps_per_epoch is None)


def _epoch_order(plan: EpochPlan, n: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The indices of the examples of every batch of an epoch, int (steps, batch_size), and a key per step."""
    size, steps, _ = plan
    order_key, steps_key = jax.random.split(key)
    passes = -(-steps // (n // size))
    # The shuffled order of examples, in as many passes over them as the steps need.
    if size == n:  # the order inside a full batch does not matter
        order = jnp.broadcast_to(jnp.arange(n), (steps, n))
    elif passes == 1:
        order = jax.random.permutation(order_key, n)[: steps * size]
    else:  # every pass has its own order, and leaves out other examples
        keys = jax.random.split(order_key, passes)
        order = jax.vmap(lambda key: jax.random.permutation(key, n)[: n // size * size])(keys).ravel()[: steps * size]
    return order.reshape(steps, size), jax.random.split(steps_key, steps)


def epoch(
    fit: Fit, task: Task, plan: EpochPlan, state: State, key: jax.Array, *, mesh: Mesh | None = None
) -> tuple[State, Metrics]:
    """One epoch of one fit: a pass over the shuffled training examples, or the number of steps of the plan.

    Examples beyond the last whole batch are left out, other ones in every epoch. Pure: works under jit and vmap.

    Args:
        fit: The fit.
        task: The task, for its examples and their augmentation.
        plan: The batches.
        state: State of the fit.
        key: Key of the epoch, for the order, augmentation and the random parts of the step.
        mesh: The mesh, inside `on_mesh`; batches are then split along its `data` axis.

    Returns:
        The new state, and the metrics averaged over steps. "bad_step" and "bad_t" say where the loss was first not
        finite, if it was.
    """
    fixed = state.fixed

    def one_step(state: State, given: tuple[jax.Array, jax.Array]) -> tuple[State, Metrics]:
        indices, key = split(given[0], mesh), given[1]
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[indices], task.train)
        return _step(fit, task, fixed, state, batch, key, mesh)

    order = _epoch_order(plan, examples(task.train), key)
    state, metrics = jax.lax.scan(one_step, state._replace(fixed=()), order)
    return state._replace(fixed=fixed), _epoch_metrics(metrics)


def _step(
    fit: Fit, task: Task, fixed: Any, state: State, batch: Batch, key: jax.Array, mesh: Mesh | None
) -> tuple[State, Metrics]:
    """One step on a batch, which is augmented first. What never changes, `fixed`, is no part of the state."""
    augment_key, step_key = jax.random.split(key)
    # Images are augmented as they are stored, in uint8, which the loss normalises.
    batch = batch if task.augment is None else task.augment(augment_key, batch)
    new, metrics = fit.step(state._replace(fixed=fixed), split(batch, mesh), step_key)
    return new._replace(fixed=()), metrics


def _epoch_metrics(metrics: Metrics) -> Metrics:
    """The means of metrics over steps, (steps,) each, and the place of the first loss that is not finite."""
    ts = metrics.pop("t", jnp.full_like(metrics["loss"], jnp.nan))
    first = jnp.argmax(~jnp.isfinite(metrics["loss"]))
    return {**{name: values.mean(0) for name, values in metrics.items()}, "bad_step": first, "bad_t": ts[first]}


class Feed(NamedTuple):
    """Batches of a stream on the devices.

    Attributes:
        batches: Arrays (k, size, ...).
        first: The first batch that is used, int32.
        steps: The number of batches that are used, a step each, int32.
        start: The step of the epoch that the first is for, int32.
    """

    batches: Batch
    first: Any
    steps: Any
    start: Any


def _some_steps(
    fit: Fit, task: Task, plan: EpochPlan, feed: Feed, state: State, key: jax.Array, mesh: Mesh | None
) -> tuple[State, Metrics]:
    """The steps of one fit on the batches of a feed, and the metrics of each, (k,), of which `steps` are filled."""
    fixed, state = state.fixed, state._replace(fixed=())
    # The keys of an epoch of this many steps on arrays.
    keys = jax.random.split(jax.random.split(key)[1], plan.steps)

    # Traced once, for the shapes of the metrics and for the loop.
    @partial(jax.jit, inline=True)
    def one_step(i: Any, state: State) -> tuple[State, Metrics]:
        batch = split(trees.index(feed.batches, feed.first + i), mesh)
        return _step(fit, task, fixed, state, batch, keys[feed.start + i], mesh)

    def add(i: Any, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
        state, metrics = one_step(i, carry[0])
        return state, jax.tree.map(lambda filled, value: filled.at[i].set(value), carry[1], metrics)

    k = len(jax.tree.leaves(feed.batches)[0])
    shapes = jax.eval_shape(one_step, jnp.int32(0), state)[1]
    metrics = jax.tree.map(lambda leaf: jnp.zeros((k, *leaf.shape), leaf.dtype), shapes)
    state, metrics = jax.lax.fori_loop(jnp.int32(0), feed.steps, add, (state, metrics))
    return state._replace(fixed=fixed), metrics


@jit(static_argnames=("plan", "mesh"))
def _compiled_epoch(
    fit: Fit,
    task: Task,
    plan: EpochPlan,
    states: State,
    keys: jax.Array,
    number: jax.Array,
    which: jax.Array | None,
    mesh: Mesh | None,
    feed: Feed | None = None,
) -> tuple[State, Metrics]:
    """Epoch `number`, or its steps on one feed, of the fits `which`, int32 (k,). None: all fits.

    Indices in `which` beyond the last are padding. Returns the states of all fits, without `fixed`, and the metrics of
    the fits `which`: of the epoch, or of each step of the feed.
    """

    def train(fit: Fit, task: Task, number: jax.Array, feed: Feed | None, *fits: Any) -> tuple[State, Metrics]:
        def one(state: State, key: jax.Array, *first: jax.Array) -> tuple[State, Metrics]:
            key = jax.random.fold_in(key, number)
            if feed is None:
                new, metrics = epoch(fit, task, plan, state, key, mesh=mesh)
            else:
                new, metrics = _some_steps(fit, task, plan, feed._replace(first=first[0]), state, key, mesh)
            return new._replace(fixed=()), metrics

        # An index for each fit gives their batches an axis of fits, which those of arrays have: to the bit the same.
        first = () if feed is None else (jnp.broadcast_to(feed.first, fits[1].shape),)
        return over_models(one)(*fits, *first)

    fits = (states, keys)
    if which is not None:
        # Padding repeats the last fit; `_put_back` drops it.
        fits = trees.index(fits, jnp.minimum(which, len(keys) - 1))
    new, metrics = on_mesh(train, mesh, everywhere=4)(fit, task, number, feed, *fits)
    return _put_back(states._replace(fixed=()), which, new), metrics


def _feeds(stream: Stream, plan: EpochPlan, mesh: Mesh | None, done: int, epochs: int) -> Generator[Feed | None]:
    """The batches of the epochs from `done` to `epochs`, on the devices, with None at the end of each epoch."""
    processes = reading_processes()
    size = plan.batch_size // processes.number
    taken = stream.epochs(size, plan.steps, passes=plan.passes, done=done, total=epochs, processes=processes)
    block = batches = None
    with closing(taken):
        for given in taken:
            if given is not None:
                if given.block is not block:
                    # The block before is let go first.
                    block = given.block
                    batches = put_batches(block, mesh)
                yield Feed(batches, *map(np.int32, given[1:]))
            else:
                yield None


def _means(placement: Placement, feeds: list[tuple[Metrics, int]]) -> Metrics:
    """The metrics of an epoch from those of the steps of each feed."""
    steps = [jax.tree.map(lambda leaf, n=n: np.asarray(leaf)[:, :n], placement.get(metrics)) for metrics, n in feeds]
    return _means_of_steps(jax.tree.map(lambda *leaves: np.concatenate(leaves, 1), *steps))


_means_of_steps = jax.jit(jax.vmap(_epoch_metrics))


def _put_back(states: State, which: Any, new: State) -> State:
    """The states with `new` at the indices `which`; indices beyond the last are dropped. None: all are replaced."""
    if which is None:
        return new
    return jax.tree.map(lambda leaf, rows: leaf.at[which].set(rows, mode="drop"), states, new)


def join_histories(histories: Sequence[History]) -> History:
    """The concatenated histories of successive epochs of the same fits."""
    return {name: np.concatenate([history[name] for history in histories], 1) for name in histories[0]}


@jit()
def initial_states(fit: Fit, *given: Any) -> Any:
    """`fit.init` mapped over the leading axis of its arguments, in one program."""
    return jax.vmap(fit.init)(*given)


def run_epochs(
    fit: Fit,
    task: Task,
    plan: EpochPlan,
    states: State,
    keys: jax.Array,
    epochs: int,
    recorder: Recorder | None = None,
    *,
    mesh: Mesh | None = None,
    stopping: EarlyStopping | None = None,
    before: int = 0,
) -> tuple[State, History]:
    """Train several fits at once, with one compiled call per epoch.

    Args:
        fit: The fit.
        task: The task.
        plan: The batches of an epoch.
        states: Initial states, with a leading axis of fits.
        keys: Typed keys (fits,), one per fit.
        epochs: Number of epochs.
        recorder: The progress line, and the run folder in which complete epochs are saved, also on interruption, and
            from which fits resume. None: silent.
        mesh: A mesh from `make_mesh`: fits are distributed along `pair`, batches along `data`.
        stopping: Early stopping. A stopped fit keeps its state; when all have stopped, training ends.
        before: Number of epochs in calls before this one, whose batches of a stream were used.

    Returns:
        The final states, ordinary arrays that are equal in every process, and the history by metric, float32
        (fits, epochs), in which a stopped fit repeats its last metrics.

    Raises:
        RunError: At the first epoch with a loss that is not finite; the previous epoch is kept.
        KeyboardInterrupt: On interruption, with a note of the epochs that are complete.
        InputError: If the mesh does not divide a batch, or is combined with early stopping; and for a stream that ends
            early or changes. Complete epochs are kept then, and when a stream raises an error of its own.
    """
    if isinstance(task.train, Stream):
        check_parts(mesh, plan.batch_size)
    if mesh is not None:
        check_mesh(mesh, plan.batch_size)
        if stopping is not None:
            raise InputError(
                "got a mesh and a target: expected one of them, because stopped networks would leave devices idle."
            )
    # Start, or resume from the last complete epoch.
    placement = Placement(mesh, len(keys))
    fixed, states = placement.put(states.fixed), states._replace(fixed=())
    seen = plan.steps * plan.batch_size * len(keys)
    recording = Recording(checked_recorder(recorder), states, placement, epochs, seen)
    if stopping is not None and recording.done:
        # Resumed fits may be at their target already.
        stopping.update(recording.states)
    # The name makes no other program, and the other splits need not lie on every device.
    feeds = None
    if isinstance(task.train, Stream):
        feeds = _feeds(task.train, plan, mesh, before + recording.done, before + epochs)
    task = task.replace(test=None, validation=None, name="", **({} if feeds is None else {"train": None}))
    task, fit, keys = placement.put_everywhere(task), placement.put_everywhere(fit), placement.put(keys)
    # Train, record and check for early stopping, epoch by epoch.
    try:
        while recording.done < epochs and (stopping is None or len(stopping.running)):
            which = None if stopping is None else stopping.selection()
            new, each = recording.states, []
            for feed in [None] if feeds is None else iter(partial(next, feeds), None):
                given = (fit, task, plan, new._replace(fixed=fixed), keys, recording.done, which, mesh, feed)
                new, metrics = _compiled_epoch(*given)
                each.append(metrics if feed is None else (metrics, int(feed.steps)))
                if len(each) > 1:
                    # Never more than two feeds wait on the device.
                    jax.block_until_ready(each[-2])
            metrics = placement.get(metrics) if feeds is None else _means(placement, each)
            values = {name: np.asarray(value) for name, value in metrics.items()}
            recording.add(new, values if stopping is None else stopping.record(values, recording.history))
            if stopping is not None:
                stopping.update(recording.states)
    except KeyboardInterrupt as error:
        recording.interrupted(error)
        raise
    finally:
        if feeds is not None:
            feeds.close()
        recording.close()
    return placement.get(recording.states)._replace(fixed=placement.get(fixed)), recording.history
