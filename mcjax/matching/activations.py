"""Neuron alignment: matching units by the correlation of their activations (Algorithm 1, appendix E)."""

import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data.stream import Stream
from mcjax.errors import InputError, InputWarning, check_whole, unknown_name
from mcjax.matching.match import Match
from mcjax.models.base import Model, check_finite, leading_axis
from mcjax.runtime.compiling import jit
from mcjax.symmetry import nearest_permutation
from mcjax.training.batches import CrossMoments, Moments, cross_moments_of
from mcjax.training.loss import Batch
from mcjax.training.task import Task, check_task, reading_processes
from mcjax.training.task import examples as count_examples
from mcjax.training.totals import Points, Reading, each_network, totals

Cost = Literal["correlation", "covariance", "inner_product"]
Trunk = Literal["stem_and_blocks", "blocks", "published"]
GroupMoments = dict[str, tuple[CrossMoments, ...]]
"""group -> the moments of its units, for each array of its activations."""
PARTS_OF_TRUNK = {"stem_and_blocks": slice(None), "blocks": slice(1, None), "published": slice(1)}
"""The arrays, of which the stem is the first, by which a trunk is matched."""
Matrices = dict[str, jax.Array]
"""group -> float32 ([pairs,] n, n), units of theta_1 (rows) by units of theta_2 (columns)."""


