"""Factors of axes: what is unified is permuted alike, whatever the free factors do, and is not pinned for nothing."""

import inspect
import sys
from contextlib import contextmanager
from itertools import pairwise, product

import numpy as np
import pytest
from infer.factor_axes import assert_moved_alike, build, classes, form, moved, origins, reasons

from mcjax.symmetry.infer.factors import MISALIGNED, Factors


def unified(one, other):
    """Two axes after they were unified, one with the other and the other with one, with origins and without."""
    for swapped, of in product((False, True), ((None, None), (1, 2))):
        factors = Factors()
        p, q = build(factors, one, of[0]), build(factors, other, of[1])
        factors.unify(*((q, p) if swapped else (p, q)))
        assert set(origins(factors, p)) <= {of[0]}
        assert set(origins(factors, q)) <= {of[1]}
        assert_moved_alike(factors, p, q)
        yield factors, p, q


@pytest.mark.parametrize(
    ("one", "other", "first", "second"),
    [
        *(
            (one, other, both, both)
            for one, other, both in (
                (1, 1, 1),
                (12, 12, 12),
                (12, (3, 4), (3, 4)),
                (12, (2, 2, 3), (2, 2, 3)),
                (12, [5, 7], [5, 7]),
                (12, [(2, 3), 6], [(2, 3), 6]),
                (12, ([1, 2], 4), ([1, 2], 4)),
                (3136, (7, 7, 64), (7, 7, 64)),
                ((49, 64), (7, 448), (7, 7, 64)),
                ((2, 6), (4, 3), (2, 2, 3)),
                ([3, 5], 8, [3, 5]),
                ([3, 5], [3, 5], [3, 5]),
                ([3, 5], [4, 4], [3, 1, 4]),
                ([2, [3, 4]], 9, [2, 3, 4]),
                ([1, 1, 1, 2], 5, [1, 1, 1, 2]),
                (([3, 5], 4), 32, ([3, 5], 4)),
                ((4, [3, 5]), (2, 16), (2, 2, [3, 5])),
                ([(3, 4), (5, 4)], [12, 20], [(3, 4), (5, 4)]),
            )
        ),
        ([(3, 4), (5, 4)], (8, 4), [(3, 4), (5, 4)], ([3, 5], 4)),
        ([(3, 4), 4], [4, 12], [([1, 2], 4), 4], [4, (2, 4), 4]),
        ([6, 6], (2, 6), [6, 6], ([1, 1], 6)),
        (([4, 4], 3), (2, 4, 3), ([4, 4], 3), ([1, 1], 4, 3)),
    ],
    ids=str,
)
def test_two_axes_become_one(one, other, first, second):
    for factors, p, q in unified(one, other):
        assert (form(factors, p), form(factors, q)) == (first, second)
        assert all(factors.is_free(atom) for side in (p, q) for atom in factors.atoms(side))
        assert set(classes(factors, p)) == set(classes(factors, q))
        assert first != second or classes(factors, p) == classes(factors, q)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((6, 2), (4, 3)),
        ((6, 2, 5), (4, 15)),
        (([3, 5], 2), (4, 4)),
        (([3, 5], 4), (2, [1, 3, 4, 8])),
        ([(2, 3), 2], (2, 4)),
        ([(2, 3), 2], [4, 4]),
    ],
    ids=str,
)
def test_misaligned_factors_are_pinned(one, other):
    for factors, p, q in unified(one, other):
        for side in (p, q):
            assert factors.is_pinned(side)
            assert factors.reason(side) == MISALIGNED
            np.testing.assert_array_equal(moved(factors, side, 0), np.arange(factors.length(side)))


def test_factors_aligned_after_misaligned_ones_stay_free():
    factors = Factors()
    p, q = build(factors, (6, 2, 5)), build(factors, (4, 3, 5))
    factors.unify(p, q)
    for side in (p, q):
        assert factors.is_pinned(side[:2])
        assert factors.is_free(side[2])
    assert_moved_alike(factors, p, q)


def test_one_factor_twice_on_an_axis():
    # x + x transposed and flattened: both its factors are one and the same.
    factors = Factors()
    a, b, flat = factors.new(3), factors.new(3), factors.new(9)
    factors.unify(flat, a + b)
    factors.unify(flat, b + a)
    assert factors.find(a[0]) == factors.find(b[0])
    assert form(factors, flat) == (3, 3)
    assert_moved_alike(factors, flat, b + a)


