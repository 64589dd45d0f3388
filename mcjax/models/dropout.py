"""Dropout layers switched off, whatever else training mode does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
from flax import nnx

_OFF = ContextVar("without_dropout", default=False)


@contextmanager
def without_dropout() -> Iterator[None]:
    """What is traced in here passes Flax's Dropout layers, Linen or NNX, as they are passed outside of training."""
    token = _OFF.set(True)
    try:
        with nn.intercept_methods(_passed):
            yield
    finally:
        _OFF.reset(token)


def _passed(next_function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, nn.Dropout) and context.method_name == "__call__":
        return args[0] if args else kwargs["inputs"]
    return next_function(*args, **kwargs)


def heed_without_dropout(module: nnx.Module) -> None:
    """Let an NNX module, in place, drop nothing if this is called in `without_dropout`."""
    if _OFF.get():
        for _, node in nnx.iter_graph(module):
            if isinstance(node, nnx.Dropout):
                node.rate = 0.0
