"""Proximal alternating minimisation over permutation and curve (Neuron Alignment, section 3.1.1).

PAM solves eq. 5, min over phi and P of Q(phi, P) + R(phi), by alternating the two subproblems of eq. 6:

    P_{k+1}   = arg min_P    Q(phi_k, P) + ||P - P_k||^2 / (2 nu_P)
    phi_{k+1} = arg min_phi  Q(phi, P_{k+1}) + R(phi) + ||phi - phi_k||^2 / (2 nu_phi)

Here phi is `theta_c`. Each subproblem is solved approximately, by SGD, and its solution is accepted only if the
objective decreases by at least the proximal term.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.config import FitConfig, PamConfig
from mcjax.curves.curve import Curve
from mcjax.curves.fit import (
    CurveContext,
    CurveState,
    CurveStep,
    accept_states,
    check_different_ends,
    check_fit_inputs,
    fit_result,
)
from mcjax.curves.pam_step import (
    PermutationContext,
    PermutationState,
    PermutationStep,
    as_single_candidate,
    automatic_learning_rates,
    candidate_permutations,
    midpoint_grid,
    objective_on_grid,
    tile_pairs,
)
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.models.pairs import Pairs, pairs_of, permute_pairs
from mcjax.runs.recorder import History, Recorder
from mcjax.runtime.processes import on_first_process
from mcjax.symmetry import Permutation, to_matrix
from mcjax.training.config import TrainConfig
from mcjax.training.fixed import FixedImages, fixed_images
from mcjax.training.loop import initial_states, join_histories, run_epochs, steps_per_epoch, training_augmentation


class PamFit(NamedTuple):
    """A fitted curve and the permutation learned with it; with a leading pair axis if the endpoints had one.

    A half-step is rejected if proposed + proximal exceeds the objective before it. With lookahead, a permutation
    half-step is also rejected if the curve half-step from the old P ends lower.

    Attributes:
        theta_c: Control points, a tree like theta, zero for batch statistics.
        P: Hard permutations, int32 (n,) per group.
        path: The fitted path t -> theta.
        history: {"loss", "accuracy"}, training metrics of all epochs in the order of training, float32 ([pairs,]
            iterations * (permutation_epochs + epochs)).
        objective: Q + R at the start and after every half-step, permutation half-steps first, float64 ([pairs,]
            1 + 2 * iterations). It never increases.
        proposed: Q + R proposed by every half-step, float64 ([pairs,] 2 * iterations), as are the next three.
        proximal: The proximal term of the proposal.
        accepted: Whether the proposal was accepted, bool.
        moved: Number of units that the proposal moves, int; 0 for a curve.
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

    Each iteration learns a doubly stochastic matrix per group by projected SGD, with the curve fixed, and rounds it to
    a permutation. Then it learns the control points by SGD, like `fit_curve`, with P fixed. A half-step is accepted
    only if Q + R plus its proximal term is at most the previous Q + R. So part 1 of Theorem 3.1 holds for all
    activation functions and roundings. Q is the mean cross entropy in training mode over fixed images and a fixed grid
    of t, R the mean of weight_decay / 2 * ||r(t)||^2.

    Args:
        key: Typed key.
        model: The model of the endpoints. Its spec must have groups.
        curve: The curve, with at least one control point.
        theta_1: First endpoint, or several along a leading pair axis.
        theta_2: Second endpoint, or as many.
        data: The data set.
        P: Hard permutation, the start, with the pair axis of the endpoints. None: the identity ("PAM unaligned" in the
            paper); the P of a match gives "PAM aligned".
        config: Settings. None: `PamConfig()`.
        recorder: The progress line, and the run folder from which an interrupted call resumes, also in the middle of a
            half-step, to the same bits; every half-step is one stage. None: silent.
        mesh: A mesh from `make_mesh`, for the epochs of all half-steps.

    Returns:
        The fit.

    Raises:
        InputError: As `fit_curve`; and if no unit can be permuted, or the endpoints are the same network.

    Example::

        fit = fit_pam(key, model, bezier(model.spec), theta_1, theta_2, data, P=match.P)
        print(fit.objective, fit.accepted)
    """
    check_fit_inputs(key, model, curve, data)
    config = config or PamConfig()
    if not model.spec.groups:
        raise InputError(f"no units of {model.name} can be permuted: fit its curve with fit_curve.")
    pairs = pairs_of(model, theta_1, theta_2, P, hard=True)
    check_different_ends(model, pairs)
    images = fixed_images(data, training_augmentation(config, data), config.objective_images, config.batch_size)
    ts, steps = midpoint_grid(config.objective_points), steps_per_epoch(config, data)
    problem = PamProblem(model, curve, config, data, pairs, ts, images, steps, mesh)
    recorder = recorder or Recorder("the fit", progress=False)

    # Eq. 8: theta_c = 0 is the straight line to P theta_2.
    line = initial_states(problem.curve_step(), pairs.theta_1)
    state = PamState(line, pairs.P, problem.objective(line.theta_c, as_single_candidate(pairs.P))[:, 0])
    start, first_rates = state.objective, permutation_learning_rates(problem, state)
    histories: list[History] = []
    half_steps: list[HalfStep] = []
    for k in range(config.iterations):
        permutation_stage, curve_stage = (
            recorder._replace(
                title=f"{recorder.title}, {kind} {k + 1}/{config.iterations}", stage=f"{recorder.stage}_{k}_{kind}"
            )
            for kind in ("permutation", "curve")
        )
        permutation_key, curve_key = jax.random.split(jax.random.fold_in(key, k))
        rates = {group: config.annealing**k * rate for group, rate in first_rates.items()}
        # Eq. 6: the permutation half-step, then the curve half-step.
        proposed, proposal, learned = propose_permutation(problem, state, rates, permutation_key, permutation_stage)
        state, results, advanced = advance_curve(problem, state, proposed, proposal, curve_key, curve_stage)
        half_steps += results
        histories += [learned, advanced]
    history = pairs.axis.remove(join_histories(histories))
    reported = {name: np.stack([getattr(each, name) for each in half_steps], 1) for name in HalfStep._fields}
    reported["objective"] = np.concatenate([start[:, None], reported["objective"]], 1)
    return PamFit(
        **fit_result(pairs, curve, state.curve.theta_c, state.P), history=history, **pairs.axis.remove(reported)
    )


@dataclass(frozen=True, eq=False)
class PamProblem:
    """The inputs of all half-steps.

    Attributes:
        model: The model of the endpoints.
        curve: The curve.
        config: Settings.
        data: The data set.
        pairs: The endpoints, and the permutations at the start.
        ts: The grid of t in the objective, float32 (points,).
        images: The images in the objective.
        steps: Number of steps per epoch.
        mesh: A mesh, or None.
    """

    model: Model
    curve: Curve
    config: PamConfig
    data: Dataset
    pairs: Pairs
    ts: jax.Array
    images: FixedImages
    steps: int
    mesh: Mesh | None = None

    @on_first_process
    def objective(self, theta_c: trees.Tree, P: Permutation, branches: int = 1) -> np.ndarray:
        """Q + R of candidates, float64 (branches * pairs, candidates); branches are concatenated in theta_c and P."""
        theta_1, theta_2 = tile_pairs((self.pairs.theta_1, self.pairs.theta_2), branches)
        settings = (self.model, self.curve, self.config.weight_decay, self.ts, self.images)
        return objective_on_grid(*settings, theta_1, theta_2, theta_c, P)

    def curve_step(self) -> CurveStep:
        """The step on the control points, whose schedule extends over all iterations."""
        shared = {name: getattr(self.config, name) for name in FitConfig.__dataclass_fields__}
        whole = replace(FitConfig(**shared), epochs=self.config.iterations * self.config.epochs)
        return CurveStep(self.model, self.curve, whole, self.steps, self.config.nu_phi)

    def permutation_step(self) -> PermutationStep:
        """The step on the matrices."""
        shared = {name: getattr(self.config, name) for name in ("batch_size", "augmentation", "compute_dtype")}
        settings = TrainConfig(epochs=self.config.permutation_epochs, **shared)
        return PermutationStep(self.model, self.curve, settings, self.steps, self.config.nu_P, self.config.projection)

    def permutation_context(self, state: "PamState", rates: dict[str, jax.Array]) -> PermutationContext:
        """The endpoints, phi_k and P_k of every pair, for steps on the matrices."""
        anchor = {group: to_matrix(p) for group, p in state.P.items()}
        return PermutationContext(self.pairs.theta_1, self.pairs.theta_2, state.curve.theta_c, anchor, rates)


class PamState(NamedTuple):
    """(phi_k, P_k) of every pair: control points, optimiser and hard permutations, and Q + R, float64 (pairs,)."""

    curve: CurveState
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
    """The learning rate of every group in the first iteration, (pairs,), as documented in `PamConfig`."""
    if (rate := problem.config.permutation_learning_rate) is not None:
        return {group: jnp.full(problem.pairs.number, rate) for group in state.P}
    context = problem.permutation_context(state, {})
    return automatic_learning_rates(problem.permutation_step(), problem.ts, problem.images, context)


def propose_permutation(
    problem: PamProblem, state: PamState, rates: dict[str, jax.Array], key: jax.Array, recorder: Recorder
) -> tuple[Permutation, HalfStep, History]:
    """The permutation half-step, the first line of eq. 6: projected SGD on soft matrices, then rounding.

    Args:
        problem: The shared inputs.
        state: phi_k and P_k.
        rates: Learning rate of every group, (pairs,).
        key: Key of the half-step.
        recorder: Place where the half-step reports.

    Returns:
        The proposed P, the half-step (which lookahead can still reject), and the history.
    """
    pairs, config = problem.pairs, problem.config
    # Projected SGD on the doubly stochastic matrices (4.1.2), from P_k.
    step, context = problem.permutation_step(), problem.permutation_context(state, rates)
    states = PermutationState(step.initial_matrices(context.anchor), jnp.zeros(pairs.number, jnp.int32))
    sgd_key, sample_key = jax.random.split(key)
    keys = jax.random.split(sgd_key, pairs.number)
    states, history = run_epochs(step, problem.data, context, states, keys, recorder, mesh=problem.mesh)

    # Round the matrices to several candidate permutations.
    candidates = candidate_permutations(sample_key, states.P, config.rounding, config.samples)
    values = problem.objective(state.curve.theta_c, candidates)
    # The proximal term: a unit that moves changes two entries of P by 1.
    moved = sum((candidates[group] != np.asarray(p)[:, None]).sum(-1) for group, p in state.P.items())
    proximal = moved / config.nu_P
    # Propose the candidate with the least finite Q + R + proximal term.
    best = np.arange(pairs.number), np.argmin(np.nan_to_num(values + proximal, nan=np.inf), 1)
    P = {group: jnp.asarray(candidates[group][best]) for group in candidates}
    value = np.where(moved[best] == 0, state.objective, values[best])
    # Theorem 3.1, part 1: the proposal is admissible if the objective decreases by at least the proximal term.
    admissible = value + proximal[best] <= state.objective
    after = np.where(admissible, value, state.objective)
    return P, HalfStep(after, value, proximal[best], admissible, moved[best]), history


def advance_curve(
    problem: PamProblem, state: PamState, P: Permutation, proposal: HalfStep, key: jax.Array, recorder: Recorder
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

    Returns:
        The new state, both half-steps, and the history.
    """
    pairs, moves = problem.pairs, proposal.accepted
    P = {group: jnp.where(moves[:, None], P[group], p) for group, p in state.P.items()}
    lookahead = problem.config.lookahead and bool((moves & (proposal.moved > 0)).any())
    if lookahead:
        P = {group: jnp.concatenate([state.P[group], p]) for group, p in P.items()}
    curves, values, proximal, history = _train_curves(problem, state.curve, P, 1 + lookahead, key, recorder)

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
    return PamState(accept_states(accepted, curves, state.curve), P, after), (permutation, curve), history


