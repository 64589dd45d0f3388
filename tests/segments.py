"""What a network computes along the segments of a constructed path, in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees


def outputs_along(model, construction, x, points=9):
    """For every segment the outputs at equally spaced points of it, ends included: (points, images, outputs)."""
    with jax.enable_x64(True):
        inputs = jnp.asarray(x, jnp.float64)

        @jax.jit
        def segment(a, b):
            def at(t):
                return model.apply(jax.tree.map(lambda u, v: (1 - t) * u + t * v, a, b), inputs)

            return jax.lax.map(at, jnp.linspace(0, 1, points))

        knots = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), construction.knots)
        pairs = [(trees.index(knots, i), trees.index(knots, i + 1)) for i in range(len(construction.moves))]
        return [np.asarray(segment(a, b)) for a, b in pairs]


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
                losses = cross_entropy(outputs, labels)
                assert losses.max() <= max(losses[0], losses[-1]) + tolerance


def cross_entropy(outputs, labels):
    """The mean cross entropy at every point: outputs (points, images, classes)."""
    shifted = outputs - outputs.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -np.take_along_axis(logs, np.asarray(labels)[None, :, None], -1).mean((1, 2))
