"""Occurrences of factors on an axis, against the units that every position of it stands for, one by one."""

from collections import Counter

import pytest

from mcjax.symmetry.infer.factors import Factors, Sum
from mcjax.symmetry.infer.occurrences import Occurrence, occurrences


def units(factors, product):
    """The (factor, unit) pairs of every position of an axis, of its free factors."""
    found = [()]
    for term in product:
        if isinstance(term, Sum):
            here = [pairs for part in term.parts for pairs in units(factors, part)]
        else:
            here = [((term, i),) if factors.is_free(term) else () for i in range(factors.length((term,)))]
        found = [slower + faster for slower in found for faster in here]
    return found


def axes():
    factors = Factors()
    a, b, c, d = (factors.new(n) for n in (2, 3, 4, 5))
    pinned = factors.new(3, "for the test")
    concatenated = (Sum((a, b)),)
    return factors, {
        "product": a + b + c,
        "sum": concatenated,
        "faster factors": concatenated + c,
        "slower factors": c + concatenated,
        "both": c + concatenated + d,
        "both, pinned": pinned + concatenated + pinned,
        "equal segments": (Sum((a, a, b, b, b, a)), *c),
        "products as segments": (*c, Sum((a + b, pinned, b + a)), *pinned),
        "sums in segments": (*c, Sum((d, concatenated + c)), *d),
        "one factor twice": a + c + a,
    }


@pytest.mark.parametrize("name", axes()[1])
def test_every_unit_is_where_its_factor_occurs(name):
    factors, made = axes()
    product = made[name]
    expected = Counter((at, *pair) for at, pairs in enumerate(units(factors, product)) for pair in pairs)
    found = Counter()
    for atom, start, stop, outer, inner in occurrences(factors, product):
        n = factors.length((atom,))
        assert stop - start == outer * n * inner
        found.update((at, atom, (at - start) // inner % n) for at in range(start, stop))
    assert found == expected
    assert found.total() > 0


def test_factors_of_one_class_are_one():
    factors = Factors()
    a, b = factors.new(3), factors.new(3)
    factors.unify(a, b)
    assert occurrences(factors, (Sum((a, b)),)) == [Occurrence(factors.find(a[0]), 0, 6, 2, 1)]


def test_segments_that_touch_share_no_position():
    first, second, third = (Occurrence(0, start, stop, 1, 1) for start, stop in ((0, 4), (4, 8), (3, 5)))
    assert not first.overlaps(second)
    assert not second.overlaps(first)
    assert all(each.overlaps(third) and third.overlaps(each) for each in (first, second))
