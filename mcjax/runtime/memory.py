"""The memory of a device, and whether a program fits into it."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from mcjax.errors import InputError
from mcjax.runtime.compiling import Compiled


def device_memory() -> int | None:
    """The bytes that a program can use: the accelerator's, or the machine's or container's. None if unknown."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    known = getattr(os, "sysconf_names", {})
    if jax.default_backend() != "cpu" or "SC_PAGE_SIZE" not in known or "SC_PHYS_PAGES" not in known:
        return None
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):  # no such container, or "max"
            continue
    return min(limits)


def program_memory(program: Compiled, *args: Any) -> float:
    """The bytes that a call of a program needs; 0 if XLA does not tell, infinity if the compiler refuses it."""
    try:
        return program.memory(*args) or 0
    except jax.errors.JaxRuntimeError as error:
        # Some compilers refuse a program that is too large.
        if "RESOURCE_EXHAUSTED" in str(error):
            return math.inf
        raise


def check_memory(needed: Callable[[int], float], chunk: int, count: int, what: str, advice: str) -> None:
    """Check that a computation in chunks fits into the device's memory, before it is run.

    Args:
        needed: chunk -> the bytes that the computation needs, as from `program_memory`.
        chunk: The largest number of entries in memory at once.
        count: Number of all entries.
        what: Their name, for the message: "points".
        advice: What to do if a single entry does not fit, for the message.

    Raises:
        InputError: If it does not fit. The message names a chunk that does.
    """
    limit = device_memory()
    if limit is None or (size := needed(chunk)) <= limit:
        return
    chunk = min(chunk, count)
    fitting = _fitting_chunk(needed, chunk, size, limit)
    raise InputError(
        f"{count} {what} with chunk={chunk} need {gigabytes(size)} of memory, expected at most the device's "
        f"{gigabytes(limit)}. "
        + (f"Give chunk={fitting}, or a smaller batch_size." if fitting else f"One at a time does not fit: {advice}")
    )


def _fitting_chunk(needed: Callable[[int], float], chunk: int, size: float, limit: int) -> int:
    """A chunk that fits, the largest one up to a factor of two; 0 if not even a single entry does."""
    # Memory is a constant and a share for each entry, so the first guess is never too small.
    share = limit / size if math.isfinite(size) else 0.5
    chunk = max(1, int(chunk * share)) if chunk > 1 else 0
    while chunk and needed(chunk) > limit:
        chunk //= 2
    return chunk


def gigabytes(size: float) -> str:
    """A number of bytes for a message, in GB."""
    return f"{size / 1e9:.3g} GB" if math.isfinite(size) else "more memory than the compiler accepts"
