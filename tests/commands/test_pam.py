"""`mcjax connect --pam`: its curve, its objective, what it refuses; and the options that commands share."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from command_line import run, said
from PIL import Image

import mcjax
from mcjax import checkpoint
from mcjax.commands import pam
from mcjax.training.recorder import Recording

PAM = ("--pam", "--epochs", 4, "--iterations", 2, "--batch-size", 16, "--points", 5)


@pytest.fixture(scope="module")
def learned(trained):
    folder = trained.parent / "pam"
    assert run("connect", trained / "0", trained / "1", *PAM, "--no-align", "--out", folder) == 0
    return folder


def test_it_is_what_the_library_learns(learned, trained, tiny_data):
    model = mcjax.models.create("mlp", 3, (8, 8, 1), widths=(6, 5))
    ends = [checkpoint.load(trained / "checkpoints" / f"network_{i}") for i in range(2)]
    augmentation = mcjax.Augmentation.none()
    config = mcjax.PamConfig(epochs=2, permutation_epochs=1, iterations=2, batch_size=16, augmentation=augmentation)
    fit = mcjax.fit_pam(jax.random.key(0), model, mcjax.bezier(model.spec), *ends, tiny_data, None, config)
    results = json.loads((learned / "results.json").read_text())
    for name in pam.REPORTED:
        np.testing.assert_allclose(results["pam"][name], getattr(fit, name), rtol=1e-5)
    kept = checkpoint.load(learned / "checkpoints" / "curve")
    for group, p in fit.P.items():
        np.testing.assert_array_equal(kept["P"][group], p)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), kept["theta_c"], fit.theta_c)


def test_it_shows_the_objective_and_redoes_nothing(learned, trained, capsys, monkeypatch):
    monkeypatch.setattr(Recording, "add", lambda *_: pytest.fail("it fits"))
    assert run("connect", trained / "0", trained / "1", *PAM, "--no-align", "--out", learned) == 0
    out = capsys.readouterr().out
    objective = json.loads((learned / "results.json").read_text())["pam"]["objective"]
    assert f"start {objective[0]:.4f}, P1 {objective[1]:.4f}, c1 {objective[2]:.4f}, P2" in out
    assert "of 1, iteration by iteration: P refused" in out
    kept = mcjax.load_permutation(learned / "permutation.npz")
    curve = checkpoint.load(learned / "checkpoints" / "curve")
    jax.tree.map(np.testing.assert_array_equal, kept, curve["P"])
    for name in ("pam", "training", "path"):
        with Image.open(learned / "figures" / f"{name}.png") as figure:
            assert figure.size[0] > 1000
            assert np.asarray(figure.convert("L")).std() > 5


def test_its_path_is_measured_again(learned, tmp_path):
    assert run("evaluate", learned, "--points", 5, "--out", tmp_path / "e") == 0
    one, other = (json.loads((folder / "results.json").read_text()) for folder in (learned, tmp_path / "e"))
    np.testing.assert_allclose(one["along"]["train_loss"], other["along"]["train_loss"], rtol=1e-5)


@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_run_ends_with_the_same_bits(after, learned, trained, tmp_path, monkeypatch, capsys):
    command = ("connect", trained / "0", trained / "1", *PAM, "--no-align", "--out", tmp_path / "p")
    epochs, add = [], Recording.add

    def broken(self, *args):
        if len(epochs) == after:
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


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--iterations", 2), "are for --pam: give it too"),
        (("--pam", "--curve", "line"), "got --curve line, expected bezier or chain"),
        (("--pam", "--nu-p", 0), "got nu_P=0.0, expected it to be positive"),
        (("--pam", "--nu-phi", -1), "got nu_phi=-1.0"),
        (("--pam", "--iterations", 0), "got iterations=0"),
        (("--pam", "--permutation-epochs", 0), "got permutation_epochs=0"),
        (("--pam", "--permutation-learning-rate", -1), "got permutation_learning_rate=-1.0"),
    ],
)
def test_wrong_input_is_said_before_anything_is_made(options, expected, trained, tmp_path, capsys):
    assert run("connect", trained / "0", trained / "1", *options, "--out", tmp_path / "p") == 2
    said(capsys, 2, expected)
    assert not (tmp_path / "p").exists()


def test_one_network_twice_is_refused(trained, tmp_path, capsys):
    assert run("connect", trained / "0", trained / "0", "--pam", "--out", tmp_path / "p") == 2
    said(capsys, 2, "are the same network")
    assert not (tmp_path / "p").exists()


def test_pam_needs_a_hard_permutation_and_finite_networks(trained, tmp_path, capsys):
    soft = {"dense_0": np.full((6, 6), 1 / 6, np.float32), "dense_1": np.eye(5, dtype=np.float32)}
    mcjax.save_permutation(tmp_path / "soft.npz", soft)
    ends = (trained / "0", trained / "1", "--pam", "--out", tmp_path / "p")
    assert run("connect", *ends, "--permutation", tmp_path / "soft.npz") == 2
    said(capsys, 2, "got matrices for dense_0, dense_1")
    theta = checkpoint.load(trained / "checkpoints" / "network_0")
    theta["params"]["Dense_1"]["bias"] = theta["params"]["Dense_1"]["bias"].at[2].set(np.nan)
    about = checkpoint.describe(trained / "checkpoints" / "network_0")
    checkpoint.save(tmp_path / "nan", theta, about)
    for command in ("connect", "match", "merge"):
        assert run(command, tmp_path / "nan", trained / "1", "--out", tmp_path / "p") == 2
        said(capsys, 2, "weights that are not finite (params/Dense_1/bias)")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(("epochs", "iterations", "each", "halved"), [(160, 4, 40, 20), (60, 4, 15, 8), (3, 4, 1, 1)])
def test_epochs_are_shared_out(epochs, iterations, each, halved):
    config = pam.PamOptions(iterations=iterations).config({"epochs": epochs, "learning_rate": 0.2})
    assert (config.epochs, config.permutation_epochs, config.iterations) == (each, halved, iterations)
    assert config.learning_rate == 0.2


def test_lines_are_means_over_pairs():
    results = {
        "objective": [[4.0, 2.0, 1.0], [2.0, 2.0, 1.0]],
        "accepted": [[True, True], [False, True]],
        "moved": [[3, 0], [6, 0]],
    }
    text = pam.lines("PAM", results)
    assert "start 3.0000, P1 2.0000, c1 1.0000" in text
    assert "of 2, iteration by iteration: P refused 1; curves refused 0; units that P would move 4.5" in text
    one = {name: values[0] for name, values in results.items()}
    assert "of 1, iteration by iteration: P refused 0" in pam.lines("PAM", one)


def test_results_are_json():
    values = {name: np.zeros((2, 3), np.int64) for name in pam.REPORTED}
    assert json.loads(json.dumps(pam.results_of(SimpleNamespace(**values))))["moved"] == [[0, 0, 0], [0, 0, 0]]
