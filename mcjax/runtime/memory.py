"""The memory of a device, and the memory that a program needs."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from mcjax.errors import InputError
from mcjax.runtime.compiling import Compiled
from mcjax.runtime.target import target


def device_memory() -> int | None:
    """The memory of the accelerator, or of the machine or container, in bytes. None if unknown."""
    try:
        device = jax.local_devices(backend=target())[0]
    except RuntimeError:  # programs are compiled for a platform that is not here
        return None
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    names = getattr(os, "sysconf_names", {})
    if device.platform != "cpu" or "SC_PAGE_SIZE" not in names or "SC_PHYS_PAGES" not in names:
        return None
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):  # no such container, or "max"
            continue
    return min(limits)


def program_memory(program: Compiled, *args: Any) -> float:
    """The bytes that a call needs; 0 if XLA does not report them, infinity if the compiler rejects the program."""
    try:
        return program.memory(*args) or 0
    except jax.errors.JaxRuntimeError as error:
        # Some compilers reject a program that is too large.
        if "RESOURCE_EXHAUSTED" in str(error):
            return math.inf
        raise


def check_memory(
    needed: Callable[[int | None], float], chunk: int | Callable[[], int], count: int, what: str, advice: str
) -> None:
    """Check, before a computation in chunks, that it fits into the device's memory.

    Args:
        needed: Chunk -> the bytes that the computation needs, as from `program_memory`; None is the default chunk.
        chunk: Maximum number of entries in memory at once, or a function of no arguments that returns the default.
        count: Total number of entries.
        what: Name of the entries for the message, such as "points".
        advice: A remedy for the message, if a single entry does not fit.

    Raises:
        InputError: If it does not fit. The message names a chunk that does.
    """
    limit = device_memory()
    if limit is None or (size := needed(None if callable(chunk) else chunk)) <= limit:
        return
    chunk = min(chunk() if callable(chunk) else chunk, count)
    fitting = _fitting_chunk(needed, chunk, size, limit)
    raise InputError(
        f"{count} {what} with chunk={chunk} need {gigabytes(size)} of memory, expected at most the device's "
        f"{gigabytes(limit)}. "
        + (f"Give chunk={fitting}, or a smaller batch_size." if fitting else f"One at a time does not fit: {advice}")
    )


def _fitting_chunk(needed: Callable[[int], float], chunk: int, size: float, limit: int) -> int:
    """The largest chunk that fits, up to a factor of two; 0 if a single entry does not fit."""
    # Memory is a constant plus a term proportional to the chunk, so the first guess is not too small.
    share = limit / size if math.isfinite(size) else 0.5
    chunk = max(1, int(chunk * share)) if chunk > 1 else 0
    while chunk and needed(chunk) > limit:
        chunk //= 2
    return chunk


def gigabytes(size: float) -> str:
    """A number of bytes for a message, in GB."""
    return f"{size / 1e9:.3g} GB" if math.isfinite(size) else "more memory than the compiler accepts"
