"""jit with the compiler options that make the platform fast."""

from collections.abc import Callable
from functools import cached_property, lru_cache, partial, update_wrapper
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
    """A function jitted when it is first called, since the options depend on the platform."""

    def __init__(self, function: Callable[..., Any], static_argnames: Any) -> None:
        update_wrapper(self, function)
        self._function, self._static = function, static_argnames

    @cached_property
    def jitted(self) -> Any:
        """The jitted function."""
        return jax.jit(self._function, static_argnames=self._static, compiler_options=compiler_options())

    def memory(self, *args: Any, **kwargs: Any) -> int | None:
        """Bytes of a call: arguments, results and what is in between. None if XLA does not tell.

        The program stays compiled: a call with the same shapes does not compile it again.
        """
        sizes = self.jitted.lower(*args, **kwargs).compile().memory_analysis()
        if sizes is None:
            return None
        return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.jitted(*args, **kwargs)


def jit(*, static_argnames: str | tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Compiled]:
    """A decorator, `jax.jit` for the programs that take the time. Not for use inside another jit."""
    return partial(Compiled, static_argnames=static_argnames)
