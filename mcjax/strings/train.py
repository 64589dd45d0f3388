"""Training of a whole string, from the straight line between two networks, at decreasing levels (appendix A)."""

from typing import NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.errors import InputError
from mcjax.models.base import leading_axis
from mcjax.runs.progress import Progress
from mcjax.runs.recorder import Recorder
from mcjax.shown import short_repr
from mcjax.strings.beads import UntrainedBead, train_beads
from mcjax.strings.config import StringConfig
from mcjax.strings.growth import Sampler, check_differ, check_thresholds, grow
from mcjax.strings.string import GrowingString, String
from mcjax.training.config import check_config
from mcjax.training.endpoints import check_trainable
from mcjax.training.task import Task, check_task


@short_repr
class TrainedString(NamedTuple):
    """A string after training, and the levels that it reached.

    Attributes:
        string: The string. If it is not connected, it stopped before it reached the level after the last.
        levels: The height of the straight line between the initial ends, then each level that was reached, decreasing,
            float32 (levels,). The last one is the threshold if the string is connected.
        beads: The number of beads at each level, int32 (levels,).
    """

    string: String
    levels: np.ndarray
    beads: np.ndarray


def train_string(
    key: jax.Array,
    task: Task,
    threshold: float,
    theta_1: trees.Tree | None = None,
    theta_2: trees.Tree | None = None,
    config: StringConfig | None = None,
    *,
    level_factor: float = 0.8,
    recorder: Recorder | None = None,
) -> TrainedString:
    """Train a whole string between two networks, random ones by default, to below a threshold.

    The string starts as the straight line between the ends. All its networks, the ends included, are trained to a
    level, and beads are inserted into segments that rise above it, until none does. Then the level is lowered, down to
    the threshold. A level that the string does not reach suggests a disconnection, and does not prove it.

    With zeta or kappa in the config, the penalties of a bead refer to its neighbours one epoch before.
    Source: Freeman and Bruna 2017, appendix A, the breadth-first method.

    Args:
        key: A typed key.
        task: The task that networks are trained on and the criterion is measured on.
        threshold: The last level, of the criterion in `config`.
        theta_1: The first end at the start (None: a random network, by the task's `init`).
        theta_2: The second end at the start (None: a random network).
        config: As in `sample_string`; `depth` is the maximum number of rounds of insertion, and `training.epochs` that
            of epochs of a network, per level.
        level_factor: The ratio of each level to the previous one, in (0, 1).
        recorder: Progress, and the run folder in which training resumes from the last complete level.

    Returns:
        The string and its levels. If a budget runs out, the string is not connected, as in `sample_string`.

    Raises:
        InputError: The ends are the same network, or an argument is out of range or does not fit the task.
        SpecError: An end is not of this task.
        RunError: A loss becomes infinite or NaN.

    Example::

        trained = train_string(key, task, threshold=0.1, config=StringConfig(kappa=math.inf))
        print(trained.string.connected, trained.levels, trained.beads)
    """
    trees.check_keys(key, 0)
    target = float(check_thresholds(threshold, 1)[0])
    if not 0 < level_factor < 1:
        raise InputError(f"got level_factor={level_factor}, expected it to be between 0 and 1, both excluded.")
    config = check_config(config, StringConfig)
    ends_key, string_key = jax.random.split(key)
    ends = first, second = _ends(ends_key, task, config, theta_1, theta_2)
    sampler = Sampler.create(task, config, *ends)
    string = GrowingString(string_key, first, second, sampler.measure_networks(ends), target)
    levels: list[float] = []
    beads: list[int] = []

    def advance(progress: Progress | None) -> None:
        if not levels:
            levels.append(float(np.max(string.heights)))
            beads.append(string.beads)
        level = max(target, level_factor * levels[-1])
        # A straight line below the threshold keeps its own level.
        if _reach_level(sampler, string, level, progress) and level < levels[-1]:
            levels.append(level)
            beads.append(string.beads)

    kind = f"train_string, level_factor={level_factor}"
    grow(sampler, [string], advance, kind, recorder, {"levels": levels, "beads": beads}, "level")
    return TrainedString(string.result(), np.array(levels, np.float32), np.array(beads, np.int32))


