"""Recording of fits, epoch by epoch: checks, metrics, checkpoints, progress, and resuming."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import jax
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, RunError, check_fields, check_kind
from mcjax.runs.folder import RunFolder
from mcjax.runs.progress import Progress
from mcjax.runs.stage import Stage
from mcjax.runtime.mesh import Placement
from mcjax.runtime.processes import many_processes

History = dict[str, np.ndarray]
"""Metric name -> its value for every fit and epoch, float32 (fits, epochs)."""


@dataclass(frozen=True)
class Recorder:
    """Settings of how a fit is recorded: `recorder=Recorder()` shows its progress.

    Attributes:
        title: Title of the progress line, and name of the fit in messages.
        run: The run folder, or None.
        stage: Name of the fit in the run folder.
        progress: Whether there is a progress line, or a `Progress` whose line is shared.
        inputs: What the fit depends on, as `of` describes it. A saved state of other inputs is refused.
    """

    title: str = "the fit"
    run: RunFolder | None = None
    stage: str = "fit"
    progress: bool | Progress = True
    inputs: Mapping[str, Any] | None = None

    def of(self, settings: Any, **arrays: Any) -> "Recorder":
        """This recorder, for a fit with such inputs.

        Args:
            settings: Settings. Their functions, which have no lasting name, are told apart by their types alone.
            **arrays: Pytrees of arrays by name, such as the networks and keys; None is left out.
        """
        if self.run is None:
            return self
        marks = {name: trees.fingerprint(tree) for name, tree in arrays.items() if tree is not None}
        return replace(self, inputs={"settings": _as_json(settings), **marks})

    def __post_init__(self) -> None:
        check_fields(self)

    def line(self, total: int | None, *, unit: str = "epoch", start: int = 0, items: int = 0) -> Progress | None:
        """The progress line of `total` steps, of which `start` are done, or None without one."""
        if isinstance(self.progress, Progress):
            return self.progress.part(self.title, total, unit=unit)
        return Progress(self.title, total, unit=unit, start=start, items=items) if self.progress else None


def checked_recorder(recorder: Any, title: str = "the fit") -> Recorder:
    """The recorder, or a silent one of this title for None. Raises InputError for anything else."""
    recorder = Recorder(title, progress=False) if recorder is None else recorder
    check_kind("recorder", recorder, Recorder, "Recorder(), or Recorder(title, RunFolder(path, config))")
    return recorder


class Recording:
    """The states of several fits after their last complete epoch, and their history.

    It starts from the states that an interrupted run saved in the recorder's run folder, if there are any.

    Attributes:
        states: The states, with a leading axis of fits, on the devices of `placement`.
        history: Metrics of all complete epochs.
        done: Number of complete epochs.
    """

    def __init__(self, recorder: Recorder, states: trees.Tree, placement: Placement, epochs: int, items: int) -> None:
        """Start, or resume.

        Args:
            recorder: Settings.
            states: The initial states.
            placement: Placement of the states on devices.
            epochs: Total number of epochs.
            items: Number of examples per epoch, over all fits.
        """
        self.recorder, self.placement, self.epochs = recorder, placement, epochs
        self.done = 0
        self.history: History = {}
        self._stage = Stage(recorder.run, recorder.stage, recorder.inputs)
        if (saved := self._stage.restore()) is not None:
            if saved.step > epochs:
                raise InputError(
                    f"{self._stage.path} has {saved.step} epochs already: got epochs={epochs}. Expected at least as "
                    "many; or use another folder."
                )
            states, self.history = _unpacked(saved.state, states, self._stage)
            self.done = saved.step
        self.states = placement.put(states)
        self._saved = self.done
        self._progress = recorder.line(epochs, start=self.done, items=items)

    def add(self, states: trees.Tree, values: dict[str, np.ndarray]) -> None:
        """Complete an epoch.

        Args:
            states: The states after it.
            values: Its metrics, (fits,) each, with "loss" among them. "bad_step" and "bad_t" are the step and the t of
                a loss that is not finite, for the message.

        Raises:
            RunError: If a loss is not finite; the previous epoch is kept.
        """
        where = values.pop("bad_step", None), values.pop("bad_t", None)
        self._check(values["loss"], *where)
        number = self.done + 1
        before = self.history or {name: np.zeros((len(value), 0), np.float32) for name, value in values.items()}
        longer = {name: np.concatenate([before[name], values[name][:, None]], 1) for name in values}
        due = self._stage.log(number, {name: value.tolist() for name, value in values.items()})
        # One assignment, after the log, so that an interruption cannot split an epoch.
        self.states, self.history, self.done = states, longer, number
        if due or number == self.epochs:
            self._save()
        if self._progress is not None:
            self._progress.update(number, f"loss {float(values['loss'].mean()):.4f}")

    def close(self) -> None:
        """End the progress line, and save the last complete epoch if it is not saved."""
        if self._progress is not None:
            self._progress.close()
        # With several processes, one that was interrupted alone would wait here for the others.
        if self._saved < self.done and not many_processes():
            self._save()

    def interrupted(self, error: BaseException) -> None:
        """Say in a note of an interruption how many epochs were complete, and where they are or how to keep them."""
        run = self.recorder.run
        kept = "are lost: recorder=Recorder(title, RunFolder(path, config)) keeps them, and the same call resumes."
        if run is not None:
            kept = f"are kept in {run.path}: the same call resumes after them."
        error.add_note(f"{self.recorder.title}: {self.done} of {self.epochs} epochs were complete. They {kept}")

    def _save(self) -> None:
        if self.recorder.run is not None:
            self._stage.save(self.done, packed(self.placement.get(self.states), self.history))
        self._saved = self.done

    def _check(self, loss: np.ndarray, step: np.ndarray | None, t: np.ndarray | None) -> None:
        if np.isfinite(loss).all():
            return
        if self._saved < self.done:
            self._save()
        wrong = np.flatnonzero(~np.isfinite(loss))
        place = "" if step is None else f", first on batch {int(step[wrong[0]]) + 1}"
        if t is not None and np.isfinite(t[wrong[0]]):
            place += f" at t = {t[wrong[0]]:.3g}"
        kept = f"Epoch {self.done} is kept. " if self.done else ""
        raise RunError(
            f"{self.recorder.title}: the loss of number {', '.join(map(str, wrong))} of {len(loss)} is not finite in "
            f"epoch {self.done + 1}{place}. {kept}Lower the learning rate, or start from other networks."
        )


def _as_json(value: Any) -> Any:
    """Settings as JSON: numbers and texts as they are, dataclasses by field, and of anything else its type."""
    if is_dataclass(value):
        return {each.name: _as_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {str(name): _as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value if isinstance(value, str | int | float | None) else type(value).__name__


def packed(states: trees.Tree, history: History) -> trees.Tree:
    """States of any structure, and the history, as nested dicts."""
    leaves = jax.tree.leaves(trees.without_keys(states))
    return {"state": {f"{i:05d}": leaf for i, leaf in enumerate(leaves)}, "history": history}


def _unpacked(saved: trees.Tree, like: trees.Tree, stage: Stage) -> tuple[trees.Tree, History]:
    """The inverse of `packed`, for states like `like`. Raises InputError if the saved states have another structure."""
    leaves, expected = jax.tree.leaves(saved.get("state")), jax.tree.leaves(trees.without_keys(like))
    found, wanted = ([(np.shape(leaf), leaf.dtype) for leaf in each] for each in (leaves, expected))
    if "history" not in saved or found != wanted:
        raise InputError(f"{stage.path} was saved by another iteration. Delete it, or use another folder.")
    history = {name: np.asarray(values) for name, values in saved["history"].items()}
    return trees.with_keys(jax.tree.unflatten(jax.tree.structure(like), leaves), like), history
