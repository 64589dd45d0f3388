"""How many permutation points there are: exact, in whole numbers and fractions.

A permutation point of order K of a layer of n units stands for a network with n - K units in that layer, each of whose
parameter vectors occurs at least once. It can be had in as many ways as n units can be given n - K vectors.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import comb, factorial, prod

from mcjax.errors import InputError, check_whole


def partitions(total: int, parts: int | None = None, largest: int | None = None) -> Iterator[tuple[int, ...]]:
    """The unordered partitions of a whole number into at most `parts` positive ones, each written from the largest."""
    if total == 0:
        yield ()
        return
    if parts == 0:
        return
    for first in range(min(total, largest or total), 0, -1):
        for rest in partitions(total - first, None if parts is None else parts - 1, first):
            yield (first, *rest)


def permutation_point_ratio(order: int, units: int) -> Fraction:
    """T(K, n): the permutation points of order K in a layer of n units, by the number of global minima.

    For any K < n: the sum over the partitions of n into n - K positive numbers s, of the ways to say which vector
    occurs how often, times n! / prod(s!) places for them, over n!. Source: Brea et al. 2019, Proposition 1, which has K
    up to 3; for any K it is (n - K)! S(n, n - K) / n! with Stirling numbers of the second kind. Raises InputError
    unless 0 <= K < n.
    """
    _check(order, units)
    distinct = units - order
    total = Fraction(0)
    # How often a vector occurs beyond once: units that occur once do not matter.
    for extra in partitions(order, distinct):
        ways = comb(distinct, len(extra)) * factorial(len(extra)) // prod(map(factorial, Counter(extra).values()))
        total += Fraction(ways, prod(factorial(each + 1) for each in extra))
    return total


def permutation_point_lower_bound(order: int, units: int) -> Fraction:
    """binom(n - K, K) / 2^K, of pairs alone: at most T(K, n), and zero for K > n / 2 (Proposition 1, ii)."""
    _check(order, units)
    return Fraction(comb(units - order, order), 2**order)


def permutation_point_growth(order: int) -> Fraction:
    """c_K, for which T(K, n) and its lower bound are c_K n^K but for lower powers of n: 1 / (2^K K!) (Lemma 1).

    The lemma's proof has another factor of e^-K: it replaces ((n - K) / (n - 2 K))^(n - 2 K) by 1, and it is e^K.
    """
    check_whole("order", order, 0)
    return Fraction(1, 2**order * factorial(order))


def permutation_point_count(order: int, widths: Sequence[int]) -> int:
    """How many permutation points of order K, each in one layer, a network with these hidden widths has.

    They go with one smaller network for each layer: sum over layers of T(K, n_k), times the number of global minima,
    prod(n_k!). Layers of at most K units have none. Raises InputError for widths that are no whole numbers.
    """
    minima = equivalent_minima(widths)
    check_whole("order", order, 1)
    ratio = sum((permutation_point_ratio(order, n) for n in widths if order < n), Fraction(0))
    count = ratio * minima
    assert count.denominator == 1
    return count.numerator


def equivalent_minima(widths: Sequence[int]) -> int:
    """prod(n_k!): how many networks are one up to the order of their hidden units, if all units are distinct."""
    if isinstance(widths, int) or not widths:
        raise InputError(f"got widths={widths!r}, expected the numbers of units of the hidden layers: (10, 10).")
    for n in widths:
        check_whole("width", n)
    return prod(map(factorial, widths))


def _check(order: int, units: int) -> None:
    check_whole("units", units)
    check_whole("order", order, 0, units - 1)
