"""Recording: a run that ends at any moment, by any cause, resumes to the same bytes."""

import builtins
import errno
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moments import Npz, at_every_line, contents, half_written, metrics_of, put

from mcjax import trees
from mcjax.errors import InputError, RunError
from mcjax.runs import checkpoint, folder, progress, recorder, stage
from mcjax.runs.folder import RunFolder
from mcjax.runs.recorder import Recorder, Recording
from mcjax.runtime.mesh import Placement

EPOCHS = 3
FACTORS = np.float32([[0.5], [3.0]])


def step(number, w):
    """One epoch of two fits: their new states, and their loss and accuracy."""
    w = (w * FACTORS).astype(np.float32)
    return w, {"loss": np.float32([1, 2]) / number, "accuracy": w[:, 0]}


def fit(folder, step=step, progress=False):
    """A run of EPOCHS steps: what it is at its end, or was found to be."""
    run = RunFolder(folder, {"epochs": EPOCHS})
    if run.results is None:
        start = {"w": np.ones((2, 3), np.float32), "steps": np.zeros(2, np.int32)}
        recording = Recording(Recorder("the fit", run, "fit", progress), start, Placement(None, 2), EPOCHS, 50)
        try:
            while recording.done < EPOCHS:
                w, values = step(recording.done + 1, np.asarray(recording.states["w"]))
                recording.add({"w": w, "steps": np.asarray(recording.states["steps"]) + 1}, values)
        finally:
            recording.close()
        assert recording.states["steps"].tolist() == [EPOCHS] * 2
        run.finish({"w": np.asarray(recording.states["w"]).tolist(), "loss": recording.history["loss"].tolist()})
    return run.results


@pytest.fixture
def quick(monkeypatch):
    Npz.take_its_place(monkeypatch)
    monkeypatch.setattr(stage, "SAVE_EVERY_S", 0.0)


@pytest.fixture
def whole(tmp_path, quick):
    """The contents of a run that nothing broke off."""
    fit(tmp_path / "whole")
    return contents(tmp_path / "whole")


def epoch_kept(folder):
    return checkpoint.describe(folder / "checkpoints" / "fit" / "latest").get("epoch", 0)


def test_an_unbroken_run_is_the_plain_loop(tmp_path, whole):
    w = np.ones((2, 3))
    for epoch in range(1, EPOCHS + 1):
        w = w * FACTORS
        line = metrics_of(tmp_path / "whole")[epoch - 1]
        assert (line["stage"], line["epoch"]) == ("fit", epoch)
        np.testing.assert_allclose([line["loss"], line["accuracy"]], [[1 / epoch, 2 / epoch], w[:, 0]], rtol=1e-6)
    results = json.loads(whole["results.json"])
    np.testing.assert_array_equal(results["w"], w)
    np.testing.assert_allclose(results["loss"], [[1, 1 / 2, 1 / 3], [2, 1, 2 / 3]], rtol=1e-6)
    kept = checkpoint.load(tmp_path / "whole" / "checkpoints" / "fit" / "latest")
    np.testing.assert_array_equal(kept["history"]["accuracy"], [[0.5, 0.25, 0.125], [3, 9, 27]])
    assert kept["history"]["loss"].dtype == np.float32


RUN = (recorder, stage, folder, checkpoint)
"""The modules that a run is kept by."""


def interrupted(folder, after):
    """Whether a run was interrupted before a line: the one after so many. It is a Ctrl-C that may come anywhere."""
    lines = itertools.count()

    def moment():
        if next(lines) == after:
            raise KeyboardInterrupt

    try:
        at_every_line(lambda: fit(folder), moment, *RUN)
    except KeyboardInterrupt:
        return True
    return False


# What is interrupted between opening a file and closing it leaves that to the garbage collector.
unclosed = pytest.mark.filterwarnings("ignore:.*unclosed file:", "ignore:Exception ignored in.*FileIO")


@unclosed
@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_interrupted_before_any_line_it_ends_with_the_same_bytes(tmp_path, whole, monkeypatch, save_every):
    monkeypatch.setattr(stage, "SAVE_EVERY_S", save_every)
    for after in itertools.count():
        folder = tmp_path / f"run{after}"
        if not interrupted(folder, after):
            break
        fit(folder)
        assert contents(folder) == whole, after
        shutil.rmtree(folder)
    assert after > 60


