"""`mcjax connect --pam`: its curve, its objective, what it refuses; and the options that commands share."""

import json
from dataclasses import replace
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from command_line import refused, results_of, run, said
from PIL import Image

import mcjax
from mcjax.commands import pam
from mcjax.commands.connect import CurveTraining
from mcjax.curves import FitConfig, PamConfig, PermutationFitConfig, Slopes
from mcjax.runs import checkpoint
from mcjax.runs.recorder import Recording
from mcjax.training import SGD

PAM = ("--pam", "--epochs", 4, "--iterations", 2, "--batch-size", 16, "--points", 5)


@pytest.fixture(scope="module")
def learned(trained, ends):
    folder = trained.parent / "pam"
    assert run("connect", *ends, *PAM, "--no-align", "--out", folder) == 0
    return folder


def test_it_learns_what_the_library_learns(learned, trained, tiny_task):
    thetas = [checkpoint.load(trained / "checkpoints" / f"network_{i}") for i in range(2)]
    config = PamConfig(FitConfig(epochs=2, batch_size=16), PermutationFitConfig(epochs=1), iterations=2)
    fit = mcjax.fit_pam(jax.random.key(0), tiny_task, mcjax.bezier(tiny_task.spec), *thetas, None, config)
    results = results_of(learned)
    for name in pam.REPORTED:
        np.testing.assert_allclose(results["pam"][name], getattr(fit, name), rtol=1e-5)
    kept = checkpoint.load(learned / "checkpoints" / "curve")
    chex.assert_trees_all_equal(kept["P"], fit.P)
    chex.assert_trees_all_close(kept["theta_c"], fit.theta_c, atol=1e-5)


def test_it_shows_the_objective_and_redoes_nothing(learned, ends, capsys, monkeypatch):
    monkeypatch.setattr(Recording, "add", lambda *_: pytest.fail("it fits"))
    assert run("connect", *ends, *PAM, "--no-align", "--out", learned) == 0
    out = capsys.readouterr().out
    objective = results_of(learned)["pam"]["objective"]
    assert f"start {objective[0]:.4f}, P1 {objective[1]:.4f}, c1 {objective[2]:.4f}, P2" in out
    assert "of 1, iteration by iteration: P accepted" in out
    kept = mcjax.symmetry.load_permutation(learned / "permutation.npz")
    curve = checkpoint.load(learned / "checkpoints" / "curve")
    chex.assert_trees_all_equal(kept, curve["P"])
    for name in ("pam", "training", "path"):
        with Image.open(learned / "figures" / f"{name}.png") as figure:
            assert figure.size[0] > 1000
            assert np.asarray(figure.convert("L")).std() > 5


def test_its_path_is_measured_again(learned, tmp_path):
    assert run("evaluate", learned, "--points", 5, "--out", tmp_path / "e") == 0
    one, other = (results_of(folder) for folder in (learned, tmp_path / "e"))
    np.testing.assert_allclose(one["along"]["train_loss"], other["along"]["train_loss"], rtol=1e-5)


def test_an_interrupted_run_ends_with_the_same_bits(learned, ends, tmp_path, monkeypatch, capsys):
    command = ("connect", *ends, *PAM, "--no-align", "--out", tmp_path / "p")
    epochs, add = [], Recording.add

    def broken(self, *args):
        if len(epochs) == 2:
            raise KeyboardInterrupt
        epochs.append(1)
        add(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "add", broken)
        assert run(*command) == 130
    said(capsys, 130, "complete epochs are kept")
    assert run(*command) == 0
    for name in ("results.json", "metrics.jsonl"):
        assert (tmp_path / "p" / name).read_bytes() == (learned / name).read_bytes()


def test_it_starts_from_a_hard_permutation(ends, tmp_path, capsys):
    soft = {"dense_0": np.full((6, 6), 1 / 6, np.float32), "dense_1": np.eye(5, dtype=np.float32)}
    mcjax.symmetry.save_permutation(tmp_path / "soft.npz", soft)
    given = ("--pam", "--permutation", tmp_path / "soft.npz")
    refused(capsys, tmp_path / "p", "connect", *ends, *given, names=["dense_0, dense_1"])


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_without_options_it_is_the_preset_of_pam(preset):
    assert pam.PamOptions().config(CurveTraining(preset=preset)) == PamConfig.preset(preset)
    # Other iterations are no other half-steps.
    assert pam.PamOptions(iterations=7).config(CurveTraining(preset=preset)) == PamConfig.preset(preset, iterations=7)


