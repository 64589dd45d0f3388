"""The stages of a run: each keeps its state after its last complete step, and goes on from it."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from mcjax import trees
from mcjax.errors import InputError
from mcjax.runs import checkpoint
from mcjax.runs.folder import RunFolder
from mcjax.runtime.processes import on_first_process

SAVE_EVERY_S = 1.0
"""Steps that end sooner than this after the last save are not saved, unless they are the last."""


class Saved(NamedTuple):
    """A state that was kept.

    Attributes:
        step: Number of the step after which it was kept.
        state: Nested dicts of arrays, as they were saved.
        about: JSON that was saved with it.
    """

    step: int
    state: trees.Tree
    about: dict[str, Any]


class Stage:
    """One iteration of a run: its metrics in the run folder, and its state after the last complete step.

    A step is an epoch of a fit, or a depth of a string. Without a run folder nothing is kept.
    """

    def __init__(self, run: RunFolder | None, name: str, fingerprint: str = "") -> None:
        """Open a stage.

        Args:
            run: The run folder, or None.
            name: Name of the stage: of its lines in metrics.jsonl, and of its folder of checkpoints.
            fingerprint: Hash of all that the iteration is made from. A state that was saved under another one is
                refused.
        """
        self.run, self.name, self.fingerprint = run, name, fingerprint
        self._saved_at = time.monotonic()

    def restore(self, first: int = 0) -> Saved | None:
        """The state that was kept last, or None. Metrics of later steps, or of all from `first` on, are dropped.

        Raises:
            InputError: If what was kept is broken, or belongs to another iteration.
        """
        if self.run is None:
            return None
        saved = self._read()
        self.run.rewind(self.name, first if saved is None else saved.step)
        return saved

    def _read(self) -> Saved | None:
        path = self.path
        checkpoint.recover(path)
        if not path.exists():
            return None
        try:
            state, about = checkpoint.load(path), checkpoint.describe(path)
        except InputError as error:
            raise InputError(f"{error} Or delete {path}: the same command then does this stage anew.") from error
        if "epoch" not in about or about.get("fingerprint", "") != self.fingerprint:
            raise InputError(
                f"{path} was saved by another iteration: of other networks, data or settings, or by another key. "
                "Delete it, or use another folder."
            )
        return Saved(about["epoch"], state, about)

    @property
    def path(self) -> Any:
        """The checkpoint of the state."""
        assert self.run is not None
        return self.run.checkpoints(self.name) / "latest"

    @on_first_process
    def log(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Write the metrics of a step. Returns whether it is time to save: the same in every process."""
        if self.run is not None:
            self.run.log(self.name, step, metrics)
        return time.monotonic() - self._saved_at > SAVE_EVERY_S

    def save(self, step: int, state: trees.Tree, about: Mapping[str, Any] | None = None) -> None:
        """Keep the state after a step, with JSON about it; it replaces the one before."""
        if self.run is not None:
            mark = {"fingerprint": self.fingerprint} if self.fingerprint else {}
            checkpoint.save(self.path, state, {**(about or {}), **mark, "epoch": step})
        self._saved_at = time.monotonic()
