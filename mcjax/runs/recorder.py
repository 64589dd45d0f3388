"""What happens at the end of an epoch: checks, metrics, checkpoints, a line of progress; and resuming."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mcjax import trees
from mcjax.runs.checkpoint import Resumable
from mcjax.errors import RunError
from mcjax.runtime.processes import by_first, is_first, several
from mcjax.runs.folder import Progress, RunFolder
from mcjax.runtime.mesh import Placement

SAVE_EVERY_S = 1.0
"""Epochs that end sooner than this after the last save are not saved, unless they are the last."""

History = dict[str, np.ndarray]
"""The metrics of every fit at every epoch: float32 (fits, epochs)."""


class Recorder(NamedTuple):
    """Where a fit reports: a line of progress under `title`, and the `stage` of a run folder, if any.

    progress: False for none, True for a line of its own, or what is called as `Progress` is, with the
    title, the epochs, the images of one and the epochs done, for an object with its methods.
    """

    title: str
    run: RunFolder | None = None
    stage: str = "fit"
    progress: bool | Callable[[str, int, int, int], Any] = True


class Recording:
    """The state of fits after their last complete epoch, on the way from epoch to epoch.

    It starts from what an interrupted run left in the recorder's run folder. `states`, which lie
    where `placement` says, `history` and `done` (epochs) always belong together.
    """

    def __init__(self, recorder: Recorder, states: trees.Tree, placement: Placement, epochs: int, images: int) -> None:
        self.recorder, self.placement, self.epochs = recorder, placement, epochs
        self.done = 0
        self.history: History = {name: np.zeros((placement.count, 0), np.float32) for name in ("loss", "accuracy")}
        self._kept: Resumable | None = None
        if recorder.run is not None:
            self._kept = Resumable(recorder.run.checkpoints(recorder.stage))
            if restored := self._kept.restore(states):
                self.done, states, self.history = restored
            recorder.run.rewind(recorder.stage, self.done)
        self.states = placement.put(states)
        self._saved, self._saved_at = self.done, time.monotonic()
        show = Progress if recorder.progress is True else recorder.progress
        self._progress = show(recorder.title, epochs, images, self.done) if show and is_first() else None

    def add(self, states: trees.Tree, values: dict[str, np.ndarray]) -> None:
        """One more epoch: its states, and what it measured (fits,). Raises RunError if a loss is not finite."""
        self._check(values["loss"])
        number = self.done + 1
        longer = {name: np.concatenate([self.history[name], values[name][:, None]], 1) for name in self.history}
        due = self._log(number, values)
        # One assignment, after the log: an interruption finds a whole epoch, or none of it.
        self.states, self.history, self.done = states, longer, number
        if due:
            self._save()
        if self._progress is not None:
            self._progress.update(number, float(values["loss"].mean()))

    def close(self) -> None:
        """End the line of progress; keep the last complete epoch, however the fit ended."""
        if self._progress is not None:
            self._progress.close()
        # Who is interrupted alone among several processes would wait for the others here.
        if self._saved < self.done and not several():
            self._save()

    @by_first
    def _log(self, number: int, values: dict[str, np.ndarray]) -> bool:
        """Write the metrics of an epoch; whether it is time to save, on which no two clocks would agree."""
        if self.recorder.run is not None:
            metrics: dict[str, Any] = {name: value.tolist() for name, value in values.items()}
            self.recorder.run.log(self.recorder.stage, number, metrics)
        return number == self.epochs or time.monotonic() - self._saved_at > SAVE_EVERY_S

    def _save(self) -> None:
        if self._kept is not None:
            self._kept.save(self.done, self.placement.get(self.states), self.history)
        self._saved, self._saved_at = self.done, time.monotonic()

    def _check(self, loss: np.ndarray) -> None:
        if np.isfinite(loss).all():
            return
        if self._saved < self.done:
            self._save()
        which = ", ".join(map(str, np.flatnonzero(~np.isfinite(loss))))
        kept = f"Epoch {self.done} is kept. " if self.done else ""
        raise RunError(
            f"{self.recorder.title}: the loss of number {which} of {len(loss)} is not finite in epoch {self.done + 1}. "
            f"{kept}Lower the learning rate, or start from other networks."
        )
