"""`mcjax connect`: its numbers against numpy, its runs when broken off, and what it refuses."""

import shutil

import chex
import jax
import numpy as np
import pytest
from command_line import (
    CURVES,
    FIT,
    METRICS,
    files_of,
    full_disk,
    interrupt,
    measured,
    no_training,
    permuted,
    refused,
    results_of,
    run,
    said,
    same_run,
)
from moments import metrics_of
from PIL import Image

import mcjax
from mcjax.curves import Curve
from mcjax.runs import checkpoint

EPOCHS = 3
SLOW = ("cubic", "line unaligned", "chain unaligned")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CURVES]


WEIGHTS = {
    "line": lambda t: [],
    "bezier": lambda t: [2 * t * (1 - t)],
    "cubic": lambda t: [3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t)],
    "chain": lambda t: [1 - abs(2 * t - 1)],
}


@pytest.mark.parametrize("name", NAMES)
def test_the_values_along_the_path_are_numpys(connected, tiny_data, name):
    tree = checkpoint.load(connected(name) / "checkpoints" / "curve")
    values = results_of(connected(name))["along"]
    start, end = (jax.tree.map(np.float64, tree[f"theta_{i}"]) for i in (1, 2))
    end = permuted(end, *map(np.asarray, tree["P"].values()))
    identity = all((np.asarray(p) == np.arange(len(p))).all() for p in tree["P"].values())
    assert identity == name.endswith("unaligned")
    np.testing.assert_allclose(values["ts"], [0, 0.25, 0.5, 0.75, 1])
    length, before = 0.0, None
    for i, t in enumerate(values["ts"]):
        weights = WEIGHTS[name.split()[0]](t)
        here = jax.tree.map(lambda a, b, t=t: (1 - t) * a + t * b, start, end)
        if weights:
            bent = jax.tree.map(np.float64, tree["theta_c"])
            assert any(np.abs(leaf).max() > 0.01 for leaf in jax.tree.leaves(bent))
            points = [bent]
            if len(weights) > 1:
                points = [jax.tree.map(lambda leaf, j=j: leaf[j], bent) for j in range(len(weights))]
            for weight, point in zip(weights, points, strict=True):
                here = jax.tree.map(lambda a, b, weight=weight: a + weight * b, here, point)
        for split in ("train", "test"):
            loss, accuracy = measured(here, tiny_data, split)
            assert values[f"{split}_loss"][i] == pytest.approx(loss, rel=1e-4, abs=2e-6)
            assert values[f"{split}_accuracy"][i] == pytest.approx(accuracy)
        leaves = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(here)])
        length += 0 if before is None else np.linalg.norm(leaves - before)
        before = leaves
        assert values["distance"][i] == pytest.approx(length, rel=1e-4, abs=1e-6)
    assert results_of(connected(name))["length"] == values["distance"][-1]


@pytest.mark.parametrize("name", NAMES)
def test_every_path_ends_at_the_endpoints(connected, trained, name):
    ends = results_of(trained)
    values = results_of(connected(name))["along"]
    for metric in METRICS:
        assert values[metric][0] == pytest.approx(ends[metric]["values"][0], rel=1e-5)
        assert values[metric][-1] == pytest.approx(ends[metric]["values"][1], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_is_that_of_the_values(connected, name):
    results = results_of(connected(name))
    for metric in METRICS:
        values = np.array(results["along"][metric])
        at = np.array(results["along"]["distance"])
        rises = values if metric.endswith("loss") else -values
        line = rises[0] + np.linspace(0, 1, 5) * (rises[-1] - rises[0])
        assert results[f"barrier_{metric}"] == pytest.approx(max((rises - line).max(), 0), abs=1e-6)
        expected = {
            "start": values[0],
            "end": values[-1],
            "min": values.min(),
            "max": values.max(),
            "mean": values.mean(),
            "integral": ((values[1:] + values[:-1]) / 2 * np.diff(at)).sum() / at[-1],
        }
        assert results["summary"][metric] == pytest.approx(expected, rel=1e-5)


def test_the_path_is_measured_as_the_library_measures_it(connected, tiny_task):
    tree = checkpoint.load(connected("bezier") / "checkpoints" / "curve")
    about = checkpoint.describe(connected("bezier") / "checkpoints" / "curve")
    assert about["curve"] == {"kind": "bezier", "control_points": 1}
    path = Curve(tiny_task.spec, **about["curve"]).bind(tree["theta_1"], tree["theta_2"], tree["theta_c"], tree["P"])
    metrics = mcjax.evaluate_path(tiny_task, path, 5)
    expected = {"ts": metrics.ts, **metrics.values, "distance": metrics.distance}
    along = results_of(connected("bezier"))["along"]
    assert list(along) == ["ts", *METRICS, "distance"]
    for name, values in expected.items():
        np.testing.assert_allclose(along[name], values, rtol=1e-6)


def test_the_curve_is_what_the_library_fits(connected, trained, matched, bars):
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5), width=1.0, activation="relu")
    task = mcjax.supervised(model, mcjax.data.load(str(bars)))
    theta_1, theta_2 = (checkpoint.load(trained / "checkpoints" / f"network_{i}") for i in range(2))
    config = mcjax.FitConfig(epochs=EPOCHS, batch_size=16)
    P = mcjax.symmetry.load_permutation(matched / "permutation.npz")
    fit = mcjax.fit_curve(jax.random.key(0), task, mcjax.bezier(model.spec), theta_1, theta_2, P, config)
    kept = checkpoint.load(connected("bezier") / "checkpoints" / "curve")
    chex.assert_trees_all_equal(kept["theta_c"], fit.theta_c)
    lines = metrics_of(connected("bezier"))
    assert [line["loss"][0] for line in lines] == pytest.approx(fit.history["loss"].tolist())


