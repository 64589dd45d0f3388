"""Several processes that run one program: the first reads, writes and decides, and broadcasts its results."""

import pickle
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

from mcjax.errors import RunError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_CHUNK = 1 << 26
_inside: ContextVar[bool] = ContextVar("inside", default=False)


def many_processes() -> bool:
    """Whether `jax.distributed.initialize` has started several processes."""
    # `is_initialized` comes first, since `process_count` would start the devices of a single process.
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first_process() -> bool:
    """Whether this is the first process, or the only one."""
    return not many_processes() or jax.process_index() == 0


def on_first_process(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run `work` in the first process alone; every process returns its result, or raises its error.

    With one process this is `work` itself. All processes must call it at the same point of the program, where the
    others wait. The result consists of numbers, text or arrays, in any containers.
    """

    @wraps(work)
    def done(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if not many_processes() or _inside.get():
            return work(*args, **kwargs)
        result: Any = None
        error: Exception | None = None
        if is_first_process():
            token = _inside.set(True)
            try:
                result = work(*args, **kwargs)
            except Exception as raised:
                error = raised
            finally:
                _inside.reset(token)
        received, failed = _broadcast_outcome(result, error)
        if failed is not None:
            raise failed if error is None else error
        # The first process returns the result itself, the others a copy that is equal to the bit.
        return result if is_first_process() else received

    return done


def least_of_processes(number: int) -> int:
    """The smallest number that a process gives. Raises RunError if another one gives -1, which says that it failed."""
    return int(_numbers_of_processes(number).min()) if many_processes() else number


def _numbers_of_processes(number: int) -> np.ndarray:
    """The numbers that the processes give. Raises RunError if another one gives -1."""
    from jax.experimental import multihost_utils

    numbers = np.asarray(multihost_utils.process_allgather(np.int32(min(number, 2**31 - 1))))
    if numbers.min() < 0 <= number:
        raise RunError("another process failed while it read its batches: see its error.")
    return numbers


def rows_of_processes(
    blocks: Iterator[tuple[list[np.ndarray], int]], part: int, like: list[np.ndarray]
) -> Iterator[list[np.ndarray]]:
    """The rows of the blocks of all processes, `part` of each process in turn; the same in every process.

    Args:
        blocks: Arrays (rows, ...) of this process, and how many of the rows are filled.
        part: Number of rows.
        like: Such arrays, for a process that has no further block.

    Yields:
        Arrays of at most `part` rows.

    Raises:
        RunError: If another process failed while it read.
    """
    from jax.experimental import multihost_utils

    while True:
        try:
            block, filled = next(blocks, (like, 0))
        except BaseException:
            _numbers_of_processes(-1)
            raise
        counts = _numbers_of_processes(filled)
        if not counts.any():
            return
        gathered = [np.asarray(leaf) for leaf in multihost_utils.process_allgather(block)]
        for at in range(0, int(counts.max()), part):
            for process, count in enumerate(counts):
                if at < count:
                    yield [leaf[process, at : min(at + part, count)] for leaf in gathered]


def _broadcast_outcome(result: Any, error: Exception | None) -> tuple[Any, Exception | None]:
    """Send a result or an error from the first process to all."""
    sent = b""
    if is_first_process() and (result is not None or error is not None):
        try:
            sent = pickle.dumps((result, error))
        except Exception as unpicklable:
            sent = pickle.dumps((None, RunError(f"in the first process: {error or unpicklable!r}")))
    # The length first, then the bytes in chunks.
    chunks, last = (int(n) for n in _broadcast(np.array(divmod(len(sent), _CHUNK), np.int32)))
    parts = [_broadcast_bytes(sent[i * _CHUNK : (i + 1) * _CHUNK], _CHUNK) for i in range(chunks)]
    parts.append(_broadcast_bytes(sent[chunks * _CHUNK :], last))
    received = b"".join(parts)
    return pickle.loads(received) if received else (None, None)


def _broadcast_bytes(sent: bytes, length: int) -> bytes:
    if not length:
        return b""
    # Padded to powers of two, so that few programs are compiled.
    padded = np.zeros(1 << max(10, (length - 1).bit_length()), np.uint8)
    if is_first_process():
        padded[:length] = np.frombuffer(sent, np.uint8)
    return _broadcast(padded)[:length].tobytes()


def _broadcast(values: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(values))
