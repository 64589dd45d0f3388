"""`mcjax quickstart`: the layout of its results, its figures, and the same bits after an interruption."""

import errno
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import run
from PIL import Image

import mcjax
from mcjax import checkpoint
from mcjax.report import Progress
from mcjax.training import loop

SMALL = ("quickstart", "--pairs", 2, "--epochs", 3)
KINDS = [f"{kind}_{how}" for kind in ("linear", "bezier", "PAM") for how in ("unaligned", "aligned")]
ROWS = ("linear_u", "linear_a", "bezier_u", "PAM_u", "PAM_a", "bezier_a")
VALUES = ("train_loss_mean", "test_accuracy_mean", "test_accuracy_min", "barrier")


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "unbroken"
    assert run(*SMALL, "--out", folder) == 0
    return folder


@pytest.fixture(scope="session")
def results(unbroken):
    return json.loads((unbroken / "results.json").read_text())


def test_the_layout_of_its_results(results):
    assert set(results["paths"]) == set(KINDS)
    for kind in KINDS:
        assert set(results["paths"][kind]) == set(VALUES)
        for summary in results["paths"][kind].values():
            assert set(summary) == {"mean", "std", "values"}
            assert len(summary["values"]) == 2
            assert summary["mean"] == pytest.approx(np.mean(summary["values"]))
            assert summary["std"] == pytest.approx(np.std(summary["values"], ddof=1), abs=1e-12)
        for name in ("test_accuracy_mean", "test_accuracy_min"):
            assert all(0 <= value <= 1 for value in results["paths"][kind][name]["values"])
        lowest, mean = (results["paths"][kind][name]["values"] for name in ("test_accuracy_min", "test_accuracy_mean"))
        assert all(a <= b for a, b in zip(lowest, mean, strict=True))
        assert all(value >= 0 for value in results["paths"][kind]["barrier"]["values"])
        assert all(value > 0 for value in results["paths"][kind]["train_loss_mean"]["values"])
    for group in ("dense_0", "dense_1"):
        before, after = (results["correlation"][group][name]["values"] for name in ("before", "after"))
        assert all(-1 <= a < b <= 1 for a, b in zip(before, after, strict=True))


def test_matching_lowers_the_line(results):
    losses = {kind: results["paths"][kind]["train_loss_mean"]["values"] for kind in KINDS}
    assert all(a < b for a, b in zip(losses["linear_aligned"], losses["linear_unaligned"], strict=True))


@pytest.mark.parametrize("how", ["unaligned", "aligned"])
def test_the_lines_are_those_of_the_networks_it_keeps(unbroken, results, how):
    model, digits = mcjax.models.create("mlp", 10, (8, 8, 1), widths=(32, 32)), mcjax.data.load("digits")
    identity = mcjax.identity_permutation(model.spec, checkpoint.load(unbroken / "checkpoints" / "network_0"))
    for pair in range(2):
        ends = [checkpoint.load(unbroken / "checkpoints" / f"network_{2 * pair + i}") for i in range(2)]
        match = mcjax.match_activations(model, *ends, digits)
        for group in match.P:
            for name, value in (("before", match.before[group]), ("after", match.after[group])):
                kept = results["correlation"][group][name]["values"][pair]
                assert kept == pytest.approx(value, abs=1e-5)
        path = mcjax.linear(model.spec).bind(*ends, None, match.P if how == "aligned" else identity)
        metrics = mcjax.evaluate_path(model, path, digits)
        summary = metrics.summary()
        kept = {name: results["paths"][f"linear_{how}"][name]["values"][pair] for name in VALUES}
        assert kept["train_loss_mean"] == pytest.approx(summary["train_loss"]["mean"], rel=1e-4)
        assert kept["test_accuracy_mean"] == pytest.approx(summary["test_accuracy"]["mean"], abs=1e-4)
        assert kept["test_accuracy_min"] == pytest.approx(summary["test_accuracy"]["min"], abs=1e-2)
        assert kept["barrier"] == pytest.approx(mcjax.barrier(metrics), rel=1e-3, abs=1e-5)


def test_its_networks_are_taken_by_the_other_commands(unbroken, tmp_path):
    assert run("evaluate", unbroken, "--out", tmp_path / "e") == 0
    measured = json.loads((tmp_path / "e" / "results.json").read_text())
    assert len(measured["test_loss"]["values"]) == 4
    assert min(measured["test_accuracy"]["values"]) > 0.8


