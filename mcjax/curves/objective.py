"""The objective of PAM, by which half-steps are compared: the training loss on fixed examples and fixed t."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.curves.curve import Curve
from mcjax.curves.fit import CurveEnds, OnCurve
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_models, over_points
from mcjax.symmetry import Permutation, permute
from mcjax.training.batches import training_objective
from mcjax.training.loss import Batch
from mcjax.training.task import Task


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
    """

    task: Task
    curve: Curve
    weight_decay: float
    ts: jax.Array
    fixed: Batch
    batch_size: int

    def values(self, theta_1: trees.Tree, theta_2: trees.Tree, theta_c: trees.Tree, P: Permutation) -> np.ndarray:
        """The objective for every pair and candidate permutation, in one compiled program.

        Args:
            theta_1: First endpoints, with a leading pair axis.
            theta_2: Second endpoints, with a leading pair axis.
            theta_c: Control points of the parameters, with a leading pair axis.
            P: Hard permutations, int32 (pairs, candidates, n) per group.

        Returns:
            float64 (pairs, candidates).
        """
        functions, pairs = self.task.functions(), (theta_1, theta_2, theta_c, P)
        static = (self.curve, self.weight_decay, self.batch_size)
        return np.asarray(_objective_values(*static, functions, self.ts, self.fixed, pairs), np.float64)


@jit(static_argnames=("curve", "weight_decay", "batch_size"))
def _objective_values(
    curve: Curve, weight_decay: float, batch_size: int, task: Task, ts: jax.Array, fixed: Batch, pairs: tuple
) -> jax.Array:
    def of_pair(theta_1: trees.Tree, theta_2: trees.Tree, theta_c: trees.Tree, P: Permutation) -> jax.Array:
        def of_candidate(P: Permutation) -> jax.Array:
            ends = CurveEnds(theta_1, permute(curve.spec, P, theta_2))

            def at(t: jax.Array) -> jax.Array:
                theta = OnCurve(curve)(theta_c, ends, t)
                return training_objective(task.loss, theta, fixed, batch_size, weight_decay)

            return over_points(at, ts).mean()

        return jax.lax.map(of_candidate, P)

    return over_models(of_pair)(*pairs)
