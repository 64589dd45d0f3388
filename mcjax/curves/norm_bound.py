"""The norm bound of Neuron Alignment, eq. 15: control points whose weights are bounded."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.curves.curve import Curve
from mcjax.errors import InputError


@dataclass(frozen=True)
class OntoBall:
    """A step on the control points, back onto those whose networks have leaves of bounded norm (eq. 15).

    The network of control point j is the straight line at j / (control_points + 1) plus theta_c[j]. Each of its leaves
    is projected onto the ball of this radius in the Euclidean norm, which bounds the spectral norm of a matrix too.
    Points of Bezier curves and chains are convex combinations of these networks and the ends, so that the bound holds
    at every t if it holds for the ends.

    Attributes:
        curve: The curve.
        radius: The bound.
    """

    curve: Curve
    radius: float

    def __call__(self, theta_c: trees.Tree, updates: trees.Tree, ends: Any) -> trees.Tree:
        def project(offset: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
            line, point, norm = self._points(offset, a, b)
            return (point * jnp.minimum(1, self.radius / jnp.maximum(norm, 1e-30)) - line).reshape(offset.shape)

        return jax.tree.map(project, trees.add(theta_c, updates), *_trained(ends))

    def holds(self, theta_c: trees.Tree, ends: Any) -> jax.Array:
        """Whether all leaves of the control points' networks are within the bound, up to rounding; a scalar."""

        def within(offset: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
            return (self._points(offset, a, b)[2] <= self.radius * (1 + 1e-5)).all()

        return jnp.stack(jax.tree.leaves(jax.tree.map(within, theta_c, *_trained(ends)))).all()

    def tangent(self, theta_c: trees.Tree, direction: trees.Tree, ends: Any) -> trees.Tree:
        """The projection of a direction of the control points onto the tangent cone of the bound."""

        def project(offset: jax.Array, step: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
            _, point, norm = self._points(offset, a, b)
            normal, step = point / jnp.maximum(norm, 1e-30), step.reshape(point.shape)
            outward = jnp.maximum(_sums(step * normal), 0)
            # A point on the boundary, up to rounding, cannot move outward.
            return (step - jnp.where(norm >= self.radius * (1 - 1e-5), outward, 0) * normal).reshape(offset.shape)

        return jax.tree.map(project, theta_c, direction, *_trained(ends))

    def _points(self, offset: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One leaf of the line, of the control points' networks, and its norms, each (control_points, ...)."""
        count = self.curve.control_points
        places = (jnp.arange(1, count + 1) / (count + 1)).reshape(-1, *(1,) * a.ndim)
        line = (1 - places) * trees.at_least_float32(a)[None] + places * trees.at_least_float32(b)[None]
        point = line + offset.reshape(line.shape)
        return line, point, jnp.sqrt(_sums(jnp.square(point)))


def _sums(leaf: jax.Array) -> jax.Array:
    """Sums over all axes but the first, which keep their number of axes."""
    return leaf.sum(tuple(range(1, leaf.ndim)), keepdims=True)


def _trained(ends: Any) -> tuple[trees.Tree, trees.Tree]:
    return trees.trained(ends.theta_1), trees.trained(ends.theta_2)


def check_norm_bound(bound: float | None, *thetas: trees.Tree) -> None:
    """Raise InputError if a leaf of networks, with a leading axis, has a larger norm than the bound."""
    if bound is None:
        return
    norms = {
        name: float(np.sqrt(np.square(np.asarray(leaf, np.float64).reshape(len(leaf), -1)).sum(1)).max())
        for theta in thetas
        for name, leaf in trees.flatten(trees.trained(theta)).items()
    }
    largest = max(norms, key=lambda name: norms[name])
    if norms[largest] > bound:
        raise InputError(
            f"got norm_bound={bound}, but {largest} of an endpoint has norm {norms[largest]:.4g}: expected a bound "
            "that both endpoints satisfy."
        )
