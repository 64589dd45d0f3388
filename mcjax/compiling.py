"""jit with the compiler options that make the platform fast."""

import inspect
from collections.abc import Callable
from functools import lru_cache, partial, update_wrapper
from typing import Any

import jax

_CPU = {
    # XLA on the CPU gives convolutions to YNNPACK and keeps reductions to itself; with it the other way round, a step
    # of a small convolutional network takes two thirds of the time.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    # This pass drops optimization barriers before XLA fuses, which then computes what is behind them several times:
    # a step of ResNet32 takes 1.4 times as long.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}
KEPT = 16
"""For how many values of its static arguments a function keeps its programs."""


@lru_cache(maxsize=1)
def compiler_options() -> dict[str, Any]:
    """What `jax.jit` is given here: nothing, except on a CPU whose XLA knows these options."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=_CPU)()
    except Exception:  # an XLA without such an option says so in its own way
        return {}
    return _CPU


class Compiled:
    """A function jitted when it is first called, since the options depend on the platform.

    Static arguments (a step with its model and config) are keys of a cache that forgets the longest unused of them, and
    the programs with it: a sweep over configurations neither fills the memory nor runs into the limit that Linux sets
    to the memory maps of a process, of which a program takes up to a hundred.
    """

    def __init__(self, function: Callable[..., Any], static_argnames: tuple[str, ...]) -> None:
        update_wrapper(self, function)
        self._function, self._static = function, static_argnames
        self._signature = inspect.signature(function)
        self._jitted = lru_cache(maxsize=KEPT)(self._jit)

    def _jit(self, static: tuple[tuple[str, Any], ...]) -> Any:
        return jax.jit(partial(self._function, **dict(static)), compiler_options=compiler_options())

    def _split(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, tuple, dict[str, Any]]:
        """The jitted function of these static arguments, and the others."""
        bound = self._signature.bind(*args, **kwargs)
        static = tuple((name, bound.arguments.pop(name)) for name in self._static if name in bound.arguments)
        return self._jitted(static), bound.args, bound.kwargs

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """The program of a call, as `jax.jit(...).lower` gives it."""
        jitted, args, kwargs = self._split(args, kwargs)
        return jitted.lower(*args, **kwargs)

    def memory(self, *args: Any, **kwargs: Any) -> int | None:
        """Bytes of a call: arguments, results and what is in between. None if XLA does not tell.

        The program stays compiled: a call with the same shapes does not compile it again.
        """
        sizes = self.lower(*args, **kwargs).compile().memory_analysis()
        if sizes is None:
            return None
        return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        jitted, args, kwargs = self._split(args, kwargs)
        return jitted(*args, **kwargs)


def jit(*, static_argnames: str | tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Compiled]:
    """A decorator, `jax.jit` for the programs that take the time. Not for use inside another jit."""
    names = (static_argnames,) if isinstance(static_argnames, str) else static_argnames
    return partial(Compiled, static_argnames=names)