@unclosed
def test_however_often_it_is_interrupted(tmp_path, whole):
    rng, times = np.random.default_rng(0), 0
    for i in range(4):
        lines = 10
        while interrupted(tmp_path / f"run{i}", int(rng.integers(1, lines))):
            lines, times = lines + 20, times + 1
        assert contents(tmp_path / f"run{i}") == whole
    assert times > 12


@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_complete_epochs_are_kept(tmp_path, whole, monkeypatch, save_every):
    monkeypatch.setattr(stage, "SAVE_EVERY_S", save_every)
    for at in range(1, EPOCHS + 1):
        folder, epochs = tmp_path / f"run{at}", []

        def broken(number, w, at=at):
            if number == at:
                raise KeyboardInterrupt
            return step(number, w)

        def counting(number, w, epochs=epochs):
            epochs.append(number)
            return step(number, w)

        with pytest.raises(KeyboardInterrupt):
            fit(folder, broken)
        assert epoch_kept(folder) == at - 1
        assert len(metrics_of(folder) if at > 1 else []) == at - 1
        fit(folder, counting)
        assert epochs == list(range(at, EPOCHS + 1))
        assert contents(folder) == whole


def test_killed_before_any_line_it_ends_with_the_same_bytes(tmp_path, whole):
    # What a kill leaves is what is on the disk at that moment.
    moments = [{}]

    def inspect():
        if (tmp_path / "seen").exists() and (there := contents(tmp_path / "seen", hidden=True)) != moments[-1]:
            moments.append(there)

    at_every_line(lambda: fit(tmp_path / "seen"), inspect, *RUN, shutil)
    halves = [half for before, after in itertools.pairwise(moments) for half in half_written(before, after)]
    assert len(moments) > 20
    assert len(halves) >= 8
    for i, left in enumerate([*moments, *halves]):
        folder = tmp_path / f"run{i}"
        put(folder, left)
        fit(folder)
        assert contents(folder) == whole, left.keys()


def full_disk(monkeypatch, room):
    """A disk that takes so many files, folders and moves, and no more; the list of what it was asked for."""
    asked = []

    def limited(real, writes=lambda *_, **__: True):
        def act(*args, **kwargs):
            if writes(*args, **kwargs):
                asked.append(args[-1])
                if len(asked) > room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return act

    def writes(file, mode="r", *_, **__):
        return set(mode) & set("wax+")

    opens = limited(open, writes)
    monkeypatch.setattr(builtins, "open", opens)
    monkeypatch.setattr(io, "open", opens)
    monkeypatch.setattr(os, "replace", limited(os.replace))
    monkeypatch.setattr(os, "mkdir", limited(os.mkdir))
    return asked


@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_a_disk_that_is_full_at_any_moment_is_reported(tmp_path, whole, monkeypatch, save_every):
    monkeypatch.setattr(stage, "SAVE_EVERY_S", save_every)
    for room in itertools.count():
        folder = tmp_path / f"run{room}"
        with monkeypatch.context() as patch:
            full_disk(patch, room)
            try:
                fit(folder)
                break
            except RunError as error:
                message = str(error)
        for words in ("cannot write", str(folder), "No space left on device", "another folder", "kept"):
            assert words in message, room
        assert not (folder / "results.json").exists()
        fit(folder)
        assert contents(folder) == whole, room
    assert room > 12


