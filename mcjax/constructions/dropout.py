"""Dropout stability: which half of its units a network can do without, and at which loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.constructions.chain import Chain, chain, check_network, scale_outputs
from mcjax.data import Dataset
from mcjax.errors import InputError, check_whole, unknown_name
from mcjax.models.base import Model, has_leading_axis
from mcjax.runtime.compiling import jit
from mcjax.runtime.convolution import over_points
from mcjax.training.criterion import Criterion, measure_networks
from mcjax.training.objective import check_model_and_data

Factors = dict[str, np.ndarray]
"""What the outputs of every unit of some groups are multiplied by: float32 (n,) each, zero for a dropped unit."""

COARSE = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
"""Exponents of 1 / (share of units kept): the rescaling factors that the line search begins with."""
FINE = 12
"""Factors between the neighbours of the best coarse one that the line search ends with."""


class DropoutStability(NamedTuple):
    """A network, what is left of it when units are dropped, and what that costs (Definition 1).

    theta: the network. thetas: theta_1 to theta_{d-1} of the definition along a leading axis: in theta_i, units
    of the hidden layers from i on are dropped, the others' outputs rescaled. keep: which units stay, bool (n,) a
    group. factors: float32 (d - 1, d - 1), the factor of hidden layer j (column) in theta_i (row), 1 for j < i.
    loss, losses: of theta, and of thetas (d - 1,), by the criterion. fraction: the share of units dropped.
    criterion: what was measured.
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
        """How much the worst theta_i is above the network, at least 0: it is epsilon-dropout stable."""
        return float(np.maximum(0.0, np.max(self.losses) - self.loss))


def dropout_stability(
    key: jax.Array,
    model: Model,
    theta: trees.Tree,
    data: Dataset,
    fraction: float | dict[str, float] = 0.5,
    *,
    draws: int = 20,
    rescale: Literal["layer", "one", "fixed"] = "layer",
    search: Literal["layers", "together"] = "layers",
    criterion: Criterion | None = None,
    search_images: int | None = 1024,
    chunk: int | None = None,
) -> DropoutStability:
    """The best of many random choices of the units to be dropped, and theta_i and epsilon that come with it.

    fraction: of units dropped, in (0, 1), for all hidden layers or by group; floor((1 - fraction) n) of n stay.
    rescale: the factor r of the units that stay, by a line search for every layer, or for one factor of all layers
    of a theta_i; or fixed at n / (units kept), as in Algorithm 1. search: "layers" goes from the top down,
    as Definition 1 does: the best of `draws` subsets of one layer, given those above it; "together" draws all
    layers at once, as the paper's experiments do. Candidates are compared by the criterion (default: the loss on
    all training images; not the error, which is not convex) on `search_images` images (None: the criterion's own),
    all draws in one program under vmap, `chunk` at a time; loss, losses and epsilon are by the criterion itself, with
    batch statistics re-estimated as it says.

    Works on feed-forward models, in convolutions channel-wise (Remark 1): units are dropped in what reads them.
    Raises InputError for a fraction outside (0, 1), or a model whose units cannot be dropped alone.
    Source: Kuditipudi et al. 2019, Definition 1 and section 6.

        stable = dropout_stability(jax.random.key(0), model, theta, data)
        print(stable.epsilon)
    """
    check_model_and_data(model, data)
    check_network(model, theta)
    for name, value, known in (
        ("rescale", rescale, ("layer", "one", "fixed")),
        ("search", search, ("layers", "together")),
    ):
        if value not in known:
            raise unknown_name(name, str(value), known)
    check_whole("draws", draws)
    if chunk is not None:
        check_whole("chunk", chunk)
    criterion = Criterion() if criterion is None else criterion
    if not isinstance(criterion, Criterion):
        raise InputError(f"got criterion={criterion!r}, expected a Criterion: mcjax.training.Criterion(images=1000).")
    if criterion.metric == "error":
        raise InputError(
            "got a criterion of the error, expected loss or perplexity, which are convex in the outputs: of others "
            "epsilon would bound no path."
        )
    criterion.check(data)
    theta = jax.tree.map(jnp.asarray, theta)
    chained = chain(model)
    kept = kept_units(chained, fraction)
    quick = criterion if search_images is None else _fewer(criterion, search_images)
    losses = partial(_losses_of_masks, model, quick, chunk, theta, data)
    seek = _Search(kept, dict(zip(chained.groups, chained.sizes, strict=True)), draws, rescale, losses)
    found = seek.layers(key) if search == "layers" else seek.together(key)
    thetas = trees.stack([scale_outputs(chained, theta, found.masks(i)) for i in range(len(kept))])
    networks = jax.tree.map(lambda one, many: jnp.concatenate([one[None], many]), theta, thetas)
    values = measure_networks(criterion, model, networks, data)
    keep = {group: subset > 0 for group, subset in found.subsets.items()}
    share = 1 - sum(kept.values()) / sum(chained.sizes)
    return DropoutStability(theta, thetas, keep, found.factors, float(values[0]), values[1:], share, criterion)


