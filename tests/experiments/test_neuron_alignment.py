"""The study, small: what it leaves, that it can be killed anywhere, and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import kept, neuron_alignment
from experiments.alignment_figures import draw_together
from experiments.neuron_alignment import Study, main
from mcjax import InputError
from mcjax.report import RunFolder
from mcjax.training.recorder import Recording

ROOT = Path(neuron_alignment.__file__).parents[1]


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_data):
    """A study of seconds: two pairs of an MLP on images of three bars."""
    folder = tmp_path_factory.mktemp("study")
    names = ("train_images", "train_labels", "test_images", "test_labels", "num_classes")
    np.savez(folder / "bars.npz", **{name: getattr(tiny_data, name) for name in names})
    small = {
        "epochs": 2,
        "curve_epochs": 2,
        "permutation_epochs": 1,
        "points": 5,
        "plane_points": 3,
        "pairs": 2,
        "batch_size": 40,
    }
    return Study(data=(str(folder / "bars.npz"),), models=("mlp",), widths=(6, 5), out=str(folder / "whole"), **small)


@pytest.fixture(scope="module")
def whole(study):
    """The folder of a study that was never stopped."""
    main(study)
    return Path(study.out)


def elsewhere(study, folder):
    return Study(**{**vars(study), "out": str(folder)})


@pytest.mark.slow
def test_results_hold_every_table_and_figure(whole, study, capsys):
    results = json.loads((whole / "results.json").read_text())
    (cell,) = results["cells"].values()
    assert set(cell["classes"]) == {"unaligned", "PAM unaligned", "PAM aligned", "aligned"}
    assert set(cell["ensembles"]) == {"ends", "unaligned", "aligned", "independent"}
    assert cell["parameters"] == 64 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3
    assert len(cell["networks"]["test_accuracy"]["values"]) == 4
    # A curve's ends are the networks themselves.
    path = results["page"]["paths"][0]
    for line in path["lines"]:
        np.testing.assert_allclose(
            line["test_loss"][0], np.mean(cell["networks"]["test_loss"]["values"][::2]), rtol=1e-4
        )
    for plane in results["page"]["planes"]:
        assert np.shape(plane["values"]["test_loss"]) == (3, 3)
        # Learned curves lie in their planes: their ends are the first two points.
        if "curve" in plane:
            ends = [[plane["curve"][axis][at] for axis in "xy"] for at in (0, -1)]
            np.testing.assert_allclose(ends, [[p["x"], p["y"]] for p in plane["points"][:2]], atol=1e-4)
    named = {figure["file"] for figure in results["page"]["figures"]}
    assert named == {file.name for file in (whole / "figures").iterdir()}
    assert len(named) == 12
    assert not [line for line in (whole / "metrics.jsonl").read_text().splitlines() if not json.loads(line)]
    capsys.readouterr()
    main(study)  # a finished study is reported, not done again
    said = capsys.readouterr().out
    for number in range(1, 6):
        assert f"Table {number}" in said


def test_architectures_on_one_data_set_are_drawn_side_by_side(tmp_path):
    def cell(name, dataset):
        match = {"P": {"conv": 0}, "before": {"conv": np.zeros(3)}, "after": {"conv": np.full(3, 0.5)}}
        return SimpleNamespace(match=match, model=SimpleNamespace(name=name), data=SimpleNamespace(name=dataset))

    cells = [cell("tinysix", "cifar10"), cell("tinyten", "cifar10"), cell("tinysix", "cifar100")]
    (written,) = draw_together(RunFolder(tmp_path / "run", {}), cells)
    assert written["file"] == "cifar10_signature.png"
    assert (tmp_path / "run" / "figures" / written["file"]).stat().st_size > 5_000


@pytest.fixture
def undrawn(whole, monkeypatch):
    """No figure is drawn again: drawing takes most of a small study's time."""
    figures = json.loads((whole / "results.json").read_text())["page"]["figures"]
    monkeypatch.setattr(neuron_alignment, "draw", lambda run, cell: figures)


