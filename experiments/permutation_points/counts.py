"""The number of permutation points: Proposition 1 and Lemma 1, against counting one by one."""

from itertools import product
from math import exp, factorial
from typing import Any

from mcjax import permutation_points

ORDERS = (1, 2, 3)
"""K of the paper's Proposition 1."""
COUNTED = 6
"""Units up to which points are counted one by one."""
LARGE = (10, 100, 1000, 10_000, 100_000)
"""Widths that the lemma's limit is compared at."""


def one_by_one(order: int, units: int) -> int:
    """The points of order K, (n - K) distinct vectors given: ways to give every unit one so that each is in use."""
    distinct = units - order
    return sum(len(set(given)) == distinct for given in product(range(distinct), repeat=units))


def counts(widths: tuple[int, ...]) -> dict[str, Any]:
    """The ratios T(K, n) as fractions, what bounds them, all points of networks (n, n), and the constant of growth."""
    rows = []
    for units in (*range(2, COUNTED + 1), *(each for each in widths if each > COUNTED)):
        for order in (each for each in ORDERS if each < units):
            counted = one_by_one(order, units) if units <= COUNTED else None
            exact = permutation_points.ratio(order, units)
            rows.append({
                "units": units, "order": order, "ratio": str(exact), "value": float(exact), "counted": counted,
                "minima": factorial(units), "bound": str(permutation_points.ratio_lower_bound(order, units)),
                "points": str(permutation_points.count(order, (units, units))),
            })  # fmt: skip
    growth = []
    for order in ORDERS:
        ours = permutation_points.ratio_growth(order)
        bounds = [permutation_points.ratio_lower_bound(order, n) / n**order for n in LARGE]
        growth.append({
            "order": order, "constant": str(ours), "published": exp(-order) * float(ours),
            "ratio": [float(each / ours) for each in bounds],
        })  # fmt: skip
    return {"rows": rows, "growth": growth, "large": list(LARGE)}
