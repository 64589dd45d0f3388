"""`mcjax report`: reads a run of any kind, leaves it as it is, and says what is no run."""

import json
import math
import os
import shutil

import pytest
from command_line import full_disk, run, said
from pages import picture, report, study, write


def test_an_unfinished_run_shows_what_it_has(tmp_path):
    folder = write(tmp_path / "r")
    lines = [{"stage": "fit", "epoch": i, "loss": 1 / i, "each": [0.5] * 8 + [1.5]} for i in (1, 2, 4)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "fi')
    read = report(folder)
    assert "This run is not finished." in read.text
    assert ["fit", "4", "0.2500", "0.5000 to 1.5000"] in read.rows
    assert read.payload == {"paths": [], "planes": []}


def test_a_run_is_only_read_and_gives_the_same_bytes_again(tmp_path, monkeypatch):
    folder = write(tmp_path / "r", {"page": study(), "x": math.nan})
    picture(folder, "second.png")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    report(folder)
    first = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    monkeypatch.chdir(folder)
    assert run("report", ".", "--out", tmp_path / "elsewhere.html") == 0
    assert (tmp_path / "elsewhere.html").read_bytes() == first
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_real_run_has_its_numbers(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "r")
    read = report(tmp_path / "r")
    results = json.loads((trained / "results.json").read_text())
    for name, summary in results.items():
        [row] = [row for row in read.rows if row and row[0] == name.replace("_", " ")]
        assert row[1] == f"{summary['mean']:.4f} ± {summary['std']:.4f}"
    assert [image["alt"] for image in read.images] == ["training"]


def no_run(folder):
    shutil.rmtree(folder)


def damaged(folder):
    (folder / "results.json").write_text('{"a": 1')


def without_config(folder):
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("harm", "patterns"),
    [
        (no_run, ["no run at", "expected a run folder"]),
        (without_config, ["not a run of mcjax", "config.json"]),
        (damaged, ["results.json cannot be read", "Expecting ',' delimiter", "Delete it"]),
        (lambda folder: (folder / "results.json").write_text("[1]"), ["it holds a list, expected a JSON object"]),
        (lambda folder: (folder / "times.json").write_text('{"stages": [1]}'), ["times.json: got", "expected stages"]),
    ],
)
def test_folders_that_are_no_whole_run_are_reported(tmp_path, capsys, harm, patterns):
    folder = write(tmp_path / "r", {"page": study()})
    harm(folder)
    assert run("report", folder) == 2
    said(capsys, 2, *patterns)
    assert not (folder / "report.html").exists()


def test_places_that_cannot_be_written_are_reported(tmp_path, capsys, monkeypatch):
    folder = write(tmp_path / "r", {"a": 1})
    assert run("report", folder, "--out", tmp_path) == 2
    said(capsys, 2, "no file", "expected a file to write")
    assert run("report", folder, "--out", tmp_path / "none" / "a.html") == 2
    said(capsys, 2, "which is not a folder")

    os.mkfifo(tmp_path / "pipe")
    assert run("report", folder, "--out", tmp_path / "pipe") == 2
    said(capsys, 2, tmp_path / "pipe", "expected a file to write")
    full_disk(monkeypatch, "report.html")
    assert run("report", folder) == 1
    said(capsys, 1, "No space left on device", str(folder / "report.html"))
    assert not (folder / "report.html").exists()


def test_nothing_is_read_or_written_through_a_link_out_of_the_run(tmp_path, capsys):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "secret.json").write_text('{"a": 1}')
    for name in ("figures/a.png", "results.json", "times.json", "metrics.jsonl", "machines.jsonl"):
        folder = write(tmp_path / name.replace("/", "_"))
        (folder / "figures").mkdir()
        (folder / name).symlink_to(tmp_path / f"secret.{name[-3:] if name.endswith('png') else 'json'}")
        assert run("report", folder) == 2
        said(capsys, 2, folder / name, tmp_path / "secret")
        assert not (folder / "report.html").exists()
    folder = write(tmp_path / "r", {"a": 1})
    picture(folder, "inside.png")
    (folder / "figures" / "link.png").symlink_to("inside.png")
    for name in (".report.html.new", "report.html"):
        (folder / name).symlink_to(tmp_path / "secret.json")
    assert len(report(folder).images) == 2
    assert not (folder / "report.html").is_symlink()
    assert (tmp_path / "secret.json").read_text() == '{"a": 1}'
