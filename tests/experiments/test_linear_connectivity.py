"""The experiments of linear connectivity, small: what they leave and say, that they go on, what they refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import connectivity_measures, connectivity_merging, linear_connectivity
from experiments.connectivity_costs import planned
from experiments.connectivity_measures import METHODS
from experiments.connectivity_output import tables
from experiments.connectivity_tasks import SIZES, Sources, make
from experiments.linear_connectivity import Study, main
from mcjax import InputError

ROOT = Path(linear_connectivity.__file__).parents[1]
SMALL = {
    "tasks": ("spawning", "conjecture", "merging"),
    "data": ("mnist",),
    "sources": Sources(mnist="digits"),
    "seeds": 2,
    "steps": 12,
    "spawn_steps": (0, 4, 12),
    "snapshot_steps": (12,),
    "width": 0.03,
    "widths": (0.03,),
    "train_images": 400,
    "test_images": 60,
    "matching_steps": 2,
    "measured": 60,
    "tested": 60,
    "points": 3,
}
# PAM compiles for as long as everything else.
COMPARED = METHODS[:4]
CHANGES = {name: value for name, value in SMALL.items() if name not in ("tasks", "data", "sources")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a study, of which a first attempt was stopped at its last part."""
    folder = tmp_path_factory.mktemp("connectivity") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connectivity_measures, "METHODS", COMPARED)
        patch.setattr(connectivity_merging, "ensemble_accuracy", stopping)
        with pytest.raises(KeyboardInterrupt):
            main(Study(**SMALL, out=str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connectivity_measures, "METHODS", COMPARED)
        for name in ("spawn", "snapshots", "match_straight_through", "evaluate_path"):
            patch.setattr(connectivity_measures, name, None)  # what was made is not made again
        main(Study(**SMALL, out=str(folder)))
    return folder


def stopping(*args, **more):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_what_a_study_leaves(whole, capsys):
    results = json.loads((whole / "results.json").read_text())
    found = results["found"]["data"]["mnist"]
    levels = found["spawning"]["levels"]
    assert [level["step"] for level in levels] == [0, 4, 12]
    for of in ("train_loss", "test_accuracy"):
        assert len(levels[0]["barriers"][of]["values"]) == 2
        np.testing.assert_allclose(levels[2]["barriers"][of]["values"], 0, atol=1e-6)
    assert levels[0]["barriers"]["train_loss"]["mean"] > 1e-3
    (width,), (step,) = found["conjecture"]["widths"], found["conjecture"]["steps"]
    assert width["methods"] == step["methods"]
    assert 0 <= width["unmoved"]["straight-through"] <= 2
    assert tuple(width["methods"]) == COMPARED
    rows, along = found["merging"]["rows"], found["merging"]["along"]
    assert len(rows) == 2 + 8 + 1 + 2
    for method, title in (("none", "plain average"), ("weights", "merged by weights")):
        # The middle of the line is the merged network.
        middle = np.array(along[method]["test_loss"])[:, 1]
        np.testing.assert_allclose(rows[title]["test_loss"]["values"], middle, rtol=1e-4)
    assert {figure["file"] for figure in results["page"]["figures"]} == {p.name for p in (whole / "figures").iterdir()}
    capsys.readouterr()
    main(Study(**SMALL, out=str(whole)))
    said = capsys.readouterr()
    assert "is finished: this is what it found" in said.err
    assert "merged by straight-through, repaired" in said.out


@pytest.mark.slow
def test_every_stage_was_planned(whole):
    task = make("mnist", "small", SMALL["sources"], CHANGES)
    stages = {stage["name"] for stage in json.loads((whole / "times.json").read_text())["stages"]}
    assert stages == {name for name in planned(task, SMALL["tasks"]) if "PAM" not in name}


def test_steps_are_epochs_of_their_common_divisor():
    task = make("mnist", "small", SMALL["sources"], CHANGES)
    config, epochs = task.training(0, 4, 6)
    assert (config.epochs, config.steps_per_epoch, epochs) == (6, 2, (0, 2, 3))
    config, _ = task.training(8, steps=24)
    assert (config.epochs, config.steps_per_epoch) == (3, 8)


def test_presets_can_be_made():
    for name, presets in SIZES.items():
        for preset in presets:
            task = make(name, preset, Sources(mnist="digits", cifar10="digits"), {"train_images": 300})
            assert task.size.train_images == 300
            assert task.size.spawn_steps[0] == 0
            steps = task.pam().permutation_epochs * task.pam().steps_per_epoch
            assert steps == task.straight_through().epochs * task.straight_through().steps_per_epoch
            assert task.size.snapshot_steps[-1] == task.size.steps


def test_tables_of_what_theory_says():
    links = {
        "sigmoid": {
            "identity_error": 1e-15, "constants": dict.fromkeys(
                ("polyak_lojasiewicz", "weak_quasi_convexity", "restricted_secant"), 0.25
            ),
            "descended": 8, "searches": 9, "converged": 3, "spurious": [],
        }
    }  # fmt: skip
    point = {"distance": 1e-16, "loss": 1.0, "kind": "saddle", "index": 2, "lowest": -0.5, "improving": True}
    points = [{"eigenvector": i, **point} for i in (2, 0)]
    eigenvector = {"eigenvalues": [2.0, 1.0], "searches": 5, "converged": 4, "points": points}
    directions = {"points": 7000, "lemma_13_violations": 0, "constant": 0.75, "below": 0, "above": 3}
    theory = {"generalised_linear": links, "eigenvector": eigenvector, "directions": directions}
    linear, top, lemmas = tables({"data": {}, "tractable": theory})
    assert linear["rows"] == [["sigmoid", "1.0e-15", "0.2500", "0.2500", "0.2500", "8 of 9", "3 of 9", "0"]]
    assert [row[0] for row in top["rows"]] == ["sqrt(lambda_2) v_2, + or -", "0"]
    assert lemmas["rows"] == [["7,000", "0", "0.7500", "0", "3"]]


def refused(message, **changes):
    with pytest.raises(InputError, match=message):
        main(Study(**{**SMALL, **changes}))


def test_what_cannot_be_studied(tmp_path):
    refused("got tasks none, expected some of spawning", tasks=())
    refused("got data mnist, mnist, expected some of mnist, cifar10, each once", data=("mnist", "mnist"))
    refused("got steps=0, expected a positive", steps=0)
    refused("got spawn_steps=-1, expected a positive", spawn_steps=(-1, 2))
    refused(r"got widths=\(0.5, 0.5\), expected at least one, increasing", widths=(0.5, 0.5))
    refused("with steps=8, expected them to be at most that: give --spawn-steps too", steps=8)
    refused("no data set at", sources=Sources(mnist=str(tmp_path / "no.npz")))
    refused("got batch_size=100, expected at most the 90 training images", train_images=90)


@pytest.mark.slow
def test_the_command_says_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "experiments.linear_connectivity", "--tasks", "tractable", "--seed", "-1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 2
    assert run.stderr == "linear_connectivity: error: got seed=-1, expected 0 to 4294967295.\n"
    assert not any(tmp_path.iterdir())
