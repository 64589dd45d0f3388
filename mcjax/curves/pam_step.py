"""The parts of PAM's permutation half-step: SGD on doubly stochastic matrices, and rounding them.

The permutation subproblem is the first line of eq. 6 of Neuron Alignment, relaxed to doubly stochastic matrices and
rounded back to permutations as in section 4.1.2.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mcjax import trees
from mcjax.curves.config import Projection, Rounding
from mcjax.curves.curve import Curve
from mcjax.curves.fit import CurveEnds, OnCurve, check_curve
from mcjax.curves.objective import Objective
from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models, over_points
from mcjax.symmetry import (
    Permutation,
    birkhoff_decomposition,
    nearest_permutation,
    permute,
    project_birkhoff,
    sinkhorn,
    to_matrix,
)
from mcjax.training.batches import split_batches
from mcjax.training.fit import ComputeDtype, Descent, Fit, FitState, Proximal, fit_of, parts_of, uniform_t
from mcjax.training.loss import Batch
from mcjax.training.task import Task, check_task

LARGEST_STEP = 0.5
"""Largest change of a matrix entry in one step, so that a large gradient does not move P far outside the polytope."""

TRAVEL_DISTANCE = {"alternating": 15.0, "sinkhorn": 300.0}
"""Distance that an entry of P would travel in the first half-step with a constant gradient.

