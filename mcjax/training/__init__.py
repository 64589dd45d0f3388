"""Training and evaluation of networks, and the loop that all fits share.

The state of several networks has a leading axis, and an epoch of all of them is one compiled call: a scan over batches,
mapped over networks. The result for a key does not depend on the other keys. The same loop trains endpoints, curves,
permutations and strings, each by its own step, a pure function `(context, state, x, labels, key) -> (state, metrics)`.

- `train_endpoints` trains one network per key, to the last epoch or to a target. `TrainConfig` holds the settings.
- `spawn` trains copies of one parent from several epochs on (instability analysis, Frankle et al. 2020).
  `snapshots` returns networks at several epochs.
- `evaluate` measures loss and accuracy on the training and test images. `Criterion` is one number on one split, for
  targets and thresholds.
- `reestimate` estimates the batch statistics of networks on the training images, which is necessary at every new point
  of parameter space. `estimate_statistics` is the pure function for one network.
- `full_batch_loss` is the loss over a whole split as a deterministic function of one network, for Hessians.

Example::

    import jax
    import numpy as np
    import mcjax
    from mcjax.training import Criterion, spawn

    x = np.random.default_rng(0).normal(size=(200, 2))
    y = np.sin(2 * x[:, :1]) * x[:, 1:]
    data = mcjax.data.regression(x, y, x[:50], y[:50])
    model = mcjax.models.create("mlp", 1, (2,), widths=(8,), activation="tanh")
    keys = jax.random.split(jax.random.key(0), 3)

    config = mcjax.TrainConfig(epochs=100, batch_size=50)
    endpoints = mcjax.train_endpoints(keys, model, data, config)
    train, test = mcjax.evaluate(model, endpoints.theta, data)
    print(train.loss, test.loss)

    # Each network stops at the end of the epoch in which its test loss is at most 0.3.
    stopped = mcjax.train_endpoints(keys, model, data, config, target=0.3, criterion=Criterion("loss", "test"))
    print(stopped.criterion)

    # Pairs of networks that share their first 0, 10 and 40 epochs.
    spawned = spawn(keys[0], model, data, (0, 10, 40), config)
    print(spawned.history["loss"][..., -1])
"""

from mcjax.training.batch_statistics import estimate_statistics, reestimate
from mcjax.training.config import TrainConfig
from mcjax.training.criterion import Criterion
from mcjax.training.endpoints import Endpoints, train_endpoints
from mcjax.training.full_batch import full_batch_loss
from mcjax.training.objective import evaluate
from mcjax.training.spawning import Spawned, snapshots, spawn

__all__ = [
    "Criterion",
    "Endpoints",
    "Spawned",
    "TrainConfig",
    "estimate_statistics",
    "evaluate",
    "full_batch_loss",
    "reestimate",
    "snapshots",
    "spawn",
    "train_endpoints",
]
