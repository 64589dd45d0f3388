"""One restart of weight matching: assignments group by group, until none improves (Git Re-Basin, Algorithm 1)."""

from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from mcjax.matching.products import Place, WeightProducts
from mcjax.symmetry import Permutation, nearest_permutation

TIE = 1e-6
"""Bonus for staying in place, relative to the largest entry of a gain matrix; it outweighs rounding only."""

PROXIMAL_WEIGHTS = (0.05, 0.2, 0.8)
"""Larger bonuses, used when the objective is quadratic in a group's permutation and its linearisation overshoots.

They are weights c of the proximal term c/2 ||P - P_k||^2: for c large enough, the linearised objective is a lower bound
of the objective. With the largest weight, hardly any unit moves.
"""

Start = Literal["given", "propagation", "random_propagation", "random"]


class Restart(NamedTuple):
    """The result of one restart: P, the inner product of theta_1 and `P theta_2`, and the number of sweeps."""

    P: Permutation
    objective: float
    sweeps: int


def descend(
    weights: WeightProducts, rng: np.random.Generator, start: Start, given: Permutation | None, max_sweeps: int
) -> Restart:
    """Sweep over all groups in random order, until a sweep moves no unit.

    Args:
        weights: The two networks.
        rng: Generator for the orders of groups, and for random starts.
        start: The start: the `given` P; the identity followed by `propagate`, with or without a random order of groups;
            or random permutations.
        given: The P of the start "given".
        max_sweeps: Maximum number of sweeps.

    Returns:
        The result of the restart.
    """
    groups = list(weights.sizes)
    # The start: P given, the identity or random, then propagation.
    if start != "given" or given is None:
        draw = rng.permutation if start == "random" else np.arange
        given = {group: np.asarray(draw(n), np.int32) for group, n in weights.sizes.items()}
    descent = CoordinateDescent(weights, given)
    if start in ("propagation", "random_propagation"):
        propagate(descent, rng if start == "random_propagation" else None)
    # Algorithm 1: assign group after group, until a whole sweep changes nothing.
    sweeps, moved = 0, bool(groups)
    while moved and sweeps < max_sweeps:
        sweeps, moved = sweeps + 1, False
        for i in rng.permutation(len(groups)):
            moved |= descent.assign(groups[i], weights.places[groups[i]])
    return Restart(descent.P, descent.objective(), sweeps)


def propagate(descent: "CoordinateDescent", rng: np.random.Generator | None = None) -> None:
    """Match the groups one by one, each by its usable places: those whose other axes are matched already.

    The products of a place carry no information before its other axes are matched. The next group is the one whose
    usable places have the largest share of the spread between its units. The groups before it are then matched again,
    since more of their places are usable. If no group has a usable place, one is matched by the sorted weights of its
    units.

    Args:
        descent: The restart, which is updated.
        rng: If given, shares are multiplied by random numbers, which varies the order of the groups.
    """
    weights = descent.weights
    total = {group: _spread(weights, places) for group, places in weights.places.items()}
    matched: list[str] = []

    def usable(group: str) -> list[Place]:
        return [place for place in weights.places[group] if set(place.partners) <= {*matched}]

    while remaining := [group for group in weights.sizes if group not in matched]:
        # Choose the group with the largest usable share of its spread.
        shares = {g: _spread(weights, usable(g)) / total[g] if total[g] > 0 else 0.0 for g in remaining}
        if rng is not None:
            shares = {group: share * rng.random() for group, share in shares.items()}
        group = max(remaining, key=lambda group: shares[group])
        # Match it, by sorted weights if it has no usable place.
        if shares[group] > 0:
            descent.assign(group, usable(group))
        else:
            descent.assign(group, weights.places[group], sort=True)
        # Match the earlier groups again.
        matched.append(group)
        for earlier in matched[:-1]:
            descent.assign(earlier, usable(earlier))


def _spread(weights: WeightProducts, places: list[Place]) -> float:
    return sum(weights.spreads[place] for place in places)


