"""Tasks, training and evaluation of networks, and the loop that all fits share.

A `Task` says what is good: a loss, metrics, and training and test examples. `supervised` makes one of a model and a
data set; `Task(loss, train, test)` takes any loss of any pytree of arrays. A `Fit` is gradient descent on
`task.loss(embed(variables))`, as two pure functions in the manner of optax, `init` and `step`. Endpoints, curves,
permutations and the beads of strings are each one. The state of several fits has a leading axis, and an epoch of all
of them is one compiled call: a scan over batches, mapped over networks. The result for a key does not depend on the
other keys.

Examples are arrays on the device, or batches from the host for data larger than memory (`mcjax.data.Stream`), of which
a compiled call takes several. Arrays are shuffled for every network by its key; of a stream all networks of a call see
the same batches, in the order of the source.

- `train_endpoints` trains one network per key, to the last epoch or to a target. `TrainConfig` holds the settings; its
  `optimizer` is any of optax, or `SGD()`, the papers'. `endpoint_fit` is the fit alone, for a loop of your own.
- `spawn` trains copies of one parent from several epochs on (instability analysis, Frankle et al. 2020).
  `snapshots` returns networks at several epochs.
- `evaluate` measures the metrics on the training and test examples. `Criterion` is one number on one split, for
  targets and thresholds.
- `reestimate` estimates the batch statistics of networks on the training examples, which is necessary at every new
  point of parameter space. `estimate_statistics` is the pure function for one network.

Example::

    import jax
    import jax.numpy as jnp
    import mcjax
    import optax
    from mcjax.training import Criterion, endpoint_fit, spawn

    x = jax.random.normal(jax.random.key(1), (200, 2))
    y = jnp.sin(2 * x[:, :1]) * x[:, 1:]
    model = mcjax.models.create("mlp", 1, (2,), widths=(8,), activation="tanh")

    # A loss of your own: the absolute error.
    def loss(theta, batch, key):
        inputs, targets = batch
        return jnp.abs(model.apply(theta, inputs) - targets).mean()

    task = mcjax.Task(loss, train=(x, y), test=(x[:50], y[:50]), model=model)
    config = mcjax.TrainConfig(epochs=100, batch_size=50, optimizer=optax.adam(1e-2))
    keys = jax.random.split(jax.random.key(0), 3)
    endpoints = mcjax.train_endpoints(keys, task, config)
    train, test = mcjax.evaluate(task, endpoints.theta)
    print(train["loss"], test["loss"])

    # Each network stops at the end of the epoch in which its test loss is at most 0.3.
    stopped = mcjax.train_endpoints(keys, task, config, target=0.3, criterion=Criterion("loss", "test"))
    print(stopped.criterion)

    # Pairs of networks that share their first 0, 10 and 40 epochs.
    spawned = spawn(keys[0], task, (0, 10, 40), config)
    print(spawned.history["loss"][..., -1])

    # A loop of your own.
    fit = endpoint_fit(task, optax.adam(1e-2))
    state, step = fit.init(model.init(keys[0])), jax.jit(fit.step)
    for key in jax.random.split(keys[1], 100):
        state, metrics = step(state, task.train, key)
    print(metrics["loss"])
"""

from mcjax.training.batch_statistics import estimate_statistics, reestimate
from mcjax.training.config import SGD, TrainConfig
from mcjax.training.criterion import Criterion
from mcjax.training.endpoints import Endpoints, endpoint_fit, train_endpoints
from mcjax.training.fit import Descent, Fit, FitState, fit_of
from mcjax.training.measure import evaluate
from mcjax.training.spawning import Spawned, snapshots, spawn
from mcjax.training.supervised import supervised
from mcjax.training.task import Task

__all__ = [
    "SGD",
    "Criterion",
    "Descent",
    "Endpoints",
    "Fit",
    "FitState",
    "Spawned",
    "Task",
    "TrainConfig",
    "endpoint_fit",
    "estimate_statistics",
    "evaluate",
    "fit_of",
    "reestimate",
    "snapshots",
    "spawn",
    "supervised",
    "train_endpoints",
]
