"""`mcjax train`: what it leaves, how it goes on after an interruption, and what it refuses."""

import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import SMALL, dying, run, said
from matplotlib.figure import Figure
from PIL import Image

import mcjax
from mcjax import checkpoint, report, trees
from mcjax.report import Progress, RunFolder
from mcjax.training import loop, recorder

EPOCHS = 4
NETWORKS = ("network_0", "network_1", "train/latest")


@pytest.fixture(scope="session")
def train(bars):
    return ("train", "--data", bars, *SMALL)


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory, train):
    folder = tmp_path_factory.mktemp("train") / "unbroken"
    assert run(*train, "--out", folder) == 0
    return folder


def no_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("it trains")

    monkeypatch.setattr(loop, "_epoch_of_many", refuse)


def same_run(folder, unbroken):
    for name in ("results.json", "metrics.jsonl", "config.json"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name
    for name in NETWORKS:
        first, second = (trees.flatten(checkpoint.load(at / "checkpoints" / name)) for at in (folder, unbroken))
        assert first.keys() == second.keys()
        for leaf in first:
            np.testing.assert_array_equal(first[leaf], second[leaf])
        assert checkpoint.describe(folder / "checkpoints" / name) == checkpoint.describe(
            unbroken / "checkpoints" / name
        )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))


def test_it_leaves_networks_metrics_results_and_a_figure(unbroken, tiny_data):
    config = json.loads((unbroken / "config.json").read_text())
    assert config["config"]["epochs"] == EPOCHS
    assert config["model"]["widths"] == [6, 5]
    lines = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"], len(line["loss"])) for line in lines] == [
        ("train", epoch, 2) for epoch in range(1, EPOCHS + 1)
    ]
    assert all(after < before for before, after in zip(lines[0]["loss"], lines[-1]["loss"], strict=True))
    with Image.open(unbroken / "figures" / "training.png") as figure:
        assert figure.format == "PNG"
        assert figure.size[0] > 1000
        assert np.asarray(figure.convert("L")).std() > 5
    assert 10_000 < (unbroken / "figures" / "training.png").stat().st_size < 1_000_000
    left = {path.name for path in unbroken.rglob("*") if path.name.startswith(".")}
    assert not left


def test_its_numbers_are_those_of_the_networks_it_keeps(unbroken, tiny_data):
    results = json.loads((unbroken / "results.json").read_text())
    assert list(results) == ["train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    for i in range(2):
        params = jax.tree.map(np.float64, checkpoint.load(unbroken / "checkpoints" / f"network_{i}"))["params"]
        for split in ("train", "test"):
            x = getattr(tiny_data, f"{split}_images") / 255.0
            x = ((x - tiny_data.mean) / tiny_data.std).reshape(len(x), -1)
            for layer in range(3):
                x = x @ params[f"Dense_{layer}"]["kernel"] + params[f"Dense_{layer}"]["bias"]
                x = np.maximum(x, 0) if layer < 2 else x
            labels = getattr(tiny_data, f"{split}_labels")
            losses = np.log(np.exp(x).sum(1)) - x[np.arange(len(x)), labels]
            assert results[f"{split}_loss"]["values"][i] == pytest.approx(losses.mean(), rel=1e-5, abs=2e-6)
            assert results[f"{split}_accuracy"]["values"][i] == pytest.approx((x.argmax(1) == labels).mean())
    for column in results.values():
        assert column["mean"] == pytest.approx(np.mean(column["values"]))
        assert column["std"] == pytest.approx(np.std(column["values"], ddof=1))


def test_it_trains_what_the_library_trains(unbroken, bars):
    data = mcjax.data.load(str(bars))
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5), width=1.0, activation="relu")
    config = mcjax.TrainConfig(epochs=EPOCHS, batch_size=16, augmentation=mcjax.Augmentation.none())
    endpoints = mcjax.train_endpoints(jax.random.split(jax.random.key(0), 2), model, data, config)
    for i in range(2):
        kept = checkpoint.load(unbroken / "checkpoints" / f"network_{i}")
        jax.tree.map(np.testing.assert_array_equal, kept, trees.index(endpoints.theta, i))


