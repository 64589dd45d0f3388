"""Dynamic string sampling: is a level set connected between two networks, and how long is the way?"""

from typing import Any

import jax
import numpy as np

from mcjax import trees
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.models.base import Model, check_ends
from mcjax.models.pairs import pairs_of, permute_pairs
from mcjax.runs.recorder import Recorder
from mcjax.strings.config import string_config
from mcjax.strings.record import StringKept, StringProgress, mark
from mcjax.strings.sampling import Work, check_differ, check_one_key, deepen, look
from mcjax.strings.strand import Strand, String
from mcjax.symmetry import Permutation
from mcjax.training.config import TrainConfig
from mcjax.training.criterion import measure_networks
from mcjax.training.loop import steps_per_epoch
from mcjax.training.objective import check_model_and_data


def sample_string(
    key: jax.Array,
    model: Model,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    data: Dataset,
    threshold: float,
    P: Permutation | None = None,
    config: TrainConfig | None = None,
    *,
    recorder: Recorder | None = None,
) -> String:
    """Join theta_1 and P theta_2 by straight segments along which the criterion stays below a threshold.

    Dynamic string sampling (Freeman and Bruna 2017, Algorithm 1), breadth first: where a segment rises above
    the threshold, a network is put, a bead, and trained until it is below; then the two segments beside it are
    looked at. At every depth all beads are trained together, and all new segments scanned together. A string
    none of whose segments was found to rise above is measured anew on a denser grid before it is called
    connected. The ends never move.

    threshold: of the criterion in `config` (default: the loss on all training images). config defaults to
    `StringConfig()`; a TrainConfig stands for one with that training. P=None is the
    identity; with a match's P the level set is looked at up to symmetry. A budget that runs out is a
    result: `connected` is False, and proves nothing; `worst` is the segment that stands highest. With
    a recorder in a run folder it goes on from the last complete depth. Raises InputError if an end is above the
    threshold, if the ends are the same network, or if model and data do not fit, SpecError if the
    ends or P are not of this model, RunError if a bead's loss becomes infinite or NaN.

        string = sample_string(key, model, theta_1, theta_2, data, threshold=0.1, P=match.P)
        print(string.connected, string.beads, string.normalized_length)
        metrics = evaluate_path(model, string.path, data)
    """
    if check_ends(model, theta_1, theta_2):
        raise InputError("got ends with a leading pair axis, expected one network each: sample_strings takes pairs.")
    first, second, P = (None if each is None else jax.tree.map(_leading, each) for each in (theta_1, theta_2, P))
    return sample_strings(key, model, first, second, data, threshold, P, config, recorder=recorder)[0]


def sample_strings(
    key: jax.Array,
    model: Model,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    data: Dataset,
    threshold: Any,
    P: Permutation | None = None,
    config: TrainConfig | None = None,
    *,
    recorder: Recorder | None = None,
) -> list[String]:
    """`sample_string` between many pairs at once: the beads of all are trained together.

    The ends, and P, have a leading pair axis; threshold is a number, or one a pair. Every pair is sampled by a
    key of its own split from `key`. The rest is as for one.
    """
    check_one_key(key)
    check_model_and_data(model, data)
    config = string_config(config)
    config.criterion.check(data)
    pairs = pairs_of(model, theta_1, theta_2, P, hard=True)
    thresholds = _thresholds(threshold, pairs.number)
    steps_per_epoch(config, data)
    work = Work(model, jax.device_put(data), config)
    second = permute_pairs(model, pairs.P, pairs.theta_2)
    strands = _strands(work, jax.random.split(key, pairs.number), (pairs.theta_1, pairs.theta_2, second), thresholds)
    recorder = recorder or Recorder("the string", progress=False)
    kept = StringKept(recorder, strands, mark("strings", model, data, config, strands), config.tolerance)
    progress = StringProgress(recorder, strands, config, kept.depth)
    try:
        if kept.depth < 0:
            look(work, [(strand, 0) for strand in strands])
            kept.save(0)
            progress.update(0)
        while open_ := [strand for strand in strands if not strand.reason]:
            deepen(work, open_, progress.training)
            kept.save(kept.depth + 1)
            progress.update(kept.depth)
    finally:
        progress.close()
    return [strand.result() for strand in strands]


def _leading(leaf: Any) -> Any:
    return np.asarray(leaf)[None]


def _thresholds(threshold: Any, count: int) -> np.ndarray:
    values = np.asarray(threshold)
    if not np.issubdtype(values.dtype, np.number):
        raise InputError(f"got threshold={threshold!r}, expected a positive number.")
    values = values.astype(np.float64)
    if values.shape not in ((), (count,)) or not (np.isfinite(values) & (values > 0)).all():
        raise InputError(
            f"got threshold={np.array2string(values, threshold=8)}, expected a positive number"
            f"{f', or one for each of {count} pairs' if count > 1 else ''}."
        )
    return np.broadcast_to(values, (count,))


def _strands(
    work: Work, keys: jax.Array, networks: tuple[trees.Tree, trees.Tree, trees.Tree], thresholds: np.ndarray
) -> list[Strand]:
    """The straight strings from theta_1 to P theta_2, of theta_1, theta_2 and P theta_2; not yet looked at.

    Raises InputError for ends that cannot be joined.
    """
    criterion, strands = work.config.criterion, []
    values = [measure_networks(criterion, work.model, theta, work.data) for theta in networks[:2]]
    host = jax.tree.map(np.asarray, networks)
    for i, threshold in enumerate(thresholds.tolist()):
        ends = [trees.index(theta, i) for theta in host]
        which = f" of pair {i}" if len(thresholds) > 1 else ""
        a, b = (float(value[i]) for value in values)
        if not max(a, b) <= np.float32(threshold):
            raise InputError(
                f"the ends{which} are above the threshold: theta_1 has {criterion.split} {criterion.metric} {a:.6g}, "
                f"theta_2 {b:.6g}, expected at most {threshold:.6g}. Train them to it (train_endpoints(..., "
                "target=...)), or raise the threshold."
            )
        check_differ(ends[0], ends[1], which)
        strands.append(Strand(keys[i], ends[0], ends[2], (a, b), threshold))
    return strands
