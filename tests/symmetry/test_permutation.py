"""Permutations: the group laws, hard against soft, and every kind of axis against a plain loop."""

from itertools import product

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import says
from variables import stacked

from mcjax import Axis, PermutationSpec, SpecError, compose, identity_permutation, invert, permute, random_permutation
from mcjax.symmetry import to_matrix
from mcjax.symmetry.axis import axes_of

SPEC = PermutationSpec(
    {
        "plain": ("g", None, "h"),
        "outer": (Axis("g", outer=2), "h"),
        "inner": (None, Axis("h", inner=3)),
        "both": (Axis("g", outer=2, inner=2),),
        "twice": ("g", "g"),
        "fixed": None,
        "scalar": (),
    }
)


def qkv(first, last):
    """Segments of 12, each of 3 heads of 4 units."""
    return tuple(
        axis
        for start in range(first, last, 12)
        for axis in (Axis("h", inner=4, start=start, stop=start + 12), Axis("u", outer=3, start=start, stop=start + 12))
    )


# Three heads (h) of four units (u), and ten units of another kind (w).
SEVERAL = PermutationSpec(
    {
        "factors": ((Axis("h", inner=4), Axis("u", outer=3)), None),
        "with more": ((Axis("h", inner=8), Axis("u", outer=3, inner=2)), "w"),
        "fused": (None, (*qkv(0, 24), Axis("h", inner=4, start=24, stop=36), Axis("w", start=36))),
        "fused bias": (qkv(0, 36),),
        "segments": ((Axis("u", start=1, stop=5), Axis("h", start=5, stop=8)), "u"),
        "other lengths": ((Axis("u", inner=2, stop=8), Axis("u", start=8, stop=12), Axis("u", 2, start=13)),),
        "backwards": ((Axis("u", start=7, stop=11), Axis("h", start=4, stop=7), Axis("u", stop=4)),),
        "one": (Axis("h", outer=2, start=2, stop=8), Axis("w", start=3)),
    }
)
# Specs with sizes of their groups: few, so that little is compiled.
SMALL, LARGE, MANY = (SPEC, {"g": 1, "h": 3}), (SPEC, {"g": 5, "h": 4}), (SEVERAL, {"h": 3, "u": 4, "w": 10})


def arrays(spec, sizes, seed=0):
    """A leaf of two entries along every axis without a group; where all segments have an end, one entry more."""

    def length(entry):
        stops = [axis.stop or axis.start + axis.outer * sizes[axis.group] * axis.inner for axis in axes_of(entry)]
        return max(stops, default=2) + all(axis.stop for axis in axes_of(entry)) * bool(stops)

    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=tuple(map(length, entries))).astype(np.float32) for name, entries in spec.axes.items()
    }


