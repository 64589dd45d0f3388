"""The half-steps of PAM: each proposes a permutation or a curve, and accepts it if the objective decreases."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mcjax import trees
from mcjax.curves.fit import CurveEnds
from mcjax.curves.pam_candidates import best_part_of_the_way, candidate_permutations
from mcjax.curves.pam_problem import HalfStep, PamProblem, PamState, Relaxation, as_single_candidate, tile_pairs
from mcjax.curves.pam_step import automatic_rates
from mcjax.models.pairs import permute_pairs
from mcjax.runs.recorder import History, Recorder
from mcjax.runtime.compiling import jit
from mcjax.runtime.processes import on_first_process
from mcjax.symmetry import Permutation
from mcjax.training.fit import FitState
from mcjax.training.loop import run_epochs


def permutation_learning_rates(problem: PamProblem, state: PamState) -> list[dict[str, jax.Array]]:
    """The learning rates of every group in the first iteration, (pairs,), as documented in `PermutationFitConfig`."""
    given = problem.config.permutation.learning_rates
    if given is not None:
        return [{group: jnp.full(problem.pairs.number, rate) for group in state.P} for rate in given]
    return automatic_rates(problem.permutation_fit, problem.grid, problem.start_permutations(state))


def propose_permutation(
    problem: PamProblem,
    state: PamState,
    rates: list[dict[str, jax.Array]],
    key: jax.Array,
    recorder: Recorder,
    iteration: int = 0,
) -> tuple[Permutation, HalfStep, Relaxation, History]:
    """The permutation half-step, the first line of eq. 6: projected SGD on soft matrices, then rounding.

    Args:
        problem: The shared inputs.
        state: phi_k and P_k.
        rates: Learning rates of every group, (pairs,); the matrices are learned at each of them.
        key: Key of the half-step.
        recorder: Place where the half-step reports.
        iteration: Number of iterations before this one.

    Returns:
        The proposed P, the half-step (which lookahead can still reject), and, of the rate that led to P, the objective
        at the matrices and the history.
    """
    pairs, settings, nu_P = problem.pairs, problem.config.permutation, problem.config.nu_P
    phi, each = state.curve.variables, np.arange(problem.pairs.number)
    # Projected SGD on the doubly stochastic matrices (4.1.2), from P_k, at all rates side by side.
    sgd_key, sample_key = jax.random.split(key)
    starts = [problem.start_permutations(state, rate) for rate in rates]
    start = trees.concatenate(starts)
    keys = tile_pairs(jax.random.split(sgd_key, pairs.number), len(rates))
    given = (problem.permutation_fit, problem.task, problem.plan, start, keys, settings.epochs, recorder)
    states, history = run_epochs(*given, mesh=problem.mesh, before=problem.epochs_before(iteration, False))

    # Round the matrices to candidates, and propose that of the least Q + R + proximal term.
    rounded = candidate_permutations(sample_key, states.variables, settings.samples)
    candidates = {group: _by_pair(p, len(rates)) for group, p in rounded.items()}
    values = problem.objective(phi, candidates)
    costs = _finite(values + _moved(candidates, state.P) / nu_P)
    best = costs.argmin(1)
    P, cost = {group: p[each, best] for group, p in candidates.items()}, costs[each, best]
    count = costs.shape[1] // len(rates)
    rate = best // count
    learned = trees.index(states.variables, each + pairs.number * rate)
    relaxed = problem.objective(phi, as_single_candidate(learned))[:, 0]
    relaxation = Relaxation(relaxed, values[each, count * rate])
    other, of_other = P, cost
    if settings.partial_moves:
        # Or a part of the way to it.
        other, of_other = best_part_of_the_way(
            lambda parts: _finite(problem.objective(phi, parts) + _moved(parts, state.P) / nu_P), state.P, P
        )
    elif settings.samples and problem.config.acceptance == "always":
        # Or P_k: nothing is refused below, but in the paper's code draws compete with it.
        other, of_other = state.P, state.objective
    P = {group: np.where((of_other < cost)[:, None], other[group], p) for group, p in P.items()}
    cost = np.minimum(cost, of_other)

    # Theorem 3.1, part 1: the proposal is admissible if the objective decreases by at least the proximal term.
    moved = _moved(as_single_candidate(P), state.P)[:, 0]
    value = np.where(moved == 0, state.objective, cost - moved / nu_P)
    admissible = True if problem.config.acceptance == "always" else cost <= state.objective
    accepted = (moved > 0) & admissible
    after = np.where(accepted, value, state.objective)
    half_step = HalfStep(after, value, np.sqrt(2.0 * moved), accepted, moved)
    return jax.tree.map(jnp.asarray, P), half_step, relaxation, trees.index(history, each + pairs.number * rate)


def _by_pair(p: np.ndarray, rates: int) -> np.ndarray:
    """Candidates (rates * pairs, candidates, n) as (pairs, rates * candidates, n)."""
    split = p.reshape(rates, -1, *p.shape[1:]).swapaxes(0, 1)
    return split.reshape(len(split), -1, p.shape[-1])


def _moved(candidates: Permutation, P: Permutation) -> np.ndarray:
    """Number of units that candidates (pairs, candidates, n) move from P (pairs, n), int (pairs, candidates)."""
    return np.sum([(np.asarray(p) != np.asarray(P[group])[:, None]).sum(-1) for group, p in candidates.items()], 0)


def _finite(costs: np.ndarray) -> np.ndarray:
    """Costs with infinity in place of NaN."""
    return np.nan_to_num(costs, nan=np.inf, posinf=np.inf)


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

    It uses the proposed P for pairs where that is accepted, and P_k for the others. With lookahead, a second branch
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
    P = {group: np.where(moves[:, None], P[group], p) for group, p in state.P.items()}
    lookahead = problem.config.acceptance == "lookahead" and bool(moves.any())
    if lookahead:
        P = {group: np.concatenate([state.P[group], p]) for group, p in P.items()}
    given = (problem, state.curve, P, 1 + lookahead, key, recorder, problem.epochs_before(iteration, True))
    curves, values, distance, history = _train_curves(*given)
    costs = values + distance**2 / (2 * problem.config.nu_phi)
    before = np.where(moves, proposal.proposed, state.objective)
    if lookahead:
        before = np.concatenate([state.objective, before])
    # Theorem 3.1, part 1: accept a curve only if the objective decreases by at least the proximal term.
    accepted = np.ones_like(moves) if problem.config.acceptance == "always" else costs <= before
    after = np.where(accepted, values, before)

    chosen = np.arange(pairs.number)
    if lookahead:
        # Keep the new P only for pairs for which the iteration ends lower with it than with P_k.
        with_old, with_new = after.reshape(2, -1)
        moves = moves & (with_new < with_old)
        chosen = chosen + pairs.number * moves
    (P, history), curves = trees.index((P, history), chosen), trees.index(curves, chosen)
    values, distance, before, accepted, after = (each[chosen] for each in (values, distance, before, accepted, after))
    permutation = proposal._replace(objective=before, accepted=moves)
    curve = HalfStep(after, values, distance, accepted, np.zeros_like(proposal.moved))
    return (
        PamState(_accepted(accepted, curves, state.curve, problem.line.optimizer), jax.tree.map(jnp.asarray, P), after),
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
    """SGD on the control points of every branch. Returns the states, Q + R, how far they went, and the history."""
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
    return states, values, _distances(states.variables, start.variables), history


@jit()
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
    return np.asarray(_norms_between(theta_c, before), np.float64)


@jit()
def _norms_between(theta_c: trees.Tree, before: trees.Tree) -> jax.Array:
    return jax.vmap(trees.norm)(trees.subtract(theta_c, before))
