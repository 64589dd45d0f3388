"""jit with the best compiler options of the platform."""

import gc
import inspect
from collections.abc import Callable
from functools import lru_cache, partial, update_wrapper
from typing import Any

import jax

from mcjax.runtime.target import lowering_platforms, on_mesh_of, target

_CPU = {
    # By default, XLA on the CPU leaves convolutions to YNNPACK and compiles reductions itself. The other way round, a
    # step of a small convolutional network takes two thirds of the time.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    # The first pass removes optimization barriers before fusion, which then computes their operands several times: a
    # step of ResNet32 takes 1.4 times as long. The second one hands small loops to a compiler that knows no barriers.
    "xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting",
}


def compiler_options() -> dict[str, Any]:
    """The compiler options for `jax.jit`: none, except for a CPU whose XLA supports those above."""
    return _CPU if target() == "cpu" and _takes_options() else {}


@lru_cache(maxsize=1)
def _takes_options() -> bool:
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(lambda: 0, compiler_options=_CPU)()
    except Exception:  # the error for an unknown option depends on the version of XLA
        return False
    return True


def _crowded() -> bool:
    """Whether this process uses at least half of the memory maps that Linux allows. False on other systems."""
    try:
        with open("/proc/self/maps", "rb") as maps, open("/proc/sys/vm/max_map_count") as limit:
            return 2 * sum(1 for _ in maps) > int(limit.read())
    except OSError:
        return False


@lru_cache(maxsize=256)
def _jitted(function: Callable[..., Any], static: tuple[tuple[str, Any], ...], platform: str) -> Any:
    """The jitted function for these static arguments and this platform, in a cache of the 256 used last.

    A program holds about a hundred memory maps, that of a deep convolutional network seven hundred. Linux allows a
    process 65,530 of them, beyond which XLA crashes. At half of that, the cache is emptied, so that one process can
    sweep over many configurations.
    """
    if _crowded():
        _jitted.cache_clear()
        gc.collect()
    return jax.jit(partial(function, **dict(static)), compiler_options=compiler_options())


class Compiled:
    """A function that is jitted at its first call, when the platform and hence the compiler options are known."""

    def __init__(self, function: Callable[..., Any], static_argnames: tuple[str, ...]) -> None:
        update_wrapper(self, function)
        self._function, self._static = function, static_argnames
        self._signature = inspect.signature(function)

    def _split(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, tuple, dict[str, Any]]:
        """The jitted function for the static arguments, and the other arguments."""
        bound = self._signature.bind(*args, **kwargs)
        static = tuple((name, bound.arguments.pop(name)) for name in self._static if name in bound.arguments)
        return _jitted(self._function, static, target()), bound.args, bound.kwargs

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """The program of a call, lowered for the target platform, as from `jax.jit(...).lower`."""
        with on_mesh_of((*args, *kwargs.values())):
            jitted, args, kwargs = self._split(args, kwargs)
            return jitted.trace(*args, **kwargs).lower(lowering_platforms=lowering_platforms())

    def memory(self, *args: Any, **kwargs: Any) -> int | None:
        """Bytes used by a call: arguments, results and temporaries. None if XLA does not report them.

        The program stays compiled, so that a call with the same shapes does not compile it again.
        """
        sizes = self.lower(*args, **kwargs).compile().memory_analysis()
        if sizes is None:
            return None
        return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with on_mesh_of((*args, *kwargs.values())):
            jitted, args, kwargs = self._split(args, kwargs)
            return jitted(*args, **kwargs)


def jit(*, static_argnames: str | tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Compiled]:
    """A decorator for entry points: `jax.jit` with the platform's options. Not for use inside another jit."""
    names = (static_argnames,) if isinstance(static_argnames, str) else static_argnames
    return partial(Compiled, static_argnames=names)
