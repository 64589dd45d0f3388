"""`mcjax merge`: what it writes against numpy, its table against single evaluations, and wrong input."""

import chex
import jax
import numpy as np
import pytest
from command_line import METRICS, permuted, refused, results_of, run, said

import mcjax
from mcjax import models, trees
from mcjax.commands.networks import read_model
from mcjax.commands.options import DataOptions
from mcjax.landscape.ensembles import ensemble_accuracy
from mcjax.landscape.repair import repair
from mcjax.runs import checkpoint

AVERAGES = ("plain average", "plain average, repaired", "matched average", "matched average, repaired")


@pytest.fixture(scope="session")
def three(tmp_path_factory, bars):
    """The folder of a run of three networks, which need not be good ones here."""
    folder = tmp_path_factory.mktemp("merge") / "three"
    about = {
        "model": {"name": "mlp", "num_classes": 3, "input_shape": [8, 8, 1], "widths": [6, 5]},
        "data": DataOptions(data=str(bars)).load()[1],
    }
    shapes, rng = jax.eval_shape(read_model(about["model"]).init, jax.random.key(0)), np.random.default_rng(0)
    for i in range(3):
        theta = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype("f"), shapes)
        checkpoint.save(folder / "checkpoints" / f"network_{i}", theta, about)
    return folder


@pytest.fixture(scope="session")
def merged(three):
    folder = three.parent / "merged"
    assert run("merge", three, "--out", folder) == 0
    return folder


def thetas_of(folder, n=3):
    return [jax.tree.map(np.asarray, checkpoint.load(folder / "checkpoints" / f"network_{i}")) for i in range(n)]


def stacked(thetas):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *thetas)


def assert_measured(row, task, theta):
    expected = [split[name] for split in mcjax.evaluate(task, theta) for name in ("loss", "accuracy")]
    np.testing.assert_allclose([row[name] for name in METRICS], expected, rtol=1e-4)


def test_it_writes_the_repaired_mean_of_the_permuted_networks(three, merged, tiny_task):
    thetas = thetas_of(three)
    P = [mcjax.symmetry.load_permutation(merged / f"permutation_{i}.npz") for i in range(3)]
    for group, n in (("dense_0", 6), ("dense_1", 5)):
        np.testing.assert_array_equal(P[0][group], np.arange(n))
        assert any((np.asarray(P[i][group]) != np.arange(n)).any() for i in (1, 2))
    ends = [permuted(theta, *map(np.asarray, p.values())) for theta, p in zip(thetas, P, strict=True)]
    measured = results_of(merged)["measured"]
    assert list(measured) == [*(f"{three}/{i}" for i in range(3)), *AVERAGES, "ensemble of outputs"]
    for i in range(3):
        assert_measured(measured[f"{three}/{i}"], tiny_task, thetas[i])
    for name, networks in (("plain average", stacked(thetas)), ("matched average", stacked(ends))):
        mean = jax.tree.map(lambda leaf: leaf.mean(0), networks)
        again = repair(tiny_task, mean, networks)
        assert_measured(measured[name], tiny_task, mean)
        assert_measured(measured[f"{name}, repaired"], tiny_task, again)
    written = checkpoint.load(merged / "checkpoints" / "network_0")
    chex.assert_trees_all_close(written, again, rtol=1e-4, atol=1e-5)
    for split in ("train", "test"):
        together = ensemble_accuracy(tiny_task, stacked(thetas), split=split)
        row = measured["ensemble of outputs"]
        np.testing.assert_allclose(row[f"{split}_loss"], together.loss, rtol=1e-5)
        np.testing.assert_allclose(row[f"{split}_accuracy"], together.accuracy, rtol=1e-5)


def test_it_shows_its_result_and_does_not_repeat_the_work(three, merged, capsys):
    before = (merged / "results.json").stat().st_mtime_ns
    ends = [three / str(i) for i in range(3)]
    assert run("merge", *ends, "--out", merged) == 0  # the run stands for all of its networks
    out, err = capsys.readouterr()
    assert err.endswith("is finished: these are its results\n")
    assert (merged / "results.json").stat().st_mtime_ns == before
    measured = results_of(merged)["measured"]
    for line, (name, row) in zip(out.splitlines()[2:], measured.items(), strict=False):
        assert line.startswith(name)
        assert line.split()[-4:] == [f"{row[metric]:.4f}" for metric in METRICS]
    assert "Repaired: the units of 2 layers. No layer that makes units was left out." in out
    assert str(merged) in out