def test_the_same_command_again_reports_and_redoes_nothing(train, unbroken, capsys, monkeypatch):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in unbroken.rglob("*") if path.is_file()}
    no_training(monkeypatch)
    assert run(*train, "--out", unbroken) == 0
    out, err = capsys.readouterr()
    assert err.endswith("is finished: this is what it found\n")
    loss = json.loads((unbroken / "results.json").read_text())["test_loss"]
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["network", "network", "mean", "Written"]
    for value in loss["values"]:
        assert f"{value:.4f}" in out
    assert f"{loss['mean']:.4f} ± {loss['std']:.4f}" in out
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in unbroken.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.slow
def test_progress_is_said_on_stderr_and_the_table_on_stdout(bars, tmp_path, capsys):
    assert run("train", "--data", bars, *SMALL, "--networks", 1, "--out", tmp_path / "one") == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0].startswith(f"training 1 mlp: epoch 1/{EPOCHS}, loss ")
    assert "epoch" not in out
    assert "±" not in out


def test_networks_differ_by_seed_and_repeat_by_seed(train, unbroken, tmp_path):
    assert run(*train, "--out", tmp_path / "again") == 0
    same_run(tmp_path / "again", unbroken)
    assert run(*train, "--seed", 1, "--out", tmp_path / "other") == 0
    kernels = [
        np.asarray(checkpoint.load(folder / "checkpoints" / f"network_{i}")["params"]["Dense_0"]["kernel"]).tobytes()
        for folder in (unbroken, tmp_path / "other")
        for i in range(2)
    ]
    assert len(set(kernels)) == 4


def interrupt_update(monkeypatch, epoch):
    def update(self, at, loss):
        if at == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", update)


def interrupt_log(monkeypatch, epoch):
    """Interrupts after half a line of metrics is written."""
    real = RunFolder.log

    def log(self, stage, at, metrics):
        if at == epoch:
            with open(self.path / "metrics.jsonl", "a") as file:
                file.write(f'{{"stage": "{stage}", "ep')
            raise KeyboardInterrupt
        real(self, stage, at, metrics)

    monkeypatch.setattr(RunFolder, "log", log)


def interrupt_save(monkeypatch, epoch):
    real = recorder.Resumable.save
    first = [True]

    def save(self, at, state, history):
        if at == epoch and first:
            first.clear()
            raise KeyboardInterrupt
        real(self, at, state, history)

    monkeypatch.setattr(recorder.Resumable, "save", save)


