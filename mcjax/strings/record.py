"""Records of string sampling: a checkpoint, metrics and a progress line after every depth or level."""

import hashlib
from typing import Any

import jax
import numpy as np

from mcjax import trees
from mcjax.runs.recorder import Recorder
from mcjax.runs.stage import Stage
from mcjax.strings.config import StringConfig
from mcjax.strings.string import GrowingString
from mcjax.training.task import Task


class StringRecording:
    """The record of growing strings after every step: a depth of sampling, or a level of a trained string.

    Strings of an interrupted run in the recorder's run folder are restored at the start.

    Attributes:
        step: The number of the last complete step; -1 before the first.
        about: The JSON saved with it.
        progress: The progress line, or None.
    """

    def __init__(
        self,
        recorder: Recorder,
        strings: list[GrowingString],
        fingerprint: str,
        config: StringConfig,
        unit: str = "depth",
    ) -> None:
        """Start a record, or resume it.

        Args:
            recorder: The run folder and the progress line.
            strings: The strings at the start; a saved state is restored into them.
            fingerprint: Hash of the inputs, from `fingerprint`.
            config: The settings of sampling.
            unit: Name of a step in the progress line.
        """
        self.strings, self.config = strings, config
        self.step, self.about = -1, dict[str, Any]()
        self._stage = Stage(recorder.run, recorder.stage, {"all inputs": fingerprint})
        if (saved := self._stage.restore(first=-1)) is not None:
            self.step, self.about = saved.step, saved.about
            states = [saved.state[name] for name in sorted(saved.state)]
            for string, state, reason in zip(strings, states, self.about["reasons"], strict=True):
                string.restore(state, reason)
        self.progress = recorder.line(None, unit=unit, start=self.step)

    def add(self, **about: Any) -> None:
        """Complete a step: save the strings with JSON about them, log their summary, and show it."""
        self.step += 1
        measured = summary(self.strings, self.config.tolerance)
        self._stage.log(self.step, {name: value for name, value in measured.items() if np.isfinite(value)})
        state = {f"{i:05d}": string.state() for i, string in enumerate(self.strings)}
        self.about = {**about, "reasons": [string.reason for string in self.strings]}
        self._stage.save(self.step, state, self.about)
        if self.progress is not None:
            self.progress.update(self.step, self._line(measured))

    def _line(self, measured: dict[str, float]) -> str:
        if measured["open"]:
            worst = f"worst {self.config.criterion.label} {measured['worst']:.4g} thresholds"
            rest = f"{measured['segments']} segments open, {worst}"
        else:
            connected = sum(string.reason == "connected" for string in self.strings)
            rest = f"{connected} of {len(self.strings)} connected"
        return f"{measured['beads']} beads, {rest}"

    def close(self) -> None:
        """End the progress line."""
        if self.progress is not None:
            self.progress.close()


def fingerprint(kind: str, task: Task, config: StringConfig, strings: list[GrowingString]) -> str:
    """A hash of the inputs of sampling, the same in every process.

    Args:
        kind: The kind of sampling, with its settings that are not in the config.
        task: The task; its name and the shapes of its examples are hashed.
        config: The settings. Optimisers and functions, which have no lasting name, are left out.
        strings: Straight strings; their keys, thresholds, ends and the criterion there are hashed.

    Returns:
        The sha256 in hexadecimal.
    """
    training, criterion = config.training, config.criterion
    settings = {**vars(config), "training": (training.epochs, training.batch_size), "criterion": criterion.label}
    shapes = [trees.shapes(split) for split in (task.train, task.test, task.validation) if split is not None]
    each = [
        (string.threshold, jax.random.key_data(string.key), string.knots[0], string.knots[-1]) for string in strings
    ]
    # Three digits of the criterion at the ends tell losses and examples apart that differ in nothing else.
    values = [f"{value:.3g}" for string in strings for value in string.values]
    inputs = f"{kind} {task.name} {shapes} {settings} {values}"
    return hashlib.sha256(f"{inputs} {trees.fingerprint(each)}".encode()).hexdigest()


def summary(strings: list[GrowingString], tolerance: float) -> dict[str, float]:
    """The numbers of beads, open strings and their segments above the limit, and the highest height in thresholds."""
    open_ = [string for string in strings if not string.reason]
    return {
        "beads": sum(string.beads for string in strings),
        "open": len(open_),
        "segments": sum(len(string.segments_above(tolerance)) for string in open_),
        "worst": max(height / string.threshold for string in open_ or strings for height in string.heights),
    }
