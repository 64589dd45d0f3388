"""Spawning: against epochs one by one, equal where nothing tells networks apart, one trace, resumed, refused."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import says
from streams import from_host

from mcjax import (
    SGD,
    Augmentation,
    InputError,
    Recorder,
    Task,
    TrainConfig,
    barrier,
    data,
    evaluate_path,
    linear,
    models,
    supervised,
    trees,
)
from mcjax.runs.folder import RunFolder
from mcjax.runs.progress import Progress
from mcjax.runtime import make_mesh
from mcjax.training import snapshots, spawn
from mcjax.training.endpoints import configured_fit
from mcjax.training.loop import EpochPlan, epoch

CONFIG = TrainConfig(epochs=4, batch_size=20, steps_per_epoch=2)
AT = (0, 1, 4)


@pytest.fixture(scope="module")
def spawned(tiny_data, tiny_model):
    """Two seeds, three spawn epochs, two children; and how often the step was traced."""
    calls = []

    def apply_train(*args):
        calls.append(1)
        return tiny_model.apply_train(*args)

    task = supervised(tiny_model._replace(apply_train=apply_train), tiny_data)
    return spawn(jax.random.split(jax.random.key(0), 2), task, AT, CONFIG), calls


def test_all_stretches_of_all_networks_are_one_trace(spawned):
    found, calls = spawned
    assert len(calls) == 1
    assert found.history["loss"].shape == (2, 3, 2, 4)
    assert jax.tree.leaves(found.theta)[0].shape[:3] == (2, 3, 2)
    assert jax.tree.leaves(found.parents)[0].shape[:2] == (2, 3)


def test_networks_are_those_of_epochs_one_by_one(spawned, tiny_task):
    fit = configured_fit(tiny_task, CONFIG, EpochPlan(20, 2))
    once = jax.jit(partial(epoch, fit, tiny_task, EpochPlan(20, 2)))
    init = jax.jit(lambda key: fit.init(tiny_task.init(key)))
    key = jax.random.split(jax.random.key(0), 2)[1]
    fold = jax.jit(jax.random.fold_in)

    def trained(spawn_epoch, child, end=4):
        state = init(fold(key, 0))
        for number in range(end):
            first = max(at for at in AT if at <= number)
            own = fold(fold(fold(key, 2), spawn_epoch), child) if spawn_epoch <= number else fold(key, 1)
            state, _ = once(state, fold(fold(own, first), number - first))
        return state.variables

    for i, j in ((0, 1), (1, 0), (2, 1)):
        got = jax.tree.map(lambda leaf, i=i, j=j: leaf[1, i, j], spawned[0].theta)
        chex.assert_trees_all_close(got, trained(AT[i], j), rtol=1e-4, atol=1e-6)
    for i in range(3):
        got = jax.tree.map(lambda leaf, i=i: leaf[1, i], spawned[0].parents)
        chex.assert_trees_all_close(got, trained(9, 0, AT[i]), rtol=1e-4, atol=1e-6)


def test_children_are_their_parent_until_they_are_spawned(spawned):
    found, _ = spawned
    for seed in range(2):
        last, parent = (jax.tree.map(lambda leaf, i=seed: leaf[i, 2], tree) for tree in (found.theta, found.parents))
        for child in range(2):
            chex.assert_trees_all_equal(trees.index(last, child), parent)
    kernels = np.asarray(found.theta["params"]["Dense_0"]["kernel"])
    assert np.abs(kernels[:, :2, 0] - kernels[:, :2, 1]).max((-1, -2)).min() > 1e-3
    loss = found.history["loss"]
    np.testing.assert_array_equal(loss[:, 1, 0, :1], loss[:, 1, 1, :1])
    np.testing.assert_array_equal(loss[:, 2, 0], loss[:, 2, 1])
    assert (loss[:, 0, 0] != loss[:, 0, 1]).all()


def test_an_interrupted_call_ends_with_the_same_bits_on_a_mesh_too(spawned, tiny_task, tmp_path, monkeypatch):
    def interrupted(progress, done, said):
        """A Ctrl-C in the first epoch of the last stretch."""
        if "epochs 2 to 4" in progress.title:
            raise KeyboardInterrupt

    def call(progress):
        recorder = Recorder("networks", RunFolder(tmp_path, {}), "networks", progress)
        keys = jax.random.split(jax.random.key(0), 2)
        return spawn(keys, tiny_task, AT, CONFIG, recorder=recorder, mesh=make_mesh(1))

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(True)
    chex.assert_trees_all_equal(call(False), spawned[0])
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"networks_0", "networks_1"}


def test_snapshots_are_one_network_on_its_way(spawned, tiny_task):
    found = snapshots(jax.random.split(jax.random.key(0), 2), tiny_task, (1, 4), CONFIG)
    assert found.history["loss"].shape == (2, 4)
    # What a parent is at its spawn epochs, whatever becomes of its children.
    parents = jax.tree.map(lambda leaf: leaf[:, 1:], spawned[0].parents)
    chex.assert_trees_all_close(found.theta, parents, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_instability_falls_from_the_first_spawn_epoch_to_the_last(key):
    digits = data.load("digits")
    model = models.create("mlp", 10, digits.image_shape, widths=(64,))
    task = supervised(model, digits)
    found = spawn(key, task, (0, 2, 8), TrainConfig(epochs=8, batch_size=32, optimizer=SGD(0.4)))
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[:, i], found.theta) for i in range(2))  # one key, no seed axis
    lines = evaluate_path(task, linear(model.spec).bind_pairs(first, second), 11)
    instability = barrier(lines, "test_accuracy", "mean")
    assert instability[0] > 0.05
    assert 0 < instability[1] < instability[0]
    np.testing.assert_allclose(instability[2], 0, atol=1e-6)


def test_any_task_that_has_an_init_is_spawned(key):
    """A point that goes down a bowl whatever its batches: children are their parent's, once spawned."""
    rows = np.float32(np.ones((4, 1)))

    def loss(theta, batch, key):
        return (batch * jnp.square(theta["x"])[None]).mean()

    task = Task(loss, rows, init=lambda key: {"x": jax.random.normal(key, (3,))})
    config = TrainConfig(3, 2, optax.sgd(0.1), weight_decay=0.0)
    found = spawn(key, task, (0, 2), config)
    start = jax.random.normal(jax.random.fold_in(key, 0), (3,))
    # Two steps an epoch, and a third of the gradient of the mean.
    after = [start * (1 - 0.2 / 3) ** (2 * epochs) for epochs in range(4)]
    np.testing.assert_allclose(found.parents["x"], [after[0], after[2]], rtol=1e-5)
    np.testing.assert_allclose(found.theta["x"], np.broadcast_to(after[3], (2, 2, 3)), rtol=1e-5)
    assert found.history.keys() == {"loss"}


