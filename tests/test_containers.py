"""Networks in dicts, FrozenDicts and NNX states: the same results, in the containers of the first network."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze
from images import bars
from refusals import says

import mcjax
from mcjax import trees
from mcjax.errors import InputError
from mcjax.symmetry import SpecError

FIT = mcjax.FitConfig(epochs=1, batch_size=20)
KEY = jax.random.key(0)


class Net(nnx.Module):
    """Batch norm without convolutions, and layers in a list."""

    def __init__(self, rngs):
        self.first = nnx.Linear(64, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 3, rngs=rngs)])

    def __call__(self, x, train=False):
        self.norm.use_running_average = not train
        return self.layers[0](nnx.relu(self.norm(self.first(x.reshape(len(x), -1)))))


@cache
def task_of_nnx():
    data = bars(40, 20, 8, 3)
    return mcjax.supervised(mcjax.models.from_flax(Net, jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)), data)


def state(theta):
    module = Net(nnx.Rngs(0))
    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    return {name: trees.like(nnx.state(module, kind), theta[name]) for name, kind in kinds.items()}


def same(theta):
    return theta


KINDS = {"freeze, freeze": (freeze, freeze), "freeze, dict": (freeze, same), "state, dict": (state, same)}
CURVE = mcjax.bezier


def bound(task, a, b):
    return CURVE(task.spec).bind(a, b, CURVE(task.spec).zero(b), mcjax.random_permutation(KEY, task.spec, a))


# (task, theta_1, theta_2) -> anything; networks in it are in the containers of theta_1.
ENTRIES = {
    "fit_curve": lambda task, a, b: mcjax.fit_curve(KEY, task, CURVE(task.spec), a, b, config=FIT).path(0.3),
    "evaluate_path": lambda task, a, b: mcjax.evaluate_path(task, bound(task, a, b), ts=2),
    "linear": lambda task, a, b: mcjax.linear(task.spec).bind(a, b)(0.5),
    "bezier": lambda task, a, b: bound(task, a, b)(0.5),
    "plane": lambda task, a, b: mcjax.plane(task, a, b, jax.tree.map(jnp.cos, a), 2),
    "match_activations": lambda task, a, b: mcjax.match_activations(task, a, b).P,
    "match_weights": lambda task, a, b: mcjax.match_weights(KEY, task.spec, a, b).P,
    "merge": lambda task, a, b: mcjax.matching.merge(KEY, task.spec, trees.stack([a, b])).theta,
    "permute": lambda task, a, b: mcjax.permute(task.spec, mcjax.random_permutation(KEY, task.spec, b), a),
    "repair": lambda task, a, b: mcjax.repair(task, trees.interpolate(a, b, 0.5), trees.stack([a, b])),
    "reestimate": lambda task, a, b: mcjax.training.reestimate(task, a),
    "dot": lambda task, a, b: trees.dot(trees.subtract(a, b), b),
}


@pytest.mark.filterwarnings("ignore:train_accuracy at the ends")
@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("kinds", KINDS)
def test_the_same_results_in_the_containers_of_the_first(normed_task, kinds, name):
    task = task_of_nnx() if kinds.startswith("state") else normed_task
    a, b = (task.model.init(key) for key in jax.random.split(KEY))
    of_a, of_b = KINDS[kinds]
    wanted, found = ENTRIES[name](task, a, b), ENTRIES[name](task, of_a(a), of_b(b))
    for x, y in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-5, atol=1e-6)
    if jax.tree.structure(wanted) == jax.tree.structure(a):
        assert jax.tree.structure(found) == jax.tree.structure(of_a(a))


def test_networks_of_other_leaves_are_refused_by_the_first_that_differs(tiny_task, tiny_ends):
    theta_1, theta_2 = tiny_ends
    other = {"params": {**theta_2["params"], "Dense_9": {"bias": jnp.ones(2)}}}
    with says(InputError, "params/Dense_9/bias"):
        mcjax.linear(tiny_task.spec).bind(theta_1, other)(0.5)
    with says(InputError, "params/Dense_9/bias"):
        trees.stack([other, theta_1])
    with says(SpecError, "params/Dense_9/bias"):
        mcjax.fit_curve(KEY, tiny_task, CURVE(tiny_task.spec), theta_1, other, config=FIT)


def test_a_model_takes_the_leaves_of_its_networks_in_any_containers():
    """As read from a file that knows the names of the leaves alone."""

    def init(key):
        return [{"w": jax.random.normal(key, (4, 2))} for key in jax.random.split(key, 11)]

    def apply(theta, x):
        return sum(jnp.tanh(x @ layer["w"]) * i for i, layer in enumerate(theta))

    model = mcjax.models.from_function(init, apply, jnp.zeros((2, 4)))
    theta, x = model.init(KEY), jax.random.normal(KEY, (3, 4))
    np.testing.assert_array_equal(model.apply(trees.nest(trees.flatten(theta)), x), model.apply(theta, x))
