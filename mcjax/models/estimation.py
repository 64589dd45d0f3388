"""Estimating batch statistics: training mode without dropout and with exact variances, and the names of statistics."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import product
from typing import Any

import flax.linen as nn
from flax import nnx

_ON = ContextVar("estimating", default=False)


@contextmanager
def estimation() -> Iterator[None]:
    """Estimate batch statistics in all functions traced inside the context.

    The Dropout layers of Flax, Linen and NNX, are off. Its BatchNorm layers take the variance about the mean, in two
    passes: the difference of two squares loses all digits where a mean is a thousand deviations.
    """
    token = _ON.set(True)
    try:
        with nn.intercept_methods(_changed):
            yield
    finally:
        _ON.reset(token)


def estimating() -> bool:
    """Whether this is traced inside `estimation`."""
    return _ON.get()


def _changed(next_function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    if context.method_name == "__call__":
        if isinstance(context.module, nn.Dropout):
            return args[0] if args else kwargs["inputs"]
        if isinstance(context.module, nn.BatchNorm):
            # A bound module is a copy for this call; it is frozen for its users.
            object.__setattr__(context.module, "use_fast_variance", False)
    return next_function(*args, **kwargs)


def prepare(module: nnx.Module) -> None:
    """Change the Dropout and BatchNorm layers of an NNX module in place, if inside `estimation`."""
    if estimating():
        for _, node in nnx.iter_graph(module):
            if isinstance(node, nnx.Dropout):
                node.rate = 0.0
            elif isinstance(node, nnx.BatchNorm):
                node.use_fast_variance = False


def variances_of(names: Iterable[str]) -> dict[str, str]:
    """The variance that belongs to each mean among these leaves, as `moving_variance` does to `moving_mean`."""
    names, found = [*names], {}
    for name in names:
        module, slash, kind = name.rpartition("/")
        for mean, variance in product(("mean", "average", "avg"), ("var", "variance")):
            other = f"{module}{slash}{kind.replace(mean, variance)}"
            if mean in kind and other in names:
                found[name] = other
    return found


def running_statistics(names: Iterable[str]) -> list[str]:
    """The names of the leaves that are called like running means and variances."""
    names = [*names]
    pairs, running = variances_of(names), re.compile("(running|moving|ema)_?(mean|average|avg|var)")
    return [name for name in names if running.search(name.lower()) or name in {*pairs, *pairs.values()}]
