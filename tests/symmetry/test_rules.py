"""Rules of single primitives: each says of its axes exactly this, and they behave so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equivariance import Unsound, drawn, primitives, symmetry
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import NamedSharding, PartitionSpec

from mcjax.symmetry import rules
from mcjax.symmetry.program import trace
from mcjax.symmetry.rules import RULES

M = (3, 4)
COUNTS, OTHERS = np.random.default_rng(0).integers(1, 9, (2, 3, 4))
BITS = COUNTS % 2 == 0
MESH = jax.make_mesh((1,), ("x",))


def in_lax(text):
    """The functions of jax.lax of these names, or `name=function` as it is called there."""
    return {name: getattr(lax, other or name) for name, _, other in (word.partition("=") for word in text.split())}


UNARY = in_lax(
    "abs acos acosh asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil cos cosh digamma erf erf_inv erfc exp exp2 "
    "expm1 floor is_finite lgamma log log1p logistic neg round rsqrt sign sin sinh sqrt square stop_gradient tan tanh"
) | {
    "conj": lambda x: lax.conj(lax.complex(x, -x)),
    "convert_element_type": lambda x: x.astype(int),
    "copy": jnp.copy,
    "device_put": lambda x: jax.device_put(x, jax.devices()[0]),
    "imag": lambda x: lax.imag(lax.complex(x, -x)),
    "integer_pow": lambda x: x**3,
    "layout_constraint": lambda x: with_layout_constraint(x, Layout((0, 1))),
    "name": lambda x: checkpoint_name(x, "x"),
    "real": lambda x: lax.real(lax.complex(x, -x)),
    "reduce_precision": lambda x: lax.reduce_precision(x, 5, 3),
    "reshard": lambda x: jax.sharding.reshard(x, NamedSharding(MESH, PartitionSpec())),
    "sharding_constraint": lambda x: lax.with_sharding_constraint(x, NamedSharding(MESH, PartitionSpec())),
}
BINARY = in_lax(
    "add atan2 complex div eq ge gt igamma igamma_grad_a igammac le lt max min mul ne nextafter polygamma pow rem sub "
    "zeta"
) | {
    "add_any": lambda x, y: jax.grad(lambda z: (z * y + jnp.sin(z)).sum())(x),
    **{name: getattr(lax, f"{name}_p").bind for name in ("eq_to", "le_to", "lt_to")},
}
BITWISE = in_lax(
    "and=bitwise_and or=bitwise_or xor=bitwise_xor mulhi shift_left shift_right_arithmetic shift_right_logical"
)


def swapped(x, axis=0):
    """Two segments of an axis in the other order."""
    return jnp.concatenate(jnp.split(x, [2], axis)[::-1], axis)


def flat(x):
    return x.reshape(-1)


# Of every primitive: what is said of operands and results, and the function and the operands' shapes or values.
ROWS = {
    **{name: [("ab -> ab", fn, M)] for name, fn in UNARY.items()},
    **{name: [("ab ab -> ab", fn, M, M)] for name, fn in BINARY.items()},
    **{name: [("ab ab -> ab", fn, COUNTS, OTHERS)] for name, fn in BITWISE.items()},
    **{name: [("ab -> ab", fn, COUNTS)] for name, fn in in_lax("clz not=bitwise_not population_count").items()},
    "regularized_incomplete_beta": [("ab ab ab -> ab", lax.betainc, *np.random.default_rng(0).random((3, 3, 4)))],
    "mul": [
        ("?", lax.mul, M, M),
        ("?", lax.mul, M, ()),
        ("?", lax.mul, (3, 1), M),
        ("?", lax.mul, (3, 1), (1, 4)),
        ("?", lax.mul, (1, 1), M),
        ("?", lambda x: x * x.T, (3, 3)),
        ("?", lambda x: x * 2.0, M),
        ("?", lambda x: x * np.arange(3.0, dtype="f")[:, None], M),
        ("?", lambda x: x * np.full(M, 2, "f"), M),
        ("?", lax.mul, (0, 3), (0, 3)),
        ("?", lax.mul, (), ()),
        ("?", lambda x, y: x * flat(y), (12,), M),
        ("?", lambda x, y, z: x * jnp.concatenate([y, z]), (5,), (2,), (3,)),
        ("?", lambda x: x[1:] * x[:-1], (6,)),
        ("?", lambda x: x * swapped(x), (5,)),
        ("?", lambda x: x * swapped(x), (4,)),
        ("?", lambda x: flat(x) * flat(x.T), (4, 2)),
        ("?", lambda x, y: flat(x) * flat(y), (2, 3), (3, 2)),
    ],
    "select_n": [
        ("?", lax.select_n, BITS, M, M),
        ("?", lax.select_n, np.array(True), M, M),
        ("?", lax.select_n, np.array(1, "int32"), M, M, M),
        ("?", lambda keep, x: jnp.where(keep[:, None], x, 0), BITS[:, 0], M),
    ],
    "clamp": [
        ("?", lax.clamp, M, M, M),
        ("?", lax.clamp, np.float32(-0.5), M, np.float32(0.5)),
    ],
    "optimization_barrier": [("?", lambda *xs: lax.optimization_barrier(xs), M, M)],
    "iota": [
        ("?", lambda x: lax.broadcasted_iota(int, x.shape, 0), M),
        ("?", lambda x: x + lax.broadcasted_iota(x.dtype, x.shape, 1), M),
        ("?", lambda x: x + lax.broadcasted_iota(x.dtype, x.shape, 0), (1, 4)),
    ],
    "broadcast_in_dim": [
        ("?", lambda x: jnp.broadcast_to(x[:, None], (3, 2, 4)), M),
        ("?", lambda x: lax.broadcast_in_dim(x, (4, 2, 3), (2, 0)), M),
        ("?", lambda x: lax.broadcast_in_dim(x, M, (0, 1)), (3, 1)),
        ("?", lambda x: lax.broadcast_in_dim(x, (1, 3), (0, 1)), (1, 1)),
        ("?", lambda x: jnp.broadcast_to(x, M), ()),
        ("?", lambda x: jnp.broadcast_to(x, (0, 3)), (3,)),
        ("?", lambda x: flat(jnp.broadcast_to(x[:, None], (3, 2))), (3,)),
        ("?", lambda x: jnp.repeat(x, 2, 0), M),
    ],
    "tile": [
        ("?", lambda x: jnp.tile(x, (2, 1)), M),
        ("?", lambda x: jnp.tile(x, (2, 3)), M),
        ("?", lambda x: jnp.tile(x, (1, 3)), (3, 1)),
        ("?", lambda x: jnp.tile(x, (2, 2, 1)), M),
        ("?", lambda x: jnp.tile(jnp.broadcast_to(x, (3,)), 2), ()),
        ("?", lambda x: jnp.tile(x, 2)[:3], (3,)),
        ("?", lambda x: jnp.tile(x, 2).reshape(3, 2), (3,)),
        ("?", lambda x: jnp.tile(x, 0), (3,)),
    ],
    "stack": [
        ("?", lambda *xs: jnp.stack(xs), M, M),
        ("?", lambda *xs: jnp.stack(xs, -1), M, M, M),
        ("?", lambda x: jnp.stack([x, x.T], 1), (3, 3)),
        ("?", lambda x: jnp.stack([x]), M),
        ("?", lambda x: jnp.stack([x, jnp.zeros(3)]), (3,)),
    ],
    "unstack": [
        ("?", jnp.unstack, M),
        ("?", lambda x: jnp.unstack(x, axis=-1), M),
        ("?", lambda x: jnp.unstack(x)[0], (1, 3)),
        ("?", lambda x: jnp.unstack(jnp.broadcast_to(x, (2, 3))), (3,)),
    ],
    "transpose": [
        ("?", lambda x: x.transpose(2, 0, 1), (2, 3, 4)),
        ("?", lambda x: x + x.T, (3, 3)),
    ],
    "squeeze": [("?", lambda x: x.squeeze((0, -2)), (1, 3, 1, 4))],
    "reshape": [
        ("?", flat, M),
        ("?", lambda x: x.reshape(3, 4), (12,)),
        ("?", lambda x: x.reshape(3, 4, 1), (12,)),
        ("?", lambda x: x.reshape(3, 1, 4, 1), (1, 3, 1, 4)),
        ("?", lambda x: x.reshape(1, 3, 1), (3,)),
        ("?", lambda x: x.reshape(1, 1), ()),
        ("?", lambda x: x.reshape(()), (1, 1)),
        ("?", lambda x: x.reshape(12, 5), (2, 3, 10)),
        ("?", lambda x: x.reshape(6, 5), (2, 15)),
        ("?", lambda x: x.reshape(2, 15), (6, 5)),
        ("?", lambda x: x.reshape(6, 20), (2, 15, 4)),
        ("?", lambda x: x.reshape(3, 2), (2, 3)),
        ("?", lambda x: x.reshape(5, 3, 2, 7), (5, 2, 3, 7)),
        ("?", lambda x: x.reshape(6, 10), (4, 15)),
        ("?", lambda x: x.reshape(5, 2, 3, 4), (5, 24)),
        ("?", lambda x: (x, x.reshape(2, 3)), (6,)),
        ("?", lambda x: (x.reshape(6, 2), x.reshape(3, 4)), (12,)),
        ("?", lambda x: (x.reshape(3, 2), x.reshape(2, 3)), (6,)),
        ("?", lambda x: flat(x * x.T), (3, 3)),
        ("?", lambda x, y: flat(jnp.concatenate([x, y])[None]), (2,), (3,)),
        ("?", lambda x, y: flat(jnp.concatenate([x, y])), M, (2, 4)),
        ("?", lambda x, y: jnp.concatenate([x, y]).reshape(5, 2), (4,), (6,)),
        ("?", lambda x, y: jnp.concatenate([x, y]).reshape(5, 2), (5,), (5,)),
        ("?", lambda x, y: jnp.concatenate([x, y]).reshape(2, 3), (3,), (3,)),
        ("?", lambda x: jnp.broadcast_to(x, (3, 2)).reshape(2, 3), ()),
        ("?", lambda x: jnp.broadcast_to(x[:, None], (3, 2, 4)).reshape(24), M),
        ("?", lambda x: x[:, 0].cumsum().reshape(2, 2), (4, 1)),
        ("?", flat, (0, 3)),
        ("?", lambda x: x.reshape(2, 0), (0, 3)),
    ],
    "concatenate": [
        ("?", lambda *xs: jnp.concatenate(xs), (2,), (3,)),
        ("?", lambda *xs: jnp.concatenate(xs, 1), M, (3, 2), M),
        ("?", lambda x: jnp.concatenate([x, x]), M),
        ("?", lambda x: jnp.concatenate([x, x.T]), (3, 3)),
        ("?", lambda x: jnp.concatenate([x, jnp.zeros(2)]), (3,)),
        ("?", lambda x: jnp.concatenate([np.arange(2.0, dtype="f"), x]), (3,)),
        ("?", lambda x: jnp.concatenate([x.cumsum(), x]), (3,)),
        ("?", lambda x: jnp.concatenate([jnp.zeros((2, 4)), jnp.ones((1, 4)) * x]), ()),
        ("?", lambda *xs: jnp.concatenate([xs[0], jnp.concatenate(xs)]), (2,), (3,)),
        ("?", lambda x: lax.concatenate([x], 0), M),
        ("?", lambda *xs: lax.concatenate(xs, 0), (0,), (3,)),
        ("?", lambda *xs: jnp.concatenate(xs), (1,), (1,), (2,)),
        ("?", lambda x, y: swapped(x) * jnp.concatenate([y, y]), (6,), (3,)),
    ],
    "pad": [
        ("?", lambda x: jnp.pad(x, ((2, 0), (0, 0))), M),
        ("?", lambda x: jnp.pad(x, ((0, 2), (1, 3))), M),
        ("?", lambda x, fill: lax.pad(x, fill, [(1, 2, 0)]), (3,), ()),
        ("?", lambda x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1)]), M),
        ("?", lambda x: lax.pad(x, 0.0, [(-1, 0, 0), (1, -1, 0)]), M),
        ("?", lambda x: lax.pad(x, 0.0, [(2, 1, 0)]), (0,)),
        ("?", lambda x: lax.pad(x, 0.0, [(2, 1, 0)]), (1,)),
        ("?", lambda x: lax.pad(jnp.broadcast_to(x, (3,)), 0.0, [(2, 1, 0)]), ()),
        ("?", lambda x: jnp.pad(x, (2, 1))[2:5], (3,)),
        ("?", lambda x: jnp.pad(x, (2, 1))[1:5], (3,)),
    ],
    "slice": [
        ("?", lambda x: x[:3], (5,)),
        ("?", lambda x: x[1:4], (6,)),
        ("?", lambda x: x[2:], (5,)),
        ("?", lambda x: lax.slice(x, (0, 0), M), M),
        ("?", lambda x: x[:2, 2:], (4, 4)),
        ("?", lambda x: x[2], M),
        ("?", lambda x: (x[:3], x[3:]), (6,)),
        ("?", lambda x: (x[:4], x[2:]), (6,)),
        ("?", lambda x: x[:3] * x[3:], (6,)),
        ("?", lambda x: x[::2], (6,)),
        ("?", lambda x: x[1::2], (6,)),
        ("?", lambda x: lax.slice(x, (1,), (5,), (2,)), (6,)),
        ("?", lambda x: lax.slice(x, (0,), (5,), (2,)), (6,)),
        ("?", lambda x: x[::2], (5,)),
        ("?", lambda x: x[2::3], (6,)),
        ("?", lambda x: x[::4], (4,)),
        ("?", lambda x: (x[::2], x[1::2]), (6,)),
        ("?", lambda x: (x[::2], x[:3]), (6,)),
        ("?", lambda x: flat(x)[::4], M),
        ("?", lambda x: flat(x)[::3], M),
        ("?", lambda x: flat(x)[4:8], M),
        ("?", lambda x: flat(x)[4:7], M),
        ("?", lambda x: x[2:2], (5,)),
        ("?", lambda x: lax.slice(x, (0, 0), (0, 3)), (0, 4)),
        ("?", lambda x: jnp.broadcast_to(x, (6,))[1:4:2], ()),
        ("?", lambda x: jnp.roll(x, 2), (6,)),
    ],
    "split": [
        ("?", lambda x: jnp.split(x, 2), (6,)),
        ("?", lambda x: jnp.split(x, [1, 3], 1), (2, 6)),
        ("?", lambda x: jnp.split(flat(x), 3), M),
        ("?", lambda x: jnp.split(flat(x), 2), M),
        ("?", lambda x: jnp.split(x, [0, 2]), (6,)),
        ("?", lambda x: jnp.split(jnp.broadcast_to(x, (4,)), 2), ()),
        ("?", lambda x: (lambda a, b: a * b)(*jnp.split(x, 2)), (6,)),
    ],
    "rev": [
        ("?", lambda x: x[::-1], M),
        ("?", lambda x: x[::-1, ::-1], (2, 3, 4)),
        ("?", lambda x: jnp.broadcast_to(x, (3,))[::-1], ()),
    ],
    **{
        name: [("?", lambda x, fn=fn: fn(x, 1), M), ("?", lambda x, fn=fn: fn(x, 0, reverse=True), M)]
        for name, fn in in_lax("cumsum cumprod cummax cummin cumlogsumexp").items()
    },
    "fft": [
        ("?", jnp.fft.rfft, M),
        ("?", lambda x: jnp.fft.fft2(x), (2, *M)),
        ("?", lambda x: jnp.fft.irfft(x), M),
    ],
    **{
        f"reduce_{name}": [("?", lambda x, fn=fn: fn(x, 1), (2, 3, 4)), ("?", fn, M)]
        for name, fn in {"sum": jnp.sum, "max": jnp.max, "min": jnp.min, "prod": jnp.prod}.items()
    },
    **{
        f"reduce_{name}": [("?", lambda x, fn=fn: fn(x, (1,)), BITS), ("?", lambda x, fn=fn: fn(x, (0, 1)), BITS)]
        for name, fn in {"and": lax.reduce_and, "or": lax.reduce_or, "xor": lax.reduce_xor}.items()
    },
    "argmax": [("?", lambda x: x.argmax(1), (2, 3, 4)), ("?", jnp.argmax, M)],
    "argmin": [("?", lambda x: x.argmin(0), M)],
    "sort": [
        ("?", lambda x: jnp.sort(x, 0), M),
        ("?", lambda x: jnp.sort(x), M),
        ("?", lambda x, y: lax.sort((x, y), dimension=0), M, M),
        ("?", lambda x, y: lax.sort((x, y), dimension=1, num_keys=2), M, M),
        ("?", jnp.argsort, M),
        ("?", jnp.median, (3,)),
    ],
    "top_k": [
        ("?", lambda x: lax.top_k(x, 2), M),
        ("?", lambda x: lax.top_k(x, 2, axis=0), M),
    ],
}
