"""`mcjax connect`: its numbers against numpy, its runs when broken off, and what it refuses."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import METRICS, dying, run, said
from PIL import Image

import mcjax
from mcjax import checkpoint, trees
from mcjax.paths import Curve
from mcjax.report import Progress, RunFolder
from mcjax.training import loop, recorder

EPOCHS = 3
FIT = ("--epochs", EPOCHS, "--batch-size", 16, "--points", 5)


@pytest.fixture(scope="session")
def permutation(trained):
    assert run("match", trained / "0", trained / "1", "--out", trained.parent / "matched") == 0
    return trained.parent / "matched" / "permutation.npz"


CURVES = {
    "line": ["--curve", "line"],
    "line unaligned": ["--curve", "line", "--no-align"],
    "bezier": [],
    "bezier unaligned": ["--no-align"],
    "cubic": ["--degree", 3],
    "chain": ["--curve", "chain"],
}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name == "cubic" else []) for name in CURVES]


@pytest.fixture(scope="session")
def connected(trained):
    """The run of each of CURVES, made when it is first asked for."""
    made = {}

    def connect(name):
        if name not in made:
            made[name] = trained.parent / name.replace(" ", "_")
            assert run("connect", trained / "0", trained / "1", *FIT, *CURVES[name], "--out", made[name]) == 0
        return made[name]

    return connect


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def forward(params, images, labels, data):
    x = ((images / 255.0 - data.mean) / data.std).reshape(len(images), -1)
    for i in range(3):
        x = x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
        x = np.maximum(x, 0) if i < 2 else x
    return (np.log(np.exp(x).sum(1)) - x[np.arange(len(x)), labels]).mean(), (x.argmax(1) == labels).mean()


def permuted(params, P):
    first, second = np.asarray(P["dense_0"]), np.asarray(P["dense_1"])
    a, b, c = (params[f"Dense_{i}"] for i in range(3))
    return {
        "Dense_0": {"kernel": a["kernel"][:, first], "bias": a["bias"][first]},
        "Dense_1": {"kernel": b["kernel"][first][:, second], "bias": b["bias"][second]},
        "Dense_2": {"kernel": c["kernel"][second], "bias": c["bias"]},
    }


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
    start, end = (jax.tree.map(np.float64, tree[f"theta_{i}"]["params"]) for i in (1, 2))
    end = permuted(end, tree["P"])
    identity = all((np.asarray(p) == np.arange(len(p))).all() for p in tree["P"].values())
    assert identity == name.endswith("unaligned")
    np.testing.assert_allclose(values["ts"], [0, 0.25, 0.5, 0.75, 1])
    length, before = 0.0, None
    for i, t in enumerate(values["ts"]):
        weights = WEIGHTS[name.split()[0]](t)
        here = jax.tree.map(lambda a, b, t=t: (1 - t) * a + t * b, start, end)
        if weights:
            bent = jax.tree.map(np.float64, tree["theta_c"]["params"])
            assert any(np.abs(leaf).max() > 0.01 for leaf in jax.tree.leaves(bent))
            points = [bent] if len(weights) == 1 else [trees.index(bent, j) for j in range(len(weights))]
            for weight, point in zip(weights, points, strict=True):
                here = jax.tree.map(lambda a, b, weight=weight: a + weight * b, here, point)
        for split in ("train", "test"):
            images, labels = getattr(tiny_data, f"{split}_images"), getattr(tiny_data, f"{split}_labels")
            loss, accuracy = forward(here, images, labels, tiny_data)
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


def test_the_path_is_measured_as_the_library_measures_it(connected, bars):
    tree = checkpoint.load(connected("bezier") / "checkpoints" / "curve")
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5), width=1.0, activation="relu")
    about = checkpoint.describe(connected("bezier") / "checkpoints" / "curve")
    assert about["curve"] == {"kind": "bezier", "control_points": 1}
    path = Curve(model.spec, **about["curve"]).bind(tree["theta_1"], tree["theta_2"], tree["theta_c"], tree["P"])
    metrics = mcjax.evaluate_path(model, path, mcjax.data.load(str(bars)), 5)
    for name, values in metrics._asdict().items():
        np.testing.assert_allclose(values, results_of(connected("bezier"))["along"][name], rtol=1e-6)


def test_the_curve_is_what_the_library_fits(connected, trained, permutation, bars):
    data = mcjax.data.load(str(bars))
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5), width=1.0, activation="relu")
    theta_1, theta_2 = (checkpoint.load(trained / "checkpoints" / f"network_{i}") for i in range(2))
    config = mcjax.FitConfig(epochs=EPOCHS, batch_size=16, augmentation=mcjax.Augmentation.none())
    P = mcjax.load_permutation(permutation)
    fit = mcjax.fit_curve(jax.random.key(0), model, mcjax.bezier(model.spec), theta_1, theta_2, data, P, config)
    kept = checkpoint.load(connected("bezier") / "checkpoints" / "curve")
    jax.tree.map(np.testing.assert_array_equal, kept["theta_c"], fit.theta_c)
    lines = [json.loads(line) for line in (connected("bezier") / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"][0] for line in lines] == pytest.approx(fit.history["loss"].tolist())


def test_a_given_permutation_is_used_instead_of_matching(connected, trained, permutation, tmp_path):
    command = ("connect", trained / "0", trained / "1", *FIT, "--permutation", permutation, "--out", tmp_path / "c")
    assert run(*command) == 0
    assert results_of(tmp_path / "c") == results_of(connected("bezier"))


def test_fitting_lowers_the_line(connected):
    for how in ("", " unaligned"):
        line, curve = (results_of(connected(f"{kind}{how}"))["summary"]["train_loss"] for kind in ("line", "bezier"))
        assert curve["mean"] < line["mean"]


def test_the_line_is_not_fitted(connected):
    assert not (connected("line") / "metrics.jsonl").exists()
    assert "theta_c" not in checkpoint.load(connected("line") / "checkpoints" / "curve")
    assert not (connected("line") / "figures" / "training.png").exists()


def test_it_leaves_figures_and_metrics(connected):
    for name in ("path", "training"):
        with Image.open(connected("bezier") / "figures" / f"{name}.png") as figure:
            assert figure.format == "PNG"
            assert figure.size[0] > 1000
            assert np.asarray(figure.convert("L")).std() > 5
    lines = [json.loads(line) for line in (connected("bezier") / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in lines] == [("fit", epoch) for epoch in range(1, EPOCHS + 1)]


def no_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("it trains")

    monkeypatch.setattr(loop, "_epoch_of_many", refuse)


def test_the_same_command_again_reports_and_redoes_nothing(connected, trained, capsys, monkeypatch):
    folder = connected("bezier")
    capsys.readouterr()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    no_training(monkeypatch)
    assert run("connect", trained / "0", trained / "1", *FIT, "--out", folder) == 0
    out, err = capsys.readouterr()
    assert err.endswith("is finished: this is what it found\n")
    summary = results_of(folder)["summary"]
    for line, metric in zip(out.splitlines()[2:6], METRICS, strict=True):
        columns = [f"{summary[metric][name]:.4f}" for name in ("start", "end", "min", "max", "mean", "integral")]
        assert line.split() == [*metric.split("_"), *columns, f"{results_of(folder)[f'barrier_{metric}']:.4f}"]
    assert f"Length {results_of(folder)['length']:.3f}." in out
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    assert after == before


def same_run(folder, unbroken):
    for name in ("results.json", "metrics.jsonl", "config.json"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name
    for name in ("curve", "fit/latest"):
        first, second = (trees.flatten(checkpoint.load(at / "checkpoints" / name)) for at in (folder, unbroken))
        assert first.keys() == second.keys()
        for leaf in first:
            np.testing.assert_array_equal(first[leaf], second[leaf])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize(
    ("where", "epoch", "save_every"), [("update", 1, 1e9), ("update", 3, 0.0), ("log", 1, 0.0), ("log", 2, 1e9)]
)
def test_an_interrupted_run_ends_with_the_same_bits(
    connected, trained, tmp_path, capsys, monkeypatch, where, epoch, save_every
):
    def update(self, at, loss):
        if at == epoch:
            raise KeyboardInterrupt

    real = RunFolder.log

    def log(self, stage, at, metrics):
        if at == epoch:
            raise KeyboardInterrupt
        real(self, stage, at, metrics)

    command = ("connect", trained / "0", trained / "1", *FIT, "--no-align", "--out", tmp_path / "c")
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "SAVE_EVERY_S", save_every)
        patch.setattr(*((Progress, "update", update) if where == "update" else (RunFolder, "log", log)))
        assert run(*command) == 130
    said(capsys, 130, "complete epochs are kept")
    assert not (tmp_path / "c" / "results.json").exists()
    assert run(*command) == 0
    done = epoch if where == "update" else epoch - 1
    err = capsys.readouterr().err
    assert [line.split(",")[0] for line in err.splitlines() if "epoch" in line] == [
        f"fitting a bezier: epoch {epoch}/{EPOCHS}" for epoch in sorted({done + 1, EPOCHS}) if done < EPOCHS
    ]
    same_run(tmp_path / "c", connected("bezier unaligned"))


@pytest.mark.parametrize("name", ["latest", "curve", "path.png", "results.json"])
def test_a_full_disk_is_said_and_what_is_complete_is_kept(connected, trained, tmp_path, capsys, monkeypatch, name):
    real = os.replace

    def replace(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    command = ("connect", trained / "0", trained / "1", *FIT, "--no-align", "--out", tmp_path / "c")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        assert run(*command) == 1
    said(capsys, 1, "cannot write", name, "No space left on device", "kept")
    with monkeypatch.context() as patch:
        if name != "latest":
            no_training(patch)
        assert run(*command) == 0
    same_run(tmp_path / "c", connected("bezier unaligned"))


def write_permutation(path, **changes):
    arrays = {"dense_0": np.arange(6, dtype=np.int32), "dense_1": np.arange(5, dtype=np.int32), **changes}
    np.savez(path, **{group: p for group, p in arrays.items() if p is not None})


def trap(path):
    array = np.empty(1, object)
    array[0] = {}
    np.savez(path, dense_0=array)


def cut(path):
    write_permutation(path)
    path.write_bytes(path.read_bytes()[:100])


BAD_PERMUTATIONS = {
    "repeated": (
        lambda path: write_permutation(path, dense_0=np.int32([0, 1, 2, 2, 4, 5])),
        ["dense_0: not a permutation of 0..5; repeated [2]"],
    ),
    "out of range": (
        lambda path: write_permutation(path, dense_1=np.int32([0, 1, 2, 3, 9])),
        ["dense_1: not a permutation of 0..4"],
    ),
    "another length": (
        lambda path: write_permutation(path, dense_0=np.arange(7, dtype=np.int32)),
        ["dense_0: got shape (7,), expected (6,)"],
    ),
    "float": (
        lambda path: write_permutation(path, dense_0=np.arange(6, dtype=np.float32)),
        ["'dense_0' is float32 of shape (6,). Expected int32 (n,)"],
    ),
    "another spec": (
        lambda path: write_permutation(path, dense_1=None, conv_0=np.arange(5)),
        ["another spec", "['conv_0', 'dense_0']", "['dense_0', 'dense_1']"],
    ),
    "text": (lambda path: path.write_text("not an npz"), ["no permutation at", "Expected an .npz"]),
    "missing": (lambda path: None, ["no permutation at", "No such file"]),
    "truncated": (cut, ["no permutation at", "Expected an .npz"]),
    "pickle": (trap, ["no permutation at", "allow_pickle=False"]),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("case", BAD_PERMUTATIONS)
def test_a_wrong_permutation_is_said(trained, tmp_path, capsys, monkeypatch, case):
    no_training(monkeypatch)
    make, patterns = BAD_PERMUTATIONS[case]
    make(tmp_path / "P.npz")
    ends = (trained / "0", trained / "1")
    assert run("connect", *ends, *FIT, "--permutation", tmp_path / "P.npz", "--out", tmp_path / "c") == 2
    said(capsys, 2, *patterns)
    assert not (tmp_path / "c").exists()


BAD = {
    "missing": (["0", "9"], [], ["no network at", "/9"]),
    "several networks": (["0", ""], [], ["holds 2 networks: name one of", "/0,", "/1."]),
    "one point": (["0", "1"], ["--points", 1], ["got points=1, expected at least 2"]),
    "no epochs": (["0", "1"], ["--epochs", 0], ["got epochs=0, expected it to be a whole number of at least 1"]),
    "no epochs of a line": (["0", "1"], ["--curve", "line", "--epochs", 0], ["got epochs=0"]),
    "learning rate": (["0", "1"], ["--learning-rate", -1], ["got learning_rate=-1.0, expected it to be positive"]),
    "batch": (["0", "1"], ["--batch-size", 121], ["got batch_size=121, expected at most the 120 training images"]),
    "points a step": (["0", "1"], ["--points-per-step", 0], ["got points_per_step=0, expected at least 1"]),
    "degree": (["0", "1"], ["--degree", 0], ["got degree=0, expected at least 1"]),
    "bends": (["0", "1"], ["--curve", "chain", "--bends", -1], ["got bends=-1, expected at least 0"]),
    "seed": (["0", "1"], ["--seed", -1], ["got seed=-1, expected 0"]),
    "calibration": (["0", "1"], ["--calibration-images", 121], ["got calibration_images=121, expected 1 to 120"]),
    "evaluation": (["0", "1"], ["--eval-batch-size", 0], ["got eval_batch_size=0, expected at least 1"]),
    "more classes": (["0", "1"], ["--data", "digits"], ["digits has 10 classes, mlp tells 3 apart"]),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_said_before_anything_is_made(trained, tmp_path, capsys, monkeypatch, case):
    no_training(monkeypatch)
    ends, options, patterns = BAD[case]
    assert run("connect", *(trained / end for end in ends), *FIT, *options, "--out", tmp_path / "c") == 2
    said(capsys, 2, *patterns)
    assert not (tmp_path / "c").exists()


def test_endpoints_of_different_architectures_are_refused(trained, bars, tmp_path, capsys):
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 4))
    about = {"name": "mlp", "num_classes": 3, "input_shape": [8, 8, 1], "widths": [6, 4]}
    data = {"data": str(bars)}
    checkpoint.save(tmp_path / "other", model.init(jax.random.key(0)), {"model": about, "data": data})
    assert run("connect", trained / "0", tmp_path / "other", *FIT, "--out", tmp_path / "c") == 2
    said(capsys, 2, "different architectures", "[6, 5]", "[6, 4]", "Expected two networks of one")
    assert not (tmp_path / "c").exists()


def test_a_folder_of_another_config_is_refused_and_kept(connected, trained, capsys):
    before = (connected("bezier") / "results.json").read_bytes()
    assert run("connect", trained / "1", trained / "0", *FIT, "--out", connected("bezier")) == 2
    said(capsys, 2, "holds a run of another config", "theta_1", "theta_2", "--out")
    assert (connected("bezier") / "results.json").read_bytes() == before


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_said(trained, tmp_path, capsys):
    ends = (trained / "0", trained / "1", "--no-align")
    assert run("connect", *ends, *FIT, "--learning-rate", 1e20, "--out", tmp_path / "c") == 1
    said(capsys, 1, "fitting a bezier", "is not finite in epoch", "Lower the learning rate")
    assert not (tmp_path / "c" / "results.json").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_truncated_endpoint_is_said(collected, trained, tmp_path, capsys):
    shutil.copytree(trained / "checkpoints" / "network_1", tmp_path / "cut")
    for path in (tmp_path / "cut" / "state" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:10])
    assert run("connect", trained / "0", tmp_path / "cut", *FIT, "--out", tmp_path / "c") == 2
    said(capsys, 2, "cut cannot be read: it is truncated")


# Every child dies of another signal.
KILLED = (
    """
