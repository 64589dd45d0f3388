"""A string that is trained as a whole, from networks that nothing has been learnt by yet."""

import math
from numbers import Real
from typing import NamedTuple

import jax
import numpy as np

from mcjax import trees
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.models.base import Model, check_ends
from mcjax.runs.recorder import Recorder
from mcjax.strings.beads import Bead, train_beads
from mcjax.strings.config import string_config
from mcjax.strings.record import StringKept, StringProgress, mark
from mcjax.strings.sampling import Work, certify, check_differ, check_one_key, look, measured, new_bead
from mcjax.strings.strand import Strand, String
from mcjax.training.config import TrainConfig
from mcjax.training.loop import steps_per_epoch
from mcjax.training.objective import check_model_and_data


class Family(NamedTuple):
    """A string when it ended, and the levels on its way.

    levels: values that all of the string came to, float32 (levels,); beads: how many it had there, int32
    (levels,). The first level is that of the straight line between the ends as they were given, the last one
    the threshold if the string is connected. A string that is not is on its way to the level after the last.
    """

    string: String
    levels: np.ndarray
    beads: np.ndarray


def evolve_string(
    key: jax.Array,
    model: Model,
    data: Dataset,
    threshold: float,
    theta_1: trees.Tree | None = None,
    theta_2: trees.Tree | None = None,
    config: TrainConfig | None = None,
    *,
    fall: float = 0.8,
    recorder: Recorder | None = None,
) -> Family:
    """Train a whole string between two random networks, the criterion of all of it falling together.

    Freeman and Bruna 2017, appendix A: from the straight line between the ends, all networks on the string, the
    ends too, are trained to a level; where a segment rises above it, a bead is inserted; when nothing does any
    more, the level falls, to `fall` times itself, until it is the threshold. With zeta and kappa in the config
    the beads are pulled towards their neighbours, and to the hyperplane between them, where these were an epoch
    before; neighbours that go on afterwards take the plane with them. A disconnection shows as a level below
    which the string does not come.

    theta_1, theta_2: where the ends start (None: fresh networks). `config.depth` is the rounds of insertion at
    one level, `config.epochs` the epochs of a network at one level. Budgets, results and errors are as in
    `sample_string`; with a recorder in a run folder it goes on from the last complete level.

        family = evolve_string(key, model, data, threshold=0.1, config=StringConfig(kappa=math.inf))
    """
    check_one_key(key)
    check_model_and_data(model, data)
    config = string_config(config)
    config.criterion.check(data)
    number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if not (number and 0 < threshold < math.inf and 0 < fall < 1):
        raise InputError(
            f"got threshold={threshold!r}, fall={fall}, expected a positive threshold, and fall between 0 and 1."
        )
    ends_key, string_key = jax.random.split(key)
    first, second = jax.random.split(ends_key)
    ends = [model.init(first) if theta_1 is None else theta_1, model.init(second) if theta_2 is None else theta_2]
    if check_ends(model, *ends):
        raise InputError("got ends with a leading axis, expected one network each.")
    check_differ(*ends)
    work = Work(model, jax.device_put(data), config)
    host = [jax.tree.map(np.asarray, end) for end in ends]
    strand = Strand(string_key, host[0], host[1], (0.0, 0.0), float(threshold))
    strand.values = measured(work, host)
    recorder = recorder or Recorder("the string", progress=False)
    made_from = mark(f"family, falling by {fall}", model, data, config, [strand])
    kept = StringKept(recorder, [strand], made_from, config.tolerance)
    progress = StringProgress(recorder, [strand], config, kept.depth)
    levels: list[float] = kept.about.get("levels", [])
    beads: list[int] = kept.about.get("beads", [])
    try:
        if kept.depth < 0:
            look(work, [(strand, 0)])
            levels.append(float(np.max(strand.heights)))
            beads.append(0)
            kept.save(0, levels=levels, beads=beads)
        while not strand.reason:
            level = max(float(threshold), fall * levels[-1])
            # Ends that are below the threshold from the start have reached it.
            if _fall(work, strand, level, progress) and level < levels[-1]:
                levels.append(level)
                beads.append(strand.beads)
            kept.save(kept.depth + 1, levels=levels, beads=beads)
            progress.update(kept.depth)
    finally:
        progress.close()
    return Family(strand.result(), np.array(levels, np.float32), np.array(beads, np.int32))


def _fall(work: Work, strand: Strand, level: float, progress: StringProgress) -> bool:
    """Bring all of a string to a level; False, and a reason in the strand, if a budget runs out before."""
    config = work.config
    for insertions in range(config.depth + 1):
        if not _train(work, strand, level, progress):
            strand.reason = "epochs"
            return False
        if level <= strand.threshold and not strand.above(config.tolerance):
            certify(work, [strand])
        above = strand.above(config.tolerance, level)
        if not above:
            if level <= strand.threshold:
                strand.reason = "connected"
            return True
        if insertions == config.depth:
            strand.reason = "depth"
        elif strand.beads + len(above) > config.beads:
            strand.reason = "beads"
        if strand.reason:
            return False
        new = [new_bead(work, strand, i, level).theta for i in above]
        look(work, [(strand, i) for i in strand.insert(above, new, measured(work, new))])
    return False


def _train(work: Work, strand: Strand, level: float, progress: StringProgress) -> bool:
    """Train every network of a string that is above alpha times the level to it; whether all got there."""
    config, target = work.config, work.config.alpha * level
    # Neighbours move too: beads that are bound to them look where they are after every epoch.
    bound = config.zeta > 0 or config.kappa > 0
    moved: set[int] = set()
    for epoch in range(config.epochs if bound else 1):
        above = [i for i, value in enumerate(strand.values) if not value <= target]
        if not above:
            break
        round_key = jax.random.fold_in(jax.random.fold_in(strand.key, strand.steps), epoch)
        beads = [_knot(strand, i, jax.random.fold_in(round_key, i), target) for i in above]
        trained = train_beads(
            work.model, work.data, config, beads, 1 if bound else config.epochs, progress=progress.training
        )
        for i, bead in zip(above, trained, strict=True):
            strand.knots[i], strand.values[i] = bead.theta, bead.value
            strand.steps += bead.epochs * steps_per_epoch(config, work.data)
        moved |= set(above)
    touched = sorted({i for knot in moved for i in (knot - 1, knot) if 0 <= i < len(strand.heights)})
    for i in touched:
        strand.certified[i] = False
    look(work, [(strand, i) for i in touched])
    # A budget that is used up is enough for a network that is at the level, if not below it.
    return all(value <= strand.limit(config.tolerance, level) for value in strand.values)


def _knot(strand: Strand, i: int, key: jax.Array, target: float) -> Bead:
    """A network of the string, to be trained on; the ends are between nothing, and go where they like."""
    theta = strand.knots[i]
    inner = 0 < i < len(strand.knots) - 1
    before, after = (strand.knots[i - 1], strand.knots[i + 1]) if inner else (None, None)
    return Bead(theta, before, after, key, target)
