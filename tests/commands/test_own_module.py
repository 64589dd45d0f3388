"""`--module`: a module of one's own in every command, and what is said where it cannot be used."""

import json
import sys

import jax
import numpy as np
import pytest
from command_line import run, said
from flax import serialization

import mcjax
from mcjax import checkpoint
from mcjax.commands.networks import read_model
from mcjax.commands.own_module import own_model

SHORT = ("--epochs", 2, "--batch-size", 30)
SOURCE = """
import flax.linen as nn
import jax.numpy as jnp
from flax import nnx


class Net(nn.Module):
    num_classes: int
    widths: tuple = (6, 5)

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = nn.tanh(nn.Dense(width)(x))
        return nn.Dense(self.num_classes)(x)


class Normed(nnx.Module):
    def __init__(self, num_classes, *, rngs):
        self.layers = nnx.List([nnx.Linear(64, 7, rngs=rngs), nnx.Linear(7, num_classes, rngs=rngs)])
        self.norm, self.drop = nnx.BatchNorm(7, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.layers[0](x.reshape(x.shape[0], -1))))
        return self.layers[1](self.drop(x))


instance = Net(3, (4,))


def wide(num_classes, width=9):
    return Net(num_classes, (width, 5))


def normed(rngs):
    return Normed(3, rngs=rngs)


class Same(Net):
    pass


class Flat(Net):
    widths: tuple = ()


class Needy(nn.Module):
    depth: int
    num_classes: int
    heads: int


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        return nn.Dense(3)(x * mask)


class Coloured(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x @ jnp.ones((3, 2)))


class Rows(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.layer(x)


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x), x


def settings():
    return {"width": 3}


number = 3
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with the modules, as the one that a user works in."""
    path = tmp_path_factory.mktemp("own")
    (path / "own_package").mkdir()
    (path / "own_package" / "nets.py").write_text(SOURCE)
    (path / "own_broken.py").write_text("raise ValueError('broken on purpose')\n")
    return path


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])


def path_of(name):
    return f"own_package.nets:{name}"


def results_of(path):
    return json.loads((path / "results.json").read_text())


# what: (its name, the units of its groups, how its networks are joined)
MODULES = {
    "a Linen class": ("Net", {"Dense_0": 6, "Dense_1": 5}, SHORT),
    "a Linen module": ("instance", {"Dense_0": 4}, ("--curve", "line")),
    "a function": ("wide", {"Dense_0": 9, "Dense_1": 5}, ("--curve", "line")),
    "an NNX class": ("Normed", {"layers.0": 7}, ("--curve", "line")),
}


@pytest.mark.parametrize("case", MODULES)
def test_every_command_takes(case, bars, tmp_path):
    name, groups, curve = MODULES[case]
    trained = tmp_path / "t"
    assert run("train", "--module", path_of(name), "--data", bars, *SHORT, "--out", trained) == 0
    described = {"module": path_of(name), "num_classes": 3, "input_shape": [8, 8, 1]}
    for i in range(2):
        assert checkpoint.describe(trained / "checkpoints" / f"network_{i}")["model"] == described
    assert run("match", trained / "0", trained / "1", "--out", tmp_path / "m") == 0
    assert {group: found["units"] for group, found in results_of(tmp_path / "m")["groups"].items()} == groups
    assert run("connect", trained / "0", trained / "1", *curve, "--points", 3, "--out", tmp_path / "c") == 0
    P, matched = checkpoint.load(tmp_path / "c" / "checkpoints" / "curve")["P"], tmp_path / "m" / "permutation.npz"
    jax.tree.map(np.testing.assert_array_equal, P, mcjax.load_permutation(matched))
    assert run("evaluate", trained, "--out", tmp_path / "e") == 0
    assert results_of(tmp_path / "e") == results_of(trained)
    assert run("evaluate", tmp_path / "c", "--points", 3, "--out", tmp_path / "again") == 0
    assert results_of(tmp_path / "again") == results_of(tmp_path / "c")
    if case != "an NNX class":  # whose statistics are estimated anew along the path
        along = results_of(tmp_path / "c")["along"]
        for metric, found in results_of(trained).items():
            np.testing.assert_allclose([along[metric][0], along[metric][-1]], found["values"], rtol=1e-4)