def rates(chained: Chain, fraction: float | dict[str, float]) -> dict[str, float]:
    """The share of units to be dropped of every group. Raises InputError for what is not in (0, 1)."""
    by_group = fraction if isinstance(fraction, dict) else dict.fromkeys(chained.groups, fraction)
    if by_group.keys() != set(chained.groups):
        raise InputError(f"got fractions of {sorted(by_group)}, expected one each of {', '.join(chained.groups)}.")
    for group, share in by_group.items():
        number = np.ndim(share) == 0 and np.issubdtype(np.asarray(share).dtype, np.number)
        if not (number and 0 < share < 1):
            raise InputError(f"got fraction={share!r} for {group}, expected a share of units to drop in (0, 1).")
    return {group: float(by_group[group]) for group in chained.groups}


def kept_units(chained: Chain, fraction: float | dict[str, float]) -> dict[str, int]:
    """How many units of every group stay: floor((1 - fraction) n)."""
    shares = rates(chained, fraction)
    # 10 units at 0.9 keep 1, whatever 1 - 0.9 is in binary.
    return {g: math.floor((1 - shares[g]) * n + 1e-9) for g, n in zip(chained.groups, chained.sizes, strict=True)}


def dropped_out(key: jax.Array, model: Model, theta: trees.Tree, fraction: float | dict[str, float]) -> trees.Tree:
    """`theta` with its units dropped by independent coins, and the others' outputs divided by 1 - fraction. Pure.

    fraction: the probability in (0, 1), for all hidden layers or by group. What channel-wise dropout computes in
    training, for one mask. Source: Kuditipudi et al. 2019, Algorithm 1, on the matrices from layer 2 on.
    """
    if has_leading_axis(theta, model):
        raise InputError("got several networks, expected one: use jax.vmap over them.")
    chained = chain(model)
    return scale_outputs(chained, theta, coins(key, chained, fraction))


def coins(key: jax.Array, chained: Chain, fraction: float | dict[str, float]) -> dict[str, jax.Array]:
    """What Algorithm 1 multiplies the outputs of every unit by: 0, or 1 / (1 - fraction). Pure.

    Raises InputError for a fraction that is not in (0, 1).
    """
    shares, keys = rates(chained, fraction), jax.random.split(key, len(chained.groups))
    return {
        group: jax.random.bernoulli(each, 1 - shares[group], (n,)) / (1 - shares[group])
        for group, n, each in zip(chained.groups, chained.sizes, keys, strict=True)
    }


class _Found(NamedTuple):
    """The subsets chosen, 0 or 1 (n,) a group, and the factor of layer j in theta_i."""

    subsets: Factors
    factors: np.ndarray

    def masks(self, i: int) -> Factors:
        """What theta_{i + 1} multiplies outputs by."""
        return {
            group: (subset * self.factors[i, j] if j >= i else np.ones_like(subset)).astype(np.float32)
            for j, (group, subset) in enumerate(self.subsets.items())
        }


