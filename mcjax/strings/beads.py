"""The beads of strings: their starts, their penalties, and the training of many beads to their targets at once."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mcjax import trees
from mcjax.errors import InputError
from mcjax.runs.progress import Progress
from mcjax.runs.recorder import Recorder
from mcjax.strings.config import StringConfig, check_penalties
from mcjax.training.config import make_optimizer
from mcjax.training.criterion import EarlyStopping
from mcjax.training.endpoints import endpoint_fit
from mcjax.training.fit import ComputeDtype, Descent, Fit, FitState, fit_of, parts_of
from mcjax.training.loop import epoch_plan, initial_states, run_epochs
from mcjax.training.task import Task, networks_at_once


class UntrainedBead(NamedTuple):
    """A network to be trained.

    Attributes:
        theta: The network at the start, on the host.
        before: Its neighbour on the side of theta_1, on the host; None for an end of a string, which has no penalty.
        after: Its neighbour on the side of P theta_2, or None.
        key: The key of the order of batches.
        target: The value of the criterion at which training stops.
    """

    theta: trees.Tree
    before: trees.Tree | None
    after: trees.Tree | None
    key: jax.Array
    target: float


class TrainedBead(NamedTuple):
    """A network after training, on the host, its criterion, and the number of epochs it took."""

    theta: trees.Tree
    value: float
    epochs: int


class Neighbours(NamedTuple):
    """The parameters of both neighbours of a bead that are trained, in float32 at least.

    `active` is 1, or 0 for an end of a string, which has none.
    """

    before: trees.Tree
    after: trees.Tree
    active: Any = 1.0


@dataclass(frozen=True)
class BeadPenalty:
    """The terms with zeta and kappa in the objective of a bead, as in `bead_fit`."""

    zeta: float
    kappa: float

    def __call__(self, params: trees.Tree, neighbours: Neighbours) -> jax.Array:
        total = jnp.zeros(())
        if self.zeta > 0:
            total = total + self.zeta * (_distance(params, neighbours.before) + _distance(params, neighbours.after))
        if 0 < self.kappa < math.inf:
            total = total + self.kappa / 2 * jnp.square(plane_offset(neighbours, params)[0])
        return total * neighbours.active


def step_in_plane(params: trees.Tree, updates: trees.Tree, neighbours: Neighbours) -> trees.Tree:
    """The parameters after the optimiser's updates, moved to the nearest point of the equidistant hyperplane."""
    moved = optax.apply_updates(params, updates)
    offset, normal = plane_offset(neighbours, moved)
    return trees.add(moved, trees.scale(-offset * neighbours.active, normal))


def bead_fit(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    zeta: float = 0.0,
    kappa: float = 0.0,
    weight_decay: float = 0.0,
    statistics_momentum: float = 0.9,
    compute_dtype: ComputeDtype = "float32",
) -> Fit:
    """The training of a bead of a constrained string as a `Fit`, for a loop of your own.

    Between neighbours a and b a bead descends F(theta) + zeta (||theta - a|| + ||theta - b||) +
    kappa / 2 <d, theta - (a + b) / 2>^2, with d the unit vector along b - a. The last term vanishes in the
    hyperplane equidistant from both, since <b - a, theta - (a + b) / 2> = (||theta - a||^2 - ||theta - b||^2) / 2.

    The paper prints (a - b) / 2 in place of the midpoint, a wrong sign: that plane would move with the origin. It
    also takes the absolute value; the square has a gradient that vanishes in the plane. With kappa = inf a bead
    is projected onto the plane after every step. Source: Freeman and Bruna 2017, appendix A.

    Args:
        task: The task, of which only the loss F is used.
        optimizer: Any optimiser of optax.
        zeta: Weight of the distances to both neighbours.
        kappa: Weight of the squared distance from the equidistant hyperplane; inf keeps the bead in it.
        weight_decay: Factor of ||params||^2 / 2 in the objective.
        statistics_momentum: Weight of the old value in the running batch statistics at each step.
        compute_dtype: Dtype of the forward and backward pass.

    Returns:
        The fit. `init(theta, before=None, after=None)` makes its state from a network and its neighbours, an end of a
        string having none and so no penalty; its `variables` are the network.

    Raises:
        InputError: If the task or the optimiser is none, or a weight is out of range.

    Example::

        fit = bead_fit(task, optax.adam(1e-3), kappa=math.inf)
        state = fit.init(middle, theta_1, theta_2)
        state, metrics = jax.jit(fit.step)(state, batch, key)
    """
    check_penalties(zeta, kappa)
    plain = endpoint_fit(
        task,
        optimizer,
        weight_decay=weight_decay,
        statistics_momentum=statistics_momentum,
        compute_dtype=compute_dtype,
    )
    descent, loss = parts_of(plain)
    penalty = BeadPenalty(zeta, kappa) if zeta > 0 or 0 < kappa < math.inf else None
    retract = step_in_plane if kappa == math.inf else None
    return fit_of(replace(descent, penalty=penalty, retract=retract), loss, _init)


def _init(
    descent: Descent, theta: trees.Tree, before: trees.Tree | None = None, after: trees.Tree | None = None
) -> FitState:
    """The state of a bead, with its neighbours if it is held by them."""
    if (before is None) != (after is None):
        raise InputError("got one neighbour of a bead, expected both, or none for an end of a string.")
    if descent.penalty is None and descent.retract is None:
        return descent.start(theta)
    a, b = (trees.widened(trees.trained(theta if end is None else end)) for end in (before, after))
    return descent.start(theta, Neighbours(a, b, jnp.asarray(before is not None, jnp.float32)))


