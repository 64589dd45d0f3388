"""The experiments of dropout stability, small: what they leave and say, that they resume, what they refuse."""

import json

import jax
import numpy as np
import pytest
from studies import small_studies

from experiments.dropout_stability.coins import exponents
from experiments.dropout_stability.study import Config, _described, main
from experiments.dropout_stability.tables import tables
from experiments.dropout_stability.tasks import CHANNELS, Size, make
from experiments.dropout_stability.wide import ENDS
from experiments.options import Sources, changes_of
from mcjax.training.task import examples

SIZE = {
    "width": 0.2,
    "train_images": 300,
    "test_images": 60,
    "epochs": 2,
    "curve_epochs": 1,
    "draws": 2,
    "measured": 60,
    "search_images": 30,
    "string_beads": 1,
    "shares": (0.5,),
    "narrow_widths": (3, 50),
}
SMALL = {
    "tasks": ("mnist", "wide"),
    "sources": Sources(mnist="digits"),
    "units": (2, 4),
    "pairs": 1,
    "inputs": (2,),
    "widths": (12, 24),
    "rates": (0.1, 0.5),
    "coins": 20,
}


study_of = small_studies(Config, Size, SMALL, SIZE)


def test_wide_networks_alone(tmp_path, results_of):
    study = study_of(tmp_path / "run", tasks=("wide",), units=(3,))
    main(study)
    curves = results_of(main, study)["tasks"]["wide"]["curves"]
    assert [(curve["inputs"], curve["ends"]) for curve in curves] == [(2, ends) for ends in ENDS]
    for curve in curves:
        (level,) = curve["levels"]
        (pair,) = level["pairs"]
        assert (level["units"], curve["slopes"]["gap"]) == (3, None)
        assert 0 <= level["gap"]["mean"] == pair["gap"]
        assert pair["energy"] <= pair["height"] <= pair["bound"] * (1 + 1e-6)
    # The better the ends, the lower their energy.
    fitted, descended, arbitrary = (curve["levels"][0]["pairs"][0]["energy"] for curve in curves)
    assert fitted <= descended + 1e-3
    assert descended < arbitrary


@pytest.mark.slow
def test_coins_alone(tmp_path, results_of):
    study = study_of(tmp_path / "run", tasks=("coins",))
    main(study)
    found = results_of(main, study)["tasks"]["coins"]
    narrow, wide = found["levels"]
    assert (narrow["width"], wide["width"], found["coins"]) == (12, 24, 20)
    for level in found["levels"]:
        rare, often = level["rates"]
        assert (rare["rate"], often["rate"]) == (0.1, 0.5)
        assert rare["rise"] <= often["rise"]
        assert rare["probability"] >= often["probability"]
        assert rare["promised"] == often["promised"] == 1


def test_powers_of_rate_and_width():
    levels = [
        {"width": width, "rates": [{"rate": p, "rise": 3 * p**0.7 * width**-1.2} for p in (0.1, 0.2, 0.5)]}
        for width in (8, 16, 64)
    ]
    np.testing.assert_allclose(exponents(levels), [0.7, -1.2])
    assert exponents(levels[:1]) is None


@pytest.mark.slow
def test_files_and_results_of_a_study(tmp_path, stopped_once, results_of):
    study = study_of(tmp_path / "whole")
    stopped_once(main, study, "mnist_path_matched_string")
    tasks = results_of(main, study)["tasks"]
    found = tasks["mnist"]
    paths = found["paths"]
    assert {"line", "matched line", "Theorem 1", "Theorem 2", "Theorem 3", "matched string"} <= paths.keys()
    assert [paths[f"Theorem {i}"]["segments"] for i in (1, 2, 3)] == [28, 10, 13]
    # Epsilon was measured on the images that the path was.
    assert max(paths["Theorem 1"]["train_loss"]) <= paths["Theorem 1"]["bound"] + 1e-5
    for path in paths.values():
        np.testing.assert_allclose(path["train_loss"][0], paths["line"]["train_loss"][0], rtol=1e-4)
    for name in ("line", "Theorem 1", "Theorem 2", "Theorem 3", "Bezier curve", "string"):
        np.testing.assert_allclose(paths[name]["train_loss"][-1], paths["line"]["train_loss"][-1], rtol=1e-4)
    assert [each["width"] for each in found["narrow"]] == [3]  # the network itself has 6
    assert {each["share"] for each in found["shares"]} == {0.5}
    first, second = tasks["wide"]["curves"][0]["levels"]
    assert (first["units"], second["units"]) == (2, 4)
    assert first["gap"]["mean"] > second["gap"]["mean"] >= 0


