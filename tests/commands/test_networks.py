"""Networks on disk, with their models and the data of their training."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from mcjax import models, trees
from mcjax.commands import networks
from mcjax.commands.networks import networks_of, read_network, read_networks
from mcjax.commands.options import DataOptions, ModelOptions, open_run
from mcjax.errors import InputError
from mcjax.runs import checkpoint

ARCHITECTURE = {"name": "mlp", "num_classes": 3, "input_shape": [8, 8, 1], "widths": [6, 5]}
GIVEN = ModelOptions(model="mlp", widths=(6, 5))


@pytest.fixture(scope="module")
def thetas(tiny_model):
    return [tiny_model.init(jax.random.key(i)) for i in range(2)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, thetas, bars):
    """A run of two networks, as `mcjax train` leaves it."""
    folder = open_run("train", str(tmp_path_factory.mktemp("networks") / "run"), {}).path
    for i, theta in enumerate(thetas):
        about = {"model": ARCHITECTURE, "data": {"data": str(bars), "train_images": 60}}
        checkpoint.save(folder / "checkpoints" / f"network_{i}", theta, about)
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(made, tmp_path / "run")


def same(a, b):
    return trees.fingerprint(a) == trees.fingerprint(b)


def test_a_network_is_found_by_every_name_it_has(run, tiny_model, thetas):
    for i in range(2):
        for name in (run / str(i), run / "checkpoints" / f"network_{i}"):
            network = read_network(str(name), ModelOptions())
            assert same(network.theta, thetas[i])
            assert network.model == tiny_model
            assert network.about["model"] == ARCHITECTURE
    shutil.rmtree(run / "checkpoints" / "network_1")
    assert same(read_network(str(run), ModelOptions()).theta, thetas[0])


def test_networks_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("network_10", "network_9", "network_0", ".network_1.new", "network_0.bak", "networks_trained"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [path.name for path in networks_of(tmp_path)] == ["network_0", "network_9", "network_10"]
    assert networks_of(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda run: run, r"holds 2 networks: name one of .*run/0, .*run/1"),
        (lambda run: run / "2", "no network at .*run/2"),
        (lambda run: run.parent / "none", "no network at .*none: expected a checkpoint, a run folder"),
        (lambda run: open_run("connect", str(run.parent / "c"), {}).path, "run that holds no networks"),
        (lambda run: run / "checkpoints", "holds the checkpoints network_0, network_1"),
    ],
)
def test_paths_without_exactly_one_network_are_reported(run, make, message):
    with pytest.raises(InputError, match=message):
        read_network(str(make(run)), ModelOptions())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broken_checkpoint_of_a_run_is_named(collected, run):
    shutil.rmtree(run / "checkpoints" / "network_0" / "state")
    (run / "checkpoints" / "network_1" / "_CHECKPOINT_METADATA").unlink()
    for i in range(2):
        with pytest.raises(InputError, match=f"network_{i} cannot be read: .*truncated"):
            read_network(str(run / str(i)), ModelOptions())


@pytest.mark.parametrize("kind", ["npz", "msgpack", "orbax"])
def test_networks_from_elsewhere_are_read_with_the_model_given(tmp_path, thetas, tiny_data, kind):
    theta, path = thetas[0], tmp_path / f"theta.{kind}"
    if kind == "npz":
        np.savez(path, **trees.flatten(theta))
    elif kind == "msgpack":
        path.write_bytes(serialization.to_bytes(theta))
    else:
        checkpoint.save(path, theta)
    network = read_network(str(path), GIVEN, tiny_data)
    assert same(network.theta, theta)
    assert network.model == models.create("mlp", 3, (8, 8, 1), widths=(6, 5), width=1.0, activation="relu")
    for options, data in ((ModelOptions(), tiny_data), (GIVEN, None)):
        with pytest.raises(InputError, match=r"does not name its model: give --model .*and --data"):
            read_network(str(path), options, data)
    with pytest.raises(InputError, match=r"(?s)not those of mlp:.*kernel: got \(64, 6\), expected \(64, 7\)"):
        read_network(str(path), ModelOptions(model="mlp", widths=(7, 5)), tiny_data)


def test_a_model_that_is_given_goes_before_the_one_recorded(run, tiny_data):
    assert (
        read_network(str(run / "0"), replace(GIVEN, activation="tanh"), tiny_data).about["model"]["activation"]
        == "tanh"
    )
    with pytest.raises(InputError, match="--model needs --data"):
        read_network(str(run / "0"), GIVEN)


def test_many_networks_in_one_checkpoint_are_refused(tmp_path, thetas, tiny_data):
    checkpoint.save(tmp_path / "many", jax.tree.map(lambda leaf: np.stack([leaf] * 3), thetas[0]))
    with pytest.raises(InputError, match="holds several networks along one axis"):
        read_network(str(tmp_path / "many"), GIVEN, tiny_data)


def test_a_pair_comes_with_the_images_it_was_trained_on(run, bars):
    (a, b), dataset, described = read_networks((str(run / "0"), str(run / "1")), ModelOptions(), DataOptions())
    assert not same(a.theta, b.theta)
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (60, 50)
    assert described["data"] == str(bars)
    _, dataset, described = read_networks((str(run / "0"), str(run / "1")), ModelOptions(), DataOptions(test_images=7))
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (60, 7)
    assert len(described.pop("sha256")) == 64
    assert described == {"data": str(bars), "data_dir": None, "train_images": 60, "test_images": 7}
    other = DataOptions(data=str(bars))
    _, dataset, described = read_networks((str(run / "0"), str(run / "1")), ModelOptions(), other)
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (120, 50)


def test_a_pair_of_different_architectures_is_refused_and_both_are_named(run):
    theta = checkpoint.load(run / "checkpoints" / "network_0")
    about = checkpoint.describe(run / "checkpoints" / "network_0")
    checkpoint.save(
        run / "checkpoints" / "network_2", theta, {**about, "model": {**ARCHITECTURE, "activation": "tanh"}}
    )
    with pytest.raises(InputError, match=r"run/0 is .*run/2 is .*tanh"):
        read_networks((str(run / "0"), str(run / "2")), ModelOptions(), DataOptions())


def test_options_of_a_model_that_is_not_given_are_refused(run):
    with pytest.raises(InputError, match="--widths go with --model"):
        read_network(str(run / "0"), ModelOptions(width=2.0))


def test_leaves_by_name_are_read_into_the_containers_of_the_model(tmp_path, monkeypatch):
    def init(key):
        return {"layers": [jax.random.normal(key, (64, 3)), jnp.ones(3)]}

    def apply(theta, x):
        return x.reshape(len(x), -1) @ theta["layers"][0] * theta["layers"][1][None]

    model = models.from_function(init, apply, jnp.zeros((2, 8, 8, 1)))
    monkeypatch.setattr(networks, "read_model", lambda _: model)
    theta = model.init(jax.random.key(0))
    np.savez(tmp_path / "a.npz", **trees.flatten(theta))
    monkeypatch.setattr(networks, "describe", lambda *_: {"name": "any"})
    read = read_network(str(tmp_path / "a.npz"), ModelOptions())
    assert jax.tree.structure(read.theta) == jax.tree.structure(theta)
    assert same(read.theta, theta)
