"""Dropout stability: the loss of a network without half of its hidden units (Kuditipudi et al. 2019)."""

import math
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import Chain, chain_of, check_network, scale_outputs
from mcjax.constructions.subset_search import Factors, SubsetSearch
from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.models.base import Model, has_leading_axis
from mcjax.runtime.compiling import jit
from mcjax.runtime.mapping import over_points
from mcjax.shown import short, short_repr
from mcjax.training.criterion import Criterion, measure_networks
from mcjax.training.task import Task, check_task, metric_name


class DropoutStability(NamedTuple):
    """A network, its copies with units dropped, and their losses (Definition 1).

    Attributes:
        theta: The network.
        thetas: theta_1 to theta_{d-1} of the definition along a leading axis: in theta_i, units of the hidden layers
            from i on are dropped and the outputs of the other units rescaled.
        keep: Whether each unit is kept, bool (n,) per group.
        factors: The factor of hidden layer j (column) in theta_i (row), 1 for j < i: float (d - 1, d - 1).
        loss: The criterion of theta.
        losses: The criterion of each network in `thetas`, (d - 1,).
        fraction: The share of all hidden units that is dropped.
        criterion: The criterion that was measured.
    """

    theta: trees.Tree
    thetas: trees.Tree
    keep: dict[str, np.ndarray]
    factors: np.ndarray
    loss: float
    losses: np.ndarray
    fraction: float
    criterion: Criterion = Criterion()

    def __repr__(self) -> str:
        dropped = f"{100 * self.fraction:.0f}% of the units dropped"
        return f"DropoutStability: {dropped}, loss {self.loss:.4g}, epsilon {self.epsilon:.4g}"

    @property
    def epsilon(self) -> float:
        """The largest loss of a theta_i minus that of theta, at least 0: theta is epsilon-dropout stable."""
        return float(np.maximum(0.0, np.max(self.losses) - self.loss))


def dropout_stability(
    key: jax.Array,
    task: Task,
    theta: trees.Tree,
    fraction: float | dict[str, float] = 0.5,
    *,
    draws: int = 20,
    rescale: Literal["layer", "one", "fixed"] = "layer",
    search: Literal["layers", "together"] = "layers",
    criterion: Criterion | None = None,
    search_examples: int | None = 1024,
    chunk: int | None = None,
) -> DropoutStability:
    """Search at random for the units whose removal costs least, and measure epsilon.

    In convolutions, channels are the units (Remark 1).
    Source: Kuditipudi et al. 2019, Definition 1 and section 6.

    Args:
        key: Draws the subsets.
        task: The task, with a feed-forward model.
        theta: One network.
        fraction: The share of units to drop, in (0, 1), for all hidden layers or by group; floor((1 - fraction) n) of n
            units are kept.
        draws: The number of random subsets to compare, per layer or for all layers together.
        rescale: The factor r >= 0 of the kept units. "layer": a line search for each layer; "one": a line search for a
            common factor of all layers of a theta_i; "fixed": n / (units kept), as in Algorithm 1. A factor that is
            searched for is by the criterion never worse than 0, 1 and n / (units kept).
        search: "layers" chooses the best subset of one layer after another from the top down, as in Definition 1.
            "together" draws the subsets of all layers at once, as in the paper's experiments.
        criterion: The criterion to measure, of the loss or the perplexity (None: the loss on all training examples).
            Epsilon bounds it on paths if the loss is convex in the outputs.
        search_examples: The number of examples that candidates are compared on (None: those of the criterion).
        chunk: Candidates in memory at once (None: 16, or 1 where convolutions run faster one after another).

    Returns:
        The networks theta_i with their losses by the criterion, which re-estimates batch statistics.

    Raises:
        InputError: For a fraction outside (0, 1), a criterion that is not known to be convex, or a model whose units
            cannot be dropped one by one.

    Example::

        stable = dropout_stability(jax.random.key(0), task, theta)
        print(stable.epsilon)
    """
    model = check_task(task, model=True).model
    assert model is not None
    check_network(model, theta)
    for name, value, known in (
        ("rescale", rescale, ("layer", "one", "fixed")),
        ("search", search, ("layers", "together")),
    ):
        if value not in known:
            raise unknown_name(name, str(value), known)
    check_whole("draws", draws)
    trees.check_keys(key, 0)
    if chunk is not None:
        check_whole("chunk", chunk)
    criterion = _check_criterion(criterion, task)
    theta = jax.tree.map(jnp.asarray, theta)
    chain = chain_of(model)
    kept = kept_units(chain, fraction)
    quick = criterion if search_examples is None else _on_fewer_examples(criterion, search_examples)
    losses = partial(_losses_of_masks, task, quick, chunk, theta)

    def exact(masks: list[Factors]) -> np.ndarray:
        return measure_networks(criterion, task, trees.stack([scale_outputs(chain, theta, each) for each in masks]))

    # Definition 1: choose the subsets and their factors, on few examples.
    sizes = dict(zip(chain.groups, chain.sizes, strict=True))
    subset_search = SubsetSearch(kept, sizes, draws, rescale, losses, exact)
    found = subset_search.layer_by_layer(key) if search == "layers" else subset_search.together(key)
    # theta_1 to theta_{d-1}, measured by the criterion itself.
    thetas = trees.stack([scale_outputs(chain, theta, found.masks(i)) for i in range(len(kept))])
    networks = jax.tree.map(lambda one, many: jnp.concatenate([one[None], many]), theta, thetas)
    values = measure_networks(criterion, task, networks)
    keep = {group: subset > 0 for group, subset in found.subsets.items()}
    share = 1 - sum(kept.values()) / sum(chain.sizes)
    return DropoutStability(theta, thetas, keep, found.factors, float(values[0]), values[1:], share, criterion)


