"""Why gradient descent converges: how steep a loss is towards a minimum, at the points of a trajectory or a path."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, check_whole
from mcjax.hessian.products import Loss, as_loss, check_like, checked
from mcjax.runtime.compiling import jit


class Ratios(NamedTuple):
    """Of every point w, with g the gradient there, w* the minimum and f* its loss: (points,) each.

    polyak_lojasiewicz: ||g||^2 / (f - f*). weak_quasi_convexity: <g, w - w*> / (f - f*). restricted_secant:
    <g, w - w*> / ||w - w*||^2. NaN where the denominator is zero up to rounding, 100 times
    the precision of the dtype.
    """

    polyak_lojasiewicz: np.ndarray
    weak_quasi_convexity: np.ndarray
    restricted_secant: np.ndarray


class ConvergenceConstants(NamedTuple):
    """The least ratio over the points, for each of the three conditions, and the ratios.

    A condition holds with a constant mu > 0 if the ratio is at least mu at every point there is; only these points
    were seen, so that the numbers here are upper bounds of the constants, and one that is not positive disproves the
    condition. NaN if no point has a ratio.
    """

    polyak_lojasiewicz: float
    weak_quasi_convexity: float
    restricted_secant: float
    ratios: Ratios


def convergence_constants(
    loss: Loss, thetas: trees.Tree, minimum: trees.Tree, *, value: float | None = None, chunk: int = 16
) -> ConvergenceConstants:
    """The Polyak-Lojasiewicz, weak quasi-convexity and restricted secant constants of a loss, as some points have them.

    thetas: networks along a leading axis, of a trajectory, or `jax.vmap(path)(ts)`. minimum: the global minimum w*,
    one network. value: f*, the loss there (None: it is computed). chunk: how many points are in memory at once.
    All distances are Euclidean, over the parameters. One compiled program for losses of a kind and networks of a
    shape. Raises InputError if a point has a loss below f* by more than rounding, if a loss is not finite, or if
    thetas and minimum do not go together.
    Source: Zhang 2024, Tractable Landscapes for Nonconvex Optimization (slides), Definition 5.

        constants = convergence_constants(loss, descent_points, w_star)
        print(constants.restricted_secant, constants.ratios.restricted_secant)
    """
    check_whole("chunk", chunk)
    found = trees.shapes(thetas)
    counts = {shape[:1] for shape in found.values()}
    if len(counts) != 1 or counts in ({()}, {(0,)}):
        raise InputError(f"got thetas of shapes {found}, expected networks along a leading axis of at least 1.")
    check_like(jax.eval_shape(lambda many: trees.index(many, 0), thetas), minimum, "minimum")
    points, least = (np.asarray(each, np.float64) for each in _measure(as_loss(loss), thetas, minimum, chunk))
    losses, squares, along, distances, rounding = points.T
    lowest = float(least) if value is None else float(value)
    if not (np.isfinite(points).all() and np.isfinite(lowest)):
        raise InputError("got a loss or gradient that is not finite, expected points and a minimum where they are.")
    precision = 100 * float(np.finfo(_dtype(thetas)).eps)
    above = losses - lowest
    level = np.abs(above) <= precision * np.maximum(np.abs(losses), abs(lowest))
    if (below := ~level & (above < 0)).any():
        i = int(np.argmin(above))
        raise InputError(
            f"got a loss of {losses[i]:.9g} at point {i}, {int(below.sum())} of {len(losses)} below the minimum's "
            f"{lowest:.9g}: expected a global minimum. Give the best network as minimum, or its loss as value."
        )
    same = distances <= precision**2 * rounding
    above, distances = np.where(level, np.nan, above), np.where(same, np.nan, distances)
    ratios = Ratios(squares / above, along / above, along / distances)
    polyak_lojasiewicz, weak_quasi_convexity, restricted_secant = (_least(each) for each in ratios)
    return ConvergenceConstants(polyak_lojasiewicz, weak_quasi_convexity, restricted_secant, ratios)


def _least(ratios: np.ndarray) -> float:
    known = ratios[~np.isnan(ratios)]
    return float(known.min()) if len(known) else float("nan")


def _dtype(tree: trees.Tree) -> Any:
    return jnp.result_type(*jax.tree.leaves(trees.params(tree)))


@jit(static_argnames=("chunk",))
def _measure(loss: Loss, thetas: trees.Tree, minimum: trees.Tree, chunk: int) -> tuple[jax.Array, jax.Array]:
    """At every point f, ||g||^2, <g, w - w*>, ||w - w*||^2 and ||w||^2 + ||w*||^2, (points, 5), and f(w*)."""
    best = trees.params(minimum)

    def one(theta: trees.Tree) -> jax.Array:
        leaves = trees.params(theta)
        with jax.default_matmul_precision("highest"):
            value, slope = jax.value_and_grad(checked(loss, theta))(leaves)
        away = trees.subtract(leaves, best)
        sizes = trees.dot(leaves, leaves) + trees.dot(best, best)
        return jnp.stack([value, trees.dot(slope, slope), trees.dot(slope, away), trees.dot(away, away), sizes])

    count = len(jax.tree.leaves(thetas)[0])
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(one, thetas, batch_size=min(chunk, count)), checked(loss, minimum)(best)


__all__ = ["ConvergenceConstants", "Ratios", "convergence_constants"]
