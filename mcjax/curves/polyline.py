"""Polylines, networks joined by straight segments, and the values of a function along them."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.curves.curve import check_t
from mcjax.errors import InputError
from mcjax.runtime.mapping import over_points
from mcjax.shown import Bound, short_repr


@short_repr
class Polyline(NamedTuple):
    """Networks joined by straight segments. A pytree, so it can be an argument of compiled functions.

    Attributes:
        knots: The networks along a leading axis, at least two.

    Example::

        line = Polyline(mcjax.trees.stack([theta_1, theta_c, theta_2]))
        metrics = evaluate_path(task, line.path)
        heights = jax.jit(lambda line: line.heights(loss))(line)
    """

    knots: trees.Tree

    @property
    def distances(self) -> np.ndarray:
        """Euclidean lengths of the segments in the parameters, without batch statistics, float64 (knots - 1,)."""
        squares: Any = 0.0
        for leaf in jax.tree.leaves(trees.trained(self.knots)):
            # One segment at a time, to avoid a copy of all knots in double precision.
            steps = (np.asarray(b, np.float64) - np.asarray(a, np.float64) for a, b in pairwise(leaf))
            squares = squares + np.array([np.square(step).sum() for step in steps])
        return np.sqrt(squares)

    @property
    def length(self) -> float:
        """The sum of the distances."""
        return float(self.distances.sum())

    @property
    def ts(self) -> np.ndarray:
        """The t at which `path` passes each knot: float32 (knots,), increasing from 0 to 1."""
        steps = self.distances
        total = steps.sum()
        ts = np.concatenate([[0.0], np.cumsum(steps) / total]) if total > 0 else np.linspace(0, 1, len(steps) + 1)
        ts[-1] = 1.0
        return ts.astype(np.float32)

    @property
    def path(self) -> jax.tree_util.Partial:
        """The path t -> theta, with t proportional to the length, as for `evaluate_path` and `plane`.

        It starts and ends exactly at the first and last knot. Segments of length zero are skipped. Dtypes are those of
        the knots; leaves that are not floating-point are those of the knot where the segment starts. A `Partial`, so it
        can be an argument of compiled functions. Raises InputError if there are fewer than two knots; the path raises
        InputError for a t outside [0, 1].
        """
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(self.knots)}
        if len(counts) != 1 or min(counts) < (2,):
            raise InputError(
                "got no or fewer than two knots, expected networks along a leading axis: trees.stack([...])."
            )
        return Bound(_at, jax.tree.map(jnp.asarray, self.knots), jnp.asarray(self.ts))

    def heights(self, loss: Callable[[Any], jax.Array], points: int = 17, chunk: int | None = None) -> jax.Array:
        """The loss at equally spaced points of every segment, its ends included. Pure.

        Args:
            loss: Any pure function of one network.
            points: Number of points per segment, at least 2.
            chunk: Number of points in memory at once. None: 16, or 1 where convolutions run faster one after another.

        Returns:
            The values, (knots - 1, points).
        """
        knots = jax.tree.map(jnp.asarray, self.knots)
        segments = len(jax.tree.leaves(knots)[0]) - 1
        ts = jnp.broadcast_to(jnp.linspace(0, 1, points), (segments, points))
        return values_on_segments(loss, lambda i: (trees.index(knots, i), trees.index(knots, i + 1)), ts, chunk)


def values_on_segments(
    value: Callable[[Any], jax.Array],
    segment: Callable[[jax.Array], tuple[Any, Any]],
    ts: jax.Array,
    chunk: int | None = None,
    *,
    slopes: bool = False,
) -> jax.Array:
    """Values of a function at points of straight segments. Pure.

    Args:
        value: Any pure function from the tree at a point to a scalar or an array.
        segment: The function i -> (start, end) of segment i, trees of one structure.
        ts: The points of each segment, (segments, points), as (1 - t) start + t end (`trees.interpolate`).
        chunk: Number of points in memory at once. None: 16, or 1 where convolutions run faster one after another.
        slopes: Whether the derivatives by t are computed too.

    Returns:
        The values, (segments, points, ...), followed by the axes of a value; with slopes an axis of 2 before these, of
        the value and its derivative.
    """

    def at(point: tuple[jax.Array, jax.Array]) -> jax.Array:
        i, t = point
        ends = segment(i)

        def along(t: jax.Array) -> Any:
            return value(trees.interpolate(*ends, t))

        return jnp.stack(jax.jvp(along, (t,), (jnp.ones_like(t),))) if slopes else along(t)

    segments = jnp.repeat(jnp.arange(len(ts)), ts.shape[1])
    found = over_points(at, (segments, ts.ravel()), chunk)
    return found.reshape(*ts.shape, *found.shape[1:])


def _at(knots: trees.Tree, ts: jax.Array, t: Any) -> trees.Tree:
    """The network at t on the path through the knots at `ts`."""
    check_t(t)
    i = jnp.clip(jnp.searchsorted(ts, t, side="right") - 1, 0, len(ts) - 2)
    span = ts[i + 1] - ts[i]
    share = jnp.clip(jnp.where(span > 0, (t - ts[i]) / jnp.where(span > 0, span, 1), 1), 0, 1)
    return trees.interpolate(trees.index(knots, i), trees.index(knots, i + 1), share)