def test_its_network_is_one_for_other_commands(three, merged, tmp_path, capsys):
    assert run("evaluate", merged, "--out", tmp_path / "e") == 0
    results = results_of(tmp_path / "e")
    best = results_of(merged)["measured"]["matched average, repaired"]
    for name in METRICS:
        assert results[name]["mean"] == pytest.approx(best[name], rel=1e-5)
    assert run("match", merged, three / "0", "--out", tmp_path / "m") == 0
    capsys.readouterr()
    assert run("merge", merged) == 2
    said(capsys, 2, "got 1 network, expected two or more")


@pytest.fixture(scope="module")
def planted(three, tmp_path_factory):
    """Two permuted copies of the first network, a little apart from it, and how each is brought back."""
    folder = tmp_path_factory.mktemp("planted")
    theta, described = thetas_of(three)[0], checkpoint.describe(three / "checkpoints" / "network_0")
    rng, back = np.random.default_rng(5), []
    for i in range(2):
        P = {"dense_0": rng.permutation(6), "dense_1": rng.permutation(5)}
        noisy = jax.tree.map(lambda leaf, i=i: leaf + np.float32(1e-4 * (i + 1)), permuted(theta, *P.values()))
        checkpoint.save(folder / f"n{i}", noisy, described)
        back.append({group: np.argsort(p) for group, p in P.items()})
    return folder, theta, back


@pytest.mark.parametrize("method", ["activations", "weights", "both"])
def test_every_method_finds_planted_permutations(three, planted, tmp_path, method):
    folder, theta, back = planted
    ends = [three / "0", folder / "n0", folder / "n1"]
    images = () if method == "weights" else ("--match-images", 100)
    assert run("merge", *ends, "--method", method, *images, "--out", tmp_path / "m") == 0
    for i, P in enumerate(back):
        chex.assert_trees_all_equal(mcjax.symmetry.load_permutation(tmp_path / "m" / f"permutation_{i + 1}.npz"), P)
    assert (results_of(tmp_path / "m")["objective"] is None) == (method == "activations")
    written = checkpoint.load(tmp_path / "m" / "checkpoints" / "network_0")
    chex.assert_trees_all_close(written, theta, atol=2e-3)


@pytest.mark.slow
def test_batch_statistics_are_re_estimated(bars, tmp_path, capsys):
    """Both averages of networks with norms have the statistics of their own activations, and no other repair."""
    model, kind = models.create("tinysix", 3, (8, 8, 1), width=0.125), mcjax.Augmentation(flip=True, crop=1, rotate=0.0)
    task = mcjax.supervised(model, mcjax.data.load(str(bars)), augmentation=kind)
    thetas = [model.init(key) for key in jax.random.split(jax.random.key(0))]
    for i, theta in enumerate(thetas):
        np.savez(tmp_path / f"{i}.npz", **trees.flatten(theta))
    given = ("--model", "tinysix", "--width", 0.125, "--data", bars)
    options = ("--crop", 1, "--flip", "on", "--calibration-images", 60, "--eval-batch-size", 30)
    ends = [tmp_path / f"{i}.npz" for i in range(2)]
    assert run("merge", *ends, *given, *options, "--out", tmp_path / "m") == 0
    assert "Batch statistics of every average are re-estimated" in capsys.readouterr().out
    measured = results_of(tmp_path / "m")["measured"]
    assert list(measured) == [*map(str, ends), "plain average", "matched average", "ensemble of outputs"]
    P = mcjax.symmetry.load_permutation(tmp_path / "m" / "permutation_1.npz")
    for name, second in (("plain average", thetas[1]), ("matched average", mcjax.permute(model.spec, P, thetas[1]))):
        mean = jax.tree.map(lambda a, b: (np.asarray(a) + np.asarray(b)) / 2, thetas[0], second)
        mean = mcjax.training.estimate_statistics(task, mean, 60, 30)
        assert_measured(measured[name], task, mean)
    written = checkpoint.load(tmp_path / "m" / "checkpoints" / "network_0")
    chex.assert_trees_all_close(written, mean, rtol=1e-3, atol=1e-4)


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
    command = ("merge", *ends, "--module", "fixed_module:Fixed", "--data", bars)
    refused(capsys, tmp_path / "m", *command, names=["no units of", "can be permuted"])
