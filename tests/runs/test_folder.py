"""Run folders: whole or not at all, of one config alone."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from moments import metrics_of
from PIL import Image

from mcjax.errors import InputError, RunError
from mcjax.runs import folder as report
from mcjax.runs.folder import RunFolder, write_atomically, writing
from mcjax.runs.stage import Stage


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_folder_has_its_config_and_opens_again(tmp_path):
    config = {"epochs": 3, "widths": (6, 5), "data": {"name": "bars"}}
    run = RunFolder(tmp_path / "deep" / "run", config)
    assert json.loads((run.path / "config.json").read_text()) == {
        "epochs": 3,
        "widths": [6, 5],
        "data": {"name": "bars"},
    }
    before = (run.path / "config.json").stat().st_mtime_ns
    again = RunFolder(str(run.path), config)
    assert again.path == run.path
    assert (run.path / "config.json").stat().st_mtime_ns == before
    assert again.results is None


def test_a_run_folder_of_another_config_is_refused_and_left_alone(tmp_path):
    run = RunFolder(tmp_path, {"epochs": 3, "seed": 0})
    run.finish({"loss": 1.0})
    with pytest.raises(InputError, match=r"epochs: 3 there, 4 now.*--out"):
        RunFolder(tmp_path, {"epochs": 4, "seed": 0})
    with pytest.raises(InputError, match=r"more: null there, 1 now"):
        RunFolder(tmp_path, {"epochs": 3, "seed": 0, "more": 1})
    assert json.loads((tmp_path / "config.json").read_text()) == {"epochs": 3, "seed": 0}
    assert run.results == {"loss": 1.0}


@pytest.mark.parametrize("text", ["", '{"epochs": 3', "[1, 2]", "3", "\0"])
def test_a_broken_config_is_reported(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json cannot be read.*Put back"):
        RunFolder(tmp_path, {"epochs": 3})


def test_broken_results_are_reported(tmp_path):
    run = RunFolder(tmp_path, {})
    (tmp_path / "results.json").write_text('{"loss": ')
    with pytest.raises(InputError, match=r"results\.json cannot be read"):
        _ = run.results


def test_results_are_whole_or_not_there(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, {})
    with monkeypatch.context() as patch:
        patch.setattr(report.os, "replace", no_space)
        with pytest.raises(RunError, match=r"results\.json: No space left on device.*--out"):
            run.finish({"loss": 1.0})
    assert run.results is None
    run.finish({"loss": 1.0})
    assert run.results == {"loss": 1.0}
    with monkeypatch.context() as patch:
        patch.setattr(report.os, "replace", no_space)
        with pytest.raises(RunError):
            run.finish({"loss": 2.0})
    assert run.results == {"loss": 1.0}


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file: expected a folder"):
        RunFolder(tmp_path / "file", {})
    with pytest.raises(RunError, match=r"cannot write .*file.*--out"):
        RunFolder(tmp_path / "file" / "run", {})
    assert (tmp_path / "file").read_text() == "mine"


def test_writing_lets_other_errors_through(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("a")
    write_atomically(tmp_path / "file", b"bytes")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_figure_is_a_png_and_replaces_the_last_one_whole(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, {})
    figure = Figure(figsize=(2, 1), dpi=100)
    figure.subplots().plot([0, 1], [1, 0])
    path = run.figure("line", figure)
    assert path == tmp_path / "figures" / "line.png"
    with Image.open(path) as image:
        assert image.size == (200, 100)
    before = path.read_bytes()
    monkeypatch.setattr(figure, "savefig", no_space)
    with pytest.raises(RunError, match=r"line\.png: No space left"):
        run.figure("line", figure)
    assert path.read_bytes() == before


def test_metrics_are_logged_and_rewound_stage_by_stage(tmp_path):
    run = RunFolder(tmp_path, {})
    run.rewind("fit", 0)
    for stage, epochs in (("train", 2), ("fit", 4)):
        for epoch in range(1, epochs + 1):
            run.log(stage, epoch, {"loss": [1 / epoch]})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "fit", "epo')
    run.rewind("fit", 2)
    expected = [("train", 1), ("train", 2), ("fit", 1), ("fit", 2)]
    assert [(line["stage"], line["epoch"]) for line in metrics_of(run.path)] == expected
    assert [line["loss"] for line in metrics_of(run.path)] == [[1.0], [0.5], [1.0], [0.5]]
    run.log("fit", 3, {"loss": [0.25]})
    assert [(line["stage"], line["epoch"]) for line in metrics_of(run.path)] == [*expected, ("fit", 3)]


def test_a_log_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, {})
    run.log("fit", 1, {"loss": 1.0})
    monkeypatch.setattr(report, "open", no_space, raising=False)
    with pytest.raises(RunError, match=r"metrics\.jsonl: No space left"):
        run.log("fit", 2, {"loss": 1.0})
    assert len(metrics_of(run.path)) == 1


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"holds files, and no config\.json"):
        RunFolder(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_changed_config_is_named_key_by_key(tmp_path):
    long, nan = "/data/" + "a" * 90, float("nan")
    there = {"fit": {"sgd": {"rate": 0.1, "clip": None}, "widths": [6, 5]}, "data": f"{long}/one.npz", "nan": nan}
    RunFolder(tmp_path, there)
    now = {"fit": {"sgd": {"rate": 0.2, "clip": None}, "widths": [6, 4]}, "data": f"{long}/two.npz", "nan": nan}
    with pytest.raises(InputError) as caught:
        RunFolder(tmp_path, {**now, "more": [1]})
    for words in (
        "fit.sgd.rate: 0.1 there, 0.2 now",
        "fit.widths[1]: 5 there, 4 now",
        'one.npz" there, ',
        'two.npz" now',
        "more: null there, [1] now",
    ):
        assert words in str(caught.value)
    assert "clip" not in str(caught.value)
    assert "nan" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert list(report.differences({"widths": [6, 5]}, {"widths": [6]})) == ["widths: [6, 5] there, [6] now"]


LOCKED = """
import sys
from mcjax.runs.folder import RunFolder
run = RunFolder(sys.argv[1], {})
print("held", flush=True)
input()
run.finish({"loss": 1.0})
print("finished", flush=True)
input()
"""


def test_a_folder_is_one_processs_until_its_run_is_finished(tmp_path):
    command = [sys.executable, "-c", LOCKED, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as killed:
        assert killed.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"run is in use by another process.*--out"):
            RunFolder(tmp_path / "run", {})
        killed.kill()
    RunFolder(tmp_path / "run", {})  # and let go
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "finished\n"
        assert RunFolder(tmp_path / "run", {}).results == {"loss": 1.0}
        other.communicate("\n")
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_process_shares_its_folder_with_itself_and_goes_on_without_locks(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    runs = [RunFolder(tmp_path / "one", {}) for _ in range(2)]
    for run in runs:
        run.log("fit", 1, {"loss": 1.0})
    monkeypatch.setattr(report.fcntl, "flock", unsupported)
    RunFolder(tmp_path / "two", {}).finish({})


def test_a_finished_run_that_goes_on_holds_its_folder_again(tmp_path):
    run = RunFolder(tmp_path / "run", {})
    for finish in (True, False):
        run.log("fit", 1, {"loss": 1.0})
        with open(run.path / ".lock") as file, pytest.raises(BlockingIOError):
            report.fcntl.flock(file, report.fcntl.LOCK_EX | report.fcntl.LOCK_NB)
        if finish:
            run.finish({})
            assert not (run.path / ".lock").exists()


def test_nothing_is_written_through_a_link(tmp_path):
    mine, run = tmp_path / "mine", RunFolder(tmp_path / "run", {})
    mine.write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    for name in (".results.json.new", "results.json", ".config.json.new"):
        (run.path / name).symlink_to(mine)
    run.finish({"loss": 1.0})
    assert run.results == {"loss": 1.0}
    (run.path / "metrics.jsonl").symlink_to(mine)
    (run.path / "figures").symlink_to(tmp_path / "elsewhere")
    for write in (
        lambda: run.log("fit", 1, {}),
        lambda: run.rewind("fit", 1),
        lambda: run.write("figures/a.png", lambda file: file.write(b"png")),
    ):
        with pytest.raises(RunError, match="Remove the link"):
            write()
    assert mine.read_text() == "mine"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_folder_that_was_moved_or_emptied_is_told_and_left_alone(tmp_path):
    run = RunFolder(tmp_path / "run", {})
    run.log("fit", 1, {"loss": 1.0})
    (tmp_path / "run").rename(tmp_path / "moved")
    for _ in range(2):
        for write in (
            lambda: run.log("fit", 2, {}),
            lambda: run.finish({}),
            lambda: Stage(run, "fit").save(2, {"w": np.ones(2)}),
        ):
            with pytest.raises(RunError, match="run was moved or emptied"):
                write()
        assert not list(tmp_path.glob("run/*"))
        (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run").rmdir()
    (tmp_path / "moved").rename(tmp_path / "run")
    run.finish({"loss": 1.0})
    assert len(metrics_of(run.path)) == 1


def test_lines_that_were_edited_are_kept_and_a_partial_one_goes(tmp_path):
    run = RunFolder(tmp_path, {})
    lines = [b"3", b"null", b"\xff\xfe", b'{"stage": "fit"}', b'{"stage": "fit", "epoch": "two"}', b"not JSON"]
    last = b'{"stage": "fit", "epoch": 1, "loss": NaN}'
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines, b'{"stage": "fit", "epoch": 2}', last]))
    run.rewind("fit", 1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"\n".join([*lines, last, b""])
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([last, b'{"stage": "fit", "ep']))
    run.rewind("fit", 1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == last + b"\n"


def test_a_folder_in_the_place_of_a_file_is_reported(tmp_path):
    run = RunFolder(tmp_path, {})
    for name, use, error in (
        ("metrics.jsonl", lambda: run.log("fit", 1, {}), RunError),
        ("results.json", lambda: run.results, InputError),
        ("results.json", lambda: run.finish({}), RunError),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        with pytest.raises(error, match=rf"{name}.*(d|D)irectory"):
            use()


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "Free space"), (errno.EROFS, "Make it writable"), (errno.ENOENT, "moved"), (errno.ELOOP, "link")],
)
def test_a_remedy_is_that_of_the_error(tmp_path, number, words):
    with pytest.raises(RunError) as caught, writing(tmp_path):
        raise OSError(number, os.strerror(number))
    assert words in str(caught.value)
    assert ("Free space" in str(caught.value)) == (number == errno.ENOSPC)


def test_results_that_were_edited_are_told_and_can_be_made_again(tmp_path):
    run = RunFolder(tmp_path, {})
    for results in ({}, {"loss": 3}, {"loss": {"values": None}}):
        run.finish(results)
        with pytest.raises(InputError, match=r"results\.json does not hold results.*Delete it"):
            run.report(lambda found: print(found["loss"]["values"][0]))
    run.finish({"loss": {"values": [1.5]}})
    told = []
    run.report(lambda found: told.append(found["loss"]["values"][0]))
    assert told == [1.5]


def test_another_machine_is_noted_and_changes_no_config(tmp_path, monkeypatch):
    RunFolder(tmp_path, {"seed": 0}).log("fit", 1, {})
    here = json.loads((tmp_path / "machines.jsonl").read_text())
    RunFolder(tmp_path, {"seed": 0}).log("fit", 2, {})
    assert json.loads((tmp_path / "machines.jsonl").read_text()) == here
    monkeypatch.setattr(report, "describe_machine", lambda: {**here, "cores": 192})
    RunFolder(tmp_path, {"seed": 0}).finish({})
    noted = [json.loads(line) for line in (tmp_path / "machines.jsonl").read_text().splitlines()]
    assert noted == [here, {**here, "cores": 192}]


def test_a_path_that_is_not_utf_8_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match="r\udce9 is not UTF-8"):
        RunFolder(tmp_path / "r\udce9", {})
    assert list(tmp_path.iterdir()) == []