def test_tables_of_noise_stability():
    rows = np.linspace(0.1, 1, 12).reshape(3, 4)
    stability = {
        "layer_cushion": rows.tolist(), "contraction": (1 + rows[:2]).tolist(), "interlayer_cushion": rows[:2].tolist(),
        "smoothness": rows[:1].tolist(), "spread": [1.5, 2.25], "rho": 0.2, "epsilon": 3e4, "layers": 3,
    }  # fmt: skip
    path = {
        "train_loss": [0.1, 2.0, 0.2],
        "test_accuracy": [0.9, 0.1, 0.9],
        "train_accuracy": [1.0, 0.24, 1.0],
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
    assert noise["rows"][0] == ["1", "0.223 (0.1)", "1.22 (1.35)", "0.223 (0.1)", "-", "1.5"]
    assert noise["rows"][2] == ["3", "0.877 (0.755)", "-", "-", "-", "-"]
    assert "at least 3 d = 9" in noise["text"]
    assert paths["rows"][0] == ["line", "2 beads, not connected", "2.000", "-", "24.0", "10.0", "2.34 (VGG11)"]


def test_the_published_networks():
    problem = make("mnist", "paper", Sources(mnist="digits"), changes_of(Size))
    assert set(problem.rates.values()) == {0.2}
    assert problem.narrow.spec.group_sizes(problem.narrow.init(jax.random.key(0)))["conv_0"] == 6
    assert CHANNELS == (0.25, 0.25, 0.25, 0.5)


def test_settings_are_json_by_which_a_run_is_known():
    problem = make("mnist", "small", Sources(mnist="digits"), changes_of(Size, measured=50))
    settings = json.loads(json.dumps(_described(problem)))
    rates = [settings[name]["optimizer"]["learning_rate"] for name in ("networks", "curve")]
    assert [*rates, settings["string"]["training"]["optimizer"]["learning_rate"]] == [0.02, 0.02, 1e-3]
    # Strings are measured on the images that paths are.
    criterion = settings["string"]["criterion"]
    assert criterion["examples"] == criterion["calibration_examples"] == 50
    assert examples(problem.measured.train) == 50 < examples(problem.task.train)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tasks": ()}, ("tasks none", "mnist, cifar10, wide, coins")),
        ({"tasks": ("wide", "wide")}, ("wide, wide",)),
        ({"epochs": 0}, ("epochs=0",)),
        ({"width": float("nan")}, ("width=nan",)),
        ({"shares": (0.5, 0.2)}, ("shares=(0.5, 0.2)",)),
        ({"shares": (0.5, 1.0)}, ("shares=(0.5, 1.0)",)),
        ({"narrow_widths": ()}, ("narrow_widths=()",)),
        ({"narrow_widths": (7,)}, ("narrow_widths=(7,)", "6")),
        ({"units": (0, 4)}, ("units=0",)),
        ({"pairs": 0}, ("pairs=0",)),
        ({"inputs": ()}, ("inputs=()",)),
        ({"widths": (8, 8)}, ("widths=(8, 8)",)),
        ({"rates": (0.5, 1.0)}, ("rates=(0.5, 1.0)",)),
        ({"coins": 0}, ("coins=0",)),
        ({"sources": Sources(mnist="nowhere/no.npz")}, ("nowhere/no.npz",)),
        ({"tasks": ("cifar10",), "sources": Sources(cifar10="digits"), "width": None}, ("vgg11", "8")),
    ],
)
def test_bad_options_are_refused(change, named, tmp_path, refused):
    refused(main, study_of(tmp_path / "run", **change), *named)