@pytest.mark.parametrize(
    ("interrupt", "epoch", "save_every"),
    [
        (interrupt_update, 1, 1e9),
        (interrupt_update, 3, 0.0),
        (interrupt_log, 1, 0.0),
        (interrupt_log, 3, 1e9),
        (interrupt_save, EPOCHS, 1e9),
        pytest.param(interrupt_save, 2, 0.0, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(
    train, unbroken, tmp_path, capsys, monkeypatch, interrupt, epoch, save_every
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "SAVE_EVERY_S", save_every)
        interrupt(patch, epoch)
        assert run(*train, "--out", folder) == 130
    said(capsys, 130, "complete epochs are kept")
    assert not (folder / "results.json").exists()
    done = epoch if interrupt is not interrupt_log else epoch - 1
    if done:
        assert checkpoint.describe(folder / "checkpoints" / "train" / "latest") == {"epoch": done}
    assert run(*train, "--out", folder) == 0
    err = capsys.readouterr().err
    if done < EPOCHS:
        assert err.startswith(f"training 2 mlp: epoch {done + 1}/{EPOCHS},")
    else:
        assert err == ""
    same_run(folder, unbroken)


def test_twice_interrupted_is_no_different(train, unbroken, tmp_path, monkeypatch):
    for epoch in (1, 2, 3):
        with monkeypatch.context() as patch:
            interrupt_update(patch, epoch)
            assert run(*train, "--out", tmp_path / "run") == 130
    assert run(*train, "--out", tmp_path / "run") == 0
    same_run(tmp_path / "run", unbroken)


def full_disk(monkeypatch, name):
    """A disk that refuses every file or checkpoint of this name."""
    real, real_figure = os.replace, Figure.savefig
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def replace(source, target):
        if Path(target).name == name:
            raise error
        real(source, target)

    def savefig(self, path, **options):
        if name == "training.png":
            raise error
        real_figure(self, path, **options)

    def log(self, stage, epoch, metrics):
        if epoch == 3:
            with report.writing(self.path / "metrics.jsonl"):
                raise error
        real_log(self, stage, epoch, metrics)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Figure, "savefig", savefig)
    if name == "metrics.jsonl":
        real_log = RunFolder.log
        monkeypatch.setattr(RunFolder, "log", log)


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("config.json", 0),
        ("metrics.jsonl", 2),
        ("latest", 0),
        ("network_1", EPOCHS),
        ("training.png", EPOCHS),
        ("results.json", EPOCHS),
    ],
)
def test_a_full_disk_is_said_and_what_is_complete_is_kept(
    train, unbroken, tmp_path, capsys, monkeypatch, name, trained
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        full_disk(patch, name)
        assert run(*train, "--out", folder) == 1
    said(capsys, 1, "cannot write", name, "No space left on device", "kept")
    assert not (folder / "results.json").exists()
    if trained:
        assert checkpoint.describe(folder / "checkpoints" / "train" / "latest") == {"epoch": trained}
    with monkeypatch.context() as patch:
        if trained == EPOCHS:
            no_training(patch)
        assert run(*train, "--out", folder) == 0
    same_run(folder, unbroken)
    assert (folder / "figures" / "training.png").exists()


def test_a_folder_below_a_file_is_said(train, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert run(*train, "--out", tmp_path / "file" / "run") == 1
    said(capsys, 1, "cannot write", "file/run", "--out")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_another_config_is_refused_and_kept(train, unbroken, capsys, monkeypatch):
    no_training(monkeypatch)
    before = (unbroken / "results.json").read_bytes()
    assert run(*train, "--seed", 1, "--out", unbroken) == 2
    said(capsys, 2, "seed: 0 there, 1 now", "Choose another folder with --out")
    assert (unbroken / "results.json").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_epoch_before(bars, tmp_path, capsys, monkeypatch):
    real = loop._epoch_of_many

    def breaks(step, data, contexts, states, keys, number, mesh):
        states, measured = real(step, data, contexts, states, keys, number, mesh)
        return states, measured._replace(loss=measured.loss.at[1].set(np.nan)) if number == 2 else measured

    command = ("train", "--data", bars, *SMALL, "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_epoch_of_many", breaks)
        assert run(*command) == 1
    said(capsys, 1, "training 2 mlp: the loss of number 1 of 2 is not finite in epoch 3. Epoch 2 is kept. Lower")
    kept = checkpoint.load(tmp_path / "run" / "checkpoints" / "train" / "latest")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))
    assert kept["history"]["loss"].shape == (2, 2)
    assert checkpoint.describe(tmp_path / "run" / "checkpoints" / "train" / "latest") == {"epoch": 2}
    assert not (tmp_path / "run" / "results.json").exists()
    assert run(*command) == 0


@pytest.mark.slow
def test_a_huge_learning_rate_fails_the_same_way_again(train, tmp_path, capsys):
    for _ in range(2):
        assert run(*train, "--learning-rate", 1e20, "--out", tmp_path / "run") == 1
        message = said(capsys, 1, "number 0, 1 of 2 is not finite in epoch 1. Lower the learning rate")
        assert "kept" not in message
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broken_state_is_said_and_not_overwritten(collected, train, unbroken, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_update(patch, 2)
        assert run(*train, "--out", folder) == 130
    capsys.readouterr()
    manifest = folder / "checkpoints" / "train" / "latest" / "state" / "manifest.ocdbt"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:40])
    assert run(*train, "--out", folder) == 2
    said(capsys, 2, "latest cannot be read", "delete", "the same command then does this stage anew")
    gc.collect()  # what reading left behind, before Python 3.11 does so in the middle of parsing
    manifest.write_bytes(whole)
    assert run(*train, "--out", folder) == 0
    same_run(folder, unbroken)


