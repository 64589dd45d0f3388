"""Proximal alternating minimisation over permutation and curve (Neuron Alignment, section 3.1.1).

PAM solves eq. 5, min over phi and P of Q(phi, P) + R(phi), by alternating the two subproblems of eq. 6:

    P_{k+1}   = arg min_P    Q(phi_k, P) + ||P - P_k||^2 / (2 nu_P)
    phi_{k+1} = arg min_phi  Q(phi, P_{k+1}) + R(phi) + ||phi - phi_k||^2 / (2 nu_phi)

Here phi is `theta_c`. Each subproblem is solved approximately, by SGD, and its solution is accepted only if the
objective decreases by at least the proximal term. R depends on P too, since it is the L2 term of the network r(t), so
the first subproblem is that of Q + R: what is accepted is what is descended.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.config import PamConfig
from mcjax.curves.curve import Curve
from mcjax.curves.fit import check_different_ends, check_fit_inputs, fit_result, recorded_inputs
from mcjax.curves.norm_bound import check_norm_bound
from mcjax.curves.pam_half_steps import advance_curve, permutation_learning_rates, propose_permutation
from mcjax.curves.pam_problem import HalfStep, PamProblem, PamState, Relaxation, as_single_candidate
from mcjax.curves.stationarity import Slopes, slopes
from mcjax.errors import InputError, RunError
from mcjax.runs.recorder import History, Recorder, checked_recorder
from mcjax.shown import short_repr
from mcjax.symmetry import Permutation
from mcjax.training.config import check_config
from mcjax.training.loop import join_histories
from mcjax.training.task import Task


@short_repr
class PamFit(NamedTuple):
    """A fitted curve and the permutation learned with it; with a leading pair axis if the endpoints had one.

    Unless all are accepted, a half-step is rejected if proposed + distance^2 / (2 nu) exceeds the objective before it.
    With lookahead, a permutation half-step is also rejected if the iteration ends no lower than with the old P.

    Attributes:
        theta_c: Control points, as in `CurveFit`.
        P: Hard permutations, int32 (n,) per group.
        path: The fitted path t -> theta.
        history: Training metrics by name, of all epochs in the order of training, float32 ([pairs,] epochs), with
            permutation.epochs and curve.epochs for each iteration.
        objective: Q + R at the start and after every half-step, permutation half-steps first, float64 ([pairs,]
            1 + 2 * iterations). It never increases, unless all half-steps are accepted.
        proposed: Q + R proposed by every half-step, float64 ([pairs,] 2 * iterations), as are the next three.
        distance: ||P - P_k|| or ||phi - phi_k|| of the proposal.
        accepted: Whether the proposal was accepted, bool; not if it is P_k itself.
        moved: Number of units that the proposal moves, int; 0 for a curve.
        relaxed: Q + R at the doubly stochastic matrices from which each permutation was rounded, float64 ([pairs,]
            iterations). The permutation is found at one of several rates; these are the matrices of that rate.
        rounded: Q + R at their nearest permutations, as `relaxed`. The difference is the rounding gap.
        slopes: With `slopes` in the config, `Slopes` at the start and after every iteration, float64 ([pairs,]
            1 + iterations) each. Otherwise None.
    """

    theta_c: trees.Tree
    P: Permutation
    path: jax.tree_util.Partial
    history: History
    objective: np.ndarray
    proposed: np.ndarray
    distance: np.ndarray
    accepted: np.ndarray
    moved: np.ndarray
    relaxed: np.ndarray
    rounded: np.ndarray
    slopes: Slopes | None


def fit_pam(
    key: jax.Array,
    task: Task,
    curve: Curve,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    P: Permutation | None = None,
    config: PamConfig | None = None,
    *,
    recorder: Recorder | None = None,
    mesh: Mesh | None = None,
) -> PamFit:
    """Learn the permutation of theta_2 together with the curve to it (Neuron Alignment, eq. 5, 6 and 8).

    Each iteration learns a doubly stochastic matrix per group by projected SGD, with the curve fixed, at several rates
    side by side, and rounds them to permutations; the best of these and of the parts of the way to it is proposed. Then
    it learns the control points by SGD, like `fit_curve`, with P fixed. By default a half-step is accepted only if
    Q + R plus its proximal term is at most the previous Q + R. So part 1 of Theorem 3.1 holds for all activation
    functions and roundings. Q is the mean loss in training mode over fixed examples and a fixed grid of t, R the mean
    of weight_decay / 2 * ||r(t)||^2. `PamConfig.preset("published")` is the scheme of the paper.

    Args:
        key: Typed key.
        task: The task.
        curve: The curve, with at least one control point. Its spec must have groups.
        theta_1: First endpoint, or several along a leading pair axis.
        theta_2: Second endpoint, or as many.
        P: Hard permutation, the start, with the pair axis of the endpoints. None: the identity ("PAM unaligned" in the
            paper); the P of a match gives "PAM aligned".
        config: Settings. None: `PamConfig()`.
        recorder: `Recorder()` for a progress line, and with a run folder an interrupted call resumes, also in the
            middle of a half-step, to the same bits; every half-step is one stage. None: silent.
        mesh: A mesh from `make_mesh`, for the epochs of all half-steps.

    Returns:
        The fit.

    Raises:
        InputError: As `fit_curve`; and if no unit can be permuted, the endpoints are the same network, or their norms
            exceed the norm bound.
        RunError: If a loss becomes infinite or NaN.

    Example::

        fit = fit_pam(key, task, bezier(task.spec), theta_1, theta_2, P=match.P)
        print(fit.objective, fit.accepted)
    """
    config = check_config(config, PamConfig)
    task, pairs = check_fit_inputs(key, task, curve, theta_1, theta_2, P, hard=True)
    if not curve.spec.groups:
        raise InputError(f"no units of {task.name} can be permuted: fit its curve with fit_curve.")
    check_different_ends(curve, pairs)
    check_norm_bound(config.norm_bound, pairs.theta_1, pairs.theta_2)
    problem = PamProblem.create(task, curve, config, pairs, mesh)
    recorder = recorded_inputs(checked_recorder(recorder), key, task, curve, pairs, config)
    title, stage = recorder.title, recorder.stage

    # Eq. 8: theta_c = 0 is the straight line to P theta_2.
    line = problem.line
    state = PamState(line, pairs.P, problem.objective(line.variables, as_single_candidate(pairs.P))[:, 0])
    start = state.objective
    if not np.isfinite(start).all():
        wrong = ", ".join(map(str, np.flatnonzero(~np.isfinite(start))))
        raise RunError(
            f"the loss on the straight line is not finite for pair number {wrong} of {pairs.number}: start from other "
            "networks."
        )
    first_rates = permutation_learning_rates(problem, state)
    histories: list[History] = []
    half_steps: list[HalfStep] = []
    relaxations: list[Relaxation] = []
    measured = [slopes(problem, state)] if config.slopes else []
    for k in range(config.iterations):
        permutation_stage, curve_stage = (
            replace(recorder, title=f"{title}, {kind} {k + 1}/{config.iterations}", stage=f"{stage}_{k}_{kind}")
            for kind in ("permutation", "curve")
        )
        permutation_key, curve_key = jax.random.split(jax.random.fold_in(key, k))
        rates = [trees.scale(config.permutation.rate_factor(k), rate) for rate in first_rates]
        # Eq. 6: the permutation half-step, then the curve half-step.
        proposed, proposal, relaxation, learned = propose_permutation(
            problem, state, rates, permutation_key, permutation_stage, k
        )
        state, results, advanced = advance_curve(problem, state, proposed, proposal, curve_key, curve_stage, k)
        half_steps += results
        relaxations.append(relaxation)
        histories += [learned, advanced]
        if config.slopes:
            measured.append(slopes(problem, state))
    reported = {**_by_iteration(half_steps), **_by_iteration(relaxations)}
    reported["objective"] = np.concatenate([start[:, None], reported["objective"]], 1)
    reported["slopes"] = Slopes(**_by_iteration(measured)) if measured else None
    reported["history"] = join_histories(histories)
    return PamFit(**fit_result(pairs, curve, state.curve.variables, state.P), **pairs.axis.remove(reported))


def _by_iteration(each: Sequence[NamedTuple]) -> dict[str, Any]:
    """The fields of tuples of (pairs,), (pairs, tuples) each."""
    return {name: np.stack([getattr(one, name) for one in each], 1) for name in (each[0]._fields if each else ())}
