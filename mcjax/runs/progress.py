"""One line of progress: what is under way, how much of it is done, and the time left."""

import sys
import time
from typing import Any

from mcjax.runtime.processes import is_first_process

SAY_EVERY_S = 10.0
"""Seconds between two lines without a terminal."""


class Progress:
    """A line on stderr that follows steps of one kind; plain lines, every ten seconds at most, without a terminal.

    The time left is told from the steps of this process, so that it is right for a run that was resumed. Of several
    processes, the first writes.

    Example::

        progress = Progress("training", 30)
        for epoch in range(30):
            progress.update(epoch + 1, f"loss {loss:.4f}")
        progress.close()
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        unit: str = "epoch",
        start: int = 0,
        items: int = 0,
        warmup: bool = True,
    ) -> None:
        """Begin the line.

        Args:
            title: What is under way.
            total: Number of steps. None if it is not known beforehand.
            unit: Name of a step.
            start: Steps that were done before, by the run that is resumed.
            items: Images of one step, to tell how many are processed per second. 0 tells nothing.
            warmup: Whether the first step takes longer than the others, because it compiles.
        """
        self.title, self.total, self.unit, self.items = title, total, unit, items
        self.done = start
        # Speed is told from the steps after this one: the first step compiles.
        self._since, self._first, self._warmup = (start, time.monotonic()), True, warmup
        self._written, self._said = time.monotonic(), ""
        self._seconds: float | None = None  # of one step
        self._bar: Any = None
        if is_first_process() and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, desc=title, unit=unit, leave=True, dynamic_ncols=True)

    def update(self, done: int, said: str = "", *, quiet: bool = False) -> None:
        """Tell that `done` steps are complete, and what the last one found; `quiet` counts them without a line."""
        now, first = time.monotonic(), self._first
        step, at = self._since
        seconds = (now - at) / max(done - step, 1)
        new, self.done, self._said, self._first = done - self.done, done, said, False
        self._seconds = seconds
        if first and self._warmup:
            self._since = (done, now)
        parts = [said] * bool(said)
        if self.items:
            parts.append(f"{self.items / max(seconds, 1e-9):,.0f} images/s")
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(parts))
            self._bar.update(new)
        elif not quiet:
            of = "" if self.total is None else f"/{self.total}"
            parts += ["compiled"] if first and self._warmup and self.total is not None else self.left()
            always = first or done == self.total or self.total is None
            self._write(", ".join([f"{self.title}: {self.unit} {done}{of}", *parts]), always)

    def left(self) -> list[str]:
        """The time left, as text, or nothing if it is not known yet."""
        if self.total is None or self._seconds is None:
            return []
        return [f"{duration((self.total - self.done) * self._seconds)} left"]

    def skip(self) -> None:
        """Count a step that was done before, by the run that is resumed."""
        self.done += 1
        self._since = (self._since[0] + 1, self._since[1])
        if self._bar is not None:
            self._bar.initial += 1
            self._bar.update(1)

    def show(self, said: str, always: bool = False) -> None:
        """Tell how the step under way gets on: now and then, or `always`."""
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(filter(None, (self._said, said))))
        else:
            self._write(f"{self.title}: {said}", always)

    def part(self, title: str, total: int | None, *, unit: str = "epoch", start: int = 0, items: int = 0) -> "Progress":
        """Progress of something inside the step under way, which is shown in this line."""
        return _Part(self, title, total, unit)

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.close()

    def _write(self, line: str, always: bool = False) -> None:
        now = time.monotonic()
        if is_first_process() and (always or now - self._written > SAY_EVERY_S):
            self._written = now
            print(line, file=sys.stderr, flush=True)


class _Part(Progress):
    """A part of another progress: it has no line of its own."""

    def __init__(self, whole: Progress, title: str, total: int | None, unit: str) -> None:
        self.whole, self.title, self.total, self.unit, self.done = whole, title, total, unit, 0

    def update(self, done: int, said: str = "", *, quiet: bool = False) -> None:
        self.done = done
        of = "" if self.total is None else f"/{self.total}"
        self.show(", ".join(filter(None, (f"{self.unit} {done}{of}", said))))

    def show(self, said: str, always: bool = False) -> None:
        self.whole.show(f"{self.title}: {said}", always)

    def close(self) -> None:
        """Nothing: the line is the whole's."""


def duration(seconds: float) -> str:
    """Seconds as a person says them: 1.5 s, 12 s, 4 min 05 s, 1 h 07 min."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
