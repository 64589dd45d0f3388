"""What kind of point a network is: minimum, maximum or saddle of its loss, by gradient and Hessian."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, check_whole
from mcjax.hessian.lanczos import spectral_density
from mcjax.hessian.products import DENSE_LIMIT, Loss, as_loss, check_like, checked, dense_hessian, gradient
from mcjax.runtime.compiling import jit

Kind = Literal["minimum", "maximum", "saddle", "degenerate", "no critical point"]


class CriticalPoint(NamedTuple):
    """What gradient and Hessian say about a point.

    gradient_norm: Euclidean, over all parameters. lowest, highest: the ends of the Hessian's spectrum. index: how many
    eigenvalues are below -zero_tolerance; zeros: how many are within it. eigenvalues: ascending. dense: whether they
    are all of them, so that all is exact up to rounding; otherwise they are the Ritz values of Lanczos, lowest and
    highest lie inside the spectrum, index is a lower bound, zeros is None, and of the kinds "saddle" alone is sure.

    kind (Theorem 4 of the slides): "minimum" or "maximum" if all eigenvalues are positive or negative, "saddle" if
    some are positive and some negative, "degenerate" if the matrix is semidefinite with zeros, where the second order
    does not tell, "no critical point" if the gradient is not zero, whatever the eigenvalues.
    """

    gradient_norm: float
    lowest: float
    highest: float
    index: int  # type: ignore[assignment]  # mathematics has this name for it, tuples have another use
    zeros: int | None
    zero_tolerance: float
    eigenvalues: np.ndarray
    kind: Kind
    dense: bool

    def second_order_stationary(self, epsilon: float, gamma: float) -> bool:
        """Whether the gradient's norm is at most epsilon and no eigenvalue below -gamma (Definition 8 of the slides).

        Not sure if it is True and `dense` is not.
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
    """The kind of critical point that a network is of its loss, by all eigenvalues of the Hessian or the outer ones.

    gradient_tolerance: the norm of the gradient up to which it counts as zero. zero_tolerance: the absolute value up
    to which an eigenvalue counts as zero (None: 10 sqrt(n) times the precision of theta's dtype times the largest
    absolute eigenvalue, what rounding makes of a zero). Up to `dense_up_to` parameters the Hessian is formed; beyond,
    `steps` of Lanczos start from a vector drawn by `key`. float32 tells curvature from none up to 1e-6 of the largest
    at best: for more, give theta in float64 under `jax.enable_x64`.

    Raises InputError for a loss that is not finite there or numbers out of range, and if a key is missing.
    Source: Zhang 2024, Tractable Landscapes for Nonconvex Optimization (slides), Theorem 4.

        point = classify_point(lambda x: x[0] ** 2 - x[1] ** 2, jnp.zeros(2))
        print(point.kind, point.index)  # saddle 1
    """
    for name, value in (("gradient_tolerance", gradient_tolerance), ("zero_tolerance", zero_tolerance)):
        if value is not None and not value >= 0:
            raise InputError(f"got {name}={value!r}, expected a number of at least 0.")
    check_whole("dense_up_to", dense_up_to, 0, DENSE_LIMIT)
    check_whole("steps", steps)
    loss, size = as_loss(loss), trees.parameter_count(theta)
    dense = size <= dense_up_to
    gradient_norm = float(_finite(np.asarray(_gradient_norm(loss, theta)), "gradient"))
    if dense:
        eigenvalues = np.linalg.eigvalsh(_finite(np.asarray(dense_hessian(loss, theta)), "Hessian"))
    elif key is not None:
        ritz = spectral_density(key, loss, theta, draws=1, steps=steps).nodes[0]
        eigenvalues = _finite(np.asarray(ritz), "Hessian")
    else:
        raise InputError(
            f"got {size} parameters, more than dense_up_to={dense_up_to}, and no key: expected the key of the vector "
            f"that Lanczos starts from, or a larger dense_up_to (at most {DENSE_LIMIT})."
        )
    if zero_tolerance is None:
        precision = jnp.finfo(jnp.result_type(*jax.tree.leaves(trees.params(theta)))).eps
        zero_tolerance = float(10 * np.sqrt(size) * precision * np.abs(eigenvalues).max())
    negative, positive = int((eigenvalues < -zero_tolerance).sum()), int((eigenvalues > zero_tolerance).sum())
    zeros = len(eigenvalues) - negative - positive
    return CriticalPoint(
        gradient_norm=gradient_norm,
        lowest=float(eigenvalues[0]),
        highest=float(eigenvalues[-1]),
        index=negative,
        zeros=zeros if dense else None,
        zero_tolerance=zero_tolerance,
        eigenvalues=eigenvalues,
        kind="no critical point" if gradient_norm > gradient_tolerance else _kind(negative, zeros, positive),
        dense=dense,
    )


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
    """The values in float64."""
    if not np.isfinite(values).all():
        raise InputError(f"got a {what} that is not finite, expected a point where the loss is finite and smooth.")
    return values.astype(np.float64)


def direction_of_improvement(
    loss: Loss, theta: trees.Tree, direction: trees.Tree, epsilon: Any = 0.0, gamma: Any = 0.0
) -> jax.Array:
    """Whether |<grad f, d>| > epsilon ||d|| or d^T H d < -gamma ||d||^2, for a direction d like the parameters.

    Then a step along d or -d, small enough, lowers the loss: a bool scalar. At a critical point the gradient is
    zero only up to rounding, so give an epsilon above it. A zero direction is none. Pure: works under jit, and under
    vmap over networks, directions, epsilon and gamma. Raises InputError if the direction is not like the parameters.
    Source: Zhang 2024, Tractable Landscapes for Nonconvex Optimization (slides), Definition 11.

        improving = jax.vmap(lambda x: direction_of_improvement(loss, x, z, 0.01, 0.25))(points)
    """
    leaves = trees.params(theta)
    check_like(leaves, direction, "direction")
    direction = jax.tree.map(lambda d, leaf: jnp.asarray(d, jnp.result_type(leaf)), direction, leaves)
    with jax.default_matmul_precision("highest"):
        slope, curved = jax.jvp(jax.grad(checked(loss, theta)), (leaves,), (direction,))
    length = trees.norm(direction)
    descending = jnp.abs(trees.dot(slope, direction)) > epsilon * length
    return descending | (trees.dot(direction, curved) < -gamma * length**2)


__all__ = ["CriticalPoint", "Kind", "classify_point", "direction_of_improvement"]
