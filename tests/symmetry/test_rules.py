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
        ("ab ab -> ab", lax.mul, M, M),
        ("ab () -> ab", lax.mul, M, ()),
        ("a1 ab -> ab", lax.mul, (3, 1), M),
        ("a1 1b -> ab", lax.mul, (3, 1), (1, 4)),
        ("11 ab -> ab", lax.mul, (1, 1), M),
        ("aa -> aa", lambda x: x * x.T, (3, 3)),
        ("ab -> ab", lambda x: x * 2.0, M),
        (".a -> .a", lambda x: x * np.arange(3.0, dtype="f")[:, None], M),
        ("ab -> ab", lambda x: x * np.full(M, 2, "f"), M),
        ("0a 0a -> 0a", lax.mul, (0, 3), (0, 3)),
        ("() () -> ()", lax.mul, (), ()),
        ("(ab) ab -> (ab)", lambda x, y: x * flat(y), (12,), M),
        ("[a|b] a b -> [a|b]", lambda x, y, z: x * jnp.concatenate([y, z]), (5,), (2,), (3,)),
        (". -> .", lambda x: x[1:] * x[:-1], (6,)),
        (". -> .", lambda x: x * swapped(x), (5,)),
        ("[a|a] -> [a|a]", lambda x: x * swapped(x), (4,)),
        ("(aa)a -> (aaa)", lambda x: flat(x) * flat(x.T), (4, 2)),
        (".. .. -> .", lambda x, y: flat(x) * flat(y), (2, 3), (3, 2)),
    ],
    "select_n": [
        ("ab ab ab -> ab", lax.select_n, BITS, M, M),
        ("() ab ab -> ab", lax.select_n, np.array(True), M, M),
        ("() ab ab ab -> ab", lax.select_n, np.array(1, "int32"), M, M, M),
        ("a ab -> ab", lambda keep, x: jnp.where(keep[:, None], x, 0), BITS[:, 0], M),
    ],
    "clamp": [
        ("ab ab ab -> ab", lax.clamp, M, M, M),
        ("() ab () -> ab", lax.clamp, np.float32(-0.5), M, np.float32(0.5)),
    ],
    "optimization_barrier": [("ab cd -> ab cd", lambda *xs: lax.optimization_barrier(xs), M, M)],
    "iota": [
        ("ab -> .*", lambda x: lax.broadcasted_iota(int, x.shape, 0), M),
        ("a. -> a.", lambda x: x + lax.broadcasted_iota(x.dtype, x.shape, 1), M),
        ("1a -> 1a", lambda x: x + lax.broadcasted_iota(x.dtype, x.shape, 0), (1, 4)),
    ],
    "broadcast_in_dim": [
        ("ab -> a*b", lambda x: jnp.broadcast_to(x[:, None], (3, 2, 4)), M),
        ("ab -> b*a", lambda x: lax.broadcast_in_dim(x, (4, 2, 3), (2, 0)), M),
        ("a1 -> a*", lambda x: lax.broadcast_in_dim(x, M, (0, 1)), (3, 1)),
        ("11 -> 1*", lambda x: lax.broadcast_in_dim(x, (1, 3), (0, 1)), (1, 1)),
        ("() -> **", lambda x: jnp.broadcast_to(x, M), ()),
        ("a -> *a", lambda x: jnp.broadcast_to(x, (0, 3)), (3,)),
        ("a -> (ab)", lambda x: flat(jnp.broadcast_to(x[:, None], (3, 2))), (3,)),
        ("ab -> (ac)b", lambda x: jnp.repeat(x, 2, 0), M),
    ],
    "tile": [
        ("ab -> (ca)b", lambda x: jnp.tile(x, (2, 1)), M),
        ("ab -> (ca)(db)", lambda x: jnp.tile(x, (2, 3)), M),
        ("a1 -> ab", lambda x: jnp.tile(x, (1, 3)), (3, 1)),
        ("ab -> *(ca)b", lambda x: jnp.tile(x, (2, 2, 1)), M),
        ("() -> *", lambda x: jnp.tile(jnp.broadcast_to(x, (3,)), 2), ()),
        ("a -> a", lambda x: jnp.tile(x, 2)[:3], (3,)),
        (". -> ..", lambda x: jnp.tile(x, 2).reshape(3, 2), (3,)),
        ("a -> 0", lambda x: jnp.tile(x, 0), (3,)),
    ],
    "stack": [
        ("ab ab -> .ab", lambda *xs: jnp.stack(xs), M, M),
        ("ab ab ab -> ab.", lambda *xs: jnp.stack(xs, -1), M, M, M),
        ("aa -> a.a", lambda x: jnp.stack([x, x.T], 1), (3, 3)),
        ("ab -> 1ab", lambda x: jnp.stack([x]), M),
        ("a -> .a", lambda x: jnp.stack([x, jnp.zeros(3)]), (3,)),
    ],
    "unstack": [
        (".a -> a a a", jnp.unstack, M),
        ("a. -> a a a a", lambda x: jnp.unstack(x, axis=-1), M),
        ("1a -> a", lambda x: jnp.unstack(x)[0], (1, 3)),
        ("a -> a a", lambda x: jnp.unstack(jnp.broadcast_to(x, (2, 3))), (3,)),
    ],
    "empty": [("a -> *", lambda x: lax.empty((3,), x.dtype), (3,))],
    "transpose": [
        ("abc -> cab", lambda x: x.transpose(2, 0, 1), (2, 3, 4)),
        ("aa -> aa", lambda x: x + x.T, (3, 3)),
    ],
    "squeeze": [("1a1b -> ab", lambda x: x.squeeze((0, -2)), (1, 3, 1, 4))],
    "reshape": [
        ("ab -> (ab)", flat, M),
        ("(ab) -> ab", lambda x: x.reshape(3, 4), (12,)),
        ("(ab) -> ab*", lambda x: x.reshape(3, 4, 1), (12,)),
        ("1a1b -> a*b*", lambda x: x.reshape(3, 1, 4, 1), (1, 3, 1, 4)),
        ("a -> 1a*", lambda x: x.reshape(1, 3, 1), (3,)),
        ("() -> **", lambda x: x.reshape(1, 1), ()),
        ("11 -> ()", lambda x: x.reshape(()), (1, 1)),
        ("ab(cd) -> (abc)d", lambda x: x.reshape(12, 5), (2, 3, 10)),
        ("a(bc) -> (ab)c", lambda x: x.reshape(6, 5), (2, 15)),
        ("(ab)c -> a(bc)", lambda x: x.reshape(2, 15), (6, 5)),
        ("a(bc)d -> (ab)(cd)", lambda x: x.reshape(6, 20), (2, 15, 4)),
        (".. -> ..", lambda x: x.reshape(3, 2), (2, 3)),
        ("a..b -> a..b", lambda x: x.reshape(5, 3, 2, 7), (5, 2, 3, 7)),
        (".. -> ..", lambda x: x.reshape(6, 10), (4, 15)),
        ("a(bcd) -> abcd", lambda x: x.reshape(5, 2, 3, 4), (5, 24)),
        ("(ab) -> (ab) ab", lambda x: (x, x.reshape(2, 3)), (6,)),
        ("(abc) -> (ab)c a(bc)", lambda x: (x.reshape(6, 2), x.reshape(3, 4)), (12,)),
        (". -> .. ..", lambda x: (x.reshape(3, 2), x.reshape(2, 3)), (6,)),
        ("aa -> (aa)", lambda x: flat(x * x.T), (3, 3)),
        ("a b -> [a|b]", lambda x, y: flat(jnp.concatenate([x, y])[None]), (2,), (3,)),
        ("ab cb -> ([a|c]b)", lambda x, y: flat(jnp.concatenate([x, y])), M, (2, 4)),
        ("(ab) (cb) -> [a|c]b", lambda x, y: jnp.concatenate([x, y]).reshape(5, 2), (4,), (6,)),
        (". . -> ..", lambda x, y: jnp.concatenate([x, y]).reshape(5, 2), (5,), (5,)),
        ("a a -> .a", lambda x, y: jnp.concatenate([x, y]).reshape(2, 3), (3,), (3,)),
        ("() -> **", lambda x: jnp.broadcast_to(x, (3, 2)).reshape(2, 3), ()),
        ("ab -> (acb)", lambda x: jnp.broadcast_to(x[:, None], (3, 2, 4)).reshape(24), M),
        (".1 -> ..", lambda x: x[:, 0].cumsum().reshape(2, 2), (4, 1)),
        ("0. -> 0", flat, (0, 3)),
        ("0. -> .0", lambda x: x.reshape(2, 0), (0, 3)),
    ],
    "concatenate": [
        ("a b -> [a|b]", lambda *xs: jnp.concatenate(xs), (2,), (3,)),
        ("ab ac ad -> a[b|c|d]", lambda *xs: jnp.concatenate(xs, 1), M, (3, 2), M),
        ("ab -> [a|a]b", lambda x: jnp.concatenate([x, x]), M),
        ("aa -> [a|a]a", lambda x: jnp.concatenate([x, x.T]), (3, 3)),
        ("a -> [a|b]", lambda x: jnp.concatenate([x, jnp.zeros(2)]), (3,)),
        ("a -> [.|a]", lambda x: jnp.concatenate([np.arange(2.0, dtype="f"), x]), (3,)),
        (". -> .", lambda x: jnp.concatenate([x.cumsum(), x]), (3,)),
        ("() -> [a|1]*", lambda x: jnp.concatenate([jnp.zeros((2, 4)), jnp.ones((1, 4)) * x]), ()),
        ("a b -> [a|a|b]", lambda *xs: jnp.concatenate([xs[0], jnp.concatenate(xs)]), (2,), (3,)),
        ("0 a -> a", lambda *xs: lax.concatenate(xs, 0), (0,), (3,)),
        ("1 1 a -> [1|1|a]", lambda *xs: jnp.concatenate(xs), (1,), (1,), (2,)),
        ("[a|1|a|1] [1|a] -> [1|a|1|a]", lambda x, y: swapped(x) * jnp.concatenate([y, y]), (6,), (3,)),
    ],
    "pad": [
        ("ab -> [c|a]b", lambda x: jnp.pad(x, ((2, 0), (0, 0))), M),
        ("ab -> [a|c][1|b|d]", lambda x: jnp.pad(x, ((0, 2), (1, 3))), M),
        ("a () -> [1|a|b]", lambda x, fill: lax.pad(x, fill, [(1, 2, 0)]), (3,), ()),
        ("a. -> a.", lambda x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1)]), M),
        ("0 -> .", lambda x: lax.pad(x, 0.0, [(2, 1, 0)]), (0,)),
        ("1 -> [a|1|1]", lambda x: lax.pad(x, 0.0, [(2, 1, 0)]), (1,)),
        ("() -> [a|b|1]", lambda x: lax.pad(jnp.broadcast_to(x, (3,)), 0.0, [(2, 1, 0)]), ()),
        ("a -> a", lambda x: jnp.pad(x, (2, 1))[2:5], (3,)),
        ("a -> [1|a]", lambda x: jnp.pad(x, (2, 1))[1:5], (3,)),
    ],
    "slice": [
        ("[a|b] -> a", lambda x: x[:3], (5,)),
        ("[1|a|b] -> a", lambda x: x[1:4], (6,)),
        ("[a|b] -> b", lambda x: x[2:], (5,)),
        ("ab -> ab", lambda x: lax.slice(x, (0, 0), M), M),
        ("[a|b][c|d] -> ad", lambda x: x[:2, 2:], (4, 4)),
        ("[a|1]b -> b", lambda x: x[2], M),
        ("[a|b] -> a b", lambda x: (x[:3], x[3:]), (6,)),
        ("[a|b|c] -> [a|b] [b|c]", lambda x: (x[:4], x[2:]), (6,)),
        ("[a|a] -> a", lambda x: x[:3] * x[3:], (6,)),
        ("(a.) -> a", lambda x: x[::2], (6,)),
        ("(a.) -> a", lambda x: x[1::2], (6,)),
        (". -> .", lambda x: lax.slice(x, (1,), (5,), (2,)), (6,)),
        ("(a.) -> a", lambda x: lax.slice(x, (0,), (5,), (2,)), (6,)),
        (". -> .", lambda x: x[::2], (5,)),
        ("(a.) -> a", lambda x: x[2::3], (6,)),
        ("(a.) -> a a", lambda x: (x[::2], x[1::2]), (6,)),
        (". -> . .", lambda x: (x[::2], x[:3]), (6,)),
        ("a. -> a", lambda x: flat(x)[::4], M),
        (".. -> .", lambda x: flat(x)[::3], M),
        (".a -> a", lambda x: flat(x)[4:8], M),
        (".. -> .", lambda x: flat(x)[4:7], M),
        ("a -> 0", lambda x: x[2:2], (5,)),
        ("0[a|1] -> 0a", lambda x: lax.slice(x, (0, 0), (0, 3)), (0, 4)),
        ("() -> *", lambda x: jnp.broadcast_to(x, (6,))[1:4:2], ()),
        ("[a|b] -> [b|a]", lambda x: jnp.roll(x, 2), (6,)),
    ],
    "split": [
        ("[a|b] -> a b", lambda x: jnp.split(x, 2), (6,)),
        ("a[1|b|c] -> a1 ab ac", lambda x: jnp.split(x, [1, 3], 1), (2, 6)),
        (".a -> a a a", lambda x: jnp.split(flat(x), 3), M),
        (".. -> . .", lambda x: jnp.split(flat(x), 2), M),
        ("() -> * *", lambda x: jnp.split(jnp.broadcast_to(x, (4,)), 2), ()),
        ("[a|a] -> a", lambda x: (lambda a, b: a * b)(*jnp.split(x, 2)), (6,)),
    ],
    "rev": [
        (".a -> .a", lambda x: x[::-1], M),
        ("..a -> ..a", lambda x: x[::-1, ::-1], (2, 3, 4)),
        ("() -> .", lambda x: jnp.broadcast_to(x, (3,))[::-1], ()),
    ],
    **{
        name: [("a. -> a.", lambda x, fn=fn: fn(x, 1), M), (".a -> .a", lambda x, fn=fn: fn(x, 0, reverse=True), M)]
        for name, fn in in_lax("cumsum cumprod cummax cummin cumlogsumexp").items()
    },
    "fft": [
        ("a. -> a.", jnp.fft.rfft, M),
        ("a.. -> a..", lambda x: jnp.fft.fft2(x), (2, *M)),
        ("a. -> a.", lambda x: jnp.fft.irfft(x), M),
    ],
    **{
        f"reduce_{name}": [("abc -> ac", lambda x, fn=fn: fn(x, 1), (2, 3, 4)), ("ab -> ()", fn, M)]
        for name, fn in {"sum": jnp.sum, "max": jnp.max, "min": jnp.min, "prod": jnp.prod}.items()
    },
    **{
        f"reduce_{name}": [
            ("ab -> a", lambda x, fn=fn: fn(x, (1,)), BITS),
            ("ab -> ()", lambda x, fn=fn: fn(x, (0, 1)), BITS),
        ]
        for name, fn in {"and": lax.reduce_and, "or": lax.reduce_or, "xor": lax.reduce_xor}.items()
    },
    "argmax": [("a.b -> ab", lambda x: x.argmax(1), (2, 3, 4)), (".. -> ()", jnp.argmax, M)],
    "argmin": [(".a -> a", lambda x: x.argmin(0), M)],
    "sort": [
        ("ab -> .b", lambda x: jnp.sort(x, 0), M),
        ("ab -> a.", lambda x: jnp.sort(x), M),
        (".a .a -> .a .a", lambda x, y: lax.sort((x, y), dimension=0), M, M),
        ("a. a. -> a. a.", lambda x, y: lax.sort((x, y), dimension=1, num_keys=2), M, M),
        ("a. -> a.", jnp.argsort, M),
        ("a -> ()", jnp.median, (3,)),
    ],
    "top_k": [
        ("a. -> a. a.", lambda x: lax.top_k(x, 2), M),
        (".a -> .a .a", lambda x: lax.top_k(x, 2, axis=0), M),
    ],
}

