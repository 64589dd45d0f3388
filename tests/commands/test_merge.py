"""`mcjax merge`: what it writes against numpy, its table against single evaluations, and wrong input."""

import json

import jax
import numpy as np
import pytest
from command_line import METRICS, run, said

import mcjax
from mcjax import checkpoint, models, trees
from mcjax.commands.networks import DataOptions, read_model
from mcjax.landscape.ensembles import ensemble_accuracy
from mcjax.landscape.repair import repair

AVERAGES = ("plain average", "plain average, repaired", "matched average", "matched average, repaired")


@pytest.fixture(scope="session")
def three(tmp_path_factory, bars):
    """The folder of a run of three networks, which need not be good ones here."""
    folder = tmp_path_factory.mktemp("merge") / "three"
    about = {
        "model": {"name": "mlp", "num_classes": 3, "input_shape": [8, 8, 1], "widths": [6, 5]},
        "data": DataOptions(data=str(bars)).load()[1],
    }
    model = read_model(about["model"])
    for i, key in enumerate(jax.random.split(jax.random.key(0), 3)):
        theta = jax.tree.map(lambda leaf, key=key: leaf + 0.1 * jax.random.normal(key, leaf.shape), model.init(key))
        checkpoint.save(folder / "checkpoints" / f"network_{i}", theta, about)
    return folder


@pytest.fixture(scope="session")
def merged(three):
    folder = three.parent / "merged"
    assert run("merge", three, "--out", folder) == 0
    return folder


def thetas_of(folder, n=3):
    return trees.stack([checkpoint.load(folder / "checkpoints" / f"network_{i}") for i in range(n)])


def permuted_by_hand(theta, P):
    """The units of an MLP of two hidden layers in another order, in numpy."""
    p, q = (np.asarray(P[f"dense_{i}"]) for i in range(2))
    layers = [{name: np.asarray(leaf) for name, leaf in theta["params"][f"Dense_{i}"].items()} for i in range(3)]
    layers[0] = {"kernel": layers[0]["kernel"][:, p], "bias": layers[0]["bias"][p]}
    layers[1] = {"kernel": layers[1]["kernel"][p][:, q], "bias": layers[1]["bias"][q]}
    layers[2] = {"kernel": layers[2]["kernel"][q], "bias": layers[2]["bias"]}
    return {"params": {f"Dense_{i}": layer for i, layer in enumerate(layers)}}


def assert_measured(row, model, theta, data):
    train, test = mcjax.evaluate(model, theta, data)
    np.testing.assert_allclose([row[name] for name in METRICS], [*train, *test], rtol=1e-4)


def test_it_writes_the_repaired_mean_of_the_permuted_networks(three, merged, tiny_data):
    model = models.create("mlp", 3, (8, 8, 1), widths=(6, 5))
    thetas = thetas_of(three)
    P = [mcjax.load_permutation(merged / f"permutation_{i}.npz") for i in range(3)]
    for group, n in (("dense_0", 6), ("dense_1", 5)):
        np.testing.assert_array_equal(P[0][group], np.arange(n))
        assert any((np.asarray(P[i][group]) != np.arange(n)).any() for i in (1, 2))
    ends = trees.stack([permuted_by_hand(trees.index(thetas, i), P[i]) for i in range(3)])
    measured = json.loads((merged / "results.json").read_text())["measured"]
    assert list(measured) == [*(f"{three}/{i}" for i in range(3)), *AVERAGES, "ensemble of outputs"]
    for i in range(3):
        assert_measured(measured[f"{three}/{i}"], model, trees.index(thetas, i), tiny_data)
    for name, networks in (("plain average", thetas), ("matched average", ends)):
        mean = jax.tree.map(lambda leaf: np.asarray(leaf).mean(0), networks)
        again = repair(model, mean, networks, tiny_data)
        assert_measured(measured[name], model, mean, tiny_data)
        assert_measured(measured[f"{name}, repaired"], model, again, tiny_data)
    written = checkpoint.load(merged / "checkpoints" / "network_0")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), written, again)
    for split in ("train", "test"):
        together = ensemble_accuracy(model, thetas, tiny_data, split=split)
        row = measured["ensemble of outputs"]
        np.testing.assert_allclose(row[f"{split}_loss"], together.loss, rtol=1e-5)
        np.testing.assert_allclose(row[f"{split}_accuracy"], together.accuracy, rtol=1e-5)