BAD = {
    "unknown model": (["--model", "mpl"], ["unknown model: got 'mpl'", "Did you mean 'mlp'?"]),
    "unknown activation": (["--activation", "rleu"], ["unknown activation: got 'rleu'", "Did you mean 'relu'?"]),
    "no units": (["--widths", 0], ["got widths=(0,)", "at least one unit"]),
    "width 0": (["--width", 0], ["got width=0.0", "positive"]),
    "width nan": (["--width", "nan"], ["got width=nan", "positive"]),
    "widths of another model": (["--model", "vgg16"], ["unknown option of vgg16: got 'widths'"]),
    "no epochs": (["--epochs", 0], ["got epochs=0, expected it to be a whole number of at least 1"]),
    "batch 0": (["--batch-size", 0], ["got batch_size=0, expected it to be a whole number of at least 1"]),
    "batch too large": (["--batch-size", 121], ["got batch_size=121, expected at most the 120 training images"]),
    "learning rate": (["--learning-rate", -0.1], ["got learning_rate=-0.1, expected it to be positive"]),
    "weight decay": (["--weight-decay", -1], ["got weight_decay=-1.0, expected it to be not negative"]),
    "no networks": (["--networks", 0], ["got networks=0, expected at least 1"]),
    "negative seed": (["--seed", -1], ["got seed=-1, expected 0 to 4294967295"]),
    "long seed": (["--seed", 10**20], [f"got seed={10**20}, expected 0 to 4294967295"]),
    "no images": (["--train-images", 0], ["has 120 train images: got 0, expected 1 to 120"]),
    "too many images": (["--test-images", 51], ["has 50 test images: got 51, expected 1 to 50"]),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_said_before_anything_is_made(train, tmp_path, capsys, monkeypatch, case):
    no_training(monkeypatch)
    changes, patterns = BAD[case]
    assert run(*train, *changes, "--out", tmp_path / "run") == 2
    said(capsys, 2, *patterns)
    assert not (tmp_path / "run").exists()


def arrays_with(tiny_data, **changes):
    names = ("train_images", "train_labels", "test_images", "test_labels", "num_classes")
    return {**{name: np.asarray(getattr(tiny_data, name)) for name in names}, **changes}


BAD_FILES = {
    "labels out of range": (
        lambda data: arrays_with(data, num_classes=2),
        "train_labels run from 0 to 2, expected 0 to 1",
    ),
    "negative labels": (
        lambda data: arrays_with(data, test_labels=data.test_labels - 1),
        "test_labels run from -1 to 1",
    ),
    "float images": (lambda data: arrays_with(data, train_images=data.train_images / 255), "float64, expected uint8"),
    "too few labels": (lambda data: arrays_with(data, train_labels=data.train_labels[1:]), "labels (119,), expected"),
    "two sizes": (lambda data: arrays_with(data, test_images=data.test_images[:, 1:]), "expected one size"),
    "a missing array": (lambda data: {"train_images": data.train_images}, "lacks test_images, test_labels, train_l"),
    "pickle": (lambda data: arrays_with(data, train_labels=np.array([{}] * 120, object)), "allow_pickle=False"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_wrong_images_are_said(tiny_data, tmp_path, capsys, case):
    make, pattern = BAD_FILES[case]
    np.savez(tmp_path / "bad.npz", **make(tiny_data))
    assert run("train", "--data", tmp_path / "bad.npz", *SMALL, "--out", tmp_path / "run") == 2
    said(capsys, 2, "bad", pattern)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_truncated_file_of_images_is_said(bars, tmp_path, capsys, share):
    whole = bars.read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: int(share * len(whole))])
    assert run("train", "--data", tmp_path / "cut.npz", *SMALL, "--out", tmp_path / "run") == 2
    said(capsys, 2, "cut.npz cannot be read as an .npz with the arrays")


def test_a_missing_file_of_images_is_said(tmp_path, capsys):
    assert run("train", "--data", tmp_path / "none.npz", *SMALL, "--out", tmp_path / "run") == 2
    said(capsys, 2, "no data set at", "none.npz")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "patterns"),
    [
        (["--data", "cifr10"], 2, ["unknown data set: got 'cifr10'", "Did you mean 'cifar10'?"]),
        (
            ["--data", "mnist", "--data-dir", "sets"],
            1,
            ["'mnist' is not prepared under sets", "download_and_prepare()", "or give the path of an .npz"],
        ),
    ],
)
def test_sets_of_tfds_that_are_not_there(tmp_path, arguments, code, patterns):
    command = [sys.executable, "-m", "mcjax.cli", "train", *arguments, *map(str, SMALL), "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    for pattern in patterns:
        assert pattern in done.stderr
    assert not (tmp_path / "run").exists()


# Every child dies in its own way.
KILLED = (
    """
import os, signal
from mcjax import checkpoint, report
from mcjax.training import loop, recorder

recorder.SAVE_EVERY_S = 0.0
update, replace, log = report.Progress.update, os.replace, report.RunFolder.log
moves = []

def kill():
    os.kill(os.getpid(), number)

def killing_update(self, epoch, loss):
    update(self, epoch, loss)
    if epoch == 2:
        kill()

def killing_log(self, stage, epoch, metrics):
    if epoch == 3:
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write('{"stage": "train", "ep')
        kill()
    log(self, stage, epoch, metrics)

def killing_replace(source, target):
    replace(source, target)
    if str(target).endswith("latest.old"):
        moves.append(target)
        if len(moves) == 2:
            kill()
""",
    """
where, number = case.split("-")[0], getattr(signal, case.split("-")[1])
if where == "update":
    report.Progress.update = killing_update
elif where == "log":
    report.RunFolder.log = killing_log
else:
    os.replace = killing_replace
""",
)
DEATHS = ("update-SIGKILL", "log-SIGKILL", "replace-SIGKILL", "update-SIGINT", "replace-SIGINT")


@pytest.mark.slow
def test_a_killed_process_ends_with_the_same_bits(train, unbroken, tmp_path, capsys):
    codes = dying(KILLED, tmp_path, DEATHS, train)
    for death, code in zip(DEATHS, codes, strict=True):
        folder = tmp_path / death
        err = (folder / "stderr").read_text()
        if death.endswith("SIGKILL"):
            assert code == -signal.SIGKILL, (death, err)
        else:
            assert code == 130, (death, err)
            assert "mcjax: interrupted: complete epochs are kept" in err
            assert "Traceback" not in err
        assert not (folder / "run" / "results.json").exists()
        assert run(*train, "--out", folder / "run") == 0
        err = capsys.readouterr().err
        assert f"epoch {EPOCHS}/{EPOCHS}" in err
        assert "epoch 1/" not in err
        same_run(folder / "run", unbroken)


LIMITED = """
import resource, sys
from mcjax import cli

resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
sys.argv = ["mcjax", *sys.argv[1:]]
cli.entry()
"""


@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_said_in_one_message(train, unbroken, tmp_path):
    command = [sys.executable, "-c", LIMITED, *map(str, train), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "mcjax: failed: cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert run(*train, "--out", tmp_path / "run") == 0
    same_run(tmp_path / "run", unbroken)


def test_images_that_a_model_cannot_take_are_said(bars, tmp_path, capsys):
    assert run("train", "--data", bars, "--model", "vgg16", "--out", tmp_path / "run") == 2
    said(capsys, 2, "vgg16 cannot take images of shape (8, 8, 1)", "larger images")
    assert not (tmp_path / "run").exists()


def test_a_network_that_was_deleted_is_made_again(train, unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "network_1")
    assert run(*train, "--out", tmp_path / "run") == 0
    same_run(tmp_path / "run", unbroken)