def _check_criterion(criterion: Criterion | None, task: Task) -> Criterion:
    """The criterion, or its default. Raises InputError for one that is not known to be convex in the outputs."""
    criterion = Criterion() if criterion is None else criterion
    if not isinstance(criterion, Criterion):
        raise InputError(f"got criterion={criterion!r}, expected a Criterion: mcjax.training.Criterion(examples=1000).")
    if criterion.metric not in ("loss", "perplexity"):
        raise InputError(
            f"got a criterion of the {metric_name(criterion.metric)}, expected loss or perplexity: epsilon bounds a "
            "criterion on a path only if it is convex in the outputs, and other metrics are not known to be."
        )
    criterion.check(task)
    return criterion


def drop_rates(chain: Chain, fraction: float | dict[str, float]) -> dict[str, float]:
    """The share of units to drop by group. Raises InputError for a share that is not in (0, 1)."""
    by_group = fraction if isinstance(fraction, dict) else dict.fromkeys(chain.groups, fraction)
    if by_group.keys() != set(chain.groups):
        raise InputError(f"got fractions of {sorted(by_group)}, expected one each of {', '.join(chain.groups)}.")
    for group, share in by_group.items():
        if not isinstance(share, Real | np.ndarray | jax.Array) or jnp.shape(share) or not 0 < float(share) < 1:
            raise InputError(f"got fraction={short(share)} for {group}, expected a share of units to drop in (0, 1).")
    return {group: float(by_group[group]) for group in chain.groups}


def kept_units(chain: Chain, fraction: float | dict[str, float]) -> dict[str, int]:
    """The number of units of each group that are kept: floor((1 - fraction) n)."""
    shares = drop_rates(chain, fraction)
    # The margin is for rounding: 10 units at a fraction of 0.9 keep 1.
    return {g: math.floor((1 - shares[g]) * n + 1e-9) for g, n in zip(chain.groups, chain.sizes, strict=True)}


def drop_units(key: jax.Array, model: Model, theta: trees.Tree, fraction: float | dict[str, float]) -> trees.Tree:
    """Drop each unit with probability `fraction`, and divide the outputs of the others by 1 - fraction. Pure.

    This is one mask of dropout as in training, channel-wise in convolutions.
    Source: Kuditipudi et al. 2019, Algorithm 1, on the matrices from layer 2 on.

    Args:
        key: Draws which units are dropped.
        model: A feed-forward model.
        theta: One network.
        fraction: The probability in (0, 1), for all hidden layers or by group.

    Returns:
        The network; units are dropped and rescaled in the kernels that read them.

    Raises:
        InputError: If there are several networks, the model is not feed-forward, or the fraction is not in (0, 1).
    """
    if has_leading_axis(theta, model):
        raise InputError("got several networks, expected one: use jax.vmap over them.")
    chain = chain_of(model)
    trees.check_keys(key, 0)
    return scale_outputs(chain, theta, random_factors(key, chain, fraction))


