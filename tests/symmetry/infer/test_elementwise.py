"""Rules of single primitives: each says of its axes exactly this, and they behave so."""

import jax
import jax.numpy as jnp
import numpy as np
from infer.equivariance import (
    all_new,
    all_uniform,
    check,
    flat,
    passed_on,
    refuted,
    registered,
    swapped,
    under_wrong_rules,
)
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import NamedSharding, PartitionSpec

from mcjax.symmetry.infer import elementwise
from mcjax.symmetry.infer.propagation import RULES

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


def nth(n, dtype=int):
    return lax.iota(dtype, n)


# For every primitive: the notation of operands and results, and the function and the operands' shapes or values.
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
    "eq": [
        ("ab ab -> ab", lax.eq, M, M),
        ("aa -> aa", lambda x: x * jnp.eye(3), (3, 3)),
        ("aa -> aa", lambda x: x * (nth(3)[:, None] == nth(3)[None]), (3, 3)),
        ("aa -> a", lambda x: jnp.einsum("aa->a", x), (3, 3)),
        ("aaba -> ba", lambda x: jnp.einsum("aaba->ba", x), (3, 3, 2, 3)),
        ("aa -> ()", jnp.trace, (3, 3)),
        ("a -> aa", jnp.diag, (3,)),
        ("ab b -> ab", lambda x, v: x @ (jnp.eye(4) - 2 * jnp.outer(v, v) / (v @ v)), M, (4,)),
        (".. -> ..", lambda x: x * jnp.eye(3, k=1), (3, 3)),
        (".. -> ..", lambda x: x * jnp.eye(3, 4), M),
        (".. -> ..", lambda x: x * (2 * nth(3)[:, None] == nth(3)[None]), (3, 3)),
        (".. -> ..", lambda x: x * (nth(3, "int8")[:, None] == nth(3, "int8")[None]), (3, 3)),
        (".a -> .a", lambda x: x * (nth(3)[:, None] == jnp.broadcast_to(nth(3)[:, None], (3, 3))), (3, 3)),
        (".a -> .a", lambda x: x * (nth(3)[:, None] == jnp.broadcast_to(nth(1), (3, 3))), (3, 3)),
        ("11 -> 11", lambda x: x * jnp.eye(1), (1, 1)),
    ],
    "ne": [("ab ab -> ab", lax.ne, M, M), ("aa -> aa", lambda x: x * (nth(3)[:, None] != nth(3)[None]), (3, 3))],
    "optimization_barrier": [("ab cd -> ab cd", lambda *xs: lax.optimization_barrier(xs), M, M)],
    "empty": [("a -> *", lambda x: lax.empty((3,), x.dtype), (3,))],
    "iota": [
        ("ab -> .*", lambda x: lax.broadcasted_iota(int, x.shape, 0), M),
        ("a. -> a.", lambda x: x + lax.broadcasted_iota(x.dtype, x.shape, 1), M),
        ("1a -> 1a", lambda x: x + lax.broadcasted_iota(x.dtype, x.shape, 0), (1, 4)),
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
        ("a. -> a.", lambda x: lax.top_k(x, 2)[1], M),
        ("ab -> a.", lambda x: lax.top_k(x, 2)[0], M),
        ("ab -> ab", lambda x: x * (x >= lax.top_k(x, 2)[0][:, 1:]), M),
        ("ab -> .b", lambda x: lax.top_k(x, 2, axis=0)[0], M),
    ],
}

# What other releases of jax make, and what only serves inside of it.
NOT_MADE = {"copy_p", "log2", "mesh_cast", "one_minus_square", "pcast", "pvary", "zeros_like"}


def test_rules_say_exactly_this_and_it_is_so():
    for title, claim in check(ROWS).items():
        assert title.partition(",")[0] in claim.primitives


def test_no_rule_is_left_out():
    assert registered(elementwise) - ROWS.keys() == NOT_MADE
    assert ROWS.keys() <= registered(elementwise)


WRONG = [
    ("add", passed_on, jnp.add, [M, M]),
    ("select_n", lambda op: [op.axes[1]], lax.select_n, [BITS, M, M]),
    ("copy", lambda op: [op.axes[0][::-1]], jnp.copy, [(3, 3)]),
    ("iota", all_uniform, lambda x: x * lax.iota(x.dtype, 3), [(3,)]),
    ("iota", all_new, lambda x: x * lax.iota(x.dtype, 3), [(3,)]),
    *((name, passed_on, ROWS[name][0][1], [M]) for name in ("cumsum", "cumprod", "cummax")),
    ("fft", passed_on, jnp.fft.fft, [M]),
    ("eq", all_new, lambda x: x * jnp.eye(3), [(3, 3)]),
    ("top_k", passed_on, lambda x: lax.top_k(x, 3), [(3,)]),
    ("reduce_sum", lambda op: [op.axes[0][:1]], lambda x: x.sum(0), [(3, 3)]),
    ("argmax", RULES["reduce_max"], jnp.argmax, [(3,)]),
    ("sort", passed_on, jnp.sort, [(3,)]),
    ("sort", passed_on, lambda x, y: lax.sort((x, y)), [(3,), (3,)]),
    ("sort", all_uniform, jnp.argsort, [(3,)]),
]


def test_a_wrong_rule_is_noticed():
    claims = under_wrong_rules(WRONG)
    assert claims.keys() == refuted(claims).keys()
