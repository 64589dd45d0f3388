"""Training the beads of strings, many at once, each until it is good enough."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data import Dataset
from mcjax.models.base import Model
from mcjax.runs.recorder import Recorder
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import chunk_for
from mcjax.strings.config import StringConfig
from mcjax.training.early_stopping import EarlyStopping
from mcjax.training.endpoints import EndpointState, EndpointStep
from mcjax.training.loop import run_epochs, steps_per_epoch


class Bead(NamedTuple):
    """A network to be trained: where it starts and between which networks, all on the host, and its key.

    before, after: its neighbours; None for the end of a string, which nothing pulls at. target: the criterion
    at which it stops.
    """

    theta: trees.Tree
    before: trees.Tree | None
    after: trees.Tree | None
    key: jax.Array
    target: float


class Neighbours(NamedTuple):
    """The parameters of the networks before and after a bead; inner: 1, or 0 for an end, which has none."""

    before: trees.Tree
    after: trees.Tree
    inner: Any = 1.0


class Trained(NamedTuple):
    """A bead after training: the network, on the host, its criterion, and how many epochs it took."""

    theta: trees.Tree
    value: float
    epochs: int


@dataclass(frozen=True)
class BeadStep(EndpointStep):
    """One step on the objective of a constrained string (Freeman and Bruna, appendix A).

    Between neighbours a and b a bead descends F(theta) + zeta (||theta - a|| + ||theta - b||) +
    kappa / 2 <d, theta - (a + b) / 2>^2, with d the unit vector along b - a. The last term vanishes in the
    hyperplane equidistant from both, since <b - a, theta - (a + b) / 2> = (||theta - a||^2 - ||theta - b||^2) / 2.
    The paper prints (a - b) / 2 for the midpoint too, which has its sign wrong: that plane would pass through
    the difference of the neighbours and move with the origin. It also takes the absolute value; the square has
    a gradient that ends in the plane. kappa = inf puts a bead back into the plane after every step.
    """

    zeta: float = 0.0
    kappa: float = 0.0

    def pull(self, context: Any, params: trees.Tree) -> jax.Array:
        """zeta times the distances to the neighbours, and the stiffness of the plane."""
        total = jnp.zeros(())
        if self.zeta > 0:
            total = total + self.zeta * (_distance(params, context.before) + _distance(params, context.after))
        if 0 < self.kappa < math.inf:
            total = total + self.kappa / 2 * jnp.square(off_plane(context, params)[0])
        return total * (context.inner if self.zeta > 0 or self.kappa > 0 else 1.0)

    def hold(self, context: Any, params: trees.Tree) -> trees.Tree:
        """In the plane, if it is infinitely stiff."""
        if self.kappa < math.inf:
            return params
        off, normal = off_plane(context, params)
        return trees.subtract(params, trees.scale(off * context.inner, normal))


def off_plane(neighbours: Neighbours, params: trees.Tree) -> tuple[jax.Array, trees.Tree]:
    """How far parameters are from the hyperplane equidistant from two networks, and the plane's unit normal."""
    before, after, _ = neighbours
    chord = trees.subtract(after, before)
    length = trees.norm(chord)
    normal = trees.scale(1 / jnp.where(length > 0, length, 1), chord)
    return trees.dot(normal, trees.subtract(params, trees.scale(0.5, trees.add(before, after)))), normal


def _distance(a: trees.Tree, b: trees.Tree) -> jax.Array:
    difference = trees.subtract(a, b)
    square = trees.dot(difference, difference)
    # The gradient of the root at zero is infinite; there is none to follow there.
    return jnp.sqrt(jnp.where(square > 0, square, 1.0)) * (square > 0)


def train_beads(
    model: Model,
    data: Dataset,
    config: StringConfig,
    beads: list[Bead],
    epochs: int | None = None,
    progress: bool | Callable[[str, int, int, int], Any] = False,
) -> list[Trained]:
    """Train each bead until its criterion is at most its target, or until its epochs are over.

    `config.chunk` of them are on the device at once, in one program, an epoch a call. Raises RunError if a
    loss is not finite.
    """
    chunk = config.chunk or chunk_for(model.convolutions)
    trained: list[Trained] = []
    for i in range(0, len(beads), chunk):
        trained += _train(model, data, config, beads[i : i + chunk], chunk, epochs, progress)
    return trained


def _train(
    model: Model, data: Dataset, config: StringConfig, beads: list[Bead], size: int, epochs: int | None, progress: Any
) -> list[Trained]:
    step = BeadStep(model, config, steps_per_epoch(config, data), config.zeta, config.kappa)
    # Always as many, so that one program serves: those beyond the last bead are not trained.
    rows = np.minimum(np.arange(size), len(beads) - 1)
    targets = np.where(np.arange(size) < len(beads), [beads[row].target for row in rows], np.inf)
    theta = trees.stack_on_host([beads[row].theta for row in rows])
    neighbours: Any = {}
    if config.zeta > 0 or config.kappa > 0:
        each = [(bead.before or bead.theta, bead.after or bead.theta) for bead in (beads[row] for row in rows)]
        before, after = (trees.params(trees.stack_on_host([pair[side] for pair in each])) for side in (0, 1))
        inner = np.array([bead.before is not None for bead in (beads[row] for row in rows)], np.float32)
        neighbours = Neighbours(before, after, inner)
    keys = jnp.stack([beads[row].key for row in rows])
    stopping = EarlyStopping(model, config.criterion, data, targets)
    recorder = Recorder("a bead", progress=progress)
    states, _ = run_epochs(step, data, neighbours, _start(step, theta), keys, recorder, epochs, stopping=stopping)
    host = jax.tree.map(np.asarray, states.theta)
    return [
        Trained(trees.index(host, i), float(stopping.values[i]), int(stopping.epochs[i])) for i in range(len(beads))
    ]


@jit(static_argnames="step")
def _start(step: BeadStep, theta: trees.Tree) -> EndpointState:
    return jax.vmap(step.start)(theta)
