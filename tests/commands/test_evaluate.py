"""`mcjax evaluate`: networks and curves, with the numbers of the runs that made them."""

import json
import shutil

import jax
import numpy as np
import pytest
from command_line import GIVEN, METRICS, run, said
from flax import serialization

import mcjax
from mcjax import checkpoint, trees

FIT = ("--epochs", 3, "--batch-size", 16, "--points", 5, "--no-align")


@pytest.fixture(scope="session")
def connected(trained):
    folder = trained.parent / "connected"
    assert run("connect", trained / "0", trained / "1", *FIT, "--out", folder) == 0
    return folder


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_whole_run_has_the_numbers_of_its_training(trained, tmp_path, capsys):
    assert run("evaluate", trained, "--out", tmp_path / "e") == 0
    assert results_of(tmp_path / "e") == results_of(trained)
    out = capsys.readouterr().out
    for i in range(2):
        values = [f"{results_of(trained)[metric]['values'][i]:.4f}" for metric in METRICS]
        assert f"network {i}" in out
        assert [line.split()[2:] for line in out.splitlines() if line.startswith(f"network {i}")] == [values]
    assert "mean ± std" in out


@pytest.mark.parametrize("name", ["0", "checkpoints/network_0"])
def test_one_network_has_its_share_of_them(trained, tmp_path, capsys, name):
    assert run("evaluate", trained / name, "--out", tmp_path / "e") == 0
    for metric in METRICS:
        expected = results_of(trained)[metric]["values"][0]
        assert results_of(tmp_path / "e")[metric] == {"mean": expected, "std": 0.0, "values": [expected]}
    assert str(trained / name) in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["npz", "msgpack"])
def test_a_network_from_elsewhere_is_measured_alike(trained, bars, tmp_path, kind):
    theta = checkpoint.load(trained / "checkpoints" / "network_1")
    path = tmp_path / f"theta.{kind}"
    if kind == "npz":
        np.savez(path, **trees.flatten(theta))
    else:
        path.write_bytes(serialization.to_bytes(theta))
    assert run("evaluate", path, *GIVEN, "--data", bars, "--out", tmp_path / "e") == 0
    for metric in METRICS:
        assert results_of(tmp_path / "e")[metric]["values"] == results_of(trained)[metric]["values"][1:]


def test_the_activation_is_part_of_what_is_measured(trained, bars, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("theta.npz", **trees.flatten(checkpoint.load(trained / "checkpoints" / "network_1")))
    for activation in ("relu", "tanh"):
        assert run("evaluate", "theta.npz", *GIVEN, "--activation", activation, "--data", bars) == 0
    losses = {results_of(folder)["test_loss"]["mean"] for folder in (tmp_path / "runs").iterdir()}
    assert len(losses) == 2


def test_fewer_and_other_images(trained, tmp_path, tiny_data):
    options = ("--train-images", 30, "--test-images", 7)
    assert run("evaluate", trained / "0", *options, "--out", tmp_path / "few") == 0
    theta = checkpoint.load(trained / "checkpoints" / "network_0")
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5), width=1.0, activation="relu")
    train, test = mcjax.evaluate(model, theta, jax.device_put(tiny_data.take(30, 7)))
    expected = [float(value) for value in (*train, *test)]
    assert [results_of(tmp_path / "few")[metric]["mean"] for metric in METRICS] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["", "checkpoints/curve"])
def test_a_curve_has_the_numbers_of_its_run(connected, tmp_path, capsys, name):
    assert run("evaluate", connected / name, "--points", 5, "--out", tmp_path / "e") == 0
    first, second = results_of(tmp_path / "e"), results_of(connected)
    assert first.keys() == second.keys()
    for metric in ("ts", *METRICS, "distance"):
        assert first["along"][metric] == pytest.approx(second["along"][metric], rel=1e-6, abs=1e-9)
    for metric in METRICS:
        assert first["summary"][metric] == pytest.approx(second["summary"][metric], rel=1e-6)
        assert first[f"barrier_{metric}"] == pytest.approx(second[f"barrier_{metric}"], rel=1e-5, abs=1e-7)
    assert "barrier" in capsys.readouterr().out
    assert (tmp_path / "e" / "figures" / "path.png").stat().st_size > 10_000


def test_a_curve_is_the_same_at_more_points(connected, tmp_path):
    assert run("evaluate", connected, "--points", 9, "--out", tmp_path / "e") == 0
    first, second = results_of(tmp_path / "e")["along"], results_of(connected)["along"]
    for metric in METRICS:
        assert first[metric][::2] == pytest.approx(second[metric], rel=1e-5)


