"""A progress line: title, steps done, and the time left."""

import sys
import time
from contextlib import suppress
from typing import Any

from mcjax.runtime.processes import is_first_process

PRINT_EVERY_S = 10.0
"""Least number of seconds between two lines without a terminal."""


class Progress:
    """A progress line on stderr. Without a terminal, a line is printed every ten seconds at most.

    The time left is estimated from the steps of this process, so that it is right for a resumed run. With several
    processes, the first prints. A line that cannot be printed is lost, and the work goes on.

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
            title: Name of the task.
            total: Number of steps. None: unknown.
            unit: Name of a step.
            start: Number of steps done by the run that is resumed.
            items: Number of examples per step, to show examples per second. 0: not shown.
            warmup: Whether the first step takes longer, because it compiles.
        """
        self.title, self.total, self.unit, self.items = title, total, unit, items
        self.done = start
        # The step and time from which speed is measured: after the first step, which compiles.
        self._since, self._first, self._warmup = (start, time.monotonic()), True, warmup
        self._written, self._text = time.monotonic(), ""
        self._seconds: float | None = None  # per step
        self._bar: Any = None
        if is_first_process() and sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, desc=title, unit=unit, leave=True, dynamic_ncols=True)

    def update(self, done: int, text: str = "", *, quiet: bool = False) -> None:
        """Show that `done` steps are complete, with a text on the last one; `quiet` counts them without printing."""
        now, first = time.monotonic(), self._first
        step, at = self._since
        seconds = (now - at) / max(done - step, 1)
        new, self.done, self._text, self._first = done - self.done, done, text, False
        self._seconds = seconds
        if first and self._warmup:
            self._since = (done, now)
        parts = [text] * bool(text)
        if self.items:
            parts.append(f"{self.items / max(seconds, 1e-9):,.0f} examples/s")
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(parts))
            self._bar.update(new)
        elif not quiet:
            of = "" if self.total is None else f"/{self.total}"
            parts += ["compiled"] if first and self._warmup and self.total is not None else self.left()
            always = first or done == self.total or self.total is None
            self._write(", ".join([f"{self.title}: {self.unit} {done}{of}", *parts]), always)

    def left(self) -> list[str]:
        """The time left as a list of one text, or an empty list if it is unknown."""
        if self.total is None or self._seconds is None:
            return []
        return [f"{duration((self.total - self.done) * self._seconds)} left"]

    def skip(self) -> None:
        """Count a step that was done by the run that is resumed."""
        self.done += 1
        self._since = (self._since[0] + 1, self._since[1])
        if self._bar is not None:
            self._bar.initial += 1
            self._bar.update(1)

    def show(self, text: str, always: bool = False) -> None:
        """Show a text on the current step: every ten seconds at most, or `always`."""
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(filter(None, (self._text, text))))
        else:
            self._write(f"{self.title}: {text}", always)

    def part(self, title: str, total: int | None, *, unit: str = "epoch") -> "Progress":
        """Progress of a task inside the current step, shown in this line, without a speed or a time left."""
        return _Part(self, title, total, unit)

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.close()

    def _write(self, line: str, always: bool = False) -> None:
        now = time.monotonic()
        if is_first_process() and (always or now - self._written > PRINT_EVERY_S):
            self._written = now
            # Also where there is no stream, or a closed one.
            with suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()


class _Part(Progress):
    """Progress of a task inside a step of another one, whose line it uses."""

    def __init__(self, whole: Progress, title: str, total: int | None, unit: str) -> None:
        self.whole, self.title, self.total, self.unit, self.done = whole, title, total, unit, 0
        self._seconds = None  # the time left is that of the whole

    def update(self, done: int, text: str = "", *, quiet: bool = False) -> None:
        self.done = done
        of = "" if self.total is None else f"/{self.total}"
        if not quiet:
            self.show(", ".join(filter(None, (f"{self.unit} {done}{of}", text))))

    def skip(self) -> None:
        self.done += 1

    def show(self, text: str, always: bool = False) -> None:
        self.whole.show(f"{self.title}: {text}", always)

    def close(self) -> None:
        """Do nothing: the line belongs to the whole."""


def duration(seconds: float) -> str:
    """Seconds as text: 1.5 s, 12 s, 4 min 05 s, 1 h 07 min."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
