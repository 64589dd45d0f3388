"""Command lines that are refused: by their names and values, before a folder is made and before anything is trained."""

from functools import cache

import numpy as np
import pytest
from command_line import GIVEN, no_training, refused, run

from mcjax import trees
from mcjax.runs import checkpoint

# What is told of several commands at once; @ stands for the folder of a run of two networks, /0 and /1.
TOLD = {"train": [], "quickstart": [], "evaluate": ["@/0"]}
CURVE = "@/../bezier"
PAIR = "match connect merge"
REFUSED = [
    ("train match connect merge quickstart", ["--seed", -1], ["seed=-1", "0 to 4294967295"]),
    ("train", ["--seed", 10**20], [f"seed={10**20}"]),
    ("train match connect quickstart", ["--epochs", 0], ["epochs=0"]),
    ("match", ["--epochs", 3], ["--epochs and --travel", "straight_through", "activations"]),
    ("match", ["--method", "random", "--restarts", 5], ["--restarts", "weights", "random"]),
    ("merge", ["--restarts", 2], ["--restarts", "--method activations"]),
    ("merge", ["--method", "weights", "--match-images", 50], ["--match-images", "--method weights"]),
    ("quickstart", ["--epochs", -3], ["epochs=-3"]),
    ("connect", ["--curve", "line", "--epochs", 4], ["--epochs", "--curve line"]),
    ("connect", ["--curve", "line", "--preset", "paper"], ["--preset", "--curve line"]),
    ("connect", ["--curve", "line", "--points-per-step", 2], ["--points-per-step", "--curve line"]),
    ("connect", ["--pam", "--epochs", -3], ["epochs=-3"]),
    ("connect", ["--pam", "--permutation-decay", 2], ["permutation_decay=2.0"]),
    ("train match connect", ["--batch-size", 0], ["batch_size=0"]),
    ("train connect", ["--batch-size", 121], ["batch_size=121", "120 training examples"]),
    ("match", ["--method", "straight_through", "--batch-size", 128], ["128", "120 training examples"]),
    ("train connect", ["--learning-rate", -0.1], ["learning_rate=-0.1"]),
    ("train", ["--weight-decay", -1], ["weight_decay=-1.0"]),
    ("train", ["--networks", 0], ["networks=0"]),
    ("quickstart", ["--pairs", 0], ["pairs=0"]),
    ("train", ["--model", "mpl"], ["unknown model", "'mpl'", "'mlp'"]),
    ("train", ["--activation", "rleu"], ["unknown activation", "'rleu'", "'relu'"]),
    ("train", ["--widths", 0], ["widths=(0,)"]),
    ("train", ["--width", 0], ["width=0.0"]),
    ("train", ["--width", "nan"], ["width=nan"]),
    ("train", ["--model", "vgg16"], ["vgg16", "'widths'"]),
    ("train evaluate connect", ["--train-images", 0], ["120 train images", "got 0"]),
    ("train evaluate match", ["--test-images", 51], ["50 test images", "got 51"]),
    ("train evaluate connect", ["--data", "none.npz"], ["no data set at none.npz"]),
    ("evaluate connect", ["--data", "digits"], ["digits has 10 classes", "mlp has 3"]),
    ("evaluate", [CURVE, "--data", "digits"], ["digits has 10 classes", "mlp has 3"]),
    ("evaluate", ["@/9"], ["no network at", "/9"]),
    (PAIR, ["@/0", "@/9"], ["no network at", "/9"]),
    ("match connect", ["@/0", "@"], ["holds 2 networks", "/0", "/1"]),
    ("merge", ["@/0"], ["got 1 network"]),
    ("merge", ["@/0", "@/1", "@/0"], ["/0 and ", "/0 are the same network"]),
    ("connect", ["@/0", "@/0", "--pam"], ["/0", "the same network"]),
    ("match merge", ["--match-images", 121], ["match_images=121", "2 to 120"]),
    ("match", ["--match-images", 1], ["match_images=1", "2 to 120"]),
    ("match merge", ["--restarts", 0, "--method", "weights"], ["restarts=0"]),
    ("match", ["--method"], ["activations, weights"]),
    ("connect merge", ["--calibration-images", 121], ["calibration_images=121", "1 to 120"]),
    ("connect merge", ["--eval-batch-size", 0], ["eval_batch_size=0"]),
    ("connect", ["--points", 1], ["points=1"]),
    ("evaluate", [CURVE, "--points", 1], ["points=1"]),
    ("evaluate", [CURVE, "--eval-batch-size", 0], ["eval_batch_size=0"]),
    ("evaluate", [CURVE, "--calibration-images", 0], ["calibration_images=0", "1 to 120"]),
    ("evaluate", ["@/0", "--points", 7], ["--points", "@/0"]),
    ("evaluate", [CURVE, "--model", "mlp"], ["--model needs --data"]),
    ("evaluate", [CURVE, "--width", 2], ["--width", "--model"]),
    ("connect", ["--points-per-step", 0], ["points_per_step=0"]),
    ("connect", ["--degree", 0], ["degree=0"]),
    ("connect", ["--curve", "chain", "--bends", -1], ["bends=-1"]),
    ("connect", ["--bends", 2], ["--bends", "--curve chain", "--curve bezier"]),
    ("connect", ["--curve", "line", "--degree", 3], ["--degree", "--curve bezier", "--curve line"]),
    ("connect", ["--iterations", 2], ["--pam"]),
    ("connect", ["--pam", "--curve", "line"], ["a line without control points", "--degree"]),
    ("connect", ["--pam", "--degree", 1], ["a bezier without control points", "--degree"]),
    ("connect", ["--pam", "--curve", "chain", "--bends", 0], ["a chain without control points", "--bends"]),
    ("connect", ["--pam", "--nu-p", 0], ["nu_P=0.0"]),
    ("connect", ["--pam", "--nu-phi", -1], ["nu_phi=-1.0"]),
    ("connect", ["--pam", "--iterations", 0], ["iterations=0"]),
    ("connect", ["--pam", "--permutation-epochs", 0], ["permutation_epochs=0"]),
    ("connect", ["--pam", "--permutation-learning-rate", -1], ["permutation_learning_rate=-1.0"]),
    ("train", ["--mesh", 1000, 1], ["1000 devices"]),
    ("train connect", ["--mesh", 0, 1], ["pair=0"]),
    ("train connect", ["--distributed"], ["--distributed", "--mesh"]),
    # What is not there, in a file of leaves that does not name its model.
    ("evaluate", ["theta.npz"], ["theta.npz", "--model"]),
    ("evaluate", ["theta.npz", *GIVEN], ["theta.npz", "--data"]),
    ("evaluate", ["theta.npz", "--data", "digits"], ["theta.npz", "--model"]),
    (PAIR, ["theta.npz", "@/0"], ["theta.npz", "--model"]),
    ("evaluate", ["theta.npz", "--model", "mlp", "--widths", 7, 5, "--data", "digits"], ["(64, 6)", "(64, 7)"]),
    (PAIR, ["@/0", "other"], ["different architectures", "[6, 5]", "[6, 4]"]),
    (PAIR, ["@/0", "nan"], ["not finite", "params/Dense_1/bias"]),
]


