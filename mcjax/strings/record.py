"""The end of a depth of string sampling: what is kept to go on from, metrics, a line of progress."""

import hashlib
from typing import Any

import jax
import numpy as np

from mcjax import trees
from mcjax.data import Dataset
from mcjax.models.base import Model
from mcjax.runs.recorder import Recorder
from mcjax.runs.stage import Stage
from mcjax.strings.config import StringConfig
from mcjax.strings.string import GrowingString


class StringRecording:
    """Growing strings after their last complete step: a depth of sampling, or a level of a string that is trained.

    It starts from what an interrupted run left in the recorder's run folder.

    Attributes:
        step: The number of the last complete step; -1 before the first.
        about: JSON that was given with it.
        progress: The line of progress, or None.
    """

    def __init__(
        self,
        recorder: Recorder,
        strings: list[GrowingString],
        fingerprint: str,
        config: StringConfig,
        unit: str = "depth",
    ) -> None:
        """Begin, or go on.

        Args:
            recorder: Where to report.
            strings: The strings as they start; they become what was kept.
            fingerprint: Hash of all that they are made from.
            config: How they are sampled.
            unit: Name of a step.
        """
        self.strings, self.config = strings, config
        self.step, self.about = -1, dict[str, Any]()
        self._stage = Stage(recorder.run, recorder.stage, fingerprint)
        if (saved := self._stage.restore(first=-1)) is not None:
            self.step, self.about = saved.step, saved.about
            states = [saved.state[name] for name in sorted(saved.state)]
            for string, state, reason in zip(strings, states, self.about["reasons"], strict=True):
                string.restore(state, reason)
        self.progress = recorder.line(None, unit=unit, start=self.step)

    def add(self, **about: Any) -> None:
        """Complete a step: keep the strings as they are, and JSON about them; log and show what is known of them."""
        self.step += 1
        known = summary(self.strings, self.config.tolerance)
        self._stage.log(self.step, {name: value for name, value in known.items() if np.isfinite(value)})
        state = {f"{i:05d}": string.state() for i, string in enumerate(self.strings)}
        self.about = {**about, "reasons": [string.reason for string in self.strings]}
        self._stage.save(self.step, state, self.about)
        if self.progress is not None:
            self.progress.update(self.step, self._said(known))

    def _said(self, known: dict[str, float]) -> str:
        if known["open"]:
            measured = f"{self.config.split} {self.config.metric}"
            rest = f"{known['segments']} segments open, worst {measured} {known['worst']:.4g} thresholds"
        else:
            connected = sum(string.reason == "connected" for string in self.strings)
            rest = f"{connected} of {len(self.strings)} connected"
        return f"{known['beads']} beads, {rest}"

    def close(self) -> None:
        """End the line of progress."""
        if self.progress is not None:
            self.progress.close()


def fingerprint(kind: str, model: Model, data: Dataset, config: StringConfig, strings: list[GrowingString]) -> str:
    """The sha256 of what strings are made from: settings, keys, thresholds, ends; names and shapes of the rest."""
    arrays = {name: np.shape(part) for name, part in vars(data).items() if name.endswith(("images", "labels"))}
    said = (kind, repr(config), model.name, model.input_shape, model.num_classes, repr(model.spec), data.name, arrays)
    each = [
        (string.threshold, jax.random.key_data(string.key), string.knots[0], string.knots[-1]) for string in strings
    ]
    return hashlib.sha256(f"{said} {trees.fingerprint(each)}".encode()).hexdigest()


def summary(strings: list[GrowingString], tolerance: float) -> dict[str, float]:
    """Beads; how many strings are open, and how many of their segments too high; the worst of them, in thresholds."""
    open_ = [string for string in strings if not string.reason]
    return {
        "beads": sum(string.beads for string in strings),
        "open": len(open_),
        "segments": sum(len(string.segments_above(tolerance)) for string in open_),
        "worst": max(height / string.threshold for string in open_ or strings for height in string.heights),
    }
