"""The study, small: what it leaves, that it can be killed, and what it refuses."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.neuron_alignment import study as neuron_alignment
from experiments.neuron_alignment.cell import Cell
from experiments.neuron_alignment.figures import draw_together
from experiments.neuron_alignment.measures import epochs_to_plateau, kept_loss, networks, shape_of
from experiments.neuron_alignment.study import Config, main
from experiments.study import Drawing, Parts
from mcjax import FitConfig, InputError, PamConfig, PathMetrics
from mcjax.commands.pam import PamOptions
from mcjax.curves import PermutationFitConfig
from mcjax.runs.folder import RunFolder

SIZES = {
    "epochs": 2,
    "curve_epochs": 4,
    "schemes": ("descent", "published"),
    "points": 3,
    "plane_points": 3,
    "pairs": 2,
    "batch_size": 40,
    "exchange_images": 80,
    "two_seeds": True,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_data):
    """A study of seconds: two pairs of an MLP on images of three bars."""
    folder = tmp_path_factory.mktemp("study")
    names = ("train_images", "train_labels", "test_images", "test_labels", "num_classes")
    np.savez(folder / "bars.npz", **{name: getattr(tiny_data, name) for name in names})
    return Config(data=(str(folder / "bars.npz"),), models=("mlp",), widths=(6, 5), out=str(folder / "whole"), **SIZES)


def plain(theta, images, labels, data):
    """Loss and accuracy of networks along a leading axis, in numpy."""
    x = ((images / 255 - data.mean) / data.std).reshape(1, len(images), -1)
    for i in range(3):
        layer = theta["params"][f"Dense_{i}"]
        x = x @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"], float)[:, None]
        x = np.maximum(x, 0) if i < 2 else x
    of_label = np.take_along_axis(x, labels[None, :, None], 2)[..., 0]
    return (np.log(np.exp(x).sum(2)) - of_label).mean(1), (x.argmax(2) == labels).mean(1)


def test_networks_and_the_line_between_them_when_matched(tmp_path, tiny_task, tiny_data):
    settings = Config(**SIZES | {"pairs": 1}).settings(tiny_task.model, tiny_data, "")
    own = Parts(RunFolder(tmp_path, {}), settings.parts)
    cell = Cell("mlp_bars", "bars", "", tiny_task, settings, jax.random.key(0), own)
    measured, along = networks(cell), cell.along("line aligned")
    theta = cell.networks["theta"]
    for split in ("train", "test"):
        images, labels = (getattr(tiny_data, f"{split}_{part}") for part in ("images", "labels"))
        loss, accuracy = plain(theta, images, labels, tiny_data)
        np.testing.assert_allclose(measured[f"{split}_loss"], loss, rtol=1e-4)
        np.testing.assert_allclose(measured[f"{split}_accuracy"], accuracy, rtol=1e-6)
        # A permuted network is the same function.
        np.testing.assert_allclose(getattr(along, f"{split}_loss")[0, [0, -1]], loss, rtol=1e-4)
        np.testing.assert_allclose(getattr(along, f"{split}_accuracy")[0, [0, -1]], accuracy, rtol=1e-6)
    for group, P in cell.match["P"].items():
        assert sorted(np.asarray(P)[0]) == list(range(P.shape[1]))
        assert cell.match["after"][group][0] >= cell.match["before"][group][0] - 1e-6


def test_settings_of_the_paper_are_json_by_which_a_run_is_known(tiny_data, tiny_model):
    paper = Config(preset="paper")
    settings = json.loads(json.dumps(asdict(paper.settings(tiny_model, tiny_data, "cifar10"))))
    networks, curve, pams = (settings[name] for name in ("networks", "curve", "pams"))
    assert (networks["epochs"], curve["epochs"]) == (250, 200)
    pam = pams.pop("published")
    assert not pams
    assert (pam["iterations"], pam["permutation"]["epochs"], pam["curve"]["epochs"]) == (4, 20, 40)
    sgd = {"learning_rate": 0.1, "schedule": "halving", "momentum": 0.9, "nesterov": True, "clip": None}
    assert [fit["optimizer"] for fit in (networks, curve, pam["curve"])] == [{**sgd, "decay": 0.9996}] * 3
    assert [fit["batch_size"] for fit in (networks, curve, pam["curve"])] == [64] * 3
    assert paper.settings(tiny_model, tiny_data, "cifar100").curve.batch_size == 128
    found = paper.settings(tiny_model, tiny_data, "cifar10")
    assert found.pam("published PAM aligned") == PamConfig.preset("published", curve=found.pams["published"].curve)
    assert (found.epochs("aligned"), found.epochs("published PAM aligned")) == ("200", "4 x 40")
    # Curves of a given number of epochs are all of that number.
    equal = replace(paper, curve_epochs=12, schemes=("descent", "published")).settings(tiny_model, tiny_data, "")
    assert [equal.curve.epochs, *(pam.iterations * pam.curve.epochs for pam in equal.pams.values())] == [12] * 3


def test_a_set_is_known_by_its_tfds_name_or_by_what_it_is_said_to_be():
    assert Config(data=("cifar10", "runs/cifar10.npz", "digits")).names() == {
        "cifar10": "cifar10",
        "runs/cifar10.npz": "",
        "digits": "",
    }
    assert Config(data=("a.npz", "b.npz"), known_as=("cifar100", "none")).names() == {"a.npz": "cifar100", "b.npz": ""}


def test_the_loss_of_the_curve_that_is_kept_is_that_of_the_last_one_accepted():
    """Two iterations of 1 + 2 epochs.

    The last curve of the second pair was refused; also that of the third, whose permutation was changed; and all of the
    fourth.
    """
    pam = PamConfig(FitConfig(epochs=2), PermutationFitConfig(epochs=1), iterations=2)
    accepted = np.array([[1, 1, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
    fit = {"history": {"loss": np.arange(24.0).reshape(4, 6)}, "report": {"accepted": accepted}}
    assert kept_loss(fit, pam) == [5.0, 8.0]
    assert kept_loss(fit, None) == [5.0, 11.0, 17.0, 23.0]


def test_the_epoch_at_which_a_class_is_at_the_plateau_of_another():
    slow = np.linspace(2, 1, 20)[None].repeat(3, 0)  # 1.026 over its last tenth
    fast = np.stack([np.linspace(1.5, 0.5, 20), np.full(20, 1.0), np.full(20, 1.2)])
    expected = np.argmax(fast[0] <= slow[0, -2:].mean()) + 1
    assert epochs_to_plateau(fast, slow) == [expected, 1, 21]


def test_shapes_of_a_path_with_one_mode():
    """A loss that oscillates four times, and an accuracy that is lowest at t = 0.75."""
    ts = np.linspace(0, 1, 41)
    loss, accuracy = 1 + 0.2 * np.cos(8 * np.pi * ts), np.abs(ts - 0.75)
    values = {"test_loss": np.stack([loss, np.ones(41)]), "test_accuracy": np.stack([accuracy] * 2)}
    metrics = PathMetrics(ts, values, ts)
    found = shape_of(metrics)
    np.testing.assert_allclose(found["high_modes"], [0.1**2, 0], atol=1e-12)
    np.testing.assert_allclose(found["lowest_at"], [0.75, 0.75])


@pytest.mark.slow
def test_results_hold_every_table_and_figure_also_if_killed(study, stopped_once, results_of, tmp_path, monkeypatch):
    stopped_once(main, study, "mlp_bars_aligned")
    results = results_of(main, study)
    (cell,) = results["cells"].values()
    learned = {f"{scheme}PAM {how}" for scheme in ("", "published ") for how in ("unaligned", "aligned")}
    assert set(cell["classes"]) == {"unaligned", "aligned"} | learned
    assert {each["epochs"] for each in cell["classes"].values()} == {"4", "4 x 1"}
    for tried in cell["exchanges"].values():
        assert tried["number"] == 15 + 10
        assert len(tried["curve"]["better"]) == 2
    for how in ("unaligned", "aligned"):
        seeds = {name: each["values"] for name, each in cell["seeds"][how].items()}
        assert (np.array(seeds["matched"]) >= np.array(seeds["by_index"]) - 1e-6).all()
    assert set(cell["ensembles"]) == {"ends", "unaligned", "aligned", "independent"}
    assert cell["parameters"] == 64 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3
    assert len(cell["networks"]["test_accuracy"]["values"]) == 4
    # A curve's ends are the networks themselves.
    path = results["page"]["paths"][0]
    for line in path["lines"]:
        np.testing.assert_allclose(
            line["test_loss"][0], np.mean(cell["networks"]["test_loss"]["values"][::2]), rtol=1e-4
        )
    for plane in results["page"]["planes"]:
        assert np.shape(plane["values"]["test_loss"]) == (3, 3)
        # Learned curves lie in their planes: their ends are the first two points.
        if "curve" in plane:
            ends = [[plane["curve"][axis][at] for axis in "xy"] for at in (0, -1)]
            np.testing.assert_allclose(ends, [[p["x"], p["y"]] for p in plane["points"][:2]], atol=1e-4)
    assert len(results["page"]["figures"]) == 12
    assert [each["title"].split(":")[0] for each in results["page"]["tables"][:5]] == [
        f"Table {i}" for i in range(1, 6)
    ]
    (pam,) = (each for each in results["page"]["tables"] if each["title"] == "PAM from either start")
    for row, (name, found) in zip(pam["rows"], cell["pam"].items(), strict=True):
        means = [np.mean(found[of], 0)[0] for of in ("objective", "relaxed", "rounded", "proposed")]
        assert row[2:7] == [name, *(f"{mean:.4f}" for mean in means)]
        assert row[8] == f"{np.sum(found['accepted'], 0)[0]} of 2"
    whole = Path(study.out)
    assert all(json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines())
    with pytest.raises(InputError, match=r"another config.*seed: 0 there, 1 now"):
        main(replace(study, seed=1))
    again = replace(study, out=str(tmp_path / "run"))
    assert killed(again) == -signal.SIGKILL
    parts = {path.name for path in (tmp_path / "run" / "parts").iterdir()}
    assert {"mlp_bars_networks.json", "mlp_bars_match.json"} <= parts
    assert "mlp_bars_aligned.json" not in parts
    # Drawing takes most of a small study's time.
    drawings = [Drawing(Path(each["file"]).stem, Figure(), each["caption"]) for each in results["page"]["figures"]]
    monkeypatch.setattr(neuron_alignment, "draw", lambda cell: drawings)
    main(again)
    for name in ("results.json", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


KILLING = """
import os, runpy, signal
from mcjax.runs.recorder import Recording

