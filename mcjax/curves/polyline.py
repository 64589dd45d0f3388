"""The path through knots: networks joined by straight lines, in proportion to their distances."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.curves.curve import check_t
from mcjax.errors import InputError


def distances(knots: trees.Tree) -> np.ndarray:
    """The Euclidean distance from each knot to the next, of parameters, not batch statistics: float64 (n - 1,)."""
    squares: Any = 0.0
    for leaf in jax.tree.leaves(trees.params(knots)):
        # A step at a time: no second copy of all knots in double precision.
        steps = [np.asarray(leaf[i + 1], np.float64) - np.asarray(leaf[i], np.float64) for i in range(len(leaf) - 1)]
        squares = squares + np.array([np.square(step).sum() for step in steps])
    return np.sqrt(squares)


def through(knots: trees.Tree) -> jax.tree_util.Partial:
    """The path t -> theta through knots along a leading axis, t in proportion to the length.

    It starts at the first knot and ends at the last one, exactly, and is a `Partial` that jit takes as an
    argument: `evaluate_path`, `plane` and all else that measures paths take it. Knots that coincide are passed
    at once. Raises InputError if there are fewer than two, or t is outside [0, 1].

        path = through(mcjax.trees.stack([theta_1, theta_c, theta_2]))
    """
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(knots)}
    if len(counts) != 1 or min(counts) < (2,):
        raise InputError("got no or fewer than two knots, expected networks along a leading axis: trees.stack([...]).")
    steps = distances(knots)
    total = steps.sum()
    ts = np.concatenate([[0.0], np.cumsum(steps) / total]) if total > 0 else np.linspace(0, 1, len(steps) + 1)
    ts[-1] = 1.0
    return jax.tree_util.Partial(at_knots, jax.tree.map(jnp.asarray, knots), jnp.asarray(ts, jnp.float32))


def at_knots(knots: trees.Tree, ts: jax.Array, t: Any) -> trees.Tree:
    """The point at t of the path that passes the knots at `ts`, float32 (knots,), increasing from 0 to 1."""
    check_t(t)
    i = jnp.clip(jnp.searchsorted(ts, t, side="right") - 1, 0, len(ts) - 2)
    span = ts[i + 1] - ts[i]
    share = jnp.clip(jnp.where(span > 0, (t - ts[i]) / jnp.where(span > 0, span, 1), 1), 0, 1)
    return jax.tree.map(lambda leaf: (1 - share) * leaf[i] + share * leaf[i + 1], knots)
