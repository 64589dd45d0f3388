"""The command line: help, exit codes, one message for what went wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import run

import mcjax
from mcjax import cli
from mcjax.cli import main
from mcjax.commands.quickstart import Quickstart
from mcjax.errors import InputWarning

COMMANDS = ("quickstart", "train", "match", "connect", "evaluate", "merge", "report")


def helped(capsys, command):
    assert run(command, "--help") == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out, re.sub(r"[│╭╮╰╯─\s]+", " ", out)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("quickstart", ["(default: 6)", "(default: 60)", "1,437 training images", "Seed of everything. (default: 0)"]),
        (
            "train",
            [
                "(None: tinysix, or",
                "Images per step",
                "up to this many pixels",
                "up to this many degrees",
                "(default: 2)",
            ],
        ),
        ("match", ["Images in memory at once. (default: 128)", "(default: correlation)", "theta_2, which is permuted"]),
        ("connect", ["(default: bezier)", "Values of t, equally spaced from 0 to 1. (default: 61)", "RUN/0"]),
        (
            "evaluate",
            ["(default: 61)", "Images in memory at once. (default: 500)", "RUN/0 is the first network of a run."],
        ),
    ],
)
def test_help_describes_every_option_and_its_default(capsys, command, said):
    out, text = helped(capsys, command)
    for words in said:
        assert words in text
    _, *options = re.split(r"\n(?:│ |  )(?=--[a-z])", out)
    assert any(option.startswith("--out") for option in options)
    for option in options:
        assert "(default:" in option
        assert len(option.split()) > 6


@pytest.mark.parametrize("command", ["train", "connect"])
def test_help_tells_the_numbers_of_the_presets(capsys, command):
    _, text = helped(capsys, command)
    kind = {"train": mcjax.TrainConfig, "connect": mcjax.FitConfig}[command]
    fast, paper = (kind.preset(name) for name in ("fast", "paper"))
    assert f"fast: {fast.epochs} epochs in one cycle" in text
    assert f"paper: {paper.epochs} epochs, learning rate halved every 20" in text
    assert f"(None: the preset's, {fast.batch_size})" in text
    assert (fast.optimizer.schedule, paper.optimizer.schedule) == ("one_cycle", "halving")
    if command == "connect":
        fast, paper = (mcjax.PamConfig.preset(name) for name in ("fast", "paper"))
        half_steps = f"{fast.permutation.epochs} epochs of the permutation and {fast.curve.epochs} of the curve"
        assert f"with --pam {fast.iterations} iterations of {half_steps}" in text
        half_steps = f"{paper.permutation.epochs} and {paper.curve.epochs} epochs"
        assert f"with --pam {paper.iterations} iterations of {half_steps}" in text


def test_help_of_all_names_the_commands(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert command in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], COMMANDS),
        (["conect"], ("connect",)),
        (["train", "--epochs", "three"], ("--epochs", "three")),
        (["train", "--epoch", "3"], ("--epoch",)),
        (["train", "--preset", "slow"], ("fast", "paper")),
        (["connect", "a"], ("theta_2", "required")),
        (["connect", "a", "b", "--curve", "spline"], ("line", "bezier", "chain")),
    ],
)
def test_arguments_that_cannot_be_parsed_are_wrong_input(capsys, arguments, words):
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (mcjax.InputError("got 0, expected 1."), 2, "mcjax: error: got 0, expected 1.\n"),
        (mcjax.SpecError("not a symmetry"), 2, "mcjax: error: not a symmetry\n"),
        (mcjax.RunError("the disk is full"), 1, "mcjax: failed: the disk is full\n"),
        (OSError(28, "No space left on device"), 1, "mcjax: failed: [Errno 28] No space left on device\n"),
        (
            KeyboardInterrupt(),
            130,
            "mcjax: interrupted: complete epochs are kept, and the same command goes on from them.\n",
        ),
        (
            KeyboardInterrupt(143),
            143,
            "mcjax: interrupted: complete epochs are kept, and the same command goes on from them.\n",
        ),
        (None, 0, ""),
    ],
)
def test_exit_codes(capsys, monkeypatch, error, code, message):
    def fail(self):
        if error is not None:
            raise error

    monkeypatch.setattr(Quickstart, "run", fail)
    assert main(["quickstart"]) == code
    assert capsys.readouterr() == ("", message)


def test_input_that_is_probably_not_meant_is_one_line(capsys):
    def work():
        for _ in range(2):
            warnings.warn("these are stale", InputWarning, stacklevel=1)
        warnings.warn("of another library", FutureWarning, stacklevel=1)

    with pytest.warns(FutureWarning, match="another library"):
        assert cli.guarded("work", work) == 0
    assert capsys.readouterr().err == "work: warning: these are stale\n"


def test_experiments_report_failures_in_the_same_way(capsys):
    def fail():
        raise KeyboardInterrupt

    assert cli.guarded("benchmark", fail) == 130
    assert capsys.readouterr().err.startswith("benchmark: interrupted")


@pytest.fixture
def _heard():
    """A Ctrl-C is heard here, also where a shell has put the tests into the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heard")
def test_an_interrupt_that_was_swallowed_comes_again(monkeypatch):
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it comes while one waits
        cli._silent(SimpleNamespace(exc_type=KeyboardInterrupt))
        for _ in range(6000):
            time.sleep(0.01)
    monkeypatch.setattr(cli.threading, "Timer", None)
    cli._silent(SimpleNamespace(exc_type=ValueError))