def hard(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return {group: rng.permutation(n).astype(np.int32) for group, n in sizes.items()}


def doubly_stochastic(sizes, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(4))
    return {
        group: sum(w * np.eye(n)[rng.permutation(n)] for w in weights).astype(np.float32) for group, n in sizes.items()
    }


def one_hot(P):
    return {group: np.eye(len(p), dtype=np.float32)[p] for group, p in P.items()}


def by_loop(axis, leaf, p):
    """The units on the first axis of a leaf, put in their places one by one."""
    out = leaf.copy()
    for o, i, k in product(range(axis.outer), range(len(p)), range(axis.inner)):
        to, of = (axis.start + (o * len(p) + unit) * axis.inner + k for unit in (i, p[i]))
        out[to] = leaf[of]
    return out


def by_einsum(axis, leaf, M):
    """The same by the matrix of one group's permutation on the whole axis."""
    whole, n = np.eye(len(leaf)), len(M)
    for o, k, i, j in product(range(axis.outer), range(axis.inner), range(n), range(n)):
        row, column = (axis.start + (o * n + unit) * axis.inner + k for unit in (i, j))
        whole[row, column] = M[i, j]
    return np.einsum("ij,j...->i...", whole, leaf)


def expected(spec, P, theta, how=by_loop):
    result = dict(theta)
    for name, entries in spec.axes.items():
        for position, entry in enumerate(entries):
            for axis in axes_of(entry):
                leaf = how(axis, np.moveaxis(result[name], position, 0), P[axis.group])
                result[name] = np.moveaxis(leaf, 0, position)
    return result


def assert_same(a, b, rtol=0.0):
    chex.assert_trees_all_close(a, b, rtol=rtol, atol=rtol)


cases = st.sampled_from([SMALL, LARGE, MANY])
seeds = st.integers(0, 2**32 - 1)
permuted, composed, inverted = (jax.jit(fn) for fn in (permute, compose, invert))
algebra = settings(max_examples=40, deadline=None)


@algebra
@given(cases, seeds)
def test_permute_is_the_plain_loop_and_hard_equals_soft(case, seed):
    spec, sizes = case
    P, theta = hard(sizes, seed), arrays(*case, seed)
    assert spec.group_sizes(theta) == sizes
    result, soft = permuted(spec, P, theta), one_hot(P)
    assert_same(result, expected(spec, P, theta))
    assert_same(permuted(spec, soft, theta), result, rtol=1e-6)
    assert_same(permuted(spec, {**P, "h": soft["h"]}, theta), result, rtol=1e-6)


@algebra
@given(cases, seeds)
def test_soft_is_einsum(case, seed):
    P, theta = doubly_stochastic(case[1], seed), arrays(*case, seed)
    assert_same(permuted(case[0], P, theta), expected(case[0], P, theta, by_einsum), rtol=2e-5)


@algebra
@given(cases, seeds)
def test_composition_is_one_after_the_other_and_the_inverse_undoes_it(case, seed):
    spec, sizes = case
    P, Q, theta = hard(sizes, seed), hard(sizes, seed + 1), arrays(*case, seed)
    both = composed(P, Q)
    assert_same(permuted(spec, both, theta), permuted(spec, P, permuted(spec, Q, theta)))
    assert_same(permuted(spec, inverted(P), permuted(spec, P, theta)), theta)
    assert_same(one_hot(both), {group: p @ one_hot(Q)[group] for group, p in one_hot(P).items()})
    assert {p.dtype for p in both.values()} == {np.dtype(np.int32)}


@jax.jit
def laws(P, Q, R, identity):
    """Pairs of permutations that must be equal."""
    return [
        (compose(P, compose(Q, R)), compose(compose(P, Q), R)),
        (compose(P, identity), P),
        (compose(identity, P), P),
        (compose(P, invert(P)), identity),
        (compose(invert(P), P), identity),
        (invert(invert(P)), P),
        (invert(compose(P, Q)), compose(invert(Q), invert(P))),
    ]


@algebra
@given(cases, seeds)
def test_group_laws(case, seed):
    identity = identity_permutation(case[0], arrays(*case))
    assert_same(identity, {group: np.arange(n, dtype=np.int32) for group, n in case[1].items()})
    for one, other in laws(*(hard(case[1], seed + i) for i in range(3)), identity):
        assert_same(one, other)


@algebra
@given(cases, seeds)
def test_soft_algebra_is_that_of_matrices(case, seed):
    P, Q, rng = hard(case[1], seed), hard(case[1], seed + 1), np.random.default_rng(seed)
    soft = {group: rng.random((n, n)).astype(np.float32) for group, n in case[1].items()}
    assert_same(inverted(soft), {group: M.T for group, M in soft.items()})
    assert_same(composed(P, soft), {group: M[P[group]] for group, M in soft.items()}, rtol=1e-6)
    assert_same(composed(soft, Q), {group: M @ one_hot(Q)[group] for group, M in soft.items()}, rtol=1e-6)
    assert_same(composed(soft, soft), {group: M @ M for group, M in soft.items()}, rtol=1e-5)


def test_a_hard_permutation_as_a_matrix():
    p = np.array([2, 0, 1], np.int32)
    np.testing.assert_array_equal(to_matrix(p), [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    assert to_matrix(p).dtype == jnp.float32
    np.testing.assert_array_equal(to_matrix(np.ones((3, 3))), np.ones((3, 3)))


def test_soft_contracts_with_the_second_index():
    theta, n = arrays(*LARGE), 5
    M = np.random.default_rng(1).random((n, n)).astype(np.float32)
    result = permuted(SPEC, {"g": M, "h": np.eye(4, dtype=np.float32)}, theta)
    np.testing.assert_allclose(result["plain"], np.einsum("ij,jkl->ikl", M, theta["plain"]), rtol=1e-5)
    np.testing.assert_allclose(result["twice"], M @ theta["twice"] @ M.T, rtol=1e-5)
    both = np.einsum("ij,ajb->aib", M, theta["both"].reshape(2, n, 2)).ravel()
    np.testing.assert_allclose(result["both"], both, rtol=1e-5)


@pytest.mark.parametrize(
    ("entry", "P", "moved"),
    [
        ("g", {"g": [2, 0, 1]}, [2, 0, 1]),
        ((Axis("h", inner=2), Axis("u", outer=3)), {"h": [2, 0, 1], "u": [1, 0]}, [5, 4, 1, 0, 3, 2]),
        (
            (Axis("g", start=1, stop=4), Axis("g", inner=2, start=5)),
            {"g": [2, 0, 1]},
            [0, 3, 1, 2, 4, 9, 10, 5, 6, 7, 8],
        ),
    ],
    ids=["units", "heads and units", "segments"],
)
def test_a_known_permutation(entry, P, moved):
    P = {group: np.array(p) for group, p in P.items()}
    result = permute(PermutationSpec({"w": (entry,)}), P, {"w": np.arange(len(moved))})
    np.testing.assert_array_equal(result["w"], moved)


def test_dtypes_stay():
    segments = (Axis("g", stop=3), Axis("g", start=3))
    spec = PermutationSpec({"a": ("g",), "b": ("g",), "c": (segments,), "d": (segments,)})
    theta = {name: np.arange(n).astype(dtype) for name, n, dtype in zip("abcd", (3, 3, 6, 6), DTYPES * 2, strict=True)}
    for P in ({"g": np.array([1, 2, 0])}, {"g": np.eye(3, dtype=np.float32)[[1, 2, 0]]}):
        moved = permute(spec, P, theta)
        chex.assert_trees_all_equal_dtypes(moved, theta)
        for name in "abcd":
            wanted = [1, 2, 0] if name in "ab" else [1, 2, 0, 4, 5, 3]
            np.testing.assert_array_equal(np.asarray(moved[name], np.float32), wanted)


DTYPES = (jnp.bfloat16, np.int32)


def all_ways(spec, P, Q, theta):
    return permute(spec, P, theta), compose(P, Q), invert(P)


@pytest.mark.parametrize("kind", [hard, doubly_stochastic])
@pytest.mark.parametrize("case", [LARGE, MANY], ids=["groups", "segments"])
def test_under_vmap(case, kind):
    Ps, thetas = [kind(case[1], i) for i in range(3)], [arrays(*case, i) for i in range(3)]
    each = [(permuted(case[0], P, theta), composed(P, Ps[0]), inverted(P)) for P, theta in zip(Ps, thetas, strict=True)]
    many = jax.jit(jax.vmap(all_ways, in_axes=(None, 0, None, 0)))
    assert_same(many(case[0], stacked(Ps), Ps[0], stacked(thetas)), stacked(each), rtol=1e-6)
    one_theta = jax.jit(jax.vmap(permute, in_axes=(None, 0, None)))(case[0], stacked(Ps), thetas[0])
    assert_same(jax.tree.map(lambda leaf: leaf[0], one_theta), each[0][0], rtol=1e-6)


def test_without_jit():
    spec, sizes = LARGE
    for P in (hard(sizes), one_hot(hard(sizes))):
        Q, theta = hard(sizes, 1), arrays(*LARGE)
        assert_same(all_ways(spec, P, Q, theta), jax.jit(all_ways)(spec, P, Q, theta), rtol=1e-6)


def test_compose_and_invert_over_a_leading_pair_axis():
    rng = np.random.default_rng(0)
    P, Q = ({"a": rng.permuted(np.tile(np.arange(7), (3, 1)), axis=1)} for _ in range(2))
    together = np.asarray(composed(P, Q)["a"])
    np.testing.assert_array_equal(together, np.take_along_axis(Q["a"], P["a"], 1))
    np.testing.assert_array_equal(inverted(P)["a"], np.argsort(P["a"], 1))


def test_permute_is_differentiable_in_a_soft_p():
    spec = PermutationSpec(
        {"outer": (Axis("g", outer=2), "h"), "segments": ((Axis("k", stop=3), Axis("k", inner=2, start=4)),)}
    )
    theta = arrays(spec, {"g": 3, "h": 2, "k": 3})
    P = {group: np.eye(n, dtype=np.float32) for group, n in {"g": 3, "h": 2, "k": 3}.items()}
    grad = jax.jit(jax.grad(lambda P: sum((leaf**2).sum() for leaf in permute(spec, P, theta).values())))(P)
    # d/dM of |M X N'|^2 at M = N = 1 is 2 X X' and 2 X' X, X summed over its outer copies.
    copies = theta["outer"].reshape(2, 3, 2)
    np.testing.assert_allclose(grad["g"], 2 * sum(x @ x.T for x in copies), rtol=1e-5)
    np.testing.assert_allclose(grad["h"], 2 * sum(x.T @ x for x in copies), rtol=1e-5)
    w = theta["segments"]
    np.testing.assert_allclose(grad["k"], 2 * sum(np.outer(x, x) for x in (w[:3], w[4::2], w[5::2])), rtol=1e-5)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_one_group_on_both_factors_of_an_axis(soft):
    # The products y_i * y_j of all units, flattened, and perhaps the units themselves after them.
    slow, fast, last = {"inner": 3}, {"outer": 3}, Axis("g", start=9)
    entries = {
        "slow and fast": (Axis("g", **slow), Axis("g", **fast)),
        "fast and slow": (Axis("g", **fast), Axis("g", **slow)),
        "then a segment": (Axis("g", **slow, stop=9), Axis("g", **fast, stop=9), last),
        "around a segment": (Axis("g", **slow, stop=9), last, Axis("g", **fast, stop=9)),
    }
    p = doubly_stochastic({"g": 3}, 1)["g"] if soft else np.array([1, 2, 0])
    M = p if soft else np.eye(3)[p]
    whole = np.zeros((12, 12), np.float32)
    whole[:9, :9], whole[9:, 9:] = np.kron(M, M), M
    spec = PermutationSpec({name: (entry, None) for name, entry in entries.items()})
    theta = arrays(spec, {"g": 3})
    result = permute(spec, {"g": p}, theta)
    assert_same(result, {name: whole[: len(w), : len(w)] @ w for name, w in theta.items()}, rtol=1e-5)


def test_random_permutations_are_permutations_drawn_anew(key):
    theta = arrays(SPEC, {"g": 40, "h": 30})
    draw = jax.jit(lambda key: random_permutation(key, SPEC, theta))
    P, again, other = map(draw, (key, key, jax.random.key(1)))
    assert {group: (len(p), str(p.dtype)) for group, p in P.items()} == {"g": (40, "int32"), "h": (30, "int32")}
    assert_same(P, again)
    for group, p in P.items():
        np.testing.assert_array_equal(np.sort(p), np.arange(len(p)))
        assert (p != other[group]).any()
    assert (np.asarray(P["g"])[:30] != np.asarray(P["h"])).any()


def test_random_permutations_are_uniform():
    spec, theta = PermutationSpec({"w": ("g",)}), {"w": np.zeros(3)}
    draw = jax.jit(jax.vmap(lambda k: random_permutation(k, spec, theta)["g"]))
    _, counts = np.unique(np.asarray(draw(jax.random.split(jax.random.key(0), 1200))), axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 200) ** 2 / 200).sum() < 20.5  # the 0.1% point of chi-squared with 5 degrees of freedom


def test_nothing_is_moved_by_a_spec_without_groups_and_by_the_identity(key):
    spec, theta = PermutationSpec({"w": (None,)}), {"w": np.arange(3.0)}
    assert random_permutation(key, spec, theta) == identity_permutation(spec, theta) == {}
    np.testing.assert_array_equal(permute(spec, {}, theta)["w"], theta["w"])
    theta = arrays(*MANY)
    assert_same(permuted(SEVERAL, identity_permutation(SEVERAL, theta), theta), theta)


G, H = np.arange(4), np.arange(3)


@pytest.mark.parametrize(
    ("P", "named"),
    [
        ({"g": G}, ["['g']", "['g', 'h']"]),
        ({"g": G, "h": H, "k": H}, ["['g', 'h', 'k']", "['g', 'h']"]),
        ({"g": G, "h": np.arange(4)}, ["h: got shape (4,)", "(3,)"]),
        ({"g": G, "h": np.array([0, 2, 2])}, ["h: not", "0..2", "repeated [2]"]),
        ({"g": G, "h": np.array([0, 1, 3])}, ["h: not", "0..2", "outside [3]"]),
        ({"g": G, "h": np.array([0, 1, -1])}, ["h: not", "0..2", "outside [-1]"]),
        ({"g": np.eye(3), "h": H}, ["g: got shape (3, 3)", "(4, 4) or int32 (4,)"]),
        ({"g": np.arange(4.0), "h": H}, ["g: got shape (4,)", "(4, 4) or int32 (4,)"]),
        ({"g": H, "h": np.zeros(3, np.int32)}, ["g: got shape (3,)", "h: not", "repeated [0]"]),
    ],
)
def test_a_p_that_does_not_fit_is_refused(P, named):
    with says(SpecError, *named):
        permute(SPEC, P, arrays(SPEC, {"g": 4, "h": 3}))


def test_variables_that_do_not_fit_the_spec_are_refused(key):
    theta = arrays(SPEC, {"g": 4, "h": 3})
    theta["extra"] = theta.pop("fixed")
    for call in (
        lambda: permute(SPEC, {"g": G, "h": H}, theta),
        lambda: identity_permutation(SPEC, theta),
        lambda: random_permutation(key, SPEC, theta),
    ):
        with says(SpecError, "extra: ", "fixed: "):
            call()
    with says(SpecError, "['g'] and ['h']"):
        compose({"g": G}, {"h": H})
