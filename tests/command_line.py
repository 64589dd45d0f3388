"""Calling commands in this process, and what they say."""

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
