"""Growth of strings: measuring segments, inserting beads, and the loop over depths until every string has stopped."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mcjax import trees
from mcjax.errors import InputError
from mcjax.runs.progress import Progress
from mcjax.runs.recorder import Recorder, checked_recorder
from mcjax.strings.beads import UntrainedBead, displace, train_beads
from mcjax.strings.certify import certified_heights
from mcjax.strings.config import StringConfig
from mcjax.strings.record import StringRecording, fingerprint
from mcjax.strings.scan import Scan, segment_heights, smallest_step, values_at
from mcjax.strings.string import GrowingString, StopReason
from mcjax.training.loop import epoch_plan
from mcjax.training.task import Task, check_task

StringSegment = tuple[GrowingString, int]
"""A segment, by its string and its number there."""


@dataclass(frozen=True)
class Sampler:
    """The task (on the device) and the settings of string sampling, with its steps.

    Attributes:
        task: The task.
        config: The settings.
        step: The smallest step of the criterion, 0 for a continuous one.
    """

    task: Task
    config: StringConfig
    step: float = 0.0

    @classmethod
    def create(cls, task: Task, config: StringConfig, *thetas: trees.Tree) -> "Sampler":
        """Check the settings against the task, and put it on the device.

        Args:
            task: The task of all networks.
            config: The settings.
            *thetas: Networks of the task, at least one.

        Returns:
            The sampler.

        Raises:
            InputError: They do not fit together.
        """
        task = check_task(task, *thetas)
        config.criterion.check(task)
        epoch_plan(task, config.training.batch_size, config.training.steps_per_epoch)
        step = smallest_step(config.criterion, task, thetas[0])
        if step and config.lipschitz is not None:
            raise InputError(
                f"got lipschitz={config.lipschitz!r} for {config.criterion.label}, which moves in steps and has no "
                "slope: expected None, or a criterion such as the loss."
            )
        return cls(jax.device_put(task), config, step)

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of one bead in one epoch."""
        training = self.config.training
        return epoch_plan(self.task, training.batch_size, training.steps_per_epoch).steps

    @property
    def scan(self) -> Scan:
        """The precision at which segments are scanned, from the config."""
        config = self.config
        points, tolerance = config.scan_points, config.scan_tolerance
        return Scan(self.task, config.criterion, points, tolerance, self.step, config.chunk)

    def measure_networks(self, thetas: list[trees.Tree]) -> list[float]:
        """The criterion of networks on the host."""
        return values_at(self.scan, thetas, thetas, np.zeros((len(thetas), 1)))[:, 0].tolist()

    def measure_segments(self, segments: Sequence[StringSegment]) -> None:
        """Measure the height of each segment; precisely only if it may be above the threshold of its string."""
        limits = [string.limit(self.config.tolerance) for string, _ in segments]
        found = segment_heights(self.scan, *_ends(segments), limits)
        for (string, i), height, t, evaluations, gap, bound in zip(segments, *found, strict=True):
            string.evaluations += int(evaluations)
            string.heights[i], string.peaks[i] = float(height), float(t)
            string.gaps[i], string.bounds[i] = float(gap), float(bound)

    def verify(self, strings: Iterable[GrowingString]) -> None:
        """Certify segments (`certified_heights`), unless done before, and keep the higher values."""
        segments = [(string, i) for string in strings for i, done in enumerate(string.verified) if not done]
        if not segments:
            return
        config = self.config
        limits = [string.limit(config.tolerance) for string, _ in segments]
        found = certified_heights(self.scan, *_ends(segments), limits, config.verification_density, config.lipschitz)
        for (string, i), height, t, evaluations, gap, bound in zip(segments, *found, strict=True):
            string.evaluations += int(evaluations)
            refused = np.isfinite(bound) and bound > string.limit(config.tolerance)
            if height > string.heights[i] or refused:
                string.heights[i], string.peaks[i] = max(float(height), string.heights[i]), float(t)
            string.gaps[i], string.bounds[i] = float(gap), float(bound)
            string.verified[i] = True

    def exhausted(self, string: GrowingString, rounds: int, new: int) -> StopReason | None:
        """The budget that would be exceeded by `new` more beads after this number of rounds of insertion, or None."""
        if rounds >= self.config.depth:
            return "depth"
        return "beads" if string.beads + new > self.config.beads else None

    def new_bead(self, string: GrowingString, i: int, level: float) -> UntrainedBead:
        """A slightly displaced network on segment i, to be trained below a level (Algorithm 1, line 7)."""
        config = self.config
        before, after = string.knots[i], string.knots[i + 1]
        # Only the middle of a segment lies in the equidistant plane. A bead must not be at an end of its segment.
        t = 0.5 if config.insert == "middle" or config.kappa > 0 else min(max(string.peaks[i], 0.05), 0.95)
        theta = between(before, after, t)
        key = jax.random.fold_in(jax.random.fold_in(string.key, string.depth), i)
        theta = displace(key, theta, before, after, config.noise, in_plane=config.kappa == math.inf)
        return UntrainedBead(theta, before, after, key, config.alpha * level)

    def next_depth(self, strings: Sequence[GrowingString], progress: Progress | None) -> None:
        """Stop strings that are connected or out of budget, and insert beads into the high segments of the others."""
        tolerance = self.config.tolerance
        self.verify(string for string in strings if not string.segments_above(tolerance))
        segments: list[StringSegment] = []
        for string in strings:
            above = string.segments_above(tolerance)
            string.reason = self.exhausted(string, string.depth, len(above)) if above else "connected"
            if string.reason is None:
                segments += [(string, i) for i in above]
        if segments:
            self.insert_beads(segments, progress)

    def insert_beads(self, segments: Sequence[StringSegment], progress: Progress | None) -> None:
        """Insert a trained bead into each segment (Algorithm 1, lines 7 to 11), all of them at once."""
        # Line 7: choose the start of each bead.
        beads = [self.new_bead(string, i, string.threshold) for string, i in segments]
        # Line 8: train those that are not yet at their target.
        thetas = [bead.theta for bead in beads]
        values = self.measure_networks(thetas)
        high = [n for n, bead in enumerate(beads) if not values[n] <= bead.target]
        found = train_beads(self.task, self.config, [beads[n] for n in high], progress=progress)
        for n, trained in zip(high, found, strict=True):
            thetas[n], values[n] = trained.theta, trained.value
            segments[n][0].steps += trained.epochs * self.steps_per_epoch
        # Line 9: insert them, string by string.
        new: list[StringSegment] = []
        for string in dict.fromkeys(string for string, _ in segments):
            own = [n for n, (owner, _) in enumerate(segments) if owner is string]
            parts = string.insert([segments[n][1] for n in own], [thetas[n] for n in own], [values[n] for n in own])
            new += [(string, i) for i in parts]
            if any(not values[n] <= string.limit(self.config.tolerance) for n in own):
                string.reason = "epochs"
        # Lines 10 and 11: measure the heights of the new segments.
        self.measure_segments(new)


