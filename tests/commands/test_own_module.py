"""`--module`: a module of one's own in every command, and what is said where it cannot be used."""

import json
import sys

import chex
import jax
import numpy as np
import pytest
from command_line import measured, permuted, refused, results_of, run
from flax import serialization

import mcjax
from mcjax.commands.networks import read_model
from mcjax.commands.own_module import own_model
from mcjax.runs import checkpoint

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


def test_objects_that_a_path_may_name():
    """A Linen class, a Linen module, a function, and the two kinds of NNX: their groups of units."""
    for name, units in {
        "Net": {"Dense_0": 6, "Dense_1": 5},
        "instance": {"Dense_0": 4},
        "wide": {"Dense_0": 9, "Dense_1": 5},
        "Normed": {"layers.0": 7},
        "normed": {"layers.0": 7},
    }.items():
        model = own_model(path_of(name), 3, (8, 8, 1))
        assert model.name == name
        assert model.spec.group_sizes(jax.eval_shape(model.init, jax.random.key(0))) == units


# what: (its name, the units of its groups, how its networks are joined)
MODULES = {
    "a Linen class": ("Net", {"Dense_0": 6, "Dense_1": 5}, ("--curve", "line")),
    "an NNX class": ("Normed", {"layers.0": 7}, SHORT),
}


@pytest.mark.parametrize("case", ["a Linen class", pytest.param("an NNX class", marks=pytest.mark.slow)])
def test_every_command_takes(case, bars, tmp_path):
    name, groups, curve = MODULES[case]
    trained = tmp_path / "t"
    assert run("train", "--module", path_of(name), "--data", bars, *SHORT, "--out", trained) == 0
    described = {"module": path_of(name), "num_classes": 3, "input_shape": [8, 8, 1]}
    for i in range(2):
        assert checkpoint.describe(trained / "checkpoints" / f"network_{i}")["model"] == described
    own = ("--module", path_of(name))
    assert run("match", trained / "0", trained / "1", *own, "--out", tmp_path / "m") == 0
    assert {group: found["units"] for group, found in results_of(tmp_path / "m")["groups"].items()} == groups
    assert run("connect", trained / "0", trained / "1", *curve, *own, "--points", 3, "--out", tmp_path / "c") == 0
    P, matched = checkpoint.load(tmp_path / "c" / "checkpoints" / "curve")["P"], tmp_path / "m" / "permutation.npz"
    chex.assert_trees_all_equal(P, mcjax.symmetry.load_permutation(matched))
    assert run("evaluate", trained, *own, "--out", tmp_path / "e") == 0
    assert results_of(tmp_path / "e") == results_of(trained)
    assert run("evaluate", tmp_path / "c", *own, "--points", 3, "--out", tmp_path / "again") == 0
    assert results_of(tmp_path / "again") == results_of(tmp_path / "c")
    if case != "an NNX class":  # whose statistics are estimated anew along the path
        along = results_of(tmp_path / "c")["along"]
        for metric, found in results_of(trained).items():
            np.testing.assert_allclose([along[metric][0], along[metric][-1]], found["values"], rtol=1e-4)


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory, folder):
    """Two Nets as their author wrote them, the second a permuted copy of the first."""
    path, rng = tmp_path_factory.mktemp("elsewhere"), np.random.default_rng(0)
    shapes = {"Dense_0": (64, 6), "Dense_1": (6, 5), "Dense_2": (5, 3)}
    layers = {
        name: {"kernel": rng.normal(size=n) / np.sqrt(n[0]), "bias": rng.normal(size=n[1]) / 2}
        for name, n in shapes.items()
    }
    p, q = np.array([2, 0, 5, 1, 4, 3]), np.array([1, 4, 0, 2, 3])
    theta = jax.tree.map(np.float32, {"params": layers})
    for name, one in (("a", theta), ("b", permuted(theta, p, q))):
        (path / f"{name}.msgpack").write_bytes(serialization.to_bytes(one))
    return path, {"Dense_0": p, "Dense_1": q}


