"""String sampling: is a level set of the loss connected between two networks, and how far from convex is it?

Two networks are in one connected component of a level set if the loss on some path between them is at most the level.
Dynamic string sampling (Freeman and Bruna, "Topology and Geometry of Half-Rectified Network Optimization", ICLR 2017,
Algorithm 1) builds such a path, a string, from straight segments. If a segment rises above the threshold, it inserts a
network, a bead, trains it to below the threshold, and repeats this for the two new segments. The length of the string
divided by the distance of its ends is 1 if the level set is convex, and larger the more the set is curved. A string
below the threshold proves that its ends are connected, as far as it was measured: at finitely many points, unless the
slope of the criterion is bounded (`StringConfig.lipschitz`). A string that was not found proves nothing.

- `sample_string` samples a string between two networks, `sample_strings` between many pairs at once.
- `relax_string` shortens a connected string at constant level, to a local geodesic of the level set.
- `train_string` trains a whole string between random ends while its level is lowered step by step (appendix A).
- `StringConfig`: training of beads, criterion, penalties, scans of segments, budgets.
- `bead_fit` is the training of a bead between two networks, for loops of your own.
- `String`: knots, heights of segments, length, and the `path`, for all functions that measure paths.

With the `P` of a match, theta_2 is permuted first, which makes strings shorter.

Example::

    import jax
    import mcjax
    import numpy as np
    import optax
    from mcjax import trees

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = np.sin(2 * x[:, :1]) + x[:, 1:]
    model = mcjax.models.create("mlp", 1, (2,), widths=(8,))
    task = mcjax.supervised(model, mcjax.data.regression(x, y, x, y))

    # Two networks with a loss of at most 0.1.
    key = jax.random.key(0)
    training = mcjax.TrainConfig(epochs=200, batch_size=50, optimizer=mcjax.SGD(0.02))
    ends = mcjax.train_endpoints(jax.random.split(key), task, training, target=0.1)
    theta_1, theta_2 = (trees.index(ends.theta, i) for i in range(2))

    # A string between them, without and with matching.
    beads = mcjax.TrainConfig(epochs=100, batch_size=50, optimizer=optax.adam(0.02), weight_decay=0.0)
    config = mcjax.strings.StringConfig(training=beads)
    match = mcjax.match_activations(task, theta_1, theta_2)
    for P in (None, match.P):
        string = mcjax.strings.sample_string(key, task, theta_1, theta_2, threshold=0.1, P=P, config=config)
        print(string.connected, string.beads, string.normalized_length)  # fewer beads, and shorter, when matched
"""

from mcjax.strings.beads import bead_fit
from mcjax.strings.config import StringConfig
from mcjax.strings.relax import relax_string
from mcjax.strings.sample import sample_string, sample_strings
from mcjax.strings.string import Segment, String
from mcjax.strings.train import TrainedString, train_string

__all__ = [
    "Segment",
    "String",
    "StringConfig",
    "TrainedString",
    "bead_fit",
    "relax_string",
    "sample_string",
    "sample_strings",
    "train_string",
]
