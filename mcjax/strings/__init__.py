"""String sampling: is a level set of the loss connected between two networks, and how far from convex is it?

Two networks whose loss is at most a threshold lie in one connected level set if some path between them never rises
above it. Dynamic string sampling (Freeman and Bruna, "Topology and Geometry of Half-Rectified Network Optimization",
ICLR 2017, Algorithm 1) builds such a path from straight segments: where a segment rises above the threshold, it inserts
a network, a bead, trains it until it is below, and goes on with the two new segments. The length of the string,
divided by the distance of its ends, is 1 where the level set is convex, and larger the more it is curved. A string
that connects its ends shows that they are connected; a budget that runs out proves nothing.

    sample_string    one pair of networks; sample_strings: many pairs at once, their beads trained together
    train_string     a whole string from random ends, its level lowered step by step (appendix A)
    StringConfig     criterion, training of beads, penalties, scans of segments, budgets
    String           the result: knots, heights of segments, length, and `path`, for all that measures paths

A matching's permutation as `P` removes the permutation symmetry of the ends first, and makes strings shorter.

Example::

    import jax
    import numpy as np
    import mcjax

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = np.sin(2 * x[:, :1]) + x[:, 1:]
    data = mcjax.data.regression(x, y, x, y)
    model = mcjax.models.create("mlp", 1, (2,), widths=(8,))

    # Two networks with a loss of at most 0.1.
    key = jax.random.key(0)
    training = mcjax.TrainConfig(epochs=200, batch_size=50, learning_rate=0.02)
    ends = mcjax.train_endpoints(jax.random.split(key), model, data, training, target=0.1)
    theta_1, theta_2 = (mcjax.trees.index(ends.theta, i) for i in range(2))

    # A string between them, as they are and with the units of one matched to those of the other.
    config = mcjax.strings.StringConfig(batch_size=50, learning_rate=0.02)
    match = mcjax.match_activations(model, theta_1, theta_2, data)
    for P in (None, match.P):
        string = mcjax.strings.sample_string(key, model, theta_1, theta_2, data, threshold=0.1, P=P, config=config)
        print(string.connected, string.beads, string.normalized_length)  # fewer beads, and shorter, when matched
"""

from mcjax.strings.config import StringConfig
from mcjax.strings.sample import sample_string, sample_strings
from mcjax.strings.string import Segment, String
from mcjax.strings.train import TrainedString, train_string

__all__ = [
    "Segment",
    "String",
    "StringConfig",
    "TrainedString",
    "sample_string",
    "sample_strings",
    "train_string",
]