@short_repr
class DropoutLines(NamedTuple):
    """The losses on straight lines from a network to random dropout networks (Lemma 3).

    Attributes:
        losses: The criterion at t on each line, (draws, ts): at t = 0 that of the network.
        ts: The values of t, from 0 to 1.
    """

    losses: np.ndarray
    ts: np.ndarray

    @property
    def rises(self) -> np.ndarray:
        """The highest loss on each line minus that of the network, (draws,), at least 0."""
        return self.losses.max(1) - self.losses[:, 0]

    def probability(self, rise: float) -> float:
        """The share of draws whose line rises by no more than `rise`; the lemma wants at least 1/4."""
        return float((self.rises <= rise).mean())

    def rise(self, probability: float = 0.25) -> float:
        """The least rise that this share of draws does not exceed."""
        return float(np.sort(self.rises)[max(math.ceil(probability * len(self.rises) - 1e-9) - 1, 0)])


def dropout_lines(
    key: jax.Array,
    task: Task,
    theta: trees.Tree,
    fraction: float | dict[str, float],
    *,
    draws: int = 100,
    ts: int = 5,
    criterion: Criterion | None = None,
    chunk: int | None = None,
) -> DropoutLines:
    """Measure the loss on the lines from a network to its copies by `drop_units`, over the coins of Algorithm 1.

    Source: Kuditipudi et al. 2019, Lemma 3: with a probability of at least 1/4 the rise is at most of the order of
    sqrt(p) epsilon, for p up to 3/4 and the epsilon of Definition 4 (`mcjax.landscape.noise_stability`).

    Args:
        key: Draws the coins.
        task: The task, with a feed-forward model.
        theta: One network.
        fraction: The probability p in (0, 1) that a unit is dropped, for all hidden layers or by group.
        draws: The number of dropout networks.
        ts: The number of values of t on each line, ends included.
        criterion: The criterion to measure (None: the loss on all training examples).
        chunk: Networks in memory at once (None: 16, or 1 where convolutions run faster one after another).

    Returns:
        The losses, by batch statistics that are re-estimated at each point.

    Raises:
        InputError: For a fraction outside (0, 1), or a model whose units cannot be dropped one by one.

    Example::

        lines = dropout_lines(key, task, theta, 0.2)
        print(lines.probability(0.1), lines.rise(0.25))
    """
    model = check_task(task, model=True).model
    assert model is not None
    check_network(model, theta)
    for name, value, least in (("draws", draws, 1), ("ts", ts, 2), ("chunk", 1 if chunk is None else chunk, 1)):
        check_whole(name, value, least)
    criterion = _check_criterion(criterion, task)
    trees.check_keys(key, 0)
    chain, at = chain_of(model), np.linspace(0, 1, ts, dtype=np.float32)
    keys = jax.random.split(key, draws)
    coins = jax.tree.map(np.asarray, jax.vmap(lambda each: random_factors(each, chain, fraction))(keys))
    # theta + t (theta_1 - theta), line by line.
    masks = jax.tree.map(lambda mask: (1 + at[:, None] * (mask[:, None] - 1)).reshape(draws * ts, -1), coins)
    losses = _losses_of_masks(task, criterion, chunk, jax.tree.map(jnp.asarray, theta), masks)
    return DropoutLines(np.asarray(losses).reshape(draws, ts), at)


def random_factors(key: jax.Array, chain: Chain, fraction: float | dict[str, float]) -> dict[str, jax.Array]:
    """The factors of the outputs of units in Algorithm 1: 0, or 1 / (1 - fraction), (n,) per group. Pure.

    Raises:
        InputError: For a fraction outside (0, 1).
    """
    shares, keys = drop_rates(chain, fraction), jax.random.split(key, len(chain.groups))
    return {
        group: jax.random.bernoulli(each, 1 - shares[group], (n,)) / (1 - shares[group])
        for group, n, each in zip(chain.groups, chain.sizes, keys, strict=True)
    }


def _on_fewer_examples(criterion: Criterion, count: int) -> Criterion:
    calibration = min(count, criterion.calibration_examples or count)
    return replace(criterion, examples=min(count, criterion.examples or count), calibration_examples=calibration)


@jit(static_argnames=("criterion", "chunk"))
def _losses_of_masks(task: Task, criterion: Criterion, chunk: int | None, theta: trees.Tree, masks: Any) -> jax.Array:
    assert task.model is not None
    chain = chain_of(task.model)
    return over_points(lambda each: criterion(task, scale_outputs(chain, theta, each)), masks, chunk)
