"""The number of permutation points, exact, in whole numbers and fractions (section 4.3).

A permutation point of order K in a layer of n units computes the function of a network with n - K units there. Each of
the n - K parameter vectors occurs in it at least once, so the points are the surjections of n units onto n - K vectors.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import comb, factorial, prod

from mcjax.errors import InputError, check_whole


def partitions(total: int, parts: int | None = None, largest: int | None = None) -> Iterator[tuple[int, ...]]:
    """The partitions of `total` into at most `parts` positive whole numbers, each in decreasing order."""
    if total == 0:
        yield ()
        return
    if parts == 0:
        return
    for first in range(min(total, largest or total), 0, -1):
        for rest in partitions(total - first, None if parts is None else parts - 1, first):
            yield (first, *rest)


def ratio(order: int, units: int) -> Fraction:
    """T(K, n), the number of permutation points of order K per global minimum, in a layer of n units.

    A sum over the partitions of n into n - K positive numbers s. Each contributes the number of ways to assign these
    multiplicities to the vectors, times the n! / prod(s!) ways to place them, divided by the n! minima.
    Source: Brea et al. 2019, Proposition 1 (i), for K up to 3. For any K it equals (n - K)! S(n, n - K) / n! with
    Stirling numbers of the second kind.

    Raises:
        InputError: Unless 0 <= K < n.
    """
    _check(order, units)
    distinct = units - order
    total = Fraction(0)
    # Sum over partitions of K: `extra` holds s - 1 for each vector that occurs more than once.
    for extra in partitions(order, distinct):
        ways = comb(distinct, len(extra)) * factorial(len(extra)) // prod(map(factorial, Counter(extra).values()))
        total += Fraction(ways, prod(factorial(each + 1) for each in extra))
    return total


def ratio_lower_bound(order: int, units: int) -> Fraction:
    """binom(n - K, K) / 2^K, the part of T(K, n) in which no vector occurs more than twice; zero for K > n / 2.

    Source: Brea et al. 2019, Proposition 1 (ii).

    Raises:
        InputError: Unless 0 <= K < n.
    """
    _check(order, units)
    return Fraction(comb(units - order, order), 2**order)


def ratio_growth(order: int) -> Fraction:
    """c_K = 1 / (2^K K!): T(K, n) and its lower bound are c_K n^K, up to lower powers of n.

    Source: Brea et al. 2019, Lemma 1. Its proof has a further factor e^-K, since it replaces
    ((n - K) / (n - 2 K))^(n - 2 K) by 1; the limit is e^K.

    Raises:
        InputError: Unless K >= 0.
    """
    check_whole("order", order, 0)
    return Fraction(1, 2**order * factorial(order))


def count(order: int, widths: Sequence[int]) -> int:
    """The number of permutation points of order K in a network with these hidden widths, each point in one layer.

    It is the sum of T(K, n_k) over the layers of more than K units, times the number of equivalent minima; each layer
    stands for one smaller network, with K units less in that layer.

    Raises:
        InputError: For widths that are not positive whole numbers, or K < 1.

    Example::

        mcjax.permutation_points.count(1, (10, 10))
    """
    minima = equivalent_minima(widths)
    check_whole("order", order, 1)
    points = sum((ratio(order, n) for n in widths if order < n), Fraction(0)) * minima
    assert points.denominator == 1
    return points.numerator


def equivalent_minima(widths: Sequence[int]) -> int:
    """prod(n_k!), the number of networks that differ only in the order of their hidden units, all units distinct.

    Raises:
        InputError: For widths that are not positive whole numbers.
    """
    if not isinstance(widths, Sequence) or not widths:
        raise InputError(f"got widths={widths!r}, expected the numbers of units of the hidden layers: (10, 10).")
    for n in widths:
        check_whole("width", n)
    return prod(map(factorial, widths))


def _check(order: int, units: int) -> None:
    check_whole("units", units)
    check_whole("order", order, 0, units - 1)
