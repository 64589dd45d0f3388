"""The experiments of dropout stability, small: what they leave and say, that they go on, what they refuse."""

import json
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from experiments import dropout_measures, dropout_stability, wide_gaps
from experiments.dropout_costs import planned
from experiments.dropout_output import tables
from experiments.dropout_stability import Study, main
from experiments.dropout_tasks import CHANNELS, Sources, make
from mcjax import InputError

SMALL = {
    "tasks": ("mnist", "wide"),
    "sources": Sources(mnist="digits"),
    "width": 0.2,
    "train_images": 300,
    "test_images": 60,
    "epochs": 2,
    "curve_epochs": 1,
    "draws": 2,
    "measured": 60,
    "search_images": 30,
    "string_beads": 1,
}


@contextmanager
def fewer():
    """Two shares, two widths of narrow networks, two of wide ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dropout_measures, "DROPPED", (0.5, 0.2))
        patch.setattr(dropout_measures, "WIDTHS", (1, 3, 50))
        patch.setattr(wide_gaps, "UNITS", (2, 4))
        patch.setattr(wide_gaps, "PAIRS", 1)
        yield patch


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dropout") / "whole"
    with fewer():
        main(Study(**SMALL, out=str(folder)))
    return folder


@pytest.mark.slow
def test_what_a_study_leaves(whole, capsys):
    results = json.loads((whole / "results.json").read_text())
    found = results["tasks"]["mnist"]
    paths = found["paths"]
    assert {"line", "matched line", "Theorem 1", "Theorem 2", "Theorem 3", "matched string"} <= paths.keys()
    assert [paths[f"Theorem {i}"]["segments"] for i in (1, 2, 3)] == [28, 10, 13]
    # Epsilon was measured on the images that the path was.
    assert max(paths["Theorem 1"]["train_loss"]) <= paths["Theorem 1"]["bound"] + 1e-5
    for path in paths.values():
        np.testing.assert_allclose(path["train_loss"][0], paths["line"]["train_loss"][0], rtol=1e-4)
    for name in ("line", "Theorem 1", "Theorem 2", "Theorem 3", "Bezier curve", "string"):
        np.testing.assert_allclose(paths[name]["train_loss"][-1], paths["line"]["train_loss"][-1], rtol=1e-4)
    assert [each["width"] for each in found["narrow"]] == [1, 3]  # the network itself has 6
    levels = results["tasks"]["wide"]["levels"]
    assert levels[0]["gap"]["mean"] > levels[1]["gap"]["mean"] >= 0
    assert {figure["file"] for figure in results["page"]["figures"]} == {p.name for p in (whole / "figures").iterdir()}
    before = (whole / "results.json").read_bytes()
    (whole / "results.json").unlink()
    with fewer() as patch:
        patch.setattr(dropout_measures, "train_endpoints", None)  # what was made is not made again
        patch.setattr(dropout_measures, "evaluate_path", None)
        main(Study(**SMALL, out=str(whole)))
    assert (whole / "results.json").read_bytes() == before
    said = capsys.readouterr().out
    assert "the best dropout network (Figure 2, left)" in said
    assert "28" in said


@pytest.mark.slow
def test_every_stage_was_planned(whole):
    task = make(
        "mnist", "small", SMALL["sources"], {name: SMALL.get(name) for name in ("width", "train_images", "test_images")}
    )
    stages = {stage["name"] for stage in json.loads((whole / "times.json").read_text())["stages"]}
    planned_ = {*planned(task), *wide_gaps.costs()}
    assert {name for name in stages if "narrow_3" not in name} <= planned_


def test_tables_of_noise_stability():
    rows = np.linspace(0.1, 1, 12).reshape(3, 4)
    stability = {
        "layer_cushion": rows.tolist(), "contraction": (1 + rows[:2]).tolist(), "interlayer_cushion": rows[:2].tolist(),
        "smoothness": rows[:1].tolist(), "spread": [1, 1], "rho": 0.2, "epsilon": 3e4, "layers": 3,
    }  # fmt: skip
    path = {
        "train_loss": [0.1, 2.0, 0.2],
        "test_accuracy": [0.9, 0.1, 0.9],
        "threshold": 0.3,
        "beads": 2,
        "connected": False,
    }
    networks = {f"{split}_accuracy": [0.9, 0.8] for split in ("train", "test", "activated_train", "activated_test")}
    task = {"title": "VGG11", "parameters": 1000, "networks": networks, "stability": stability}
    found = tables({"cifar10": {**task, "paths": {"line": path, "string": path}}})
    accuracy, noise, paths = found
    assert accuracy["rows"][0][-1] == "99 / 92"
    assert accuracy["rows"][1] == ["one mask of dropout at a time", "85.0 ± 7.1", "85.0 ± 7.1", "95 / 91"]
    assert noise["rows"][0] == ["1", "0.223 (0.1)", "1.22 (1.35)", "0.223 (0.1)", "-"]
    assert noise["rows"][2] == ["3", "0.877 (0.755)", "-", "-", "-"]
    assert "at least 3 d = 9" in noise["text"]
    assert paths["rows"][0] == ["line", "2 beads, not connected", "2.000", "-", "10.0", "2.34 (VGG11)"]


def test_the_published_networks():
    task = make("mnist", "paper", Sources(mnist="digits"), {})
    assert set(task.rates.values()) == {0.2}
    assert task.narrow.spec.group_sizes(task.narrow.init(jax.random.key(0)))["conv_0"] == 6
    assert CHANNELS == (0.25, 0.25, 0.25, 0.5)


def refused(message, **changes):
    with pytest.raises(InputError, match=message):
        main(Study(**{**SMALL, **changes}))


def test_what_cannot_be_studied(tmp_path):
    refused("got tasks none, expected some of mnist", tasks=())
    refused("each once", tasks=("wide", "wide"))
    refused("got epochs=0, expected a positive", epochs=0)
    refused("got width=nan", width=float("nan"))
    refused("no data set at", sources=Sources(mnist=str(tmp_path / "no.npz")))
    refused("vgg11 cannot take images", tasks=("cifar10",), sources=Sources(cifar10="digits"), width=None)
    assert dropout_stability.TASKS == ("mnist", "cifar10", "wide")