# What other releases of jax make, and what only serves inside of it.
NOT_MADE = {"copy_p", "log2", "mesh_cast", "one_minus_square", "pcast", "pvary", "zeros_like"}


@pytest.mark.parametrize(
    ("name", "row"), [pytest.param(name, row, id=f"{name}: {row[0]}") for name, rows in ROWS.items() for row in rows]
)
def test_a_rule_says_exactly_this_and_it_is_so(name, row):
    expected, fn, *operands = row
    assert name in primitives(trace(fn, *map(drawn, operands)))
    assert symmetry(fn, *operands) == expected


def test_no_rule_is_left_out():
    here = {name for name, rule in RULES.items() if rule.__module__ == rules.__name__}
    assert here - ROWS.keys() == NOT_MADE
    assert ROWS.keys() <= here


def passed_on(a):
    return [a.axes[0] for _ in a.results]


def all_new(a):
    return [tuple(map(a.factors.new, shape)) for shape in a.results]


def all_uniform(a):
    return [(None,) * len(shape) for shape in a.results]


def by_length(a):
    lengths = dict(zip(a.shapes[0], a.axes[0], strict=True))
    return [tuple(lengths.get(n) or a.opaque(n) for n in a.results[0])]


def first_piece(a):
    (n,), (m,) = a.results[0], a.shapes[0]
    return [(a.factors.cut(a.axes[0][0], [n, m - n])[0],)]