def _train_curves(
    problem: PamProblem, start: CurveState, P: Permutation, branches: int, key: jax.Array, recorder: Recorder
) -> tuple[CurveState, np.ndarray, np.ndarray, History]:
    """SGD on the control points of every branch. Returns the states, Q + R, proximal terms, and the history."""
    pairs, config = problem.pairs, problem.config
    keys = jax.random.split(key, pairs.number)
    theta_1, theta_2, start, keys = tile_pairs((pairs.theta_1, pairs.theta_2, start, keys), branches)
    context = CurveContext(theta_1, permute_pairs(problem.model, P, theta_2), start.theta_c)
    step = problem.curve_step()
    states, history = run_epochs(
        step, problem.data, context, start, keys, recorder, epochs=config.epochs, mesh=problem.mesh
    )
    values = problem.objective(states.theta_c, as_single_candidate(P), branches)[:, 0]
    return states, values, _distances(states.theta_c, start.theta_c) ** 2 / (2 * config.nu_phi), history


@on_first_process
def _distances(theta_c: trees.Tree, before: trees.Tree) -> np.ndarray:
    """The distance of every pair's control points from the previous ones, float64 (pairs,)."""
    return np.asarray(jax.vmap(trees.norm)(trees.subtract(theta_c, before)), np.float64)
