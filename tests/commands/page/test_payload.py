"""Payload of a page's script: measured paths and planes, checked part by part."""

import json

import pytest
from command_line import run, said
from pages import LOSSES, TS, report, study, write


def test_a_measured_path_gets_a_slider(tmp_path):
    along = {"ts": TS, "train_loss": LOSSES, "test_accuracy": [0.5, 0.6, 0.7, 0.8], "distance": [0.0, 1.0, 2.0, 3.0]}
    [path] = report(write(tmp_path / "r", {"along": along})).payload["paths"]
    assert path["t"] == TS
    assert path["lines"] == [{"name": "path", "train_loss": LOSSES, "test_accuracy": [0.5, 0.6, 0.7, 0.8]}]
    # Whatever was measured, in its order.
    along = {"ts": TS, "test_error": LOSSES, "train_loss": LOSSES, "distance": TS}
    [path] = report(write(tmp_path / "r", {"along": along})).payload["paths"]
    assert path["lines"] == [{"name": "path", "test_error": LOSSES, "train_loss": LOSSES}]
    pairs = {"ts": TS, "train_loss": [LOSSES, LOSSES]}
    assert report(write(tmp_path / "r", {"along": pairs})).payload["paths"] == []


def changed(*keys, to):
    def change(folder):
        results = {"page": study()}
        part = results
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = to
        (folder / "results.json").write_text(json.dumps(results))

    change.__name__ = ".".join(map(str, keys))
    return change


@pytest.mark.parametrize(
    ("harm", "patterns"),
    [
        (changed("page", to=3), ["page: got 3, expected an object"]),
        (
            changed("page", "tables", to=[{"head": ["a"], "rows": [[1, 2]]}]),
            ["page.tables[0].rows", "expected 1 cells"],
        ),
        (changed("page", "figures", to=["a.png"]), ["page.figures[0]: got a.png"]),
        (changed("page", "paths", 0, "t", to=[0, 0, 1, 2]), ["page.paths[0].t", "increasing"]),
        (changed("page", "paths", 0, "lines", 0, "test_loss", to=[1.0]), ["lines[0].test_loss", "expected 4 numbers"]),
        (
            changed("page", "paths", 0, "lines", 0, to={"name": "a", "loss": [1.0] * 4}),
            ["lines[0]: got", "train_loss"],
        ),
        (changed("page", "planes", 0, "y", to=[0.0, 1.0]), ["planes[0].values.test_loss", "expected 2 rows"]),
        (changed("page", "planes", 0, "curve", "x", to=None), ["planes[0].curve.x: got null, expected 4 numbers"]),
        (changed("page", "planes", 0, "points", to=[{"name": "a"}]), ["planes[0].points", "numbers x and y"]),
    ],
)
def test_a_part_that_cannot_be_drawn_is_named(tmp_path, capsys, harm, patterns):
    folder = write(tmp_path / "r", {"page": study()})
    harm(folder)
    assert run("report", folder) == 2
    said(capsys, 2, *patterns)
    assert not (folder / "report.html").exists()
