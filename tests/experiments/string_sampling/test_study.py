"""The experiments of string sampling, small: what they leave, that they resume, the fits, what they refuse."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from variables import spaced

from experiments.options import Sources, changes_of
from experiments.string_sampling import measures
from experiments.string_sampling.figures import principal
from experiments.string_sampling.measures import gather
from experiments.string_sampling.study import Config, main
from experiments.string_sampling.tables import tables
from experiments.string_sampling.tasks import SIZES, Data, Size, StringOptions, make
from mcjax import InputError, trees
from mcjax.cli import guarded
from mcjax.strings import Segment

HERE = Path(__file__).parent
SMALL = {"tasks": ("quadratic",), "thresholds": (0.06, 0.1), "pairs": 2, "epochs": 100}


def study_of(out, **options):
    """The options of a study, by their names on the command line."""
    size, string, data = (
        {name: options.pop(name) for name in kind.__dataclass_fields__ if name in options}
        for kind in (Size, StringOptions, Data)
    )
    parts = {"size": changes_of(Size, **size), "string": StringOptions(**string), "data": Data(**data)}
    return Config(**options, **parts, out=str(out))


@pytest.mark.slow
def test_files_and_results_of_a_study(tmp_path, results_of, stages):
    study = study_of(tmp_path / "whole", **SMALL)
    main(study)
    results = results_of(main, study)
    (task,) = results["tasks"].values()
    assert [level["threshold"] for level in task["levels"]] == [0.06, 0.1]
    for level in task["levels"]:
        for variant in ("unmatched", "matched"):
            found = level[variant]
            assert found["connected"] + len(found["failed"]) == level["reached"] <= 2
            if found["connected"]:
                lengths, relaxed = found["length"]["values"], found["relaxed"]["values"]
                assert all(1 <= after <= before for before, after in zip(lengths, relaxed, strict=True))
                assert found["resolution"] > 0
                assert len(found["beads"]["values"]) == found["connected"]
    assert "thresholds.png" in {figure["file"] for figure in results["page"]["figures"]}
    parts = ("networks", "unmatched", "matched", "unmatched_relaxed", "matched_relaxed")
    assert stages(study.out) == {*(f"quadratic_{part}" for part in parts), "figures"}
    with pytest.raises(InputError, match=r"another config.*alpha"):
        main(study_of(study.out, **SMALL, alpha=0.5))


def test_networks_below_any_threshold_are_joined_by_straight_lines_also_if_stopped(tmp_path, results_of, monkeypatch):
    study = study_of(tmp_path / "whole", tasks=("permutation",), thresholds=(1e3,), pairs=2)
    main(study)
    (level,) = results_of(main, study)["tasks"]["permutation"]["levels"]
    assert (level["threshold"], level["pairs"], level["reached"]) == (1e3, 2, 2)
    for variant in ("unmatched", "matched"):
        found = level[variant]
        assert (found["connected"], found["beads"]["values"]) == (2, [0, 0])
        np.testing.assert_allclose(found["length"]["values"], 1, rtol=1e-6)
    stopped, real = replace(study, out=str(tmp_path / "stopped")), measures.sample_strings
    calls = []

    def stops(*args, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(measures, "sample_strings", stops)
    with pytest.raises(KeyboardInterrupt):
        main(stopped)
    main(stopped)
    one, other = (Path(each.out, "results.json").read_bytes() for each in (study, stopped))
    assert one == other


def test_strings_go_to_the_levels_of_pairs_that_got_there():
    def string(length, connected=True):
        values = {"normalized_length": length, "beads": 1, "depth": 1, "steps": 10, "evaluations": 20}
        place = {"resolution": np.array([0.1, 0.2 * length]), "reason": "depth", "worst": Segment(1, 0.5, 7.0)}
        return SimpleNamespace(connected=connected, **values, **place)

    model, config = SimpleNamespace(name=""), SimpleNamespace(tolerance=0.1)
    about = {"title": "", "criterion": "", "paper": "Words", "model": model, "config": config}
    problem = SimpleNamespace(thresholds=(0.1, 0.2, 0.3), pairs=2, **about)
    found = [string(1.0), string(2.0), string(3.0, connected=False)]
    strings = {name: found for name in ("unmatched", "matched")}
    relaxed = {name: [1.0, 1.5, None] for name in strings}
    found = gather(problem, strings, relaxed, [False, True, False, False, True, True])
    assert [level["reached"] for level in found["levels"]] == [1, 0, 2]
    for what, expected in (("length", [[1.0], None, [2.0]]), ("relaxed", [[1.0], None, [1.5]])):
        values = [level["unmatched"][what] for level in found["levels"]]
        assert [each and each["values"] for each in values] == expected
    assert [level["matched"]["resolution"] for level in found["levels"]] == [0.2, None, 0.4]
    given_up = {"reason": "depth", "length": 3.0, "beads": 1, "number": 1, "t": 0.5, "height": 7.0}
    assert found["levels"][2]["matched"]["failed"] == [given_up]
    (table,) = tables({"a task": found})
    assert table["rows"][1] == ["0.2", "0 of 2", *["0 of 0", "-", "-", "-", "-", "-"] * 2]
    assert table["rows"][2][2:7] == ["1 of 2", "2.000 ± 0.000", "1.500 ± 0.000", "1.0 ± 0.0", "3.00, 1.0 beads"]
    assert "Words" in table["text"]
    assert "1.1 times" in table["text"]


def test_power_laws_have_a_table():
    law = {"exponent": -0.5, "error": 0.01, "low": 0.01, "high": 0.1, "strings": 20, "censored": 0}
    both = {"connected": law, "censored": {**law, "exponent": -0.75, "strings": 24, "censored": 4}}
    none = {"connected": None, "censored": None}
    task = {"title": "", "of": "", "paper": "", "tolerance": 0.1, "levels": []}
    *_, table = tables({"a task": {**task, "laws": {"unmatched": {"length": none, "beads": both}}}})
    (row,) = table["rows"]
    assert row == ["a task, unmatched", "segments", "0.01 to 0.1", "-0.500 ± 0.010", "20", "-0.750 ± 0.010", "24, 4"]


def test_principal_axes_are_those_of_the_knots():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(9, 11)) * np.linspace(3, 0.1, 11)
    knots = {"a": points[:, :6].reshape(9, 2, 3), "b": points[:, 6:]}
    got = principal(knots)
    u, s, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(got), np.abs(u[:, :3] * s[:3]), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["quadratic", "cubic"])
def test_the_polynomials_are_the_papers(name):
    problem = make(name, "small", Data(), changes_of(Size), StringOptions())
    x = np.asarray(problem.data.train_images, np.float64)
    formula = {"quadratic": 0.5 * x**2 + 0.25 * x + 0.1, "cubic": 8 * x**3 - 10 * x**2 + 3 * x}[name]
    np.testing.assert_allclose(problem.data.train_labels, formula, atol=1e-6)
    assert 0 <= x.min() < x.max() <= 1
    theta = problem.model.init(jax.random.key(0))
    assert trees.parameter_count(theta) == 24
    outputs = np.asarray(problem.model.apply(theta, problem.data.train_images))
    assert 0 < outputs.min() < 1
    assert problem.thresholds == tuple(sorted(SIZES[name]["small"].thresholds))
    # The threshold bounds the mean absolute error, and is called so.
    error = np.abs(outputs.astype(np.float64) - formula).mean()
    np.testing.assert_allclose(problem.config.criterion(problem.task, theta), error, rtol=1e-5)
    assert problem.criterion == "train mean absolute error"


def test_options_of_strings_reach_their_part_of_the_config():
    own = make("quadratic", "small", Data(), changes_of(Size), StringOptions()).config
    options = StringOptions(split="test", metric="loss", certify="slopes", alpha=0.5, zeta=0.1, epochs=7, beads=3)
    changed = make("quadratic", "small", Data(), changes_of(Size), options).config
    assert (changed.criterion.split, changed.criterion.metric, changed.training.epochs) == ("test", "loss", 7)
    assert changed.lipschitz == "slopes"
    assert (changed.alpha, changed.zeta, changed.beads) == (0.5, 0.1, 3)
    assert replace(changed.criterion, split="train", metric="error") == own.criterion
    assert replace(changed.training, epochs=own.training.epochs) == own.training
    same = {name: getattr(own, name) for name in ("alpha", "zeta", "beads", "criterion", "training", "lipschitz")}
    assert replace(changed, **same) == own


@pytest.mark.parametrize(("name", "learning_rates"), [("mnist", (1e-3, 1e-3)), ("ptb", (1e-2, 2e-3))])
def test_larger_tasks(name, learning_rates, tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"ptb.{split}.txt").write_text("a b c d e\n" * 400)
    place = Data(Sources(mnist="digits"), ptb=str(tmp_path))
    changes = changes_of(Size, width=0.1, train_images=20, images=5, vocabulary=10)
    problem = make(name, "small", place, changes, StringOptions())
    # A curve of thresholds, of narrow networks here and of the published ones in the other preset.
    assert all(len(SIZES[name][preset].thresholds) >= 4 for preset in ("small", "paper"))
    assert SIZES[name]["small"].width < SIZES[name]["paper"].width == 1
    made = json.loads(json.dumps({"ends": asdict(problem.ends), "beads": asdict(problem.config.training)}))
    assert tuple(each["optimizer"]["learning_rate"] for each in made.values()) == learning_rates
    assert {each["optimizer"]["clip"] for each in made.values()} == {5.0 if name == "ptb" else None}
    theta = problem.model.init(jax.random.key(0))
    criterion = problem.config.criterion
    value = criterion(problem.task, theta)
    few = jax.tree.map(lambda leaf: spaced(leaf, 5), problem.task.split(criterion.split))
    measured = problem.task.measure(theta, few)
    expected = np.exp(measured["loss"]) if name == "ptb" else 1 - measured["accuracy"]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert criterion.examples == 5


def test_three_points_cannot_be_permuted_with_two_units():
    # What the docstring claims: no combination of the targets' rows is nonnegative, so all three units are needed.
    problem = make("permutation", "small", Data(), changes_of(Size), StringOptions())
    targets = np.asarray(problem.data.train_labels, np.float64).T
    points = np.asarray(problem.data.train_images, np.float64).T
    np.testing.assert_array_equal(np.sort(targets), np.sort(points))
    angles = np.linspace(0, 2 * np.pi, 3601)
    rows = np.stack([np.cos(angles), np.sin(angles)], 1) @ targets
    assert (rows.min(1) < -0.1).all()
    assert trees.parameter_count(problem.model.init(jax.random.key(0))) == 12


PTB = {"tasks": ("ptb",), "thresholds": None}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tasks": ("quadratic", "cubic")}, ("thresholds (0.06, 0.1)", "quadratic, cubic")),
        ({"thresholds": (0.1, -1.0)}, ("thresholds (0.1, -1.0)",)),
        ({"thresholds": (float("nan"),)}, ("thresholds (nan,)",)),
        ({"pairs": 0}, ("pairs=0",)),
        ({"alpha": 1.5}, ("alpha=1.5",)),
        ({"width": 9.0}, ("width=9.0", "mnist, cifar10 and ptb")),
        ({"tasks": ()}, ("tasks none", "quadratic")),
        ({"tasks": ("quadratic", "quadratic"), "thresholds": None}, ("quadratic, quadratic",)),
        ({"split": "validation"}, ("quadratic", "validation")),
        (PTB, ("ptb", "--ptb")),
        ({**PTB, "ptb": str(HERE)}, (str(HERE), ".txt")),
        ({**PTB, "ptb": "nowhere/texts"}, ("nowhere/texts",)),
        ({"tasks": ("mnist",), "sources": Sources(mnist="nowhere/no.npz")}, ("nowhere/no.npz",)),
    ],
)
def test_bad_options_are_refused(change, named, tmp_path, refused):
    refused(main, study_of(tmp_path / "run", **{**SMALL, **change}), *named)


def test_the_command_reports_bad_options(tmp_path, capsys):
    assert guarded("string_sampling", lambda: main(study_of(tmp_path / "out", pairs=0))) == 2
    said = capsys.readouterr().err
    assert said.startswith("string_sampling: error: ")
    assert "pairs=0" in said
    assert not any(tmp_path.iterdir())
