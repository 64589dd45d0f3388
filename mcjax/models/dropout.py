"""Training mode without dropout, for estimating batch statistics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
from flax import nnx

_OFF = ContextVar("without_dropout", default=False)


@contextmanager
def without_dropout() -> Iterator[None]:
    """Switch off the Dropout layers of Flax, Linen and NNX, in all functions traced inside the context."""
    token = _OFF.set(True)
    try:
        with nn.intercept_methods(_skip_dropout):
            yield
    finally:
        _OFF.reset(token)


def _skip_dropout(next_function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, nn.Dropout) and context.method_name == "__call__":
        return args[0] if args else kwargs["inputs"]
    return next_function(*args, **kwargs)


def zero_dropout_rates(module: nnx.Module) -> None:
    """Set the dropout rates of an NNX module to zero, in place, if inside `without_dropout`."""
    if _OFF.get():
        for _, node in nnx.iter_graph(module):
            if isinstance(node, nnx.Dropout):
                node.rate = 0.0
