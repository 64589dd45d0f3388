"""Functions mapped over networks or points in one program: under `vmap`, or sequentially if that is faster."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax
from jax.extend.core import jaxpr_as_fun

from mcjax.runtime.target import target


def convolutions_are_sequential() -> bool:
    """Whether networks with convolutions are run sequentially on this platform.

    `vmap` over networks makes grouped convolutions, whose groups run one after another on the CPU, between transposes:
    a step takes 1.1 to 1.3 times as long, and the memory of all networks at once. On other platforms, and without
    convolutions, `vmap` is faster.
    """
    return target() == "cpu"


def default_chunk(convolutional: bool) -> int:
    """The default number of networks in memory at once, with convolutions or without."""
    return 1 if convolutional and convolutions_are_sequential() else 16


def over_models(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` mapped over the leading axis of every argument: several networks in one program."""

    def mapped(*args: Any) -> Any:
        one, sequential = _traced(fn, args)
        return lax.map(lambda each: one(*each), args) if sequential else jax.vmap(one)(*args)

    return mapped


def over_points(fn: Callable[[Any], Any], points: Any, chunk: int | None = None) -> Any:
    """`fn` mapped over the leading axis of `points`.

    Args:
        fn: A function of one point.
        points: A pytree with a leading axis.
        chunk: Number of points in memory at once. None: 16, or 1 if sequential evaluation is faster.

    Returns:
        The results, with a leading axis.
    """
    if chunk is None:
        fn, convolutional = _traced(fn, (points,))
        chunk = default_chunk(convolutional)
    return lax.map(fn, points, batch_size=None if chunk == 1 else chunk)


def _traced(fn: Callable[..., Any], args: tuple) -> tuple[Callable[..., Any], bool]:
    """`fn` for entries of the leading axis of its arguments, traced once, and whether to map it sequentially."""
    if not convolutions_are_sequential():
        return fn, False
    one = jax.eval_shape(lambda args: jax.tree.map(lambda leaf: leaf[0], args), args)
    program, result = jax.make_jaxpr(fn, return_shape=True)(*one)
    structure = jax.tree.structure(result)

    def run(*args: Any) -> Any:
        return jax.tree.unflatten(structure, jaxpr_as_fun(program)(*jax.tree.leaves(args)))

    return run, has_convolutions(program)


def has_convolutions(program: Any) -> bool:
    """Whether a jaxpr has convolutions, also in the programs that it calls."""
    jaxpr = getattr(program, "jaxpr", program)
    return any(
        equation.primitive is lax.conv_general_dilated_p
        or any(map(has_convolutions, _programs_in(list(equation.params.values()))))
        for equation in jaxpr.eqns
    )


def _programs_in(values: Any) -> Iterator[Any]:
    """The programs among the parameters of an equation: the bodies of calls, loops and branches."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from _programs_in(value)
        elif hasattr(getattr(value, "jaxpr", value), "eqns"):
            yield value