def test_it_shows_what_it_found_and_does_not_do_it_again(three, merged, capsys):
    before = (merged / "results.json").stat().st_mtime_ns
    ends = [three / str(i) for i in range(3)]
    assert run("merge", *ends, "--out", merged) == 0  # the run stands for all of its networks
    out, err = capsys.readouterr()
    assert err.endswith("is finished: this is what it found\n")
    assert (merged / "results.json").stat().st_mtime_ns == before
    measured = json.loads((merged / "results.json").read_text())["measured"]
    for line, (name, row) in zip(out.splitlines()[2:], measured.items(), strict=False):
        assert line.startswith(name)
        assert line.split()[-4:] == [f"{row[metric]:.4f}" for metric in METRICS]
    assert "Repaired: the units of 2 layers. No layer that makes units was left out." in out
    assert str(merged) in out


def test_what_it_writes_is_a_network_for_other_commands(three, merged, tmp_path, capsys):
    assert run("evaluate", merged, "--out", tmp_path / "e") == 0
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    best = json.loads((merged / "results.json").read_text())["measured"]["matched average, repaired"]
    for name in METRICS:
        assert results[name]["mean"] == pytest.approx(best[name], rel=1e-5)
    assert run("match", merged, three / "0", "--out", tmp_path / "m") == 0
    capsys.readouterr()
    assert run("merge", merged) == 2
    said(capsys, 2, "got 1 network, expected two or more")


@pytest.mark.parametrize("method", ["activations", "weights", "both"])
def test_every_method_finds_planted_permutations(three, bars, tmp_path, method):
    model = models.create("mlp", 3, (8, 8, 1), widths=(6, 5))
    theta = checkpoint.load(three / "checkpoints" / "network_0")
    described = checkpoint.describe(three / "checkpoints" / "network_0")
    keys = jax.random.split(jax.random.key(5))
    planted = [mcjax.random_permutation(k, model.spec, theta) for k in keys]
    for i, P in enumerate(planted):
        noisy = jax.tree.map(lambda leaf, i=i: leaf + 1e-4 * (i + 1), mcjax.permute(model.spec, P, theta))
        checkpoint.save(tmp_path / f"n{i}", noisy, described)
    ends = [three / "0", tmp_path / "n0", tmp_path / "n1"]
    assert run("merge", *ends, "--method", method, "--match-images", 100, "--out", tmp_path / "m") == 0
    for i, P in enumerate(planted):
        found = mcjax.load_permutation(tmp_path / "m" / f"permutation_{i + 1}.npz")
        for group, p in mcjax.invert(P).items():
            np.testing.assert_array_equal(found[group], p)
    results = json.loads((tmp_path / "m" / "results.json").read_text())
    assert (results["objective"] is None) == (method == "activations")
    written = checkpoint.load(tmp_path / "m" / "checkpoints" / "network_0")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), written, theta)


@pytest.mark.slow
def test_batch_statistics_are_re_estimated(bars, tmp_path, capsys):
    """Both averages of networks with norms have the statistics of their own activations, and no other repair."""
    model, data = models.create("tinysix", 3, (8, 8, 1), width=0.125), mcjax.data.load(str(bars))
    thetas = [model.init(key) for key in jax.random.split(jax.random.key(0))]
    for i, theta in enumerate(thetas):
        np.savez(tmp_path / f"{i}.npz", **trees.flatten(theta))
    given = ("--model", "tinysix", "--width", 0.125, "--data", bars)
    options = ("--crop", 1, "--flip", "on", "--calibration-images", 60, "--eval-batch-size", 30)
    ends = [tmp_path / f"{i}.npz" for i in range(2)]
    assert run("merge", *ends, *given, *options, "--out", tmp_path / "m") == 0
    assert "Batch statistics of every average are re-estimated" in capsys.readouterr().out
    measured = json.loads((tmp_path / "m" / "results.json").read_text())["measured"]
    assert list(measured) == [*map(str, ends), "plain average", "matched average", "ensemble of outputs"]
    P = mcjax.load_permutation(tmp_path / "m" / "permutation_1.npz")
    kind = mcjax.Augmentation(flip=True, crop=1, rotate=0.0)
    for name, second in (("plain average", thetas[1]), ("matched average", mcjax.permute(model.spec, P, thetas[1]))):
        mean = jax.tree.map(lambda a, b: (a + b) / 2, thetas[0], second)
        mean = mcjax.reestimate(model, mean, data.train_images[:60], data.mean, data.std, 30, kind)
        assert_measured(measured[name], model, mean, data)
    written = checkpoint.load(tmp_path / "m" / "checkpoints" / "network_0")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), written, mean)