def match_activations(
    task: Task,
    theta_1: trees.Tree,
    theta_2: trees.Tree,
    *,
    examples: int | None = None,
    batch_size: int = 128,
    cost: Cost = "correlation",
    trunk: Trunk = "stem_and_blocks",
) -> Match:
    """The P for which the activations of `P theta_2` correlate most with those of theta_1, over training examples.

    One pass over the examples serves all groups, in evaluation mode; every pixel of a feature map is a sample. The
    assignments run on the host. A residual trunk is matched by the mean over the stem and its blocks. Indistinguishable
    units stay in place, and constant ones correlate with none. The statistics of norms are those in theta: re-estimate
    stale ones first (`reestimate`).
    Source: Tatro et al., submitted to ICLR 2020, Neuron Alignment, Algorithm 1 and appendix E.

    Args:
        task: The task of both networks, with a model.
        theta_1: Variables of one network, or of several along a leading pair axis.
        theta_2: Second network, or as many, whose units are matched to those of theta_1.
        examples: Number of training examples used: evenly spaced in arrays, the first ones of a stream. None: a fifth,
            as in the paper, or all of a stream whose length is not known.
        batch_size: Examples in memory at once.
        cost: The quantity whose sum the assignment maximises: Pearson correlations (the paper), covariances, or
            uncentred inner products.
        trunk: The part of the stem in the mean of the trunk that it begins: "stem_and_blocks" counts it as a block,
            "blocks" leaves it out (appendix E of the paper), "published" takes it alone, without the blocks of its
            stage (the paper's code). Networks without a trunk take "stem_and_blocks" alone.

    Returns:
        A `Match` whose objective is that sum, over all groups. `info["correlation"]`: group -> float32 ([pairs,] n, n),
        units of theta_1 by units of theta_2. `info["before"]`, `info["after"]`: group -> mean correlation between units
        of equal index, float32 ([pairs]), before and after permuting.

    Raises:
        SpecError: If the endpoints are not of this task.
        InputError: If the task has no model or too few examples, a network or its activations are not finite, or there
            is no trunk.

    Example::

        match = match_activations(task, theta_1, theta_2)
        print(match.info["before"], match.info["after"])
    """
    if cost not in GAINS:
        raise unknown_name("cost", str(cost), GAINS)
    check_whole("batch_size", batch_size)
    task = check_task(task, model=True, arrays=())
    streamed = isinstance(task.train, Stream)
    available = task.train.most_of(reading_processes()) if streamed else count_examples(task.train)
    used = max(1, available // 5) if examples is None and available is not None else examples
    if used is not None:
        check_whole("examples", used, 1, available)
    axis = leading_axis(task, theta_1, theta_2)
    check_finite(theta_1, theta_2)
    theta_1, theta_2 = axis.add((theta_1, theta_2))
    begun = trunk_of(task.model, trees.index(theta_1, 0), trunk)
    # Algorithm 1: the cross-correlations of all units, then the assignment of every group.
    of_batch = jax.tree_util.Partial(_moments, task.functions())
    moments = totals(of_batch, task.train, Reading(batch_size, used), Points(each_network, (theta_1, theta_2)))
    if begun is not None:
        # Appendix E: a shared alignment of all layers of a trunk.
        moments = {**moments, begun: moments[begun][PARTS_OF_TRUNK[trunk]]}
    correlation, gain = jax.tree.map(np.asarray, _matrices(moments, cost))
    if still := [group for group, matrix in gain.items() if not matrix.any((-2, -1)).all()]:
        warnings.warn(
            f"got activations of {', '.join(still)} that are constant, or below 1e-19, in all units of a network: "
            "expected trained networks. These units stay in place.",
            InputWarning,
            stacklevel=2,
        )
    P = {group: _assign(group, matrix.astype(np.float64)) for group, matrix in gain.items()}
    objective = np.zeros(len(jax.tree.leaves(theta_1)[0]))
    for group, p in P.items():
        objective += _at(gain[group].astype(np.float64), p).sum(-1)
    info = {
        "correlation": correlation,
        "before": {group: np.diagonal(each, axis1=-2, axis2=-1).mean(-1) for group, each in correlation.items()},
        "after": {group: _at(each, P[group]).mean(-1) for group, each in correlation.items()},
    }
    return axis.remove(Match(P, objective, info))


def trunk_of(model: Model, theta: trees.Tree, trunk: Trunk) -> str | None:
    """The trunk that the stem of a network begins: the first group with several arrays of activations. None: no group.

    Raises InputError if `trunk` is no part of a trunk, or the network has none to leave the stem out of.
    """
    if trunk not in get_args(Trunk):
        raise unknown_name("trunk", str(trunk), get_args(Trunk))
    x = jax.ShapeDtypeStruct((1, *model.input_shape), model.input_dtype)
    arrays = jax.eval_shape(model.activations, theta, x)
    found = next((group for group in model.spec.groups if len(arrays[group]) > 1), None)
    if found is None and trunk != "stem_and_blocks":
        raise InputError(
            f"got trunk={trunk!r} for {model.name}, which has no residual trunk: expected 'stem_and_blocks'."
        )
    return found


def _assign(group: str, value: np.ndarray) -> np.ndarray:
    """The assignment with the largest sum for every pair, int32 (pairs, n)."""
    if not np.isfinite(value).all():
        raise InputError(
            f"the activations of group {group!r}, or their squares, exceed float32: expected trained networks."
        )
    # A small bonus on the diagonal keeps units in place that differ by rounding only.
    tie = 1e-6 * np.abs(value).max(initial=0) * np.eye(value.shape[-1])
    return nearest_permutation(value + tie[None])


def _at(matrix: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The entries [i, p[i]]."""
    return np.take_along_axis(matrix, p[..., None], -1)[..., 0]


def _moments(task: Task, thetas: tuple[trees.Tree, trees.Tree], batch: Batch, number: Any) -> GroupMoments:
    """Moments of the activations of every group on one batch, one for each array of its activations."""
    x = task.model_inputs(batch)
    first, second = (task.model.activations(theta, x) for theta in thetas)
    return {group: tuple(map(cross_moments_of, first[group], second[group])) for group in task.model.spec.groups}


@jit(static_argnames=("cost",))
def _matrices(moments: GroupMoments, cost: Cost) -> tuple[Matrices, Matrices]:
    """The correlations, and the gains that the assignment maximises, by group and pair."""

    def mean(fn: Callable[[CrossMoments], jax.Array]) -> Matrices:
        return {
            group: jnp.stack([jax.vmap(fn)(block) for block in blocks], 1).mean(1) for group, blocks in moments.items()
        }

    return mean(_correlation), mean(GAINS[cost])


def _correlation(m: CrossMoments) -> jax.Array:
    scale_1, scale_2 = _inverse_norm(m.first), _inverse_norm(m.second)
    return m.product * scale_1[:, None] * scale_2[None, :]


def _inverse_norm(m: Moments) -> jax.Array:
    # A constant unit has correlation zero, not NaN or that of its rounding.
    return jnp.where(m.varies, jax.lax.rsqrt(jnp.where(m.varies, m.square, 1.0)), 0.0)


GAINS: dict[str, Callable[[CrossMoments], jax.Array]] = {
    "correlation": _correlation,
    "covariance": lambda m: m.covariance,
    "inner_product": lambda m: m.covariance + jnp.outer(m.first.mean, m.second.mean),
}