add, epochs = Recording.add, []

def dies(self, *args):
    epochs.append(1)
    if len(epochs) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, *args)

Recording.add = dies
runpy.run_module("experiments.neuron_alignment", run_name="__main__", alter_sys=True)
"""


def killed(study):
    """The exit code of the command that does a study, killed in the second epoch of its first curve."""
    options = ["--data", study.data[0], "--models", "mlp", "--widths", "6", "5", "--out", study.out]
    for name, value in SIZES.items():
        values = [] if value is True else value if isinstance(value, tuple) else [value]
        options += [f"--{name.replace('_', '-')}", *map(str, values)]
    command = [sys.executable, "-c", KILLING, *options]
    root = Path(__file__).parents[3]
    return subprocess.run(command, cwd=root, capture_output=True, timeout=300, check=False).returncode


def test_architectures_on_one_data_set_are_drawn_side_by_side():
    def cell(name, dataset):
        match = {"P": {"conv": 0}, "before": {"conv": np.zeros(3)}, "after": {"conv": np.full(3, 0.5)}}
        return SimpleNamespace(match=match, model=SimpleNamespace(name=name), data=dataset)

    cells = [cell("tinysix", "cifar10"), cell("tinyten", "cifar10"), cell("tinysix", "cifar100")]
    (drawing,) = draw_together(cells)
    assert (drawing.name, len(drawing.figure.axes)) == ("cifar10_signature", 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pairs": 0}, ("pairs=0",)),
        ({"points": 2}, ("points=2",)),
        ({"plane_points": 1}, ("plane_points=1",)),
        ({"plane_images": 51}, ("plane_images=51", "1 to the 50")),
        ({"calibration_images": 0}, ("calibration_images=0",)),
        ({"train_images": 30, "exchange_images": None}, ("batch_size=40", "30")),
        ({"exchange_images": 0}, ("exchange_images=0",)),
        ({"exchange_images": 121}, ("exchange_images=121", "1 to the 120")),
        ({"exchange_points": 0}, ("exchange_points=0",)),
        ({"curve_epochs": 2}, ("curve_epochs=2", "4 iterations")),
        ({"curve_epochs": 0, "pam": "off", "schemes": None}, ("epochs=0",)),
        ({"pam": "off"}, ("schemes=('descent', 'published')", "pam='off'")),
        ({"pam": "off", "schemes": None, "alternation": PamOptions(slopes=True)}, ("--slopes", "--pam off")),
        ({"exchanges": "off"}, ("--exchange-images", "--exchanges off")),
        ({"alternation": PamOptions(published=True)}, ("published", "schemes=('descent', 'published')")),
        ({"schemes": ("published", "published")}, ("schemes published, published", "each once")),
        ({"attack_epsilon": 0.1}, ("attack_epsilon=0.1", "attack_steps")),
        ({"known_as": ("cifar10", "stl10")}, ("2 names", "1 data sets")),
        ({"models": ("mlp", "mpl")}, ("mpl",)),
        ({"models": ("mlp", "mlp")}, ("mlp, mlp",)),
        ({"models": ("tinysix",)}, ("widths=(6, 5)", "mlp")),
        ({"data": ("no/such.npz",)}, ("no/such.npz",)),
        ({"seed": -1}, ("seed=-1",)),
    ],
)
def test_bad_options_are_refused_before_anything_is_done(change, named, study, tmp_path, refused):
    refused(main, replace(study, **{"out": str(tmp_path / "run"), **change}), *named)
