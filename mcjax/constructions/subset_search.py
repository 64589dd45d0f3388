"""The search for the units to drop and for the factors of the kept units (Kuditipudi et al. 2019, Definition 1).

A candidate is a factor for each unit, zero for a dropped one, so that one compiled program measures all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

Factors = dict[str, np.ndarray]
"""The factors of the outputs of units by group, float32 (n,) each, zero for a dropped unit."""

COARSE = (0.0, 0.5, 1.0, 1.5)
"""Exponents of n / (units kept): the rescaling factors of the coarse line search from 1 on; 0 and 1/2 are others."""
FINE = 12
"""The number of factors of each fine line search, between the neighbours of the best so far."""
REFINED = 2
"""The number of fine line searches."""
LARGEST = 2.0**20
"""The factor at which the search for an upper bracket ends."""


class Selection(NamedTuple):
    """The chosen subsets and their factors.

    Attributes:
        subsets: 1 for a kept unit, 0 for a dropped one, (n,) per group.
        factors: The factor of layer j (column) in theta_i (row), (d - 1, d - 1).
    """

    subsets: Factors
    factors: np.ndarray

    def masks(self, i: int) -> Factors:
        """The factors of all units in theta_{i + 1}: 1 in the layers below i."""
        return {
            group: (subset * self.factors[i, j] if j >= i else np.ones_like(subset)).astype(np.float32)
            for j, (group, subset) in enumerate(self.subsets.items())
        }


@dataclass(frozen=True)
class SubsetSearch:
    """A random search over subsets, with a line search for their factors. Layers are counted from 0.

    Attributes:
        kept: The number of kept units of each group.
        sizes: The number of units of each group.
        draws: The number of subsets to compare.
        rescale: "layer": a factor for each layer; "one": one factor for all layers of a theta_i; "fixed": n / kept.
        losses: Factors of candidates, float32 (candidates, n) per group -> their losses (candidates,).
        exact: Factors of candidates, one by one -> their losses by all examples (candidates,).
    """

    kept: dict[str, int]
    sizes: dict[str, int]
    draws: int
    rescale: str
    losses: Callable[[Any], Any]
    exact: Callable[[list[Factors]], Any]

    @property
    def depth(self) -> int:
        """The number of hidden layers, d - 1."""
        return len(self.kept)

    def layer_by_layer(self, key: jax.Array) -> Selection:
        """The best subset of one layer after another from the top, given those above (Definition 1)."""
        found = Selection({g: np.ones(n, np.float32) for g, n in self.sizes.items()}, np.ones((self.depth,) * 2))
        for i in reversed(range(self.depth)):
            # theta_{i + 1}: units of layer i are dropped in addition to those of the layers above.
            group = list(self.kept)[i]
            subsets = self._subsets(jax.random.fold_in(key, i), group)
            candidates = [{**found.subsets, group: subset} for subset in subsets]
            best, found.factors[i] = self._best(i, self._start(i, found.factors), candidates)
            found = found._replace(subsets=best)
        return found

    def together(self, key: jax.Array) -> Selection:
        """The best draw of subsets of all layers for theta_1, then the factors of each theta_i (section 6)."""
        # theta_1: the best draw, with one factor for each layer.
        drawn = {g: self._subsets(jax.random.fold_in(key, i), g) for i, g in enumerate(self.kept)}
        candidates = [{g: subsets[k] for g, subsets in drawn.items()} for k in range(self.draws)]
        best, _ = self._best(0, np.array([self._unbiased(i) for i in range(self.depth)]), candidates)
        # theta_{d-1} to theta_1: a line search for the factors of the same subsets.
        found = Selection(best, np.ones((self.depth,) * 2))
        for i in reversed(range(self.depth)):
            found.factors[i] = self._best(i, self._start(i, found.factors), [best])[1]
        return found

    def _subsets(self, key: jax.Array, group: str) -> np.ndarray:
        """Random subsets of a group as 0 and 1, (draws, n)."""
        n, keys = self.sizes[group], jax.random.split(key, self.draws)
        order = jax.vmap(lambda each: jax.random.permutation(each, n))(keys)
        return (np.asarray(order) < self.kept[group]).astype(np.float32)

    def _unbiased(self, i: int) -> float:
        """n / (units kept), the factor of Algorithm 1, which preserves the mean of the next preactivations."""
        group = list(self.kept)[i]
        return self.sizes[group] / max(self.kept[group], 1)

    def _start(self, i: int, factors: np.ndarray) -> np.ndarray:
        """The start of the search for the factors of theta_{i + 1}: those of theta_{i + 2}."""
        return factors[i + 1] if i + 1 < self.depth else factors[i].copy()

    def _best(self, i: int, start: np.ndarray, candidates: list[Factors]) -> tuple[Factors, np.ndarray]:
        """The best candidate for theta_{i + 1} and its factors, of all r >= 0."""
        unbiased = self._unbiased(i)
        if self.rescale == "fixed":
            factors = self._with_factor(i, start, unbiased)
            return candidates[int(self._measure(i, [(subsets, factors) for subsets in candidates]).argmin())], factors
        # Coarse: each candidate with each factor.
        coarse = np.array([0.0, 0.5, *(unbiased**exponent for exponent in COARSE)])
        tried = [(subsets, self._with_factor(i, start, r)) for r in coarse for subsets in candidates]
        values = self._measure(i, tried).reshape(len(coarse), len(candidates))
        best = int(values.min(0).argmin())

        def measure(factors: np.ndarray) -> np.ndarray:
            return self._measure(i, [(candidates[best], self._with_factor(i, start, r)) for r in factors])

        # By all examples 0, 1 or n / (units kept) may be better than the factor found.
        choices = [line_search(measure, coarse, values[:, best]), 0.0, 1.0, unbiased]
        tried = [(candidates[best], self._with_factor(i, start, r)) for r in choices]
        values = np.nan_to_num(self.exact([self._masks(i, *each) for each in tried]), nan=np.inf)
        return tried[int(values.argmin())]

    def _masks(self, i: int, subsets: Factors, factors: np.ndarray) -> Factors:
        """The factors of all units in theta_{i + 1}."""
        return Selection(subsets, np.tile(factors, (self.depth, 1))).masks(i)

    def _with_factor(self, i: int, start: np.ndarray, r: float) -> np.ndarray:
        """The factors with r for layer i, or for all layers from i on if rescale is "one"."""
        factors = start.copy()
        factors[:i] = 1
        if self.rescale == "one":
            factors[i:] = r
        else:
            factors[i] = r
        return factors

    def _measure(self, i: int, tried: list[tuple[Factors, np.ndarray]]) -> np.ndarray:
        """The loss of each candidate, infinite where it is not a number."""
        every = [self._masks(i, *each) for each in tried]
        values = []
        # All calls have one size, the last one filled up, so that one program is compiled.
        size = max(self.draws, 4)
        for first in range(0, len(every), size):
            part = every[first : first + size]
            filled = part + part[-1:] * (size - len(part))
            found = self.losses({g: np.stack([masks[g] for masks in filled]) for g in self.sizes})
            values.append(np.asarray(found)[: len(part)])
        return np.nan_to_num(np.concatenate(values), nan=np.inf)


def line_search(measure: Callable[[np.ndarray], np.ndarray], factors: np.ndarray, values: np.ndarray) -> float:
    """The factor r >= 0 of least value: bracket it, then refine between the neighbours of the best.

    Args:
        measure: Factors (k,) -> their values (k,).
        factors: The factors known so far, increasing from 0.
        values: Their values.

    Returns:
        The factor, of a value no higher than any measured one. It is a minimum if there is but one.
    """
    # Bracket: double the largest factor until another one is better.
    while values.argmin() == len(values) - 1 and factors[-1] < LARGEST:
        more = factors[-1] * 2.0 ** np.arange(1, 5)
        factors, values = np.concatenate([factors, more]), np.concatenate([values, measure(more)])
    for _ in range(REFINED):
        best = int(values.argmin())
        around = np.linspace(factors[max(best - 1, 0)], factors[min(best + 1, len(factors) - 1)], FINE + 2)[1:-1]
        factors, values = np.concatenate([factors, around]), np.concatenate([values, measure(around)])
        order = np.argsort(factors, kind="stable")
        factors, values = factors[order], values[order]
    return float(factors[values.argmin()])
