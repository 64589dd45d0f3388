"""What happens at the end of a depth of string sampling: what is kept to go on from, metrics, a line of progress."""

import hashlib
import sys
import time
from typing import Any

import jax
import numpy as np

from mcjax import trees
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.models.base import Model
from mcjax.runs import checkpoint
from mcjax.runs.recorder import Recorder
from mcjax.runtime.processes import is_first
from mcjax.strings.config import StringConfig
from mcjax.strings.string import GrowingString

SAY_EVERY_S = 10.0
"""How often a line of progress is written while beads are trained, without a terminal."""


class StringKept:
    """The strands after their last complete depth, in the run folder of a recorder. `depth` is -1 before the first.

    fingerprint: of all that the strands are made from (`fingerprint`); what was kept under another one is refused.
    """

    def __init__(self, recorder: Recorder, strands: list[GrowingString], fingerprint: str, tolerance: float) -> None:
        self.recorder, self.strands, self.fingerprint, self.tolerance = recorder, strands, fingerprint, tolerance
        self.depth, self.about = -1, dict[str, Any]()
        if recorder.run is None:
            return
        self.path = recorder.run.checkpoints(recorder.stage) / "latest"
        if checkpoint.is_checkpoint(self.path):
            self._restore()
        recorder.run.rewind(recorder.stage, self.depth)

    def save(self, depth: int, **about: Any) -> None:
        """Keep the strands as they are after this depth, and JSON about them; log what is known of them."""
        self.depth = depth
        run, stage = self.recorder.run, self.recorder.stage
        if run is None:
            return
        known = summary(self.strands, self.tolerance)
        run.log(stage, depth, {name: value for name, value in known.items() if np.isfinite(value)})
        state = {f"{i:05d}": strand.state() for i, strand in enumerate(self.strands)}
        self.about = {
            **about,
            "fingerprint": self.fingerprint,
            "depth": depth,
            "reasons": [strand.reason for strand in self.strands],
        }
        checkpoint.save(self.path, state, self.about)

    def _restore(self) -> None:
        try:
            kept, about = checkpoint.load(self.path), checkpoint.describe(self.path)
            states = [kept[name] for name in sorted(kept)]
        except InputError as error:
            raise InputError(f"{error} Or delete {self.path}: the same command then does this stage anew.") from error
        if about.get("fingerprint") != self.fingerprint:
            raise InputError(
                f"{self.path} was saved by another string: of other ends, thresholds, data or settings, or by another "
                "key. Delete it, or use another folder."
            )
        for strand, state, reason in zip(self.strands, states, about["reasons"], strict=True):
            strand.restore(state, reason)
        self.depth, self.about = about["depth"], about


def fingerprint(kind: str, model: Model, data: Dataset, config: StringConfig, strands: list[GrowingString]) -> str:
    """The sha256 of what strands are made from: settings, keys, thresholds, ends; names and shapes of the rest."""
    arrays = {name: np.shape(part) for name, part in vars(data).items() if name.endswith(("images", "labels"))}
    said = (kind, repr(config), model.name, model.input_shape, model.num_classes, repr(model.spec), data.name, arrays)
    each = [
        (strand.threshold, jax.random.key_data(strand.key), strand.knots[0], strand.knots[-1]) for strand in strands
    ]
    return hashlib.sha256(f"{said} {trees.fingerprint(each)}".encode()).hexdigest()


def summary(strands: list[GrowingString], tolerance: float) -> dict[str, float]:
    """Beads; how many strands are open, and how many of their segments too high; the worst of them, in thresholds."""
    open_ = [strand for strand in strands if not strand.reason]
    return {
        "beads": sum(strand.beads for strand in strands),
        "open": len(open_),
        "segments": sum(len(strand.segments_above(tolerance)) for strand in open_),
        "worst": max(height / strand.threshold for strand in open_ or strands for height in strand.heights),
    }


class StringProgress:
    """A line a depth, and now and then while beads are trained: beads, open segments, depth, the worst height."""

    def __init__(self, recorder: Recorder, strands: list[GrowingString], config: StringConfig, depth: int) -> None:
        self.title, self.strands, self.of = recorder.title, strands, f"{config.split} {config.metric}"
        self.tolerance = config.tolerance
        self.line, self.said = "", time.monotonic()
        self.show = recorder.progress is True and is_first()
        self.terminal = sys.stderr.isatty()
        other = recorder.progress if not isinstance(recorder.progress, bool) and is_first() else None
        self.other = other(recorder.title, config.depth, 0, max(depth, 0)) if other else None

    def update(self, depth: int) -> None:
        """Say what there is after this depth."""
        known = summary(self.strands, self.tolerance)
        if self.other is not None:
            self.other.update(depth, known["worst"])
        self._say("", always=True)

    def training(self, title: str, epochs: int, images: int, start: int) -> "StringProgress._Training":
        """What the training of beads tells its epochs to."""
        return self._Training(self)

    class _Training:
        def __init__(self, whole: "StringProgress") -> None:
            self.whole = whole

        def update(self, epoch: int, loss: float) -> None:
            self.whole._say(f", training beads: epoch {epoch}, loss {loss:.4g}")

        def close(self) -> None:
            pass

    def _say(self, detail: str, always: bool = False) -> None:
        now = time.monotonic()
        if not self.show or (not always and now - self.said < (0.1 if self.terminal else SAY_EVERY_S)):
            return
        self.said, known = now, summary(self.strands, self.tolerance)
        depth = max(strand.depth for strand in self.strands)
        line = f"{self.title}: depth {depth}, {known['beads']} beads"
        if known["open"]:
            line += f", {known['segments']} segments open, worst {self.of} {known['worst']:.4g} thresholds{detail}"
        else:
            connected = sum(strand.reason == "connected" for strand in self.strands)
            line += f", {connected} of {len(self.strands)} connected"
        if self.terminal:
            print(f"\r{line:<{len(self.line)}}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
        self.line = line

    def close(self) -> None:
        """End the line."""
        if self.other is not None:
            self.other.close()
        if self.terminal and self.line:
            print(file=sys.stderr)
