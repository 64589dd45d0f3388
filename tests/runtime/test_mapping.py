"""Many networks and many points in one program: equal to the loop over them, in the order that is fast."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from mcjax import trees
from mcjax.runtime.mapping import (
    convolutions_are_sequential,
    default_chunk,
    has_convolutions,
    over_models,
    over_points,
)
from mcjax.runtime.target import compiling_for

PLATFORMS = ("cpu", "cuda", "tpu")


def convolved(tree, key):
    """A function of a tree and a typed key, with a convolution."""
    x = lax.conv(tree["x"], tree["kernel"], (1, 1), "SAME")
    return {"y": x.sum((2, 3)), "noise": jax.random.normal(key, (2,)), "nothing": None}


def multiplied(tree, key):
    """A function of the same arguments without one."""
    return {"y": tree["x"][0, 0] @ tree["kernel"][0, 0], "noise": jax.random.normal(key, (2,)), "nothing": None}


def arguments(count):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(count, 1, 2, 3, 3)), "kernel": rng.normal(size=(count, 2, 2, 3, 3))}
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), arrays), jax.random.split(jax.random.key(1), count)


def looped(fn, *args):
    each = [fn(*trees.index(args, i)) for i in range(len(args[-1]))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def program(fn, *args):
    return str(jax.make_jaxpr(fn)(*args))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_faster_way(platform):
    with compiling_for(platform):
        assert convolutions_are_sequential() is (platform == "cpu")
        assert (default_chunk(True), default_chunk(False)) == (1 if platform == "cpu" else 16, 16)
        for fn in (convolved, multiplied):
            one_by_one = platform == "cpu" and fn is convolved
            assert ("scan[" in program(over_models(fn), *arguments(3))) is one_by_one
            # 16 points and one more, or each by itself.
            points = program(lambda *args, fn=fn: over_points(lambda each: fn(*each), args), *arguments(17))
            assert ("length=17" in points) is one_by_one


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("fn", [convolved, multiplied])
def test_over_models_is_the_loop(fn, platform):
    args = arguments(3)
    with compiling_for(platform):
        result = jax.jit(over_models(fn))(*args)
    assert result["nothing"] is None
    chex.assert_trees_all_close(result, looped(fn, *args), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("chunk", [None, 1, 3, 20])
@pytest.mark.parametrize("fn", [convolved, multiplied])
def test_over_points_is_the_loop(fn, chunk, platform):
    args = arguments(17)
    with compiling_for(platform):
        result = jax.jit(lambda args: over_points(lambda each: fn(*each), args, chunk))(args)
    chex.assert_trees_all_close(result, looped(fn, *args), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("fn", [convolved, multiplied])
def test_values_of_an_outer_trace_and_derivatives(fn, platform):
    """What the function closes over may be traced: its gradients, forward derivatives and batches are the loop's."""
    given, scale = arguments(2), np.float32([0.5, -2.0])

    def total(mapped, scale):
        def one(tree, key):
            return fn(jax.tree.map(lambda leaf: leaf * scale[0], tree), key)["y"] * scale[1]

        return jnp.sum(jnp.sin(mapped(one)))

    def through_models(scale):
        return total(lambda one: over_models(one)(*given), scale)

    def through_points(scale):
        return total(lambda one: over_points(lambda each: one(*each), given), scale)

    def through_loop(scale):
        return total(lambda one: jnp.stack([one(*trees.index(given, i)) for i in range(2)]), scale)

    def derivatives(through):
        both = jnp.stack([scale, 2 * scale])
        return jax.jit(lambda: (jax.grad(through)(scale), jax.jacfwd(through)(scale), jax.vmap(through)(both)))()

    expected = derivatives(through_loop)
    with compiling_for(platform):
        for through in (through_models, through_points):
            chex.assert_trees_all_close(derivatives(through), expected, rtol=1e-3, atol=1e-4)


def test_inside_shard_map():
    args = arguments(2)
    mesh = jax.make_mesh((1,), ("pair",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    along = PartitionSpec("pair")
    for fn in (convolved, multiplied):
        mapped = jax.shard_map(over_models(fn), mesh=mesh, in_specs=along, out_specs=along)
        chex.assert_trees_all_close(jax.jit(mapped)(*args), looped(fn, *args), rtol=1e-5, atol=1e-5)


def convolution(x):
    return lax.conv(x, jnp.ones((1, 1, 2, 2)), (1, 1), "SAME")


@jax.custom_vjp
def with_own_gradient(x):
    return convolution(x)


with_own_gradient.defvjp(lambda x: (convolution(x), None), lambda _, g: (g,))


@jax.custom_jvp
def with_own_tangent(x):
    return convolution(x)


with_own_tangent.defjvp(lambda x, dx: (convolution(x[0]), dx[0]))
HIDDEN = {
    "plain": convolution,
    "jit": jax.jit(convolution),
    "jit of jit": jax.jit(lambda x: jax.jit(convolution)(x)),
    "scan": lambda x: lax.scan(lambda x, _: (convolution(x), None), x, length=2)[0],
    "while": lambda x: lax.while_loop(lambda x: x.sum() < 0, convolution, x),
    "condition of while": lambda x: lax.while_loop(lambda x: convolution(x).sum() < 0, lambda x: x, x),
    "cond": lambda x: lax.cond(x.sum() > 0, convolution, lambda x: x, x),
    "switch": lambda x: lax.switch(2, [jnp.sin, jnp.cos, convolution], x),
    "map": lambda x: lax.map(convolution, x[None]),
    "custom_vjp": with_own_gradient,
    "custom_jvp": with_own_tangent,
    "remat": jax.checkpoint(convolution),
    "gradient": jax.grad(lambda x: jnp.sum(jax.checkpoint(convolution)(x) ** 2)),
    "linear solve": lambda x: lax.custom_linear_solve(convolution, x, lambda _, b: b, symmetric=True),
}
NONE = {
    "sum": jnp.sum,
    "jit": jax.jit(jnp.sin),
    "scan": lambda x: lax.scan(lambda x, _: (jnp.sin(x), None), x, length=2)[0],
    "product": lambda x: x @ x,
    "sliding sum": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 1, 1), "SAME"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_convolutions_are_found_wherever_they_are(name):
    assert has_convolutions(jax.make_jaxpr(HIDDEN[name])(jnp.ones((1, 1, 4, 4))))


@pytest.mark.parametrize("name", NONE)
def test_no_convolutions_are_found_where_there_are_none(name):
    assert not has_convolutions(jax.make_jaxpr(NONE[name])(jnp.ones((1, 1, 4, 4))))


def test_a_function_is_traced_once():
    calls = []

    def counted(tree, key):
        calls.append(key)
        return convolved(tree, key)

    for platform in ("cpu", "tpu"):
        calls.clear()
        with compiling_for(platform):
            jax.jit(over_models(counted))(*arguments(3))
        assert len(calls) == 1
