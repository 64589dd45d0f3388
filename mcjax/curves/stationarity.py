"""How far PAM's iterates are from a critical point: the least subgradients of Theorem 3.1, part 2."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.curves.fit import CurveEnds
from mcjax.curves.norm_bound import OntoBall
from mcjax.curves.objective import tangent_part
from mcjax.curves.pam_problem import PamProblem, PamState
from mcjax.models.pairs import permute_pairs
from mcjax.runtime.processes import on_first_process
from mcjax.shown import short_repr
from mcjax.symmetry import to_matrix
from mcjax.training.fit import parts_of


@short_repr
class Slopes(NamedTuple):
    """Norms of the least subgradients of Q + R at an iterate (phi_k, P_k); zero at a critical point.

    The subdifferential of a smooth function plus the indicator of a convex set is least at the projection of the
    gradient onto the tangent cone: no step of the set descends faster.

    Attributes:
        theta_c: In the control points, within the norm bound if there is one, float64 (pairs,);
            ([pairs,] 1 + iterations) in a `PamFit`.
        P: In the doubly stochastic matrices, all groups together, as many. For permutations alone every P is
            critical, since each is an isolated point.
    """

    theta_c: np.ndarray
    P: np.ndarray


@on_first_process
def slopes(problem: PamProblem, state: PamState) -> Slopes:
    """The slopes at an iterate, by the gradient over the objective's examples and grid."""
    # They are those of Q + R, also if the half-step descends Q alone.
    permutation = replace(problem.config.permutation, regularized=True)
    problem = replace(problem, config=replace(problem.config, permutation=permutation))
    pairs, P = problem.pairs, {group: jnp.asarray(p) for group, p in state.P.items()}
    # The proximal terms have no slope at the iterate itself, their centre.
    ends = CurveEnds(pairs.theta_1, permute_pairs(problem.curve.spec, P, pairs.theta_2), state.curve.variables)
    fit, phi = problem.curve_fit, state.curve.variables
    direction = trees.scale(-1.0, problem.grid.gradients(fit, state.curve._replace(fixed=ends)))
    ball = parts_of(fit)[0].retract
    if isinstance(ball, OntoBall):
        direction = jax.vmap(ball.tangent)(phi, direction, ends)
    matrices = problem.start_permutations(state)
    gradients = problem.grid.gradients(problem.permutation_fit, matrices._replace(variables=matrices.fixed.anchor))
    of_P = sum(_birkhoff_slopes(P[group], G) ** 2 for group, G in gradients.items())
    return Slopes(np.asarray(jax.vmap(trees.norm)(direction), np.float64), np.sqrt(np.asarray(of_P, np.float64)))


def birkhoff_slope(p: jax.Array, gradient: jax.Array, steps: int = 2000) -> jax.Array:
    """The norm of minus a gradient projected onto the tangent cone of the doubly stochastic matrices at a permutation.

    The cone holds the directions whose rows and columns sum to zero and that are not negative where the permutation's
    matrix is zero. The projection is exact in the limit, by Dykstra's algorithm.

    Args:
        p: Hard permutation, int (n,).
        gradient: float (n, n).
        steps: Number of steps of the algorithm.

    Returns:
        A float32 scalar.
    """
    free = to_matrix(p) > 0

    def step(_: int, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        direction, correction = now
        sums = tangent_part(direction)
        cone = jnp.where(free, sums, jnp.maximum(sums + correction, 0))
        return cone, jnp.where(free, 0, sums + correction - cone)

    start = (-gradient, jnp.zeros_like(gradient))
    return jnp.linalg.norm(tangent_part(jax.lax.fori_loop(0, steps, step, start)[0]))


_birkhoff_slopes = jax.jit(jax.vmap(birkhoff_slope))
