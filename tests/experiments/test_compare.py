"""Runs side by side: the table, the looks of lines, what is refused."""

import json

import pytest
from refusals import says

from experiments.compare import COLORS, Compare, looks, main
from mcjax import InputError

ALONG = {"ts": [0.0, 0.5, 1.0], "train_loss": [1.0, 2.0, 1.5], "test_accuracy": [0.5, 0.25, 0.75]}


@pytest.fixture
def run(tmp_path):
    """A function that makes the folder of a run with these metrics along a path."""

    def made(name, along):
        summary = {of: {"mean": sum(along.get(of, [])) / 3, "min": min(along.get(of, [0]))} for of in along}
        (tmp_path / name).mkdir()
        results = {"summary": summary, "barrier_train_loss": 0.75, "along": along}
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        return tmp_path / name

    return made


def test_one_table_and_one_figure_of_two_runs(tmp_path, run, capsys):
    main(Compare((run("a", ALONG), run("b", {**ALONG, "test_accuracy": [1.0] * 3})), tmp_path / "both"))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["a", "1.5000", "50.00", "25.00", "0.7500"], ["b", "1.5000", "100.00", "100.00", "0.7500"]]
    kept = json.loads((tmp_path / "both" / "results.json").read_text())
    assert kept["b"]["summary"]["test_accuracy"] == {"mean": 1.0, "min": 1.0}
    assert (tmp_path / "both" / "paths.png").stat().st_size > 0


def test_labels_with_the_same_text_before_a_comma_share_a_style():
    assert looks(["line, a", "curve, a", "line, b"]) == [(COLORS[0], "--"), (COLORS[0], "-"), (COLORS[1], "--")]


def test_runs_that_cannot_be_compared_are_refused(tmp_path, run):
    whole, out = run("a", ALONG), tmp_path / "both"
    regression = run("b", {name: values for name, values in ALONG.items() if name != "test_accuracy"})
    for runs, labels, named in (
        ((whole, regression), (), ("b", "test_accuracy")),
        ((whole, tmp_path / "nowhere"), (), ("nowhere",)),
        ((whole, run("c", {**ALONG, "ts": [0.0, 0.4, 1.0]})), (), ("--points",)),
        ((whole, whole), ("one",), ("1 labels for 2 runs",)),
    ):
        with says(InputError, *named):
            main(Compare(runs, out, labels))
    assert not out.exists()
