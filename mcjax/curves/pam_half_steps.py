"""The half-steps of PAM: each proposes a permutation or a curve, and accepts it if the objective decreases."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.config import PamConfig
from mcjax.curves.curve import Curve
from mcjax.curves.fit import CurveEnds, configured_curve_fit
from mcjax.curves.objective import Objective, midpoint_grid
from mcjax.curves.pam_step import (
    as_single_candidate,
    automatic_learning_rates,
    candidate_permutations,
    permutation_fit,
    tile_pairs,
)
from mcjax.models.pairs import Pairs, permute_pairs
from mcjax.runs.recorder import History, Recorder
from mcjax.runtime.processes import on_first_process
from mcjax.symmetry import Permutation
from mcjax.training.batches import fixed_examples
from mcjax.training.fit import Fit, FitState
from mcjax.training.loop import EpochPlan, epoch_plan, initial_states, run_epochs
from mcjax.training.task import Task


@dataclass(frozen=True, eq=False)
class PamProblem:
    """The inputs of all half-steps.

    Attributes:
        task: The task.
        curve: The curve.
        config: Settings.
        pairs: The endpoints, and the permutations at the start.
        grid: The objective.
        plan: The batches of an epoch.
        mesh: A mesh, or None.
    """

    task: Task
    curve: Curve
    config: PamConfig
    pairs: Pairs
    grid: Objective
    plan: EpochPlan
    mesh: Mesh | None = None

    @classmethod
    def create(
        cls, task: Task, curve: Curve, config: PamConfig, pairs: Pairs, mesh: Mesh | None = None
    ) -> "PamProblem":
        """The problem of these inputs, with the objective and the batches that the config describes."""
        settings = config.curve
        plan = epoch_plan(task, settings.batch_size, settings.steps_per_epoch)
        fixed, size = fixed_examples(task, config.objective_examples, settings.batch_size)
        grid = Objective(task, curve, settings.weight_decay, midpoint_grid(config.objective_points), fixed, size)
        return cls(task, curve, config, pairs, grid, plan, mesh)

    @on_first_process
    def objective(self, theta_c: trees.Tree, P: Permutation, branches: int = 1) -> np.ndarray:
        """Q + R of candidates, float64 (branches * pairs, candidates); branches are concatenated in theta_c and P."""
        theta_1, theta_2 = tile_pairs((self.pairs.theta_1, self.pairs.theta_2), branches)
        return self.grid.values(theta_1, theta_2, theta_c, P)

    @property
    def curve_fit(self) -> Fit:
        """The fit of the control points, whose schedule extends over all iterations."""
        settings, epochs = self.config.curve, self.config.iterations * self.config.curve.epochs
        return configured_curve_fit(self.task, self.curve, settings, epochs, self.plan.steps, self.config.nu_phi)

    @property
    def permutation_steps(self) -> int:
        """The number of steps of a permutation half-step."""
        return self.plan.steps * self.config.permutation.epochs

    @property
    def permutation_fit(self) -> Fit:
        """The fit of the matrices."""
        return permutation_fit(
            self.task,
            self.curve,
            self.permutation_steps,
            nu_P=self.config.nu_P,
            projection=self.config.permutation.projection,
            compute_dtype=self.config.curve.compute_dtype,
        )

    def epochs_before(self, iteration: int, curve: bool) -> int:
        """Number of epochs before the permutation half-step of an iteration, or before its curve half-step."""
        permutation = self.config.permutation.epochs
        return iteration * (permutation + self.config.curve.epochs) + curve * permutation

    def start(self) -> FitState:
        """The straight line and a fresh optimiser, for every pair."""
        return initial_states(self.curve_fit, self.pairs.theta_1, self.pairs.theta_2)._replace(fixed=())

    def start_permutations(self, state: "PamState", rates: dict[str, jax.Array]) -> FitState:
        """The state of the permutation half-step at phi_k and P_k, for every pair."""
        ends = (self.pairs.theta_1, self.pairs.theta_2, state.curve.variables)
        return initial_states(self.permutation_fit, *ends, state.P, rates)


class PamState(NamedTuple):
    """(phi_k, P_k) of every pair: control points, optimiser and hard permutations, and Q + R, float64 (pairs,)."""

    curve: FitState
    P: Permutation
    objective: np.ndarray


class HalfStep(NamedTuple):
    """The proposal of a half-step and its outcome, each (pairs,), in the fields of `PamFit`."""

    objective: np.ndarray
    proposed: np.ndarray
    proximal: np.ndarray
    accepted: np.ndarray
    moved: np.ndarray


def permutation_learning_rates(problem: PamProblem, state: PamState) -> dict[str, jax.Array]:
    """The learning rate of every group in the first iteration, (pairs,), as documented in `PermutationFitConfig`."""
    rate = problem.config.permutation.learning_rate
    given = {group: jnp.full(problem.pairs.number, 1.0 if rate is None else rate) for group in state.P}
    if rate is not None:
        return given
    states = problem.start_permutations(state, given)
    return automatic_learning_rates(problem.permutation_fit, problem.grid, states, problem.permutation_steps)


def propose_permutation(
    problem: PamProblem,
    state: PamState,
    rates: dict[str, jax.Array],
    key: jax.Array,
    recorder: Recorder,
    iteration: int = 0,
) -> tuple[Permutation, HalfStep, History]:
    """The permutation half-step, the first line of eq. 6: projected SGD on soft matrices, then rounding.

    Args:
        problem: The shared inputs.
        state: phi_k and P_k.
        rates: Learning rate of every group, (pairs,).
        key: Key of the half-step.
        recorder: Place where the half-step reports.
        iteration: Number of iterations before this one.

    Returns:
        The proposed P, the half-step (which lookahead can still reject), and the history.
    """
    pairs, settings = problem.pairs, problem.config.permutation
    # Projected SGD on the doubly stochastic matrices (4.1.2), from P_k.
    sgd_key, sample_key = jax.random.split(key)
    keys = jax.random.split(sgd_key, pairs.number)
    start, fit = problem.start_permutations(state, rates), problem.permutation_fit
    given = (fit, problem.task, problem.plan, start, keys, settings.epochs, recorder)
    states, history = run_epochs(*given, mesh=problem.mesh, before=problem.epochs_before(iteration, False))

    # Round the matrices to several candidate permutations.
    candidates = candidate_permutations(sample_key, states.variables, settings.rounding, settings.samples)
    values = problem.objective(state.curve.variables, candidates)
    # The proximal term: a unit that moves changes two entries of P by 1.
    moved = sum((candidates[group] != np.asarray(p)[:, None]).sum(-1) for group, p in state.P.items())
    proximal = moved / problem.config.nu_P
    # Propose the candidate with the least finite Q + R + proximal term.
    best = np.arange(pairs.number), np.argmin(np.nan_to_num(values + proximal, nan=np.inf), 1)
    P = {group: jnp.asarray(candidates[group][best]) for group in candidates}
    value = np.where(moved[best] == 0, state.objective, values[best])
    # Theorem 3.1, part 1: the proposal is admissible if the objective decreases by at least the proximal term.
    admissible = value + proximal[best] <= state.objective
    after = np.where(admissible, value, state.objective)
    return P, HalfStep(after, value, proximal[best], admissible, moved[best]), history


def advance_curve(
    problem: PamProblem,
    state: PamState,
    P: Permutation,
    proposal: HalfStep,
    key: jax.Array,
    recorder: Recorder,
    iteration: int = 0,
) -> tuple[PamState, tuple[HalfStep, HalfStep], History]:
    """The curve half-step, the second line of eq. 6: SGD on the control points, then acceptance of both half-steps.

    It uses the proposed P for pairs where that is admissible, and P_k for the others. With lookahead, a second branch
    uses P_k for all pairs.

    Args:
        problem: The shared inputs.
        state: phi_k and P_k.
        P: The proposed permutation.
        proposal: The permutation half-step.
        key: Key of the half-step.
        recorder: Place where the half-step reports.
        iteration: Number of iterations before this one.

    Returns:
        The new state, both half-steps, and the history.
    """
    pairs, moves = problem.pairs, proposal.accepted
    P = {group: jnp.where(moves[:, None], P[group], p) for group, p in state.P.items()}
    lookahead = problem.config.lookahead and bool((moves & (proposal.moved > 0)).any())
    if lookahead:
        P = {group: jnp.concatenate([state.P[group], p]) for group, p in P.items()}
    given = (problem, state.curve, P, 1 + lookahead, key, recorder, problem.epochs_before(iteration, True))
    curves, values, proximal, history = _train_curves(*given)

    chosen = np.arange(pairs.number)
    if lookahead:
        # Keep the new P only for pairs whose curve with it ends lower than the curve with P_k.
        from_old, from_new = (values + proximal).reshape(2, -1)
        moves = moves & ((from_new < from_old) | (proposal.moved == 0))
        chosen = chosen + pairs.number * moves
    P, curves, history = trees.index((P, curves, history), chosen)
    values, proximal = values[chosen], proximal[chosen]

    # Theorem 3.1, part 1: accept a curve only if the objective decreases by at least the proximal term.
    before = np.where(moves, proposal.proposed, state.objective)
    accepted = values + proximal <= before
    after = np.where(accepted, values, before)
    permutation = proposal._replace(objective=before, accepted=moves)
    curve = HalfStep(after, values, proximal, accepted, np.zeros_like(proposal.moved))
    return (
        PamState(_accepted(accepted, curves, state.curve, problem.start().optimizer), P, after),
        (permutation, curve),
        history,
    )


def _train_curves(
    problem: PamProblem,
    start: FitState,
    P: Permutation,
    branches: int,
    key: jax.Array,
    recorder: Recorder,
    before: int,
) -> tuple[FitState, np.ndarray, np.ndarray, History]:
    """SGD on the control points of every branch. Returns the states, Q + R, proximal terms, and the history."""
    pairs, config = problem.pairs, problem.config
    keys = jax.random.split(key, pairs.number)
    theta_1, theta_2, start, keys = tile_pairs((pairs.theta_1, pairs.theta_2, start, keys), branches)
    fixed = CurveEnds(theta_1, permute_pairs(problem.curve.spec, P, theta_2), start.variables)
    states, history = run_epochs(
        problem.curve_fit,
        problem.task,
        problem.plan,
        start._replace(fixed=fixed),
        keys,
        config.curve.epochs,
        recorder,
        mesh=problem.mesh,
        before=before,
    )
    values = problem.objective(states.variables, as_single_candidate(P), branches)[:, 0]
    return states, values, _distances(states.variables, start.variables) ** 2 / (2 * config.nu_phi), history


def _accepted(accepted: np.ndarray, new: FitState, old: FitState, fresh: optax.OptState) -> FitState:
    """The new states where accepted; elsewhere the old control points, a fresh optimiser and the new step count."""

    def where(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(accepted.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    def restarted(new: jax.Array, fresh: jax.Array) -> jax.Array:
        return where(new, fresh) if jnp.issubdtype(new.dtype, jnp.floating) else new

    variables = jax.tree.map(where, new.variables, old.variables)
    return FitState(variables, jax.tree.map(restarted, new.optimizer, fresh))


@on_first_process
def _distances(theta_c: trees.Tree, before: trees.Tree) -> np.ndarray:
    """The distance of every pair's control points from the previous ones, float64 (pairs,)."""
    return np.asarray(jax.vmap(trees.norm)(trees.subtract(theta_c, before)), np.float64)