def test_halves_that_are_permuted_alike():
    factors = Factors()
    whole, bias = factors.new(12), factors.new(12)
    one, other = factors.cut(whole, [6, 6])
    factors.unify(one, other)
    factors.unify(bias, whole)
    assert form(factors, whole) == form(factors, bias) == [6, 6]
    assert len(set(classes(factors, whole) + classes(factors, bias))) == 1
    one, other = np.split(moved(factors, bias, 0), 2)
    np.testing.assert_array_equal(other, one + 6)
    assert (one != np.arange(6)).any()


def test_a_later_split_applies_everywhere():
    factors = Factors()
    axes = [factors.new(12) for _ in range(4)]
    beside = factors.concatenate([axes[1], factors.new(5)])
    for axis in axes[1:]:
        factors.unify(axes[0], axis)
    factors.unify(axes[2], factors.new(3) + factors.new(4))
    assert [form(factors, axis) for axis in axes] == [(3, 4)] * 4
    assert form(factors, beside) == [(3, 4), 5]
    factors.cut(axes[3], [4, 8])
    assert [form(factors, axis) for axis in axes] == [([1, 2], 4)] * 4
    assert form(factors, beside) == [([1, 2], 4), 5]


@pytest.mark.parametrize(
    ("described", "sizes", "segments"),
    [
        (12, [12], [12]),
        (12, [5, 7], [5, 7]),
        (12, [1, 1, 10], [1, 1, 10]),
        ((3, 4), [4, 8], [4, (2, 4)]),
        ([3, 5], [3, 5], [3, 5]),
        ([3, 5], [4, 4], [[3, 1], 4]),
        ([3, 5, 2], [1, 8, 1], [1, [2, 5, 1], 1]),
        ([(3, 4), 2], [4, 10], [4, [(2, 4), 2]]),
        ((3, 4), [5, 7], None),
        ([(3, 4), 2], [5, 9], None),
        ((3, [1, 3]), [4, 8], [[1, 3], (2, [1, 3])]),
    ],
    ids=str,
)
def test_cutting(described, sizes, segments):
    factors = Factors()
    axis = build(factors, described)
    cut = factors.cut(axis, sizes)
    assert (None if cut is None else [form(factors, segment) for segment in cut]) == segments
    assert all(factors.is_free(atom) for atom in factors.atoms(axis))
    if cut is not None:
        assert_moved_alike(factors, factors.concatenate(cut), axis)


def test_pinned_stays_pinned_with_its_reason():
    factors = Factors()
    a, b, c = factors.new(6), factors.new(6, "an axis of the inputs"), factors.new(2) + factors.new(3)
    assert [factors.is_pinned(axis) for axis in (a, b, c)] == [False, True, False]
    factors.unify(a, c)
    assert not factors.is_pinned(a)
    factors.unify(c, b)
    assert [factors.reason(axis) for axis in (a, b, c)] == ["an axis of the inputs"] * 3
    factors.pin(a, "another reason")
    assert factors.reason(a) == "an axis of the inputs"
    assert [factors.reason(segment) for segment in factors.cut(b, [2, 4])] == ["an axis of the inputs"] * 2
    row = factors.concatenate([b, a])
    assert form(factors, row) == 12
    assert factors.reason(row) == "an axis of the inputs"


@pytest.mark.parametrize(
    ("described", "other"), [(8, 8), ([3, 5], 8), ((2, 4), 8), (8, [3, 5]), (8, (2, 4)), ([3, 5], [4, 4])]
)
def test_one_pinned_side_pins_the_other(described, other):
    factors = Factors()
    p, q = build(factors, described), build(factors, other)
    factors.pin(q, "pinned")
    factors.unify(p, q)
    assert all(factors.reason((atom,)) == "pinned" for atom in [*factors.atoms(p), *factors.atoms(q)])