@pytest.fixture(scope="module")
def networks(tmp_path_factory, trained):
    """A folder with a network that does not name its model, one of another architecture, and one with a NaN."""
    folder = tmp_path_factory.mktemp("networks")
    theta = checkpoint.load(trained / "checkpoints" / "network_0")
    about = checkpoint.describe(trained / "checkpoints" / "network_0")
    np.savez(folder / "theta.npz", **trees.flatten(theta))
    broken = {name: np.array(leaf) for name, leaf in trees.flatten(theta).items()}
    broken["params/Dense_1/bias"][2] = np.nan
    checkpoint.save(folder / "nan", trees.nest(broken), about)
    sizes = [(64, 6), (6, 4), (4, 3)]
    layers = {f"Dense_{i}": {"kernel": np.ones(n, "f"), "bias": np.ones(n[1], "f")} for i, n in enumerate(sizes)}
    checkpoint.save(folder / "other", {"params": layers}, {**about, "model": {**about["model"], "widths": [6, 4]}})
    return folder


load = cache(checkpoint.load)  # most of the time is to read the same networks


@pytest.mark.parametrize(("commands", "options", "names"), REFUSED)
def test_before_anything_is_made(
    train, trained, connected, networks, tmp_path, capsys, monkeypatch, commands, options, names
):
    if CURVE in options:
        connected("bezier")
        capsys.readouterr()
    monkeypatch.chdir(networks)
    monkeypatch.setattr(checkpoint, "load", load)
    no_training(monkeypatch)
    for command in commands.split():
        positional = isinstance(options[0], str) and not options[0].startswith("--")
        told = options if positional else [*TOLD.get(command, ["@/0", "@/1"]), *options]
        line = [str(word).replace("@", str(trained), 1) for word in told]
        first = train if command == "train" else (command,)
        refused(capsys, tmp_path / "made", *first, *line, names=[name.replace("@", str(trained)) for name in names])


def test_nothing_to_merge_and_no_such_method(trained, tmp_path, capsys):
    refused(capsys, tmp_path / "m", "merge", names=["got 0 networks"])
    assert run("merge", trained, "--method", "magic", "--out", tmp_path / "m") == 2
    err = capsys.readouterr().err
    assert "activations" in err
    assert "Traceback" not in err
