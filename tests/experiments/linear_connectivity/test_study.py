"""The experiments of linear connectivity, small: what they leave and say, that they resume, what they refuse."""

import json

import numpy as np
import pytest
from studies import small_studies

from experiments.linear_connectivity.study import Config, _described, main
from experiments.linear_connectivity.tables import tables
from experiments.linear_connectivity.tasks import METHODS, SIZES, Size, make
from experiments.options import Sources, changes_of
from mcjax.cli import guarded

SMALL = {"tasks": ("spawning", "conjecture", "merging"), "data": ("mnist",), "sources": Sources(mnist="digits")}
SIZE = {
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
    "methods": METHODS[1:4],  # PAM compiles for as long as everything else
}


study_of = small_studies(Config, Size, SMALL, SIZE)


@pytest.fixture(scope="module")
def study(tmp_path_factory, stopped_once):
    """A study that was stopped at its last part but one, and went on."""
    study = study_of(tmp_path_factory.mktemp("connectivity") / "whole")
    stopped_once(main, study, "mnist_merging_ensemble")
    return study


def check_spawning(found, steps, seeds):
    levels = found["levels"]
    assert [level["step"] for level in levels] == steps
    for of in ("train_loss", "test_accuracy"):
        assert len(levels[0]["barriers"][of]["values"]) == seeds
        # Networks that part at the end do not part.
        np.testing.assert_allclose(levels[-1]["barriers"][of]["values"], 0, atol=1e-6)
    assert levels[0]["barriers"]["train_loss"]["mean"] > 1e-3


def test_spawning_alone(tmp_path, results_of):
    study = study_of(tmp_path / "run", tasks=("spawning",), seeds=1, spawn_steps=(0, 12))
    main(study)
    check_spawning(results_of(main, study)["found"]["data"]["mnist"]["spawning"], [0, 12], 1)


@pytest.mark.slow
def test_files_and_results_of_a_study(study, results_of):
    found = results_of(main, study)["found"]["data"]["mnist"]
    check_spawning(found["spawning"], [0, 4, 12], 2)
    (width,), (step,) = found["conjecture"]["widths"], found["conjecture"]["steps"]
    assert width["methods"] == step["methods"]
    assert 0 <= width["unmoved"]["straight-through"] <= 2
    assert tuple(width["methods"]) == METHODS[:4]
    rows, along = found["merging"]["rows"], found["merging"]["along"]
    assert len(rows) == 2 + 8 + 1 + 2
    for method, title in (("none", "plain average"), ("weights", "merged by weights")):
        # The middle of the line is the merged network.
        middle = np.array(along[method]["test_loss"])[:, 1]
        np.testing.assert_allclose(rows[title]["test_loss"]["values"], middle, rtol=1e-4)
    assert "merged by straight-through, repaired" in rows


def test_steps_are_epochs_of_their_common_divisor():
    problem = make("mnist", "small", SMALL["sources"], changes_of(Size, **SIZE))
    config, epochs = problem.training(0, 4, 6)
    assert (config.epochs, config.steps_per_epoch, epochs) == (6, 2, (0, 2, 3))
    config, _ = problem.training(8, steps=24)
    assert (config.epochs, config.steps_per_epoch) == (3, 8)


def test_presets_can_be_made():
    for name, presets in SIZES.items():
        for preset in presets:
            problem = make(name, preset, Sources(mnist="digits", cifar10="digits"), changes_of(Size, train_images=300))
            assert problem.size.train_images == 300
            assert problem.size.spawn_steps[0] == 0
            pam, straight_through = problem.pam(), problem.straight_through()
            steps = pam.permutation.epochs * pam.curve.steps_per_epoch
            assert steps == straight_through.epochs * straight_through.steps_per_epoch
            assert problem.size.snapshot_steps[-1] == problem.size.steps
            # What a run is known by is JSON, without anything that differs between processes.
            training = json.loads(json.dumps(_described(problem)))["training"]
            assert training["optimizer"]["learning_rate"] == {"mnist": 1e-3, "cifar10": 0.1}[name]