def test_a_permuted_copy_from_elsewhere_is_brought_back(elsewhere, bars, tmp_path):
    path, planted = elsewhere
    ends = (path / "a.msgpack", path / "b.msgpack")
    assert run("match", *ends, "--module", path_of("Net"), "--data", bars, "--out", tmp_path / "m") == 0
    found = mcjax.symmetry.load_permutation(tmp_path / "m" / "permutation.npz")
    assert found.keys() == planted.keys()
    for group, p in planted.items():
        np.testing.assert_array_equal(p[found[group]], np.arange(len(p)))
        assert results_of(tmp_path / "m")["groups"][group]["correlation_after"] == pytest.approx(1, abs=1e-5)


def test_a_network_from_elsewhere_is_measured(elsewhere, bars, tmp_path, tiny_data):
    path, _ = elsewhere
    command = ("evaluate", path / "a.msgpack", "--module", path_of("Net"), "--data", bars)
    assert run(*command, "--out", tmp_path / "e") == 0
    found, theta = results_of(tmp_path / "e"), checkpoint.load(path / "a.msgpack")
    for split in ("train", "test"):
        loss, accuracy = measured(theta, tiny_data, split, activation=np.tanh)
        assert found[f"{split}_loss"]["values"] == [pytest.approx(loss, rel=1e-4)]
        assert found[f"{split}_accuracy"]["values"] == [pytest.approx(accuracy)]


def test_the_same_module_is_the_same_model():
    one = own_model(path_of("Net"), 3, (8, 8, 1))
    assert one.name == "Net"
    assert one is own_model(path_of("Net"), 3, (8, 8, 1))
    described = {"module": path_of("Net"), "num_classes": 3, "input_shape": [8, 8, 1]}
    assert one is read_model(json.loads(json.dumps(described)))
    assert own_model(path_of("Net"), 4, (8, 8, 1)).num_classes == 4
    assert own_model(path_of("normed"), 3, (8, 8, 1)).spec.groups == ("layers.0",)


TRAIN = [
    (["own_package.nets.Net"], ["own_package.nets.Net", "package.module:Class"]),
    ([":Net"], [":Net", "package.module:Class"]),
    (["own_package.nets:"], ["own_package.nets:", "package.module:Class"]),
    (["own_packages.nets:Net"], ["own_packages.nets", "ModuleNotFoundError"]),
    ([path_of("Nett")], ["own_package.nets", "'Nett'", "wide", "'Net'?"]),
    (["own_broken:Net"], ["own_broken", "ValueError: broken on purpose"]),
    ([path_of("Needy")], ["own_package.nets:Needy", "depth, heads"]),
    ([path_of("Masked")], ["Masked", "'mask'"]),
    ([path_of("Coloured")], ["own_package.nets:Coloured", "(8, 8, 1)"]),
    ([path_of("Rows")], ["own_package.nets:Rows", "(8, 8, 1)"]),
    ([path_of("Two")], ["Two", "returns ((8, 8, 3), (8, 8, 1))", "expected (3,), one logit a class"]),
    ([path_of("number")], ["own_package.nets:number", "int"]),
    ([path_of("nn")], ["own_package.nets:nn", "module"]),
    ([path_of("settings")], ["own_package.nets:settings", "dict"]),
    ([path_of("Net"), "--model", "mlp"], ["--module too"]),
    ([path_of("Net"), "--width", 2], ["--module too"]),
    ([path_of("Net"), "--widths", 3], ["--module too"]),
]


@pytest.mark.parametrize(("options", "names"), TRAIN)
def test_modules_that_cannot_be_trained_are_refused(options, names, bars, tmp_path, capsys):
    refused(capsys, tmp_path / "t", "train", "--data", bars, "--module", *options, names=names)


ENDS = [
    ([path_of("wide")], ["wide", "Dense_0/bias", "(6,)", "(9,)"]),
    ([path_of("Normed")], ["Normed", "layers/0/bias"]),
    ([path_of("Net"), "--width", 2], ["--module too"]),
    ([path_of("Net"), "--model", "mlp"], ["--module too"]),
    ([path_of("Ne")], ["own_package.nets", "'Ne'"]),
]


@pytest.mark.parametrize(("options", "names"), ENDS)
def test_modules_that_do_not_fit_the_checkpoints_are_refused(options, names, elsewhere, bars, tmp_path, capsys):
    for command, ends in (("match", "ab"), ("connect", "ab"), ("evaluate", "a")):
        networks = [elsewhere[0] / f"{name}.msgpack" for name in ends]
        given = ("--data", bars, "--module", *options)
        refused(capsys, tmp_path / "m", command, *networks, *given, names=names)