def parts_joined(a):
    return [(a.factors.new(len(a.axes)) + a.join(axes[0] for axes in a.axes),)]


def parts_in_another_order(a):
    return [(a.factors.concatenate([axes[0] for axes in reversed(a.axes)]),)]


def copies_inside(a):
    return [(a.axes[0][0] + a.factors.new(2),)]


def places_change(a):
    return [(a.factors.new(len(a.axes)), *a.axes[0])]


@pytest.mark.parametrize(
    ("name", "wrong", "fn", "operands"),
    [
        ("add", passed_on, jnp.add, [M, M]),
        ("select_n", lambda a: [a.axes[1]], lax.select_n, [BITS, M, M]),
        ("copy", lambda a: [a.axes[0][::-1]], jnp.copy, [(3, 3)]),
        ("iota", all_uniform, lambda x: x * lax.iota(x.dtype, 3), [(3,)]),
        ("iota", all_new, lambda x: x * lax.iota(x.dtype, 3), [(3,)]),
        ("broadcast_in_dim", all_uniform, lambda x: jnp.broadcast_to(x, (2, 3)), [(3,)]),
        ("broadcast_in_dim", all_new, lambda x: jnp.broadcast_to(x, (2, 3)), [(3,)]),
        ("tile", copies_inside, lambda x: jnp.tile(x, 2), [(3,)]),
        ("stack", places_change, lambda *xs: jnp.stack(xs), [(3,), (3,)]),
        ("unstack", lambda a: [a.axes[0][1:]] * 3, jnp.unstack, [M]),
        ("transpose", passed_on, jnp.transpose, [(3, 3)]),
        ("reshape", all_new, flat, [M]),
        ("reshape", by_length, lambda x: x.reshape(4, 3), [M]),
        ("reshape", lambda a: [(a.axes[0][1] + a.axes[0][0],)], flat, [M]),
        ("concatenate", parts_joined, lambda *xs: jnp.concatenate(xs), [(3,), (3,)]),
        ("concatenate", parts_in_another_order, lambda *xs: jnp.concatenate(xs), [(3,), (3,)]),
        ("pad", all_new, lambda x: jnp.pad(x, (0, 2)), [(3,)]),
        ("slice", first_piece, lambda x: x[2:], [(4,)]),
        ("slice", first_piece, lambda x: x[::2], [(4,)]),
        ("slice", all_new, lambda x: x[::2], [(4,)]),
        ("split", lambda a: rules._split(a)[::-1], lambda x: jnp.split(x, 2), [(4,)]),
        ("rev", passed_on, jnp.flip, [(3,)]),
        *((name, passed_on, ROWS[name][0][1], [M]) for name in ("cumsum", "cumprod", "cummax")),
        ("fft", passed_on, jnp.fft.fft, [M]),
        ("top_k", passed_on, lambda x: lax.top_k(x, 3), [(3,)]),
        ("reduce_sum", lambda a: [a.axes[0][:1]], lambda x: x.sum(0), [(3, 3)]),
        ("argmax", lambda a: rules._reduce(a), lambda x: x.argmax(), [(3,)]),
        ("sort", passed_on, jnp.sort, [(3,)]),
        ("sort", passed_on, lambda x, y: lax.sort((x, y)), [(3,), (3,)]),
        ("sort", all_uniform, jnp.argsort, [(3,)]),
    ],
)
def test_a_wrong_rule_is_noticed(monkeypatch, name, wrong, fn, operands):
    monkeypatch.setitem(RULES, name, wrong)
    with pytest.raises(Unsound):
        symmetry(fn, *operands)
