"""The objective of PAM, by which half-steps are compared: the training loss on fixed examples and fixed t."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.curves.curve import Curve
from mcjax.curves.fit import CurveEnds, OnCurve
from mcjax.curves.norm_bound import OntoBall
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models, over_points
from mcjax.symmetry import Permutation, permute
from mcjax.training.batches import split_batches, training_objective
from mcjax.training.fit import Fit, FitState, parts_of
from mcjax.training.loss import Batch
from mcjax.training.task import Task

CHUNK = 8
"""Number of candidates in one call; a single one is a program of its own."""


def midpoint_grid(points: int) -> jax.Array:
    """The midpoints of `points` equal parts of [0, 1], float32 (points,)."""
    return (jnp.arange(points, dtype=jnp.float32) + 0.5) / points


class Objective(NamedTuple):
    """The objective Q + R of eq. 6, by which half-steps are compared.

    Q is the mean over ts and examples of the loss at r(t) in training mode, R the mean of
    weight_decay / 2 * ||r(t)||^2.

    Attributes:
        task: The task.
        curve: The curve r.
        weight_decay: Factor of the L2 term R.
        ts: The points t, float32 (points,).
        fixed: The examples.
        batch_size: The size of their batches.
        ball: The norm bound, outside of which the objective is infinite (eq. 15). None: no bound.
    """

    task: Task
    curve: Curve
    weight_decay: float
    ts: jax.Array
    fixed: Batch
    batch_size: int
    ball: OntoBall | None = None

    def values(self, theta_1: trees.Tree, theta_2: trees.Tree, theta_c: trees.Tree, P: Permutation) -> np.ndarray:
        """The objective for every pair and candidate permutation.

        Candidates are computed in chunks by one compiled program, equal ones of a pair once.

        Args:
            theta_1: First endpoints, with a leading pair axis.
            theta_2: Second endpoints, with a leading pair axis.
            theta_c: Control points of the parameters, with a leading pair axis.
            P: Hard permutations, (pairs, candidates, n) per group, or soft ones, (pairs, 1, n, n).

        Returns:
            float64 (pairs, candidates).
        """
        ends, static = (theta_1, theta_2, theta_c), (self.curve, self.weight_decay, self.batch_size, self.ball)

        def computed(P: Permutation) -> np.ndarray:
            found = _values(*static, self.task.functions(), self.ts, self.fixed, (*ends, P))
            return np.asarray(found, np.float64)

        if next(iter(P.values())).shape[1] == 1:
            return computed(P)
        first, which = _different(P)
        chunks = np.split(first, range(CHUNK, first.shape[1], CHUNK), 1)
        values = [
            computed({group: np.take_along_axis(np.asarray(p), rows[..., None], 1) for group, p in P.items()})
            for rows in chunks
        ]
        return np.take_along_axis(np.concatenate(values, 1), which, 1)

    def gradients(self, fit: Fit, states: FitState) -> Any:
        """The gradient of a fit of curves or permutations at its states, averaged over the grid and the examples."""
        return _gradients(self.batch_size, fit, self.ts, self.fixed, states)


def _different(P: Permutation) -> tuple[np.ndarray, np.ndarray]:
    """The different candidates of every pair.

    Args:
        P: Hard permutations, (pairs, candidates, n) per group.

    Returns:
        Where each of them is first, int (pairs, different), filled up with candidate 0 to the same number for all pairs
        and to a multiple of `CHUNK`; and which of them every candidate is, int (pairs, candidates).
    """
    whole = np.concatenate([np.asarray(p) for p in P.values()], -1)
    found = [np.unique(rows, axis=0, return_index=True, return_inverse=True)[1:] for rows in whole]
    most = max(len(first) for first, _ in found)
    size = -(-most // CHUNK) * CHUNK
    first = np.stack([np.pad(first, (0, size - len(first))) for first, _ in found])
    return first, np.stack([which.reshape(-1) for _, which in found])


@jit(static_argnames=("curve", "weight_decay", "batch_size", "ball"))
def _values(
    curve: Curve,
    weight_decay: float,
    batch_size: int,
    ball: OntoBall | None,
    task: Task,
    ts: jax.Array,
    fixed: Batch,
    pairs: tuple,
) -> jax.Array:
    def of_pair(theta_1: trees.Tree, theta_2: trees.Tree, theta_c: trees.Tree, P: Permutation) -> jax.Array:
        def of_candidate(P: Permutation) -> jax.Array:
            ends = CurveEnds(theta_1, permute(curve.spec, P, theta_2))

            def at(t: jax.Array) -> jax.Array:
                theta = OnCurve(curve)(theta_c, ends, t)
                return training_objective(task.loss, theta, fixed, batch_size, weight_decay)

            value = over_points(at, ts).mean()
            return value if ball is None else jnp.where(ball.holds(theta_c, ends), value, jnp.inf)

        return jax.lax.map(of_candidate, P)

    return over_models(of_pair)(*pairs)


@jit(static_argnames=("batch_size",))
def _gradients(batch_size: int, fit: Fit, ts: jax.Array, fixed: Batch, states: FitState) -> Any:
    descent, loss = parts_of(fit)
    batches, _ = split_batches(fixed, batch_size)
    count = len(jax.tree.leaves(batches)[0])

    def of_pair(state: FitState) -> Any:
        def add(total: Any, t: jax.Array) -> tuple[Any, None]:
            def add_batch(total: Any, numbered: tuple[Batch, jax.Array]) -> tuple[Any, None]:
                batch, number = numbered
                _, gradient = descent.gradient(loss, state, batch, t, jax.random.key(number))
                return trees.add(total, gradient), None

            return jax.lax.scan(add_batch, total, (batches, jnp.arange(count)))[0], None

        # One point after another, since the gradients of control points are as large as networks.
        total, _ = jax.lax.scan(add, trees.scale(0.0, descent.trained(state.variables)), ts)
        return trees.scale(1 / (count * len(ts)), total)

    return over_models(of_pair)(states)


def tangent_part(gradient: Any) -> jax.Array:
    """The projection of gradients (..., n, n) onto matrices whose rows and columns sum to 0: double centring."""
    rows, columns = gradient.mean(-1, keepdims=True), gradient.mean(-2, keepdims=True)
    return gradient - rows - columns + gradient.mean((-1, -2), keepdims=True)
