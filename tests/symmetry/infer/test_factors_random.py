"""Factors after random sequences of operations: what was unified moves alike, and pieces keep their origin."""

from itertools import pairwise
from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from infer.factor_axes import assert_moved_alike, build, classes, moved, one_after_the_other

from mcjax.symmetry.infer.factors import Factors


class History:
    """Axes of small lengths, what was done with them, and what must hold from then on."""

    longest = 24

    def __init__(self, moves):
        self.factors = Factors()
        self.axes, self.lengths = [], []
        self.alike, self.rows, self.pinned, self.origins = [], [], [], []
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
        self.origins.append((self.axes[-1], len(self.axes) - 1))

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
histories = st.lists(st.tuples(names, numbers, st.integers(1, 99)), min_size=10, max_size=25).map(History)
many_examples = settings(max_examples=150, deadline=None)


@many_examples
@given(histories)
def test_unified_axes_are_permuted_alike(history):
    for p, q in history.alike:
        assert_moved_alike(history.factors, p, q)
    for whole, parts in history.rows:
        for seed in range(2):
            row = one_after_the_other([moved(history.factors, part, seed) for part in parts])
            np.testing.assert_array_equal(moved(history.factors, whole, seed), row)
    for p in history.pinned:
        np.testing.assert_array_equal(moved(history.factors, p, 0), np.arange(history.factors.length(p)))


@many_examples
@given(histories)
def test_split_factors_keep_their_origin(history):
    for p, origin in history.origins:
        assert {history.factors.origin(atom) for atom in history.factors.atoms(p)} <= {origin}


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
