"""The two half-steps of PAM: a permutation is proposed, the curve advances, and what is worse is refused."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.config import TRAVEL, PamConfig
from mcjax.curves.curve import Curve
from mcjax.curves.fit import CurveState, CurveStep, Ends, FitConfig
from mcjax.curves.grid import objective_on_grid
from mcjax.curves.pam_step import Fixed, PermutationState, PermutationStep, tangent
from mcjax.curves.rounding import candidates
from mcjax.data import Dataset
from mcjax.models.base import Model
from mcjax.models.pairs import Pairs, permute_pairs
from mcjax.runs.recorder import History, Recorder
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import over_models, over_points
from mcjax.runtime.processes import by_first
from mcjax.symmetry import Permutation, to_matrix
from mcjax.training.config import TrainConfig
from mcjax.training.fixed import FixedImages
from mcjax.training.loop import run_epochs


@dataclass(frozen=True, eq=False)
class Problem:
    """What all half-steps of one call share."""

    model: Model
    curve: Curve
    config: PamConfig
    data: Dataset
    pairs: Pairs
    ts: jax.Array
    fixed: FixedImages
    steps: int
    mesh: Mesh | None = None

    @by_first
    def objective(self, theta_c: trees.Tree, P: Permutation, branches: int = 1) -> np.ndarray:
        """Q + R of candidates (branches * pairs, candidates): theta_c and P are of all pairs, branch after branch."""
        theta_1, theta_2 = repeat((self.pairs.theta_1, self.pairs.theta_2), branches)
        settings = (self.model, self.curve, self.config.weight_decay, self.ts, self.fixed)
        return objective_on_grid(*settings, theta_1, theta_2, theta_c, P)

    def curve_step(self) -> CurveStep:
        """A step on the control points, by a schedule over all iterations."""
        shared = {name: getattr(self.config, name) for name in FitConfig.__dataclass_fields__}
        whole = replace(FitConfig(**shared), epochs=self.config.iterations * self.config.epochs)
        return CurveStep(self.model, self.curve, whole, self.steps, self.config.nu_phi)

    def permutation_step(self) -> PermutationStep:
        """A step on the matrices."""
        shared = {name: getattr(self.config, name) for name in ("batch_size", "augmentation", "compute_dtype")}
        settings = TrainConfig(epochs=self.config.permutation_epochs, **shared)
        return PermutationStep(self.model, self.curve, settings, self.steps, self.config.nu_P, self.config.projection)


class Iterate(NamedTuple):
    """(phi_k, P_k) of every pair: control points with their optimiser, hard permutations, Q + R (pairs,)."""

    curve: CurveState
    P: Permutation
    objective: np.ndarray


class Proposal(NamedTuple):
    """P' of every pair, its Q + R at phi_k, the proximal term, how many units move; whether it may be accepted."""

    P: Permutation
    value: np.ndarray
    proximal: np.ndarray
    moved: np.ndarray
    admissible: np.ndarray


class HalfStep(NamedTuple):
    """What became of a half-step, each (pairs,): Q + R after it, what it proposed, and whether that was accepted."""

    objective: np.ndarray
    proposed: np.ndarray
    proximal: np.ndarray
    accepted: np.ndarray
    moved: np.ndarray


def repeat(tree: trees.Tree, times: int) -> trees.Tree:
    """Every leaf `times` times along its leading axis, one whole copy after another."""
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf] * times), tree) if times > 1 else tree


def only(P: Permutation) -> Permutation:
    """P as the one candidate of every pair."""
    return {group: jnp.asarray(p)[:, None] for group, p in P.items()}


def propose(
    problem: Problem, now: Iterate, rate: dict[str, jax.Array], key: jax.Array, recorder: Recorder
) -> tuple[Proposal, History]:
    """The permutation half-step: soft matrices by projected SGD, and the best permutations near them."""
    pairs, config = problem.pairs, problem.config
    step = problem.permutation_step()
    anchor = {group: to_matrix(p) for group, p in now.P.items()}
    fixed = Fixed(pairs.theta_1, pairs.theta_2, now.curve.theta_c, anchor, rate)
    states = PermutationState(step.start(anchor), jnp.zeros(pairs.number, jnp.int32))
    sgd_key, sample_key = jax.random.split(key)
    keys = jax.random.split(sgd_key, pairs.number)
    states, history = run_epochs(step, problem.data, fixed, states, keys, recorder, mesh=problem.mesh)

    choices = candidates(sample_key, states.P, config.rounding, config.samples)
    values = problem.objective(now.curve.theta_c, choices)
    moved = sum((choices[group] != np.asarray(p)[:, None]).sum(-1) for group, p in now.P.items())
    # Every unit that moves changes two entries of its matrix by 1.
    proximal = moved / config.nu_P
    # What is not finite is never the best.
    at = np.arange(pairs.number), np.argmin(np.nan_to_num(values + proximal, nan=np.inf), 1)
    P = {group: jnp.asarray(choices[group][at]) for group in choices}
    stays = moved[at] == 0
    value = np.where(stays, now.objective, values[at])
    return Proposal(P, value, proximal[at], moved[at], value + proximal[at] <= now.objective), history