def test_bad_input_is_named(tiny_task, key):
    bare = Task(tiny_task.loss, tiny_task.train, name="mine")
    for function, changes, words in (
        *((spawn, {"at": at}, ("spawn_epochs", "from 0 to 4")) for at in ((), (5,), (-1, 2), (2, 1), (1, 1), (0.5,))),
        *((spawn, {"at": at}, ("spawn_epochs", repr(at))) for at in (3, None, "12")),
        (spawn, {"task": None}, ("NoneType", "mcjax.supervised(model, data)")),
        (spawn, {"task": bare}, ("mine", "no init")),
        (snapshots, {"task": bare}, ("mine", "no init")),
        (spawn, {"config": SGD()}, ("SGD", "TrainConfig")),
        (snapshots, {"config": {"epochs": 4}}, ("dict", "TrainConfig")),
        (spawn, {"children": 0}, ("children=0",)),
        (spawn, {"keys": 0}, ("int",)),
        (snapshots, {"at": (0, 2)}, ("epochs=(0, 2)", "from 1 to 4")),
    ):
        given = {"keys": key, "task": tiny_task, "at": (1,), "config": CONFIG, **changes}
        options = {"children": given["children"]} if "children" in given else {}
        with says(InputError, *words):
            function(*(given[name] for name in ("keys", "task", "at", "config")), **options)


def test_stretches_on_a_stream_go_on_where_the_one_before_ended(tiny_model, tiny_data, key):
    """The same batches for all: without augmentation and dropout, children are one network on its way."""
    task = supervised(tiny_model, tiny_data, augmentation=Augmentation.none())
    streamed, _ = from_host(task, "train")
    found = spawn(key, streamed, AT, CONFIG)
    fit = configured_fit(task, CONFIG, EpochPlan(20, 2))
    step = jax.jit(fit.step)
    state, networks = fit.init(tiny_model.init(jax.random.fold_in(key, 0))), []
    for number in range(8):
        networks.append(state.variables)
        rows = slice(20 * (number % 6), 20 * (number % 6 + 1))
        state, _ = step(state, jax.tree.map(lambda leaf, rows=rows: leaf[rows], task.train), key)
    for i, at in enumerate(AT):
        parent = trees.index(found.parents, i)
        chex.assert_trees_all_close(parent, [*networks, state.variables][2 * at], rtol=1e-4, atol=1e-6)
        for child in range(2):
            got = jax.tree.map(lambda leaf, i=i, child=child: leaf[i, child], found.theta)
            chex.assert_trees_all_close(got, state.variables, rtol=1e-4, atol=1e-6)
