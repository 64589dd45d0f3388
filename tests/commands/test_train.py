"""`mcjax train`: what it leaves, how it resumes after an interruption or a killed process, and what it refuses."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from command_line import (
    FIT,
    METRICS,
    SMALL,
    files_of,
    full_disk,
    interrupt,
    measured,
    no_training,
    refused,
    results_of,
    run,
    said,
    same_run,
)
from moments import metrics_of
from PIL import Image

import mcjax
from mcjax.runs import checkpoint

EPOCHS = 4
KEPT = ("network_0", "network_1", "train/latest")


def test_it_leaves_networks_metrics_results_and_a_figure(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["config"]["epochs"] == EPOCHS
    assert config["model"]["widths"] == [6, 5]
    lines = metrics_of(trained)
    assert [(line["stage"], line["epoch"], len(line["loss"])) for line in lines] == [
        ("train", epoch, 2) for epoch in range(1, EPOCHS + 1)
    ]
    assert all(after < before for before, after in zip(lines[0]["loss"], lines[-1]["loss"], strict=True))
    with Image.open(trained / "figures" / "training.png") as figure:
        assert figure.format == "PNG"
        assert figure.size[0] > 1000
        assert np.asarray(figure.convert("L")).std() > 5
    assert 10_000 < (trained / "figures" / "training.png").stat().st_size < 1_000_000
    assert not [path for path in trained.rglob("*") if path.name.startswith(".")]


def test_its_numbers_are_those_of_the_networks_it_keeps(trained, tiny_data):
    results = results_of(trained)
    assert list(results) == list(METRICS)
    for i in range(2):
        theta = checkpoint.load(trained / "checkpoints" / f"network_{i}")
        for split in ("train", "test"):
            loss, accuracy = measured(theta, tiny_data, split)
            assert results[f"{split}_loss"]["values"][i] == pytest.approx(loss, rel=1e-5, abs=2e-6)
            assert results[f"{split}_accuracy"]["values"][i] == pytest.approx(accuracy)
    for column in results.values():
        assert column["mean"] == pytest.approx(np.mean(column["values"]))
        assert column["std"] == pytest.approx(np.std(column["values"], ddof=1))


def test_it_trains_what_the_library_trains(trained, bars):
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5), width=1.0, activation="relu")
    task = mcjax.supervised(model, mcjax.data.load(str(bars)))
    config = mcjax.TrainConfig(epochs=EPOCHS, batch_size=16)
    endpoints = mcjax.train_endpoints(jax.random.split(jax.random.key(0), 2), task, config)
    kept = [checkpoint.load(trained / "checkpoints" / f"network_{i}") for i in range(2)]
    chex.assert_trees_all_equal(jax.tree.map(lambda *leaves: np.stack(leaves), *kept), endpoints.theta)


def test_the_same_command_again_reports_and_redoes_nothing(train, trained, capsys, monkeypatch):
    before = files_of(trained)
    no_training(monkeypatch)
    assert run(*train, "--out", trained) == 0
    out, err = capsys.readouterr()
    assert err.endswith("is finished: these are its results\n")
    loss = results_of(trained)["test_loss"]
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["network", "network", "mean", "Written"]
    for value in loss["values"]:
        assert f"{value:.4f}" in out
    assert f"{loss['mean']:.4f} ± {loss['std']:.4f}" in out
    assert files_of(trained) == before


def test_networks_differ_by_seed_and_progress_is_apart_from_the_table(train, trained, tmp_path, capsys):
    assert run(*train, "--seed", 1, "--out", tmp_path / "other") == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0].startswith(f"training 2 mlp: epoch 1/{EPOCHS}, loss ")
    assert "epoch" not in out
    kernels = [
        np.asarray(checkpoint.load(folder / "checkpoints" / f"network_{i}")["params"]["Dense_0"]["kernel"]).tobytes()
        for folder in (trained, tmp_path / "other")
        for i in range(2)
    ]
    assert len(set(kernels)) == 4


def test_an_interrupted_run_ends_with_the_same_bits(train, trained, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        assert run(*train, "--out", folder) == 130
    said(capsys, 130, "complete epochs are kept")
    assert not (folder / "results.json").exists()
    assert checkpoint.describe(folder / "checkpoints" / "train" / "latest")["epoch"] == 2
    assert run(*train, "--out", folder) == 0
    assert capsys.readouterr().err.startswith(f"training 2 mlp: epoch 3/{EPOCHS},")
    same_run(folder, trained, *KEPT)


def test_a_deleted_network_is_made_again_and_a_full_disk_is_reported(train, trained, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "checkpoints" / "network_1")
    no_training(monkeypatch)
    for name in ("network_1", "training.png"):
        shutil.rmtree(folder / "checkpoints" / "network_1", ignore_errors=True)
        with monkeypatch.context() as patch:
            full_disk(patch, name)
            assert run(*train, "--out", folder) == 1
        said(capsys, 1, "cannot write", name, "No space left on device", "kept")
    (folder / "results.json").unlink()
    (folder / "figures" / "training.png").unlink()
    assert run(*train, "--out", folder) == 0
    same_run(folder, trained, *KEPT)
    assert (folder / "figures" / "training.png").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(train, tmp_path, capsys):
    for _ in range(2):
        assert run(*train, "--learning-rate", 1e20, "--out", tmp_path / "run") == 1
        message = said(capsys, 1, "training 2 mlp", "number 0, 1 of 2 is not finite in epoch 1", "learning rate")
        assert "kept" not in message
    assert not (tmp_path / "run" / "results.json").exists()


def test_images_that_cannot_be_trained_on_are_refused(bars, tiny_data, tmp_path, capsys):
    arrays = dict(np.load(bars))
    np.savez(tmp_path / "floats.npz", **{**arrays, "train_images": tiny_data.train_images / 255})
    (tmp_path / "cut.npz").write_bytes(bars.read_bytes()[:-100])
    for name, names in (("floats", ["floats", "uint8", "float32"]), ("cut", ["cut.npz cannot be read"])):
        command = ("train", "--data", tmp_path / f"{name}.npz", *SMALL)
        refused(capsys, tmp_path / "run", *command, names=names)
    command = ("train", "--data", bars, "--model", "vgg16")
    refused(capsys, tmp_path / "run", *command, names=["vgg16", "(8, 8, 1)"])


def test_a_folder_of_another_config_is_refused_and_kept(train, trained, capsys, monkeypatch):
    no_training(monkeypatch)
    before = files_of(trained)
    assert run(*train, "--seed", 1, "--out", trained) == 2
    said(capsys, 2, "seed: 0 there, 1 now", "--out")
    assert files_of(trained) == before


@pytest.mark.slow
def test_a_set_of_tfds_that_is_not_there(tmp_path):
    data = ("--data", "mnist", "--data-dir", "sets")
    command = [sys.executable, "-m", "mcjax.cli", "train", *data, *map(str, SMALL), "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for words in ("'mnist' is not prepared under sets", "download_and_prepare()", ".npz"):
        assert words in done.stderr
    assert not (tmp_path / "run").exists()


# What takes longest is to import, which the children have done; each ends in the way that its case says.
DYING = """
import json, os, resource, signal, sys
sys.path.insert(0, sys.argv[1])
import jax
from mcjax import cli
from mcjax.runs import stage
from mcjax.runs.progress import Progress

