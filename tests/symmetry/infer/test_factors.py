"""Factors of axes: what is unified is permuted alike, whatever the free factors do, and is not pinned for nothing."""

import inspect
import sys
from contextlib import contextmanager
from itertools import accumulate, pairwise, product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcjax.symmetry.infer.factors import MISALIGNED, Factors, Sum


def one_after_the_other(parts):
    starts = accumulate(map(len, parts), initial=0)
    return np.concatenate([start + part for start, part in zip(starts, parts, strict=False)])


def moved(factors, axis, seed):
    # Where each position of an axis comes from, when every class of free factors has a permutation of its own.
    at = np.zeros(1, int)
    for term in factors.expand(axis):
        if isinstance(term, Sum):
            inner = one_after_the_other([moved(factors, part, seed) for part in term.parts])
        elif not factors.is_free(term):
            inner = np.arange(factors.length((term,)))
        else:
            inner = np.random.default_rng((seed, factors.find(term))).permutation(factors.length((term,)))
        at = (at[:, None] * len(inner) + inner).ravel()
    return at


def assert_moved_alike(factors, p, q):
    for seed in range(3):
        np.testing.assert_array_equal(moved(factors, p, seed), moved(factors, q, seed))


def build(factors, described, origin=None):
    # A number is a factor of that length, a list is a sum of segments, a tuple is a product.
    if isinstance(described, int):
        return factors.new(described, origin=origin)
    if isinstance(described, list):
        return factors.concatenate([build(factors, part, origin) for part in described])
    return sum((build(factors, term, origin) for term in described), ())


def form(factors, axis):
    terms = tuple(
        [form(factors, part) for part in term.parts] if isinstance(term, Sum) else factors.length((term,))
        for term in factors.expand(axis)
    )
    return terms[0] if len(terms) == 1 else terms or 1


def origins(factors, product):
    return [factors.origin(atom) for atom in factors.atoms(product)]


def reasons(factors, product):
    return [None if factors.is_free(atom) else factors.reason((atom,)) for atom in factors.atoms(product)]


def classes(factors, product):
    return [factors.find(atom) for atom in factors.atoms(product)]


class Play:
    """Axes of small lengths, what was done with them, and what must hold from then on."""

    longest = 24

    def __init__(self, moves):
        self.factors = Factors()
        self.axes, self.lengths = [], []
        self.alike, self.rows, self.pinned, self.marked = [], [], [], []
        for n in (2, 3, 4, 6, 6, 8, 12):
            self.new(n)
        for name, i, j in moves:
            getattr(self, name)(i, j)
            assert [self.factors.length(axis) for axis in self.axes] == self.lengths
            assert all(map(self.factors.is_pinned, self.pinned))

    def add(self, product, length):
        self.axes.append(product)
        self.lengths.append(length)

    def pick(self, i):
        i %= len(self.axes)
        return self.axes[i], self.lengths[i]

    def new(self, i, j=0):
        n = i if j == 0 else (1, 2, 3, 4, 6, 9)[i % 6]
        self.add(self.factors.new(n, origin=len(self.axes)), n)
        self.marked.append((self.axes[-1], len(self.axes) - 1))

    def multiply(self, i, j):
        (p, m), (q, n) = self.pick(i), self.pick(j)
        if m * n <= self.longest:
            self.add(p + q, m * n)

    def unify(self, i, j):
        p, n = self.pick(i)
        equal = [axis for axis, length in zip(self.axes, self.lengths, strict=True) if length == n]
        q = equal[j % len(equal)]
        self.factors.unify(p, q)
        self.alike.append((p, q))

    def cut(self, i, j):
        p, n = self.pick(i)
        sizes = [n] if n == 1 else [1 + j % (n - 1), n - 1 - j % (n - 1)]
        segments = self.factors.cut(p, sizes)
        if segments is not None:
            for segment, size in zip(segments, sizes, strict=True):
                self.add(segment, size)
            self.rows.append((p, segments))
            self.alike.append((p, self.factors.concatenate(segments)))

    def concatenate(self, i, j):
        (p, m), (q, n) = self.pick(i), self.pick(j)
        if m + n <= self.longest:
            self.add(self.factors.concatenate([p, q]), m + n)
            self.rows.append((self.axes[-1], [p, q]))

    def pin(self, i, j):
        if j % 3 == 0:  # rarely, or soon nothing is free
            p, _ = self.pick(i)
            self.factors.pin(p, "pinned")
            self.pinned.append(p)


numbers = st.integers(0, 99)
names = st.sampled_from(["unify", "unify", "unify", "cut", "cut", "multiply", "concatenate", "new", "pin"])
plays = st.lists(st.tuples(names, numbers, st.integers(1, 99)), min_size=10, max_size=25).map(Play)
random_plays = settings(max_examples=150, deadline=None)


@random_plays
@given(plays)
def test_what_is_unified_is_moved_alike(play):
    for p, q in play.alike:
        assert_moved_alike(play.factors, p, q)
    for whole, parts in play.rows:
        for seed in range(2):
            row = one_after_the_other([moved(play.factors, part, seed) for part in parts])
            np.testing.assert_array_equal(moved(play.factors, whole, seed), row)
    for p in play.pinned:
        np.testing.assert_array_equal(moved(play.factors, p, 0), np.arange(play.factors.length(p)))


@random_plays
@given(plays)
def test_split_factors_keep_their_origin(play):
    for p, origin in play.marked:
        assert {play.factors.origin(atom) for atom in play.factors.atoms(p)} <= {origin}


def grouped(lengths, ends):
    return tuple(prod(lengths[i:j]) for i, j in pairwise(sorted({0, *ends, len(lengths)})))


@st.composite
def groupings(draw):
    lengths = draw(st.lists(st.sampled_from([2, 3, 5]), min_size=1, max_size=5))
    ends = st.sets(st.integers(0, len(lengths)))
    return lengths, draw(ends), draw(ends)


@settings(max_examples=50, deadline=None)
@given(groupings())
def test_products_that_line_up_meet_in_their_common_refinement(case):
    lengths, *ends = case
    factors = Factors()
    p, q = (build(factors, grouped(lengths, each)) for each in ends)
    factors.unify(p, q)
    for side in (p, q):
        assert tuple(factors.length((atom,)) for atom in factors.atoms(side)) == grouped(lengths, ends[0] | ends[1])
        assert all(factors.is_free(atom) for atom in factors.atoms(side))
    assert classes(factors, p) == classes(factors, q)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(1, 10)), st.sets(st.integers(1, 10)))
def test_sums_meet_in_their_common_refinement(one, other):
    def gaps(ends):
        return [j - i for i, j in pairwise([0, *sorted(ends), 12])]

    factors = Factors()
    p, q = (build(factors, gaps(ends)) for ends in (one, other))
    factors.unify(p, q)
    expected = [n for n in gaps(one | other) if n > 1]
    for side in (p, q):
        assert [factors.length((atom,)) for atom in factors.atoms(side)] == expected
        assert all(factors.is_free(atom) for atom in factors.atoms(side))
    assert classes(factors, p) == classes(factors, q)


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
def test_what_does_not_line_up_is_pinned(one, other):
    for factors, p, q in unified(one, other):
        for side in (p, q):
            assert factors.is_pinned(side)
            assert factors.reason(side) == MISALIGNED
            np.testing.assert_array_equal(moved(factors, side, 0), np.arange(factors.length(side)))


def test_what_lines_up_again_behind_it_stays_free():
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


def test_what_is_split_later_is_split_everywhere():
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


def test_pinned_stays_pinned_and_says_why():
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


def test_pieces_of_what_is_partly_pinned():
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
