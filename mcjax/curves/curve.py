"""Curves as pure functions of (theta_1, theta_2, theta_c, P, t): the straight line, Bezier curves, polygonal chains.

A curve is the straight line from theta_1 to P theta_2 plus deviations,

    r(t) = (1 - t) theta_1 + t P theta_2 + sum_j w_j(t) theta_c[j].

Curves differ in the weights w_j, which are zero at both ends. So `theta_c = 0` is always the straight line, the ends do
not depend on theta_c, and the control points move with P (Neuron Alignment, eq. 8).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import comb
from numbers import Real
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, check_fields, check_function, check_whole
from mcjax.shown import Bound, short
from mcjax.symmetry import Permutation, PermutationSpec, permute
from mcjax.symmetry.spec import check_spec

Kind = Literal["bezier", "chain"]
Path = Callable[[Any], trees.Tree]
"""Any function t -> theta. A `jax.tree_util.Partial` can be an argument of compiled functions."""


@dataclass(frozen=True)
class Curve:
    """A family of curves: called as `curve(theta_1, theta_2, theta_c, P, t) -> theta`.

    theta_c is the deviation of the control point from the straight line, a tree like theta_1; with several control
    points every leaf has a leading axis of control points. None: zero. P is a hard or soft permutation of theta_2.
    None: the identity. t is a scalar in [0, 1]. InputError is raised for a concrete t outside [0, 1], and for a theta_c
    with another number of control points (the straight line has none and ignores theta_c). Curves hash and compare by
    value, so they can be static under jit.

    A network on the curve has the dtypes of theta_1. It is computed in float32 at least, and every leaf is rounded
    once. Leaves that are not floating-point, such as counters and keys, are those of theta_1 at every t.

    Attributes:
        spec: The spec of theta_2.
        kind: The weights, "bezier" or "chain".
        control_points: Number of control points.
    """

    spec: PermutationSpec
    kind: Kind
    control_points: int

    def __post_init__(self) -> None:
        check_spec(self.spec)
        check_fields(self)

    def weights(self, t: Any) -> jax.Array:
        """The weights w_j(t), (control_points,): Bernstein polynomials or the hat functions of a chain.

        They are float32, or float64 if t is.
        """
        t = trees.at_least_float32(t)
        n = self.control_points + 1
        inner = jnp.arange(1, n)
        if self.kind == "chain":
            # Hat functions: 1 at the bend t = j / n, 0 at the neighbouring bends.
            return jnp.maximum(0, 1 - jnp.abs(n * t - inner))
        # Bernstein polynomials of degree n, with static exponents, so that 0 ** 0 and its gradient do not occur.
        terms = [comb(n, j) * t**j * (1 - t) ** (n - j) for j in range(1, n)]
        return jnp.stack(terms) if terms else jnp.zeros((0,))

    def __call__(
        self, theta_1: trees.Tree, theta_2: trees.Tree, theta_c: trees.Tree | None, P: Permutation | None, t: Any
    ) -> trees.Tree:
        check_t(t)
        end = theta_2 if P is None else permute(self.spec, P, theta_2)
        trees.check_alike(theta_1, end, "theta_1", "P theta_2")
        if theta_c is None or self.control_points == 0:
            return trees.interpolate(theta_1, end, t)
        self.check_control_points(theta_1, theta_c)
        return self._with_control_points(theta_1, end, theta_c, t)

    @partial(jax.jit, static_argnums=0, inline=True)
    def _with_control_points(self, theta_1: trees.Tree, end: trees.Tree, theta_c: trees.Tree, t: Any) -> trees.Tree:
        # Eq. 8; the quadratic Bezier curve has the single weight 2 t (1 - t).
        t = trees.as_precise_as(theta_1, t)
        weights = self.weights(t)

        def point(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
            bend = weights[0] * c if self.control_points == 1 else jnp.tensordot(weights, c, 1, precision="highest")
            return (1 - t) * a + t * b + bend

        return trees.combine(point, theta_1, end, theta_c)

    def check_control_points(self, theta: trees.Tree, theta_c: trees.Tree) -> None:
        """Raise InputError unless theta_c holds the control points of this curve, for networks like theta."""
        leading = () if self.control_points == 1 else (self.control_points,)
        if trees.same_containers(theta, theta_c) and all(
            jnp.shape(c) == (*leading, *jnp.shape(leaf))
            for leaf, c in zip(*map(jax.tree.leaves, (theta, theta_c)), strict=True)
        ):
            return
        found = trees.shapes(theta_c)
        for name, shape in trees.shapes(trees.floating(theta)).items():
            if found.get(name) != (*leading, *shape):
                is_p = isinstance(theta_c, Mapping) and theta_c.keys() == {*self.spec.groups}
                hint = " This is a P: the order is theta_1, theta_2, theta_c, P." * is_p
                raise InputError(
                    f"theta_c is not for this curve of {self.control_points} control points: got {name} of shape "
                    f"{found.get(name, 'nothing')}, expected {(*leading, *shape)}. Start from curve.zero(theta).{hint}"
                )

    def zero(self, theta: trees.Tree) -> trees.Tree:
        """The `theta_c` of the straight line: zeros like theta, for each control point, in float32 at least."""
        return _zero(theta, () if self.control_points == 1 else (self.control_points,))

    def bind(
        self,
        theta_1: trees.Tree,
        theta_2: trees.Tree,
        theta_c: trees.Tree | None = None,
        P: Permutation | None = None,
    ) -> jax.tree_util.Partial:
        """The path t -> theta, with all other arguments bound.

        Args:
            theta_1: The network at t = 0.
            theta_2: The network that P permutes; the result is the network at t = 1.
            theta_c: Control points. None: zero, the straight line.
            P: Hard or soft permutation of theta_2. None: the identity.

        Returns:
            The path, which can be an argument of compiled functions.
        """
        return Bound(self, theta_1, theta_2, theta_c, P)

    def bind_pairs(
        self,
        theta_1: trees.Tree,
        theta_2: trees.Tree,
        theta_c: trees.Tree | None = None,
        P: Permutation | None = None,
    ) -> jax.tree_util.Partial:
        """The paths of several pairs, with all arguments but t bound.

        Args:
            theta_1: As for `bind`, with a leading pair axis.
            theta_2: As for `bind`, with a leading pair axis.
            theta_c: As for `bind`, with a leading pair axis, or None.
            P: As for `bind`, with a leading pair axis, or None.

        Returns:
            The path t -> theta, with a leading pair axis, which can be an argument of compiled functions.
        """
        return Bound(PairwiseCurve(self), theta_1, theta_2, theta_c, P)


@partial(jax.jit, static_argnums=1, inline=True)
def _zero(theta: trees.Tree, leading: tuple[int, ...]) -> trees.Tree:
    return jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), trees.widened(theta))


@dataclass(frozen=True)
class PairwiseCurve:
    """A curve mapped over a leading pair axis of every argument but t."""

    curve: Curve

    def __call__(self, theta_1: Any, theta_2: Any, theta_c: Any, P: Any, t: Any) -> trees.Tree:
        check_t(t)
        return jax.vmap(self.curve, in_axes=(0, 0, 0, 0, None))(theta_1, theta_2, theta_c, P, t)


def check_path(path: Any) -> jax.tree_util.Partial:
    """A path as a pytree. Raises InputError if it is none, with the path of a fit or a curve as the remedy."""
    if isinstance(path, Curve) or not callable(path):
        remedy = "its .bind(theta_1, theta_2, theta_c, P)" if isinstance(path, Curve) else "as a fit has in its .path"
        raise InputError(f"got {type(path).__name__} for path, expected a function t -> theta: {remedy}.")
    check_function("path(t) -> theta", path)
    return path if isinstance(path, jax.tree_util.Partial) else Bound(path)


def check_t(t: Any) -> None:
    """Raise InputError unless t is one number, in [0, 1] if it is concrete."""
    if isinstance(t, jax.Array | np.ndarray) and t.ndim:
        raise InputError(f"got t of shape {t.shape}, expected one number: jax.vmap(path)(ts) takes several.")
    if isinstance(t, jax.core.Tracer):
        return
    number = isinstance(t, Real | np.ndarray | jax.Array) and jnp.issubdtype(jnp.result_type(t), jnp.number)
    if not number or not ((np.asarray(t) >= 0) & (np.asarray(t) <= 1)).all():
        raise InputError(f"got t={short(t)}, expected a number in [0, 1]: 0 is theta_1, 1 is P theta_2.")


def linear(spec: PermutationSpec) -> Curve:
    """The straight line, which has no control points."""
    return Curve(spec, "bezier", 0)


def bezier(spec: PermutationSpec, degree: int = 2) -> Curve:
    """The Bezier curve of this degree, with degree - 1 control points (Neuron Alignment, eq. 7 and 8).

    Example::

        path = bezier(spec).bind(theta_1, theta_2, theta_c, P)
        middle = path(0.5)
    """
    check_whole("degree", degree)  # 1 is the straight line
    return Curve(spec, "bezier", degree - 1)


def polygonal_chain(spec: PermutationSpec, bends: int = 1) -> Curve:
    """The polygonal chain: straight segments through `bends` control points, at t = j / (bends + 1)."""
    check_whole("bends", bends, 0)  # 0 is the straight line
    return Curve(spec, "chain", bends)
