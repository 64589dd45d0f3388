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
from mcjax.strings.strand import Strand


class StringRecording:
    """Strands after their last complete step, from step to step: a depth of sampling, or a level of a whole string.

    It starts from what an interrupted run left in the recorder's run folder.

    Attributes:
        step: The number of the last complete step; -1 before the first.
        about: JSON that was given with it.
        progress: The line of progress, or None.
    """

    def __init__(
        self, recorder: Recorder, strands: list[Strand], fingerprint: str, config: StringConfig, unit: str = "depth"
    ) -> None:
        """Begin, or go on.

        Args:
            recorder: Where to report.
            strands: The strands as they start; they become what was kept.
            fingerprint: Hash of all that they are made from.
            config: How they are sampled.
            unit: Name of a step.
        """
        self.strands, self.config = strands, config
        self.step, self.about = -1, dict[str, Any]()
        self._stage = Stage(recorder.run, recorder.stage, fingerprint)
        if (saved := self._stage.restore(first=-1)) is not None:
            self.step, self.about = saved.step, saved.about
            states = [saved.state[name] for name in sorted(saved.state)]
            for strand, state, reason in zip(strands, states, self.about["reasons"], strict=True):
                strand.restore(state, reason)
        self.progress = recorder.line(None, unit=unit, start=self.step)

    def add(self, **about: Any) -> None:
        """Complete a step: keep the strands as they are, and JSON about them; log and show what is known of them."""
        self.step += 1
        known = summary(self.strands, self.config.tolerance)
        self._stage.log(self.step, {name: value for name, value in known.items() if np.isfinite(value)})
        state = {f"{i:05d}": strand.state() for i, strand in enumerate(self.strands)}
        self.about = {**about, "reasons": [strand.reason for strand in self.strands]}
        self._stage.save(self.step, state, self.about)
        if self.progress is not None:
            self.progress.update(self.step, self._said(known))

    def _said(self, known: dict[str, float]) -> str:
        if known["open"]:
            measured = f"{self.config.split} {self.config.metric}"
            rest = f"{known['segments']} segments open, worst {measured} {known['worst']:.4g} thresholds"
        else:
            connected = sum(strand.reason == "connected" for strand in self.strands)
            rest = f"{connected} of {len(self.strands)} connected"
        return f"{known['beads']} beads, {rest}"

    def close(self) -> None:
        """End the line of progress."""
        if self.progress is not None:
            self.progress.close()


def fingerprint(kind: str, model: Model, data: Dataset, config: StringConfig, strands: list[Strand]) -> str:
    """The sha256 of what strands are made from: settings, keys, thresholds, ends; names and shapes of the rest."""
    arrays = {name: np.shape(part) for name, part in vars(data).items() if name.endswith(("images", "labels"))}
    said = (kind, repr(config), model.name, model.input_shape, model.num_classes, repr(model.spec), data.name, arrays)
    each = [
        (strand.threshold, jax.random.key_data(strand.key), strand.knots[0], strand.knots[-1]) for strand in strands
    ]
    return hashlib.sha256(f"{said} {trees.fingerprint(each)}".encode()).hexdigest()


def summary(strands: list[Strand], tolerance: float) -> dict[str, float]:
    """Beads; how many strands are open, and how many of their segments too high; the worst of them, in thresholds."""
    open_ = [strand for strand in strands if not strand.reason]
    return {
        "beads": sum(strand.beads for strand in strands),
        "open": len(open_),
        "segments": sum(len(strand.above(tolerance)) for strand in open_),
        "worst": max(height / strand.threshold for strand in open_ or strands for height in strand.heights),
    }
