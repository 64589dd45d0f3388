"""`mcjax match`: against brute force, a planted permutation, networks from elsewhere, and wrong input."""

import errno
import itertools
import json
import os

import jax
import numpy as np
import pytest
from command_line import GIVEN, run, said
from flax import serialization
from PIL import Image

import mcjax
from mcjax import checkpoint, trees


@pytest.fixture(scope="session")
def matched(trained):
    folder = trained.parent / "matched"
    assert run("match", trained / "0", trained / "1", "--out", folder) == 0
    return folder


def units_of(theta, data, images):
    params = jax.tree.map(np.float64, theta["params"])
    x = ((data.train_images[:images] / 255.0 - data.mean) / data.std).reshape(images, -1)
    layers = {}
    for i in range(2):
        x = np.maximum(x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"], 0)
        layers[f"dense_{i}"] = x
    return layers


def correlations(a, b):
    a, b = a - a.mean(0), b - b.mean(0)
    spread_1, spread_2 = np.sqrt((a**2).sum(0)), np.sqrt((b**2).sum(0))
    scale = np.outer(spread_1, spread_2)
    return np.where(scale > 0, a.T @ b / np.where(scale > 0, scale, 1), 0)


def test_no_permutation_is_better(matched, trained, tiny_data):
    theta_1, theta_2 = (checkpoint.load(trained / "checkpoints" / f"network_{i}") for i in range(2))
    units_1, units_2 = (units_of(theta, tiny_data, 24) for theta in (theta_1, theta_2))
    results = json.loads((matched / "results.json").read_text())["groups"]
    P = mcjax.load_permutation(matched / "permutation.npz")
    assert list(results) == ["dense_0", "dense_1"]
    for group, result in results.items():
        matrix = correlations(units_1[group], units_2[group])
        n = len(matrix)
        best = max(np.mean([matrix[i, p[i]] for i in range(n)]) for p in itertools.permutations(range(n)))
        assert result["correlation_after"] == pytest.approx(best, abs=1e-5)
        assert result["correlation_before"] == pytest.approx(np.trace(matrix) / n, abs=1e-5)
        assert result["units"] == n
        assert result["moved"] == (np.asarray(P[group]) != np.arange(n)).sum()
        assert np.mean([matrix[i, P[group][i]] for i in range(n)]) == pytest.approx(best, abs=1e-5)


def test_it_shows_what_it_found(matched, trained, capsys):
    before = (matched / "results.json").stat().st_mtime_ns
    assert run("match", trained / "0", trained / "1", "--out", matched) == 0
    out, err = capsys.readouterr()
    assert err.endswith("is finished: this is what it found\n")
    results = json.loads((matched / "results.json").read_text())["groups"]
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


@pytest.mark.parametrize("kind", ["npz", "msgpack"])
def test_a_planted_permutation_is_found_in_networks_from_elsewhere(bars, tmp_path, tiny_data, kind):
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5), activation="tanh")
    theta = model.init(jax.random.key(3))
    planted = mcjax.random_permutation(jax.random.key(4), model.spec, theta)
    for name, one in (("a", theta), ("b", mcjax.permute(model.spec, planted, theta))):
        path = tmp_path / f"{name}.{kind}"
        if kind == "npz":
            np.savez(path, **trees.flatten(one))
        else:
            path.write_bytes(serialization.to_bytes(one))
    ends = (tmp_path / f"a.{kind}", tmp_path / f"b.{kind}")
    command = ("match", *ends, *GIVEN, "--activation", "tanh", "--data", bars)
    assert run(*command, "--match-images", 100, "--out", tmp_path / "m") == 0
    found = mcjax.load_permutation(tmp_path / "m" / "permutation.npz")
    for group, p in mcjax.invert(planted).items():
        np.testing.assert_array_equal(found[group], p)
    for result in json.loads((tmp_path / "m" / "results.json").read_text())["groups"].values():
        assert result["correlation_after"] == pytest.approx(1, abs=1e-5)


def test_the_same_leaves_under_another_activation_are_another_run(trained, bars, tmp_path, capsys):
    for i in range(2):
        theta = checkpoint.load(trained / "checkpoints" / f"network_{i}")
        np.savez(tmp_path / f"{i}.npz", **trees.flatten(theta))
    command = ("match", tmp_path / "0.npz", tmp_path / "1.npz", *GIVEN, "--data", bars, "--out", tmp_path / "m")
    assert run(*command) == 0
    capsys.readouterr()
    assert run(*command, "--activation", "tanh") == 2
    said(capsys, 2, "another config", "relu", "tanh")


@pytest.mark.parametrize("cost", ["covariance", "inner_product"])
def test_other_costs_give_what_they_maximise(trained, tiny_data, tmp_path, cost):
    assert run("match", trained / "0", trained / "1", "--cost", cost, "--match-images", 50, "--out", tmp_path) == 0
    thetas = (checkpoint.load(trained / "checkpoints" / f"network_{i}") for i in range(2))
    units_1, units_2 = (units_of(theta, tiny_data, 50) for theta in thetas)
    P = mcjax.load_permutation(tmp_path / "permutation.npz")
    for group, p in P.items():
        a, b = units_1[group], units_2[group]
        if cost == "covariance":
            a, b = a - a.mean(0), b - b.mean(0)
        gain, n = a.T @ b / len(a), len(p)
        best = max(sum(gain[i, q[i]] for i in range(n)) for q in itertools.permutations(range(n)))
        assert sum(gain[i, p[i]] for i in range(n)) == pytest.approx(best, rel=1e-5)


