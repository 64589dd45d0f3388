"""Permutations: the group laws, hard against soft, and every kind of axis against a plain loop."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcjax import (
    Axis,
    PermutationSpec,
    SpecError,
    compose,
    identity_permutation,
    invert,
    load_permutation,
    permute,
    project_birkhoff,
    random_permutation,
    save_permutation,
)
from mcjax.symmetry import to_matrix
from mcjax.symmetry.permutation import check_doubly_stochastic

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


def variables(n, m, seed=0):
    shapes = {
        "plain": (n, 2, m),
        "outer": (2 * n, m),
        "inner": (2, 3 * m),
        "both": (4 * n,),
        "twice": (n, n),
        "fixed": (3, 2),
        "scalar": (),
    }
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def drawn(n, m, seed):
    rng = np.random.default_rng(seed)
    return {"g": rng.permutation(n).astype(np.int32), "h": rng.permutation(m).astype(np.int32)}


def by_loop(axis, position, leaf, p):
    leaf = np.moveaxis(leaf, position, 0)
    out = np.empty_like(leaf)
    for o, i, k in product(range(axis.outer), range(len(p)), range(axis.inner)):
        out[(o * len(p) + i) * axis.inner + k] = leaf[(o * len(p) + p[i]) * axis.inner + k]
    return np.moveaxis(out, 0, position)


def permuted_by_loop(P, theta):
    result = dict(theta)
    for name, axes in SPEC.axes.items():
        for position, axis in enumerate(axes):
            if axis:
                result[name] = by_loop(axis, position, result[name], P[axis.group])
    return result


def assert_same(a, b, rtol=0.0):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


sizes = st.sampled_from([(1, 1), (2, 3), (5, 4)])  # few shapes, so that little is compiled
seeds = st.integers(0, 2**32 - 1)
permuted = jax.jit(permute)
algebra = settings(max_examples=25, deadline=None)


@algebra
@given(sizes, seeds)
def test_permute_is_the_plain_loop(size, seed):
    P, theta = drawn(*size, seed), variables(*size, seed)
    assert_same(permuted(SPEC, P, theta), permuted_by_loop(P, theta))


@algebra
@given(sizes, seeds)
def test_hard_equals_soft(size, seed):
    P, theta = drawn(*size, seed), variables(*size, seed)
    one_hot = {group: np.eye(len(p), dtype=np.float32)[p] for group, p in P.items()}
    for group, p in P.items():
        np.testing.assert_array_equal(to_matrix(p), one_hot[group])
        assert all(one_hot[group][i, p[i]] == 1 for i in range(len(p)))
    assert_same(permuted(SPEC, one_hot, theta), permuted(SPEC, P, theta), rtol=1e-6)
    assert_same(permuted(SPEC, {**P, "h": one_hot["h"]}, theta), permuted(SPEC, P, theta), rtol=1e-6)


@algebra
@given(sizes, seeds)
def test_composition_is_one_after_the_other(size, seed):
    P, Q, theta = drawn(*size, seed), drawn(*size, seed + 1), variables(*size, seed)
    both = compose(P, Q)
    assert_same(permuted(SPEC, both, theta), permuted(SPEC, P, permuted(SPEC, Q, theta)))
    for group in P:
        np.testing.assert_array_equal(to_matrix(both[group]), to_matrix(P[group]) @ to_matrix(Q[group]))
        assert both[group].dtype == jnp.int32


@algebra
@given(sizes, seeds)
def test_group_laws(size, seed):
    P, Q, R = (drawn(*size, seed + i) for i in range(3))
    identity = identity_permutation(SPEC, variables(*size))
    assert_same(compose(P, compose(Q, R)), compose(compose(P, Q), R))
    assert_same(compose(P, identity), P)
    assert_same(compose(identity, P), P)
    assert_same(compose(P, invert(P)), identity)
    assert_same(compose(invert(P), P), identity)
    assert_same(invert(invert(P)), P)
    assert_same(invert(compose(P, Q)), compose(invert(Q), invert(P)))


@algebra
@given(sizes, seeds)
def test_soft_algebra_is_that_of_matrices(size, seed):
    P, Q = drawn(*size, seed), drawn(*size, seed + 1)
    soft = {group: np.random.default_rng(seed).random((len(p), len(p))).astype(np.float32) for group, p in P.items()}
    for group, p in P.items():
        np.testing.assert_array_equal(invert(soft)[group], soft[group].T)
        np.testing.assert_allclose(compose(P, soft)[group], soft[group][p], rtol=1e-6)
        np.testing.assert_allclose(compose(soft, Q)[group], soft[group] @ np.eye(len(p))[Q[group]], rtol=1e-6)
        np.testing.assert_allclose(compose(soft, soft)[group], soft[group] @ soft[group], rtol=1e-5)


def test_soft_contracts_with_the_second_index():
    theta, n = variables(4, 3), 4
    M = np.random.default_rng(1).random((n, n)).astype(np.float32)
    result = permute(SPEC, {"g": M, "h": np.arange(3)}, theta)
    np.testing.assert_allclose(result["plain"], np.einsum("ij,jkl->ikl", M, theta["plain"]), rtol=1e-5)
    np.testing.assert_allclose(result["twice"], M @ theta["twice"] @ M.T, rtol=1e-5)
    both = np.einsum("ij,ajb->aib", M, theta["both"].reshape(2, n, 2)).ravel()
    np.testing.assert_allclose(result["both"], both, rtol=1e-5)


def test_one_unit_of_a_known_permutation():
    spec = PermutationSpec({"w": ("g",)})
    moved = permute(spec, {"g": np.array([2, 0, 1])}, {"w": np.array([10.0, 11.0, 12.0])})
    np.testing.assert_array_equal(moved["w"], [12, 10, 11])


def test_dtypes_stay():
    spec = PermutationSpec({"a": ("g",), "b": ("g",)})
    theta = {"a": jnp.arange(3, dtype=jnp.bfloat16), "b": jnp.arange(3, dtype=jnp.int32)}
    for P in ({"g": np.array([1, 2, 0])}, {"g": np.eye(3, dtype=np.float32)[[1, 2, 0]]}):
        moved = permute(spec, P, theta)
        assert {name: leaf.dtype for name, leaf in moved.items()} == {"a": jnp.bfloat16, "b": jnp.int32}
        np.testing.assert_array_equal(moved["a"].astype(np.float32), [1, 2, 0])
        np.testing.assert_array_equal(moved["b"], [1, 2, 0])


def stack(each):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def both_ways(P, Q):
    return compose(P, Q), invert(P)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_the_same_under_jit_and_vmap(soft):
    Ps, thetas = [drawn(5, 4, i) for i in range(3)], [variables(5, 4, i) for i in range(3)]
    if soft:
        Ps = [{group: np.asarray(to_matrix(p)) for group, p in P.items()} for P in Ps]
    expected = [permute(SPEC, P, theta) for P, theta in zip(Ps, thetas, strict=True)]
    many = jax.jit(jax.vmap(permute, in_axes=(None, 0, 0)))
    assert_same(permuted(SPEC, Ps[0], thetas[0]), expected[0], rtol=1e-6)
    assert_same(many(SPEC, stack(Ps), stack(thetas)), stack(expected), rtol=1e-6)
    together = stack([both_ways(P, Ps[0]) for P in Ps])
    assert_same(jax.vmap(both_ways, in_axes=(0, None))(stack(Ps), Ps[0]), together, rtol=1e-6)
    assert_same(jax.jit(both_ways)(Ps[1], Ps[0]), both_ways(Ps[1], Ps[0]), rtol=1e-6)


def test_permute_is_differentiable_in_a_soft_p():
    theta, P = variables(3, 2), {"g": np.eye(3, dtype=np.float32), "h": np.eye(2, dtype=np.float32)}
    grad = jax.jit(jax.grad(lambda P: (permute(SPEC, P, theta)["outer"] ** 2).sum()))(P)
    # d/dM of |M X N'|^2 at M = N = 1 is 2 X X' and 2 X' X, X summed over its outer copies.
    copies = theta["outer"].reshape(2, 3, 2)
    np.testing.assert_allclose(grad["g"], 2 * sum(x @ x.T for x in copies), rtol=1e-5)
    np.testing.assert_allclose(grad["h"], 2 * sum(x.T @ x for x in copies), rtol=1e-5)


def test_random_permutations_are_permutations_drawn_anew(key):
    theta = variables(40, 30)
    P, again, other = (random_permutation(k, SPEC, theta) for k in (key, key, jax.random.key(1)))
    assert {group: len(p) for group, p in P.items()} == {"g": 40, "h": 30}
    for group, p in P.items():
        assert p.dtype == jnp.int32
        np.testing.assert_array_equal(np.sort(p), np.arange(len(p)))
        np.testing.assert_array_equal(p, again[group])
        assert (p != other[group]).any()
    assert (np.asarray(P["g"])[:30] != np.asarray(P["h"])).any()


def test_random_permutations_are_uniform():
    spec, theta = PermutationSpec({"w": ("g",)}), {"w": np.zeros(3)}
    draw = jax.vmap(lambda k: random_permutation(k, spec, theta)["g"])
    _, counts = np.unique(np.asarray(draw(jax.random.split(jax.random.key(0), 1200))), axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 200) ** 2 / 200).sum() < 20.5  # the 0.1% point of chi-squared with 5 degrees of freedom


def test_a_spec_without_groups_moves_nothing(key):
    spec, theta = PermutationSpec({"w": (None,)}), {"w": np.arange(3.0)}
    assert random_permutation(key, spec, theta) == identity_permutation(spec, theta) == {}
    np.testing.assert_array_equal(permute(spec, {}, theta)["w"], theta["w"])


G, H = np.arange(4), np.arange(3)


@pytest.mark.parametrize(
    ("P", "message"),
    [
        ({"g": G}, r"P is for another spec: got groups \['g'\], expected \['g', 'h'\]"),
        ({"g": G, "h": H, "k": H}, r"P is for another spec: got groups \['g', 'h', 'k'\]"),
        ({"g": G, "h": np.arange(4)}, r"h: got shape \(4,\), expected \(3,\)"),
        ({"g": G, "h": np.array([0, 2, 2])}, r"h: not a permutation of 0\.\.2; repeated \[2\]"),
        ({"g": G, "h": np.array([0, 1, 3])}, r"h: not a permutation of 0\.\.2"),
        ({"g": G, "h": np.array([0, 1, -1])}, r"h: not a permutation of 0\.\.2"),
        ({"g": np.eye(3), "h": H}, r"g: got shape \(3, 3\), expected \(4, 4\) or int32 \(4,\)"),
        ({"g": np.arange(4.0), "h": H}, r"g: got shape \(4,\), expected \(4, 4\) or int32 \(4,\)"),
    ],
)
def test_a_p_that_does_not_fit_is_refused(P, message):
    with pytest.raises(SpecError, match=message):
        permute(SPEC, P, variables(4, 3))


def test_every_wrong_group_is_named():
    with pytest.raises(SpecError, match=r"(?s)g: got shape.*h: not a permutation"):
        permute(SPEC, {"g": H, "h": np.zeros(3, np.int32)}, variables(4, 3))


def test_what_does_not_fit_the_spec_is_refused(key):
    theta = variables(4, 3)
    theta["extra"] = theta.pop("fixed")
    for call in (
        lambda: permute(SPEC, {"g": G, "h": H}, theta),
        lambda: identity_permutation(SPEC, theta),
        lambda: random_permutation(key, SPEC, theta),
    ):
        with pytest.raises(SpecError, match=r"(?s)extra: in the variables.*fixed: in the spec"):
            call()
    with pytest.raises(SpecError, match=r"cannot compose: got groups \['g'\] and \['h'\]"):
        compose({"g": G}, {"h": H})


@pytest.mark.parametrize("group", ["conv_0", "Block_0/inner"])
def test_saved_permutations_come_back(tmp_path, group):
    P = {group: np.array([1, 2, 0], np.int32), "soft": np.eye(2, dtype=np.float32)}
    save_permutation(tmp_path / "P.npz", P)
    again = load_permutation(tmp_path / "P.npz")
    assert again.keys() == P.keys()
    for name, p in P.items():
        np.testing.assert_array_equal(again[name], p)
        assert again[name].dtype == p.dtype


def spoil(path, kind):
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_bytes(b"hello")
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, np.arange(3))
    elif kind == "pickled":
        np.savez(path, g=np.array([None, 1], object))
    elif kind == "absent":
        path.unlink()


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "one array", "pickled", "absent"])
def test_what_is_no_saved_permutation_is_refused(tmp_path, kind):
    path = tmp_path / "P.npz"
    save_permutation(path, {"g": np.arange(50)})
    spoil(path, kind)
    with pytest.raises(SpecError, match=r"no permutation at .*P\.npz"):
        load_permutation(path)


def test_compose_and_invert_over_a_leading_pair_axis():
    rng = np.random.default_rng(0)
    P, Q = ({"a": jnp.asarray(rng.permuted(np.tile(np.arange(7), (3, 1)), axis=1))} for _ in range(2))
    together = compose(P, Q)["a"]
    assert together.shape == (3, 7)
    for i in range(3):
        np.testing.assert_array_equal(together[i], Q["a"][i][P["a"][i]])
    np.testing.assert_array_equal(compose(P, invert(P))["a"], np.tile(np.arange(7), (3, 1)))


def test_an_npz_of_something_else_is_no_permutation(tmp_path):
    np.savez(tmp_path / "data.npz", train_images=np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(SpecError, match=r"'train_images' is uint8 of shape \(2, 8, 8, 1\)"):
        load_permutation(tmp_path / "data.npz")


def qkv(first, last):
    # Segments of 12, each of 3 heads of 4 units.
    return tuple(
        axis
        for start in range(first, last, 12)
        for axis in (
            Axis("h", inner=4, start=start, stop=start + 12),
            Axis("u", outer=3, start=start, stop=start + 12),
        )
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
SEVERAL_SHAPES = {
    "factors": (12, 2),
    "with more": (24, 10),
    "fused": (2, 46),
    "fused bias": (36,),
    "segments": (9, 4),
    "other lengths": (21,),
    "backwards": (11,),
    "one": (9, 13),
}
SEVERAL_SIZES = {"h": 3, "u": 4, "w": 10}


def several(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SEVERAL_SHAPES.items()}


def drawn_for(sizes, seed):
    rng = np.random.default_rng(seed)
    return {group: rng.permutation(n).astype(np.int32) for group, n in sizes.items()}


def doubly_stochastic(sizes, seed):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(4))
    return {
        group: sum(w * np.eye(n)[rng.permutation(n)] for w in weights).astype(np.float32) for group, n in sizes.items()
    }


def along_the_axis(axis, length, M):
    # The matrix of one group's permutation on a whole axis.
    whole, n = np.eye(length), len(M)
    for o, k in product(range(axis.outer), range(axis.inner)):
        for i, j in product(range(n), range(n)):
            row, column = (axis.start + (o * n + unit) * axis.inner + k for unit in (i, j))
            whole[row, column] = M[i, j]
    return whole


def mixed_by_einsum(spec, P, theta):
    result = dict(theta)
    for name, entries in spec.axes.items():
        for position, entry in enumerate(entries):
            for axis in [] if entry is None else [entry] if isinstance(entry, Axis) else entry:
                M = P[axis.group] if P[axis.group].ndim == 2 else np.eye(len(P[axis.group]))[P[axis.group]]
                leaf = np.moveaxis(result[name], position, 0)
                leaf = np.einsum("ij,j...->i...", along_the_axis(axis, len(leaf), M), leaf)
                result[name] = np.moveaxis(leaf, 0, position)
    return result


def segments_by_loop(spec, P, theta):
    result = {name: leaf.copy() for name, leaf in theta.items()}
    for name, entries in spec.axes.items():
        for position, entry in enumerate(entries):
            for axis in [] if entry is None else [entry] if isinstance(entry, Axis) else entry:
                p = P[axis.group]
                stop = axis.start + axis.outer * len(p) * axis.inner
                leaf = np.moveaxis(result[name], position, 0)  # a view: what is written arrives in the result
                leaf[axis.start : stop] = by_loop(axis, 0, leaf[axis.start : stop], p)
    return result


@algebra
@given(seeds)
def test_several_groups_on_an_axis_are_the_plain_loop(seed):
    P, theta = drawn_for(SEVERAL_SIZES, seed), several(seed)
    assert SEVERAL.group_sizes(theta) == SEVERAL_SIZES
    result = permuted(SEVERAL, P, theta)
    assert_same(result, segments_by_loop(SEVERAL, P, theta))
    soft = {group: np.asarray(to_matrix(p)) for group, p in P.items()}
    assert_same(permuted(SEVERAL, soft, theta), result, rtol=1e-6)
    assert_same(permuted(SEVERAL, {**P, "u": soft["u"]}, theta), result, rtol=1e-6)


def test_the_identity_moves_no_segment():
    theta = several()
    assert_same(permuted(SEVERAL, identity_permutation(SEVERAL, theta), theta), theta)


@algebra
@given(seeds)
def test_soft_on_several_groups_is_einsum(seed):
    P, theta = doubly_stochastic(SEVERAL_SIZES, seed), several(seed)
    assert_same(permuted(SEVERAL, P, theta), mixed_by_einsum(SEVERAL, P, theta), rtol=2e-5)


@algebra
@given(seeds)
def test_several_groups_composed_and_inverted(seed):
    P, Q = drawn_for(SEVERAL_SIZES, seed), drawn_for(SEVERAL_SIZES, seed + 1)
    theta = several(seed)
    assert_same(permuted(SEVERAL, compose(P, Q), theta), permuted(SEVERAL, P, permuted(SEVERAL, Q, theta)))
    assert_same(permuted(SEVERAL, invert(P), permuted(SEVERAL, P, theta)), theta)


@pytest.mark.parametrize("drawing", [drawn_for, doubly_stochastic], ids=["hard", "soft"])
def test_several_groups_under_jit_and_vmap(drawing):
    Ps, thetas = [drawing(SEVERAL_SIZES, i) for i in range(3)], [several(i) for i in range(3)]
    expected = stack([mixed_by_einsum(SEVERAL, P, theta) for P, theta in zip(Ps, thetas, strict=True)])
    many = jax.jit(jax.vmap(permute, in_axes=(None, 0, 0)))
    assert_same(many(SEVERAL, stack(Ps), stack(thetas)), expected, rtol=2e-5)
    one_theta = jax.jit(jax.vmap(permute, in_axes=(None, 0, None)))(SEVERAL, stack(Ps), thetas[0])
    for i, P in enumerate(Ps):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], one_theta)
        assert_same(alone, mixed_by_einsum(SEVERAL, P, thetas[0]), rtol=2e-5)


def test_heads_and_units_of_a_known_permutation():
    spec = PermutationSpec({"w": ((Axis("h", inner=2), Axis("u", outer=3)),)})
    moved = permute(spec, {"h": np.array([2, 0, 1]), "u": np.array([1, 0])}, {"w": np.arange(6)})
    np.testing.assert_array_equal(moved["w"], [5, 4, 1, 0, 3, 2])


def test_segments_of_a_known_permutation():
    spec = PermutationSpec({"w": ((Axis("g", start=1, stop=4), Axis("g", inner=2, start=5)),)})
    moved = permute(spec, {"g": np.array([2, 0, 1])}, {"w": np.arange(11)})
    np.testing.assert_array_equal(moved["w"], [0, 3, 1, 2, 4, 9, 10, 5, 6, 7, 8])


@pytest.mark.parametrize("p", [np.array([1, 2, 0]), doubly_stochastic({"g": 3}, 1)["g"]], ids=["hard", "soft"])
@pytest.mark.parametrize(
    "entry",
    [
        (Axis("g", inner=3), Axis("g", outer=3)),
        (Axis("g", outer=3), Axis("g", inner=3)),
        (Axis("g", inner=3, stop=9), Axis("g", outer=3, stop=9), Axis("g", start=9)),
        (Axis("g", inner=3, stop=9), Axis("g", start=9), Axis("g", outer=3, stop=9)),
    ],
    ids=["slow and fast", "fast and slow", "then a segment", "around a segment"],
)
def test_one_group_on_both_factors_of_an_axis(entry, p):
    # The products y_i * y_j of all units, flattened, and perhaps the units themselves after them.
    M = np.asarray(to_matrix(p))
    n = 9 if len(entry) == 2 else 12
    whole = np.zeros((12, 12), np.float32)
    whole[:9, :9], whole[9:, 9:] = np.kron(M, M), M
    spec, theta = PermutationSpec({"w": (entry, None)}), {"w": np.arange(2 * n, dtype=np.float32).reshape(n, 2)}
    np.testing.assert_allclose(permute(spec, {"g": p}, theta)["w"], whole[:n, :n] @ theta["w"], rtol=1e-5)


def test_dtypes_stay_in_segments():
    spec = PermutationSpec({name: ((Axis("g", stop=3), Axis("g", start=3)),) for name in "ab"})
    theta = {"a": jnp.arange(6, dtype=jnp.bfloat16), "b": jnp.arange(6, dtype=jnp.int32)}
    for P in ({"g": np.array([1, 2, 0])}, {"g": np.eye(3, dtype=np.float32)[[1, 2, 0]]}):
        moved = permute(spec, P, theta)
        assert {name: leaf.dtype for name, leaf in moved.items()} == {"a": jnp.bfloat16, "b": jnp.int32}
        np.testing.assert_array_equal(moved["a"].astype(np.float32), [1, 2, 0, 4, 5, 3])


def test_permute_of_segments_is_differentiable_in_a_soft_p():
    spec = PermutationSpec({"w": ((Axis("g", stop=3), Axis("g", inner=2, start=4)),)})
    w = np.arange(10, dtype=np.float32)
    grad = jax.grad(lambda M: (permute(spec, {"g": M}, {"w": w})["w"] ** 2).sum())(np.eye(3, dtype=np.float32))
    copies = [w[:3], w[4::2], w[5::2]]
    np.testing.assert_allclose(grad, 2 * sum(np.outer(copy, copy) for copy in copies), rtol=1e-5)


def near_uniform(off=0.0, least=0.25):
    """4x4, its least entry as given, its first row's and first column's sums off by so much."""
    M = np.full((4, 4), 0.25)
    M[1:3, 1:3] += (0.25 - least) * np.array([[1, -1], [-1, 1]])
    M[0, 0] += off
    return M


@pytest.mark.parametrize(
    "p",
    [
        near_uniform(),
        near_uniform(off=9e-4),
        near_uniform(off=-9e-4),
        near_uniform(least=-0.09),
        np.eye(4, dtype=np.float32)[[2, 0, 1, 3]],
        np.stack([near_uniform(), np.eye(4)]),
        np.array([0, 0, 7]),  # hard ones are another check's
        np.array([[1, 0, 2], [2, 1, 0]]),
    ],
)
def test_doubly_stochastic_is_what_is_nearly_so(p):
    check_doubly_stochastic({"g": p, "h": jnp.eye(3)})


def test_what_is_projected_is_doubly_stochastic():
    M = np.random.default_rng(0).normal(size=(50, 16, 16)).astype(np.float32)
    check_doubly_stochastic({"g": project_birkhoff(M)})
    with pytest.raises(SpecError, match=r"mcjax\.project_birkhoff makes them so"):
        check_doubly_stochastic({"g": M})


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (near_uniform(off=0.0011), r"g: sums off by 0\.0011, "),
        (near_uniform(off=-0.2), r"g: sums off by 0\.2, "),
        (near_uniform(least=-0.11), r"g: sums off by 0, least entry -0\.11"),
        (np.stack([near_uniform(), 2 * near_uniform()]), r"g: sums off by 1, "),
        (np.eye(4)[[0, 0, 1, 2]], r"g: sums off by 1, "),
        (np.full((4, 4), np.nan), r"g: sums off by nan"),
        (np.full((4, 4), np.inf), r"g: sums off by inf"),
    ],
)
def test_what_is_not_doubly_stochastic_is_named(p, message):
    with pytest.raises(SpecError, match=message) as error:
        check_doubly_stochastic({"good": np.eye(3), "g": p})
    assert "good" not in str(error.value)


def test_rows_and_columns_are_both_summed():
    rows = np.array([[0.5, 0.5], [0.9, 0.1]])
    for p in (rows, rows.T):
        with pytest.raises(SpecError, match=r"g: sums off by 0\.4"):
            check_doubly_stochastic({"g": p})
    with pytest.raises(SpecError, match=r"(?s)a: sums off.*b: sums off"):
        check_doubly_stochastic({"a": rows, "b": rows.T})


def test_a_traced_p_is_not_looked_into():
    @jax.jit
    def unchecked(p):
        check_doubly_stochastic({"g": p})
        return p.sum()

    assert unchecked(jnp.ones((3, 3))) == 9
