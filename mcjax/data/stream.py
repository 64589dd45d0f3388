"""Batches from the host, for data larger than memory, in blocks of as many examples as a compiled call takes."""

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain, count
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError

T = TypeVar("T")


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
        memory: Bytes that its blocks take at most, on the host and on the device together.
        shapes: The first batch as `jax.ShapeDtypeStruct`s, in the dtypes of the device.
        most: Number of examples of a pass if all batches are as long as the first; None if the source has no length.
        endless: Whether a pass never ends, by the length of the source.
    """

    def __init__(self, source: Any, *, memory: int = 1 << 28, name: str = "batches") -> None:
        """Read the first batch.

        Args:
            source: An iterable that begins anew each time, or a function that returns one for every pass: `source()`,
                or `source(number)` if it has a parameter without a default. It yields batches, pytrees of arrays
                (n, ...) with any n; or single examples, one of whose arrays is a scalar, such as a class.
            memory: Bytes that the blocks take at most, on the host and on the device together.
            name: The name in messages.

        Raises:
            InputError: If it yields nothing, or no arrays.
        """
        if not isinstance(memory, int) or memory < 1:
            raise InputError(f"got memory={memory!r} for {name}, expected a number of bytes.")
        self.name, self.memory = name, memory
        self._open = _opener(source)
        batches = iter(self._open(0))
        first = next(batches, None)
        if first is None:
            raise InputError(f"got {name} that yield nothing, expected pytrees of arrays (n, ...).")
        # A generator is read once; its first batch is kept for that.
        self._left: Iterator[Any] | None = chain([first], batches) if isinstance(source, Iterator) else None
        self._structure: Any = jax.tree.structure(first)
        self._single = any(not np.shape(leaf) for leaf in jax.tree.leaves(first))
        leaves = self._arrays(first, "the first batch")
        self._kinds = [(leaf.shape[1:], leaf.dtype) for leaf in leaves]
        self.shapes = jax.tree.unflatten(self._structure, list(map(_on_device, leaves)))
        length = _length(source)
        # Sources that repeat themselves have the largest length there is, or a part of it.
        self.endless = length is not None and length * len(leaves[0]) > 1 << 53
        self.most = None if length is None or self.endless else length * len(leaves[0])

    def __repr__(self) -> str:
        return f"Stream({self.name})"

    def batches_per_block(self, batch_size: int, most: int | None = None) -> int:
        """The number of batches of a block: as many as fit, and no more than `most`."""
        size = sum(leaf.size * leaf.dtype.itemsize // leaf.shape[0] for leaf in jax.tree.leaves(self.shapes))
        # One block is computed on, one is on its way, one is ready on the host, and one is read.
        fitting = max(1, self.memory // (4 * batch_size * max(1, size)))
        return fitting if most is None else max(1, min(fitting, most))

    def blocks(self, rows: int, number: int = 0, *, limit: int | None = None) -> Iterator[tuple[Any, int]]:
        """The examples of one pass in blocks, each in memory of its own.

        Args:
            rows: Examples of a block.
            number: Number of the pass.
            limit: Maximum number of examples. None: all.

        Yields:
            Arrays (rows, ...), and how many of the rows are filled: all, but in the last block.
        """
        shapes, left = jax.tree.leaves(self.shapes), np.inf if limit is None else limit
        block: list[np.ndarray] = []
        filled = 0
        for leaves in self._pass(number):
            n, at = len(leaves[0]), 0
            while at < n and left:
                block = block or [np.empty((rows, *leaf.shape[1:]), leaf.dtype) for leaf in shapes]
                taken = int(min(rows - filled, n - at, left))
                for to, leaf in zip(block, leaves, strict=True):
                    to[filled : filled + taken] = leaf[at : at + taken]
                at, filled, left = at + taken, filled + taken, left - taken
                if filled == rows:
                    yield jax.tree.unflatten(self._structure, block), rows
                    block, filled = [], 0
            if not left:
                break
        if filled:
            yield jax.tree.unflatten(self._structure, block), filled

    def epochs(
        self, batch_size: int, steps: int, *, passes: bool, done: int, total: int, agree: Callable[[int], int] = int
    ) -> Generator["Cut | None"]:
        """The batches of epochs, in blocks that a thread reads ahead, with None at the end of each epoch.

        Args:
            batch_size: Examples of a batch; a remainder at the end of a pass is left out.
            steps: Batches of an epoch; the largest number, if an epoch is one pass.
            passes: Whether an epoch is one pass. If not, batches go on from epoch to epoch and from pass to pass.
            done: Number of epochs that are done. The batches of parts of passes are read, and left out.
            total: Number of epochs.
            agree: The smallest of the numbers of batches that all processes have in a block; they fail with -1.

        Yields:
            The batches of an epoch, and None after the last of them.

        Raises:
            InputError: If a pass ends early, or has no whole batch.
        """
        k = self.batches_per_block(batch_size, steps)
        skip, step, used, over = 0 if passes else done * steps, 0, 0, False

        def blocks() -> Iterator[tuple[int, Any, int]]:
            for number in range(done, total) if passes else count():
                for block, filled in self.blocks(k * batch_size, number):
                    batches = jax.tree.map(lambda leaf: leaf.reshape(k, batch_size, *leaf.shape[1:]), block)
                    yield number, batches, filled // batch_size
                yield number, None, 0

        with closing(ahead(blocks())) as coming:
            while True:
                try:
                    number, block, whole = next(coming)
                except StopIteration:
                    return
                except BaseException:
                    agree(-1)
                    raise
                # Until the pass is over for one of the processes.
                if not over:
                    whole = agree(whole)
                    at = min(skip, whole)
                    skip, used = skip - at, used + whole
                    while at < whole and step < steps:
                        taken = min(whole - at, steps - step)
                        yield Cut(block, at, taken, step)
                        at, step = at + taken, step + taken
                        if step == steps and not passes:
                            yield None
                            step = 0
                    if over := whole < k:
                        self._check_pass(number, used, batch_size, passes)
                        used = 0
                        if passes:
                            yield None
                            step = 0
                over = over and block is not None

    def _check_pass(self, number: int, batches: int, batch_size: int, whole_pass: bool) -> None:
        """Raise InputError if there were too few batches in a pass."""
        # All but the last batch of the source are as long as the first.
        size = jax.tree.leaves(self.shapes)[0].shape[0]
        least = (self.most - size + 1) // batch_size if whole_pass and self.most is not None else 1
        if batches < max(1, least):
            raise InputError(
                f"got {batches} batches of {batch_size} from {self.name} in pass {number + 1}, expected at least "
                f"{max(1, least)}" + (", by its length." if least > 1 else ": a smaller batch_size, or more examples.")
            )

    def first(self, n: int | None = None) -> Any:
        """The first `n` examples of the first pass, or all if there are fewer, as arrays on the host. None: all."""
        self.check_end(n)
        found = [trees.index(block, slice(count)) for block, count in self.blocks(n or self.most or 4096, limit=n)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)

    def check_end(self, limit: int | None) -> None:
        """Raise InputError if all examples are to be read, and there is no end of them."""
        if limit is None and self.endless:
            raise InputError(f"got {self.name} that never end, expected one pass of them, without repeat().")

    def _pass(self, number: int) -> Iterator[list[np.ndarray]]:
        """The leaves of the batches of a pass."""
        if self._left is None:
            batches: Iterable[Any] = self._open(number)
        elif number == 0 and self._left is not None:
            batches, self._left = self._left, iter(())
        else:
            batches = ()
        at = -1
        for at, batch in enumerate(batches):
            where = f"batch {at + 1} of pass {number + 1}"
            if jax.tree.structure(batch) != self._structure:
                raise self._other(batch, where)
            leaves = self._arrays(batch, where)
            if [(leaf.shape[1:], leaf.dtype) for leaf in leaves] != self._kinds:
                raise self._other(batch, where)
            yield leaves
        if at < 0:
            once = "" if self._left is None else ": a generator is read once. Give a function that returns a new one"
            raise InputError(f"got no batch from {self.name} in pass {number + 1}, expected some{once}.")

    def _arrays(self, batch: Any, where: str) -> list[np.ndarray]:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]
        if self._single:
            leaves = [leaf[None] for leaf in leaves]
        if (
            not leaves
            or len({leaf.shape[:1] for leaf in leaves}) > 1
            or any(leaf.dtype.kind in "OSU" for leaf in leaves)
        ):
            raise InputError(
                f"got {_described(batch)} as {where} of {self.name}, expected a pytree of arrays (n, ...)."
            )
        return leaves

    def _other(self, batch: Any, where: str) -> InputError:
        expected = jax.tree.map(lambda leaf: np.empty((0, *leaf.shape[1:]), leaf.dtype), self.shapes)
        return InputError(
            f"got {_described(batch)} as {where} of {self.name}, expected what the first batch is, with any number of "
            f"examples: {_described(expected)}."
        )


def ahead(items: Iterator[T]) -> Generator[T]:
    """The items of an iterator, each made in a thread while the one before is used. Its errors are raised in turn."""
    wanted: SimpleQueue[bool] = SimpleQueue()
    made: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    end = object()

    def make() -> None:
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


def as_examples(split: str, given: Any) -> Any:
    """Arrays as they are, and what yields batches as a `Stream`. Raises InputError for anything else."""
    yields = isinstance(given, Iterable) or callable(given) or hasattr(given, "__getitem__")
    known = given is None or isinstance(given, Stream | str) or hasattr(given, "shape")
    if yields and not known and jax.tree_util.all_leaves([given]):
        return Stream(given, name=f"the {split} batches")
    if given is not None and not isinstance(given, Stream):
        _check_arrays(split, given)
    return given


def _check_arrays(split: str, given: Any) -> None:
    leaves = trees.flatten(given)
    wrong = {name: type(leaf).__name__ for name, leaf in leaves.items() if not _is_array(leaf)}
    if wrong:
        shown = ", ".join(f"{name or 'they'} of type {kind}" for name, kind in wrong.items())
        raise InputError(
            f"got {split} examples that are no arrays: {shown}; expected a pytree of arrays (n, ...) of numpy or JAX."
        )
    shapes = {name or "the array": jnp.shape(leaf) for name, leaf in leaves.items()}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        shown = ", ".join(f"{name} {shape}" for name, shape in [*shapes.items()][:8]) or "no array"
        more = ", ..." * (len(shapes) > 8)
        raise InputError(
            f"got {split} examples without a common leading axis: {shown}{more}; expected arrays (n, ...), n "
            "the same for all, or a function that returns batches."
        )


def _is_array(leaf: Any) -> bool:
    """Whether a leaf is an array of numpy or JAX, or the shape of one, and not of another library."""
    dtype = getattr(leaf, "dtype", None)
    known = isinstance(dtype, np.dtype) or isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    return known and hasattr(leaf, "shape")


def few(split: Any) -> Any:
    """The shapes and dtypes of a batch of the first examples of a split, at most 128."""

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype
        if not jnp.issubdtype(dtype, jax.dtypes.extended):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return jax.ShapeDtypeStruct((min(128, leaf.shape[0]), *leaf.shape[1:]), dtype)

    return jax.tree.map(shape, split.shapes if isinstance(split, Stream) else split)


def _opener(source: Any) -> Callable[[int], Iterable[Any]]:
    """The function from the number of a pass to its batches."""
    if isinstance(source, Iterable) or not callable(source):
        # Some sources of random access have a length and no iterator.
        return lambda number: source if isinstance(source, Iterable) else map(source.__getitem__, range(len(source)))
    try:
        parameters = inspect.signature(source).parameters.values()
    except ValueError:  # a function in C, such as zip
        parameters = {}.values()
    numbered = any(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
        for parameter in parameters
    )
    return source if numbered else lambda number: source()


def _length(source: Any) -> int | None:
    """The length of a source, if it has one."""
    try:
        return len(source)
    # A loader of examples without a length has a `__len__` that raises this.
    except TypeError:
        return None


def _on_device(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))


def _described(batch: Any) -> str:
    """A batch in a message: its structure, with the dtype and the shape of every leaf."""
    leaves, structure = jax.tree.flatten(batch)
    kinds = [
        f"{leaf.dtype.name}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__ for leaf in leaves
    ]
    return str(jax.tree.unflatten(structure, kinds)).replace("'", "")


__all__ = ["Cut", "Stream", "ahead", "as_examples", "few"]
