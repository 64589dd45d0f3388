"""Functions mapped over networks or points in one program: under `vmap`, or sequentially if that is faster."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax import lax

Convolutions = Literal["none", "canonical", "plain"]
"""The kind of convolutions in a model: none, `convolution.convolve`, or XLA's convolutions with XLA's gradients."""


def sequential_is_faster(convolutions: Convolutions) -> bool:
    """Whether models with such convolutions run faster sequentially than under `vmap`.

    `vmap` over models makes grouped convolutions, which XLA's CPU kernels run 2 to 4 times slower than sequential
    ones. On other platforms, and without convolutions, `vmap` is faster.
    """
    return convolutions != "none" and jax.default_backend() == "cpu"


def steps_from_host(convolutions: Convolutions) -> bool:
    """Whether training steps are called one by one from the host: on the CPU, with XLA's convolution gradients."""
    return convolutions == "plain" and jax.default_backend() == "cpu"


def over_models(fn: Callable[..., Any], convolutions: Convolutions) -> Callable[..., Any]:
    """`fn` mapped over the leading axis of every argument: several networks in one program."""
    if sequential_is_faster(convolutions):
        return lambda *args: lax.map(lambda each: fn(*each), args)
    return jax.vmap(fn)


def default_chunk(convolutions: Convolutions) -> int:
    """The default number of networks in memory at once: 1 if sequential evaluation is faster, otherwise 16."""
    return 1 if sequential_is_faster(convolutions) else 16


def over_points(fn: Callable[[Any], Any], points: Any, convolutions: Convolutions, chunk: int | None = None) -> Any:
    """`fn` mapped over the leading axis of `points`.

    Args:
        fn: A function of one point.
        points: A pytree with a leading axis.
        convolutions: The kind of convolutions in `fn`.
        chunk: Number of points in memory at once. None: `default_chunk(convolutions)`.

    Returns:
        The results, with a leading axis.
    """
    size = chunk or default_chunk(convolutions)
    return lax.map(fn, points, batch_size=None if size == 1 else size)
