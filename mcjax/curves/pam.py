"""Proximal alternating minimisation: the permutation and the curve, learned in turn (Neuron Alignment, 3.1.1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.config import PamConfig
from mcjax.curves.curve import Curve
from mcjax.curves.fit import check_curve, fitted
from mcjax.curves.grid import grid
from mcjax.curves.half_steps import HalfStep, Iterate, Problem, advance, only, propose, rates
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.models.pairs import Pairs, pairs_of, permute_pairs
from mcjax.runs.recorder import History, Recorder
from mcjax.symmetry import Permutation
from mcjax.training.fixed import fixed_images
from mcjax.training.loop import initial_states, resolve, steps_per_epoch


class PamFit(NamedTuple):
    """A curve and the permutation learned with it; with a leading pair axis if the endpoints had one.

    history: every epoch in the order in which they ran, float32 ([pairs,] iterations *
    (permutation_epochs + epochs)). objective: Q + R at the start and after every half-step, float64
    ([pairs,] 1 + 2 * iterations); it never increases, and permutation half-steps come first. Of every
    half-step, ([pairs,] 2 * iterations): proposed, the Q + R that it proposed; proximal, the proximal
    term of that; accepted, or else the iterate stayed; moved, how many units it would move (0 for
    a curve). A proposal is refused if proposed + proximal is above the objective, or, with
    lookahead, if the curve became better without it.
    """

    theta_c: trees.Tree
    P: Permutation
    path: jax.tree_util.Partial
    history: History
    objective: np.ndarray
    proposed: np.ndarray
    proximal: np.ndarray
    accepted: np.ndarray
    moved: np.ndarray


def fit_pam(
    key: jax.Array,
    model: Model,
    curve: Curve,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    data: Dataset,
    P: Permutation | None = None,
    config: PamConfig | None = None,
    *,
    recorder: Recorder | None = None,
    mesh: Mesh | None = None,
) -> PamFit:
    """Learn the permutation of theta_2 together with the curve to it (Neuron Alignment, eq. 5, 6 and 8).

    Each iteration learns a doubly stochastic matrix per group by projected SGD at the curve as it is,
    and rounds it to permutations; then it learns the control points by SGD as `fit_curve` does, and
    they move with P. A half-step is accepted only if Q + R plus its proximal term is no more than Q + R
    was: so part 1 of Theorem 3.1 holds, whatever the activation and however bad the rounding. Q is the
    mean over fixed images and a fixed grid of t of the cross entropy by batch statistics, R that of
    weight_decay / 2 * ||r(t)||^2.

    P is where to start: None is the identity (PAM unaligned), a match's P (PAM aligned). Endpoints, and
    P, may have a leading pair axis. With a recorder in a run folder every half-step is a stage of its
    own there, and an interrupted fit goes on in the middle of one, to the same bits. With a mesh of
    `make_mesh` the epochs of all half-steps run on it. Raises what `fit_curve` raises, and InputError
    if the ends are one and the same network.

        fit = fit_pam(key, model, bezier(model.spec), theta_1, theta_2, data, P=match.P)
        print(fit.objective, fit.accepted)
    """
    check_curve(key, model, curve, data)
    config = config or PamConfig()
    if not model.spec.groups:
        raise InputError(f"no units of {model.name} can be permuted: fit its curve with fit_curve.")
    pairs = pairs_of(model, theta_1, theta_2, P, hard=True)
    _check_different(model, pairs)
    fixed = fixed_images(data, resolve(config, data), config.objective_images, config.batch_size)
    ts, steps = grid(config.objective_points), steps_per_epoch(config, data)
    problem = Problem(model, curve, config, data, pairs, ts, fixed, steps, mesh)
    recorder = recorder or Recorder("the fit", progress=False)

    states = initial_states(problem.curve_step(), pairs.theta_1)
    now = Iterate(states, pairs.P, problem.objective(states.theta_c, only(pairs.P))[:, 0])
    objectives, histories = [now.objective], []
    half_steps: list[HalfStep] = []
    rate = rates(problem, now)
    for k in range(config.iterations):
        titles = {name: f"{recorder.title}, {name} {k + 1}/{config.iterations}" for name in ("permutation", "curve")}
        stages = [recorder._replace(title=titles[name], stage=f"{recorder.stage}_{k}_{name}") for name in titles]
        permutation_key, curve_key = jax.random.split(jax.random.fold_in(key, k))
        annealed = {group: config.annealing**k * each for group, each in rate.items()}
        proposal, learned = propose(problem, now, annealed, permutation_key, stages[0])
        now, both, advanced = advance(problem, now, proposal, curve_key, stages[1])
        objectives += [step.objective for step in both]
        half_steps += both
        histories += [learned, advanced]
    history = {name: np.concatenate([each[name] for each in histories], 1) for name in histories[0]}
    reported = {name: np.stack([getattr(step, name) for step in half_steps], 1) for name in HalfStep._fields}
    reported["objective"] = np.stack(objectives, 1)
    return PamFit(
        **fitted(pairs, curve, now.curve.theta_c, now.P), history=pairs.unbatch(history), **pairs.unbatch(reported)
    )


@jax.jit
@jax.vmap
def _equal(a: trees.Tree, b: trees.Tree) -> jax.Array:
    return jnp.stack(jax.tree.leaves(jax.tree.map(lambda x, y: (x == y).all(), a, b))).all()


def _check_different(model: Model, pairs: Pairs) -> None:
    ends = (trees.params(pairs.theta_1), trees.params(permute_pairs(model, pairs.P, pairs.theta_2)))
    if np.asarray(_equal(*ends)).any():
        raise InputError("theta_1 and P theta_2 are the same network: expected two different ones to join.")