It is much larger than 1, which a permutation needs, because the gradient decreases. On the digits all distances from 10
to 40 work, and ten times as much for logarithms.
"""


def tile_pairs(tree: trees.Tree, times: int) -> trees.Tree:
    """Every leaf repeated `times` times along its leading axis, as whole copies."""
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf] * times), tree) if times > 1 else tree


def as_single_candidate(P: Permutation) -> Permutation:
    """P (pairs, n) per group as the only candidate of every pair, (pairs, 1, n)."""
    return {group: jnp.asarray(p)[:, None] for group, p in P.items()}


class PermutationEnds(NamedTuple):
    """The networks, the curve and the rates, which the half-step keeps.

    Attributes:
        theta_1: First endpoint.
        theta_2: Second endpoint, not permuted.
        theta_c: Control points of the parameters.
        anchor: P_k as matrices (n, n) per group, the centre of the proximal term.
        rate: Learning rate per group.
    """

    theta_1: trees.Tree
    theta_2: trees.Tree
    theta_c: trees.Tree
    anchor: Permutation
    rate: dict[str, jax.Array]


@dataclass(frozen=True)
class OnPermutedCurve:
    """The embedding of matrices: the network at t on the curve to P theta_2."""

    curve: Curve

    def __call__(self, P: Permutation, ends: PermutationEnds, t: Any) -> trees.Tree:
        end = permute(self.curve.spec, P, ends.theta_2)
        return OnCurve(self.curve)(ends.theta_c, CurveEnds(ends.theta_1, end), t)


@dataclass(frozen=True)
class OntoBirkhoff:
    """A step on the matrices, back onto the doubly stochastic ones (section 4.1.2): projected SGD or mirror descent."""

    projection: Projection

    def __call__(self, P: Permutation, updates: Permutation, ends: PermutationEnds) -> Permutation:
        # Groups of equal size are projected together, as one batch of matrices.
        by_size: dict[int, list[str]] = {}
        for group, p in P.items():
            by_size.setdefault(p.shape[-1], []).append(group)
        new: Permutation = {}
        for groups in by_size.values():
            matrices, steps, rates = (jnp.stack([part[group] for group in groups]) for part in (P, updates, ends.rate))
            steps = rates[:, None, None] * steps
            if self.projection == "alternating":
                # Projected SGD.
                matrices = project_birkhoff(matrices + jnp.clip(steps, -LARGEST_STEP, LARGEST_STEP))
            else:
                # Entropic mirror descent: a gradient step on log P, then Sinkhorn's iterations.
                matrices = sinkhorn(jnp.log(jnp.maximum(matrices, 1e-6)) + steps)
            new |= dict(zip(groups, matrices, strict=True))
        return new


def permutation_fit(
    task: Task,
    curve: Curve,
    steps: int,
    *,
    nu_P: float = 1e5,
    projection: Projection = "alternating",
    compute_dtype: ComputeDtype = "float32",
) -> Fit:
    """The permutation half-step of PAM as a `Fit`: the first line of eq. 6, on one soft matrix per group.

    Every step descends the loss at r(t), t drawn uniformly from [0, 1], plus the proximal term, by SGD whose rate
    decays linearly to zero, and projects the matrices. It is `curve` after `permute`.

    Args:
        task: The task, of which only the loss is used.
        curve: The curve.
        steps: Number of steps, over which the rate decays.
        nu_P: Constant of the proximal term, as in `PamConfig`.
        projection: "alternating" or "sinkhorn", as in `PermutationFitConfig`.
        compute_dtype: Dtype of the forward and backward pass.

    Returns:
        The fit. `init(theta_1, theta_2, theta_c, P, rate)` makes its state from the control points of the parameters, a
        hard P and a learning rate per group; its `variables` are matrices float32 (n, n) per group.

    Example::

        fit = permutation_fit(task, bezier(spec), 500)
        rate = dict.fromkeys(P, jnp.float32(10.0))
        state = fit.init(theta_1, theta_2, trees.params(theta_c), P, rate)
        state, metrics = jax.jit(fit.step)(state, batch, key)
        P = {group: nearest_permutation(matrix) for group, matrix in state.variables.items()}
    """
    check_curve(curve, least=0)
    check_whole("steps", steps)
    if projection not in get_args(Projection):
        raise unknown_name("projection", str(projection), get_args(Projection))
    descent = Descent(
        OnPermutedCurve(curve),
        linear_decay(steps),
        sample_t=uniform_t,
        penalty=Proximal(nu_P),
        retract=OntoBirkhoff(projection),
        compute_dtype=compute_dtype,
    )
    return fit_of(descent, check_task(task, arrays=()).loss, _init)


@lru_cache(maxsize=64)
def linear_decay(steps: int) -> optax.GradientTransformation:
    """Plain gradient descent whose rate decays linearly from 1 to zero."""
    return optax.sgd(optax.linear_schedule(1.0, 0.0, steps))


def _init(
    descent: Descent,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    theta_c: trees.Tree,
    P: Permutation,
    rate: dict[str, jax.Array],
) -> FitState:
    """The state of a permutation half-step, from P_k."""
    anchor = {group: to_matrix(p) for group, p in P.items()}
    matrices = anchor
    if cast(OntoBirkhoff, descent.retract).projection == "sinkhorn":
        # The mean with the uniform matrix, since entropic steps cannot leave a vertex.
        matrices = {group: (p + 1 / p.shape[-1]) / 2 for group, p in anchor.items()}
    return descent.start(matrices, PermutationEnds(theta_1, theta_2, theta_c, anchor, rate))


def automatic_learning_rates(fit: Fit, objective: Objective, states: FitState, steps: int) -> dict[str, jax.Array]:
    """The learning rate of every group at which P travels `TRAVEL_DISTANCE`.

    Args:
        fit: The permutation half-step.
        objective: The grid of t and the examples, over which the gradient is averaged.
        states: The states of all pairs at the start.
        steps: Number of steps of a half-step.

    Returns:
        float32 (pairs,) per group.
    """
    descent, _ = parts_of(fit)
    # The rates of a linear decay to zero sum to half of those of a constant rate.
    length = TRAVEL_DISTANCE[cast(OntoBirkhoff, descent.retract).projection] / max(steps / 2, 100)
    arrays = (objective.ts, objective.fixed, states)
    slopes = _tangent_gradient_rms(objective.batch_size, fit, objective.task.functions(), *arrays)
    return {group: jnp.where(slope > 0, length / jnp.maximum(slope, 1e-30), 0) for group, slope in slopes.items()}


@jit(static_argnames=("batch_size",))
def _tangent_gradient_rms(
    batch_size: int, fit: Fit, task: Task, ts: jax.Array, fixed: Batch, states: FitState
) -> dict[str, jax.Array]:
    """The root mean square entry of the mean gradient at P_k, projected onto the tangent space, float32 (pairs,)."""
    descent, loss = parts_of(fit)

    def of_pair(state: FitState) -> dict[str, jax.Array]:
        at_anchor = state._replace(variables=state.fixed.anchor)

        def at(t: jax.Array) -> Permutation:
            def add_batch(total: Permutation, numbered: tuple[Batch, jax.Array]) -> tuple[Permutation, None]:
                batch, number = numbered
                _, gradient = descent.gradient(loss, at_anchor, batch, t, jax.random.key(number))
                return trees.add(total, gradient), None

            start = trees.scale(0.0, state.fixed.anchor)
            return jax.lax.scan(add_batch, start, (batches, jnp.arange(count)))[0]

        total = over_points(at, ts)
        return {group: jnp.sqrt(jnp.square(tangent_part(p.mean(0) / count)).mean()) for group, p in total.items()}

    batches, _ = split_batches(fixed, batch_size)
    count = len(jax.tree.leaves(batches)[0])
    return over_models(of_pair)(states)


def tangent_part(gradient: Any) -> jax.Array:
    """The projection of gradients (..., n, n) onto matrices whose rows and columns sum to 0: double centring."""
    rows, columns = gradient.mean(-1, keepdims=True), gradient.mean(-2, keepdims=True)
    return gradient - rows - columns + gradient.mean((-1, -2), keepdims=True)


def candidate_permutations(key: jax.Array, soft: Permutation, rounding: Rounding, samples: int) -> Permutation:
    """Candidate hard permutations near doubly stochastic matrices.

    The first candidate is the nearest permutation, the paper's rounding (section 4.1.2). With "sampled", `samples` more
    follow: each draws, independently for every group, a permutation by its weight in the Birkhoff decomposition of the
    matrix, as the paper's code does.

    Args:
        key: Typed key of the draws.
        soft: Doubly stochastic matrices, float (pairs, n, n) per group.
        rounding: "assignment" or "sampled".
        samples: Number of draws.

    Returns:
        int32 (pairs, candidates, n) per group.

    Raises:
        InputError: If a matrix is not finite.
    """
    for group, matrices in soft.items():
        if not np.isfinite(np.asarray(matrices)).all():
            raise InputError(
                f"the learned matrix of group {group!r} is not finite: lower the permutation learning rate, or start "
                "from other networks."
            )
    nearest = {group: nearest_permutation(matrices)[:, None] for group, matrices in soft.items()}
    if rounding == "assignment" or samples == 0:
        return nearest
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    drawn = {group: np.stack([_draw(rng, m, samples) for m in np.asarray(soft[group])]) for group in soft}
    return {group: np.concatenate([nearest[group], drawn[group]], 1) for group in soft}


def _draw(rng: np.random.Generator, matrix: np.ndarray, samples: int) -> np.ndarray:
    """Permutations (samples, n) drawn by their weights in the matrix's Birkhoff decomposition."""
    weights, permutations = birkhoff_decomposition(matrix)
    return permutations[rng.choice(len(weights), samples, p=weights)]
