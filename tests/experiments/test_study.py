"""Studies: parts that are made once, whenever a run ends; seconds that are added up; progress; sizes."""

import json
import shutil
from collections import Counter
from contextlib import suppress
from itertools import count, pairwise
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from moments import Npz, at_every_line, contents, half_written, put
from refusals import says

from experiments import study as studies
from experiments.study import Parts
from mcjax import TrainConfig, train_endpoints
from mcjax.errors import InputError
from mcjax.runs import checkpoint, progress
from mcjax.runs import folder as report
from mcjax.runs.folder import RunFolder

# By hand, of the parts below.
FOUND = {"sum": 6.0, "again": [0.0, 2.0, 4.0, 6.0], "infinite": None, "last": 12.0}
PARTS = ("numbers", "sum", "twice", "last")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    Npz.take_its_place(monkeypatch)


def study(folder, made=None):
    """Arrays, a number of them, arrays of both, a number of those; a result that was known before is not made."""
    made = Counter() if made is None else made
    run = RunFolder(folder, {"seed": 0})
    if run.results is None:
        own = Parts(run, PARTS)

        def arrays(name, make):
            return own.arrays(name, lambda: made.update([name]) or make())

        def numbers(name, make):
            return own.numbers(name, lambda: made.update([name]) or make())

        def first():
            return np.asarray(arrays("numbers", lambda: {"w": np.arange(4, dtype=np.float32)})["w"])

        total = numbers("sum", lambda: {"value": float(first().sum()), "infinite": None})
        twice = arrays("twice", lambda: [{"w": first() * total["value"] / 3}])[0]["w"]
        last = numbers("last", lambda: float(np.sum(twice)))
        run.finish({"sum": total["value"], "again": twice.tolist(), "infinite": total["infinite"], "last": last})
    return made


def left(folder):
    """All that a study leaves but its seconds."""
    return {name: content for name, content in contents(folder).items() if name != "times.json"}


@pytest.fixture
def whole(tmp_path):
    """The folder of a study that was not interrupted."""
    assert study(tmp_path / "whole") == dict.fromkeys(PARTS, 1)
    return left(tmp_path / "whole")