def plane_offset(neighbours: Neighbours, params: trees.Tree) -> tuple[jax.Array, trees.Tree]:
    """The signed distance of parameters from the hyperplane equidistant from two networks, and the unit normal."""
    before, after, _ = neighbours
    chord = trees.subtract(after, before)
    length = trees.norm(chord)
    normal = trees.scale(1 / jnp.where(length > 0, length, 1), chord)
    return trees.dot(normal, trees.subtract(params, trees.scale(0.5, trees.add(before, after)))), normal


def _distance(a: trees.Tree, b: trees.Tree) -> jax.Array:
    difference = trees.subtract(a, b)
    square = trees.dot(difference, difference)
    # The gradient of the root is infinite at zero; this form has the gradient zero there.
    return jnp.sqrt(jnp.where(square > 0, square, 1.0)) * (square > 0)


def displace(
    key: jax.Array, theta: trees.Tree, before: trees.Tree, after: trees.Tree, noise: float, in_plane: bool
) -> trees.Tree:
    """Move parameters in a random direction by `noise` times the length of a segment, in numpy.

    Args:
        key: The key of the direction.
        theta: The network to move.
        before: One end of the segment.
        after: The other end.
        noise: The size of the move, as a share of the segment's length.
        in_plane: Whether the direction is orthogonal to the segment.

    Returns:
        The displaced network, on the host.
    """
    if noise == 0:
        return theta
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    params, before, after = (trees.trained(each) for each in (theta, before, after))
    direction = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), params)
    chord = jax.tree.map(lambda a, b: np.subtract(a, b, dtype=np.promote_types(a.dtype, np.float32)), after, before)
    length = _norm(chord)
    if in_plane and length > 0:
        along = sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(chord), jax.tree.leaves(direction), strict=True))
        direction = jax.tree.map(lambda d, c: d - along / length**2 * c, direction, chord)
    scale = noise * length / _norm(direction)
    moved = jax.tree.map(lambda leaf, step: (leaf + scale * step).astype(leaf.dtype), params, direction)
    return trees.with_trained(theta, moved)


def _norm(tree: trees.Tree) -> float:
    return float(np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(tree))))


def train_beads(
    task: Task,
    config: StringConfig,
    beads: list[UntrainedBead],
    epochs: int | None = None,
    progress: Progress | None = None,
) -> list[TrainedBead]:
    """Train each bead until its criterion is at most its target, or for the maximum number of epochs.

    Args:
        task: The task, on the device.
        config: Training, criterion and penalties; `chunk` beads are trained at once, in one program.
        beads: The beads to train.
        epochs: Maximum number of epochs of a bead (None: that of the config).
        progress: The progress line that shows the epochs, or None.

    Returns:
        The beads after training, in the same order.

    Raises:
        RunError: A loss is not finite.
    """
    if not beads:
        return []
    chunk = config.chunk or networks_at_once(task, beads[0].theta)
    trained: list[TrainedBead] = []
    for i in range(0, len(beads), chunk):
        trained += _train_chunk(task, config, beads[i : i + chunk], chunk, epochs, progress)
    return trained


def _train_chunk(
    task: Task,
    config: StringConfig,
    beads: list[UntrainedBead],
    size: int,
    epochs: int | None,
    progress: Progress | None,
) -> list[TrainedBead]:
    training = config.training
    plan = epoch_plan(task, training.batch_size, training.steps_per_epoch)
    fit = bead_fit(
        task,
        make_optimizer(training.optimizer, training.epochs, plan.steps),
        zeta=config.zeta,
        kappa=config.kappa,
        weight_decay=training.weight_decay,
        statistics_momentum=training.statistics_momentum,
        compute_dtype=training.compute_dtype,
    )
    # Fill up to `size` with copies of the last bead, so that one program serves every chunk. Their target is infinity,
    # so they are not trained.
    filled = [beads[min(row, len(beads) - 1)] for row in range(size)]
    targets = np.where(np.arange(size) < len(beads), [bead.target for bead in filled], np.inf)
    theta = trees.stack_on_host([bead.theta for bead in filled])
    if config.zeta > 0 or config.kappa > 0:
        before = trees.stack_on_host([bead.theta if bead.before is None else bead.before for bead in filled])
        after = trees.stack_on_host([bead.theta if bead.after is None else bead.after for bead in filled])
        states = initial_states(fit, theta, before, after)
        active = jnp.array([bead.before is not None for bead in filled], jnp.float32)
        states = states._replace(fixed=states.fixed._replace(active=active))
    else:
        states = initial_states(fit, theta)
    keys = jnp.stack([bead.key for bead in filled])
    stopping = EarlyStopping(config.criterion, task, targets)
    recorder = Recorder("a bead", progress=progress or False)
    states, _ = run_epochs(fit, task, plan, states, keys, epochs or training.epochs, recorder, stopping=stopping)
    host = trees.on_host(states.variables)
    return [
        TrainedBead(trees.index(host, i), float(stopping.values[i]), int(stopping.epochs[i])) for i in range(len(beads))
    ]