def _ends(segments: Sequence[StringSegment]) -> tuple[list[trees.Tree], list[trees.Tree]]:
    return [string.knots[i] for string, i in segments], [string.knots[i + 1] for string, i in segments]


def between(before: trees.Tree, after: trees.Tree, t: float) -> trees.Tree:
    """`trees.interpolate` in numpy."""

    def point(a: Any, b: Any) -> Any:
        dtype = np.promote_types(a.dtype, np.float32)
        return ((1 - t) * a.astype(dtype) + t * b.astype(dtype)).astype(a.dtype)

    return jax.tree.map(lambda a, b: point(a, b) if trees.is_floating(a) else a, before, after)


def grow(
    sampler: Sampler,
    strings: Sequence[GrowingString],
    advance: Callable[[Progress | None], None],
    kind: str,
    recorder: Recorder | None,
    notes: dict[str, list[Any]] | None = None,
    unit: str = "depth",
) -> None:
    """Advance strings until all have stopped, and save and report them after every step. A saved run is resumed.

    Args:
        sampler: The task and settings.
        strings: Straight strings, not yet measured; changed in place.
        advance: A function that samples the open strings one step further (a depth or a level), given the `progress` of
            `train_beads`.
        kind: The kind of sampling, with its settings that are not in the config: a part of the fingerprint.
        recorder: The run folder and the progress line. None: neither.
        notes: JSON lists that `advance` extends, saved and resumed with the strings.
        unit: The name of a step in the progress line.

    Raises:
        InputError: The run folder contains other strings.
    """
    strings, notes = list(strings), notes or {}
    recorder = checked_recorder(recorder, "the string")
    mark = fingerprint(kind, sampler.task, sampler.config, strings)
    recording = StringRecording(recorder, strings, mark, sampler.config, unit)
    for name, values in notes.items():
        values[:] = recording.about.get(name, [])
    try:
        if recording.step < 0:
            sampler.measure_segments([(string, 0) for string in strings])
            recording.add(**notes)
        while not all(string.reason for string in strings):
            advance(recording.progress)
            recording.add(**notes)
    finally:
        recording.close()


def check_differ(theta_1: trees.Tree, theta_2: trees.Tree, which: str = "") -> None:
    """Raise InputError if the ends of a string (of the pair named by `which`) are the same network."""
    if all(map(np.array_equal, *(jax.tree.leaves(trees.trained(end)) for end in (theta_1, theta_2)))):
        raise InputError(f"theta_1 and theta_2{which} are the same network: expected two that differ.")


def check_thresholds(threshold: Any, count: int) -> np.ndarray:
    """One threshold for each of `count` pairs, float64 (count,); raises InputError unless all are positive numbers."""
    values = np.asarray(threshold)
    numbers = np.issubdtype(values.dtype, np.number) and values.shape in ((), (count,))
    if not numbers or not (np.isfinite(values) & (values > 0)).all():
        raise InputError(
            f"got threshold={threshold!r}, expected a positive number"
            f"{f', or one for each of {count} pairs' if count > 1 else ''}."
        )
    return np.broadcast_to(values.astype(np.float64), (count,))