def test_files_of_an_uninterrupted_study(tmp_path, whole):
    assert json.loads(whole["results.json"]) == FOUND
    assert json.loads(whole["parts/last.json"]) == {"value": 12.0}
    stages = json.loads((tmp_path / "whole" / "times.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == list(PARTS)
    assert not study(tmp_path / "whole")


def complete(files):
    """The parts of which a folder has all that they need not be made again."""
    arrays = {name for name in ("numbers", "twice") if f"checkpoints/{name}/result/leaves.npz" in files}
    return arrays | {name for name in ("sum", "last") if f"parts/{name}.json" in files}


def test_killed_before_any_line_it_ends_with_the_same_bytes_and_makes_nothing_twice(tmp_path, whole):
    # What a kill leaves is what is on the disk at that moment.
    moments = [{}]

    def inspect():
        if (tmp_path / "seen").exists() and (there := contents(tmp_path / "seen", hidden=True)) != moments[-1]:
            moments.append(there)

    at_every_line(lambda: study(tmp_path / "seen"), inspect, studies, progress, report, checkpoint, shutil)
    halves = [half for before, after in pairwise(moments) for half in half_written(before, after)]
    assert len(moments) > 25
    assert len(halves) > 8
    for i, files in enumerate([*moments, *halves]):
        folder = tmp_path / f"run{i}"
        put(folder, files)
        made = study(folder)
        assert left(folder) == whole, files.keys()
        done = PARTS if "results.json" in files else complete(files)
        assert made == dict.fromkeys({*PARTS} - {*done}, 1), files.keys()


def test_interrupted_before_any_line_it_ends_with_the_same_bytes(tmp_path, whole):
    for after in count():
        folder, lines = tmp_path / f"run{after}", count()

        def moment(lines=lines, after=after):
            if next(lines) == after:
                raise KeyboardInterrupt

        try:
            at_every_line(lambda folder=folder: study(folder), moment, studies, progress)
            break
        except KeyboardInterrupt:
            study(folder)
            assert left(folder) == whole, after
            shutil.rmtree(folder)
    assert after > 60


def test_a_part_that_fails_is_not_kept(tmp_path):
    run = RunFolder(tmp_path, {})
    for of in (Parts(run, ()), Parts(run, ())):
        for part in (of.numbers, of.arrays):
            with pytest.raises(ZeroDivisionError):
                part("a", lambda: 1 / 0)
    assert of.numbers("a", lambda: 1) == of.numbers("a", lambda: 2) == 1


def test_trained_networks_are_those_of_the_task_and_trained_once(tmp_path, key, tiny_task, monkeypatch):
    config = TrainConfig(epochs=2, batch_size=40)
    expected = train_endpoints(jax.random.split(key, 3), tiny_task, config).theta
    for _ in range(2):
        found = Parts(RunFolder(tmp_path, {}), ()).trained("networks", key, 3, tiny_task, config)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        monkeypatch.setattr(studies, "train_endpoints", None)


def test_arrays_among_numbers_are_lists_of_the_same_bits(tmp_path):
    values = np.array([0.1, np.nan], np.float32)
    found = Parts(RunFolder(tmp_path, {}), ()).numbers("a", lambda: {"x": values, "mean": values[0], "n": np.int64(3)})
    np.testing.assert_array_equal(np.float32(found["x"]), values)
    assert (found["mean"], found["n"]) == (float(values[0]), 3)


@pytest.mark.parametrize(("harm", "named"), [("missing", ("numbers", "missing")), ("changed", ("numbers", "changed"))])
def test_a_missing_or_changed_checkpoint_is_reported(tmp_path, whole, harm, named):
    folder = tmp_path / "whole"
    (folder / "results.json").unlink()
    (folder / "parts" / "twice.json").unlink()  # it is made again, from what is harmed
    shutil.rmtree(folder / "checkpoints" / "numbers")
    shutil.move(folder / "checkpoints" / "twice", folder / "checkpoints" / ("numbers" if harm == "changed" else "gone"))
    with says(InputError, *named, str(folder)):
        study(folder)
    assert not (folder / "results.json").exists()


@pytest.fixture
def clock(monkeypatch):
    """The seconds that studies see, to be set."""
    now = [0.0]
    for module in (progress, studies):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_seconds_of_interrupted_runs_are_added_up(tmp_path, clock):
    parts = Parts(RunFolder(tmp_path, {}), ("a", "b"))
    with suppress(KeyboardInterrupt), parts.timed("a"):
        clock[0] += 1.5
        raise KeyboardInterrupt
    with parts.timed("a"):
        clock[0] += 2
        with parts.timed("b"):  # its seconds are its own
            clock[0] += 0.5
        clock[0] += 3
    found = json.loads((tmp_path / "times.json").read_text())["stages"]
    assert found == [{"name": "a", "seconds": 6.5}, {"name": "b", "seconds": 0.5}]


def test_progress_says_the_stage_the_time_left_and_the_epoch(tmp_path, clock, capsys):
    parts = Parts(RunFolder(tmp_path, {}), ("cell_a", "cell_b", "cell_c", "cell_d")).under("cell")
    parts.numbers("a", lambda: clock.__setitem__(0, 20.0))
    again = Parts(parts.folder, ("cell_a", "cell_b", "cell_c", "cell_d")).under("cell")
    again.numbers("a", lambda: 1 / 0)

    def fit():
        recorder = again.recorder("b")
        shown = recorder.line(3, items=100)
        clock[0] += 10
        shown.update(1, "loss 0.5000")  # too soon after the stage began
        clock[0] += 30
        shown.update(2, "loss 0.2500")
        clock[0] += 20
        shown.close()

    again.numbers("b", fit)
    again.numbers("c", lambda: None)
    again.progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "study: stage 1 of 4: cell_a, 0 s so far",
        "study: stage 2 of 4: cell_b, 0 s so far",
        "study: cell_b: epoch 2/3, loss 0.2500",
        "study: stage 3 of 4: cell_c, 1 min 00 s so far, 2 min 00 s left",
    ]
    assert again.recorder("b").stage == "cell_b"