@dataclass(frozen=True)
class _Search:
    """The search for subsets and factors. Every candidate is a mask of every group, so that one program serves.

    kept, sizes: units that stay, and all, of every group. losses: of masks (candidates, n) a group.
    """

    kept: dict[str, int]
    sizes: dict[str, int]
    draws: int
    rescale: str
    losses: Callable[[Any], Any]

    @property
    def depth(self) -> int:
        return len(self.kept)

    def layers(self, key: jax.Array) -> _Found:
        """One layer after the other, from the top."""
        found = _Found({g: np.ones(n, np.float32) for g, n in self.sizes.items()}, np.ones((self.depth,) * 2))
        for i in reversed(range(self.depth)):
            group = list(self.kept)[i]
            subsets = self._subsets(jax.random.fold_in(key, i), group)
            start = found.factors[i + 1] if i + 1 < self.depth else found.factors[i].copy()
            best, factors = self._best(i, start, [{**found.subsets, group: subset} for subset in subsets])
            found.factors[i] = factors
            found = found._replace(subsets=best)
        return found

    def together(self, key: jax.Array) -> _Found:
        """All layers at once: the best theta_1, and then the factors of every theta_i."""
        drawn = {g: self._subsets(jax.random.fold_in(key, i), g) for i, g in enumerate(self.kept)}
        candidates = [{g: subsets[k] for g, subsets in drawn.items()} for k in range(self.draws)]
        natural = np.array([self._natural(i) for i in range(self.depth)])
        best, _ = self._best(0, natural, candidates)
        found = _Found(best, np.ones((self.depth,) * 2))
        for i in reversed(range(self.depth)):
            start = found.factors[i + 1] if i + 1 < self.depth else found.factors[i].copy()
            found.factors[i] = self._best(i, start, [best])[1]
        return found

    def _subsets(self, key: jax.Array, group: str) -> np.ndarray:
        n, keys = self.sizes[group], jax.random.split(key, self.draws)
        order = jax.vmap(lambda each: jax.random.permutation(each, n))(keys)
        return (np.asarray(order) < self.kept[group]).astype(np.float32)

    def _natural(self, i: int) -> float:
        group = list(self.kept)[i]
        return self.sizes[group] / max(self.kept[group], 1)

    def _best(self, i: int, start: np.ndarray, candidates: list[Factors]) -> tuple[Factors, np.ndarray]:
        """The best candidate for theta_{i + 1}, and its factors: a coarse line search for all, a fine one for it."""
        natural = self._natural(i)
        if self.rescale == "fixed":
            factors = self._with(i, start, natural)
            values = self._values(i, [(subsets, factors) for subsets in candidates])
            return candidates[int(values.argmin())], factors
        coarse = [natural**exponent for exponent in COARSE]
        tried = [(subsets, self._with(i, start, r)) for r in coarse for subsets in candidates]
        best = int(self._values(i, tried).argmin())
        subsets, at = tried[best][0], best // len(candidates)
        around = np.linspace(coarse[max(at - 1, 0)], coarse[min(at + 1, len(coarse) - 1)], FINE)
        fine = [(subsets, self._with(i, start, r)) for r in (*around, coarse[at])]
        return fine[int(self._values(i, fine).argmin())]

    def _with(self, i: int, start: np.ndarray, r: float) -> np.ndarray:
        factors = start.copy()
        factors[:i] = 1
        if self.rescale == "one":
            factors[i:] = r
        else:
            factors[i] = r
        return factors

    def _values(self, i: int, tried: list[tuple[Factors, np.ndarray]]) -> np.ndarray:
        """The loss of every candidate, as many in a call as there are draws."""
        every = [_Found(subsets, np.tile(factors, (self.depth, 1))).masks(i) for subsets, factors in tried]
        values = []
        size = max(self.draws, 4)
        for first in range(0, len(every), size):
            part = every[first : first + size]
            filled = part + part[-1:] * (size - len(part))
            found = self.losses({g: np.stack([masks[g] for masks in filled]) for g in self.sizes})
            values.append(np.asarray(found)[: len(part)])
        return np.nan_to_num(np.concatenate(values), nan=np.inf)


def _fewer(criterion: Criterion, images: int) -> Criterion:
    """The criterion on fewer images."""
    calibration = min(images, criterion.calibration_images or images)
    return replace(criterion, images=min(images, criterion.images or images), calibration_images=calibration)


@jit(static_argnames=("model", "criterion", "chunk"))
def _losses_of_masks(
    model: Model, criterion: Criterion, chunk: int | None, theta: trees.Tree, data: Any, masks: Any
) -> jax.Array:
    chained = chain(model)
    return over_points(
        lambda each: criterion(model, scale_outputs(chained, theta, each), data), masks, model.convolutions, chunk
    )