def test_epochs_are_saved_once_a_second_and_at_the_end(tmp_path, quick, monkeypatch):
    saved, now = [], [0.0]
    save = stage.Stage.save

    def noted(self, epoch, *args):
        saved.append(epoch)
        save(self, epoch, *args)

    monkeypatch.setattr(stage, "SAVE_EVERY_S", 1.0)
    monkeypatch.setattr(stage, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(stage.Stage, "save", noted)
    recording = Recording(
        Recorder("the fit", RunFolder(tmp_path, {}), progress=False), {"w": np.ones(2)}, Placement(None, 2), 8, 1
    )
    for seconds in (0.4, 0.4, 0.4, 0.4, 0.4, 1.4, 0.1):
        now[0] += seconds
        recording.add(recording.states, {"loss": np.ones(2), "accuracy": np.ones(2)})
    assert saved == [3, 6]
    recording.close()
    assert saved == [3, 6, 7]
    recording.close()
    assert saved == [3, 6, 7]


def test_a_recorder_without_a_folder_keeps_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recording = Recording(Recorder("the fit"), {"w": np.ones(2)}, Placement(None, 2), 2, 50)
    for _ in range(2):
        recording.add({"w": np.ones(2)}, {"loss": np.float32([1, 2]), "accuracy": np.ones(2)})
    recording.close()
    assert recording.done == 2
    assert list(tmp_path.iterdir()) == []
    assert [line.split(", ")[:2] for line in capsys.readouterr().err.splitlines()] == [
        [f"the fit: epoch {epoch}/2", "loss 1.5000"] for epoch in (1, 2)
    ]


def test_a_fit_that_goes_on_tells_its_epochs_to_a_progress_that_it_is_a_part_of(tmp_path, quick, capsys, monkeypatch):
    monkeypatch.setattr(progress, "PRINT_EVERY_S", -1.0)

    def broken(number, w):
        if number == 2:
            raise KeyboardInterrupt
        return step(number, w)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, broken, progress.Progress("study", 2, unit="stage"))
    fit(tmp_path, progress=progress.Progress("study", 2, unit="stage"))
    assert capsys.readouterr().err.splitlines() == [
        f"study: the fit: epoch {epoch}/{EPOCHS}, loss {1.5 / epoch:.4f}" for epoch in (1, 2, 3)
    ]


@pytest.mark.parametrize("at", [1, 3])
def test_a_loss_that_is_not_finite_ends_the_fit_and_the_epoch_before_is_kept(tmp_path, whole, monkeypatch, at):
    monkeypatch.setattr(stage, "SAVE_EVERY_S", 1e9)

    def breaks(number, w):
        w, values = step(number, w)
        return w, {**values, "loss": np.float32([1, np.nan if number == at else 1])}

    for _ in range(2):
        with pytest.raises(RunError) as caught:
            fit(tmp_path / "run", breaks)
        for words in ("the fit", f"number 1 of 2 is not finite in epoch {at}", "learning rate"):
            assert words in str(caught.value)
        assert (f"Epoch {at - 1} is kept" in str(caught.value)) == (at > 1)
        assert epoch_kept(tmp_path / "run") == at - 1
    if at > 1:
        kept = checkpoint.load(tmp_path / "run" / "checkpoints" / "fit" / "latest")
        assert kept["history"]["loss"].shape == (2, at - 1)
        assert all(np.isfinite(leaf).all() for leaf in trees.flatten(kept).values())
    fit(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "fit" / "latest").exists()


def test_a_state_that_cannot_be_read_is_reported_and_kept(tmp_path, whole):
    def broken(number, w):
        if number == 3:
            raise KeyboardInterrupt
        return step(number, w)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", broken)
    state = tmp_path / "run" / "checkpoints" / "fit" / "latest" / "leaves.npz"
    good = state.read_bytes()
    state.write_bytes(good[:40])
    before = contents(tmp_path / "run", hidden=True)
    with pytest.raises(InputError, match=r"latest.* cannot be read: .*truncated.* delete .*latest"):
        fit(tmp_path / "run")
    assert contents(tmp_path / "run", hidden=True) == before
    state.write_bytes(good)
    fit(tmp_path / "run")
    assert contents(tmp_path / "run") == whole


def test_stages_of_one_folder_do_not_touch_each_other(tmp_path, quick):
    run = RunFolder(tmp_path, {})
    for name, epochs in (("one", 2), ("other", 1), ("one", 3)):
        recording = Recording(
            Recorder(name, run, name, False), {"w": np.zeros((2, 1), np.float32)}, Placement(None, 2), epochs, 1
        )
        while recording.done < epochs:
            w = np.asarray(recording.states["w"]) + 1
            recording.add({"w": w}, {"loss": w[:, 0], "accuracy": w[:, 0]})
        recording.close()
    expected = [("one", 1), ("one", 2), ("other", 1), ("one", 3)]
    assert [(line["stage"], line["epoch"]) for line in metrics_of(tmp_path)] == expected
    for name, epochs in (("one", 3), ("other", 1)):
        assert checkpoint.describe(tmp_path / "checkpoints" / name / "latest") == {"epoch": epochs}


