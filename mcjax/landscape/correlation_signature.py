"""Correlation signatures: correlations between the units of a network on a curve and of the ends of the curve."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.curves.curve import check_path, check_t
from mcjax.errors import InputError, check_whole
from mcjax.matching.activations import match_activations
from mcjax.models.base import has_leading_axis
from mcjax.shown import short_repr
from mcjax.training.batch_statistics import check_calibration, reestimate
from mcjax.training.task import Task, check_task, examples


@short_repr
class CorrelationSignature(NamedTuple):
    """Mean correlations of units with equal index, float32 ([pairs,] 2, groups): by endpoint, then by group.

    Attributes:
        groups: The names of the groups, in the order of the spec.
        curve: Correlations between the network at t of the curve and each endpoint.
        linear: Correlations between the network at t of the straight line and each endpoint.
        matched: As `curve`, after matching the units of the network to those of the endpoint: an upper bound of it.
    """

    groups: tuple[str, ...]
    curve: np.ndarray
    linear: np.ndarray
    matched: np.ndarray


def correlation_signature(
    task: Task,
    path: Callable[[Any], trees.Tree],
    t: float = 0.5,
    *,
    match_examples: int | None = None,
    batch_size: int = 500,
    calibration_examples: int | None = None,
) -> CorrelationSignature:
    """The correlation signature of a network on a path, by default the midpoint, with the two ends of the path.

    Correlations are those of `match_activations`; constant units have correlation 0. Batch statistics at t are
    re-estimated first, as in `evaluate_path`; those of the ends are unchanged.
    Source: Neuron Alignment, appendix F.1 and Figure 14.

    Args:
        task: The task of the networks, with their model.
        path: Any function t -> theta. If theta has a leading pair axis, the results have it too.
        t: The point of the path, in [0, 1].
        match_examples: The number of training examples, evenly spaced, for the correlations. None: a fifth.
        batch_size: Examples in memory at once.
        calibration_examples: As in `evaluate_path`.

    Returns:
        The correlations with both ends.

    Raises:
        InputError: For a task without a model, t outside [0, 1], or counts that the data cannot give.
        SpecError: If the path leaves the parameter space of the task's networks.

    Example::

        signature = correlation_signature(task, fit.path)
        print(dict(zip(signature.groups, signature.matched[0] - signature.curve[0])))
    """
    model = check_task(task, model=True).model
    path = check_path(path)
    check_t(t)
    if not model.spec.groups:
        raise InputError(f"no units of {model.name} can be permuted, expected a model with groups to correlate.")
    check_calibration(task, calibration_examples, batch_size)
    if match_examples is not None:
        check_whole("match_examples", match_examples, 2, examples(task.train))
    # The networks at t of the curve and of the straight line, with re-estimated batch statistics.
    ends, middle = [path(jnp.float32(end)) for end in (0, 1)], path(jnp.float32(t))
    pairs = has_leading_axis(middle, task)
    line = trees.interpolate(*ends, t)
    join = jnp.concatenate if pairs else jnp.stack
    both = jax.tree.map(lambda *leaves: join(leaves), middle, line)
    both = reestimate(task, both, batch_size=batch_size, calibration_examples=calibration_examples)
    # Match both networks to each end, as pairs of one program.
    first, second = (jax.tree.map(lambda leaf: join([leaf, leaf]), end) for end in ends)
    found = [
        match_activations(task, end, both, examples=match_examples, batch_size=batch_size).info
        for end in (first, second)
    ]

    def by_end(name: str) -> np.ndarray:
        """The mean correlations of both networks (2, [pairs,] 2 endpoints, groups)."""
        values = [np.stack([info[name][group] for group in model.spec.groups], -1) for info in found]
        shape = (2, 2, *((-1,) if pairs else ()), len(model.spec.groups))
        return np.moveaxis(np.asarray(values, np.float32).reshape(shape), 0, -2)

    before, after = by_end("before"), by_end("after")
    return CorrelationSignature(tuple(model.spec.groups), before[0], before[1], after[0])