BAD = {
    "no such network": (["0", "2"], [], ["no network at", "/2"]),
    "several networks": (["0", ""], [], ["holds 2 networks: name one of"]),
    "too many images": (["0", "1"], ["--match-images", 121], ["got match_images=121, expected 2 to 120"]),
    "too few images": (["0", "1"], ["--match-images", 1], ["got match_images=1, expected 2 to 120"]),
    "batch 0": (["0", "1"], ["--batch-size", 0], ["got batch_size=0, expected at least 1"]),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_said_before_anything_is_made(trained, tmp_path, capsys, case):
    ends, options, patterns = BAD[case]
    assert run("match", *(trained / end for end in ends), *options, "--out", tmp_path / "m") == 2
    said(capsys, 2, *patterns)
    assert not (tmp_path / "m").exists()


def test_images_of_another_shape_are_refused(trained, tmp_path, capsys, tiny_data):
    small = {f"{split}_images": getattr(tiny_data, f"{split}_images")[:, :7] for split in ("train", "test")}
    np.savez(tmp_path / "small.npz", train_labels=tiny_data.train_labels, test_labels=tiny_data.test_labels, **small)
    ends = (trained / "0", trained / "1")
    assert run("match", *ends, "--data", tmp_path / "small.npz", "--out", tmp_path / "m") == 2
    said(capsys, 2, "(24, 7, 8, 1), expected (n, 8, 8, 1)")
    assert not (tmp_path / "m").exists()


def test_a_full_disk_is_said_and_the_same_command_goes_on(trained, matched, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        assert run("match", trained / "0", trained / "1", "--out", tmp_path / "m") == 1
    said(capsys, 1, "cannot write", "permutation.npz", "No space left on device", "--out")
    assert run("match", trained / "0", trained / "1", "--out", tmp_path / "m") == 0
    assert (tmp_path / "m" / "results.json").read_bytes() == (matched / "results.json").read_bytes()


def permuted(trained, folder):
    theta = [checkpoint.load(trained / "checkpoints" / f"network_{i}") for i in range(2)]
    return mcjax.load_permutation(folder / "permutation.npz"), *theta


def test_methods_follow_each_other(trained, tmp_path, capsys):
    ends = (trained / "0", trained / "1")
    made, printed = {}, {}
    for name, methods in {
        "weights": ["weights"],
        "both": ["activations", "weights"],
        "all": ["activations", "weights", "straight_through"],
        "identity": ["random", "identity"],
        "random": ["random"],
    }.items():
        folder = tmp_path / name
        options = ("--method", *methods, "--restarts", 2, "--epochs", 2, "--batch-size", 16, "--out", folder)
        assert run("match", *ends, *options) == 0
        made[name] = json.loads((folder / "results.json").read_text())
        capsys.readouterr()
        assert run("match", *ends, *options) == 0
        printed[name] = capsys.readouterr().out
    P, theta_1, theta_2 = permuted(trained, tmp_path / "weights")
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5))
    # The inner product that is printed is that of the permutation that is kept.
    product = float(mcjax.trees.dot(theta_1, mcjax.permute(model.spec, P, theta_2)))
    (weights,) = made["weights"]["methods"]
    assert weights["inner_product"] == pytest.approx(product, rel=1e-5)
    assert weights["inner_product"] == max(weights["restarts"])
    assert f"<theta_1, P theta_2> = {weights['inner_product']:.4f}; the restarts reached" in printed["weights"]
    assert [step["method"] for step in made["all"]["methods"]] == ["activations", "weights", "straight_through"]
    assert all(group["moved"] == 0 for group in made["identity"]["groups"].values())
    assert any(group["moved"] for group in made["random"]["groups"].values())
    match = made["identity"]["groups"]["dense_0"]
    assert match["correlation_before"] == pytest.approx(match["correlation_after"])
    losses = made["all"]["methods"][2]["midpoint_loss"]
    assert len(losses) == 3
    assert f"loss at t = 1/2 from {losses[0]:.4f} to {min(losses):.4f}" in printed["all"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--restarts", 0), "got restarts=0, expected at least 1"),
        (("--epochs", 0), "got epochs=0"),
        (("--method", "straight_through", "--batch-size", 128), "at most the 120 training images"),
        (("--method",), "expected one or several of activations, weights"),
        (("--seed", -1), "got seed=-1"),
    ],
)
def test_wrong_methods_are_said(options, expected, trained, tmp_path, capsys):
    assert run("match", trained / "0", trained / "1", *options, "--out", tmp_path / "m") == 2
    said(capsys, 2, expected)
    assert not (tmp_path / "m").exists()
