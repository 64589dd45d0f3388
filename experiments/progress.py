"""The progress of a study: one line with the stage under way, the time so far and the time left."""

import sys
import time
from typing import NamedTuple

from mcjax.runs.folder import duration
from mcjax.runtime.processes import is_first

SAY_EVERY_S = 30.0
"""Without a terminal, a line is written at most this often."""


class Progress:
    """One line of progress: the stage under way, the time so far, the time left, the epoch of a fit.

    The time left is that of as many stages of mean duration, over those that were completed in this run. A stage that
    another one needs is begun inside it, and its seconds are its own.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.began, self.said, self.line = time.monotonic(), -SAY_EVERY_S, ""
        self.under_way: list[tuple[str, float]] = []
        self.seconds: list[float] = []
        self.terminal = sys.stderr.isatty()

    def begin(self, name: str) -> None:
        """Begin a stage."""
        self.under_way.append((name, time.monotonic()))
        self.say(always=True)

    def end(self, completed: bool = True) -> float:
        """End the last stage that was begun; the seconds that it took without those begun inside it."""
        _, began = self.under_way.pop()
        seconds = time.monotonic() - began
        # Whatever contains this stage begins so much later.
        self.under_way = [(name, at + seconds) for name, at in self.under_way]
        if completed:
            self.done += 1
            self.seconds.append(seconds)
        return seconds

    def skip(self) -> None:
        """Count a stage that an earlier run completed."""
        self.done += 1

    def left(self) -> float | None:
        """The seconds that are left; None before the first stage is completed."""
        if not self.seconds or not self.under_way:
            return None
        mean = sum(self.seconds) / len(self.seconds)
        rest = mean - (time.monotonic() - self.under_way[-1][1])
        return mean * max(0, self.total - self.done - 1) + max(0.0, rest)

    def say(self, detail: str = "", always: bool = False) -> None:
        """Write the line, unless the last one is too recent."""
        now = time.monotonic()
        if not is_first() or (not always and now - self.said < (0.1 if self.terminal else SAY_EVERY_S)):
            return
        self.said = now
        text = f"stage {self.done + 1} of {self.total}: {self.under_way[-1][0]}, {duration(now - self.began)}"
        if (left := self.left()) is not None:
            text += f", {duration(left)} left"
        text += f" | {detail}" if detail else ""
        if self.terminal:
            print(f"\r{text:<{len(self.line)}}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
        self.line = text

    def close(self) -> None:
        """End the line."""
        if self.terminal and self.line:
            print(file=sys.stderr)


class FitProgress(NamedTuple):
    """The progress of one fit of a stage, as a Recorder calls it.

    Attributes:
        progress: the progress of the study.
        total: the number of epochs, or of whatever the fit counts.
        unit: its name.
        value: the name of the value that is reported with it.
    """

    progress: Progress
    total: int
    unit: str
    value: str

    def update(self, number: int, value: float) -> None:
        """Say that so many epochs are done, and the value after the last one."""
        self.progress.say(f"{self.unit} {number} of {self.total}, {self.value} {value:.4f}")

    def close(self) -> None:
        """End the fit; the stage goes on."""
