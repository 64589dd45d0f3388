"""Conditions under which gradient descent converges to a global minimum, measured at the points of a trajectory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, check_whole
from mcjax.hessian.products import Loss, as_loss, check_like, loss_of_params
from mcjax.runtime.compiling import jit
from mcjax.shown import short_repr


@short_repr
class Ratios(NamedTuple):
    """The ratio of each condition at every point w, with g the gradient, w* the minimum and f* its loss.

    NaN where the denominator is zero up to rounding, 100 times the precision of the dtype.

    Attributes:
        polyak_lojasiewicz: ||g||^2 / (f - f*), (points,).
        weak_quasi_convexity: <g, w - w*> / (f - f*), (points,).
        restricted_secant: <g, w - w*> / ||w - w*||^2, (points,).
    """

    polyak_lojasiewicz: np.ndarray
    weak_quasi_convexity: np.ndarray
    restricted_secant: np.ndarray


@short_repr
class ConvergenceConstants(NamedTuple):
    """The least ratio over the points, for each of the three conditions.

    A condition holds with constant mu > 0 if its ratio is at least mu everywhere. The least ratio over some points is
    an upper bound of the constant; if it is not positive, the condition does not hold. NaN if all ratios are NaN.

    Attributes:
        polyak_lojasiewicz: The least of ||g||^2 / (f - f*).
        weak_quasi_convexity: The least of <g, w - w*> / (f - f*).
        restricted_secant: The least of <g, w - w*> / ||w - w*||^2.
        ratios: The ratios at every point.
    """

    polyak_lojasiewicz: float
    weak_quasi_convexity: float
    restricted_secant: float
    ratios: Ratios


def convergence_constants(
    loss: Loss, thetas: trees.Tree, minimum: trees.Tree, *, value: float | None = None, chunk: int = 16
) -> ConvergenceConstants:
    """The Polyak-Lojasiewicz, weak quasi-convexity and restricted secant constants of a loss on some points.

    All distances are Euclidean, over the parameters. One compiled program serves losses of one kind and networks of
    one shape.
    Source: Zhang 2024, Tractable Landscapes for Nonconvex Optimization (slides), Definition 5.

    Args:
        loss: A pure function f of one network to a scalar.
        thetas: Networks along a leading axis, such as a trajectory, or `jax.vmap(path)(ts)`.
        minimum: The global minimum w*, one network.
        value: The loss f* at the minimum. None: computed.
        chunk: Points in memory at once.

    Returns:
        The constants, and the ratios at every point.

    Raises:
        InputError: A point's loss is below f* by more than rounding, a loss or gradient is not finite, or thetas and
            minimum have different shapes.

    Example::

        constants = convergence_constants(loss, trajectory, w_star)
        print(constants.restricted_secant, constants.ratios.restricted_secant)
    """
    check_whole("chunk", chunk)
    shapes = trees.shapes(thetas)
    counts = {shape[:1] for shape in shapes.values()}
    if len(counts) != 1 or counts in ({()}, {(0,)}):
        raise InputError(f"got thetas of shapes {shapes}, expected networks along a leading axis of at least 1.")
    check_like(jax.eval_shape(lambda many: trees.index(many, 0), thetas), minimum, "minimum")
    thetas, minimum = trees.widened((thetas, minimum))
    points, at_minimum = (np.asarray(each, np.float64) for each in _measure(as_loss(loss), thetas, minimum, chunk))
    lowest = float(at_minimum) if value is None else float(value)
    if not (np.isfinite(points).all() and np.isfinite(lowest)):
        raise InputError(
            "got a loss or gradient that is not finite, expected points and a minimum where both are finite."
        )
    dtype = jnp.result_type(*jax.tree.leaves(trees.trained(thetas)))
    ratios = _ratios(points, lowest, 100 * float(jnp.finfo(dtype).eps))
    polyak_lojasiewicz, weak_quasi_convexity, restricted_secant = map(_least, ratios)
    return ConvergenceConstants(polyak_lojasiewicz, weak_quasi_convexity, restricted_secant, ratios)


def _ratios(points: np.ndarray, lowest: float, precision: float) -> Ratios:
    """The ratios of points as `_measure` returns them; NaN where a denominator is within `precision` of zero."""
    losses, squares, along, distances, sizes = points.T
    above = losses - lowest
    level = np.abs(above) <= precision * np.maximum(np.abs(losses), abs(lowest))
    if (below := ~level & (above < 0)).any():
        i = int(np.argmin(above))
        raise InputError(
            f"got a loss of {losses[i]:.9g} at point {i}, {int(below.sum())} of {len(losses)} below the minimum's "
            f"{lowest:.9g}: expected a global minimum. Give the best network as minimum, or its loss as value."
        )
    # Points whose distance from the minimum is rounding have no ratio.
    same = distances <= precision**2 * sizes
    above, distances = np.where(level, np.nan, above), np.where(same, np.nan, distances)
    return Ratios(squares / above, along / above, along / distances)


def _least(ratios: np.ndarray) -> float:
    defined = ratios[~np.isnan(ratios)]
    return float(defined.min()) if len(defined) else float("nan")


@jit(static_argnames=("chunk",))
def _measure(loss: Loss, thetas: trees.Tree, minimum: trees.Tree, chunk: int) -> tuple[jax.Array, jax.Array]:
    """f, ||g||^2, <g, w - w*>, ||w - w*||^2 and ||w||^2 + ||w*||^2 at every point, (points, 5); f(w*)."""
    best = trees.trained(minimum)

    def one(theta: trees.Tree) -> jax.Array:
        leaves = trees.trained(theta)
        with jax.default_matmul_precision("highest"):
            value, slope = jax.value_and_grad(loss_of_params(loss, theta))(leaves)
        away = trees.subtract(leaves, best)
        sizes = trees.dot(leaves, leaves) + trees.dot(best, best)
        return jnp.stack([value, trees.dot(slope, slope), trees.dot(slope, away), trees.dot(away, away), sizes])

    count = len(jax.tree.leaves(thetas)[0])
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(one, thetas, batch_size=min(chunk, count)), loss_of_params(loss, minimum)(best)


__all__ = ["ConvergenceConstants", "Ratios", "convergence_constants"]
