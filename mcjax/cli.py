"""The command line: parse a command, run it, and report an error in one message."""

import _thread
import errno
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import tyro

from mcjax.commands.connect import Connect
from mcjax.commands.evaluate import Evaluate
from mcjax.commands.match import Match
from mcjax.commands.merge import Merge
from mcjax.commands.quickstart import Quickstart
from mcjax.commands.report import Report
from mcjax.commands.train import Train
from mcjax.errors import InputError, InputWarning, RunError

Command = (
    Annotated[Quickstart, tyro.conf.subcommand("quickstart")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Match, tyro.conf.subcommand("match")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Connect, tyro.conf.subcommand("connect")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line. None: that of the process.

    Returns:
        The exit code: 0, 1 (the run failed), 2 (wrong input), 130 (Ctrl-C) or 143 (SIGTERM).
    """

    def run() -> None:
        command: Command = tyro.cli(
            Command,
            prog="mcjax",
            description="Mode connectivity of trained networks, up to permutation symmetry.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
        command.run()

    return guarded("mcjax", run)


def guarded(name: str, run: Callable[[], None]) -> int:
    """Call `run`, print an error as one message of program `name`, and return the exit code, as `main` does."""

    def fail(message: str, code: int) -> int:
        print(f"{name}: {message}", file=sys.stderr)
        return code

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, InputWarning):
            print(f"{name}: warning: {message}", file=sys.stderr)
        else:
            others(message, category, *where, **more)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", InputWarning)
            others, warnings.showwarning = warnings.showwarning, show
            run()
        sys.stdout.flush()
    except InputError as error:
        return fail(f"error: {error}", 2)
    except (RunError, OSError) as error:
        return fail(f"failed: {error}", 1)
    except KeyboardInterrupt as stop:
        code = stop.args[0] if stop.args else 130
        return fail("interrupted: complete epochs are kept, and the same command goes on from them.", code)
    return 0


def entry() -> None:
    """Entry point of the `mcjax` script."""
    leave(main)


def leave(command: Callable[[], int]) -> NoReturn:
    """Call a command with the messages of its libraries silenced, and end the process with its exit code."""
    _open_streams()
    signal.signal(signal.SIGTERM, _terminate)  # of a queue whose time is up, or that wants the machine
    # Start-up notices of XLA and TensorFlow would precede the table.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Orbax and its threads log broken files and full disks, which mcjax reports itself.
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = _silent
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    code = command()
    if code > 128:
        # A runtime that is interrupted in a computation can crash at exit.
        with suppress(OSError):
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class _Lasting(io.FileIO):
    """A standard stream that lets the work go on, and the exit code stand, when its reader goes away."""

    failed = False

    def write(self, data: Any) -> int:
        """Write, or lose, the data. Raises OSError on standard output alone, once, for a full disk and the like."""
        try:
            return super().write(data)
        except OSError as error:
            if self.name == 1 and error.errno not in (errno.EPIPE, errno.EIO) and not self.failed:
                self.failed = True  # what is left in the buffer is written again at exit
                raise
            return len(data)


def _open_streams() -> None:
    """Replace the standard streams by lasting ones, which have a sign for what is not in their encoding."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # a file that is opened later would be written to in its place
    for number, name in ((1, "stdout"), (2, "stderr")):
        before: Any = getattr(sys, name)
        # Without a stream, its number can be that of another file.
        raw = _Lasting(os.devnull if before is None else number, "w", closefd=before is None)
        encoding, errors = getattr(before, "encoding", "utf-8"), "replace" if number == 1 else "backslashreplace"
        lines = getattr(before, "line_buffering", True)
        setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=lines))


def _terminate(number: int, _: Any) -> NoReturn:
    raise KeyboardInterrupt(128 + number)


def _silent(unraisable: Any) -> None:
    # A KeyboardInterrupt raised in a callback of the garbage collector, as JAX has one, is lost: send it again.
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, _thread.interrupt_main).start()


if __name__ == "__main__":
    entry()