def _ends(
    key: jax.Array, task: Task, config: StringConfig, theta_1: trees.Tree | None, theta_2: trees.Tree | None
) -> list[trees.Tree]:
    """Both ends at the start, on the host: those given, and random ones."""
    ends = [
        check_trainable(task)(end_key) if end is None else end
        for end_key, end in zip(jax.random.split(key), (theta_1, theta_2), strict=True)
    ]
    if leading_axis(check_task(task), *ends).given:
        raise InputError("got ends with a leading axis, expected one network each.")
    ends = [trees.like(ends[0], end) for end in ends]
    check_differ(*ends)
    return [trees.on_host(end) for end in ends]


def _reach_level(sampler: Sampler, string: GrowingString, level: float, progress: Progress | None) -> bool:
    """Train a string to a level; False, with the reason in the string, if a budget runs out."""
    tolerance, last = sampler.config.tolerance, level <= string.threshold
    rounds = 0
    while True:
        # Appendix A, step 1: train all networks to the level.
        if not _train_networks(sampler, string, level, progress):
            string.reason = "epochs"
            return False
        # Step 3: stop when no segment is above it; the last level is verified on the denser grid.
        if last and not string.segments_above(tolerance):
            sampler.verify([string])
        above = string.segments_above(tolerance, level)
        if not above:
            string.reason = "connected" if last else None
            return True
        string.reason = sampler.exhausted(string, rounds, len(above))
        if string.reason is not None:
            return False
        # Step 2: insert a bead into each segment that is above it.
        thetas = [sampler.new_bead(string, i, level).theta for i in above]
        new = string.insert(above, thetas, sampler.measure_networks(thetas))
        sampler.measure_segments([(string, i) for i in new])
        rounds += 1


def _train_networks(sampler: Sampler, string: GrowingString, level: float, progress: Progress | None) -> bool:
    """Train every network of a string that is above alpha times the level to it; True if all are at the level."""
    config, target = sampler.config, sampler.config.alpha * level
    # With penalties, neighbours move too, so each epoch is a call with the current neighbours.
    coupled = config.zeta > 0 or config.kappa > 0
    moved: set[int] = set()
    for epoch in range(config.training.epochs if coupled else 1):
        above = [i for i, value in enumerate(string.values) if not value <= target]
        if not above:
            break
        round_key = jax.random.fold_in(jax.random.fold_in(string.key, string.steps), epoch)
        beads = [_knot(string, i, jax.random.fold_in(round_key, i), target) for i in above]
        epochs = 1 if coupled else config.training.epochs
        trained = train_beads(sampler.task, config, beads, epochs, progress=progress)
        for i, bead in zip(above, trained, strict=True):
            string.knots[i], string.values[i] = bead.theta, bead.value
            string.steps += bead.epochs * sampler.steps_per_epoch
        moved |= set(above)
    # Measure the segments next to networks that moved.
    touched = sorted({i for knot in moved for i in (knot - 1, knot) if 0 <= i < len(string.heights)})
    for i in touched:
        string.verified[i] = False
    sampler.measure_segments([(string, i) for i in touched])
    # Networks that ran out of epochs above alpha * level may still be below the level.
    return all(value <= string.limit(config.tolerance, level) for value in string.values)


def _knot(string: GrowingString, i: int, key: jax.Array, target: float) -> UntrainedBead:
    """A network of the string, for further training; the ends have no neighbours."""
    inner = 0 < i < len(string.knots) - 1
    before, after = (string.knots[i - 1], string.knots[i + 1]) if inner else (None, None)
    return UntrainedBead(string.knots[i], before, after, key, target)
