"""Batches from the host, for data larger than memory, in blocks of as many examples as a compiled call takes."""

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import chain, count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.data.blocks import ALONE, Blocks, Processes, ahead, recut
from mcjax.data.sources import batches_of, described, length_of, opener, shown
from mcjax.errors import InputError, check_whole


class Cut(NamedTuple):
    """Batches of a block.

    Attributes:
        block: Arrays (k, batch_size, ...) on the host.
        first: The first batch that is used.
        steps: The number of batches that are used, a step each.
        start: The step of the epoch that the first is for.
    """

    block: Any
    first: int
    steps: int
    start: int


@jax.tree_util.register_static
class Stream:
    """Examples from the host, read anew in every pass. As a pytree it has no leaves.

    Attributes:
        name: The name in messages.
        memory: Bytes that the blocks of a pass take at most, on the host and on a device together; but a block is at
            least one batch.
        shapes: The first batch as `jax.ShapeDtypeStruct`s, in the dtypes of the device.
        most: Number of examples of a pass at most; None if it is not known.
        least: Number of examples of a pass at least.
        endless: Whether a pass never ends, by the length of the source.
    """

    def __init__(
        self, source: Any, *, examples: int | None = None, memory: int = 1 << 28, name: str = "batches"
    ) -> None:
        """Read the first batch, and the last one if the source is indexed.

        Args:
            source: An iterable that begins anew each time, or has a length and is indexed; or a function that returns
                one for every pass: `source()`, or `source(number)` if it has a parameter without a default. It yields
                batches, pytrees of arrays (n, ...) with any n, or single examples, one of whose arrays is a scalar,
                such as a class. A thread reads it, and several passes may be open at once: early stopping measures
                while a fit reads ahead.
            examples: Number of examples of a pass. None: by the length of the source, whose batches but the last are
                then as long as the first; if it is not indexed, the last one is counted as whole.
            memory: Bytes that the blocks of a pass take at most, on the host and on a device together.
            name: The name in messages.

        Raises:
            InputError: If it yields nothing, or no arrays.
        """
        if not isinstance(memory, int) or memory < 1:
            raise InputError(f"got memory={memory!r} for {name}, expected a number of bytes.")
        if examples is not None:
            check_whole("examples", examples)
        self.name, self.memory = name, memory
        self._open = opener(source)
        opened = self._open(0)
        once = isinstance(opened, Iterator) and self._open(0) is opened
        batches = batches_of(opened, name)
        first = next(batches, None)
        if first is None:
            raise InputError(f"got {name} that yield nothing, expected pytrees of arrays (n, ...).")
        # A generator is read once; its first batch is kept for that.
        self._left: Iterator[Any] | None = chain([first], batches) if once else None
        self._reading: list[Iterator[Any]] = []
        self._structure: Any = jax.tree.structure(first)
        self._single = any(not np.shape(leaf) for leaf in jax.tree.leaves(first))
        leaves = self._arrays(first, "the first batch")
        if not len(leaves[0]):
            raise InputError(f"got no example in the first batch of {name}, expected pytrees of arrays (n, ...).")
        self._kinds = [(leaf.shape[1:], leaf.dtype) for leaf in leaves]
        self.shapes = jax.tree.unflatten(self._structure, list(map(_on_device, leaves)))
        length, size = length_of(opened), len(leaves[0])
        # Sources that repeat themselves have the largest length there is, or a part of it.
        self.endless = examples is None and length is not None and length * size > 1 << 53
        self.most, self.least = examples, examples or 1
        if examples is None and length is not None and not self.endless:
            indexed = hasattr(opened, "__getitem__")
            last = len(self._arrays(opened[length - 1], "the last batch")[0]) if indexed else size
            self.most = (length - 1) * size + last
            # The last batch of others has one example at least.
            self.least = self.most if indexed else self.most - size + 1
        self._lengths: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"Stream({self.name})"

    def most_of(self, processes: Processes) -> int | None:
        """The number of examples of a pass in all processes, if each has as many as the one with the fewest."""
        return processes.least(self.most or 0) * processes.number or None

    def batches_per_block(self, batch_size: int, most: int | None = None) -> int:
        """The number of batches of a block: as many as fit, and no more than `most`."""
        size = sum(leaf.size * leaf.dtype.itemsize // leaf.shape[0] for leaf in jax.tree.leaves(self.shapes))
        # One block is computed on, one is on its way, one is ready on the host, and one is read.
        fitting = max(1, self.memory // (4 * batch_size * max(1, size)))
        return fitting if most is None else max(1, min(fitting, most))

    def blocks(self, rows: int, number: int = 0, *, limit: int | None = None) -> Blocks:
        """The examples of one pass in blocks, each in memory of its own.

        Args:
            rows: Examples of a block.
            number: Number of the pass.
            limit: Maximum number of examples. None: all.

        Yields:
            The leaves of the batches, (rows, ...), and how many of the rows are filled: all, but in the last block.

        Raises:
            InputError: If there is no example.
        """
        blocks = recut(self._pass(number), jax.tree.leaves(self.shapes), rows, limit)
        empty = True
        for block in blocks:
            empty = False
            yield block
        if empty:
            once = "" if self._left is None else ": a generator is read once. Give a function that returns a new one"
            raise InputError(f"got no example from {self.name} in pass {number + 1}, expected some{once}.")

    def read(
        self, batch_size: int, most: int | None, *, limit: int | None = None, processes: Processes = ALONE
    ) -> Generator[tuple[Any, int]]:
        """The examples of the first pass in blocks that a thread reads ahead.

        Args:
            batch_size: Examples of a batch, of which every process gives its part.
            most: Maximum number of batches of a block. None: as many as fit into its memory.
            limit: Maximum number of examples. None: all.
            processes: The processes.

        Yields:
            Batches (k * batch_size, ...), and how many of the examples are filled: all, but in the last block.
        """
        k = processes.least(self.batches_per_block(batch_size, most))
        part = -(-batch_size // processes.number)
        own = self.blocks(k * part, limit=None if limit is None else -(-limit // processes.number))
        with closing(ahead(own)) as coming:
            blocks = coming
            if processes.rows is not None:
                shapes = jax.tree.leaves(self.shapes)
                like = [np.zeros((k * part, *leaf.shape[1:]), leaf.dtype) for leaf in shapes]
                blocks = recut(processes.rows(coming, part, like), shapes, k * batch_size, limit)
            for block, filled in blocks:
                yield jax.tree.unflatten(self._structure, block), filled

    def first(self, n: int | None = None, processes: Processes = ALONE) -> Any:
        """The first `n` examples of the first pass, or all if there are fewer, as arrays on the host. None: all."""
        self.check_end(n)
        rows = min(number for number in (n, self.most_of(processes) or 4096) if number)
        read = self.read(rows, 1, limit=n, processes=processes)
        found = [trees.index(block, slice(filled)) for block, filled in read]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found) if len(found) > 1 else found[0]

    def epochs(
        self, batch_size: int, steps: int, *, passes: bool, done: int, total: int, processes: Processes = ALONE
    ) -> Generator[Cut | None]:
        """The batches of epochs, in blocks that a thread reads ahead, with None at the end of each epoch.

        Args:
            batch_size: Examples of a batch from this process; a remainder at the end of a pass is left out.
            steps: Batches of an epoch; the largest number, if an epoch is one pass.
            passes: Whether an epoch is one pass. If not, batches go on from epoch to epoch and from pass to pass.
            done: Number of epochs that are done. The batches of parts of passes are read, and left out.
            total: Number of epochs.
            processes: The processes. A pass is over for all of them when one has no further batch.

        Yields:
            The batches of an epoch, and None after the last of them.

        Raises:
            InputError: If a pass ends early, or has no whole batch.
        """
        k = processes.least(self.batches_per_block(batch_size * processes.number, steps))
        first, skip = (done, 0) if passes else self._place(done * steps, batch_size, processes)

        def blocks() -> Generator[tuple[int, Any, int]]:
            for number in range(first, total) if passes else count(first):
                for leaves, filled in self.blocks(k * batch_size, number):
                    batches = [leaf.reshape(k, batch_size, *leaf.shape[1:]) for leaf in leaves]
                    yield number, jax.tree.unflatten(self._structure, batches), filled // batch_size
                yield number, None, 0

        step, own, over = 0, 0, False
        with closing(ahead(blocks())) as coming:
            while True:
                # Until the pass is over for one of the processes.
                try:
                    number, block, whole = next(coming)
                    own += whole
                    if whole < k and not over:
                        self._check_pass(number, own, batch_size, passes)
                except StopIteration:
                    return
                except BaseException:
                    processes.least(-1)
                    raise
                if not over:
                    whole = processes.least(whole)
                    at = min(skip, whole)
                    skip -= at
                    while at < whole and step < steps:
                        taken = min(whole - at, steps - step)
                        yield Cut(block, at, taken, step)
                        at, step = at + taken, step + taken
                        if step == steps and not passes:
                            yield None
                            step = 0
                    if at < whole and self.most is not None:
                        raise self._unequal(f"more than {steps} batches of {batch_size}", number, "no more")
                    over = whole < k
                    if over and passes:
                        yield None
                        step = 0
                if block is None:
                    own, over = 0, False

    def _place(self, batch: int, batch_size: int, processes: Processes) -> tuple[int, int]:
        """The pass that a batch is in, as far as the lengths of passes are known, and the batches before it there."""
        number = 0
        while 0 < (whole := processes.least(self._lengths.get(number, 0) // batch_size)) <= batch:
            number, batch = number + 1, batch - whole
        return number, batch

    def _check_pass(self, number: int, batches: int, batch_size: int, whole_pass: bool) -> None:
        """Raise InputError if there were too few batches in a pass."""
        least = self.least // batch_size if whole_pass and self.most is not None else 0
        got = f"{batches} batches of {batch_size}"
        if batches < least:
            raise self._unequal(got, number, f"at least {least}")
        if not batches:
            raise InputError(
                f"got {got} from {self.name} in pass {number + 1}, expected a smaller batch_size, or more examples."
            )

    def _unequal(self, got: str, number: int, expected: str) -> InputError:
        return InputError(
            f"got {got} from {self.name} in pass {number + 1}, expected {expected}, by its length and its first batch, "
            "or by examples=. Give Stream(..., examples=n), the number of a pass, or the steps_per_epoch."
        )

    def check_end(self, limit: int | None) -> None:
        """Raise InputError if all examples are to be read, and there is no end of them."""
        if limit is None and self.endless:
            raise InputError(f"got {self.name} that never end, expected one pass of them, without repeat().")

    def _pass(self, number: int) -> Iterator[list[np.ndarray]]:
        """The leaves of the batches of a pass."""
        if self._left is None:
            batches = batches_of(self._open(number), self.name)
        else:
            batches, self._left = self._left if number == 0 else iter(()), iter(())
        if any(batches is other for other in self._reading):
            raise InputError(
                f"got one iterator for two passes of {self.name} at once, expected a new one for each: of a loader of "
                "torch, without persistent_workers."
            )
        self._reading.append(batches)
        examples = 0
        try:
            for at, batch in enumerate(batches):
                where = f"batch {at + 1} of pass {number + 1}"
                if jax.tree.structure(batch) != self._structure:
                    raise self._other(batch, where)
                leaves = self._arrays(batch, where)
                if [(leaf.shape[1:], leaf.dtype) for leaf in leaves] != self._kinds:
                    raise self._other(batch, where)
                examples += len(leaves[0])
                yield leaves
        finally:
            self._reading.remove(batches)
        self._lengths[number] = examples

    def _arrays(self, batch: Any, where: str) -> list[np.ndarray]:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]
        if self._single:
            leaves = [leaf[None] for leaf in leaves]
        if (
            not leaves
            or len({leaf.shape[:1] for leaf in leaves}) > 1
            or not all(jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool for leaf in leaves)
        ):
            raise InputError(f"got {described(batch)} as {where} of {self.name}, expected a pytree of arrays (n, ...).")
        return leaves

    def _other(self, batch: Any, where: str) -> InputError:
        lead = () if self._single else ("n",)
        kinds = [f"{dtype.name}[{', '.join(map(str, (*lead, *shape)))}]" for shape, dtype in self._kinds]
        return InputError(
            f"got {described(batch)} as {where} of {self.name}, expected what the first batch is, with any number of "
            f"examples: {shown(self._structure, kinds)}."
        )


def _on_device(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))


__all__ = ["Cut", "Stream"]
