"""Minimisation of a smooth function to convergence, by Newton's method in a trust region."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mcjax import trees
from mcjax.shown import short_repr

Function = Callable[[Any], jax.Array]
"""A pure function from a tree or a vector to a scalar, twice differentiable almost everywhere."""


@short_repr
class NewtonResult(NamedTuple):
    """The result of a minimisation.

    Attributes:
        x: The point, a tree.
        value: The function's value there.
        gradient_norm: The Euclidean norm of the gradient there.
        iterations: Number of Newton steps, accepted or not.
        products: Number of Hessian-vector products.
        converged: Whether the gradient norm is at most the tolerance.
    """

    x: trees.Tree
    value: jax.Array
    gradient_norm: jax.Array
    iterations: jax.Array
    products: jax.Array
    converged: jax.Array


class TrustRegionState(NamedTuple):
    """The iterate of the trust-region method.

    Attributes:
        x: The point, a vector (n,).
        value: The function's value there.
        gradient: The gradient there, (n,).
        radius: The radius of the trust region.
        initial_norm: The norm of the gradient at the start.
        iterations: Number of Newton steps so far.
        products: Number of Hessian-vector products so far.
    """

    x: jax.Array
    value: jax.Array
    gradient: jax.Array
    radius: jax.Array
    initial_norm: jax.Array
    iterations: jax.Array
    products: jax.Array


def trust_region_newton(
    fun: Function,
    start: trees.Tree,
    *,
    tolerance: Any,
    max_iterations: int = 100,
    max_products: int = 100,
    radius: float = 0.1,
    callback: Callable[[Any, trees.Tree, jax.Array], Any] | None = None,
    carry: Any = None,
) -> tuple[NewtonResult, Any]:
    """Minimise `fun` from `start`. The value never increases, except by rounding near the minimum.

    Every step minimises the quadratic model inside the trust region by truncated conjugate gradients. Directions of
    negative curvature are followed to the boundary, so the method escapes saddles. Computed in the dtype of `start`,
    whose rounding limits the gradient norm that can be reached. Pure: works under jit and vmap.
    Source: Nocedal and Wright, Numerical Optimization, Algorithms 4.1 and 7.2; Steihaug 1983, The Conjugate Gradient
    Method and Trust Regions in Large Scale Optimization.

    Args:
        fun: A pure function from a tree like `start` to a scalar.
        start: The initial point.
        tolerance: The Euclidean norm of the gradient at which the minimisation ends.
        max_iterations: Maximum number of Newton steps.
        max_products: Maximum number of Hessian-vector products per step.
        radius: The initial radius of the trust region.
        callback: A function `callback(carry, x, value) -> carry`, called at every accepted point.
        carry: The initial carry of the callback.

    Returns:
        The result, and the last carry.

    Example::

        found, _ = trust_region_newton(loss, params, tolerance=1e-6)
    """
    flat, unravel = ravel_pytree(start)

    def flat_fun(x: jax.Array) -> jax.Array:
        return fun(unravel(x))

    def unfinished(loop: tuple[TrustRegionState, Any]) -> jax.Array:
        state, _ = loop
        # Stop if the trust region is smaller than the rounding of x.
        room = state.radius > jnp.finfo(state.x.dtype).eps * jnp.linalg.norm(state.x)
        return (jnp.linalg.norm(state.gradient) > tolerance) & room & (state.iterations < max_iterations)

    def step(loop: tuple[TrustRegionState, Any]) -> tuple[TrustRegionState, Any]:
        state, carry = loop
        after = _step(flat_fun, state, tolerance, max_products)
        if callback is not None:
            # The callback's carry is taken at accepted points only.
            returned = callback(carry, unravel(after.x), after.value)
            carry = jax.tree.map(lambda new, old: jnp.where((after.x != state.x).any(), new, old), returned, carry)
        return after, carry

    last, carry = jax.lax.while_loop(unfinished, step, (_begin(flat_fun, flat, radius), carry))
    norm = jnp.linalg.norm(last.gradient)
    return NewtonResult(unravel(last.x), last.value, norm, last.iterations, last.products, norm <= tolerance), carry


def _begin(fun: Function, x: jax.Array, radius: float) -> TrustRegionState:
    value, gradient = jax.value_and_grad(fun)(x)
    none = jnp.zeros((), jnp.int32)
    return TrustRegionState(x, value, gradient, jnp.asarray(radius, x.dtype), jnp.linalg.norm(gradient), none, none)


def _step(fun: Function, state: TrustRegionState, tolerance: Any, max_products: int) -> TrustRegionState:
    """One iteration of Algorithm 4.1 of Nocedal and Wright."""
    x, value, gradient = state.x, state.value, state.gradient
    gradient_of = jax.grad(fun)

    def product(vector: jax.Array) -> jax.Array:
        return jax.jvp(gradient_of, (x,), (vector,))[1]

    # The forcing sequence min(0.1, (||g|| / ||g_0||)^(1/2)), for superlinear convergence, bounded by the tolerance.
    norm = jnp.linalg.norm(gradient)
    accuracy = jnp.maximum(jnp.minimum(0.1, jnp.sqrt(norm / state.initial_norm)) * norm, 0.1 * tolerance)
    # The step p_k, by Algorithm 7.2.
    step, predicted, taken = steihaug_cg(product, gradient, state.radius, accuracy, max_products)
    # The objective at the trial point.
    new_value, new_gradient = jax.value_and_grad(fun)(x + step)
    length = jnp.linalg.norm(step)
    # Eq. 4.4: rho_k, actual over predicted reduction.
    rho = (value - new_value) / jnp.maximum(-predicted, jnp.finfo(x.dtype).tiny)
    # Near the minimum, differences of values are rounding errors: there, a smaller gradient norm accepts the step.
    rounding = 10 * jnp.finfo(x.dtype).eps * jnp.abs(value)
    settled = (jnp.abs(value - new_value) <= rounding) & (jnp.linalg.norm(new_gradient) < norm)
    # Accept if rho_k > eta = 0.1: a step that decreases the value much less than predicted may leave the valley.
    accepted = (rho > 0.1) | settled
    # Shrink the region if rho_k < 1/4, double it if rho_k > 3/4 and the step reached the boundary.
    grow = jnp.where((rho > 0.75) & (length > 0.99 * state.radius), 2, 1)
    radius = jnp.where(rho < 0.25, 0.25 * length, grow * state.radius)
    radius = jnp.where(settled, jnp.maximum(radius, length), radius)
    return TrustRegionState(
        jnp.where(accepted, x + step, x),
        jnp.where(accepted, new_value, value),
        jnp.where(accepted, new_gradient, gradient),
        radius,
        state.initial_norm,
        state.iterations + 1,
        state.products + taken,
    )


def steihaug_cg(
    product: Callable[[jax.Array], jax.Array],
    gradient: jax.Array,
    radius: jax.Array,
    accuracy: jax.Array,
    max_products: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Minimise the model g^T p + p^T H p / 2 inside a ball, by truncated conjugate gradients.

    Source: Steihaug 1983; Nocedal and Wright, Algorithm 7.2.

    Args:
        product: The product of H with a vector (n,).
        gradient: The gradient g, (n,).
        radius: The radius of the ball, a scalar.
        accuracy: The norm of the residual at which the iteration ends, a scalar.
        max_products: Maximum number of products with H.

    Returns:
        The step p (n,), the change of the model (a scalar, at most 0), and the number of products.
    """

    def to_boundary(point: jax.Array, direction: jax.Array) -> jax.Array:
        # The positive root tau of ||z + tau d|| = radius, by the formula without cancellation; c <= 0 inside the ball.
        a, b, c = direction @ direction, point @ direction, point @ point - radius**2
        discriminant = jnp.sqrt(jnp.maximum(b * b - a * c, 0))
        return point + jnp.where(b > 0, -c / (b + discriminant), (discriminant - b) / a) * direction

    def unfinished(state: tuple) -> jax.Array:
        *_, taken, done = state
        return ~done & (taken < max_products)

    def iteration(state: tuple) -> tuple:
        point, curved, residual, direction, taken, _ = state
        along = product(direction)
        curvature, square = direction @ along, residual @ residual
        # alpha_j = r^T r / d^T H d, and z_{j+1} = z_j + alpha_j d_j.
        alpha = square / jnp.where(curvature > 0, curvature, 1)
        ahead = point + alpha * direction
        # At negative curvature, or outside the ball, the step ends on its boundary.
        leaving = (curvature <= 0) | (jnp.linalg.norm(ahead) >= radius)
        end = jnp.where(leaving, to_boundary(point, direction), ahead)
        # Update H z: the fraction of d in this step, times H d.
        part = ((end - point) @ direction) / (direction @ direction)
        # r_{j+1} = r_j + alpha_j H d_j, and d_{j+1} = -r_{j+1} + beta_{j+1} d_j.
        new_residual = residual + alpha * along
        new_direction = -new_residual + (new_residual @ new_residual) / square * direction
        done = leaving | (jnp.linalg.norm(new_residual) <= accuracy)
        return end, curved + part * along, new_residual, new_direction, taken + 1, done

    zero = jnp.zeros_like(gradient)
    # z_0 = 0, r_0 = g, d_0 = -g.
    first = (zero, zero, gradient, -gradient, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    point, curved, _, _, taken, _ = jax.lax.while_loop(unfinished, iteration, first)
    return point, gradient @ point + point @ curved / 2, taken
