"""The experiments of string sampling, small: what they leave, that they go on, the fits, what they refuse."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import string_sampling
from experiments.string_figures import principal
from experiments.string_results import law
from experiments.string_sampling import Study, main
from experiments.string_tasks import SIZES, Sources, make, permuting
from mcjax import InputError, trees

ROOT = Path(string_sampling.__file__).parents[1]
SMALL = {"tasks": ("quadratic",), "thresholds": (0.06, 0.1), "pairs": 2, "epochs": 100}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a study that was never stopped."""
    folder = tmp_path_factory.mktemp("strings") / "whole"
    main(Study(**SMALL, out=str(folder)))
    return folder


@pytest.mark.slow
def test_what_a_study_leaves(whole, capsys):
    results = json.loads((whole / "results.json").read_text())
    (task,) = results["tasks"].values()
    assert [level["threshold"] for level in task["levels"]] == [0.06, 0.1]
    for level in task["levels"]:
        for variant in ("unmatched", "matched"):
            found = level[variant]
            assert found["connected"] + len(found["failed"]) == level["reached"] <= 2
            if found["connected"]:
                assert min(found["length"]["values"]) >= 1
                assert len(found["beads"]["values"]) == found["connected"]
    assert {figure["file"] for figure in results["page"]["figures"]} == {p.name for p in (whole / "figures").iterdir()}
    assert "thresholds.png" in {path.name for path in (whole / "figures").iterdir()}
    times = json.loads((whole / "times.json").read_text())
    assert {"quadratic networks", "quadratic unmatched"} <= {stage["name"] for stage in times["stages"]}
    capsys.readouterr()
    main(Study(**SMALL, out=str(whole)))  # a finished study is reported, not done again
    said = capsys.readouterr()
    assert "is finished: this is what it found" in said.err
    assert "threshold (train mean absolute error)" in said.out
    with pytest.raises(InputError, match="holds a run of another config"):
        main(Study(**{**SMALL, "alpha": 0.5}, out=str(whole)))


@pytest.mark.slow
def test_a_study_that_was_stopped_ends_with_the_same_results(whole, tmp_path, monkeypatch):
    real, left = string_sampling.sample_strings, [1]

    def stopping(*args, **more):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*args, **more)

    monkeypatch.setattr(string_sampling, "sample_strings", stopping)
    study = Study(**SMALL, out=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        main(study)
    left[0] = 2
    main(study)
    assert (tmp_path / "stopped" / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def levels(thresholds, lengths, beads):
    return [
        {
            "threshold": t,
            "all": {"length": None, "beads": None}
            if length is None
            else {"length": {"mean": length}, "beads": {"mean": n}},
        }
        for t, length, n in zip(thresholds, lengths, beads, strict=True)
    ]


def test_power_laws_are_of_what_is_below_the_onset():
    at = np.array([0.01, 0.02, 0.04, 0.08, 0.16, 0.32])
    lengths = [*(0.7 * at[:4] ** -0.3), 1.1, 1.0]
    segments = 2 * at**-0.5
    beads = [*(segments[:4] - 1), 0.4, 3.0]
    found = law(levels(at, lengths, beads), "all", "length")
    assert found == pytest.approx({"exponent": -0.3, "factor": 0.7, "low": 0.01, "high": 0.08})
    found = law(levels(at, lengths, beads), "all", "beads")
    assert found == pytest.approx({"exponent": -0.5, "factor": 2.0, "low": 0.01, "high": 0.08})
    # A threshold without a connected string is left out; two are too few.
    missing = law(levels(at, [*lengths[:1], None, *lengths[2:]], beads), "all", "length")
    assert missing == pytest.approx({"exponent": -0.3, "factor": 0.7, "low": 0.01, "high": 0.08})
    assert law(levels(at[:2], lengths[:2], beads[:2]), "all", "length") is None


def test_principal_axes_are_those_of_the_knots():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(9, 11)) * np.linspace(3, 0.1, 11)
    knots = {"a": points[:, :6].reshape(9, 2, 3), "b": points[:, 6:]}
    got = principal(knots)
    u, s, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(got), np.abs(u[:, :3] * s[:3]), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["quadratic", "cubic"])
def test_the_polynomials_are_the_papers(name):
    task = make(name, "small", Sources(), {}, None, {"alpha": 0.5, "zeta": None})
    x = np.asarray(task.data.train_images, np.float64)
    formula = {"quadratic": 0.5 * x**2 + 0.25 * x + 0.1, "cubic": 8 * x**3 - 10 * x**2 + 3 * x}[name]
    np.testing.assert_allclose(task.data.train_labels, formula, atol=1e-6)
    assert 0 <= x.min() < x.max() <= 1
    theta = task.model.init(jax.random.key(0))
    assert trees.parameter_count(theta) == 24
    assert 0 < np.asarray(task.model.apply(theta, task.data.train_images)).min() < 1
    assert task.config.alpha == 0.5
    assert task.thresholds == tuple(sorted(SIZES[name]["small"].thresholds))


def test_three_points_cannot_be_permuted_with_two_units():
    # What the docstring claims: no combination of the targets' rows is nonnegative, so all three units are needed.
    task = permuting(None, None, {})
    targets = np.asarray(task.data.train_labels, np.float64).T
    points = np.asarray(task.data.train_images, np.float64).T
    np.testing.assert_array_equal(np.sort(targets), np.sort(points))
    angles = np.linspace(0, 2 * np.pi, 3601)
    rows = np.stack([np.cos(angles), np.sin(angles)], 1) @ targets
    assert (rows.min(1) < -0.1).all()
    assert trees.parameter_count(task.model.init(jax.random.key(0))) == 12


def refused(message, **changes):
    with pytest.raises(InputError, match=message):
        main(Study(**{**SMALL, **changes}))


def test_what_cannot_be_studied(tmp_path):
    refused("got thresholds .* expected positive ones, and one task", tasks=("quadratic", "cubic"))
    refused("expected positive ones", thresholds=(0.1, -1.0))
    refused("got pairs=0", pairs=0)
    refused("got alpha=1.5", alpha=1.5)
    refused("expected positive ones", thresholds=(float("nan"),))
    refused("got width=9.0, which is of mnist, cifar10 and ptb: expected none", width=9.0)
    refused("got no tasks, expected some of quadratic", tasks=())
    refused("expected every one once", tasks=("quadratic", "quadratic"), thresholds=None)
    refused("quadratic has no validation split", on="validation")
    refused("the task ptb needs --ptb: a folder", tasks=("ptb",))
    refused("has no .txt file: expected one train text", tasks=("ptb",), sources=Sources(ptb=str(tmp_path)))
    missing = Sources(ptb=str(tmp_path / "nowhere"))
    refused("no folder at .*nowhere", tasks=("ptb",), sources=missing)
    refused("no data set at", tasks=("mnist",), sources=replace(missing, mnist=str(tmp_path / "no.npz")))


@pytest.mark.slow
def test_the_command_says_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "experiments.string_sampling", "--pairs", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 2
    assert run.stderr == "string_sampling: error: got pairs=0, expected at least 1.\n"
    assert not any(tmp_path.iterdir())