BAD = {
    "none": ([], [], ["got 0 networks, expected two or more"]),
    "one": (["0"], [], ["got 1 network, expected two or more"]),
    "no such network": (["0", "7"], [], ["no network at", "/7"]),
    "the same twice": (["0", "1", "0"], [], ["/0 and ", "/0 are the same network"]),
    "too many match images": (["0", "1"], ["--match-images", 121], ["got match_images=121, expected 2 to 120"]),
    "too many images": (["0", "1"], ["--calibration-images", 121], ["calibration_images=121, expected 1 to 120"]),
    "no restart": (["0", "1"], ["--restarts", 0], ["got restarts=0, expected at least 1"]),
    "batch 0": (["0", "1"], ["--eval-batch-size", 0], ["got eval_batch_size=0, expected at least 1"]),
    "seed": (["0", "1"], ["--seed", -1], ["got seed=-1"]),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_said_before_anything_is_made(three, tmp_path, capsys, case):
    ends, options, patterns = BAD[case]
    assert run("merge", *(three / end for end in ends), *options, "--out", tmp_path / "m") == 2
    said(capsys, 2, *patterns)
    assert not (tmp_path / "m").exists()


def test_an_unknown_method_is_refused(three, tmp_path, capsys):
    assert run("merge", three, "--method", "magic", "--out", tmp_path / "m") == 2
    err = capsys.readouterr().err
    assert "activations" in err
    assert "Traceback" not in err


def test_other_networks_are_refused(three, tmp_path, capsys):
    wider = models.create("mlp", 3, (8, 8, 1), widths=(7, 5)).init(jax.random.key(0))
    described = checkpoint.describe(three / "checkpoints" / "network_0")
    described = {**described, "model": {**described["model"], "widths": [7, 5]}}
    checkpoint.save(tmp_path / "wider", wider, described)
    assert run("merge", three / "0", tmp_path / "wider", "--out", tmp_path / "m") == 2
    said(capsys, 2, "of different architectures", "[6, 5]", "[7, 5]")
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    assert run("merge", three / "0", tmp_path / "broken.npz", "--out", tmp_path / "m") == 2
    said(capsys, 2, "broken.npz cannot be read")
    np.savez(tmp_path / "elsewhere.npz", **trees.flatten(wider))
    assert run("merge", tmp_path / "elsewhere.npz", three / "0", "--out", tmp_path / "m") == 2
    said(capsys, 2, "does not say its model")
    assert not (tmp_path / "m").exists()


def test_a_folder_of_another_merge_is_refused(three, merged, capsys):
    assert run("merge", three / "0", three / "1", "--out", merged) == 2
    said(capsys, 2, "another config", "theta")


def test_a_model_whose_units_stay_in_place_is_refused(tmp_path, capsys, bars, monkeypatch):
    (tmp_path / "fixed_module.py").write_text(
        "import flax.linen as nn\n\n\nclass Fixed(nn.Module):\n    @nn.compact\n    def __call__(self, x):\n"
        "        return nn.Dense(3)(x.reshape(x.shape[0], -1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for i in range(2):
        kernel, bias = np.full((64, 3), float(i), np.float32), np.zeros(3, np.float32)
        np.savez(tmp_path / f"{i}.npz", **{"params/Dense_0/kernel": kernel, "params/Dense_0/bias": bias})
    ends = [tmp_path / f"{i}.npz" for i in range(2)]
    command = ("merge", *ends, "--module", "fixed_module:Fixed", "--data", bars, "--out", tmp_path / "m")
    assert run(*command) == 2
    said(capsys, 2, "no units of", "can be permuted")
    assert not (tmp_path / "m").exists()
