"""`mcjax match`: against brute force, a planted permutation, networks from elsewhere, and wrong input."""

import errno
import itertools
import os

import numpy as np
import pytest
from command_line import GIVEN, layers_of, permuted, refused, results_of, run, said, units_of
from PIL import Image
from variables import spaced

import mcjax
from mcjax import trees
from mcjax.runs import checkpoint


def correlations(a, b):
    a, b = a - a.mean(0), b - b.mean(0)
    spread_1, spread_2 = np.sqrt((a**2).sum(0)), np.sqrt((b**2).sum(0))
    scale = np.outer(spread_1, spread_2)
    return np.where(scale > 0, a.T @ b / np.where(scale > 0, scale, 1), 0)


def test_no_permutation_is_better(matched, trained, tiny_data):
    theta_1, theta_2 = (checkpoint.load(trained / "checkpoints" / f"network_{i}") for i in range(2))
    images = spaced(tiny_data.train_images, 24)
    one, other = (units_of(theta, tiny_data, images) for theta in (theta_1, theta_2))
    results = results_of(matched)["groups"]
    P = mcjax.symmetry.load_permutation(matched / "permutation.npz")
    assert list(results) == ["dense_0", "dense_1"]
    for (group, result), *units in zip(results.items(), one[:2], other[:2], strict=True):
        matrix = correlations(*units)
        n = len(matrix)
        best = max(np.mean([matrix[i, p[i]] for i in range(n)]) for p in itertools.permutations(range(n)))
        assert result["correlation_after"] == pytest.approx(best, abs=1e-5)
        assert result["correlation_before"] == pytest.approx(np.trace(matrix) / n, abs=1e-5)
        assert result["units"] == n
        assert result["moved"] == (np.asarray(P[group]) != np.arange(n)).sum()
        assert np.mean([matrix[i, P[group][i]] for i in range(n)]) == pytest.approx(best, abs=1e-5)


def test_it_shows_its_result(matched, ends, capsys):
    before = (matched / "results.json").stat().st_mtime_ns
    assert run("match", *ends, "--out", matched) == 0
    out, err = capsys.readouterr()
    assert err.endswith("is finished: these are its results\n")
    results = results_of(matched)["groups"]
    for line, (group, result) in zip(out.splitlines()[2:], results.items(), strict=False):
        expected = [group, result["units"], result["moved"]]
        expected += [f"{result['correlation_before']:.3f}", f"{result['correlation_after']:.3f}"]
        assert line.split() == [str(cell) for cell in expected]
    assert f"--permutation {matched / 'permutation.npz'}" in out
    assert (matched / "results.json").stat().st_mtime_ns == before
    with Image.open(matched / "figures" / "correlation.png") as figure:
        assert figure.format == "PNG"
        assert figure.size[0] > 1200
        assert np.asarray(figure.convert("L")).std() > 5


def test_a_planted_permutation_is_found_in_networks_from_elsewhere(bars, tmp_path, capsys):
    rng, sizes = np.random.default_rng(3), {"Dense_0": (64, 6), "Dense_1": (6, 5), "Dense_2": (5, 3)}
    layers = {
        name: {"kernel": rng.normal(0, n[0] ** -0.5, n).astype("f"), "bias": rng.normal(0, 0.1, n[1]).astype("f")}
        for name, n in sizes.items()
    }
    theta = {"params": layers}
    planted = {"dense_0": np.array([2, 0, 5, 1, 4, 3], np.int32), "dense_1": np.array([1, 4, 0, 2, 3], np.int32)}
    for name, one in (("a", theta), ("b", permuted(theta, *planted.values()))):
        np.savez(tmp_path / f"{name}.npz", **trees.flatten(one))
    command = ("match", tmp_path / "a.npz", tmp_path / "b.npz", *GIVEN, "--data", bars, "--match-images", 24)
    assert run(*command, "--activation", "tanh", "--out", tmp_path / "m") == 0
    found = mcjax.symmetry.load_permutation(tmp_path / "m" / "permutation.npz")
    for group, p in planted.items():
        np.testing.assert_array_equal(p[found[group]], np.arange(len(p)))
    for result in results_of(tmp_path / "m")["groups"].values():
        assert result["correlation_after"] == pytest.approx(1, abs=1e-5)
    # The same leaves under another activation are other networks.
    capsys.readouterr()
    assert run(*command, "--out", tmp_path / "m") == 2
    said(capsys, 2, "relu", "tanh")