def test_a_given_permutation_is_used_instead_of_matching(connected, ends, matched, tmp_path):
    given = ("--permutation", matched / "permutation.npz")
    assert run("connect", *ends, *FIT, *given, "--out", tmp_path / "c") == 0
    assert results_of(tmp_path / "c") == results_of(connected("bezier"))


def test_fitting_lowers_the_line_which_is_not_fitted(connected):
    line, curve = (results_of(connected(kind))["summary"]["train_loss"] for kind in ("line", "bezier"))
    assert curve["mean"] < line["mean"]
    assert not (connected("line") / "metrics.jsonl").exists()
    assert "theta_c" not in checkpoint.load(connected("line") / "checkpoints" / "curve")
    assert not (connected("line") / "figures" / "training.png").exists()


def test_it_leaves_figures_and_metrics(connected):
    for name in ("path", "training"):
        with Image.open(connected("bezier") / "figures" / f"{name}.png") as figure:
            assert figure.format == "PNG"
            assert figure.size[0] > 1000
            assert np.asarray(figure.convert("L")).std() > 5
    lines = metrics_of(connected("bezier"))
    assert [(line["stage"], line["epoch"]) for line in lines] == [("fit", epoch) for epoch in range(1, EPOCHS + 1)]


def test_the_same_command_again_reports_and_redoes_nothing(connected, ends, capsys, monkeypatch):
    folder = connected("bezier")
    capsys.readouterr()
    before = files_of(folder)
    no_training(monkeypatch)
    assert run("connect", *ends, *FIT, "--out", folder) == 0
    out, err = capsys.readouterr()
    assert err.endswith("is finished: these are its results\n")
    summary = results_of(folder)["summary"]
    for line, metric in zip(out.splitlines()[2:6], METRICS, strict=True):
        columns = [f"{summary[metric][name]:.4f}" for name in ("start", "end", "min", "max", "mean", "integral")]
        assert line.split() == [*metric.split("_"), *columns, f"{results_of(folder)[f'barrier_{metric}']:.4f}"]
    assert f"Length {results_of(folder)['length']:.3f}." in out
    assert files_of(folder) == before


def test_an_interrupted_run_ends_with_the_same_bits(connected, ends, tmp_path, capsys, monkeypatch):
    command = ("connect", *ends, *FIT, "--out", tmp_path / "c")
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        assert run(*command) == 130
    said(capsys, 130, "complete epochs are kept")
    assert not (tmp_path / "c" / "results.json").exists()
    assert run(*command) == 0
    lines = [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if "epoch" in line]
    assert lines == [f"fitting a bezier: epoch {epoch}/{EPOCHS}" for epoch in (2, 3)]
    same_run(tmp_path / "c", connected("bezier"), "curve", "fit/latest")


@pytest.mark.slow
def test_a_full_disk_is_reported_and_missing_files_are_made_without_training(
    connected, ends, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "c"
    shutil.copytree(connected("bezier"), folder)
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "curve")
    no_training(monkeypatch)
    with monkeypatch.context() as patch:
        full_disk(patch, "path.png")
        assert run("connect", *ends, *FIT, "--out", folder) == 1
    said(capsys, 1, "cannot write", "path.png", "No space left on device", "kept")
    assert not (folder / "results.json").exists()
    assert run("connect", *ends, *FIT, "--out", folder) == 0
    same_run(folder, connected("bezier"), "curve", "fit/latest")


PERMUTATIONS = [
    ({"dense_0": [0, 1, 2, 2, 4, 5], "dense_1": range(5)}, ["dense_0", "0..5", "repeated [2]"]),
    ({"dense_0": range(7), "dense_1": range(5)}, ["dense_0", "(7,)", "(6,)"]),
    ({"dense_0": range(6), "conv_0": range(5)}, ["['conv_0', 'dense_0']", "['dense_0', 'dense_1']"]),
    (None, ["no permutation at", "No such file"]),
]


@pytest.mark.parametrize(("arrays", "names"), PERMUTATIONS)
def test_a_wrong_permutation_is_refused(ends, tmp_path, capsys, arrays, names):
    if arrays is not None:
        np.savez(tmp_path / "P.npz", **{group: np.array(p, np.int32) for group, p in arrays.items()})
    command = ("connect", *ends, *FIT, "--permutation", tmp_path / "P.npz")
    refused(capsys, tmp_path / "c", *command, names=names)


def test_a_folder_of_another_config_is_refused_and_kept(connected, trained, capsys):
    before = files_of(connected("bezier"))
    assert run("connect", trained / "1", trained / "0", *FIT, "--out", connected("bezier")) == 2
    said(capsys, 2, "theta_1", "theta_2", "--out")
    assert files_of(connected("bezier")) == before


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_reported(ends, tmp_path, capsys):
    assert run("connect", *ends, *FIT, "--no-align", "--learning-rate", 1e20, "--out", tmp_path / "c") == 1
    said(capsys, 1, "fitting a bezier", "is not finite in epoch", "learning rate")
    assert not (tmp_path / "c" / "results.json").exists()