def test_the_same_command_again_reports_and_redoes_nothing(trained, connected, tmp_path, capsys, monkeypatch):
    for target, options in ((trained, ()), (connected, ("--points", 5))):
        command = ("evaluate", target, *options, "--out", tmp_path / target.name)
        assert run(*command) == 0
        first = capsys.readouterr().out
        before = (tmp_path / target.name / "results.json").stat().st_mtime_ns
        with monkeypatch.context() as patch:
            for name in ("mcjax.commands.evaluate.measure", "mcjax.commands.connect.evaluate_path"):
                patch.setattr(name, None)
            assert run(*command) == 0
        assert capsys.readouterr().out == first
        assert (tmp_path / target.name / "results.json").stat().st_mtime_ns == before


BAD = {
    "nothing there": ("none", [], ["no network at", "none"]),
    "one point": ("connected", ["--points", 1], ["got points=1, expected at least 2"]),
    "batch 0": ("connected", ["--eval-batch-size", 0], ["got eval_batch_size=0, expected at least 1"]),
    "calibration": ("connected", ["--calibration-images", 0], ["got calibration_images=0, expected 1 to 120"]),
    "more classes, curve": ("connected", ["--data", "digits"], ["digits has 10 classes, mlp tells 3 apart"]),
    "more classes, network": ("trained/0", ["--data", "digits"], ["digits has 10 classes, mlp tells 3 apart"]),
    "too many images": ("trained/0", ["--test-images", 51], ["has 50 test images: got 51, expected 1 to 50"]),
    "no such data": ("trained/0", ["--data", "none.npz"], ["no data set at none.npz"]),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_said_before_anything_is_made(trained, connected, tmp_path, capsys, case):
    target, options, patterns = BAD[case]
    capsys.readouterr()
    assert run("evaluate", trained.parent / target, *options, "--out", tmp_path / "e") == 2
    said(capsys, 2, *patterns)
    assert not (tmp_path / "e").exists()


def test_a_network_without_its_model_asks_for_it(trained, bars, tmp_path, capsys):
    theta = checkpoint.load(trained / "checkpoints" / "network_0")
    np.savez(tmp_path / "theta.npz", **trees.flatten(theta))
    capsys.readouterr()
    for options in ((), GIVEN, ("--data", bars)):
        assert run("evaluate", tmp_path / "theta.npz", *options, "--out", tmp_path / "e") == 2
        said(capsys, 2, "does not say its model: give --model")
    wrong = ("--model", "mlp", "--widths", 7, 5, "--data", bars)
    assert run("evaluate", tmp_path / "theta.npz", *wrong, "--out", tmp_path / "e") == 2
    said(capsys, 2, "params/Dense_0/kernel: got (64, 6), expected (64, 7)")
    assert not (tmp_path / "e").exists()


def test_pickle_in_an_npz_is_refused(bars, tmp_path, capsys):
    array = np.empty(1, object)
    array[0] = {}
    np.savez(tmp_path / "theta.npz", **{"params/Dense_0/kernel": array})
    assert run("evaluate", tmp_path / "theta.npz", *GIVEN, "--data", bars, "--out", tmp_path / "e") == 2
    said(capsys, 2, "theta.npz cannot be read", "allow_pickle=False")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("what", ["trained/checkpoints/network_0", "connected"])
@pytest.mark.parametrize("harm", ["state/manifest.ocdbt", "state/_METADATA", "_CHECKPOINT_METADATA", "state/d"])
def test_a_truncated_checkpoint_is_said(collected, trained, connected, tmp_path, capsys, what, harm):
    shutil.copytree(trained.parent / what, tmp_path / "copy")
    where = tmp_path / "copy" / ("checkpoints/curve" if what == "connected" else "") / harm
    shutil.rmtree(where) if where.is_dir() else where.unlink()
    capsys.readouterr()
    assert run("evaluate", tmp_path / "copy", "--points", 5, "--out", tmp_path / "e") == 2
    said(capsys, 2, "cannot be read", "truncated")
    assert not (tmp_path / "e").exists()


def test_a_run_that_is_not_finished_is_said(connected, tmp_path, capsys):
    shutil.copytree(connected, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "checkpoints" / "curve")
    capsys.readouterr()
    assert run("evaluate", tmp_path / "copy", "--out", tmp_path / "e") == 2
    said(capsys, 2, "is a run that holds no networks (yet): finish it")