@pytest.mark.parametrize("other", [(6, 5), 30, (2, 15), (2, 3, 5), ([2, 4], 5), [10, 20]], ids=str)
def test_only_the_factor_that_is_pinned_stays(other):
    for swapped in (False, True):
        factors = Factors()
        pinned, free = factors.new(6, "positions matter"), factors.new(5)
        p, q = pinned + free, build(factors, other)
        factors.unify(*((q, p) if swapped else (p, q)))
        assert_moved_alike(factors, p, q)
        assert factors.is_free(free[0])
        for side in (p, q):
            at = moved(factors, side, 0).reshape(6, 5)
            np.testing.assert_array_equal(at // 5, np.tile(np.arange(6)[:, None], 5))
            assert (at[0] != np.arange(5)).any()
            assert set(reasons(factors, side)) == {"positions matter", None}


def test_segments_of_a_partly_pinned_axis():
    factors = Factors()
    axis = factors.new(4, "positions matter") + factors.new(5)
    segments = factors.cut(axis, [5, 15])
    assert [form(factors, segment) for segment in segments] == [5, (3, 5)]
    assert [reasons(factors, segment) for segment in segments] == [[None], ["positions matter", None]]
    assert_moved_alike(factors, factors.concatenate(segments), axis)


def test_length_one_has_no_factors():
    factors = Factors()
    assert factors.new(1) == factors.new(1, "pinned") == ()
    assert factors.length(()) == 1
    assert factors.is_pinned(())
    assert factors.reason(()) == "its positions are told apart"
    factors.unify((), ())
    # A row of single positions can only stay as it is.
    row = factors.concatenate([(), (), ()])
    assert factors.length(row) == 3
    assert factors.is_pinned(row)


def test_origins_of_an_axis_split_twice():
    factors = Factors()
    axes = [factors.new(24, origin=i) for i in range(3)]
    for axis in axes:
        factors.unify(axes[0], axis)
    factors.unify(axes[2], factors.new(4) + factors.new(6))
    assert [origins(factors, axis) for axis in axes] == [[i] * 2 for i in range(3)]
    factors.unify(axes[1], factors.new(2) + factors.new(12))
    assert [origins(factors, axis) for axis in axes] == [[i] * 3 for i in range(3)]
    segments = factors.cut(axes[1], [12, 12])
    assert [set(origins(factors, segment)) for segment in segments] == [{1}, {1}]


def test_origins_of_an_axis_cut_in_segments():
    factors = Factors()
    axes = [factors.new(24, origin=i) for i in range(3)]
    for axis in axes:
        factors.unify(axes[0], axis)
    segments = factors.cut(axes[1], [10, 14])
    assert [origins(factors, axis) for axis in axes] == [[i] * 2 for i in range(3)]
    factors.unify(segments[1], factors.new(2) + factors.new(7))
    assert [origins(factors, axis) for axis in axes] == [[i] * 3 for i in range(3)]
    assert [origins(factors, segment) for segment in segments] == [[1], [1, 1]]


def test_pieces_of_a_pinned_factor_keep_their_origin():
    factors = Factors()
    one, other = factors.new(6, origin=1), factors.new(6, origin=2)
    factors.unify(one, other)
    factors.pin(one, "pinned")
    segments = factors.cut(other + factors.new(2, origin=2), [4, 8])
    assert [set(origins(factors, segment)) for segment in segments] == [{2}, {2}]


@contextmanager
def few_frames(frames):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + frames)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("order", ["forwards", "backwards", "from the middle"])
def test_a_long_chain_does_not_recurse(order):
    factors = Factors()
    axes = [factors.new(6, origin=i) for i in range(10_001)]
    links = list(pairwise(axes))
    if order != "forwards":
        links = links[::-1] if order == "backwards" else links[5_000:] + links[:5_000][::-1]
    with few_frames(40):
        for one, other in links:
            factors.unify(one, other)
        factors.unify(axes[7_000], factors.new(2) + factors.new(3))
        assert form(factors, axes[0]) == form(factors, axes[-1]) == (2, 3)
        assert classes(factors, axes[0]) == classes(factors, axes[-1])
        factors.pin(axes[3_000], "pinned")
        assert factors.is_pinned(axes[-1])


def test_factor_after_factor_does_not_recurse():
    factors = Factors()
    axis, rest = factors.new(2**400), factors.new(2**400)
    with few_frames(40):
        factors.unify(axis, rest)
        for k in range(399, 0, -1):
            one, other = factors.new(2), factors.new(2**k)
            factors.unify(rest, one + other)
            rest = other
        assert len(factors.expand(axis)) == 400


def test_cutting_again_and_again_does_not_recurse():
    factors = Factors()
    axis = rest = factors.new(302)
    with few_frames(200):
        for n in range(301, 1, -1):
            _, rest = factors.cut(rest, [1, n])
        assert form(factors, axis) == [1] * 300 + [2]


class Impatient(Factors):
    calls = 0

    def expand(self, product):
        self.calls += 1
        assert self.calls < 1000, "this does not end"
        return super().expand(product)


@pytest.mark.parametrize("other", [3, [3, 0], [0, 3]], ids=str)
@pytest.mark.parametrize("own", [False, True], ids=["another", "itself"])
def test_an_empty_segment_changes_nothing(other, own):
    factors = Impatient()
    a = factors.new(3)
    b = a if own else factors.new(3)
    described = [other] if isinstance(other, int) else other
    q = factors.concatenate([b if n else factors.new(0) for n in described])
    factors.unify(factors.concatenate([a, factors.new(0)]), q)
    factors.unify(a, q)
    assert_moved_alike(factors, a, q)
    assert not factors.is_pinned(a)