def forward(theta, x):
    """A Net in numpy, in float64."""
    layers = jax.tree.map(np.float64, theta["params"])
    *hidden, last = (layers[f"Dense_{i}"] for i in range(3))
    x = x.reshape(len(x), -1)
    for layer in hidden:
        x = np.tanh(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory, folder):
    """Two Nets as their author wrote them, the second a permuted copy of the first."""
    path, rng = tmp_path_factory.mktemp("elsewhere"), np.random.default_rng(0)

    def dense(inputs, units):
        return {"kernel": rng.normal(size=(inputs, units)) / np.sqrt(inputs), "bias": rng.normal(size=units) / 2}

    layers = {"Dense_0": dense(64, 6), "Dense_1": dense(6, 5), "Dense_2": dense(5, 3)}
    p, q = np.array([2, 0, 5, 1, 4, 3]), np.array([1, 4, 0, 2, 3])
    first, second, third = (dict(layer) for layer in layers.values())
    first = {"kernel": first["kernel"][:, p], "bias": first["bias"][p]}
    second = {"kernel": second["kernel"][p][:, q], "bias": second["bias"][q]}
    third["kernel"] = third["kernel"][q]
    permuted = {"Dense_0": first, "Dense_1": second, "Dense_2": third}
    for name, params in (("a", layers), ("b", permuted)):
        theta = jax.tree.map(np.float32, {"params": params})
        (path / f"{name}.msgpack").write_bytes(serialization.to_bytes(theta))
    return path, {"Dense_0": p, "Dense_1": q}


def test_a_permuted_copy_from_elsewhere_is_brought_back(elsewhere, bars, tmp_path):
    path, planted = elsewhere
    ends = (path / "a.msgpack", path / "b.msgpack")
    assert run("match", *ends, "--module", path_of("Net"), "--data", bars, "--out", tmp_path / "m") == 0
    found = mcjax.load_permutation(tmp_path / "m" / "permutation.npz")
    assert found.keys() == planted.keys()
    for group, p in planted.items():
        np.testing.assert_array_equal(p[found[group]], np.arange(len(p)))
        assert results_of(tmp_path / "m")["groups"][group]["correlation_after"] == pytest.approx(1, abs=1e-5)


def test_a_network_from_elsewhere_is_measured(elsewhere, bars, tmp_path, tiny_data):
    path, _ = elsewhere
    command = ("evaluate", path / "a.msgpack", "--module", path_of("Net"), "--data", bars)
    assert run(*command, "--out", tmp_path / "e") == 0
    logits = forward(
        checkpoint.load(path / "a.msgpack"), (tiny_data.test_images / 255.0 - tiny_data.mean) / tiny_data.std
    )
    labels, found = np.asarray(tiny_data.test_labels), results_of(tmp_path / "e")
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    assert found["test_loss"]["values"] == [pytest.approx(loss.mean(), rel=1e-4)]
    assert found["test_accuracy"]["values"] == [pytest.approx((logits.argmax(1) == labels).mean())]


def test_the_same_module_is_the_same_model():
    one = own_model(path_of("Net"), 3, (8, 8, 1))
    assert one.name == "Net"
    assert one is own_model(path_of("Net"), 3, (8, 8, 1))
    described = {"module": path_of("Net"), "num_classes": 3, "input_shape": [8, 8, 1]}
    assert one is read_model(json.loads(json.dumps(described)))
    assert own_model(path_of("Net"), 4, (8, 8, 1)).num_classes == 4
    assert own_model(path_of("normed"), 3, (8, 8, 1)).spec.groups == ("layers.0",)