update = Progress.update

def dying(self, epoch, said):
    update(self, epoch, said)
    if epoch == 2:
        signal.raise_signal(getattr(signal, how))

for folder, how, command in json.loads(sys.argv[2]):
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
for stream, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY), stream)
# A process that a shell has put into the background ignores Ctrl-C, and so do those that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
stage.SAVE_EVERY_S = 0.0
if how == "full disk":
    jax.config.update("jax_enable_compilation_cache", False)  # which would keep the half of what it writes
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # below the checkpoints' metadata
else:
    Progress.update = dying
sys.argv = ["mcjax", *command]
cli.entry()
"""
CODES = {"SIGKILL": -signal.SIGKILL, "SIGINT": 130, "SIGTERM": 143, "full disk": 1}


@pytest.mark.slow
def test_killed_processes_resume_to_the_same_bits(train, trained, ends, connected, tmp_path, capsys):
    connect = ("connect", *ends, *FIT)
    cases = [(train, "SIGKILL"), (train, "SIGINT"), (train, "SIGTERM"), (train, "full disk"), (connect, "SIGKILL")]
    folders = [tmp_path / str(i) for i in range(len(cases))]
    for folder in folders:
        folder.mkdir()
    told = [
        (str(folder), how, [*map(str, command), "--out", str(folder / "run")])
        for folder, (command, how) in zip(folders, cases, strict=True)
    ]
    script = [sys.executable, "-c", DYING, str(Path(mcjax.__file__).parents[1]), json.dumps(told)]
    done = subprocess.run(script, stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0
    assert [int(code) for code in done.stdout.split()] == [CODES[how] for _, how in cases]
    for folder, (command, how) in zip(folders, cases, strict=True):
        err = (folder / "stderr").read_text()
        assert "Traceback" not in err
        if how in ("SIGINT", "SIGTERM"):
            assert "mcjax: interrupted: complete epochs are kept" in err
        if how == "full disk":
            assert "mcjax: failed: cannot write" in err
            assert "File too large" in err
        assert not (folder / "run" / "results.json").exists()
        capsys.readouterr()
        assert run(*command, "--out", folder / "run") == 0
        assert ("epoch 1/" in capsys.readouterr().err) == (how == "full disk")
        if command is train:
            same_run(folder / "run", trained, "network_0", "network_1", "train/latest")
        else:
            same_run(folder / "run", connected("bezier"), "curve", "fit/latest")


def test_damaged_results_are_made_again_from_what_is_kept(train, trained, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    no_training(monkeypatch)
    for text in ("", '{"train_loss": ', '{"train_loss": {"values": "none"}}', "{}"):
        (folder / "results.json").write_text(text)
        assert run(*train, "--out", folder) == 2
        said(capsys, 2, folder / "results.json", "Delete it")
    (folder / "results.json").unlink()
    assert run(*train, "--out", folder) == 0
    same_run(folder, trained, *KEPT)