@pytest.mark.parametrize(
    ("epochs", "iterations", "each", "halved"),
    [(160, 4, 40, 20), (60, 4, 15, 8), (12, 4, 3, 2), (10, 4, 3, 2), (3, 4, 1, 1)],
)
@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_epochs_that_are_given_are_shared_out_and_none_is_left_out(preset, epochs, iterations, each, halved):
    config = pam.PamOptions(iterations=iterations).config(CurveTraining(preset=preset, epochs=epochs))
    assert (config.curve.epochs, config.permutation.epochs, config.iterations) == (each, halved, iterations)
    longer = pam.PamOptions(iterations=iterations, permutation_epochs=5).config(
        CurveTraining(preset=preset, epochs=epochs)
    )
    assert (longer.curve.epochs, longer.permutation.epochs) == (each, 5)


def test_options_change_the_given_fields():
    training = CurveTraining(preset="paper", batch_size=16, learning_rate=0.2, weight_decay=0.0)
    matrices = {"annealing": 0.9, "regularized": False, "projection": "sinkhorn"}
    rates = {"learning_rate": (0.5, 2.0), "schedule": "constant", "decay": 0.5}
    more = {"samples": 3, "partial_moves": False}
    own = {"nu_phi": 20.0, "acceptance": "always", "norm_bound": 4.0, "slopes": True}
    named = {f"permutation_{name}": value for name, value in rates.items()}
    options = pam.PamOptions(iterations=2, permutation_epochs=3, nu_p=10.0, **named, **matrices, **more, **own)
    config, paper = options.config(training, points_per_step=2), PamConfig.preset("paper")
    assert config.curve == FitConfig(40, 16, SGD(0.2, "halving"), 0.0, points_per_step=2)
    assert config.permutation == PermutationFitConfig(3, **rates, **matrices, **more)
    rest = {"curve": config.curve, "permutation": config.permutation, "iterations": 2}
    assert config == replace(paper, nu_P=10.0, **own, **rest)


def test_the_published_scheme_has_the_lengths_of_the_preset():
    paper = pam.PamOptions(published=True).config(CurveTraining(preset="paper"))
    assert paper == PamConfig.preset("published")
    fast = pam.PamOptions(published=True).config(CurveTraining())
    assert fast == PamConfig.preset("fast").as_published()
    assert (fast.permutation.epochs, fast.curve) == (4, FitConfig(8))
    # The rounding of the paper's code.
    drawn = pam.PamOptions(published=True, samples=32).config(CurveTraining())
    assert drawn == replace(fast, permutation=replace(fast.permutation, samples=32))


def test_lines_are_means_over_pairs():
    results = {
        "objective": [[4.0, 2.0, 1.0], [2.0, 2.0, 1.0]],
        "accepted": [[True, True], [False, True], [False, False]],
        "moved": [[3, 0], [6, 0], [0, 0]],
        "relaxed": [[1.0], [2.0], [3.0]],
        "rounded": [[1.5], [2.5], [3.5]],
    }
    results["objective"] += [[3.0, 3.0, 3.0]]
    text = pam.pam_lines("PAM", results)
    assert "start 3.0000, P1 2.3333, c1 1.6667" in text
    assert "of 3, iteration by iteration: P accepted 1; P refused 1; curves refused 1; units" in text
    assert "would move 3\n" in text
    assert "2.0000/2.5000" in text
    assert "subgradients" not in text
    slopes = {"slope_theta_c": [[0.5, 0.25]] * 3, "slope_P": [[1.0, 0.5], [2.0, 0.5], [3.0, 0.5]]}
    assert pam.pam_lines("PAM", results | slopes).endswith("curve 0.5000 0.2500; P 2.0000 0.5000")
    one = {name: values[0] for name, values in results.items()}
    assert "of 1, iteration by iteration: P accepted 1; P refused 0" in pam.pam_lines("PAM", one)


def test_results_are_json():
    values = {name: np.zeros((2, 3), np.int64) for name in pam.REPORTED}
    plain = SimpleNamespace(**values, slopes=None)
    assert json.loads(json.dumps(pam.pam_results(plain)))["moved"] == [[0, 0, 0], [0, 0, 0]]
    measured = SimpleNamespace(**values, slopes=Slopes(np.ones(2), np.zeros(2)))
    assert json.loads(json.dumps(pam.pam_results(measured)))["slope_theta_c"] == [1.0, 1.0]
