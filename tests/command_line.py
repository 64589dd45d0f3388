"""Calling commands in this process, and what they say."""

import subprocess
import sys

from mcjax.cli import main

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
GIVEN = ("--model", "mlp", "--widths", 6, 5)
SMALL = (*GIVEN, "--epochs", 4, "--batch-size", 16)


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
    message = err[err.index("mcjax: ") :]
    assert message.startswith({1: "mcjax: failed: ", 2: "mcjax: error: ", 130: "mcjax: interrupted: "}[code])
    for pattern in patterns:
        assert pattern in message
    return message


FORKING = """
import os, sys
from pathlib import Path
from mcjax import cli

for case in sys.argv[2].split():
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
folder = Path(sys.argv[1], case)
folder.mkdir()
os.dup2(os.open(folder / "stderr", os.O_CREAT | os.O_WRONLY), 2)
"""
ENTERING = """
sys.argv = ["mcjax", *sys.argv[3:], "--out", str(folder / "run")]
cli.entry()
"""


def dying(script, folder, cases, command):
    """The exit codes of one command a case, each in a child and in `folder`/case: its `stderr`, and `run`.

    script: what is run before the children part, which imports, since that takes longer than the work, and what each
    of them does to die, by its `case`.
    """
    imports, dies = script
    whole = imports + FORKING + dies + ENTERING
    arguments = [str(folder), " ".join(cases), *map(str, command)]
    done = subprocess.run([sys.executable, "-c", whole, *arguments], stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0
    return [int(code) for code in done.stdout.split()]