@pytest.mark.parametrize(("name", "width"), [("paths", 1200), ("correlation", 1500), ("pam", 1000)])
def test_its_figures_are_pictures(unbroken, name, width):
    path = unbroken / "figures" / f"{name}.png"
    assert 20_000 < path.stat().st_size < 2_000_000
    with Image.open(path) as figure:
        assert figure.format == "PNG"
        assert figure.size[0] > width
        assert figure.size[1] > 500
        pixels = np.asarray(figure.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 50


def fitted(lines, stage):
    return next(line["loss"] for line in lines if line["stage"] == stage)


def test_its_metrics_have_every_epoch_of_every_stage(unbroken):
    lines = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    stages = [("networks", 4)]
    for how in ("unaligned", "aligned"):
        halves = [f"pam_{how}_{k}_{half}" for k in range(4) for half in ("permutation", "curve")]
        # Where a new permutation is looked at, curves from the old one are fitted beside those from it.
        looked = [2 * (1 + (half.endswith("curve") and len(fitted(lines, half)) == 4)) for half in halves]
        stages += [(f"curves_{how}", 2), *zip(halves, looked, strict=True)]
    assert [(line["stage"], line["epoch"], len(line["loss"])) for line in lines] == [
        (stage, epoch, fits) for stage, fits in stages for epoch in range(1, 2 if stage.startswith("pam") else 4)
    ]


def test_pam_never_gets_worse(results):
    for kept in results["pam"].values():
        assert np.shape(kept["objective"]) == (2, 9)
        assert (np.diff(kept["objective"]) <= 0).all()
        assert np.shape(kept["accepted"]) == np.shape(kept["moved"]) == (2, 8)


def refuse(*_, **__):
    raise AssertionError("it trains")


def test_the_same_command_again_reports_and_redoes_nothing(unbroken, results, capsys, monkeypatch):
    monkeypatch.setattr(loop, "_epoch_of_many", refuse)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in unbroken.rglob("*") if path.is_file()}
    assert run(*SMALL, "--out", unbroken) == 0
    out, err = capsys.readouterr()
    assert err.endswith("is finished: this is what it found\n")
    for line, kind in zip(out.splitlines()[2:8], ROWS, strict=True):
        paths = results["paths"][next(name for name in KINDS if name.startswith(kind))]
        columns = [
            f"{factor * paths[name][which]:.{digits}f}"
            for name, digits, factor in zip(VALUES, (4, 2, 2, 4), (1, 100, 100, 1), strict=True)
            for which in ("mean", "std")
        ]
        assert [cell for cell in line.split()[2:] if cell != "±"] == columns
    assert str(unbroken / "figures" / "paths.png") in out
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in unbroken.rglob("*") if path.is_file()}
    assert after == before


def same_run(folder, unbroken):
    for name in ("results.json", "metrics.jsonl", "config.json"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name
    for name in ("network_0", "network_3", "curves_aligned/latest"):
        trees_of = [checkpoint.load(at / "checkpoints" / name) for at in (folder, unbroken)]
        jax.tree.map(np.testing.assert_array_equal, *trees_of)


@pytest.mark.parametrize("stage", ["training", "aligned"])
def test_an_interrupted_run_ends_with_the_same_bits(unbroken, tmp_path, capsys, monkeypatch, stage):
    real = Progress.update

    def update(self, epoch, loss):
        if stage in self.title and epoch == 2:
            raise KeyboardInterrupt
        real(self, epoch, loss)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", update)
        assert run(*SMALL, "--out", tmp_path / "q") == 130
    assert not (tmp_path / "q" / "results.json").exists()
    assert run(*SMALL, "--out", tmp_path / "q") == 0
    assert "Traceback" not in capsys.readouterr().err
    same_run(tmp_path / "q", unbroken)


def test_a_full_disk_is_said_and_the_same_command_goes_on(unbroken, tmp_path, capsys, monkeypatch):
    real = os.replace

    def replace(source, target):
        if Path(target).name == "correlation.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        assert run(*SMALL, "--out", tmp_path / "q") == 1
    err = capsys.readouterr().err
    assert "mcjax: failed: cannot write" in err
    assert "correlation.png: No space left on device" in err
    assert "Traceback" not in err
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_epoch_of_many", refuse)
        assert run(*SMALL, "--out", tmp_path / "q") == 0
    same_run(tmp_path / "q", unbroken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pairs", 0], "got pairs=0, expected at least 1."),
        (["--epochs", 0], "got epochs=0, expected at least 1."),
        (["--epochs", -3], "got epochs=-3, expected at least 1."),
        (["--seed", -1], "got seed=-1, expected 0 to 4294967295."),
    ],
)
def test_wrong_input_is_said_before_anything_is_made(tmp_path, capsys, options, message):
    assert run("quickstart", *options, "--out", tmp_path / "q") == 2
    assert capsys.readouterr().err == f"mcjax: error: {message}\n"
    assert not (tmp_path / "q").exists()


def test_a_folder_of_another_config_is_refused_and_kept(unbroken, capsys):
    before = (unbroken / "results.json").read_bytes()
    assert run("quickstart", "--pairs", 2, "--epochs", 4, "--out", unbroken) == 2
    err = capsys.readouterr().err
    assert "epochs: 3 there, 4 now" in err
    assert "--out" in err
    assert (unbroken / "results.json").read_bytes() == before