import os, signal
from mcjax import report
from mcjax.training import loop, recorder

recorder.SAVE_EVERY_S = 0.0
update = report.Progress.update

def killing(self, epoch, loss):
    update(self, epoch, loss)
    if epoch == 2:
        os.kill(os.getpid(), getattr(signal, case))
""",
    "report.Progress.update = killing",
)


@pytest.mark.slow
def test_a_killed_process_ends_with_the_same_bits(connected, trained, tmp_path, capsys):
    connect, codes = ("connect", trained / "0", trained / "1", *FIT), {"SIGKILL": -signal.SIGKILL, "SIGINT": 130}
    assert dying(KILLED, tmp_path, codes, connect) == list(codes.values())
    expected = connected("bezier")
    for how in codes:
        assert "Traceback" not in (tmp_path / how / "stderr").read_text()
        capsys.readouterr()
        assert run(*connect, "--out", tmp_path / how / "run") == 0
        assert capsys.readouterr().err.startswith(f"fitting a bezier: epoch 3/{EPOCHS}")
        same_run(tmp_path / how / "run", expected)


@pytest.mark.parametrize(
    ("options", "said_"), [(("--bends", 2), "--bends"), (("--curve", "line", "--degree", 3), "--degree")]
)
def test_options_of_another_curve_are_refused(trained, tmp_path, capsys, options, said_):
    assert run("connect", trained / "0", trained / "1", *FIT, *options, "--out", tmp_path / "c") == 2
    said(capsys, 2, f"{said_} is for --curve")
