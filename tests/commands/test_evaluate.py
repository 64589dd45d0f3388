"""`mcjax evaluate`: networks and curves, with the numbers of the runs that made them."""

import gc
import shutil

import numpy as np
import pytest
from command_line import FIT, GIVEN, METRICS, files_of, refused, results_of, run, said

import mcjax
from mcjax import trees
from mcjax.commands.paths import EvaluateOptions
from mcjax.runs import checkpoint
from mcjax.training.supervised import AugmentImages


@pytest.fixture(scope="session")
def elsewhere(trained):
    """The leaves of the second network in an .npz, which does not name its model."""
    theta = checkpoint.load(trained / "checkpoints" / "network_1")
    np.savez(trained.parent / "theta.npz", **trees.flatten(theta))
    return trained.parent / "theta.npz"


def test_a_whole_run_has_the_numbers_of_its_training(trained, tmp_path, capsys):
    assert run("evaluate", trained, "--out", tmp_path / "e") == 0
    assert results_of(tmp_path / "e") == results_of(trained)
    out = capsys.readouterr().out
    for i in range(2):
        values = [f"{results_of(trained)[metric]['values'][i]:.4f}" for metric in METRICS]
        assert [line.split()[2:] for line in out.splitlines() if line.startswith(f"network {i}")] == [values]
    assert "mean ± std" in out


def test_one_network_has_its_share_of_them(trained, tmp_path, capsys):
    assert run("evaluate", trained / "0", "--out", tmp_path / "e") == 0
    for metric in METRICS:
        expected = results_of(trained)[metric]["values"][0]
        assert results_of(tmp_path / "e")[metric] == {"mean": expected, "std": 0.0, "values": [expected]}
    out = capsys.readouterr().out
    assert str(trained / "0") in out
    assert "±" not in out


def test_a_network_from_elsewhere_is_measured_alike_and_its_activation_is_part_of_it(
    trained, elsewhere, bars, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found = {}
    for activation in ("relu", "tanh"):
        assert run("evaluate", elsewhere, *GIVEN, "--activation", activation, "--data", bars) == 0
        [new] = [folder for folder in (tmp_path / "runs").iterdir() if folder not in found]
        found[new] = results_of(new)
    relu, tanh = found.values()
    for metric in METRICS:
        assert relu[metric]["values"] == results_of(trained)[metric]["values"][1:]
    assert tanh["test_loss"] != relu["test_loss"]


def test_a_curve_is_measured_under_the_augmentation_that_it_was_fitted_with(connected, tmp_path, monkeypatch):
    curve, seen = connected("bezier") / "checkpoints" / "curve", []
    augmentation, about = mcjax.Augmentation(flip=True, crop=2, rotate=3.0), checkpoint.describe(curve)
    assert mcjax.Augmentation(**about["augmentation"]) == mcjax.Augmentation.none()
    checkpoint.save(tmp_path / "curve", checkpoint.load(curve), {**about, "augmentation": vars(augmentation)})

    def stop(self, task, path):
        seen.append(task.augment)
        raise KeyboardInterrupt

    monkeypatch.setattr(EvaluateOptions, "evaluate", stop)
    for each in (curve, tmp_path / "curve"):
        assert run("evaluate", each, "--out", tmp_path / f"e{len(seen)}") == 130
    assert seen == [None, AugmentImages(augmentation)]


def test_fewer_and_other_images(trained, tmp_path, tiny_data):
    options = ("--train-images", 30, "--test-images", 7)
    assert run("evaluate", trained / "0", *options, "--out", tmp_path / "few") == 0
    theta = checkpoint.load(trained / "checkpoints" / "network_0")
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5), width=1.0, activation="relu")
    train, test = mcjax.evaluate(mcjax.supervised(model, tiny_data.take(30, 7)), theta)
    expected = [float(split[name]) for split in (train, test) for name in ("loss", "accuracy")]
    assert [results_of(tmp_path / "few")[metric]["mean"] for metric in METRICS] == pytest.approx(expected, rel=1e-6)


def test_a_curve_has_the_numbers_of_its_run(connected, tmp_path, capsys):
    assert run("evaluate", connected("bezier"), "--points", 5, "--out", tmp_path / "e") == 0
    first, second = results_of(tmp_path / "e"), results_of(connected("bezier"))
    assert first.keys() == second.keys()
    for metric in ("ts", *METRICS, "distance"):
        assert first["along"][metric] == pytest.approx(second["along"][metric], rel=1e-6, abs=1e-9)
    for metric in METRICS:
        assert first["summary"][metric] == pytest.approx(second["summary"][metric], rel=1e-6)
        assert first[f"barrier_{metric}"] == pytest.approx(second[f"barrier_{metric}"], rel=1e-5, abs=1e-7)
    assert "barrier" in capsys.readouterr().out
    assert (tmp_path / "e" / "figures" / "path.png").stat().st_size > 10_000


def test_a_curve_is_the_same_at_more_points(connected, tmp_path):
    assert run("evaluate", connected("bezier"), "--points", 9, "--out", tmp_path / "e") == 0
    first, second = results_of(tmp_path / "e")["along"], results_of(connected("bezier"))["along"]
    for metric in METRICS:
        assert first[metric][::2] == pytest.approx(second[metric], rel=1e-5)


def test_the_same_again_reports_and_redoes_nothing(trained, connected, tmp_path, capsys, monkeypatch):
    curve = connected("bezier")
    for target, its_checkpoint, options in (
        (trained / "0", trained / "checkpoints" / "network_0", ()),
        (curve, curve / "checkpoints" / "curve", ("--points", 5)),
    ):
        folder = tmp_path / target.name
        capsys.readouterr()
        assert run("evaluate", target, *options, "--out", folder) == 0
        first, before = capsys.readouterr().out, files_of(folder)
        with monkeypatch.context() as patch:
            for name in ("mcjax.commands.evaluate.measure", "mcjax.commands.paths.evaluate_path"):
                patch.setattr(name, None)
            assert run("evaluate", target, *options, "--out", folder) == 0
            assert capsys.readouterr().out == first
            assert run("evaluate", its_checkpoint, *options, "--out", folder) == 0
        assert files_of(folder) == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_truncated_checkpoint_is_reported(collected, trained, connected, tmp_path, capsys):
    for run_of, name in ((trained, "network_0"), (connected("bezier"), "curve")):
        shutil.copytree(run_of, tmp_path / name)
        where = tmp_path / name / "checkpoints" / name
        shutil.rmtree(where / "state" / "d")
        target = tmp_path / name / ("0" if name == "network_0" else "")
        capsys.readouterr()
        refused(capsys, tmp_path / "e", "evaluate", target, *FIT[-2:], names=["cannot be read", "truncated"])
        gc.collect()


def test_a_run_that_is_not_finished_is_reported(connected, tmp_path, capsys):
    shutil.copytree(connected("bezier"), tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "checkpoints" / "curve")
    capsys.readouterr()
    assert run("evaluate", tmp_path / "copy", "--out", tmp_path / "e") == 2
    said(capsys, 2, tmp_path / "copy", "holds no networks")