class Killed(BaseException):
    """What no code catches."""


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("at", [1, 8, 19])
def test_interrupted_at_a_part_it_ends_with_the_same_bytes(at, whole, study, tmp_path, monkeypatch):
    calls = []
    write = kept.write_atomically

    def dies(path, data):
        if path.parent.name == "parts":
            calls.append(path.name)
            if len(calls) == at:
                raise Killed
        write(path, data)

    again = elsewhere(study, tmp_path / "run")
    monkeypatch.setattr(kept, "write_atomically", dies)
    with pytest.raises(Killed):
        main(again)
    assert not (tmp_path / "run" / "results.json").exists()
    monkeypatch.setattr(kept, "write_atomically", write)
    main(again)
    assert (tmp_path / "run" / "results.json").read_bytes() == (whole / "results.json").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("at", [2, 8])
def test_interrupted_in_a_fit_it_ends_with_the_same_bytes(at, whole, study, tmp_path, monkeypatch):
    calls = []
    add = Recording.add

    def dies(self, states, values):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        add(self, states, values)

    again = elsewhere(study, tmp_path / "run")
    monkeypatch.setattr(Recording, "add", dies)
    with pytest.raises(Killed):
        main(again)
    monkeypatch.setattr(Recording, "add", add)
    main(again)
    assert (tmp_path / "run" / "results.json").read_bytes() == (whole / "results.json").read_bytes()


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bytes(whole, study, tmp_path):
    options = ["--data", study.data[0], "--models", "mlp", "--widths", "6", "5", "--out", str(tmp_path / "run")]
    for name in ("epochs", "curve_epochs", "permutation_epochs", "points", "plane_points", "pairs", "batch_size"):
        options += [f"--{name.replace('_', '-')}", str(getattr(study, name))]
    command = [sys.executable, "-m", "experiments.neuron_alignment", *options]
    parts = tmp_path / "run" / "parts"
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ)
    began = time.monotonic()
    # Killed when so many parts are there, wherever it then is.
    while process.poll() is None and len(list(parts.glob("*.json"))) < 9 and time.monotonic() - began < 240:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not (tmp_path / "run" / "results.json").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "results.json").read_bytes() == (whole / "results.json").read_bytes()


@pytest.mark.slow
def test_a_folder_of_another_study_is_refused(whole, study):
    with pytest.raises(InputError, match=r"another config.*seed: 0 there, 1 now"):
        main(Study(**{**vars(study), "seed": 1}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gone", "message"), [("networks", "network.*missing"), ("unaligned", "unaligned.*missing"), (None, "has changed")]
)
def test_a_missing_or_changed_checkpoint_is_told(gone, message, whole, study, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    (copy / "results.json").unlink()
    if gone:
        shutil.rmtree(copy / "checkpoints" / f"mlp_bars_{gone}" / "result")
    else:
        result = copy / "checkpoints" / "mlp_bars_unaligned" / "result"
        shutil.rmtree(result)
        shutil.copytree(copy / "checkpoints" / "mlp_bars_aligned" / "result", result)
    with pytest.raises(InputError, match=message):
        main(elsewhere(study, copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": 0}, "pairs=0"),
        ({"points": 2}, "points=2"),
        ({"plane_points": 1}, "plane_points=1"),
        ({"plane_images": 51}, "plane_images=51, expected 1 to the 50"),
        ({"calibration_images": 0}, "calibration_images=0"),
        ({"train_images": 30}, r"batch_size=40, expected at most the 30"),
        ({"models": ("mlp", "mpl")}, "mpl"),
        ({"models": ("mlp", "mlp")}, "every one once"),
        ({"models": ("tinysix",)}, "widths.*without mlp"),
        ({"data": ("no/such.npz",)}, "such.npz"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_done(change, message, study, tmp_path):
    with pytest.raises(InputError, match=message):
        main(Study(**{**vars(study), "out": str(tmp_path / "run"), **change}))
    assert not (tmp_path / "run").exists()
