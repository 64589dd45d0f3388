"""The objective of a curve on fixed images and a fixed grid of t, by which PAM accepts a step or refuses it."""

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.curves.curve import Curve
from mcjax.models.base import Model
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import over_models, over_points
from mcjax.symmetry import Permutation, permute
from mcjax.training.fixed import FixedImages, objective_on


def grid(points: int) -> jax.Array:
    """The midpoints of `points` equal parts of [0, 1], float32 (points,)."""
    return (jnp.arange(points, dtype=jnp.float32) + 0.5) / points


def objective_on_grid(
    model: Model,
    curve: Curve,
    weight_decay: float,
    ts: jax.Array,
    fixed: FixedImages,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    theta_c: trees.Tree,
    P: Permutation,
) -> np.ndarray:
    """Q + R of every pair and candidate, float64 (pairs, candidates).

    Q is the mean over ts and images of the cross entropy of r(t) by batch statistics, R that of
    weight_decay / 2 * ||r(t)||^2. The endpoints and theta_c (of the parameters) have a leading pair
    axis; P is hard, int32 (pairs, candidates, n) a group. One compiled program; one network at a time
    for every pair.
    """
    return np.asarray(_values(model, curve, weight_decay, ts, fixed, theta_1, theta_2, theta_c, P), np.float64)


@jit(static_argnames=("model", "curve", "weight_decay"))
def _values(
    model: Model,
    curve: Curve,
    weight_decay: float,
    ts: jax.Array,
    fixed: FixedImages,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    theta_c: trees.Tree,
    P: Permutation,
) -> jax.Array:
    def pair(theta_1: trees.Tree, theta_2: trees.Tree, theta_c: trees.Tree, P: Permutation) -> jax.Array:
        def candidate(P: Permutation) -> jax.Array:
            end = trees.params(permute(model.spec, P, theta_2))

            def at(t: jax.Array) -> jax.Array:
                params = curve(trees.params(theta_1), end, theta_c, None, t)
                return objective_on(model, trees.with_params(theta_1, params), fixed, weight_decay)

            return over_points(at, ts, model.convolutions).mean()

        return jax.lax.map(candidate, P)

    return over_models(pair, model.convolutions)(theta_1, theta_2, theta_c, P)
