"""Curves against de Casteljau's construction and linear interpolation between knots."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from variables import drawn

from mcjax import InputError, PermutationSpec, bezier, linear, permute, polygonal_chain, trees
from mcjax.curves import Curve


@pytest.fixture(scope="module")
def ends(tiny_model):
    """theta_1, theta_2 and P, on the host, so that nothing is compiled but what is tested."""
    rng = np.random.default_rng(0)
    theta_1, theta_2 = (jax.tree.map(np.float32, drawn(tiny_model, seed)) for seed in (0, 1))
    sizes = tiny_model.spec.group_sizes(theta_1)
    return theta_1, theta_2, {group: rng.permutation(n).astype(np.int32) for group, n in sizes.items()}


def deviations(theta, points):
    rng, many = np.random.default_rng(1), () if points == 1 else (points,)
    return jax.tree.map(lambda leaf: rng.normal(size=(*many, *leaf.shape)).astype(np.float32), theta)


def moved(spec, P, theta):
    return jax.tree.map(np.asarray, permute(spec, P, theta))


def knots(theta_1, end, theta_c, points):
    """The control points themselves: deviations added to the straight line at equal steps."""
    line = [jax.tree.map(lambda a, b, s=j / (points + 1): (1 - s) * a + s * b, theta_1, end) for j in range(points + 2)]
    inner = [theta_c] if points == 1 else [trees.index(theta_c, j) for j in range(points)]
    return [line[0], *(jax.tree.map(np.add, line[j + 1], c) for j, c in enumerate(inner)), line[-1]]


def de_casteljau(points, t):
    while len(points) > 1:
        points = [jax.tree.map(lambda a, b: (1 - t) * a + t * b, p, q) for p, q in pairwise(points)]
    return points[0]


def along_chain(points, t):
    at = t * (len(points) - 1)
    i = min(int(at), len(points) - 2)
    return jax.tree.map(lambda a, b: (1 - (at - i)) * a + (at - i) * b, points[i], points[i + 1])


def close(a, b, rtol=1e-5, atol=1e-5):
    chex.assert_trees_all_close(jax.tree.map(np.asarray, a), jax.tree.map(np.asarray, b), rtol=rtol, atol=atol)


@pytest.mark.parametrize("points", [1, 2, 3, 5])
@pytest.mark.parametrize(("family", "oracle"), [("bezier", de_casteljau), ("chain", along_chain)])
def test_curves_against_their_construction(ends, tiny_model, family, oracle, points):
    theta_1, theta_2, P = ends
    curve = bezier(tiny_model.spec, points + 1) if family == "bezier" else polygonal_chain(tiny_model.spec, points)
    theta_c = deviations(theta_1, points)
    points_of_path = knots(theta_1, moved(tiny_model.spec, P, theta_2), theta_c, points)
    for t in (0.0, 0.2, 0.5, 0.77, 1.0):
        close(curve(theta_1, theta_2, theta_c, P, t), oracle(points_of_path, t))


def test_the_quadratic_bezier_is_equation_8(ends, tiny_model):
    theta_1, theta_2, P = ends
    theta_c, t = deviations(theta_1, 1), 0.3
    expected = jax.tree.map(
        lambda a, b, c: (1 - t) ** 2 * a + 2 * (1 - t) * t * ((a + b) / 2 + c) + t**2 * b,
        theta_1, moved(tiny_model.spec, P, theta_2), theta_c,
    )  # fmt: skip
    close(bezier(tiny_model.spec)(theta_1, theta_2, theta_c, P, t), expected)


CURVES = [linear, bezier, lambda spec: bezier(spec, 4), polygonal_chain, lambda spec: polygonal_chain(spec, 3)]


@pytest.mark.parametrize("make", CURVES)
def test_ends_are_exact_and_zero_is_the_line(ends, tiny_model, make):
    theta_1, theta_2, P = ends
    curve = make(tiny_model.spec)
    end = moved(tiny_model.spec, P, theta_2)
    theta_c = deviations(theta_1, curve.control_points) if curve.control_points else None
    chex.assert_trees_all_equal(curve(theta_1, theta_2, theta_c, P, 0.0), theta_1)
    chex.assert_trees_all_equal(curve(theta_1, theta_2, theta_c, P, 1.0), end)
    line = jax.tree.map(lambda a, b: 0.6 * a + 0.4 * b, theta_1, end)
    for zero in (None, curve.zero(theta_1)):
        close(curve(theta_1, theta_2, zero, P, 0.4), line)


def test_soft_permutations_and_the_identity(ends, tiny_model):
    theta_1, theta_2, P = ends
    curve = bezier(tiny_model.spec)
    soft = {group: np.eye(len(p), dtype=np.float32)[p] for group, p in P.items()}
    close(curve(theta_1, theta_2, None, soft, 0.6), curve(theta_1, theta_2, None, P, 0.6))
    identity = {group: np.arange(len(p), dtype=np.int32) for group, p in P.items()}
    close(curve(theta_1, theta_2, None, identity, 0.6), curve(theta_1, theta_2, None, None, 0.6), rtol=0, atol=0)


@pytest.mark.parametrize("make", CURVES)
def test_jit_vmap_and_grad(ends, tiny_model, make):
    theta_1, theta_2, P = ends
    curve = make(tiny_model.spec)
    path = curve.bind(theta_1, theta_2, None, P)
    ts = (0.0, 0.25, 1.0)
    many = jax.tree.map(np.asarray, jax.jit(jax.vmap(path))(np.float32(ts)))
    for i, t in enumerate(ts):
        close(trees.index(many, i), path(t))
    if curve.control_points:
        theta_c = curve.zero(theta_1)
        slope = jax.jit(jax.grad(lambda c: trees.dot(theta_1, curve(theta_1, theta_2, c, P, 0.25))))(theta_c)
        weight = np.asarray(curve.weights(0.25))
        assert 0 < float(weight.sum()) <= 1
        expected = jax.tree.map(lambda leaf: weight[0] * leaf, theta_1)
        close(slope if curve.control_points == 1 else trees.index(slope, 0), expected)
    tangents = jax.jit(jax.jacfwd(path))(0.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tangents))


def test_paths_of_one_kind_share_a_trace(ends, tiny_model):
    theta_1, theta_2, P = ends
    middle = jax.jit(chex.assert_max_traces(lambda path: path(0.5), n=1))
    middle(bezier(tiny_model.spec).bind(theta_1, theta_2, None, P))
    middle(bezier(tiny_model.spec).bind(theta_2, theta_1, None, P))


def test_paths_of_many_pairs(ends, tiny_model):
    theta_1, theta_2, P = ends
    curve = bezier(tiny_model.spec, 3)
    theta_c = deviations(theta_1, 2)
    pairs = ((theta_1, theta_2, theta_c, P), (theta_2, theta_1, theta_c, P))
    both = curve.bind_pairs(*jax.tree.map(lambda *leaves: np.stack(leaves), *pairs))(0.3)
    for i, pair in enumerate(pairs):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], both), curve(*pair, 0.3))


def test_bad_arguments_are_refused(ends, tiny_model):
    theta_1, theta_2, P = ends
    for t in (-0.01, 1.5, np.float32(2), np.nan):
        with says(InputError, f"t={t}", "[0, 1]"):
            linear(tiny_model.spec)(theta_1, theta_2, None, P, t)
    with says(InputError, "degree=0"):
        bezier(tiny_model.spec, 0)
    with says(InputError, "2 control points"):
        polygonal_chain(tiny_model.spec, 2)(theta_1, theta_1, theta_1, None, 0.5)
    with says(InputError, "bends=-1"):
        polygonal_chain(tiny_model.spec, -1)


def test_a_curve_is_of_a_spec(tiny_model):
    for wrong in (None, tiny_model):
        with says(InputError, type(wrong).__name__, "PermutationSpec"):
            bezier(wrong)
    with says(InputError, "'polygon'", "bezier, chain"):
        Curve(tiny_model.spec, "polygon", 1)


def test_control_points_have_the_precision_of_the_network(spec_of_a_vector):
    with jax.enable_x64(True):
        double = bezier(spec_of_a_vector).zero({"w": jnp.zeros(3, jnp.float64)})["w"].dtype
    half = bezier(spec_of_a_vector).zero({"w": jnp.zeros(3, jnp.bfloat16)})["w"].dtype
    assert (double, half) == (jnp.float64, jnp.float32)


@pytest.fixture
def spec_of_a_vector():
    return PermutationSpec({"w": (None,)})