def test_a_module_needs_the_data(elsewhere, tmp_path, capsys):
    ends, about = [elsewhere[0] / f"{name}.msgpack" for name in "ab"], {"model": {"module": path_of("Net")}}
    checkpoint.save(tmp_path / "a", checkpoint.load(ends[0]), about)
    module = ("--module", path_of("Net"))
    for command, names in (
        ((*ends, *module), ["a.msgpack", "--module and --data"]),
        (ends, ["a.msgpack", "--model or --module and --data"]),
        ((tmp_path / "a", tmp_path / "a", "--module", path_of("Same")), ["--module needs --data"]),
    ):
        refused(capsys, tmp_path / "m", "match", *command, names=names)


def test_a_module_without_units_has_nothing_to_match(bars, tmp_path, capsys):
    ends = [tmp_path / "a.npz"] * 2
    np.savez(ends[0], **{"params/Dense_0/kernel": np.ones((64, 3), "f"), "params/Dense_0/bias": np.ones(3, "f")})
    for command in ("match", "connect"):
        given = ("--module", path_of("Flat"), "--data", bars)
        refused(capsys, tmp_path / "m", command, *ends, *given, names=["Flat", "params/Dense_0/kernel"])


def test_the_code_that_a_checkpoint_names_runs_only_if_it_is_named(elsewhere, bars, tmp_path, capsys):
    """As that of a file in the working folder, or of Python itself: os:abort would end this process."""
    (tmp_path / "ran.py").write_text("raise SystemExit('it ran')\n")
    theta, networks = checkpoint.load(elsewhere[0] / "a.msgpack"), (tmp_path / "a", tmp_path / "b")
    curve = tmp_path / "curve"
    for name in ("ran:Net", "os:abort"):
        about = {"model": {"module": name, "num_classes": 3, "input_shape": [8, 8, 1]}, "data": {"data": str(bars)}}
        for path in networks:
            checkpoint.save(path, theta, about)
        checkpoint.save(curve, {"theta_1": theta, "theta_2": theta}, {**about, "curve": {"kind": "bezier"}})
        for command in (("match", *networks), ("connect", *networks), ("merge", *networks), ("evaluate", curve)):
            refused(capsys, tmp_path / "m", *command, names=[f"the module {name}", f"--module {name}"])
        refused(capsys, tmp_path / "m", "evaluate", networks[0], "--data", bars, names=[f"--module {name}"])
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "config.json").write_text(json.dumps({"command": "train", **about}))
        assert run("report", tmp_path / "run") == 0
    assert "ran" not in sys.modules


def test_descriptions_that_were_edited_are_refused(elsewhere, bars, tmp_path, capsys):
    theta = checkpoint.load(elsewhere[0] / "a.msgpack")
    for model, names in (
        ({"name": "mlp", "num_classes": 3, "input_shape": [8, 8, 1], "depth": 3}, ["depth"]),
        ("mlp", ["'mlp'", "expected a description"]),
        ({"module": path_of("Net")}, ["num_classes"]),
    ):
        checkpoint.save(tmp_path / "a", theta, {"model": model, "data": {"data": str(bars)}})
        named = ("--module", path_of("Net")) if "module" in model else ()
        refused(capsys, tmp_path / "m", "match", tmp_path / "a", tmp_path / "a", *named, names=names)


def test_networks_of_two_modules_are_not_joined(elsewhere, bars, tmp_path, capsys):
    theta, models = checkpoint.load(elsewhere[0] / "a.msgpack"), {}
    mlp = {"name": "mlp", "num_classes": 3, "input_shape": [8, 8, 1], "widths": [6, 5], "activation": "tanh"}
    for name, model in (("Net", {"module": path_of("Net"), "num_classes": 3, "input_shape": [8, 8, 1]}), ("mlp", mlp)):
        models[name] = tmp_path / name
        checkpoint.save(models[name], theta, {"model": model, "data": {"data": str(bars)}})
    for given, names in (
        (["--module", path_of("Net")], ["--module needs --data"]),
        ([], [path_of("Net"), "--module"]),
    ):
        refused(capsys, tmp_path / "m", "match", models["Net"], models["mlp"], *given, names=names)
