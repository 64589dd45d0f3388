"""`mcjax quickstart`: the layout of its results, its figures, and the same bits after an interruption."""

import numpy as np
import pytest
from command_line import (
    files_of,
    full_disk,
    interrupt,
    measured,
    no_training,
    results_of,
    run,
    said,
    same_run,
)
from moments import metrics_of
from PIL import Image

import mcjax
from mcjax.commands import quickstart
from mcjax.data import load
from mcjax.runs import checkpoint

EPOCHS = 4
SMALL = ("quickstart", "--pairs", 2, "--epochs", EPOCHS)
KINDS = [f"{kind}_{how}" for kind in ("linear", "bezier", "PAM") for how in ("unaligned", "aligned")]
ROWS = ("linear_u", "linear_a", "bezier_u", "PAM_u", "PAM_a", "bezier_a")
VALUES = ("train_loss_mean", "test_accuracy_mean", "test_accuracy_min", "barrier")


@pytest.fixture(scope="module")
def digits():
    return mcjax.data.load("digits").take(640, 100)


@pytest.fixture(scope="module", autouse=True)
def _few(digits):
    """Fewer images than there are, for every quickstart here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart.data, "load", lambda *_: digits)
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "unbroken"
    assert run(*SMALL, "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def results(unbroken):
    return results_of(unbroken)


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


def test_the_lines_are_those_of_the_networks_it_keeps(unbroken, results, digits):
    model = mcjax.models.create("mlp", 10, (8, 8, 1), widths=(32, 32))
    task = mcjax.supervised(model, digits)
    for pair in range(2):
        ends = [checkpoint.load(unbroken / "checkpoints" / f"network_{2 * pair + i}") for i in range(2)]
        match = mcjax.match_activations(task, *ends)
        for group in match.P:
            for name, value in (("before", match.info["before"][group]), ("after", match.info["after"][group])):
                kept = results["correlation"][group][name]["values"][pair]
                assert kept == pytest.approx(value, abs=1e-5)
        identity = {group: np.arange(len(p)) for group, p in match.P.items()}
        for how, P in (("unaligned", identity), ("aligned", match.P)):
            metrics = mcjax.evaluate_path(task, mcjax.linear(model.spec).bind(*ends, None, P))
            summary = metrics.summary()
            kept = {name: results["paths"][f"linear_{how}"][name]["values"][pair] for name in VALUES}
            assert kept["train_loss_mean"] == pytest.approx(summary["train_loss"]["mean"], rel=1e-4)
            assert kept["test_accuracy_mean"] == pytest.approx(summary["test_accuracy"]["mean"], abs=1e-3)
            assert kept["test_accuracy_min"] == pytest.approx(summary["test_accuracy"]["min"], abs=2e-2)
            assert kept["barrier"] == pytest.approx(mcjax.barrier(metrics), rel=1e-3, abs=1e-5)


def test_its_networks_are_taken_by_the_other_commands(unbroken, tmp_path):
    assert run("evaluate", unbroken, "--out", tmp_path / "e") == 0
    found = results_of(tmp_path / "e")
    digits = load("digits")  # all of it
    for i in range(4):
        loss, accuracy = measured(checkpoint.load(unbroken / "checkpoints" / f"network_{i}"), digits, "test")
        assert found["test_loss"]["values"][i] == pytest.approx(loss, rel=1e-4)
        assert found["test_accuracy"]["values"][i] == pytest.approx(accuracy, abs=0.005)
        assert accuracy > 0.3


def test_its_figures_are_pictures(unbroken):
    for name, width in (("paths", 1200), ("correlation", 1500), ("pam", 1000)):
        path = unbroken / "figures" / f"{name}.png"
        assert 20_000 < path.stat().st_size < 2_000_000
        with Image.open(path) as figure:
            assert figure.format == "PNG"
            assert figure.size[0] > width
            assert figure.size[1] > 500
            pixels = np.asarray(figure.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(pixels @ [65536, 256, 1])) > 50


def fitted(lines, stage):
    return next(line["loss"] for line in lines if line["stage"] == stage)


def test_its_metrics_have_every_epoch_of_every_stage(unbroken):
    lines = metrics_of(unbroken)
    stages = [("networks", 4)]
    for how in ("unaligned", "aligned"):
        halves = [f"pam_{how}_{k}_{half}" for k in range(4) for half in ("permutation", "curve")]
        # Where a new permutation is looked at, curves from the old one are fitted beside those from it.
        # The matrices are learned at two rates.
        looked = [2 * (1 + (half.endswith("permutation") or len(fitted(lines, half)) == 4)) for half in halves]
        stages += [(f"curves_{how}", 2), *zip(halves, looked, strict=True)]
    assert [(line["stage"], line["epoch"], len(line["loss"])) for line in lines] == [
        (stage, epoch, fits)
        for stage, fits in stages
        for epoch in range(1, 2 if stage.startswith("pam") else EPOCHS + 1)
    ]
    for stage in ("networks", "curves_unaligned", "curves_aligned", "pam_unaligned_0_curve"):
        assert checkpoint.is_checkpoint(unbroken / "checkpoints" / stage / "latest")


def test_pam_never_gets_worse(results):
    for kept in results["pam"].values():
        assert np.shape(kept["objective"]) == (2, 9)
        assert (np.diff(kept["objective"]) <= 0).all()
        assert np.shape(kept["accepted"]) == np.shape(kept["moved"]) == (2, 8)


def test_the_same_command_again_reports_and_redoes_nothing(unbroken, results, capsys, monkeypatch):
    no_training(monkeypatch)
    before = files_of(unbroken)
    assert run(*SMALL, "--out", unbroken) == 0
    out, err = capsys.readouterr()
    assert err.endswith("is finished: these are its results\n")
    for line, kind in zip(out.splitlines()[2:8], ROWS, strict=True):
        paths = results["paths"][next(name for name in KINDS if name.startswith(kind))]
        columns = [
            f"{factor * paths[name][which]:.{digits}f}"
            for name, digits, factor in zip(VALUES, (4, 2, 2, 4), (1, 100, 100, 1), strict=True)
            for which in ("mean", "std")
        ]
        assert [cell for cell in line.split()[2:] if cell != "±"] == columns
    assert str(unbroken / "figures" / "paths.png") in out
    assert files_of(unbroken) == before


@pytest.mark.slow
def test_interrupted_and_on_a_full_disk_it_ends_with_the_same_bits(unbroken, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "q"
    with monkeypatch.context() as patch:
        interrupt(patch, 2, "curves, aligned")
        assert run(*SMALL, "--out", folder) == 130
    said(capsys, 130, "complete epochs are kept")
    with monkeypatch.context() as patch:
        full_disk(patch, "pam.png")
        assert run(*SMALL, "--out", folder) == 1
    said(capsys, 1, "cannot write", "pam.png", "No space left on device")
    assert not (folder / "results.json").exists()
    no_training(monkeypatch)
    assert run(*SMALL, "--out", folder) == 0
    kept = ("network_0", "network_3", "networks/latest", "curves_unaligned/latest", "curves_aligned/latest")
    same_run(folder, unbroken, *kept)


def test_a_folder_of_another_config_is_refused_and_kept(unbroken, capsys):
    before = files_of(unbroken)
    assert run("quickstart", "--pairs", 2, "--epochs", EPOCHS + 1, "--out", unbroken) == 2
    said(capsys, 2, "epochs: 4 there, 5 now", "--out")
    assert files_of(unbroken) == before