def test_states_of_another_dtype_are_not_resumed(tmp_path, quick):
    run, metrics = RunFolder(tmp_path, {}), {"loss": np.zeros(2), "accuracy": np.zeros(2)}
    for dtype in (np.float32, jnp.bfloat16):
        states = {"w": np.zeros((2, 1), dtype)}
        if dtype == jnp.bfloat16:
            with pytest.raises(InputError, match="another iteration"):
                Recording(Recorder("one", run, "one", False), states, Placement(None, 2), 3, 1)
        else:
            recording = Recording(Recorder("one", run, "one", False), states, Placement(None, 2), 3, 1)
            recording.add(states, metrics)
            recording.close()


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
import test_recorder
from mcjax.runs import stage

def killed(number, w):
    if number == 3:
        signal.raise_signal(signal.SIGKILL)
    return test_recorder.step(number, w)

stage.SAVE_EVERY_S = 0.0
test_recorder.fit(sys.argv[1], killed)
"""


def test_a_killed_process_with_checkpoints_of_orbax(tmp_path):
    here = Path(__file__).parent
    paths = [str(here), str(here.parent / "helpers"), str(Path(checkpoint.__file__).parents[1])]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run"), *paths], timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert epoch_kept(tmp_path / "run") == 2
    assert not (tmp_path / "run" / "results.json").exists()
    assert fit(tmp_path / "run") == fit(tmp_path / "whole")
    for name in ("metrics.jsonl", "results.json", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_states_may_hold_typed_keys(tmp_path):
    """As those of optimisers that add noise do: they are saved and come back as they were."""
    states = {"w": np.arange(2.0, dtype=np.float32), "key": jax.random.split(jax.random.key(3), 2)}
    quiet = Recorder("fits", RunFolder(tmp_path, {}), progress=False)
    recording = Recording(quiet, states, Placement(None, 2), 2, 1)
    recording.add(states, {"loss": np.ones(2, np.float32)})
    recording.close()
    again = Recording(quiet, jax.tree.map(lambda leaf: leaf[::-1], states), Placement(None, 2), 2, 1)
    assert again.done == 1
    np.testing.assert_array_equal(again.states["w"], states["w"])
    assert (jax.random.key_data(again.states["key"]) == jax.random.key_data(states["key"])).all()
    assert jax.random.uniform(again.states["key"][0]) == jax.random.uniform(states["key"][0])


class Schedule(NamedTuple):
    rate: float
    factor: object


@dataclass(frozen=True)
class Steps:
    count: int


def test_a_state_of_other_inputs_is_refused_by_their_names(tmp_path, quick):
    ends = {"theta_1": {"w": np.zeros(2)}, "theta_2": {"w": np.ones(2)}, "data": np.arange(6), "P": None}

    def recording(settings=None, epochs=3, **changed):
        recorder = Recorder("fit", RunFolder(tmp_path, {}), "fit", False)
        recorder = recorder.of({"sizes": (16, np.float32(0.5)), **(settings or {})}, **{**ends, **changed})
        return Recording(recorder, {"w": np.ones((2, 1), np.float32)}, Placement(None, 2), epochs, 1)

    first = recording()
    for _ in range(2):
        first.add(first.states, {"loss": np.ones(2, np.float32)})
    first.close()
    assert recording().done == 2
    swapped = {"theta_1": ends["theta_2"], "theta_2": ends["theta_1"]}
    for changes, names in (
        ({"data": np.arange(1, 7)}, ["data: "]),
        (swapped, ["theta_1: ", "theta_2: "]),
        ({"P": np.arange(2)}, ["P: null there"]),
        ({"settings": {"sizes": (32, 0.5)}}, ["settings.sizes[0]: 16 there, 32 now"]),
        ({"settings": {"of": Schedule(0.1, np.sin)}}, ['settings.of: null there, [0.1, "ufunc"] now']),
        ({"settings": {"of": Steps(3)}}, ['settings.of: null there, {"count": 3} now']),
        ({"epochs": 1}, ["2 epochs already", "epochs=1"]),
    ):
        with pytest.raises(InputError) as caught:
            recording(**changes)
        for name in (*names, "latest"):
            assert name in str(caught.value)
    assert recording({"sizes": (np.int64(16), 0.5)}).done == 2
    assert Recorder("fit").of({}, data=object()).inputs is None
