"""Blocks against numpy's concatenation, and a thread that reads one item ahead."""

import threading
from itertools import pairwise

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcjax.data.blocks import ahead, recut

SHAPES = [jax.ShapeDtypeStruct((9, 2), np.float32), jax.ShapeDtypeStruct((9,), np.int32)]


def chunks_of(sizes):
    """Chunks of these sizes whose rows are numbers, in float64 and int64."""
    whole = np.arange(2 * sum(sizes)).reshape(-1, 2) / 4
    cuts = np.cumsum(sizes)[:-1]
    return [list(pair) for pair in zip(np.split(whole, cuts), np.split(np.arange(sum(sizes)), cuts), strict=True)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=8), st.integers(1, 9), st.none() | st.integers(1, 30))
def test_blocks_are_the_concatenated_chunks_up_to_the_limit(sizes, rows, limit):
    blocks = list(recut(iter(chunks_of(sizes)), SHAPES, rows, limit))
    n = sum(sizes) if limit is None else min(limit, sum(sizes))
    assert [filled for _, filled in blocks] == [rows] * (n // rows) + [n % rows] * (n % rows > 0)
    for leaf, (shape, dtype) in enumerate((((rows, 2), np.float32), ((rows,), np.int32))):
        assert all(block[leaf].shape == shape and block[leaf].dtype == dtype for block, _ in blocks)
        whole = np.concatenate([chunk[leaf] for chunk in chunks_of(sizes)])
        got = [block[leaf][:filled] for block, filled in blocks]
        np.testing.assert_array_equal(np.concatenate([whole[:0], *got]), whole[:n])


def test_chunks_beyond_the_limit_are_not_asked_for():
    asked = []

    def chunks():
        for i, chunk in enumerate(chunks_of([4, 4, 4])):
            asked.append(i)
            yield chunk

    assert [filled for _, filled in recut(chunks(), SHAPES, 3, 8)] == [3, 3, 2]
    assert asked == [0, 1]


def test_every_block_has_memory_of_its_own():
    """A source may write into the buffer that it gave before."""
    buffer = np.zeros(2)

    def chunks():
        for i in range(6):
            buffer[:] = i
            yield [buffer]

    blocks = [block for (block,), _ in recut(chunks(), [jax.ShapeDtypeStruct((2,), np.float32)], 4, None)]
    np.testing.assert_array_equal(np.concatenate(blocks), np.repeat(np.arange(6), 2))
    assert not any(np.shares_memory(a, b) for a, b in pairwise(blocks))


class Noted:
    """Items 0, 1, ... as a generator that notes what it made; `made[i]` is set when item i is made."""

    def __init__(self, n, error=None):
        self.n, self.error, self.closed = n, error, False
        self.items, self.made = [], [threading.Event() for _ in range(n + 1)]

    def generate(self):
        try:
            for i in range(self.n):
                self.items.append(i)
                self.made[i].set()
                yield i
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


def test_one_item_is_made_ahead_in_order():
    noted = Noted(5)
    coming = ahead(noted.generate())
    assert noted.items == []
    for i in range(5):
        assert next(coming) == i
        if i < 4:
            # Nobody asks for it.
            assert noted.made[i + 1].wait(60)
            assert noted.items == list(range(i + 2))
    assert list(coming) == []
    assert noted.closed


def test_an_error_is_raised_after_the_items_before_it():
    error = OSError("the disk is gone")
    noted = Noted(2, error)
    coming = ahead(noted.generate())
    assert [next(coming), next(coming)] == [0, 1]
    with pytest.raises(OSError, match="disk") as caught:
        next(coming)
    assert caught.value is error
    assert noted.closed


def test_closing_ends_the_thread_and_the_generator():
    before = set(threading.enumerate())
    noted = Noted(5)
    coming = ahead(noted.generate())
    next(coming)
    assert set(threading.enumerate()) - before
    coming.close()
    assert not set(threading.enumerate()) - before
    assert noted.closed
    assert len(noted.items) <= 2
