"""Spawning: against epochs one by one, equal where nothing tells networks apart, one trace, resumed, refused."""

from functools import partial

import chex
import jax
import numpy as np
import pytest
from refusals import says

from mcjax import Augmentation, InputError, Recorder, TrainConfig, barrier, data, evaluate_path, linear, models, trees
from mcjax.runs.folder import RunFolder
from mcjax.runs.progress import Progress
from mcjax.runtime import make_mesh
from mcjax.training import snapshots, spawn
from mcjax.training.endpoints import EndpointStep
from mcjax.training.loop import epoch

CONFIG = TrainConfig(epochs=4, batch_size=20, augmentation=Augmentation.none(), steps_per_epoch=2)
AT = (0, 1, 4)


@pytest.fixture(scope="module")
def spawned(tiny_data, tiny_model):
    """Two seeds, three spawn epochs, two children; and how often the step was traced."""
    calls = []

    def apply_train(*args):
        calls.append(1)
        return tiny_model.apply_train(*args)

    model = tiny_model._replace(apply_train=apply_train)
    return spawn(jax.random.split(jax.random.key(0), 2), model, tiny_data, AT, CONFIG), calls


def test_all_stretches_of_all_networks_are_one_trace(spawned):
    found, calls = spawned
    assert len(calls) == 1
    assert found.history["loss"].shape == (2, 3, 2, 4)
    assert jax.tree.leaves(found.theta)[0].shape[:3] == (2, 3, 2)
    assert jax.tree.leaves(found.parents)[0].shape[:2] == (2, 3)


def test_networks_are_those_of_epochs_one_by_one(spawned, tiny_data, tiny_model):
    step = EndpointStep(tiny_model, CONFIG, 2)
    once, init = jax.jit(partial(epoch, step, tiny_data, {})), jax.jit(step.init)
    key = jax.random.split(jax.random.key(0), 2)[1]
    fold = jax.jit(jax.random.fold_in)

    def trained(spawn_epoch, child, end=4):
        state = init(fold(key, 0))
        for number in range(end):
            first = max(at for at in AT if at <= number)
            own = fold(fold(fold(key, 2), spawn_epoch), child) if spawn_epoch <= number else fold(key, 1)
            state, _ = once(state, fold(fold(own, first), number - first))
        return state.theta

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


def test_an_interrupted_call_ends_with_the_same_bits_on_a_mesh_too(
    spawned, tiny_data, tiny_model, tmp_path, monkeypatch
):
    def interrupted(progress, done, said):
        """A Ctrl-C in the first epoch of the last stretch."""
        if "epochs 2 to 4" in progress.title:
            raise KeyboardInterrupt

    def call(progress):
        recorder = Recorder("networks", RunFolder(tmp_path, {}), "networks", progress)
        mesh = make_mesh(1)
        return spawn(
            jax.random.split(jax.random.key(0), 2), tiny_model, tiny_data, AT, CONFIG, recorder=recorder, mesh=mesh
        )

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(True)
    chex.assert_trees_all_equal(call(False), spawned[0])
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"networks_0", "networks_1"}


def test_snapshots_are_one_network_on_its_way(spawned, tiny_data, tiny_model):
    found = snapshots(jax.random.split(jax.random.key(0), 2), tiny_model, tiny_data, (1, 4), CONFIG)
    assert found.history["loss"].shape == (2, 4)
    # What a parent is at its spawn epochs, whatever becomes of its children.
    parents = jax.tree.map(lambda leaf: leaf[:, 1:], spawned[0].parents)
    chex.assert_trees_all_close(found.theta, parents, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_instability_falls_from_the_first_spawn_epoch_to_the_last(key):
    digits = data.load("digits")
    model = models.create("mlp", 10, digits.image_shape, widths=(64,))
    found = spawn(key, model, digits, (0, 2, 8), TrainConfig(epochs=8, batch_size=32, learning_rate=0.4))
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[:, i], found.theta) for i in range(2))  # one key, no seed axis
    lines = evaluate_path(model, linear(model.spec).bind_pairs(first, second), digits, 11)
    instability = barrier(lines, "test_accuracy", "mean")
    assert instability[0] > 0.05
    assert 0 < instability[1] < instability[0]
    np.testing.assert_allclose(instability[2], 0, atol=1e-6)


def test_bad_input_is_named(tiny_data, tiny_model, key):
    small = models.create("mlp", 3, (4, 4, 1))
    for function, changes, words in (
        *((spawn, {"at": at}, ("spawn_epochs", "from 0 to 4")) for at in ((), (5,), (-1, 2), (2, 1), (1, 1), (0.5,))),
        *((spawn, {"at": at}, ("spawn_epochs", repr(at))) for at in (3, None, "12")),
        (spawn, {"data": None}, ("NoneType", "Dataset")),
        (spawn, {"children": 0}, ("children=0",)),
        (spawn, {"keys": 0}, ("int",)),
        (spawn, {"model": small}, ("(4, 4, 1)", "(8, 8, 1)")),
        (snapshots, {"at": (0, 2)}, ("epochs=(0, 2)", "from 1 to 4")),
    ):
        given = {"keys": key, "model": tiny_model, "data": tiny_data, "at": (1,), **changes}
        options = {"children": given["children"]} if "children" in given else {}
        with says(InputError, *words):
            function(*(given[name] for name in ("keys", "model", "data", "at")), CONFIG, **options)
