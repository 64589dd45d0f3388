"""Minimising a whole loss to convergence: Newton's method in a trust region, by conjugate gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mcjax import trees

Function = Callable[[Any], jax.Array]
"""What is minimised: a pure function of a tree or a vector, twice differentiable almost everywhere, to a scalar."""


class Minimum(NamedTuple):
    """Where a minimisation ended.

    value, gradient_norm: there. iterations, products: how many Newton steps were tried, and how many products of
    the Hessian with a vector they took. converged: whether the gradient's norm is at most the tolerance.
    """

    x: trees.Tree
    value: jax.Array
    gradient_norm: jax.Array
    iterations: jax.Array
    products: jax.Array
    converged: jax.Array


class Search(NamedTuple):
    """What the method carries from step to step: a point as a vector, what is known there, and the trust region.

    first: the norm of the first gradient.
    """

    x: jax.Array
    value: jax.Array
    gradient: jax.Array
    radius: jax.Array
    first: jax.Array
    iterations: jax.Array
    products: jax.Array


def minimise(
    fun: Function,
    start: trees.Tree,
    *,
    tolerance: Any,
    iterations: int = 100,
    products: int = 100,
    radius: float = 0.1,
    visit: Callable[[Any, trees.Tree, jax.Array], Any] | None = None,
    visited: Any = None,
) -> tuple[Minimum, Any]:
    """A local minimum of `fun` near `start`, from which the value never rises. Pure: works under jit and vmap.

    tolerance: the Euclidean norm of the gradient at which it ends. iterations: Newton steps at most. products: of
    the Hessian with vectors, in one step at most. radius: how far the first step may go. Every step minimises the
    quadratic model inside the trust region by truncated conjugate gradients, and follows negative curvature to
    its boundary, so that saddles are left. Computed in the dtype of `start`, whose rounding bounds what can be reached.
    visit: called as `visit(visited, x, value)` for every point that is gone to, to carry on what it returns; the last
    is returned beside the minimum. Source: Steihaug 1983; Nocedal and Wright, Numerical Optimization, Algorithms 4.1
    and 7.2.

        found, _ = minimise(loss, params, tolerance=1e-6)
    """
    flat, unravel = ravel_pytree(start)

    def flattened(x: jax.Array) -> jax.Array:
        return fun(unravel(x))

    def going(carry: tuple[Search, Any]) -> jax.Array:
        search, _ = carry
        # Without a trust region that is more than rounding nothing is left to do.
        room = search.radius > jnp.finfo(search.x.dtype).eps * jnp.linalg.norm(search.x)
        return (jnp.linalg.norm(search.gradient) > tolerance) & room & (search.iterations < iterations)

    def step(carry: tuple[Search, Any]) -> tuple[Search, Any]:
        search, visited = carry
        after = _step(flattened, search, tolerance, products)
        if visit is not None:
            gone = visit(visited, unravel(after.x), after.value)
            visited = jax.tree.map(lambda new, old: jnp.where((after.x != search.x).any(), new, old), gone, visited)
        return after, visited

    found, visited = jax.lax.while_loop(going, step, (_begin(flattened, flat, radius), visited))
    norm = jnp.linalg.norm(found.gradient)
    converged = norm <= tolerance
    return Minimum(unravel(found.x), found.value, norm, found.iterations, found.products, converged), visited


def _begin(fun: Function, x: jax.Array, radius: float) -> Search:
    value, gradient = jax.value_and_grad(fun)(x)
    none = jnp.zeros((), jnp.int32)
    return Search(x, value, gradient, jnp.asarray(radius, x.dtype), jnp.linalg.norm(gradient), none, none)


def _step(fun: Function, search: Search, tolerance: Any, products: int) -> Search:
    x, value, gradient = search.x, search.value, search.gradient
    gradient_of = jax.grad(fun)

    def product(vector: jax.Array) -> jax.Array:
        return jax.jvp(gradient_of, (x,), (vector,))[1]

    norm = jnp.linalg.norm(gradient)
    # Superlinear convergence, but never more than the tolerance asks for.
    accuracy = jnp.maximum(jnp.minimum(0.1, jnp.sqrt(norm / search.first)) * norm, 0.1 * tolerance)
    step, model, taken = _truncated(product, gradient, search.radius, accuracy, products)
    new_value, new_gradient = jax.value_and_grad(fun)(x + step)
    length = jnp.linalg.norm(step)
    share = (value - new_value) / jnp.maximum(-model, jnp.finfo(x.dtype).tiny)
    # Near the end the difference of values is rounding, and the gradient tells.
    rounding = 10 * jnp.finfo(x.dtype).eps * jnp.abs(value)
    settled = (jnp.abs(value - new_value) <= rounding) & (jnp.linalg.norm(new_gradient) < norm)
    # A step that gains much less than the model says has left the valley, and so may the line to its end.
    taking = (share > 0.1) | settled
    radius = jnp.where(
        share < 0.25, 0.25 * length, jnp.where((share > 0.75) & (length > 0.99 * search.radius), 2, 1) * search.radius
    )
    radius = jnp.where(settled, jnp.maximum(radius, length), radius)
    return Search(
        jnp.where(taking, x + step, x),
        jnp.where(taking, new_value, value),
        jnp.where(taking, new_gradient, gradient),
        radius,
        search.first,
        search.iterations + 1,
        search.products + taken,
    )


def _truncated(
    product: Callable[[jax.Array], jax.Array], gradient: jax.Array, radius: jax.Array, accuracy: jax.Array, limit: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Conjugate gradients on g p + p H p / 2 inside a ball: the step, the model's change, and the products taken."""

    def to_boundary(point: jax.Array, direction: jax.Array) -> jax.Array:
        a, b, c = direction @ direction, point @ direction, point @ point - radius**2
        # The root that loses no digits; c is not positive inside the ball.
        discriminant = jnp.sqrt(jnp.maximum(b * b - a * c, 0))
        return point + jnp.where(b > 0, -c / (b + discriminant), (discriminant - b) / a) * direction

    def going(state: tuple) -> jax.Array:
        *_, taken, done = state
        return ~done & (taken < limit)

    def one(state: tuple) -> tuple:
        point, curved, residual, direction, taken, _ = state
        along = product(direction)
        curvature, square = direction @ along, residual @ residual
        size = square / jnp.where(curvature > 0, curvature, 1)
        ahead = point + size * direction
        leaving = (curvature <= 0) | (jnp.linalg.norm(ahead) >= radius)
        end = jnp.where(leaving, to_boundary(point, direction), ahead)
        # What the step's share of the direction is, for the product of the Hessian with the step.
        part = ((end - point) @ direction) / (direction @ direction)
        left = residual + size * along
        turned = -left + (left @ left) / square * direction
        done = leaving | (jnp.linalg.norm(left) <= accuracy)
        return end, curved + part * along, left, turned, taken + 1, done

    zero = jnp.zeros_like(gradient)
    none, going_on = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    point, curved, _, _, taken, _ = jax.lax.while_loop(going, one, (zero, zero, gradient, -gradient, none, going_on))
    return point, gradient @ point + point @ curved / 2, taken
