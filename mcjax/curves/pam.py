"""Proximal alternating minimisation over permutation and curve (Neuron Alignment, section 3.1.1).

PAM solves eq. 5, min over phi and P of Q(phi, P) + R(phi), by alternating the two subproblems of eq. 6:

    P_{k+1}   = arg min_P    Q(phi_k, P) + ||P - P_k||^2 / (2 nu_P)
    phi_{k+1} = arg min_phi  Q(phi, P_{k+1}) + R(phi) + ||phi - phi_k||^2 / (2 nu_phi)

Here phi is `theta_c`. Each subproblem is solved approximately, by SGD, and its solution is accepted only if the
objective decreases by at least the proximal term.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.curves.config import PamConfig
from mcjax.curves.curve import Curve
from mcjax.curves.fit import check_different_ends, check_fit_inputs, fit_result
from mcjax.curves.pam_half_steps import (
    HalfStep,
    PamProblem,
    PamState,
    advance_curve,
    permutation_learning_rates,
    propose_permutation,
)
from mcjax.curves.pam_step import as_single_candidate
from mcjax.errors import InputError
from mcjax.runs.recorder import History, Recorder
from mcjax.symmetry import Permutation
from mcjax.training.config import check_config
from mcjax.training.loop import join_histories
from mcjax.training.task import Task


class PamFit(NamedTuple):
    """A fitted curve and the permutation learned with it; with a leading pair axis if the endpoints had one.

    A half-step is rejected if proposed + proximal exceeds the objective before it. With lookahead, a permutation
    half-step is also rejected if the curve half-step from the old P ends lower.

    Attributes:
        theta_c: Control points, as in `CurveFit`.
        P: Hard permutations, int32 (n,) per group.
        path: The fitted path t -> theta.
        history: Training metrics by name, of all epochs in the order of training, float32 ([pairs,] epochs), with
            permutation.epochs and curve.epochs for each iteration.
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

    Each iteration learns a doubly stochastic matrix per group by projected SGD, with the curve fixed, and rounds it to
    a permutation. Then it learns the control points by SGD, like `fit_curve`, with P fixed. A half-step is accepted
    only if Q + R plus its proximal term is at most the previous Q + R. So part 1 of Theorem 3.1 holds for all
    activation functions and roundings. Q is the mean loss in training mode over fixed examples and a fixed grid of t,
    R the mean of weight_decay / 2 * ||r(t)||^2.

    Args:
        key: Typed key.
        task: The task.
        curve: The curve, with at least one control point. Its spec must have groups.
        theta_1: First endpoint, or several along a leading pair axis.
        theta_2: Second endpoint, or as many.
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

        fit = fit_pam(key, task, bezier(task.spec), theta_1, theta_2, P=match.P)
        print(fit.objective, fit.accepted)
    """
    config = config or PamConfig()
    check_config(config, PamConfig)
    task, pairs = check_fit_inputs(key, task, curve, theta_1, theta_2, P, hard=True)
    if not curve.spec.groups:
        raise InputError(f"no units of {task.name} can be permuted: fit its curve with fit_curve.")
    check_different_ends(curve, pairs)
    problem = PamProblem.create(task, curve, config, pairs, mesh)
    recorder = recorder or Recorder("the fit", progress=False)

    # Eq. 8: theta_c = 0 is the straight line to P theta_2.
    line = problem.start()
    state = PamState(line, pairs.P, problem.objective(line.variables, as_single_candidate(pairs.P))[:, 0])
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
        rates = {group: config.permutation.annealing**k * rate for group, rate in first_rates.items()}
        # Eq. 6: the permutation half-step, then the curve half-step.
        proposed, proposal, learned = propose_permutation(problem, state, rates, permutation_key, permutation_stage, k)
        state, results, advanced = advance_curve(problem, state, proposed, proposal, curve_key, curve_stage, k)
        half_steps += results
        histories += [learned, advanced]
    history = pairs.axis.remove(join_histories(histories))
    reported = {name: np.stack([getattr(each, name) for each in half_steps], 1) for name in HalfStep._fields}
    reported["objective"] = np.concatenate([start[:, None], reported["objective"]], 1)
    return PamFit(
        **fit_result(pairs, curve, state.curve.variables, state.P), history=history, **pairs.axis.remove(reported)
    )
