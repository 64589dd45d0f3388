"""Totals over the batches of a split at many points: of arrays in one compiled call, of streams block by block."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mcjax import trees
from mcjax.data.stream import Stream
from mcjax.errors import InputError
from mcjax.runtime.compiling import Compiled, jit
from mcjax.runtime.mapping import over_models, over_points
from mcjax.runtime.mesh import AXES, Placement, on_mesh
from mcjax.training.batches import accumulate, equal_batches, evenly_spaced, merge, total_over
from mcjax.training.loss import Batch
from mcjax.training.task import reading_processes

OfBatch = Callable[[Any, Batch, Any], Any]
"""`of_batch(theta, batch, number) -> total`, a pytree; the total is a tree of `Mean`, `Moments` or `CrossMoments`."""


Check = Callable[[Callable[[int | None], tuple[Compiled, tuple]]], None]
"""A check before a computation, of the function chunk -> (program, arguments)."""


class Reading(NamedTuple):
    """The batches of a split. Static under jit.

    Attributes:
        batch_size: Examples in memory at once.
        examples: Number of examples: evenly spaced in arrays, the first ones of a stream. None: all.
        equal: Whether batches are of one size, and a remainder is left out.
    """

    batch_size: int
    examples: int | None = None
    equal: bool = False


class Points(NamedTuple):
    """The points at which totals are computed.

    Attributes:
        at: `at(point) -> theta`, a pytree: what `of_batch` takes.
        points: The points, along a leading axis.
        pairs: Whether `at` returns several along a leading axis.
        chunk: Points in the memory of a device at once. None: 16, or 1 where convolutions run faster sequentially.
        mesh: The mesh over whose devices the points are distributed, or None.
        keep: Whether the network of each point keeps its batch statistics where others are re-estimated, bool
            (points,). None: none does.
    """

    at: Any
    points: Any
    pairs: bool = False
    chunk: int | None = None
    mesh: Mesh | None = None
    keep: Any = None


each_network = jax.tree_util.Partial(lambda theta: theta)
"""The `at` of points that are networks."""


def totals(
    of_batch: OfBatch,
    split: Batch | Stream,
    reading: Reading,
    points: Points,
    check: Check | None = None,
) -> Any:
    """The total of `of_batch` over the batches of a split, at every point.

    Args:
        of_batch: The total of one batch.
        split: The examples.
        reading: The batches.
        points: The points.
        check: A function that is called once, before the computation, with `chunk -> (program, arguments)`.

    Returns:
        The totals, with a leading axis of points, and then of pairs if there are any.
    """
    if not isinstance(split, Stream):
        return on_arrays(jax.tree_util.Partial(_Total(reading), of_batch), split, points, check)
    placement, where = _placed(points)
    fixed = placement.put_everywhere((of_batch, points.at))
    static = (points.pairs, points.chunk, points.mesh)
    total = None
    with closing(_blocks(split, reading, placement)) as blocks:
        for block in blocks:
            given = (*fixed, *block, where)
            if total is None:
                total = placement.put(_empty(of_batch, points, block[0]))
                if check is not None:
                    check(partial(_adding, points, (*given, total)))
            before, total = total, _add_block(*static, *given, total)
            # Never more than two blocks wait on the device.
            jax.block_until_ready(before)
    return placement.get(total)


def on_arrays(of_network: Any, held: Any, points: Points, check: Check | None = None) -> Any:
    """`of_network(theta, held)` at every point, in one program, which gets the arrays `held`; as from `totals`."""
    placement, where = _placed(points)
    given = (*placement.put_everywhere((of_network, points.at, held)), where)
    if check is not None:
        check(lambda chunk: (_of_arrays, (points.pairs, chunk, points.mesh, *given)))
    return placement.get(_of_arrays(points.pairs, points.chunk, points.mesh, *given))


def _placed(points: Points) -> tuple[Placement, Any]:
    placement = Placement(points.mesh, len(jax.tree.leaves(points.points)[0]), AXES)
    return placement, placement.put(jax.tree.map(jnp.asarray, points.points))


def _empty(of_batch: OfBatch, points: Points, batches: Batch) -> Any:
    """The totals of no batches, on the host."""
    shapes = _of_first.eval_shape(points.pairs, of_batch, points.at, batches, points.points)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@partial(jax.jit, static_argnums=0)
def _of_first(pairs: bool, of_batch: OfBatch, at: Any, batches: Batch, points: Any) -> Any:
    """The totals of the first batch. Only ever traced, once for all arguments of these shapes."""
    batch = trees.index(batches, 0)
    return _at_points(lambda theta: of_batch(theta, batch, 0), at, pairs, None, points)


def _adding(points: Points, given: tuple, chunk: int | None) -> tuple[Compiled, tuple]:
    return _add_block, (points.pairs, chunk, points.mesh, *given)


def _blocks(stream: Stream, reading: Reading, placement: Placement) -> Generator[tuple[Batch, jax.Array, jax.Array]]:
    """The batches of a stream on the devices, (count, size, ...), with their count and the number of the first."""
    n, size = reading.examples, reading.batch_size
    stream.check_end(n)
    if reading.equal and n is not None:
        count = -(-n // size)
        size = n // count
        n = count * size
    processes = reading_processes()
    most = stream.most_of(processes) if n is None else n
    number = seen = 0
    with closing(stream.read(size, -(-most // size) if most else None, limit=n, processes=processes)) as blocks:
        for block, filled in blocks:
            seen += filled
            whole, rest = divmod(filled, size)
            if whole:
                batches = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), block)
                yield placement.put_everywhere(batches), jnp.int32(whole), jnp.int32(number)
                number += whole
            if rest and not (reading.equal and number):
                last = jax.tree.map(lambda leaf, at=whole * size, end=filled: leaf[None, at:end], block)
                yield placement.put_everywhere(last), jnp.int32(1), jnp.int32(number)
    least = processes.number * processes.least(stream.least) if n is None else n
    if seen < least:
        raise InputError(f"got {seen} examples from {stream.name}, expected at least {least}.")


def _at_points(one: Callable[..., Any], at: Any, pairs: bool, chunk: int | None, *points: Any) -> Any:
    """`one(theta, ...)` at every point, with further arguments along the axes of points and pairs."""

    def point(given: tuple) -> Any:
        theta = at(given[0])
        return (over_models(one) if pairs else one)(theta, *given[1:])

    return over_points(point, points, chunk)


@jit(static_argnames=("pairs", "chunk", "mesh"))
def _of_arrays(
    pairs: bool, chunk: int | None, mesh: Mesh | None, of_network: Any, at: Any, held: Any, points: Any
) -> Any:
    def many(of_network: Any, at: Any, held: Any, points: Any) -> Any:
        return _at_points(lambda theta: of_network(theta, held), at, pairs, chunk, points)

    return on_mesh(many, mesh, everywhere=3, axes=AXES)(of_network, at, held, points)


@dataclass(frozen=True)
class _Total:
    """The total over a split of arrays."""

    reading: Reading

    def __call__(self, of_batch: OfBatch, theta: Any, split: Batch) -> Any:
        return total_of(partial(of_batch, theta), split, self.reading)


@jit(static_argnames=("pairs", "chunk", "mesh"))
def _add_block(
    pairs: bool,
    chunk: int | None,
    mesh: Mesh | None,
    of_batch: OfBatch,
    at: Any,
    batches: Batch,
    count: jax.Array,
    number: jax.Array,
    points: Any,
    total: Any,
) -> Any:
    """The totals with those of `count` more batches, of which the first has this number."""

    def many(of_batch: OfBatch, at: Any, batches: Batch, count: Any, number: Any, points: Any, total: Any) -> Any:
        def one(theta: Any, total: Any) -> Any:
            def add(i: jax.Array, total: Any) -> Any:
                return merge(total, of_batch(theta, trees.index(batches, i), number + i))

            return jax.lax.fori_loop(0, count, add, total)

        return _at_points(one, at, pairs, chunk, points, total)

    return on_mesh(many, mesh, everywhere=5, axes=AXES)(of_batch, at, batches, count, number, points, total)


def total_of(of_batch: Callable[[Batch, Any], Any], split: Batch, reading: Reading) -> Any:
    """The total of `of_batch(batch, number)` over a split of arrays. Pure."""
    used = evenly_spaced(split, reading.examples)
    if not reading.equal:
        return total_over(of_batch, used, reading.batch_size)
    return accumulate(of_batch, equal_batches(used, reading.batch_size)[0])


__all__ = ["Check", "Points", "Reading", "each_network", "on_arrays", "total_of", "totals"]
