"""Rules of products, convolutions, pooling and indexing: each says of its axes exactly this, and they behave so."""

import jax
import jax.numpy as jnp
import numpy as np
from infer.equivariance import all_new, check, passed_on, refuted, registered, under_wrong_rules
from jax import lax

from mcjax.symmetry.infer import contractions
from mcjax.symmetry.infer.propagation import RULES

IMAGES = ("NHWC", "HWIO", "NHWC")
M = (3, 4)


def conv(strides=(1, 1), padding="VALID", numbers=IMAGES, **options):
    return lambda x, k: lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=numbers, **options)


def pool(operation, start, window, strides, padding="VALID", **dilations):
    return lambda x: lax.reduce_window(x, start, operation, window, strides, padding, **dilations)


GATHER = RULES["gather"]
I3 = np.array([2, 0, 2])
PAIRS = np.array([[0, 1], [2, 0], [2, 2], [1, 0]])


def at_pairs(x, pairs):
    """`x[i, j]` for every pair i, j, whose components lie along one axis."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0, 1), start_index_map=(0, 1))
    return lax.gather(x, pairs, numbers, (1, 1, x.shape[2]))


def added_at_pairs(x, pairs, updates):
    return lax.scatter_add(x, pairs, updates, lax.ScatterDimensionNumbers((1,), (0, 1), (0, 1)))


def both(one, other):
    return one[0] * other[0], one[1] + other[1]


def pushed_forward(fn):
    return lambda x, tangent: jax.jvp(fn, (x,), (tangent,))[1]


def pulled_back(x, cotangent):
    return jax.vjp(pool(lax.max, -np.inf, (2, 1, 1), (2, 1, 1)), x)[1](cotangent)[0]


# For every primitive: the notation of operands and results, and the function and the operands' shapes or values.
ROWS = {
    "dot_general": [
        ("ab bc -> ac", jnp.matmul, M, (4, 5)),
        ("ab b -> a", jnp.matmul, M, (4,)),
        ("a a -> ()", jnp.dot, (4,), (4,)),
        ("abc acd -> abd", jnp.matmul, (2, 3, 4), (2, 4, 5)),
        ("abcd dcbe -> eba", lambda x, y: jnp.einsum("aibj,jbik->kia", x, y), (2, 3, 4, 5), (5, 4, 3, 2)),
        ("abcd bead -> abce", lambda x, y: jnp.einsum("ijab,jcib->ijac", x, y), (2, 3, 4, 5), (3, 4, 2, 5)),
        ("ab -> aa", lambda x: x @ x.T, M),
        ("ab -> bb", lambda x: x.T @ x, M),
        ("aa -> aa", lambda x: x @ x, (3, 3)),
        ("ab ba -> ab", lambda x, y: x @ y @ x, (3, 3), (3, 3)),
        ("ab -> *b", lambda x: jnp.ones((2, 3)) @ x, M),
        (".a -> .a", lambda x: np.arange(6, dtype="f").reshape(2, 3) @ x, M),
        ("ab c -> ac", lambda x, y: x @ jnp.broadcast_to(y, (4, 2)), M, (2,)),
        ("(ab) bc -> ac", lambda x, y: x.reshape(3, 4) @ y, (12,), (4, 5)),
        ("a b [a|b]c -> c", lambda x, y, z: jnp.concatenate([x, y]) @ z, (2,), (3,), (5, 4)),
        ("a [a|a]b -> b", lambda x, y: jnp.concatenate([x, x]) @ y, (3,), (6, 4)),
        (". .a -> a", lambda x, y: x.cumsum() @ y, (3,), M),
        ("0a ab -> 0b", jnp.matmul, (0, 3), (3, 4)),
        ("a0 0b -> ab", jnp.matmul, (3, 0), (0, 4)),
        ("a1 1b -> ab", jnp.matmul, (3, 1), (1, 4)),
    ],
    "conv_general_dilated": [
        ("a..b ..bc -> a..c", conv(), (2, 5, 5, 3), (3, 3, 3, 4)),
        ("a.bc .1cd -> a.bd", conv((2, 1), "SAME"), (2, 4, 5, 3), (2, 1, 3, 4)),
        ("abcd 11de -> abce", conv(), (2, 4, 5, 3), (1, 1, 3, 4)),
        ("ab.c 1.cd -> ab.d", conv(), (2, 4, 5, 3), (1, 2, 3, 4)),
        ("a.bc 11cd -> a.bd", conv((2, 1)), (2, 4, 5, 3), (1, 1, 3, 4)),
        ("a.bc 11cd -> a.bd", conv(padding=[(1, 1), (0, 0)]), (2, 4, 5, 3), (1, 1, 3, 4)),
        ("a..b 11bc -> a..c", conv(padding=[(1, -1), (-1, 0)]), (2, 4, 5, 3), (1, 1, 3, 4)),
        ("a.bc 11cd -> a.bd", conv(padding=[(0, 0), (0, 0)], lhs_dilation=(2, 1)), (2, 3, 5, 3), (1, 1, 3, 4)),
        ("a.bc .1cd -> a.bd", conv(rhs_dilation=(2, 2)), (2, 5, 5, 3), (2, 1, 3, 4)),
        ("ab.c db.1 -> ad.c", conv(numbers=("NCHW", "OIHW", "NCHW")), (2, 3, 4, 4), (5, 3, 2, 1)),
        ("abcd 11ed -> eacb", conv(numbers=("HWNC", "HWOI", "CHNW")), (3, 4, 2, 5), (1, 1, 6, 5)),
        ("a.b .bc -> a.c", conv((1,), numbers=("NHC", "HIO", "NHC")), (2, 5, 3), (3, 3, 4)),
        ("a.b .bc -> a.c", conv((2,), "SAME", ("NHC", "HIO", "NHC"), rhs_dilation=(2,)), (2, 6, 3), (3, 3, 4)),
        ("ab bc -> ac", conv((), (), ("NC", "IO", "NC")), (2, 3), (3, 4)),
        ("a..(bc) ..c(bd) -> a..(bd)", conv(feature_group_count=2), (2, 4, 4, 6), (2, 2, 3, 10)),
        ("abc(de) 11ed -> abcd", conv(feature_group_count=3), (2, 3, 3, 6), (1, 1, 2, 3)),
        ("a..b ..1b -> a..b", conv(feature_group_count=3), (2, 4, 4, 3), (2, 2, 1, 3)),
        ("a..b ..1(bc) -> a..(bc)", conv(feature_group_count=3), (2, 4, 4, 3), (2, 2, 1, 6)),
        (".... .... -> ....", conv(batch_group_count=2), (4, 3, 3, 3), (2, 2, 3, 6)),
        ("1111 1111 -> 1111", conv(), (1, 1, 1, 1), (1, 1, 1, 1)),
        ("a ..ab -> *..b", lambda x, k: conv()(jnp.broadcast_to(x, (2, 4, 4, 3)), k), (3,), (2, 2, 3, 4)),
        ("a.bc cd -> a.bd", lambda x, k: conv()(x, jnp.broadcast_to(k, (2, 1, 3, 4))), (2, 4, 4, 3), (3, 4)),
        (".1ab c..a -> .1ab", jax.grad(lambda k, x: (conv()(x, k) ** 2).sum()), (2, 1, 3, 4), (2, 4, 4, 3)),
        ("a.bc .1cd -> a.bc", jax.grad(lambda x, k: (conv((2, 1))(x, k) ** 2).sum()), (2, 4, 4, 3), (2, 1, 3, 4)),
        (
            ".11. .... -> .11.",
            jax.grad(lambda k, x: (conv(feature_group_count=3)(x, k) ** 2).sum()),
            (2, 1, 1, 6),
            (2, 4, 4, 3),
        ),
    ],
    "reduce_window_max": [
        ("a..b -> a..b", pool(lax.max, -np.inf, (1, 2, 2, 1), (1, 2, 2, 1)), (2, 4, 4, 3)),
        ("a. -> a.", pool(lax.max, -np.inf, (1, 2), (1, 1), "SAME"), M),
        ("a. -> a.", pool(lax.max, -np.inf, (1, 1), (1, 2)), M),
        ("a. -> a.", pool(lax.max, -np.inf, (1, 1), (1, 1), [(0, 0), (1, 0)]), M),
        (".a -> .a", pool(lax.max, -np.inf, (1, 1), (1, 1), base_dilation=(2, 1)), M),
        ("a. -> a.", pool(lax.max, -np.inf, (1, 2), (1, 1), window_dilation=(3, 2)), M),
        (".a -> 1a", pool(lax.max, -np.inf, (3, 1), (1, 1)), M),
    ],
    "reduce_window": [
        ("a..b -> a..b", pool(lax.mul, 1.0, (1, 2, 2, 1), (1, 2, 2, 1)), (2, 4, 4, 3)),
        ("a. -> a.", pool(jnp.logaddexp, -np.inf, (1, 2), (1, 1), "SAME"), M),
        (".a .a -> .a .a", lambda x, y: pool(both, (1.0, 0.0), (2, 1), (1, 1))((x, y)), M, M),
    ],
    "select_and_scatter_add": [
        ("a.b -> a.b", jax.grad(lambda x: (pool(lax.max, -np.inf, (1, 2, 1), (1, 2, 1))(x) ** 2).sum()), (2, 4, 3)),
        (".a -> .a", jax.grad(lambda x: (pool(lax.max, -np.inf, (1, 1), (2, 1))(x) ** 2).sum()), (4, 3)),
        (".ab .ab -> .ab", pulled_back, (4, 2, 3), (2, 2, 3)),
    ],
    "select_and_gather_add": [
        ("a.b a.b -> a.b", pushed_forward(pool(lax.max, -np.inf, (1, 2, 1), (1, 2, 1))), (2, 4, 3), (2, 4, 3)),
    ],
    "reduce_window_min": [(".a -> .a", pool(lax.min, np.inf, (2, 1), (2, 1)), (4, 3))],
    "reduce_window_sum": [(".a -> .a", pool(lax.add, 0.0, (2, 1), (2, 1)), (4, 3))],
    "dynamic_slice": [
        (".a () -> .a", lambda x, i: lax.dynamic_slice(x, (i, 0), (2, 4)), M, np.array(1)),
        ("ab () -> ab", lambda x, i: lax.dynamic_slice(x, (i, i), M), M, np.array(7)),
        ("a. () -> a1", lambda x, i: lax.dynamic_index_in_dim(x, i, 1), M, np.array(2)),
        (".a () -> a", lambda x, i: x[i], M, np.array(2)),
        ("() () -> .", lambda x, i: lax.dynamic_slice(jnp.broadcast_to(x, (3,)), (i,), (2,)), (), np.array(1)),
    ],
    "dynamic_update_slice": [
        (".a .a () -> .a", lambda x, u, i: lax.dynamic_update_slice(x, u, (i, 0)), M, (2, 4), np.array(1)),
        ("ab ab () -> ab", lambda x, u, i: lax.dynamic_update_slice(x, u, (i, i)), M, M, np.array(1)),
        (".. 1. () -> ..", lambda x, u, i: lax.dynamic_update_slice(x, u, (0, i)), M, (1, 2), np.array(1)),
        ("1a () -> .a", lambda u, i: lax.dynamic_update_slice(jnp.zeros(M), u, (i, 0)), (1, 4), np.array(1)),
        (".a () -> .a", lambda x, i: lax.dynamic_update_slice(x, jnp.ones((1, 4)), (i, 0)), M, np.array(1)),
    ],
    "gather": [
        (".a b -> ba", lambda table, i: table[i], (5, 4), I3),
        (".a bc -> bca", lambda table, i: table[i], (5, 4), np.array([I3, I3])),
        ("a. b -> ab", lambda table, i: table[:, i], (5, 4), I3),
        (".a b -> ba", lambda table, i: table[i], (3, 4), I3),
        (".a -> .a", lambda table: table[I3], (5, 4)),
        ("a. -> a.", lambda x: x[:, np.array([3, 1])], M),
        (".a -> *a", lambda x: x[np.array([1, 1])], M),
        ("..a b -> ba", lambda x, i: x[i, i], (3, 3, 2), I3),
        ("..a b. -> ba", lambda x, i: x[i[:, 0], i[:, 1]], (3, 3, 2), PAIRS),
        ("..a b. -> ba", at_pairs, (3, 3, 2), PAIRS),
        ("a..b ac. -> acb", jax.vmap(at_pairs), (2, 3, 3, 2), np.array([PAIRS, PAIRS[:, ::-1]])),
        (".. a -> aa", lambda x, i: x[i[:, None], i[None]], (3, 4), I3),
        (".a. b b -> ba", lambda x, i, j: x[i, :, j], (3, 2, 4), I3, I3),
        ("a. b -> ab", lambda x, i: jnp.take(x, i, 1), M, np.array([1, 9, -9])),
        (".a b -> ba", lambda x, i: jnp.take(x, i, 0, mode="clip"), M, np.array([1, 9, -9])),
        (".a b -> ba", lambda x, i: x.at[i].get(mode="fill", fill_value=7), M, np.array([1, 9, -9])),
        (".a b -> ba", lambda x, i: x.at[i].get(mode="promise_in_bounds"), M, I3),
        ("a. ab -> ab", lambda x, i: jnp.take_along_axis(x, i, 1), (3, 5), np.array([[0, 4], [1, 1], [3, 2]])),
        (
            "a.b ac1 -> acb",
            lambda x, i: jnp.take_along_axis(x, i, 1),
            (3, 5, 2),
            np.array([[0, 4], [1, 1], [3, 2]])[..., None],
        ),
        ("a. a -> a*", lambda x, i: jnp.take_along_axis(x, i[:, None], 1), (3, 5), I3),
        ("a.b ac -> acb", jax.vmap(lambda x, i: x[i]), (3, 5, 2), np.array([[0, 4], [1, 1], [3, 2]])),
        (".ab ac -> cab", jax.vmap(lambda x, i: x[i], (1, 0), 1), (5, 3, 2), np.array([[0, 4], [1, 1], [3, 2]])),
        ("a.b a -> a.b", jax.vmap(lambda x, i: lax.dynamic_slice(x, (i, 0), (2, 2))), (3, 5, 2), I3),
        (". a -> a.", jax.vmap(lambda x, i: lax.dynamic_slice(x, (i,), (2,)), (None, 0)), (5,), I3),
        (".a () -> *a", lambda x, i: x[jnp.broadcast_to(i, (4,))], (5, 2), np.array(3)),
        ("a b -> ba", lambda x, i: jnp.broadcast_to(x, (5, 2))[i], (2,), I3),
        ("1a b -> ba", lambda x, i: x[i], (1, 4), np.array([0, 0])),
    ],
    "scatter": [
        ("a. a -> a.", lambda x, u: x.at[:, 1].set(u), M, (3,)),
        (".a . .a -> .a", lambda x, i, u: x.at[i].set(u), (5, 4), np.array([2, 0, 3]), M),
        ("a. . a. -> a.", lambda x, i, u: x.at[:, i].set(u), (5, 4), np.array([2, 0]), (5, 2)),
        (".. .. -> ..", lambda x, u: x.at[1:3, 1:3].set(u), M, (2, 2)),
        (".a -> .a", lambda x: x.at[0].set(0), M),
        ("a -> .a", lambda u: jnp.zeros(M).at[1].set(u), (4,)),
        (".a . .a -> .a", lambda x, i, u: x.at[i].set(u, mode="drop"), M, np.array([1, 9]), (2, 4)),
        ("a.b a ab -> a.b", jax.vmap(lambda x, i, u: x.at[i].set(u)), (3, 5, 2), np.array([1, 0, 4]), (3, 2)),
        (
            "a.b a a.b -> a.b",
            jax.vmap(lambda x, i, u: lax.dynamic_update_slice(x, u, (i, 0))),
            (3, 5, 2),
            I3,
            (3, 2, 2),
        ),
        (
            "ab. a ab1 -> ab.",
            jax.vmap(lambda x, i, u: lax.dynamic_update_slice(x, u, (0, i))),
            (3, 5, 2),
            I3,
            (3, 5, 1),
        ),
        (".a a -> .a", lambda x, u: x.at[jnp.array(1)].set(u), M, (4,)),
        ("ab ab -> ab", lambda x, u: x.at[:].set(u), M, M),
    ],
    "scatter-add": [
        (".a . .a -> .a", lambda x, i, u: x.at[i].add(u), (5, 4), I3, M),
        (".. . . -> ..", lambda x, i, u: x.at[i, i].add(u), (3, 3), I3, (3,)),
        ("..a .. .a -> ..a", added_at_pairs, (3, 3, 2), PAIRS, (4, 2)),
        ("a..b a.. a.b -> a..b", jax.vmap(added_at_pairs), (2, 3, 3, 2), np.array([PAIRS, PAIRS[::-1]]), (2, 4, 2)),
        ("a.b a. a.b -> a.b", jax.vmap(lambda x, i, u: x.at[i].add(u)), (2, 5, 4), np.array([I3, I3]), (2, 3, 4)),
        (". .a -> .a", lambda i, u: jax.ops.segment_sum(u, i, 4), I3, M),
        (".a . -> .a", lambda table, i: jax.grad(lambda t: (t[i] ** 2).sum())(table), (5, 4), I3),
    ],
    **{
        f"scatter-{name}": [
            (".a . .a -> .a", lambda x, i, u, name=method: getattr(x.at[i], name)(u), (5, 4), I3, M),
            ("a. a -> a.", lambda x, u, name=method: getattr(x.at[:, 0], name)(u), M, (3,)),
        ]
        for name, method in {"mul": "multiply", "min": "min", "max": "max", "sub": "subtract"}.items()
    },
}

NOT_MADE = {"scatter_add", "scatter_mul"}  # names in other releases of jax


def test_rules_say_exactly_this_and_it_is_so():
    for title, claim in check(ROWS).items():
        assert title.partition(",")[0] in claim.primitives


def test_no_rule_is_left_out():
    assert registered(contractions) - ROWS.keys() == NOT_MADE
    assert ROWS.keys() <= registered(contractions)


def outer_axes(op):
    """A product that forgets to join what it sums over."""
    return [(op.axes[0][0], op.axes[1][1])]


def pixels_free(op):
    """A convolution that leaves its pixels free."""
    images, height, width, channels = op.axes[0]
    op.unify((channels, op.axes[1][2]))
    return [(images, height, width, op.axes[1][3])]


def channels_alone(op):
    """A convolution that does not join the channels of image and kernel."""
    return [(*op.axes[0][:3], op.axes[1][3])]


def groups_apart(op):
    """A grouped convolution whose filters do not follow the groups of channels."""
    op.factors.unify(op.axes[0][3], op.factors.new(2) + op.axes[1][2])
    return [(*op.axes[0][:3], op.axes[1][3])]


def looked_up(op):
    """A gather that takes whatever row an index names for the row of that number."""
    return [(*op.axes[1][:1], *op.axes[0][1:])]


def components_apart(op):
    """A gather whose pairs of indices may be turned around."""
    return GATHER(op._replace(axes=(op.axes[0], (op.axes[1][0], None))))


def in_order(op):
    """A gather that pins its indices instead of the rows that they name."""
    op.pin(1, 0)
    return [(op.new_pinned(op.results[0][0]), *op.axes[0][1:])]


POINTWISE = [(2, 2, 2, 3), (1, 1, 3, 4)]


WRONG = [
    ("dot_general", outer_axes, jnp.matmul, [M, (4, 5)]),
    ("dot_general", all_new, jnp.matmul, [M, (4, 5)]),
    ("conv_general_dilated", pixels_free, conv(padding="SAME"), [(2, 3, 3, 3), (3, 3, 3, 4)]),
    ("conv_general_dilated", pixels_free, conv(rhs_dilation=(2, 1), padding="SAME"), [(2, 3, 3, 3), (3, 1, 3, 4)]),
    ("conv_general_dilated", channels_alone, conv(), POINTWISE),
    ("conv_general_dilated", groups_apart, conv(feature_group_count=2), [(2, 2, 2, 6), (1, 1, 3, 4)]),
    ("reduce_window_max", passed_on, pool(lax.max, -np.inf, (2,), (1,), "SAME"), [(4,)]),
    ("reduce_window", passed_on, pool(lax.mul, 1.0, (2,), (1,), "SAME"), [(4,)]),
    ("select_and_scatter_add", lambda op: [op.axes[1]], pulled_back, [(4, 2, 3), (2, 2, 3)]),
    ("dynamic_slice", all_new, lambda x, i: lax.dynamic_slice(x, (i,), (2,)), [(3,), np.array(1)]),
    ("dynamic_update_slice", passed_on, lambda x, u: lax.dynamic_update_slice(x, u, (0, 0)), [M, (3, 1)]),
    ("dynamic_update_slice", passed_on, lambda x, u: lax.dynamic_update_slice(x, u, (0, 0)), [M, M]),
    ("gather", looked_up, lambda table, i: table[i], [(3, 4), I3]),
    ("gather", in_order, lambda table, i: table[i], [(5, 4), I3]),
    ("gather", components_apart, at_pairs, [(3, 3, 2), PAIRS]),
    ("gather", passed_on, jax.vmap(lambda x, i: x[i]), [(3, 3, 2), I3[:, None].repeat(3, 1)]),
    ("scatter", passed_on, lambda x, u: x.at[:, 1].set(u), [M, (3,)]),
    ("scatter-add", passed_on, lambda x, i, u: x.at[i].add(u), [(5, 4), I3, M]),
]


def test_a_wrong_rule_is_noticed():
    claims = under_wrong_rules(WRONG)
    assert claims.keys() == refuted(claims).keys()