# what is wrong: (options of `mcjax train`, what must be said)
BAD = {
    "no colon": (["own_package.nets.Net"], ["got --module own_package.nets.Net, expected package.module:Class"]),
    "nothing before it": ([":Net"], ["got --module :Net, expected package.module:Class"]),
    "nothing after it": (["own_package.nets:"], ["got --module own_package.nets:, expected package.module:Class"]),
    "no such package": (["own_packages.nets:Net"], ["cannot import own_packages.nets", "ModuleNotFoundError"]),
    "no such name": ([path_of("Nett")], ["name in own_package.nets: got 'Nett'", "wide", "Did you mean 'Net'?"]),
    "import raises": (["own_broken:Net"], ["cannot import own_broken", "ValueError: broken on purpose"]),
    "made with more": ([path_of("Needy")], ["own_package.nets:Needy needs depth, heads: expected nothing but"]),
    "called with more": ([path_of("Masked")], ["Masked needs 'mask' to be called"]),
    "other images, Linen": ([path_of("Coloured")], ["nets:Coloured failed on images of shape (8, 8, 1): "]),
    "other images, NNX": ([path_of("Rows")], ["nets:Rows failed on images of shape (8, 8, 1): "]),
    "two outputs": ([path_of("Two")], ["Two returns", "expected one array"]),
    "a number": ([path_of("number")], ["own_package.nets:number is a int, expected a Flax module"]),
    "a package": ([path_of("nn")], ["own_package.nets:nn is a module, expected a Flax module"]),
    "a function of no module": ([path_of("settings")], ["own_package.nets:settings makes a dict, expected a Flax"]),
    "a model too": ([path_of("Net"), "--model", "mlp"], ["are for mcjax's models: got --module too"]),
    "a width too": ([path_of("Net"), "--width", 2], ["are for mcjax's models: got --module too"]),
    "widths too": ([path_of("Net"), "--widths", 3], ["are for mcjax's models: got --module too"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_trained_is_said_before_anything_is_made(case, bars, tmp_path, capsys):
    options, patterns = BAD[case]
    assert run("train", "--data", bars, "--module", *options, "--out", tmp_path / "t") == 2
    said(capsys, 2, *patterns)
    assert not (tmp_path / "t").exists()


BAD_ENDS = {
    "other variables": (["--module", path_of("wide")], ["not those of wide", "Dense_0/bias: got (6,), expected (9,)"]),
    "other names": (["--module", path_of("Normed")], ["not those of Normed", "layers/0/bias: got nothing"]),
    "a width too": (["--module", path_of("Net"), "--width", 2], ["are for mcjax's models: got --module too"]),
    "a model too": (["--module", path_of("Net"), "--model", "mlp"], ["are for mcjax's models: got --module too"]),
    "no such module": (["--module", path_of("Ne")], ["unknown name in own_package.nets: got 'Ne'"]),
}


@pytest.mark.parametrize("command", ["match", "connect", "evaluate"])
@pytest.mark.parametrize("case", BAD_ENDS)
def test_what_does_not_go_with_the_checkpoints_is_said(case, command, elsewhere, bars, tmp_path, capsys):
    options, patterns = BAD_ENDS[case]
    ends = [elsewhere[0] / f"{name}.msgpack" for name in ("a" if command == "evaluate" else "ab")]
    assert run(command, *ends, "--data", bars, *options, "--out", tmp_path / "m") == 2
    said(capsys, 2, *patterns)
    assert not (tmp_path / "m").exists()


def test_a_module_needs_the_data(elsewhere, tmp_path, capsys):
    ends, about = [elsewhere[0] / f"{name}.msgpack" for name in "ab"], {"model": {"module": path_of("Net")}}
    assert run("match", *ends, "--module", path_of("Net"), "--out", tmp_path / "m") == 2
    said(capsys, 2, "a.msgpack does not say its model: give --module and --data")
    assert run("match", *ends, "--out", tmp_path / "m") == 2
    said(capsys, 2, "a.msgpack does not say its model: give --model or --module and --data")
    checkpoint.save(tmp_path / "a", checkpoint.load(ends[0]), about)
    assert run("match", tmp_path / "a", tmp_path / "a", "--module", path_of("Net"), "--out", tmp_path / "m") == 2
    said(capsys, 2, "--module needs --data: give --module and --data")
    assert not (tmp_path / "m").exists()


def test_a_module_without_units_has_nothing_to_match(bars, tmp_path, capsys):
    ends = [tmp_path / "a.npz"] * 2
    np.savez(ends[0], **{"params/Dense_0/kernel": np.ones((64, 3), "f"), "params/Dense_0/bias": np.ones(3, "f")})
    for command in ("match", "connect"):
        assert run(command, *ends, "--module", path_of("Flat"), "--data", bars, "--out", tmp_path / "m") == 2
        said(capsys, 2, "no units of Flat can be permuted", "params/Dense_0/kernel", "an axis of the outputs")
        assert not (tmp_path / "m").exists()


def test_networks_of_two_modules_are_not_joined(elsewhere, tmp_path, capsys):
    theta = checkpoint.load(elsewhere[0] / "a.msgpack")
    for name in ("Net", "Same"):
        about = {"model": {"module": path_of(name), "num_classes": 3, "input_shape": [8, 8, 1]}}
        checkpoint.save(tmp_path / name, theta, about)
    assert run("match", tmp_path / "Net", tmp_path / "Same", "--out", tmp_path / "m") == 2
    said(capsys, 2, "different architectures", "own_package.nets:Net", "own_package.nets:Same")
    assert not (tmp_path / "m").exists()
