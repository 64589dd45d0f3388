"""One line of progress for a whole study: what is being done, how much of all work is done, and the time left."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mcjax.runs.progress import duration
from mcjax.runtime.processes import is_first_process

BACKWARD = 2.0
"""A gradient costs twice a forward pass."""
SAY_EVERY_S = 30.0
"""Without a terminal, a line is written this often at most."""


class Display:
    """Progress over the stages of a study; plain lines without a terminal.

    costs: of every stage, what it costs in any unit, and how many epochs it has (0: it is no fit).
    `stage` is around the work of one stage; `fit` makes what a Recorder tells the epochs of a fit to. A
    stage that turns out to be done already is passed over with `skip`, and time is told from the others.
    """

    def __init__(self, costs: Mapping[str, tuple[float, int]]) -> None:
        self.costs = dict(costs)
        self.left = sum(cost for cost, _ in self.costs.values())
        self.done, self.began, self.said = 0.0, time.monotonic(), -SAY_EVERY_S
        self.name, self.epochs, self.line, self.terminal = "", 0, "", sys.stderr.isatty()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The work of one stage."""
        self.name, self.epochs = name, 0
        self._say("", always=True)
        yield
        cost, _ = self.costs.pop(name, (0.0, 0))
        self.done, self.left = self.done + cost, self.left - cost

    def skip(self, name: str) -> None:
        """A stage was done before."""
        self.left -= self.costs.pop(name, (0.0, 0))[0]

    def fit(self, title: str, epochs: int, images: int, start: int) -> "FitDisplay":
        """What a fit tells its epochs to: it is a part of the stage that is being done."""
        return FitDisplay(self, epochs)

    def close(self) -> None:
        """End the line."""
        if self.terminal and self.line:
            print(file=sys.stderr)

    def _say(self, detail: str, always: bool = False) -> None:
        now = time.monotonic()
        if not is_first_process():
            return
        if not always and now - self.said < (0.1 if self.terminal else SAY_EVERY_S):
            return
        self.said = now
        cost, epochs = self.costs.get(self.name, (0.0, 0))
        part = cost * min(1.0, self.epochs / epochs) if epochs else 0.0
        done, whole = self.done + part, self.done + self.left
        seconds = (now - self.began) / done * (whole - done) if done else None
        left = "" if seconds is None else f", {duration(seconds)} left"
        text = f"{100 * done / whole if whole else 100:3.0f}%{left} | {self.name}{detail}"
        if self.terminal:
            print(f"\r{text:<{len(self.line)}}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
        self.line = text


class FitDisplay:
    """The epochs of one fit; a stage may have several, one after another."""

    def __init__(self, whole: Display, epochs: int) -> None:
        self.whole, self.epochs, self.before = whole, epochs, whole.epochs

    def update(self, epoch: int, loss: float) -> None:
        """Say that `epoch` of the epochs are done, the last one at this mean loss."""
        self.whole.epochs = self.before + epoch
        self.whole._say(f", epoch {epoch} of {self.epochs}, loss {loss:.4f}")

    def close(self) -> None:
        """The fit is done; the stage goes on, or ends by itself."""
        self.whole.epochs = self.before + self.epochs
