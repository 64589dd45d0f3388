"""Outputs of a network along the segments of a constructed path, in float64."""

from functools import cache

import jax
import numpy as np
from variables import cross_entropy

from mcjax import trees
from mcjax.curves import Polyline


@cache
def segment_of(model, points):
    """One program for all segments of a model's paths: (two networks, images) -> (points, images, outputs)."""
    return jax.jit(lambda line, x: line.heights(lambda theta: model.apply(theta, x), points)[0])


def outputs_along(model, construction, x, points=9):
    """For every segment the outputs at equally spaced points of it, ends included: (points, images, outputs)."""
    with jax.enable_x64(True):
        inputs = np.asarray(x, np.float64)
        knots = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), construction.knots)
        lines = [Polyline(trees.index(knots, slice(i, i + 2))) for i in range(len(construction.moves))]
        return [np.asarray(segment_of(model, points)(line, inputs)) for line in lines]


def check_moves(model, construction, x, labels=None, tolerance=1e-9):
    """Assert that (b) and (c) leave the function as it is, and that along (a) outputs are on a straight line.

    Then every convex loss is at most its higher end; the cross entropy is looked at, if there are labels.
    """
    for move, outputs in zip(construction.moves, outputs_along(model, construction, x), strict=True):
        scale = max(1.0, np.abs(outputs).max())
        if move.kind in ("b", "c"):
            np.testing.assert_allclose(outputs, np.broadcast_to(outputs[:1], outputs.shape), atol=tolerance * scale)
        elif move.kind == "a":
            t = np.linspace(0, 1, len(outputs))[:, None, None]
            line = (1 - t) * outputs[:1] + t * outputs[-1:]
            np.testing.assert_allclose(outputs, line, atol=tolerance * scale)
            if labels is not None:
                centred = outputs - outputs.max(-1, keepdims=True)
                losses = [cross_entropy(each, labels).mean() for each in centred]
                assert max(losses) <= max(losses[0], losses[-1]) + tolerance