def advance(
    problem: Problem, now: Iterate, proposal: Proposal, key: jax.Array, recorder: Recorder
) -> tuple[Iterate, tuple[HalfStep, HalfStep], History]:
    """The curve half-step from P', where that is accepted, or else from P_k; what became of both half-steps."""
    pairs, config = problem.pairs, problem.config
    moves = proposal.admissible
    branch = config.lookahead and bool((moves & (proposal.moved > 0)).any())
    P = {group: jnp.where(moves[:, None], proposal.P[group], p) for group, p in now.P.items()}
    if branch:  # from P_k, from P'
        P = {group: jnp.concatenate([now.P[group], p]) for group, p in P.items()}
    times = 1 + branch
    keys = jax.random.split(key, pairs.number)
    theta_1, theta_2, start, keys = repeat((pairs.theta_1, pairs.theta_2, now.curve, keys), times)
    ends = Ends(theta_1, permute_pairs(problem.model, P, theta_2), start.theta_c)
    step = problem.curve_step()
    states, history = run_epochs(
        step, problem.data, ends, start, keys, recorder, epochs=config.epochs, mesh=problem.mesh
    )
    values = problem.objective(states.theta_c, only(P), times)[:, 0]
    change = _travelled(states.theta_c, start.theta_c)
    proximal = change**2 / (2 * config.nu_phi)
    chosen = np.arange(pairs.number)
    if branch:
        better = np.subtract(*(values + proximal).reshape(2, -1)) > 0
        moves = moves & (better | (proposal.moved == 0))
        chosen = chosen + pairs.number * moves

    before = np.where(moves, proposal.value, now.objective)
    accepted = (values + proximal)[chosen] <= before
    first = HalfStep(before, proposal.value, proposal.proximal, moves, proposal.moved)
    second = HalfStep(
        np.where(accepted, values[chosen], before),
        values[chosen],
        proximal[chosen],
        accepted,
        np.zeros_like(proposal.moved),
    )
    P, states, history = (
        {n: p[chosen] for n, p in P.items()},
        trees.index(states, chosen),
        trees.index(history, chosen),
    )
    return Iterate(_kept(accepted, states, now.curve), P, second.objective), (first, second), history


@by_first
def _travelled(now: trees.Tree, before: trees.Tree) -> np.ndarray:
    """How far the control points of every pair are from where they were, float64 (pairs,)."""
    return np.asarray(jax.vmap(trees.norm)(trees.subtract(now, before)), np.float64)


def _kept(accepted: np.ndarray, new: CurveState, old: CurveState) -> CurveState:
    def where(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(accepted.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    def without_momentum(leaf: jax.Array) -> jax.Array:
        return where(leaf, jnp.zeros_like(leaf)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    # What is refused leaves no momentum, but the schedule goes on.
    return CurveState(jax.tree.map(where, new.theta_c, old.theta_c), jax.tree.map(without_momentum, new.optimizer))


def rates(problem: Problem, now: Iterate) -> dict[str, jax.Array]:
    """The learning rate of every group of every pair (pairs,), as `PamConfig` says, from where PAM starts."""
    pairs, config = problem.pairs, problem.config
    anchor = {group: to_matrix(p) for group, p in now.P.items()}
    if config.permutation_learning_rate is not None:
        return {group: jnp.full(pairs.number, config.permutation_learning_rate) for group in anchor}
    # The rate falls linearly to zero: half as many steps at the full one.
    full = problem.steps * config.permutation_epochs / 2
    step = TRAVEL[config.projection] / max(full, 100)
    fixed = Fixed(pairs.theta_1, pairs.theta_2, now.curve.theta_c, anchor, {})
    slopes = _slopes(problem.permutation_step(), problem.ts, problem.fixed, fixed)
    return {group: jnp.where(slope > 0, step / jnp.maximum(slope, 1e-30), 0) for group, slope in slopes.items()}


@jit(static_argnames="step")
def _slopes(step: PermutationStep, ts: jax.Array, images: FixedImages, fixed: Fixed) -> dict[str, jax.Array]:
    """The root mean square over entries of the mean tangent gradient at P_k, (pairs,) a group."""

    def one(fixed: Fixed) -> dict[str, jax.Array]:
        def at(t: jax.Array) -> Permutation:
            def added(total: Permutation, number: jax.Array) -> tuple[Permutation, None]:
                x, labels, key = images.batch(number)
                return trees.add(total, step.gradient(fixed, fixed.anchor, x, labels, t, key)[0]), None

            return jax.lax.scan(added, trees.scale(0.0, fixed.anchor), jnp.arange(batches))[0]

        total = over_points(at, ts, step.convolutions)
        return {group: jnp.sqrt(jnp.square(tangent(p.mean(0) / batches)).mean()) for group, p in total.items()}

    batches = len(images.labels)
    return over_models(one, step.convolutions)(fixed)
