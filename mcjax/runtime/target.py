"""The platform that programs are compiled for, which need not be the one that the process runs on."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_given: ContextVar[str | None] = ContextVar("target", default=None)


def target() -> str:
    """The platform that programs are compiled for, such as "cpu", "cuda" or "tpu": by default that of JAX's device."""
    # A device, the name of a platform, or None.
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return _given.get() or getattr(device, "platform", device) or jax.default_backend()


@contextmanager
def compiling_for(platform: str | None) -> Iterator[None]:
    """Inside the context, trace and lower entry points for this platform, whose devices need not be there.

    Args:
        platform: "cpu", "cuda", "rocm" or "tpu". None: as before.

    Example::

        with compiling_for("tpu"):
            text = program.lower(*arguments).as_text()
    """
    token = _given.set(platform or _given.get())
    try:
        yield
    finally:
        _given.reset(token)
