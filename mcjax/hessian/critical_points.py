"""Kinds of critical points, minimum, maximum or saddle, by the gradient and Hessian of a loss."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, check_whole
from mcjax.hessian.estimators import spectral_density
from mcjax.hessian.products import DENSE_LIMIT, Loss, as_loss, cast_like, dense_hessian, gradient, loss_of_params
from mcjax.runtime.compiling import jit
from mcjax.shown import short_repr

Kind = Literal["minimum", "maximum", "saddle", "degenerate", "no critical point"]


@short_repr
class CriticalPoint(NamedTuple):
    """The gradient norm, Hessian eigenvalues and kind of a point (Zhang 2024, Theorem 4).

    Attributes:
        gradient_norm: The Euclidean norm of the gradient, over all parameters.
        lowest: The smallest eigenvalue of the Hessian.
        highest: The largest eigenvalue.
        index: The number of eigenvalues below -zero_tolerance.
        zeros: The number of eigenvalues within zero_tolerance of zero; None if not `dense`.
        zero_tolerance: The absolute value up to which an eigenvalue counts as zero.
        eigenvalues: Ascending: all of them if `dense`, else Ritz values.
        kind: "minimum" or "maximum" if all eigenvalues are positive or negative; "saddle" if some are positive and
            some negative; "degenerate" if the Hessian is semidefinite with zero eigenvalues, so that the second-order
            test is inconclusive; "no critical point" if the gradient is not zero.
        dense: Whether the whole spectrum was computed, exact up to rounding. Otherwise the eigenvalues are the Ritz
            values of Lanczos: lowest and highest lie inside the spectrum, index is a lower bound, and only the kind
            "saddle" is certain.
    """

    gradient_norm: float
    lowest: float
    highest: float
    index: int  # type: ignore[assignment]  # the usual name, which hides tuple.index
    zeros: int | None
    zero_tolerance: float
    eigenvalues: np.ndarray
    kind: Kind
    dense: bool

    def second_order_stationary(self, epsilon: float, gamma: float) -> bool:
        """Whether the gradient norm is at most epsilon and no eigenvalue is below -gamma (Zhang 2024, Definition 8).

        Certain only if it is False, or the point is `dense`.
        """
        return self.gradient_norm <= epsilon and self.lowest >= -gamma


def classify_point(
    loss: Loss,
    theta: trees.Tree,
    *,
    gradient_tolerance: float = 1e-6,
    zero_tolerance: float | None = None,
    dense_up_to: int = 2000,
    key: jax.Array | None = None,
    steps: int = 100,
) -> CriticalPoint:
    """Classify a network as a minimum, maximum or saddle of its loss.

    In float32, curvature below about 1e-6 of the largest eigenvalue is indistinguishable from zero; pass theta in
    float64 under `jax.enable_x64` for more precision.
    Source: Zhang 2024, Tractable Landscapes for Nonconvex Optimization (slides), Theorem 4.

    Args:
        loss: A pure function of one network to a scalar.
        theta: The network, with n parameters.
        gradient_tolerance: The norm up to which the gradient counts as zero.
        zero_tolerance: The absolute value up to which an eigenvalue counts as zero. None: the rounding error of a
            zero eigenvalue, 10 sqrt(n) eps times the largest absolute eigenvalue.
        dense_up_to: The number of parameters up to which the Hessian is formed; above it, Lanczos is used.
        key: Key of the start vector of Lanczos.
        steps: Lanczos iterations.

    Returns:
        The kind of the point, and its eigenvalues.

    Raises:
        InputError: The gradient or Hessian is not finite, an argument is out of range, or a key is missing.

    Example::

        point = classify_point(lambda x: x[0] ** 2 - x[1] ** 2, jnp.zeros(2))
        print(point.kind, point.index)  # saddle 1
    """
    for name, value in (("gradient_tolerance", gradient_tolerance), ("zero_tolerance", zero_tolerance)):
        if value is not None and not value >= 0:
            raise InputError(f"got {name}={value!r}, expected a number of at least 0.")
    check_whole("dense_up_to", dense_up_to, 0, DENSE_LIMIT)
    check_whole("steps", steps)
    loss, theta, size = as_loss(loss), trees.widened(theta), trees.parameter_count(theta)
    dense = size <= dense_up_to
    gradient_norm = float(_finite(np.asarray(_gradient_norm(loss, theta)), "gradient"))
    if dense:
        eigenvalues = np.linalg.eigvalsh(_finite(np.asarray(dense_hessian(loss, theta)), "Hessian"))
    elif key is not None:
        ritz = spectral_density(key, loss, theta, draws=1, steps=steps).nodes[0]
        eigenvalues = _finite(np.asarray(ritz), "Hessian")
    else:
        raise InputError(
            f"got {size} parameters, more than dense_up_to={dense_up_to}, and no key: expected a key for the start "
            f"vector of Lanczos, or a larger dense_up_to (at most {DENSE_LIMIT})."
        )
    if zero_tolerance is None:
        precision = jnp.finfo(jnp.result_type(*jax.tree.leaves(trees.trained(theta)))).eps
        zero_tolerance = float(10 * np.sqrt(size) * precision * np.abs(eigenvalues).max())
    # Theorem 4: the signs of the eigenvalues, up to the tolerance.
    negative, positive = int((eigenvalues < -zero_tolerance).sum()), int((eigenvalues > zero_tolerance).sum())
    zeros = len(eigenvalues) - negative - positive
    kind = "no critical point" if gradient_norm > gradient_tolerance else _kind(negative, zeros, positive)
    ends = float(eigenvalues[0]), float(eigenvalues[-1])
    counts = negative, zeros if dense else None
    return CriticalPoint(gradient_norm, *ends, *counts, zero_tolerance, eigenvalues, kind, dense)


def _kind(negative: int, zeros: int, positive: int) -> Kind:
    if negative and positive:
        return "saddle"
    if zeros:
        return "degenerate"
    return "minimum" if positive else "maximum"


@jit()
def _gradient_norm(loss: Loss, theta: trees.Tree) -> jax.Array:
    return trees.norm(gradient(loss, theta))


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    """The values in float64. Raises InputError if one is not finite."""
    if not np.isfinite(values).all():
        raise InputError(f"got a {what} that is not finite, expected a point where the loss is finite and smooth.")
    return values.astype(np.float64)


def is_direction_of_improvement(
    loss: Loss, theta: trees.Tree, direction: trees.Tree, epsilon: Any = 0.0, gamma: Any = 0.0
) -> jax.Array:
    """Whether |<grad f, d>| > epsilon ||d|| or d^T H d < -gamma ||d||^2.

    If so, a small enough step along d or -d lowers the loss. A zero direction does not improve. At a critical point
    the gradient is zero only up to rounding, so give an epsilon above it. Pure: works under jit, and under vmap
    over networks, directions, epsilon and gamma.
    Source: Zhang 2024, Tractable Landscapes for Nonconvex Optimization (slides), Definition 11.

    Args:
        loss: A pure function f of one network to a scalar.
        theta: The network.
        direction: d, a tree like `trees.trained(theta)`.
        epsilon: The slope along d that must be exceeded.
        gamma: The negative curvature along d that must be exceeded.

    Returns:
        A bool scalar.

    Raises:
        InputError: The direction is not like the parameters.

    Example::

        improving = jax.vmap(lambda x: is_direction_of_improvement(loss, x, z, 0.01, 0.25))(points)
    """
    theta = trees.widened(theta)
    leaves = trees.trained(theta)
    direction = cast_like(leaves, direction, "direction")
    with jax.default_matmul_precision("highest"):
        slope, product = jax.jvp(jax.grad(loss_of_params(loss, theta)), (leaves,), (direction,))
    length = trees.norm(direction)
    descending = jnp.abs(trees.dot(slope, direction)) > epsilon * length
    return descending | (trees.dot(direction, product) < -gamma * length**2)


__all__ = ["CriticalPoint", "Kind", "classify_point", "is_direction_of_improvement"]
