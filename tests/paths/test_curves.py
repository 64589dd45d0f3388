"""Curves against de Casteljau's construction and linear interpolation between knots."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import InputError, bezier, linear, permute, polygonal_chain, random_permutation, trees
from mcjax.symmetry import to_matrix


@pytest.fixture
def ends(key, tiny_model):
    keys = jax.random.split(key, 3)
    theta_1, theta_2 = (tiny_model.init(k) for k in keys[:2])
    return theta_1, theta_2, random_permutation(keys[2], tiny_model.spec, theta_1)


def deviations(key, theta, points):
    many = () if points == 1 else (points,)
    return trees.map_with_name(lambda name, leaf: jax.random.normal(key, (*many, *leaf.shape)), theta)


def knots(theta_1, end, theta_c, points):
    """The control points themselves: deviations added to the straight line at equal steps."""
    line = [jax.tree.map(lambda a, b, s=j / (points + 1): (1 - s) * a + s * b, theta_1, end) for j in range(points + 2)]
    inner = [theta_c] if points == 1 else [trees.index(theta_c, j) for j in range(points)]
    return [line[0], *(trees.add(line[j + 1], c) for j, c in enumerate(inner)), line[-1]]


def de_casteljau(points, t):
    while len(points) > 1:
        points = [jax.tree.map(lambda a, b: (1 - t) * a + t * b, p, q) for p, q in pairwise(points)]
    return points[0]


def along_chain(points, t):
    at = t * (len(points) - 1)
    i = min(int(at), len(points) - 2)
    return jax.tree.map(lambda a, b: (1 - (at - i)) * a + (at - i) * b, points[i], points[i + 1])


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-5, **tolerance}), a, b)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("points", [1, 2, 3, 5])
@pytest.mark.parametrize(("family", "oracle"), [("bezier", de_casteljau), ("chain", along_chain)])
def test_curves_against_their_construction(ends, key, tiny_model, family, oracle, points, t):
    theta_1, theta_2, P = ends
    curve = bezier(tiny_model.spec, points + 1) if family == "bezier" else polygonal_chain(tiny_model.spec, points)
    theta_c = deviations(key, theta_1, points)
    expected = oracle(knots(theta_1, permute(tiny_model.spec, P, theta_2), theta_c, points), t)
    close(curve(theta_1, theta_2, theta_c, P, t), expected)


def test_the_quadratic_bezier_is_equation_8(ends, key, tiny_model):
    theta_1, theta_2, P = ends
    theta_c, t = deviations(key, theta_1, 1), 0.3
    expected = jax.tree.map(
        lambda a, b, c: (1 - t) ** 2 * a + 2 * (1 - t) * t * ((a + b) / 2 + c) + t**2 * b,
        theta_1, permute(tiny_model.spec, P, theta_2), theta_c,
    )  # fmt: skip
    close(bezier(tiny_model.spec)(theta_1, theta_2, theta_c, P, t), expected)


CURVES = [linear, bezier, lambda spec: bezier(spec, 4), polygonal_chain, lambda spec: polygonal_chain(spec, 3)]


@pytest.mark.parametrize("make", CURVES)
def test_ends_are_exact_and_zero_is_the_line(ends, key, tiny_model, make):
    theta_1, theta_2, P = ends
    curve = make(tiny_model.spec)
    end = permute(tiny_model.spec, P, theta_2)
    theta_c = deviations(key, theta_1, curve.control_points) if curve.control_points else None
    jax.tree.map(np.testing.assert_array_equal, curve(theta_1, theta_2, theta_c, P, 0.0), theta_1)
    jax.tree.map(np.testing.assert_array_equal, curve(theta_1, theta_2, theta_c, P, 1.0), end)
    line = jax.tree.map(lambda a, b: 0.6 * a + 0.4 * b, theta_1, end)
    for zero in (None, curve.zero(theta_1)):
        close(curve(theta_1, theta_2, zero, P, 0.4), line)


def test_soft_permutations_and_the_identity(ends, tiny_model):
    theta_1, theta_2, P = ends
    curve = bezier(tiny_model.spec)
    soft = {group: to_matrix(p) for group, p in P.items()}
    close(curve(theta_1, theta_2, None, soft, 0.6), curve(theta_1, theta_2, None, P, 0.6))
    identity = {group: jnp.arange(len(p)) for group, p in P.items()}
    close(curve(theta_1, theta_2, None, identity, 0.6), curve(theta_1, theta_2, None, None, 0.6), rtol=0, atol=0)


@pytest.mark.parametrize("make", CURVES)
def test_jit_vmap_and_grad(ends, key, tiny_model, make):
    theta_1, theta_2, P = ends
    curve = make(tiny_model.spec)
    path = curve.bind(theta_1, theta_2, None, P)
    ts = jnp.array([0.0, 0.25, 1.0])
    many = jax.jit(jax.vmap(path))(ts)
    for i, t in enumerate(ts):
        close(trees.index(many, i), path(t))
    if curve.control_points:
        theta_c = curve.zero(theta_1)
        slope = jax.grad(lambda c: trees.dot(theta_1, curve(theta_1, theta_2, c, P, 0.25)))(theta_c)
        weight = curve.weights(0.25)
        assert 0 < float(weight.sum()) <= 1
        expected = jax.tree.map(lambda leaf: weight[0] * leaf, theta_1)
        close(slope if curve.control_points == 1 else trees.index(slope, 0), expected)
    moved = jax.jacfwd(path)(0.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moved))


def test_paths_of_one_kind_share_a_trace(ends, tiny_model):
    theta_1, theta_2, P = ends
    traces = []

    @jax.jit
    def middle(path):
        traces.append(1)
        return path(0.5)

    middle(bezier(tiny_model.spec).bind(theta_1, theta_2, None, P))
    middle(bezier(tiny_model.spec).bind(theta_2, theta_1, None, P))
    assert len(traces) == 1


def test_paths_of_many_pairs(ends, key, tiny_model):
    theta_1, theta_2, P = ends
    curve = bezier(tiny_model.spec, 3)
    theta_c = deviations(key, theta_1, 2)
    pairs = trees.stack([(theta_1, theta_2, theta_c, P), (theta_2, theta_1, theta_c, P)])
    both = curve.bind_pairs(*pairs)(0.3)
    close(trees.index(both, 0), curve(theta_1, theta_2, theta_c, P, 0.3))
    close(trees.index(both, 1), curve(theta_2, theta_1, theta_c, P, 0.3))


@pytest.mark.parametrize("t", [-0.01, 1.5, np.float32(2), np.nan])
def test_t_outside_is_refused(ends, tiny_model, t):
    theta_1, theta_2, P = ends
    with pytest.raises(InputError, match=r"expected it in \[0, 1\]"):
        linear(tiny_model.spec)(theta_1, theta_2, None, P, t)


def test_curves_that_do_not_exist(tiny_model):
    with pytest.raises(InputError, match="degree=0"):
        bezier(tiny_model.spec, 0)
    theta = tiny_model.init(jax.random.key(0))
    chain = polygonal_chain(tiny_model.spec, 2)
    with pytest.raises(InputError, match="not for this curve of 2 control points"):
        chain(theta, theta, theta, None, 0.5)
    with pytest.raises(InputError, match="bends=-1"):
        polygonal_chain(tiny_model.spec, -1)
