"""The permutation half-step of PAM as a fit: SGD on doubly stochastic matrices, and the rates of its steps.

The permutation subproblem is the first line of eq. 6 of Neuron Alignment, relaxed to doubly stochastic matrices
(section 4.1.2).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import optax

from mcjax import trees
from mcjax.curves.config import Projection
from mcjax.curves.curve import Curve
from mcjax.curves.fit import CurveEnds, OnCurve, check_curve
from mcjax.curves.objective import Objective, tangent_part
from mcjax.errors import InputError, check_positive, unknown_name
from mcjax.runtime.compiling import jit
from mcjax.symmetry import Permutation, identity_permutation, permute, project_birkhoff, sinkhorn, to_matrix
from mcjax.training.fit import ComputeDtype, Descent, Fit, FitState, Proximal, fit_of, parts_of, uniform_t
from mcjax.training.task import Task, check_task

LARGEST_STEP = 0.5
"""Largest change of a matrix entry in one step at an automatic rate, so that P does not move far from the polytope."""

FIRST_STEPS = {"alternating": (0.1, 0.02), "sinkhorn": (1.0, 0.2)}
"""Root mean square changes of an entry of P in the first step, of its logarithm with "sinkhorn", one for each rate.

The first is for starts far from a good P, such as the identity, and for few steps; the second for a good start, such as
a match, which the first would leave.
"""


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
    """A step on the matrices, back onto the doubly stochastic ones (section 4.1.2): projected SGD or mirror descent.

    Attributes:
        projection: "alternating" or "sinkhorn".
        largest_step: Bound of the change of an entry in one step, which is then along the tangent space. None: steps
            are along the gradient.
    """

    projection: Projection
    largest_step: float | None = None

    def __call__(self, P: Permutation, updates: Permutation, ends: PermutationEnds) -> Permutation:
        # Groups of equal size are projected together, as one batch of matrices.
        by_size: dict[int, list[str]] = {}
        for group, p in P.items():
            by_size.setdefault(p.shape[-1], []).append(group)
        new: Permutation = {}
        for groups in by_size.values():
            matrices, steps, rates = (jnp.stack([part[group] for group in groups]) for part in (P, updates, ends.rate))
            steps = rates[:, None, None] * steps
            if self.projection == "sinkhorn":
                # Entropic mirror descent: a gradient step on log P, then Sinkhorn's iterations.
                matrices = sinkhorn(jnp.log(jnp.maximum(matrices, 1e-6)) + steps)
            else:
                # Projected SGD.
                if self.largest_step is not None:
                    steps = jnp.clip(tangent_part(steps), -self.largest_step, self.largest_step)
                matrices = project_birkhoff(matrices + steps)
            new |= dict(zip(groups, matrices, strict=True))
        return new


def permutation_fit(
    task: Task,
    curve: Curve,
    optimizer: optax.GradientTransformation,
    *,
    weight_decay: float = 0.0,
    compute_dtype: ComputeDtype = "float32",
    nu_P: float = 1e5,
    projection: Projection = "alternating",
    largest_step: float | None = None,
) -> Fit:
    """The permutation half-step of PAM as a `Fit`: the first line of eq. 6, on one soft matrix per group.

    Every step draws t uniformly from [0, 1], descends the loss at r(t) plus the proximal term, and projects the
    matrices. It is `curve` after `permute`.

    Args:
        task: The task, of which only the loss is used.
        curve: The curve.
        optimizer: Any optimiser of optax; its updates are multiplied by the rate of their group.
        weight_decay: Factor of ||params(r(t))||^2 / 2 in the objective.
        compute_dtype: Dtype of the forward and backward pass.
        nu_P: Constant of the proximal term, as in `PamConfig`.
        projection: "alternating" or "sinkhorn", as in `PermutationFitConfig`.
        largest_step: Bound of the change of a matrix entry in one step, which is then along the tangent space of the
            doubly stochastic matrices; for "alternating". None: steps are along the gradient.

    Returns:
        The fit. `init(theta_1, theta_2, P=None, theta_c=None, rate=None)` makes its state from a hard P, the control
        points and a factor of the updates per group; its `variables` are matrices float32 (n, n) per group. None is
        the identity, the straight line, and 1.

    Raises:
        InputError: If an argument is out of range, or there is no such projection.

    Example::

        fit = permutation_fit(task, bezier(spec), optax.sgd(optax.linear_schedule(10.0, 0.0, 500)))
        state = fit.init(theta_1, theta_2, P, theta_c)
        state, metrics = jax.jit(fit.step)(state, batch, key)
        P = {group: nearest_permutation(matrix) for group, matrix in state.variables.items()}
    """
    check_curve(curve, least=0)
    if projection not in get_args(Projection):
        raise unknown_name("projection", str(projection), get_args(Projection))
    if projection == "sinkhorn" and largest_step is not None:
        raise InputError(f"got largest_step={largest_step}, expected None: sinkhorn's steps keep entries positive.")
    check_positive("nu_P", nu_P)
    if largest_step is not None:
        check_positive("largest_step", largest_step)
    descent = Descent(
        OnPermutedCurve(curve),
        optimizer,
        sample_t=uniform_t,
        penalty=Proximal(nu_P),
        retract=OntoBirkhoff(projection, largest_step),
        weight_decay=weight_decay,
        compute_dtype=compute_dtype,
    )
    return fit_of(descent, check_task(task, arrays=()).loss, _init)


def _init(
    descent: Descent,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    P: Permutation | None = None,
    theta_c: trees.Tree | None = None,
    rate: dict[str, jax.Array] | None = None,
) -> FitState:
    """The state of a permutation half-step, from P_k and phi_k."""
    curve = cast(OnPermutedCurve, descent.embed).curve
    P = identity_permutation(curve.spec, theta_2) if P is None else P
    theta_c = curve.zero(trees.params(theta_1)) if theta_c is None else trees.params(theta_c)
    rate = {group: jnp.float32(1) for group in P} if rate is None else rate
    anchor = {group: to_matrix(p) for group, p in P.items()}
    matrices = anchor
    if cast(OntoBirkhoff, descent.retract).projection == "sinkhorn":
        # The mean with the uniform matrix, since entropic steps cannot leave a vertex.
        matrices = {group: (p + 1 / p.shape[-1]) / 2 for group, p in anchor.items()}
    return descent.start(matrices, PermutationEnds(theta_1, theta_2, theta_c, anchor, rate))


def automatic_rates(fit: Fit, objective: Objective, states: FitState) -> list[dict[str, jax.Array]]:
    """The learning rates of every group at which P begins with the `FIRST_STEPS`.

    Args:
        fit: The permutation half-step.
        objective: The grid of t and the examples, over which the gradient is averaged.
        states: The states of all pairs at P_k.

    Returns:
        float32 (pairs,) per group, one dict for each length of the first step.
    """
    at_anchor = states._replace(variables=states.fixed.anchor)
    projection = cast(OntoBirkhoff, parts_of(fit)[0].retract).projection
    inverse = _inverse_slopes(objective.gradients(fit, at_anchor))
    return [trees.scale(length, inverse) for length in FIRST_STEPS[projection]]


@jit()
def _inverse_slopes(gradients: Permutation) -> Permutation:
    """One over the root mean square entry of the part of every gradient along the tangent space; 0 of a zero."""
    slopes = {group: jnp.sqrt(jnp.square(tangent_part(G)).mean((-1, -2))) for group, G in gradients.items()}
    return {group: jnp.where(slope > 0, 1 / jnp.maximum(slope, 1e-30), 0) for group, slope in slopes.items()}
