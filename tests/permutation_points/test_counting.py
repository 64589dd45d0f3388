"""Counts of permutation points: against all maps of units onto vectors, closed forms, Stirling numbers and limits."""

import itertools
from fractions import Fraction
from functools import cache
from math import comb, factorial

import pytest
from refusals import says

from mcjax import InputError
from mcjax.permutation_points.counting import (
    count,
    equivalent_minima,
    partitions,
    ratio,
    ratio_growth,
    ratio_lower_bound,
)


@cache
def onto(units, vectors):
    """How many maps of units to vectors leave no vector out, by trying all."""
    return sum(len(set(map_)) == vectors for map_ in itertools.product(range(vectors), repeat=units))


@cache
def stirling(n, k):
    """Partitions of n things into k sets, by the recurrence."""
    if n == 0 or k == 0:
        return int(n == k)
    return k * stirling(n - 1, k) + stirling(n - 1, k - 1)


SMALL = [(order, n) for n in range(1, 8) for order in range(n) if (n - order) ** n < 60_000]


def test_all_maps_of_units_onto_vectors():
    for order, n in SMALL:
        assert ratio(order, n) * factorial(n) == onto(n, n - order)


def test_stirling_numbers():
    for n in range(1, 13):
        for order in range(n):
            expected = Fraction(factorial(n - order) * stirling(n, n - order), factorial(n))
            assert ratio(order, n) == expected


@pytest.mark.parametrize("n", [4, 7, 30])
def test_the_closed_forms_of_the_paper(n):
    assert ratio(1, n) == Fraction(n - 1, 2)
    assert ratio(2, n) == Fraction(n - 2, 6) + Fraction(comb(n - 2, 2), 4)
    third = Fraction(n - 3, 24) + Fraction(2 * comb(n - 3, 2), 12) + Fraction(comb(n - 3, 3), 8)
    assert ratio(3, n) == third
    assert ratio(0, n) == 1


def test_the_lower_bound():
    for n in range(1, 16):
        for order in range(n):
            bound, exact = ratio_lower_bound(order, n), ratio(order, n)
            assert bound <= exact
            assert (bound == exact) == (order < 2)
            assert (bound == 0) == (2 * order > n)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_growth_with_the_width(order):
    limit = ratio_growth(order)
    assert limit == Fraction(1, 2**order * factorial(order))
    for function in (ratio, ratio_lower_bound):
        near = [function(order, n) / n**order / limit - 1 for n in (10**4, 10**6)]
        assert abs(near[0]) < 1e-2
        # What is left is of the order of 1 / n.
        assert abs(near[1]) <= abs(near[0]) / 90


def test_networks_of_several_layers():
    assert equivalent_minima((3, 4)) == 6 * 24
    maps = {(n, order): onto(n, n - order) for n in (3, 5) for order in (1, 2, 3) if order < n}
    assert count(1, (3, 5)) == maps[3, 1] * factorial(5) + factorial(3) * maps[5, 1]
    assert count(2, (3, 5)) == maps[3, 2] * factorial(5) + factorial(3) * maps[5, 2]
    assert count(3, (3, 5)) == factorial(3) * maps[5, 3]
    assert count(5, [3, 5]) == 0
    assert count(1, [10]) == Fraction(9, 2) * factorial(10)


def test_partitions_are_all_and_no_more():
    for total in range(8):
        for parts in (None, 0, 1, 2, 3):
            found = list(partitions(total, parts))
            longest = total if parts is None else min(parts, total)
            every = {
                tuple(sorted(some, reverse=True))
                for size in range(longest + 1)
                for some in itertools.product(range(1, total + 1), repeat=size)
                if sum(some) == total
            }
            assert len(found) == len(set(found))
            assert set(found) == every


def test_bad_orders_and_widths_are_refused():
    for function, arguments, *named in (
        (ratio, (4, 4), "order=4", "0 to 3"),
        (ratio, (-1, 4), "order=-1"),
        (ratio, (1, 0), "units=0"),
        (ratio_lower_bound, (1.0, 4), "order=1.0"),
        (ratio_growth, (-1,), "order=-1"),
        (count, (0, (3,)), "order=0"),
        (count, (1, ()), "widths="),
        (count, (1, 3), "widths=3"),
        (equivalent_minima, ((3, 2.5),), "width=2.5"),
    ):
        with says(InputError, *named):
            function(*arguments)