def test_bugs_are_not_hidden(monkeypatch):
    def fail(self):
        raise ZeroDivisionError

    monkeypatch.setattr(Quickstart, "run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["quickstart"])


@pytest.fixture
def _process(monkeypatch):
    """What the entry point changes in a process is as before after a test."""
    monkeypatch.setattr(cli.logging, "disable", lambda level: None)
    monkeypatch.setattr(cli.signal, "signal", lambda number, handler: None)
    for name in ("unraisablehook", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))


@pytest.mark.usefixtures("_process")
def test_entry_leaves_with_the_exit_code(monkeypatch):
    monkeypatch.setattr(cli, "main", lambda: 7)
    with pytest.raises(SystemExit) as leaving:
        cli.entry()
    assert leaving.value.code == 7


def in_a_process(*arguments, **options):
    command = [sys.executable, "-m", "mcjax.cli", *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=300, **options)


def test_what_takes_long_to_import_is_imported_where_it_is_used():
    slow = ("matplotlib", "orbax", "scipy.optimize", "sklearn", "tensorflow_datasets", "tyro")
    script = f"import sys, mcjax; print(*(name for name in {slow} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout == "\n", done.stderr


STREAMS = """
import os, signal, sys
import mcjax.runs.progress
from mcjax import cli, errors

mcjax.runs.progress.PRINT_EVERY_S = -1.0
gone, other = os.pipe()
os.close(gone)
FULL = os.open("/dev/full", os.O_WRONLY)

def work(error):
    progress = mcjax.runs.progress.Progress("work", 2000)
    for epoch in range(2000):
        progress.update(epoch + 1, "loss \\u00b1")
    print("\\u00b1 \\udce9", "result" * 20000)
    open("done", "w").close()
    if isinstance(error, int):
        signal.raise_signal(error)
    raise error

CASES = (
    ({1: other, 2: other}, 0, SystemExit(0)),
    ({1: other, 2: other}, 2, errors.InputError("got 1")),
    ({2: FULL}, 130, KeyboardInterrupt()),
    ({2: FULL}, 143, signal.SIGTERM),
    ({2: None}, 0, SystemExit(0)),
    ({0: None, 1: None, 2: None}, 2, errors.InputError("got 1")),
)
for streams, code, error in CASES:
    child = os.fork()
    if not child:
        for number, put in streams.items():
            os.close(number) if put is None else os.dup2(put, number)
            # As Python does at its start.
            stream = None if put is None else open(number, "w", encoding="ascii", closefd=False)
            setattr(sys, ("stdin", "stdout", "stderr")[number], stream)
        cli.leave(lambda: cli.guarded("work", lambda: work(error)))
    found = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert (os.path.exists("done"), found) == (True, code), (streams, code, found)
    os.remove("done")
"""


def test_readers_that_go_away_change_no_work_and_no_exit_code(tmp_path):
    command, ascii_only = [sys.executable, "-W", "ignore", "-c", STREAMS], {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300, env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {b"?", b"result" * 20000}
    for words in (b"Traceback", b"ignored", b"failed"):
        assert words not in done.stderr


@pytest.mark.slow
def test_whole_commands_in_processes_of_their_own(tiny_data, tmp_path, capsys, monkeypatch):
    names = ("train_images", "train_labels", "test_images", "test_labels", "num_classes")
    np.savez(tmp_path / "bars.npz", **{name: getattr(tiny_data, name) for name in names})

    def ok(*arguments):
        done = in_a_process(*arguments, stdout=subprocess.PIPE, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "arning" not in done.stderr
        return done.stdout

    small = ("--model", "mlp", "--widths", 6, 5, "--epochs", 2, "--batch-size", 16)
    ok("train", "--data", "bars.npz", *small, "--out", "t")
    assert "correlation before" in ok("match", "t/0", "t/1", "--out", "m")
    fit = ("--epochs", 2, "--batch-size", 16, "--points", 5)
    out = ok("connect", "t/0", "t/1", *fit, "--permutation", "m/permutation.npz", "--out", "c")
    # What is measured again, in this process.
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", "c", "--points", 5, "--out", "e") == 0
    assert out.splitlines()[:-1] == capsys.readouterr().out.splitlines()[:-1]
    assert run("evaluate", "t") == 0
    [folder] = (tmp_path / "runs").iterdir()
    names = {name: (tmp_path / name / "results.json").read_text() for name in ("t", "c", "e")}
    assert json.loads((folder / "results.json").read_text()) == json.loads(names["t"])
    full = open("/dev/full", "w")  # noqa: SIM115
    with full:
        done = in_a_process("evaluate", "c", "--points", 5, "--out", "e", stdout=full, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "mcjax: failed: [Errno 28] No space left on device"
    assert (tmp_path / "e" / "results.json").read_text() == names["e"]
    for path in (tmp_path / "t" / "checkpoints" / "network_0" / "state" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:20])
    done = in_a_process("evaluate", "t/0", stdout=subprocess.PIPE, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    [message] = done.stderr.splitlines()
    assert message.startswith("mcjax: error: the checkpoint ")
    assert "truncated" in message


@pytest.mark.usefixtures("_process")
def test_an_interrupted_process_leaves_at_once(monkeypatch):
    # Without tearing down runtimes that were in the middle of something.
    left = []
    monkeypatch.setattr(cli, "main", lambda: 130)
    monkeypatch.setattr(cli.os, "_exit", lambda code: left.append(code) or sys.exit(code))
    with warnings.catch_warnings(), pytest.raises(SystemExit):
        cli.entry()
    assert left == [130]
