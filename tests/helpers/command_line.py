"""Calling commands in this process, what they say, and what they leave."""

import errno
import json
import os
from pathlib import Path

import chex
import numpy as np

from mcjax.cli import main
from mcjax.runs import checkpoint, stage
from mcjax.runs.progress import Progress
from mcjax.training import loop

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
GIVEN = ("--model", "mlp", "--widths", 6, 5)
SMALL = (*GIVEN, "--epochs", 4, "--batch-size", 16)
FIT = ("--epochs", 3, "--batch-size", 16, "--points", 5)

CURVES = {
    "line": ["--curve", "line"],
    "line unaligned": ["--curve", "line", "--no-align"],
    "bezier": [],
    "cubic": ["--degree", 3],
    "chain unaligned": ["--curve", "chain", "--no-align"],
}


def run(*arguments):
    """The exit code of a command."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        return leaving.code


def said(capsys, code, *patterns):
    """The one message of a command that failed, with all of these in it."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    err = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("mcjax: warning: "))
    message = err[err.index("mcjax: ") :]
    assert message.startswith({1: "mcjax: failed: ", 2: "mcjax: error: ", 130: "mcjax: interrupted: "}[code])
    for pattern in patterns:
        assert str(pattern) in message
    return message


def refused(capsys, folder, *command, names):
    """Whether a command is wrong input, says all of these names, and makes no `folder`."""
    assert run(*command, "--out", folder) == 2
    said(capsys, 2, *names)
    assert not folder.exists()


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def files_of(folder):
    """Every file, with its bytes and when it was written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def same_run(folder, unbroken, *checkpoints):
    """Whether two runs have the same results, metrics and checkpoints, bit by bit."""
    for name in ("results.json", "metrics.jsonl", "config.json"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name
    for name in checkpoints:
        one, other = (at / "checkpoints" / name for at in (folder, unbroken))
        chex.assert_trees_all_equal(checkpoint.load(one), checkpoint.load(other), strict=True)
        assert checkpoint.describe(one) == checkpoint.describe(other)


def no_training(monkeypatch):
    """From here on, to train is a failure of the test."""

    def refuse(*_, **__):
        raise AssertionError("it trains")

    monkeypatch.setattr(loop, "_compiled_epoch", refuse)


def interrupt(monkeypatch, epoch, title=""):
    """A Ctrl-C right after this epoch of the fit with `title` in its line of progress, which is not yet saved."""
    real = Progress.update

    def update(self, at, said):
        if title in self.title and at == epoch:
            raise KeyboardInterrupt
        real(self, at, said)

    monkeypatch.setattr(stage, "SAVE_EVERY_S", 1e9)
    monkeypatch.setattr(Progress, "update", update)


def full_disk(monkeypatch, name):
    """A disk that refuses every file, figure or checkpoint of this name."""
    real = os.replace

    def replace(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


def layers_of(theta):
    """The layers of an MLP, in float64: (kernel, bias) each."""
    layers = theta["params"]
    return [[np.float64(layers[name][leaf]) for leaf in ("kernel", "bias")] for name in sorted(layers)]


def units_of(theta, data, images, activation=lambda x: np.maximum(x, 0)):
    """The values of every layer of an MLP on images, in numpy."""
    x, units = ((images / 255.0 - data.mean) / data.std).reshape(len(images), -1), []
    *hidden, (kernel, bias) = layers_of(theta)
    for inner, inner_bias in hidden:
        x = activation(x @ inner + inner_bias)
        units.append(x)
    return [*units, x @ kernel + bias]


def measured(theta, data, split, **activation):
    """The loss and the accuracy of an MLP, in numpy."""
    images, labels = (np.asarray(getattr(data, f"{split}_{what}")) for what in ("images", "labels"))
    logits = units_of(theta, data, images, **activation)[-1]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    return losses.mean(), (logits.argmax(1) == labels).mean()


def permuted(theta, p, q):
    """An MLP of two hidden layers with their units in another order, in numpy."""
    (a, b), (c, d), (e, f) = (
        [np.asarray(layer[leaf]) for leaf in ("kernel", "bias")] for layer in theta["params"].values()
    )
    layers = [(a[:, p], b[p]), (c[p][:, q], d[q]), (e[q], f)]
    return {"params": {f"Dense_{i}": {"kernel": kernel, "bias": bias} for i, (kernel, bias) in enumerate(layers)}}
