"""Rules of reshapes, transposes, segments and copies: each says of its axes exactly this, and they behave so."""

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

from mcjax.symmetry.infer import layout
from mcjax.symmetry.infer.propagation import RULES

M = (3, 4)
SPLIT = RULES["split"]


# For every primitive: the notation of operands and results, and the function and the operands' shapes or values.
ROWS = {
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
        ("() () -> .", lambda *xs: jnp.stack(xs), (), ()),
    ],
    "unstack": [
        (".a -> a a a", jnp.unstack, M),
        ("a. -> a a a a", lambda x: jnp.unstack(x, axis=-1), M),
        ("1a -> a", lambda x: jnp.unstack(x)[0], (1, 3)),
        ("a -> a a", lambda x: jnp.unstack(jnp.broadcast_to(x, (2, 3))), (3,)),
    ],
    "transpose": [("abc -> cab", lambda x: x.transpose(2, 0, 1), (2, 3, 4)), ("aa -> aa", lambda x: x + x.T, (3, 3))],
    "squeeze": [("1a1b -> ab", lambda x: x.squeeze((0, -2)), (1, 3, 1, 4))],
    "reshape": [
        ("ab -> (ab)", flat, M),
        ("(ab) -> ab", lambda x: x.reshape(3, 4), (12,)),
        ("(ab) -> ab*", lambda x: x.reshape(3, 4, 1), (12,)),
        ("1a1b -> a*b*", lambda x: x.reshape(3, 1, 4, 1), (1, 3, 1, 4)),
        ("a -> 1a*", lambda x: x.reshape(1, 3, 1), (3,)),
        ("() -> **", lambda x: x.reshape(1, 1), ()),
        ("11 -> ()", lambda x: x.reshape(()), (1, 1)),
        ("ab -> (ba)", lambda x: lax.reshape(x, (12,), (1, 0)), M),
        ("abc -> c(ab)", lambda x: lax.reshape(x, (4, 6), (2, 0, 1)), (2, 3, 4)),
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
}


def test_rules_say_exactly_this_and_it_is_so():
    for title, claim in check(ROWS).items():
        assert title.partition(",")[0] in claim.primitives


def test_no_rule_is_left_out():
    assert registered(layout) == ROWS.keys()


def by_length(op):
    """A reshape that hands on the axes that are as long as before."""
    lengths = dict(zip(op.shapes[0], op.axes[0], strict=True))
    return [tuple(lengths.get(n) or op.new_pinned(n) for n in op.results[0])]


def first_piece(op):
    """A slice that takes the first segment, wherever it is."""
    (n,), (m,) = op.results[0], op.shapes[0]
    return [(op.factors.cut(op.axes[0][0], [n, m - n])[0],)]


def parts_joined(op):
    """A concatenation whose parts change places."""
    return [(op.factors.new(len(op.axes)) + op.unify(axes[0] for axes in op.axes),)]


WRONG = [
    ("broadcast_in_dim", all_uniform, lambda x: jnp.broadcast_to(x, (2, 3)), [(3,)]),
    ("broadcast_in_dim", all_new, lambda x: jnp.broadcast_to(x, (2, 3)), [(3,)]),
    ("tile", lambda op: [(op.axes[0][0] + op.factors.new(2),)], lambda x: jnp.tile(x, 2), [(3,)]),
    ("stack", lambda op: [(op.factors.new(2), *op.axes[0])], lambda *xs: jnp.stack(xs), [(3,), (3,)]),
    ("unstack", lambda op: [op.axes[0][1:]] * 3, jnp.unstack, [M]),
    ("transpose", passed_on, jnp.transpose, [(3, 3)]),
    ("squeeze", lambda op: [op.axes[0][:-1]], lambda x: x.squeeze(1), [(3, 1, 3)]),
    ("reshape", all_new, flat, [M]),
    ("reshape", by_length, lambda x: x.reshape(4, 3), [M]),
    ("reshape", lambda op: [(op.axes[0][1] + op.axes[0][0],)], flat, [M]),
    ("concatenate", parts_joined, lambda *xs: jnp.concatenate(xs), [(3,), (3,)]),
    ("concatenate", lambda op: [op.axes[0]], lambda *xs: jnp.concatenate(xs, 1), [(3, 0), M]),
    ("pad", all_new, lambda x: jnp.pad(x, (0, 2)), [(3,)]),
    ("slice", first_piece, lambda x: x[2:], [(4,)]),
    ("slice", first_piece, lambda x: x[::2], [(4,)]),
    ("slice", all_new, lambda x: x[::2], [(4,)]),
    ("split", lambda op: SPLIT(op)[::-1], lambda x: jnp.split(x, 2), [(4,)]),
    ("rev", passed_on, jnp.flip, [(3,)]),
]


def test_a_wrong_rule_is_noticed():
    claims = under_wrong_rules(WRONG)
    assert claims.keys() == refuted(claims).keys()
