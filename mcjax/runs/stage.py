"""Stages of a run: each saves its state after complete steps, and resumes from it."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mcjax import trees
from mcjax.errors import InputError
from mcjax.runs import checkpoint
from mcjax.runs.folder import RunFolder, differences
from mcjax.runtime.processes import on_first_process

SAVE_EVERY_S = 1.0
"""Least number of seconds between two saves; the last step is saved in any case."""


class Saved(NamedTuple):
    """A saved state.

    Attributes:
        step: Number of the step after which it was saved.
        state: Nested dicts of arrays.
        about: JSON saved with it.
    """

    step: int
    state: trees.Tree
    about: dict[str, Any]


class Stage:
    """One iteration of a run: its metrics in the run folder, and its state after the last complete step.

    A step is an epoch of a fit, or a depth of a string. Without a run folder, nothing is saved.
    """

    def __init__(self, run: RunFolder | None, name: str, inputs: Mapping[str, Any] | None = None) -> None:
        """Open a stage.

        Args:
            run: The run folder, or None.
            name: Name of the stage in metrics.jsonl and among the checkpoints.
            inputs: All inputs of the iteration by name, as JSON, such as hashes. A state of others raises an error.
        """
        self.run, self.name, self.inputs = run, name, dict(inputs or {})
        self._saved_at = time.monotonic()

    def restore(self, first: int = 0) -> Saved | None:
        """The state that was saved last, or None. Metrics of later steps (without one, after step `first`) are removed.

        Raises:
            InputError: If the saved state is broken, or belongs to another iteration.
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
            raise InputError(f"{error} Or delete {path}: the same command then repeats this stage.") from error
        found = "; ".join(differences(about.get("inputs", {}), json.loads(json.dumps(self.inputs))))
        if "epoch" not in about or found:
            raise InputError(
                f"{path} was saved by another iteration ({found or 'its epoch is not known'}). "
                "Resume it with what it was saved with. Delete it to begin again, or use another folder."
            )
        return Saved(about["epoch"], state, about)

    @property
    def path(self) -> Path:
        """The checkpoint of the state."""
        assert self.run is not None
        return self.run.checkpoints(self.name) / "latest"

    @on_first_process
    def log(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Write the metrics of a step. Returns whether a save is due, equally in every process."""
        if self.run is not None:
            self.run.log(self.name, step, metrics)
        return time.monotonic() - self._saved_at > SAVE_EVERY_S

    def save(self, step: int, state: trees.Tree, about: Mapping[str, Any] | None = None) -> None:
        """Save the state after a step, with JSON about it; it replaces the previous one."""
        if self.run is not None:
            self.run.hold()
            mark = {"inputs": self.inputs} if self.inputs else {}
            checkpoint.save(self.path, state, {**(about or {}), **mark, "epoch": step})
        self._saved_at = time.monotonic()
