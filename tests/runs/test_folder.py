"""Run folders: whole or not at all, of one config alone."""

import errno
import json
import os

import pytest
from matplotlib.figure import Figure
from moments import metrics_of
from PIL import Image

from mcjax.errors import InputError, RunError
from mcjax.runs import folder as report
from mcjax.runs.folder import RunFolder, write_atomically, writing


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
    with pytest.raises(InputError, match=r"config\.json cannot be read.*Delete it"):
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
    with pytest.raises(InputError, match="holds files that are not from a run of mcjax"):
        RunFolder(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