def test_tables_of_what_theory_says():
    names = ("polyak_lojasiewicz", "weak_quasi_convexity", "restricted_secant")
    rates = {name: [0.75, 0.5] for name in names} | {"typical": 0.125}
    links = {
        "sigmoid": {
            "identity_error": 1e-15, "constants": dict.fromkeys(names, 0.25),
            "rates": rates, "descended": 8, "searches": 9, "converged": 3, "spurious": [],
        }
    }  # fmt: skip
    point = {"distance": 1e-16, "loss": 1.0, "kind": "saddle", "index": 2, "lowest": -0.5, "improving": True}
    points = [{"eigenvector": i, **point} for i in (2, 0)]
    eigenvector = {"eigenvalues": [2.0, 1.0], "searches": 5, "converged": 4, "points": points}
    directions = {
        "points": 7000, "lemma_13_violations": 0, "constant": 0.75, "along": 0.25, "square": 0.5, "below": 0,
        "above": 1,
        "second_order": [{"tau": 0.1, "lemma_12": [0.07, 0.25], "tolerances": [0.03, 0.2], "least": [0.3, 0.4]}],
    }  # fmt: skip
    factors = {
        "known": "sensing", "rank": 2, "measurements": 80, "searches": 9, "converged": 8, "global": 3, "equal": 3,
        "others": 5, "spurious": 0, "improving": 4, "improving_at_random": 9,
    }  # fmt: skip
    symmetric = {
        "units": 3, "orders": 6, "of_orders": 0.0, "of_average": 0.5, "of_one_unit": 0.5, "of_equal": 0.25,
        "kind": "saddle", "index": 4,
    }  # fmt: skip
    theory = {
        "generalised_linear": links, "eigenvector": eigenvector, "directions": directions, "quartic": rates,
        "factorised": [factors], "symmetric": symmetric,
    }  # fmt: skip
    linear, descents, top, lemmas, second, low, exchanged = tables({"data": {}, "tractable": theory})
    assert linear["rows"] == [["sigmoid", "1.0e-15", "0.2500", "0.2500", "0.2500", "8 of 9", "3 of 9", "0"]]
    assert [row[0] for row in top["rows"]] == ["sqrt(lambda_2) v_2, + or -", "0"]
    assert lemmas["rows"] == [["7,000", "0", "0.75000000", "0.250000, 0.500000", "0", "1"]]
    assert descents["rows"] == [[loss, *["0.7500 / 0.5000"] * 3, "0.1250"] for loss in ("sigmoid", "||x||^4 / 4")]
    assert second["rows"] == [["0.1", "0.0700, 0.2500", "0.3000", "0.0300, 0.2000", "0.4000"]]
    assert low["rows"] == [["sensing", "2", "80", "8 of 9", "3", "3", "5", "0", "4 of 5", "9 of 9"]]
    assert exchanged["rows"] == [["3", "6", "0e+00", "0.5000", "0.5000", "0.2500", "saddle, index 4"]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tasks": ()}, ("tasks none", "spawning")),
        ({"data": ("mnist", "mnist")}, ("mnist, mnist", "cifar10")),
        ({"steps": 0}, ("steps=0",)),
        ({"spawn_steps": (-1, 2)}, ("spawn_steps=-1",)),
        ({"widths": (0.5, 0.5)}, ("widths=(0.5, 0.5)",)),
        ({"steps": 8}, ("spawn_steps=(0, 4, 12)", "steps=8", "--spawn-steps")),
        ({"sources": Sources(mnist="nowhere/no.npz")}, ("nowhere/no.npz",)),
        ({"train_images": 90}, ("batch_size=100", "90")),
        ({"methods": ("weights", "weights")}, ("methods weights, weights", "PAM")),
        ({"methods": ()}, ("methods none", "PAM")),
        ({"methods": ("straight-through",)}, ("methods=('straight-through',)", "activations")),
    ],
)
def test_bad_options_are_refused(change, named, tmp_path, refused):
    refused(main, study_of(tmp_path / "run", **change), *named)


def test_the_command_reports_bad_options(tmp_path, capsys):
    study = Config(tasks=("tractable",), seed=-1, out=str(tmp_path / "out"))
    assert guarded("linear_connectivity", lambda: main(study)) == 2
    said = capsys.readouterr().err
    assert said.startswith("linear_connectivity: error: ")
    assert "seed=-1" in said
    assert not any(tmp_path.iterdir())
