"""Dynamic string sampling between two networks, or between many pairs (Freeman and Bruna 2017, Algorithm 1)."""

from typing import Any

import jax
import numpy as np

from mcjax import trees
from mcjax.errors import InputError
from mcjax.models.base import leading_axis
from mcjax.models.pairs import Pairs, pairs_of, permute_pairs
from mcjax.runs.progress import Progress
from mcjax.runs.recorder import Recorder
from mcjax.strings.config import StringConfig
from mcjax.strings.growth import Sampler, check_differ, check_thresholds, grow
from mcjax.strings.string import GrowingString, String
from mcjax.symmetry import Permutation, PermutationSpec
from mcjax.training.config import check_config
from mcjax.training.criterion import measure_networks
from mcjax.training.task import Task, check_task


def sample_string(
    key: jax.Array,
    task: Task,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    threshold: float,
    P: Permutation | None = None,
    config: StringConfig | None = None,
    *,
    recorder: Recorder | None = None,
) -> String:
    """Join theta_1 and P theta_2 by straight segments along which the criterion stays below a threshold.

    Dynamic string sampling (Freeman and Bruna 2017, Algorithm 1), breadth first: a network, a bead, is inserted into
    every segment that rises above the threshold, and trained until it is below; then the two new segments are
    measured. All beads of a depth are trained together, and all its new segments measured together. Before a
    string is called connected, it is measured on a denser grid. The ends never move. Beads have the dtypes of theta_1,
    and its leaves that are not floating-point.

    Args:
        key: A typed key, for displacements and orders of batches.
        task: The task that beads are trained on and the criterion is measured on.
        theta_1: The first end.
        theta_2: The second end.
        threshold: The level, of the criterion in `config` (by default the loss on all training examples).
        P: A hard permutation of theta_2, such as that of a match (None: the identity).
        config: Settings. None: `StringConfig()`.
        recorder: Progress, and the run folder in which sampling resumes from the last complete depth.

    Returns:
        The string. If a budget runs out, `connected` is False, which proves nothing.

    Raises:
        InputError: An end is above the threshold, the ends are the same network, or the loss does not take them.
        SpecError: The ends or P are not of this task.
        RunError: A bead's loss becomes infinite or NaN.

    Example::

        string = sample_string(key, task, theta_1, theta_2, threshold=0.1, P=match.P)
        print(string.connected, string.beads, string.normalized_length)
        metrics = evaluate_path(task, string.path)
    """
    if leading_axis(check_task(task), theta_1, theta_2).given:
        raise InputError("got ends with a leading pair axis, expected one network each: sample_strings takes pairs.")
    return _sample(key, task, _pairs(task, theta_1, theta_2, P), threshold, config, recorder)[0]


def sample_strings(
    key: jax.Array,
    task: Task,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    threshold: Any,
    P: Permutation | None = None,
    config: StringConfig | None = None,
    *,
    recorder: Recorder | None = None,
) -> list[String]:
    """`sample_string` for many pairs at once, with the beads of all pairs trained together.

    Args:
        key: A typed key, split into one for each pair.
        task: As in `sample_string`, with `init` or a model.
        theta_1: The first ends, with a leading pair axis.
        theta_2: The second ends, with a leading pair axis.
        threshold: One number for all pairs, or one for each.
        P: Hard permutations with a leading pair axis (None: the identity).
        config: As in `sample_string`.
        recorder: As in `sample_string`.

    Returns:
        One string for each pair.

    Raises:
        InputError: As in `sample_string`, or the task has no `init`.
        SpecError: As in `sample_string`.
        RunError: As in `sample_string`.
    """
    if check_task(task).init is None:
        raise InputError(
            f"{task.name} has no init, by which the pair axis of networks is known: expected Task(..., init=init), or "
            "one pair, for sample_string."
        )
    return _sample(key, task, _pairs(task, theta_1, theta_2, P), threshold, config, recorder)


def _pairs(task: Task, theta_1: trees.Tree, theta_2: trees.Tree, P: Permutation | None) -> Pairs:
    """The ends with a pair axis. A task without a spec has no permutations to apply."""
    spec = task.spec
    if spec is None:
        if P is not None:
            raise InputError(f"got a P, but {task.name} has no spec: expected Task(..., spec=spec).")
        spec = PermutationSpec(dict.fromkeys(trees.flatten(theta_1)))
    return pairs_of(task, spec, theta_1, theta_2, P, hard=True)


def _sample(
    key: jax.Array, task: Task, pairs: Pairs, threshold: Any, config: StringConfig | None, recorder: Recorder | None
) -> list[String]:
    trees.check_keys(key, 0)
    thresholds = check_thresholds(threshold, pairs.number)
    sampler = Sampler.create(task, check_config(config, StringConfig), trees.index(pairs.theta_1, 0))
    strings = _straight_strings(sampler, jax.random.split(key, pairs.number), pairs, thresholds)

    def advance(progress: Progress | None) -> None:
        sampler.next_depth([string for string in strings if not string.reason], progress)

    grow(sampler, strings, advance, "sample_strings", recorder)
    return [string.result() for string in strings]


def _straight_strings(sampler: Sampler, keys: jax.Array, pairs: Pairs, thresholds: np.ndarray) -> list[GrowingString]:
    """The straight strings from theta_1 to P theta_2; raises InputError for ends that cannot be joined."""
    task, criterion = sampler.task, sampler.config.criterion
    values = [measure_networks(criterion, task, theta) for theta in (pairs.theta_1, pairs.theta_2)]
    permuted = pairs.theta_2 if task.spec is None else permute_pairs(task.spec, pairs.P, pairs.theta_2)
    host = trees.on_host((pairs.theta_1, pairs.theta_2, permuted))
    strings = []
    for i, threshold in enumerate(thresholds.tolist()):
        theta_1, theta_2, permuted = (trees.index(theta, i) for theta in host)
        which = f" of pair {i}" if len(thresholds) > 1 else ""
        a, b = (float(value[i]) for value in values)
        if not max(a, b) <= np.float32(threshold):
            raise InputError(
                f"the ends{which} are above the threshold: theta_1 has {criterion.label} {a:.6g}, "
                f"theta_2 {b:.6g}, expected at most {threshold:.6g}. Train them to it (train_endpoints(..., "
                "target=...)), or raise the threshold."
            )
        check_differ(theta_1, theta_2, which)
        strings.append(GrowingString(keys[i], theta_1, permuted, (a, b), threshold))
    return strings