def test_another_cost_is_maximised(trained, ends, tiny_data, tmp_path):
    assert run("match", *ends, "--cost", "inner_product", "--match-images", 50, "--out", tmp_path) == 0
    thetas = (checkpoint.load(trained / "checkpoints" / f"network_{i}") for i in range(2))
    one, other = (units_of(theta, tiny_data, spaced(tiny_data.train_images, 50))[:2] for theta in thetas)
    P = mcjax.symmetry.load_permutation(tmp_path / "permutation.npz")
    for p, a, b in zip(P.values(), one, other, strict=True):
        gain, n = a.T @ b / 50, len(p)
        best = max(sum(gain[i, q[i]] for i in range(n)) for q in itertools.permutations(range(n)))
        assert sum(gain[i, p[i]] for i in range(n)) == pytest.approx(best, rel=1e-5)


def matched_by(ends, folder, *methods):
    options = ("--batch-size", 16, "--out", folder)
    options += ("--restarts", 2) if "weights" in methods else ()
    options += ("--epochs", 2) if "straight_through" in methods else ()
    assert run("match", *ends, "--method", *methods, *options) == 0
    return results_of(folder)


def test_weights_and_baselines(trained, ends, tmp_path, capsys):
    (weights,) = matched_by(ends, tmp_path / "weights", "weights")["methods"]
    printed = capsys.readouterr().out
    # The inner product that is printed is that of the permutation that is kept.
    theta_1, theta_2 = (checkpoint.load(trained / "checkpoints" / f"network_{i}") for i in range(2))
    P = mcjax.symmetry.load_permutation(tmp_path / "weights" / "permutation.npz")
    pairs = zip(layers_of(theta_1), layers_of(permuted(theta_2, *map(np.asarray, P.values()))), strict=True)
    product = sum((a * b).sum() for one, other in pairs for a, b in zip(one, other, strict=True))
    assert weights["inner_product"] == pytest.approx(product, rel=1e-5)
    assert weights["inner_product"] == max(weights["restarts"])
    assert f"<theta_1, P theta_2> = {weights['inner_product']:.4f}" in printed
    assert any(group["moved"] for group in matched_by(ends, tmp_path / "r", "random")["groups"].values())
    groups = matched_by(ends, tmp_path / "i", "random", "identity")["groups"]
    assert all(group["moved"] == 0 for group in groups.values())
    for group in groups.values():
        assert group["correlation_before"] == pytest.approx(group["correlation_after"])


@pytest.mark.slow
def test_methods_follow_each_other(ends, tmp_path, capsys):
    methods = ["activations", "weights", "straight_through"]
    steps = matched_by(ends, tmp_path / "m", *methods)["methods"]
    assert [step["method"] for step in steps] == methods
    losses = steps[2]["midpoint_loss"]
    assert len(losses) == 3
    assert f"from {losses[0]:.4f} to {min(losses):.4f}" in capsys.readouterr().out


def test_a_full_disk_is_reported_and_the_same_command_resumes(ends, matched, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        assert run("match", *ends, "--out", tmp_path / "m") == 1
    said(capsys, 1, "cannot write", "permutation.npz", "No space left on device", "--out")
    assert run("match", *ends, "--out", tmp_path / "m") == 0
    assert (tmp_path / "m" / "results.json").read_bytes() == (matched / "results.json").read_bytes()


def test_images_of_another_shape_are_refused(ends, tiny_data, tmp_path, capsys):
    arrays = {f"{split}_images": getattr(tiny_data, f"{split}_images")[:, :7] for split in ("train", "test")}
    np.savez(tmp_path / "small", train_labels=tiny_data.train_labels, test_labels=tiny_data.test_labels, **arrays)
    command = ("match", *ends, "--data", tmp_path / "small.npz")
    refused(capsys, tmp_path / "m", *command, names=["(7, 8, 1)", "(8, 8, 1)"])


def test_images_of_other_classes_are_matched_on_unless_their_labels_are_used(
    ends, matched, tiny_data, tmp_path, capsys
):
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(tmp_path / "classes.npz", num_classes=7, **{name: getattr(tiny_data, name) for name in names})
    given = ("--data", tmp_path / "classes.npz")
    assert run("match", *ends, *given, "--out", tmp_path / "m") == 0
    assert results_of(tmp_path / "m") == results_of(matched)
    command = ("match", *ends, *given, "--method", "straight_through")
    refused(capsys, tmp_path / "s", *command, names=["classes has 7 classes", "mlp has 3"])
