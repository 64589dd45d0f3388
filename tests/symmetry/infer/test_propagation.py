"""Propagation through loops, branches and constants: a loop's carry is permuted alike on every turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from infer.equivariance import check, claim, drawn, notation, propagated, refuted
from jax import lax
from jax.lax import cond, fori_loop, scan, while_loop

from mcjax.symmetry.infer.factors import MISALIGNED
from mcjax.symmetry.infer.propagation import Propagation, Value

ROWS = np.array([[1, 2], [1, 2], [1, 2]], "f")
ZEROS = np.array([[0.0, -0.0, 0.0, -0.0]], "f")


def running(c, row):
    return c * row, c + row


def swapping(c, row):
    return (c[1], c[0] * row), c[0]


def halves_swapped(c, _):
    return jnp.concatenate(jnp.split(c, 2)[::-1]), c


def recurrent(zero):
    """A recurrent network without data: its state starts from zeros, or from an operand."""

    def fn(inner, outer, rows, *start):
        state = start[0] if start else zero(inner.shape[:1])
        return scan(lambda h, row: (jnp.tanh(h @ inner + row @ outer), h), state, rows)[0]

    return fn


SCANS = {
    "with a carry": ("a .a -> a .a", lambda c, x: scan(running, c, x), [(3,), (4, 3)]),
    "backwards": ("a .a -> a .a", lambda c, x: scan(running, c, x, reverse=True), [(3,), (4, 3)]),
    "without a carry": ("ab -> a", lambda x: scan(lambda _, row: (None, row.sum()), None, x)[1], [(4, 3)]),
    "without a carry, backwards": (
        "ab -> ab",
        lambda x: scan(lambda _, r: (None, 2 * r), None, x, reverse=True)[1],
        [(4, 3)],
    ),
    "without a carry, two arrays": (
        "ab ac -> abc",
        lambda x, y: scan(lambda _, rows: (None, jnp.outer(*rows)), None, (x, y))[1],
        [(4, 3), (4, 2)],
    ),
    "without a carry, a constant": ("ab bc -> ac", lambda x, w: lax.map(lambda row: row @ w, x), [(4, 3), (3, 2)]),
    "without a carry, an axis cut": ("[1|a][b|1] -> 1b", lambda x: lax.map(lambda row: row[:2], x)[:1], [(4, 3)]),
    "over nothing": ("aa a -> a .a", lambda w, c: scan(lambda c, _: (c @ w, c), c, None, 4), [(3, 3), (3,)]),
    "over nothing, without a carry": (
        "a -> *a",
        lambda w: scan(lambda *_: (None, jnp.sin(w)), None, None, 4)[1],
        [(3,)],
    ),
    "over what does not vary": (
        "a a -> a .a",
        lambda c, x: scan(running, c, jnp.broadcast_to(x, (4, 3))),
        [(3,), (3,)],
    ),
    "a sum from a scalar": (".a -> () .", lambda x: scan(lambda c, row: (c + row.sum(), c), 0.0, x), [(4, 3)]),
    "a carry from zeros": ("aa ba .b -> a", recurrent(jnp.zeros), [(3, 3), (2, 3), (4, 2)]),
    "a carry from an operand": ("aa ba .b a -> a", recurrent(None), [(3, 3), (2, 3), (4, 2), (3,)]),
    "zeros that stay": ("ab -> * ab", lambda x: scan(lambda c, row: (c, c * row), jnp.zeros(3), x), [(4, 3)]),
    "a carry of two that change places": (
        "a a .a -> a a .a",
        lambda a, b, x: scan(swapping, (a, b), x),
        [(3,), (3,), (4, 3)],
    ),
    "one of the two from zeros": ("a .a -> a a", lambda a, x: scan(swapping, (a, jnp.zeros(3)), x)[0], [(3,), (4, 3)]),
    "two matrices that change places": (
        "ab ba -> ab ba",
        lambda a, b: scan(lambda c, _: ((c[1].T, c[0].T), None), (a, b), None, 3)[0],
        [(2, 3), (3, 2)],
    ),
    "a carry transposed": ("aa -> aa", lambda c: scan(lambda c, _: (c.T, None), c, None, 3)[0], [(3, 3)]),
    "a carry whose halves change places": ("[a|a] -> [a|a] .[a|a]", lambda c: scan(halves_swapped, c, None, 3), [(6,)]),
    "a carry whose thirds are joined": (
        "[a|a|a] -> [a|a|a]",
        lambda c: scan(lambda c, _: (jnp.tile(sum(jnp.split(c, 3)), 3), None), c, None, 3)[0],
        [(6,)],
    ),
    "a carry reversed": (". .. -> .", lambda c, x: scan(lambda c, row: (c[::-1] * row, None), c, x)[0], [(3,), (4, 3)]),
    "a carry flattened": (
        "ab .(ab) -> ab",
        lambda c, x: scan(lambda c, row: (c * row.reshape(2, 3), None), c, x)[0],
        [(2, 3), (4, 6)],
    ),
    "rows accumulated": (
        ".. -> .",
        lambda x: scan(lambda c, row: (c + row.cumsum(), None), jnp.zeros(3), x)[0],
        [(4, 3)],
    ),
    "layers stacked": (
        "ab .bc .cb -> ab",
        lambda x, up, down: scan(lambda x, w: (x + jnp.tanh(x @ w[0]) @ w[1], None), x, (up, down))[0],
        [(2, 3), (4, 3, 5), (4, 5, 3)],
    ),
    "a state without connections to itself": (
        "aa .a -> a",
        lambda w, x: scan(lambda h, row: (jnp.tanh(h @ (w * (1 - jnp.eye(3))) + row), None), jnp.zeros(3), x)[0],
        [(3, 3), (4, 3)],
    ),
    "unrolled": ("a .a -> a .a", lambda c, x: scan(running, c, x, unroll=2), [(3,), (4, 3)]),
    "no turns": ("a 0a -> a 0a", lambda c, x: scan(running, c, x), [(3,), (0, 3)]),
    "inside a scan": (
        "a ..a -> a",
        lambda c, x: scan(lambda c, rows: (scan(running, c, rows)[0], None), c, x)[0],
        [(3,), (2, 4, 3)],
    ),
    "a map inside a map": ("abc -> ab", lambda x: lax.map(lambda rows: lax.map(jnp.sum, rows), x), [(2, 4, 3)]),
    "associative": (".a -> .a", lambda x: lax.associative_scan(jnp.multiply, x), [(4, 3)]),
    "of a gradient": ("a .a -> a", jax.grad(lambda c, x: (scan(running, c, x)[0] ** 2).sum()), [(3,), (4, 3)]),
    "of a map of scans": ("ab a.b -> ab a.b", jax.vmap(lambda c, x: scan(running, c, x)), [(5, 3), (5, 4, 3)]),
}

WHILES = {
    "until it is large": (
        "ab bb -> ab",
        lambda x, w: while_loop(lambda x: x.sum() < 30, lambda x: x + (x @ w) ** 2 + 1, x),
        [(2, 3), (3, 3)],
    ),
    "a condition that reads one position": (
        "[1|a] -> [1|a]",
        lambda x: while_loop(lambda x: x[0] < 9, lambda x: x + 1, x),
        [(3,)],
    ),
    "a condition that reads an operand": (
        "a . -> a",
        lambda x, y: while_loop(lambda x: (x.sum() < 9) & (y[::-1].cumsum()[0] < 9), lambda x: x + 3, x),
        [(3,), (3,)],
    ),
    "counted": ("a a -> a", lambda x, y: fori_loop(0, 3, lambda i, x: x * y, x), [(3,), (3,)]),
    "counted as far as an operand says": (
        "() ab ab -> ab",
        lambda n, x, y: fori_loop(0, n, lambda i, x: x * y + i, x),
        [np.array(3), (2, 3), (2, 3)],
    ),
    "rows by number": (".a -> a", lambda x: fori_loop(0, 4, lambda i, total: total + x[i], jnp.zeros(3)), [(4, 3)]),
    "rows written by number": (
        "a -> .a",
        lambda x: fori_loop(0, 4, lambda i, out: lax.dynamic_update_slice(out, i * x[None], (i, 0)), jnp.zeros((4, 3))),
        [(3,)],
    ),
    "two that change places": (
        "() a a -> a a",
        lambda n, a, b: fori_loop(0, n, lambda i, c: (c[1], c[0] + 1), (a, b)),
        [np.array(3), (3,), (3,)],
    ),
    "one of the two from zeros": (
        "() a -> a a",
        lambda n, a: fori_loop(0, n, lambda i, c: (c[1], c[0] + 1), (a, jnp.zeros(3))),
        [np.array(3), (3,)],
    ),
    "reversed": ("() . -> .", lambda n, a: fori_loop(0, n, lambda i, c: c[::-1], a), [np.array(3), (3,)]),
    "inside a scan": (
        "() a .a -> a .a",
        lambda n, c, x: scan(lambda c, row: (fori_loop(0, n, lambda i, c: c * row, c), c), c, x),
        [np.array(2), (3,), (4, 3)],
    ),
    "of several at once": (
        "ab -> ab",
        jax.vmap(lambda x: while_loop(lambda x: x.sum() < 9, lambda x: x + 3, x)),
        [(2, 3)],
    ),
}


def either(*branches):
    return lambda which, *operands: lax.switch(which, branches, *operands)


YES, SECOND = np.array(True), np.array(1)
BRANCHES = {
    "alike": ("() ab -> ab", lambda p, x: cond(p, jnp.sin, jnp.cos, x), [YES, (2, 3)]),
    "one reverses": ("() a. -> a.", lambda p, x: cond(p, lambda x: x[:, ::-1], jnp.cos, x), [YES, (2, 3)]),
    "the other reverses": ("() a. -> a.", lambda p, x: cond(p, jnp.cos, lambda x: x[:, ::-1], x), [YES, (2, 3)]),
    "one transposes": ("() aa -> aa", lambda p, x: cond(p, lambda x: x.T, jnp.cos, x), [YES, (3, 3)]),
    "one of two": ("() a a -> a", lambda p, x, y: cond(p, lambda x, y: x, lambda x, y: y, x, y), [YES, (3,), (3,)]),
    "one is zero": ("() ab -> ab", lambda p, x: cond(p, jnp.zeros_like, jnp.cos, x), [YES, (2, 3)]),
    "both are constant": ("() ab -> **", lambda p, x: cond(p, jnp.zeros_like, jnp.ones_like, x), [YES, (2, 3)]),
    "one counts": ("() . -> .", lambda p, x: cond(p, lambda x: jnp.arange(3.0), jnp.cos, x), [YES, (3,)]),
    "of three": ("() aa -> aa", either(jnp.sin, lambda x: x @ x, jnp.cos), [SECOND, (3, 3)]),
    "two results change places": (
        "() a a -> a a",
        either(lambda x, y: (x, y), lambda x, y: (y, x)),
        [SECOND, (3,), (3,)],
    ),
    "different cuts": (
        "() [a|1] a -> [a|a]",
        either(lambda x, y: jnp.concatenate([x[:2], y]), lambda x, y: jnp.concatenate([y, x[:2]])),
        [SECOND, (3,), (2,)],
    ),
    "by what an operand holds": ("[1|a] -> [1|a]", lambda x: cond(x[0] > 0, jnp.sin, jnp.cos, x), [(3,)]),
    "by a sum": ("a -> a", lambda x: cond(x.sum() > 0, jnp.sin, jnp.cos, x), [(3,)]),
    "inside a scan": (
        "a .a -> a",
        lambda c, x: scan(lambda c, row: (cond(c.sum() > 0, jnp.add, jnp.subtract, c, row), None), c, x)[0],
        [(3,), (4, 3)],
    ),
    "of several at once": (
        "a ab -> ab",
        jax.vmap(lambda p, x: cond(p, jnp.sin, jnp.cos, x)),
        [np.array([True, False]), (2, 3)],
    ),
}

CONSTANTS = {
    "the same in every row": ("a. -> a.", lambda x: x * ROWS, [(3, 2)]),
    "the same in every column": (".a -> .a", lambda x: x * ROWS.T, [(2, 3)]),
    "all the same": ("ab -> ab", lambda x: x * np.full((3, 2), 2, "f"), [(3, 2)]),
    "none the same": (".. -> ..", lambda x: x * np.arange(6, dtype="f").reshape(3, 2), [(3, 2)]),
    "zeros of both signs, in a sign": ("a. -> a.", lambda x: x * jnp.sign(1 / jnp.asarray(ZEROS)), [(3, 4)]),
    "zeros of both signs, in an angle": ("a. -> a.", lambda x: x + jnp.arctan2(ZEROS, -1), [(3, 4)]),
    "zeros of both signs, divided by": ("a. -> a.", lambda x: x**2 / jnp.asarray(ZEROS), [(3, 4)]),
    "zeros of one sign": ("ab -> ab", lambda x: x + jnp.arctan2(-ZEROS[:, ::2], -1), [(3, 2)]),
    "no numbers, all the same": ("ab -> ab", lambda x: x * np.full((1, 4), np.nan, "f"), [(3, 4)]),
    "no numbers, of both signs": (
        "a. -> a.",
        lambda x: x * jnp.signbit(np.float32([[np.nan, -np.nan]])).astype("f"),
        [(3, 2)],
    ),
    "half precision": ("a. -> a.", lambda x: x * jnp.asarray([[1, 2, 1]], "bfloat16").astype("f"), [(3, 3)]),
    "the identity": ("aa -> aa", lambda x: x * np.eye(3, dtype="f"), [(3, 3)]),
    "two numbers, one on the diagonal": ("aa -> aa", lambda x: x - np.float32([[0, -0.0], [-0.0, 0]]), [(2, 2)]),
    "multiples of the identity": (
        ".aa -> .aa",
        lambda x: x * (np.arange(2)[:, None, None] * np.eye(3)).astype("f"),
        [(2, 3, 3)],
    ),
    "identities of identities": (
        "aabb -> aabb",
        lambda x: x * np.multiply.outer(np.eye(3), np.eye(2)).astype("f"),
        [(3, 3, 2, 2)],
    ),
    "the identity, shifted": (".. -> ..", lambda x: x * np.eye(3, k=1, dtype="f"), [(3, 3)]),
    "a cycle": (".. -> ..", lambda x: x * np.roll(np.eye(3, dtype="f"), 1, 0), [(3, 3)]),
    "a diagonal that varies": (".. -> ..", lambda x: x * np.diag(np.arange(3, dtype="f")), [(3, 3)]),
    "a symmetric matrix": (
        ".. -> ..",
        lambda x: x * np.float32([[0, 1, 2], [1, 0, 1], [2, 1, 0]]),
        [(3, 3)],
    ),
    "no rows of no columns": ("00 -> 00", lambda x: x * np.zeros((0, 0), "f"), [(0, 0)]),
    "nothing in it": ("ab -> ab", lambda x: jnp.concatenate([x, np.zeros((0, 2), "f")]), [(3, 2)]),
    "a random key": (".. -> ..", lambda x: x * jax.random.uniform(jax.random.key(0), (3, 2)), [(3, 2)]),
    "an argument that is none": ("a b -> a", lambda x, y: x, [(3,), (3,)]),
    "a result that is none": ("a -> a * .", lambda x: (x, jnp.ones(3), np.arange(3)), [(3,)]),
}

CALLS = {
    "jit": (".. -> .", lambda x: jax.jit(lambda x: jax.jit(jnp.flip)(x).sum(1))(x), [(2, 3)]),
    "remat": ("a. -> a.", jax.checkpoint(lambda x: jnp.flip(x, 1)), [(2, 3)]),
    "a gradient of remat": ("ab -> ab", jax.grad(jax.checkpoint(lambda x: jnp.sin(x).sum())), [(2, 3)]),
    "a derivative given": ("a. -> a.", lambda x: jax.nn.relu(x[:, ::-1]), [(2, 3)]),
    "the same jitted function twice": ("a b -> a b", lambda x, y: (jax.nn.silu(x), jax.nn.silu(y)), [(3,), (3,)]),
}


def written(write):
    """A sum, after something of the operand was written to a mutable array, whose first entry is added."""

    def fn(x):
        array = jax.new_ref(jnp.zeros(3))
        write(array, x)
        return x.sum() + array[0]

    return fn


def assign(array, x):
    array[...] = x


def accumulate(array, x):
    array[0] += x[0]


OUTSIDE = jax.new_ref(np.zeros(3, "f"))

MUTABLE = {
    "read from outside": (". -> .", lambda x: x + OUTSIDE[...], [(3,)]),
    "written at once": (". -> ()", written(assign), [(3,)]),
    "written in a call": (". -> ()", written(jax.jit(assign)), [(3,)]),
    "one entry": ("[1|a] -> ()", written(accumulate), [(3,)]),
    "written in a loop": (
        "[1|a] -> ()",
        written(lambda array, x: fori_loop(0, 2, lambda i, _: accumulate(array, x), None)),
        [(3,)],
    ),
    "written in a branch": (
        ". -> ()",
        written(lambda array, x: cond(x.sum() > 0, lambda: assign(array, x), lambda: None)),
        [(3,)],
    ),
}

KINDS = {
    "scan": SCANS,
    "while": WHILES,
    "branches": BRANCHES,
    "constants": CONSTANTS,
    "calls": CALLS,
    "mutable": MUTABLE,
}


def test_propagation_infers_exactly_these_axes_and_they_hold():
    rows = {f"{kind}, {name}": row for kind, rows in KINDS.items() for name, row in rows.items()}
    check({name: [(expected, fn, *operands)] for name, (expected, fn, operands) in rows.items()})


def cholesky(x):
    return lax.linalg.cholesky(x, symmetrize_input=False)


@pytest.mark.parametrize(
    ("name", "expected", "fn", "operand"),
    [
        ("cholesky", ".. -> ..", cholesky, (3, 3)),
        ("cholesky", "a.. -> a..", lambda x: lax.map(cholesky, x), (2, 3, 3)),
        ("random_wrap", ".. -> .", jax.random.wrap_key_data, np.zeros((3, 2), "uint32")),
        ("pure_callback", ". -> .", lambda x: jax.pure_callback(np.cumsum, jax.typeof(x), x), (3,)),
    ],
)
def test_a_primitive_without_a_rule_is_pinned_and_named(name, expected, fn, operand):
    found, inputs, outputs = propagated(fn, drawn(operand))
    assert list(found.without_rule) == [name]
    assert notation(found.factors, inputs, outputs) == expected


def test_operands_that_are_pinned_need_no_rule():
    found, _, _ = propagated(lambda x: cholesky(jnp.flip(x)), drawn((3, 3)))
    assert not found.without_rule


@pytest.mark.parametrize(
    ("fn", "operand", "reason"),
    [
        (jax.named_scope("Net")(jnp.cumsum), (3,), "positions matter to cumsum in Net"),
        (jax.named_scope("Net")(cholesky), (3, 3), "no rule for cholesky in Net"),
        (lambda x: scan(running, jnp.zeros(2), x), (3, 2), "a loop runs along it"),
        (lambda x: x * np.arange(3, dtype="f"), (3,), "a constant array in the function"),
        (lambda x: x.reshape(3, 2) * x.reshape(2, 3).T, (6,), MISALIGNED),
    ],
)
def test_why_an_axis_stays(fn, operand, reason):
    found, (axes,), _ = propagated(fn, drawn(operand))
    assert found.factors.is_pinned(axes[0])
    assert found.factors.reason(axes[0]) == reason


def test_a_constant_that_is_traced_may_be_anything():
    @jax.jit
    def outer(c):
        found, (axes,), _ = propagated(lambda x: x * c, jnp.ones(3))
        assert found.factors.is_pinned(axes[0])
        return c

    outer(jnp.ones(3))


WRONG = [
    ("unify", lambda w, a, b: b, SCANS["a carry of two that change places"]),
    ("unify", lambda w, a, b: b, WHILES["two that change places"]),
    ("unify", lambda w, a, b: b, BRANCHES["one of two"]),
    ("new_carry", lambda w, value, shape, data: value, SCANS["a carry from zeros"]),
    ("pin", lambda w, value, reason: None, SCANS["with a carry"]),
    ("_constant", lambda w, value, shape: Value((None,) * len(shape), False), CONSTANTS["none the same"]),
]


def test_a_wrong_propagation_is_noticed(monkeypatch):
    claims = {}
    for method, wrong, (_, fn, operands) in WRONG:
        with monkeypatch.context() as patched:
            patched.setattr(Propagation, method, wrong)
            claims[f"{method}, {len(claims)}"] = claim(fn, *operands, dressed=False)
    assert claims.keys() == refuted(claims).keys()