class CoordinateDescent:
    """The current P of a restart, with a cache of the products and assignments that are valid for it."""

    def __init__(self, weights: WeightProducts, P: Permutation) -> None:
        self.weights, self.P = weights, P
        # The permutations that the products of a place were computed with, and the products.
        self._products: dict[Place, tuple[list[Any], jax.Array]] = {}
        # The places and permutations that the last assignment of a group was computed from.
        self._assigned: dict[str, list[Any]] = {}

    def assign(self, group: str, places: list[Place], sort: bool = False) -> bool:
        """Assign the units of a group, with all other groups fixed: one step of Algorithm 1.

        A group that lies on several axes of one leaf is moved only if the objective increases.

        Args:
            group: The group.
            places: The places whose products are used.
            sort: Whether units are compared by their sorted weights.

        Returns:
            Whether units have moved.
        """
        # Skip the group if its inputs have not changed since its last assignment.
        inputs = [*places, *(self.P[partner] for place in places for partner in place.partners)]
        if _identical(self._assigned.get(group, []), inputs):
            return False
        weights, p = self.weights, self.P[group]
        # The gain matrix: the products that depend on other permutations, plus the precomputed ones. All products are
        # dispatched before the first is fetched.
        varying = [place for place in places if place.partners or not place.whole]
        pending = [weights.products(each, self.P, True) if sort else self.products(each, self.P) for each in varying]
        matrices = [np.asarray(matrix, np.float64) for matrix in pending]
        gain = sum(matrices, weights.linear[group])
        if not sort:
            self._assigned[group] = inputs
        # The objective is quadratic in P[group] on leaves with the group on several axes, and linear on all others.
        quadratic = set() if sort else {place.leaf for place in places if group in place.partners}
        single = [matrix for place, matrix in zip(varying, matrices, strict=True) if place.leaf not in quadratic]
        linear = sum(single, weights.linear[group])

        def objective(P: Permutation) -> float:
            shared = [place for place in weights.shared if place.leaf in quadratic]
            return _sum_at(linear, P[group]) + sum(self._leaf_product(place, P) for place in shared)

        scale = np.abs(gain).max(initial=0.0) or 1.0
        for bonus in (TIE, *(PROXIMAL_WEIGHTS if quadratic else ())):
            # The linear assignment problem, SolveLAP in Algorithm 1, with a bonus for staying in place.
            moved = {**self.P, group: nearest_permutation(gain + bonus * scale * np.eye(len(p))[p])}
            if (moved[group] == p).all():
                return False
            # The quadratic case: accept only an increase of the objective itself.
            if not quadratic or objective(moved) > objective(self.P) + TIE * scale:
                self.P = moved
                return True
        return False

    def products(self, place: Place, P: Permutation) -> jax.Array:
        """The products of a place under P, computed only if a partner has moved since the last time."""
        used = [P[group] for group in place.partners]
        last = self._products.get(place)
        if last is None or not _identical(last[0], used):
            last = self._products[place] = used, self.weights.products(place, P)
        return last[1]

    def objective(self) -> float:
        """The inner product of theta_1 and `P theta_2`."""
        weights = self.weights
        linear = sum(_sum_at(matrix, self.P[group]) for group, matrix in weights.linear.items())
        return weights.constant + linear + sum(self._leaf_product(place, self.P) for place in weights.shared)

    def _leaf_product(self, place: Place, P: Permutation) -> float:
        """The inner product of the whole leaf of a place under P."""
        matrix = np.asarray(self.products(place, P), np.float64)
        return _sum_at(matrix, np.zeros(1, int) if place.group is None else P[place.group])


def _identical(a: list[Any], b: list[Any]) -> bool:
    """Whether the lists hold the same objects: a group that is not moved keeps its array."""
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _sum_at(matrix: np.ndarray, p: np.ndarray) -> float:
    """The sum of the entries [i, p[i]]."""
    return float(matrix[np.arange(len(p)), p].sum())
