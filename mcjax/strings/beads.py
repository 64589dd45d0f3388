"""The beads of strings: their starts, their penalties, and the training of many beads to their targets at once."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data import Dataset
from mcjax.models.base import Model
from mcjax.runs.progress import Progress
from mcjax.runs.recorder import Recorder
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import default_chunk
from mcjax.strings.config import StringConfig
from mcjax.training.early_stopping import EarlyStopping
from mcjax.training.endpoints import EndpointState, EndpointStep
from mcjax.training.loop import run_epochs, steps_per_epoch


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
    """The parameters of both neighbours of a bead; `active` is 1, or 0 for an end of a string, which has none."""

    before: trees.Tree
    after: trees.Tree
    active: Any = 1.0


@dataclass(frozen=True)
class BeadStep(EndpointStep):
    """One step on the objective of a constrained string (Freeman and Bruna 2017, appendix A).

    Between neighbours a and b a bead descends F(theta) + zeta (||theta - a|| + ||theta - b||) +
    kappa / 2 <d, theta - (a + b) / 2>^2, with d the unit vector along b - a. The last term vanishes in the
    hyperplane equidistant from both, since <b - a, theta - (a + b) / 2> = (||theta - a||^2 - ||theta - b||^2) / 2.

    The paper prints (a - b) / 2 in place of the midpoint, a wrong sign: that plane would move with the origin. It
    also takes the absolute value; the square has a gradient that vanishes in the plane. With kappa = inf a bead
    is projected onto the plane after every step.
    """

    zeta: float = 0.0
    kappa: float = 0.0

    def penalty(self, context: Any, params: trees.Tree) -> jax.Array:
        """The terms with zeta and kappa; `context` is a `Neighbours`."""
        # Appendix A: zeta (||theta - a|| + ||theta - b||), then kappa times the square of the distance from the plane.
        total = jnp.zeros(())
        if self.zeta > 0:
            total = total + self.zeta * (_distance(params, context.before) + _distance(params, context.after))
        if 0 < self.kappa < math.inf:
            total = total + self.kappa / 2 * jnp.square(plane_offset(context, params)[0])
        return total * (context.active if self.zeta > 0 or self.kappa > 0 else 1.0)

    def project(self, context: Any, params: trees.Tree) -> trees.Tree:
        """The nearest point of the equidistant hyperplane if kappa is infinite, else the parameters as they are."""
        if self.kappa < math.inf:
            return params
        offset, normal = plane_offset(context, params)
        return trees.subtract(params, trees.scale(offset * context.active, normal))


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
    params = trees.params(theta)
    direction = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), params)
    chord = jax.tree.map(np.subtract, trees.params(after), trees.params(before))
    length = _norm(chord)
    if in_plane and length > 0:
        along = sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(chord), jax.tree.leaves(direction), strict=True))
        direction = jax.tree.map(lambda d, c: d - along / length**2 * c, direction, chord)
    scale = noise * length / _norm(direction)
    return trees.with_params(
        theta, jax.tree.map(lambda leaf, step: (leaf + scale * step).astype(leaf.dtype), params, direction)
    )


def _norm(tree: trees.Tree) -> float:
    return float(np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(tree))))


def train_beads(
    model: Model,
    data: Dataset,
    config: StringConfig,
    beads: list[UntrainedBead],
    epochs: int | None = None,
    progress: Progress | None = None,
) -> list[TrainedBead]:
    """Train each bead until its criterion is at most its target, or for the maximum number of epochs.

    Args:
        model: The model of all beads.
        data: The data, on the device.
        config: Training, criterion and penalties; `chunk` beads are trained at once, in one program.
        beads: The beads to train.
        epochs: Maximum number of epochs of a bead (None: that of the config).
        progress: The progress line that shows the epochs, or None.

    Returns:
        The beads after training, in the same order.

    Raises:
        RunError: A loss is not finite.
    """
    chunk = config.chunk or default_chunk(model.convolutions)
    trained: list[TrainedBead] = []
    for i in range(0, len(beads), chunk):
        trained += _train_chunk(model, data, config, beads[i : i + chunk], chunk, epochs, progress)
    return trained


def _train_chunk(
    model: Model,
    data: Dataset,
    config: StringConfig,
    beads: list[UntrainedBead],
    size: int,
    epochs: int | None,
    progress: Progress | None,
) -> list[TrainedBead]:
    step = BeadStep(model, config, steps_per_epoch(config, data), config.zeta, config.kappa)
    # Fill up to `size` with copies of the last bead, so that one program serves every chunk. Their target is infinity,
    # so they are not trained.
    filled = [beads[min(row, len(beads) - 1)] for row in range(size)]
    targets = np.where(np.arange(size) < len(beads), [bead.target for bead in filled], np.inf)
    theta = trees.stack_on_host([bead.theta for bead in filled])
    neighbours: Any = {}
    if config.zeta > 0 or config.kappa > 0:
        before = trees.params(trees.stack_on_host([bead.before or bead.theta for bead in filled]))
        after = trees.params(trees.stack_on_host([bead.after or bead.theta for bead in filled]))
        active = np.array([bead.before is not None for bead in filled], np.float32)
        neighbours = Neighbours(before, after, active)
    keys = jnp.stack([bead.key for bead in filled])
    stopping = EarlyStopping(model, config.criterion, data, targets)
    recorder = Recorder("a bead", progress=progress or False)
    states, _ = run_epochs(step, data, neighbours, _start(step, theta), keys, recorder, epochs, stopping=stopping)
    host = jax.tree.map(np.asarray, states.theta)
    return [
        TrainedBead(trees.index(host, i), float(stopping.values[i]), int(stopping.epochs[i])) for i in range(len(beads))
    ]


@jit(static_argnames="step")
def _start(step: BeadStep, theta: trees.Tree) -> EndpointState:
    return jax.vmap(step.start)(theta)
