"""A mesh of devices: the numbers of one device, whatever its shape; what lies where; what is refused.

The tests that need eight devices run in a process of their own, which has eight virtual ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec
from refusals import says
from streams import Source, from_host

import mcjax
from mcjax import (
    SGD,
    Augmentation,
    FitConfig,
    InputError,
    PamConfig,
    Task,
    TrainConfig,
    models,
    supervised,
    train_endpoints,
    trees,
)
from mcjax.cli import main
from mcjax.curves import PermutationFitConfig
from mcjax.runtime.mesh import Placement, make_mesh
from mcjax.training import loop
from mcjax.training.fit import Fit, FitState

eight = pytest.mark.skipif(len(jax.devices()) < 8, reason="run by test_on_eight_virtual_devices")
CONFIG = TrainConfig(epochs=2, batch_size=24, optimizer=SGD(0.05))
AUGMENTATION = Augmentation(crop=1, rotate=5.0)


@pytest.mark.slow
@pytest.mark.skipif(len(jax.devices()) >= 8, reason="these are they")
def test_on_eight_virtual_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-k", "not virtual", __file__]
    root = Path(mcjax.__file__).parents[1]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "run by test_on" not in done.stdout, "the process did not have its eight devices"


@pytest.fixture(scope="module")
def digits():
    return mcjax.data.load("digits").take(train=120, test=30)


@pytest.fixture(scope="module")
def mlp():
    return models.create("mlp", 10, (8, 8, 1), widths=(12, 10))


@pytest.fixture(scope="module")
def task(mlp, digits):
    return supervised(mlp, digits, augmentation=AUGMENTATION)


def alike(got, expected, rtol=2e-5):
    got, expected = trees.flatten(got), trees.flatten(expected)
    assert got.keys() == expected.keys()
    for name, leaf in expected.items():
        leaf = np.asarray(leaf)
        assert got[name].dtype == leaf.dtype
        np.testing.assert_allclose(got[name], leaf, rtol, rtol * max(np.abs(leaf).max(), 1e-3), err_msg=name)


KEYS = jax.random.split(jax.random.key(0), 4)


@pytest.fixture(scope="module")
def trained(task):
    return train_endpoints(KEYS, task, CONFIG)


@eight
@pytest.mark.parametrize("shape", [(2, 2), (1, 4)])
def test_networks_are_those_of_one_device_side_by_side_in_one_program(digits, mlp, trained, shape, compiled):
    calls, mesh = [], make_mesh(*shape)

    def apply_train(theta, x, key):
        calls.append(x.shape)
        # A convolution that changes nothing, by which the networks of one device run one after another.
        one, layout = jnp.ones((1, 1, 1, 1), x.dtype), ("NHWC", "HWIO", "NHWC")
        same = jax.lax.conv_general_dilated(x, one, (1, 1), "VALID", dimension_numbers=layout)
        return mlp.apply_train(theta, same, key)

    counted = supervised(mlp._replace(apply_train=apply_train), digits, augmentation=AUGMENTATION)
    compiled.clear()
    got = train_endpoints(KEYS, counted, CONFIG, mesh=mesh)
    assert len(calls) == 1
    assert sum("_compiled_epoch" in name for name in compiled) == 1
    alike(got.theta, trained.theta)
    alike(got.history, trained.history)
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(got.theta))
    # A mesh longer than the networks repeats the last.
    compiled.clear()
    got = train_endpoints(KEYS[:3], counted, CONFIG, mesh=mesh)
    assert got.history["loss"].shape == (3, 2)
    alike(got.theta, trees.index(trained.theta, slice(0, 3)))
    placed = Placement(mesh, 4).put({"w": np.arange(12.0).reshape(4, 3)})["w"]
    assert placed.sharding.shard_shape((4, 3)) == (4 // shape[0], 3)
    assert len(placed.addressable_shards) == 4


@pytest.fixture(scope="module")
def convolutional(digits):
    task = supervised(models.create("tinysix", 10, (8, 8, 1), width=0.1), digits, augmentation=AUGMENTATION)
    return task, train_endpoints(jax.random.split(jax.random.key(1), 2), task, CONFIG)


@eight
def test_batch_norm_sees_the_whole_batch(convolutional):
    task, expected = convolutional
    assert trees.batch_stats(expected.theta)
    got = train_endpoints(jax.random.split(jax.random.key(1), 2), task, CONFIG, mesh=make_mesh(2, 4))
    alike(got.theta, expected.theta, rtol=1e-3)
    alike(got.history, expected.history, rtol=1e-4)


@pytest.fixture(scope="module")
def ends(trained):
    return trained.theta, jax.tree.map(lambda leaf: leaf[::-1], trained.theta)


@eight
def test_curves_are_those_of_one_device(task, ends):
    config = FitConfig(epochs=2, batch_size=24, points_per_step=2)
    expected, *meshed = (
        mcjax.fit_curve(jax.random.key(2), task, mcjax.bezier(task.spec), *ends, config=config, mesh=mesh)
        for mesh in (None, make_mesh(4, 1), make_mesh(2, 2))
    )
    for got in meshed:
        alike(got.theta_c, expected.theta_c)
        alike(got.history, expected.history)


@eight
def test_pam_is_that_of_one_device(task, ends):
    curve, permutation = FitConfig(epochs=2, batch_size=24), PermutationFitConfig(epochs=2)
    config = PamConfig(curve, permutation, iterations=1, objective_examples=48)
    theta_1, theta_2 = (jax.tree.map(lambda leaf: leaf[:2], end) for end in ends)
    expected, got = (
        mcjax.fit_pam(jax.random.key(3), task, mcjax.bezier(task.spec), theta_1, theta_2, config=config, mesh=mesh)
        for mesh in (None, make_mesh(2, 1))
    )
    for group, p in expected.P.items():
        np.testing.assert_array_equal(got.P[group], p)
    np.testing.assert_array_equal(got.accepted, expected.accepted)
    alike(got.theta_c, expected.theta_c, rtol=1e-4)
    np.testing.assert_allclose(got.objective, expected.objective, rtol=1e-5)


@eight
def test_paths_and_planes_are_those_of_one_device(task, ends, convolutional):
    mesh, (convolving, trained) = make_mesh(2, 2), convolutional
    path = mcjax.linear(task.spec).bind_pairs(*ends)
    # Points that the devices do not divide.
    got, expected = (mcjax.evaluate_path(task, path, 5, mesh=each) for each in (mesh, None))
    assert got.test_loss.shape == (4, 5)
    chex.assert_trees_all_close(got, expected, rtol=1e-5)
    one, two = (trees.index(trained.theta, i) for i in range(2))
    three = jax.tree.map(lambda a, b: a - 0.3 * np.flip(b), *jax.tree.map(np.asarray, (one, two)))
    got, expected = (
        mcjax.plane(convolving, one, two, three, (3, 2), calibration_examples=60, splits="test", mesh=each)
        for each in (mesh, None)
    )
    np.testing.assert_allclose(got.test_loss, expected.test_loss, rtol=1e-4)
    np.testing.assert_allclose(got.test_accuracy, expected.test_accuracy, atol=0.034)


@eight
def test_streams_are_those_of_one_device(digits, mlp, ends, convolutional):
    """Blocks of two batches, of which there are five a pass."""
    for task, thetas in ((supervised(mlp, digits), ends), (convolutional[0], (convolutional[1].theta,) * 2)):
        task = task.with_examples(train=Source(task.train, 17).stream(2, 24), test=from_host(task, "test")[0].test)
        path = mcjax.linear(task.spec).bind_pairs(*(trees.index(theta, slice(0, 2)) for theta in thetas))
        config = TrainConfig(epochs=2, batch_size=24, optimizer=SGD(0.05), steps_per_epoch=3)
        expected, *meshed = (
            (
                train_endpoints(KEYS[:2], task, config, mesh=mesh),
                mcjax.evaluate_path(task, path, 3, calibration_examples=60, mesh=mesh),
            )
            for mesh in (None, make_mesh(2, 2), make_mesh(1, 4))
        )
        for trained, metrics in meshed:
            alike(trained.theta, expected[0].theta, rtol=1e-3)
            alike(trained.history, expected[0].history, rtol=1e-4)
            np.testing.assert_allclose(metrics.test_loss, expected[1].test_loss, rtol=1e-4)
            np.testing.assert_allclose(metrics.train_loss, expected[1].train_loss, rtol=1e-4)
        with says(InputError, "batch_size=24", "data=5", "25"):
            train_endpoints(KEYS[:2], task, config, mesh=make_mesh(1, 5))


@eight
def test_commands_take_a_mesh(tmp_path):
    common = ("--data", "digits", "--train-images", "96", "--test-images", "30", "--epochs", "1", "--batch-size", "24")
    options = ("--model", "mlp", "--widths", "6", "5", *common)
    for name, more in (("one", ()), ("four", ("--mesh", "2", "2"))):
        assert main(["train", *options, *more, "--out", str(tmp_path / name)]) == 0
        ends = [str(tmp_path / "one" / str(i)) for i in range(2)]
        measuring = ("--points", "3", "--out", str(tmp_path / f"{name}_curve"))
        assert main(["connect", *ends, *common[2:], *more, *measuring]) == 0
    for name in ("", "_curve"):
        one, four = (json.loads((tmp_path / f"{run}{name}" / "results.json").read_text()) for run in ("one", "four"))
        assert one.keys() == four.keys()
        for key in ("train_loss", "test_loss"):
            got, expected = (
                (each.get("along") or {k: v["values"] for k, v in each.items()})[key] for each in (four, one)
            )
            np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert main(["train", *options, "--mesh", "1", "5", "--out", str(tmp_path / "bad")]) == 2
    assert not (tmp_path / "bad").exists()


@eight
def test_batches_are_split_along_data(task):
    mesh = make_mesh(2, 4)
    place = Placement(mesh, 2)
    states = FitState(np.zeros((2, 24), np.float32), ())
    fit = Fit(jax.tree_util.Partial(FitState), jax.tree_util.Partial(one_product))
    program = loop._compiled_epoch.lower(
        *place.put_everywhere((fit, task)), loop.EpochPlan(24, 4), place.put(states),
        place.put(jax.random.split(jax.random.key(0), 2)), 0, None, mesh,
    ).compile().as_text()  # fmt: skip
    # 24 images over 4 devices: no device computes more than 6 rows of 64 pixels times the weights.
    assert "f32[6,64]" in program
    assert "f32[24,64]" not in program


def one_product(state, batch, key):
    """A step that is one matrix product a batch."""
    values = jnp.tanh(batch[0].reshape(24, 64).astype(jnp.float32) @ jnp.ones((64, 64)))
    return state._replace(variables=state.variables + values.mean()), {"loss": values.mean()}


@eight
def test_a_loop_of_the_users_runs_under_shard_map(task, ends):
    """Pairs on different devices, each batch split over two: the loss takes the mean over them."""
    mesh = jax.make_mesh((4, 2), ("pair", "data"), axis_types=(AxisType.Auto,) * 2)

    def loss(theta, batch, key):
        return jax.lax.pmean(task.loss(theta, batch, key)[0], "data")

    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[:24]), task.train)
    keys = jax.random.split(jax.random.key(4), (3, 4))
    curve, adam = mcjax.bezier(task.spec), optax.adam(1e-2)

    def run(fit, states, batch, keys):
        def step(states, keys):
            return jax.vmap(fit.step, (0, None, 0))(states, batch, keys)

        return jax.lax.scan(step, states, keys)[0].variables

    split = mcjax.curves.curve_fit(Task(loss, task.train, name="split"), curve, adam)
    P = PartitionSpec
    specs = (P("pair"), P("data"), P(None, "pair"))
    mapped = jax.shard_map(lambda *given: run(split, *given), mesh=mesh, in_specs=specs, out_specs=P("pair"))
    states = jax.vmap(split.init)(*ends)
    got = jax.jit(mapped)(states, batch, keys)
    expected = jax.jit(run)(mcjax.curves.curve_fit(task, curve, adam), states, batch, keys)
    assert len(jax.tree.leaves(got)[0].devices()) == 8
    alike(got, expected, rtol=1e-4)


@eight
def test_make_mesh_takes_as_many_as_there_are():
    for given, expected in (((), (8, 1)), ((None, 4), (2, 4)), ((None, 3), (2, 3)), ((3,), (3, 1)), ((2, 2), (2, 2))):
        mesh = make_mesh(*given)
        assert (mesh.shape["pair"], mesh.shape["data"]) == expected
        assert set(mesh.axis_types) == {AxisType.Auto}
    assert list(make_mesh(devices=jax.devices()[3:5]).devices.flat) == jax.devices()[3:5]


def test_a_mesh_of_one_device_is_the_same_to_rounding(task, trained):
    mesh = make_mesh(devices=jax.devices()[:1])
    alike(train_endpoints(KEYS, task, CONFIG, mesh=mesh).theta, trained.theta)


def test_bad_meshes_are_refused(task):
    one = jax.devices()[:1]
    for options, words in (
        ({"pair": 2, "data": 3, "devices": one}, ("pair=2", "data=3", "6 devices", "the 1 ")),
        ({"pair": 0}, ("pair=0",)),
        ({"data": 0}, ("data=0",)),
    ):
        with says(InputError, *words):
            make_mesh(**options)
    other = jax.make_mesh((1, 1), ("a", "b"), axis_types=(AxisType.Auto,) * 2, devices=one)
    for mesh, words in ((other, ("('a', 'b')", "pair and data")), (4, ("got 4", "make_mesh()"))):
        with says(InputError, *words):
            train_endpoints(KEYS, task, CONFIG, mesh=mesh)


@eight
def test_a_batch_that_the_mesh_does_not_divide_is_refused(task):
    with says(InputError, "batch_size=24", "data=5", "25"):
        train_endpoints(KEYS, task, CONFIG, mesh=make_mesh(1, 5))
