"""Run folders, progress and tables."""

import errno
import io
import json
import os
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mcjax.runs import folder as report
from mcjax.errors import InputError, RunError
from mcjax.runs.folder import Progress, RunFolder, mean_and_std, plus_minus, table, write_atomically, writing


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("n", [2, 3, 17])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_mean_and_std_are_numpys(n, offset):
    values = np.random.default_rng(n).normal(offset, 3, n)
    summary = mean_and_std(values)
    assert summary["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert summary["std"] == pytest.approx(values.std(ddof=1), rel=1e-9)
    assert summary["values"] == values.tolist()
    assert json.loads(json.dumps(summary)) == summary


def test_mean_and_std_of_one_value():
    assert mean_and_std(np.float32([0.5])) == {"mean": 0.5, "std": 0.0, "values": [0.5]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (({"mean": 0.12345678, "std": 0.05},), "0.1235 ± 0.0500"),
        (({"mean": 0.98765, "std": 0.0123}, 2, 100), "98.77 ± 1.23"),
        (({"mean": -1.0, "std": 0.0}, 0), "-1 ± 0"),
    ],
)
def test_plus_minus(arguments, expected):
    assert plus_minus(*arguments) == expected


def test_table_lines_up_its_columns():
    assert table(["path", "loss"], [["linear", "0.5"], ["a", "10.25"]]).splitlines() == [
        "path     loss",
        "------  -----",
        "linear    0.5",
        "a       10.25",
    ]
    assert table(["head"], []).splitlines() == ["head", "----"]


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
def test_a_broken_config_is_said(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json cannot be read.*Delete it"):
        RunFolder(tmp_path, {"epochs": 3})


def test_broken_results_are_said(tmp_path):
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


def lines_of(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


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
    assert [(line["stage"], line["epoch"]) for line in lines_of(run)] == expected
    assert [line["loss"] for line in lines_of(run)] == [[1.0], [0.5], [1.0], [0.5]]
    run.log("fit", 3, {"loss": [0.25]})
    assert [(line["stage"], line["epoch"]) for line in lines_of(run)] == [*expected, ("fit", 3)]


def test_a_log_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, {})
    run.log("fit", 1, {"loss": 1.0})
    monkeypatch.setattr(report, "open", no_space, raising=False)
    with pytest.raises(RunError, match=r"metrics\.jsonl: No space left"):
        run.log("fit", 2, {"loss": 1.0})
    assert len(lines_of(run)) == 1


def test_progress_without_a_terminal_is_plain_lines(capsys):
    progress = Progress("training 2 mlp", 5, 100)
    for epoch in range(1, 6):
        progress.update(epoch, 1 / epoch)
    progress.close()
    out, err = capsys.readouterr()
    assert out == ""
    first, last = err.splitlines()
    assert first.startswith("training 2 mlp: epoch 1/5, loss 1.0000, ")
    assert "images/s" in first
    assert last.startswith("training 2 mlp: epoch 5/5, loss 0.2000, ")
    assert last.endswith(", 0 s left")


def test_progress_that_goes_on_says_its_first_epoch(capsys):
    progress = Progress("fit", 9, 100, start=6)
    for epoch in (7, 8, 9):
        progress.update(epoch, 0.5)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["fit: epoch 7/9", "fit: epoch 9/9"]


def test_progress_says_so_after_ten_seconds_of_silence(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    progress = Progress("fit", 1000, 50)
    for epoch in range(1, 7):
        now[0] += 4.0
        progress.update(epoch, 0.5)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["fit: epoch 1/1000", "fit: epoch 4/1000"]
    # 4 epochs in 16 s: 50 images in 4 s, and 996 epochs of 4 s to come.
    assert lines[1] == "fit: epoch 4/1000, loss 0.5000, 12 images/s, 1 h 06 min left"


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("training 2 mlp", 3, 100, start=1)
    for epoch in (2, 3):
        progress.update(epoch, 0.25)
    progress.close()
    shown = terminal.getvalue()
    assert "\r" in shown
    last = shown.rstrip().split("\r")[-1]
    assert last.startswith("training 2 mlp: 100%")
    assert "3/3" in last
    assert "loss 0.2500" in last
    assert "images/s" in last


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="holds files that are no run of mcjax"):
        RunFolder(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
