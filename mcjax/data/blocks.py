"""Blocks of examples: cut anew from batches of any sizes, read ahead by a thread, and put together from processes."""

from collections.abc import Callable, Generator, Iterable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

T = TypeVar("T")

Blocks = Generator[tuple[list[np.ndarray], int]]
"""Arrays (rows, ...) on the host, and how many of the rows are filled: all, but in the last block."""


class Processes(NamedTuple):
    """The processes that read together, each its own part of every batch. By default there is one.

    Attributes:
        number: Their number.
        least: The smallest of the numbers that they give, which is negative from one that failed.
        rows: `rows(blocks, part, like) -> chunks`: the rows of all of them, `part` of each in turn, from `Blocks` of
            each, whose arrays are like these.
    """

    number: int = 1
    least: Callable[[int], int] = int
    rows: Callable[[Blocks, int, list[np.ndarray]], Iterator[list[np.ndarray]]] | None = None


ALONE = Processes()


def recut(
    chunks: Iterable[list[np.ndarray]], shapes: list[jax.ShapeDtypeStruct], rows: int, limit: int | None
) -> Blocks:
    """The rows of chunks of any lengths in blocks, each in memory of its own.

    Args:
        chunks: Lists of arrays (n, ...).
        shapes: The shapes of such arrays, and the dtypes of the blocks.
        rows: Rows of a block.
        limit: Maximum number of rows. None: all.

    Yields:
        The blocks, none of which is empty.
    """
    left = np.inf if limit is None else limit
    block: list[np.ndarray] = []
    filled = 0
    for leaves in chunks:
        n, at = len(leaves[0]), 0
        while at < n and left:
            block = block or [np.empty((rows, *leaf.shape[1:]), leaf.dtype) for leaf in shapes]
            taken = int(min(rows - filled, n - at, left))
            for to, leaf in zip(block, leaves, strict=True):
                to[filled : filled + taken] = leaf[at : at + taken]
            at, filled, left = at + taken, filled + taken, left - taken
            if filled == rows:
                yield block, rows
                block, filled = [], 0
        if not left:
            break
    if filled:
        yield block, filled


def ahead(items: Generator[T]) -> Generator[T]:
    """The items of a generator, each made in a thread while the one before is used. Its errors are raised in turn."""
    wanted: SimpleQueue[bool] = SimpleQueue()
    made: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    end, x64 = object(), jax.config.jax_enable_x64  # type: ignore[attr-defined]

    def make() -> None:
        # The caller's, which a thread does not have by itself.
        with jax.enable_x64(x64):
            while wanted.get():
                try:
                    made.put((next(items, end), None))
                except BaseException as error:
                    made.put((end, error))

    # No pool: processes that a loader forks in a thread of a pool would wait for that thread when they end, and fail.
    thread = Thread(target=make, daemon=True)
    thread.start()
    try:
        wanted.put(True)
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is end:
                return
            wanted.put(True)
            yield item
    finally:
        wanted.put(False)
        thread.join()
        # The thread is done before the generator is closed.
        items.close()


__all__ = ["ALONE", "Blocks", "Processes", "ahead", "recut"]
