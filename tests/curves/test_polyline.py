"""The path through knots against numpy's interpolation."""

import chex
import jax
import numpy as np
import pytest
from refusals import says

from mcjax import InputError, trees
from mcjax.curves import Polyline
from mcjax.curves.polyline import values_on_segments
from mcjax.landscape import arc_length, normalized_length


def drawn(count):
    rng = np.random.default_rng(count)
    return {
        "params": {"a": rng.normal(size=(count, 3, 2)).astype(np.float32), "b": rng.normal(size=(count, 4))},
        "batch_stats": {"mean": rng.normal(size=(count, 5)).astype(np.float32)},
    }


def flat(theta):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(theta)])


def test_distances_are_of_parameters_alone():
    knots = drawn(5)
    points = np.stack([flat(trees.index(knots["params"], i)) for i in range(5)])
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    np.testing.assert_allclose(Polyline(knots).distances, steps, rtol=1e-12)
    np.testing.assert_allclose(Polyline(knots).length, steps.sum(), rtol=1e-12)


def test_the_path_passes_the_knots_in_proportion_to_its_length():
    knots = drawn(6)
    path, steps = Polyline(knots).path, Polyline(knots).distances
    at = np.concatenate([[0], np.cumsum(steps) / steps.sum()])
    np.testing.assert_allclose(Polyline(knots).ts, at, rtol=1e-6)
    points = np.stack([flat(trees.index(knots, i)) for i in range(6)])
    ts = np.linspace(0, 1, 23)
    expected = np.stack([np.interp(ts, at, column) for column in points.T], 1)
    got = jax.jit(lambda path, ts: jax.vmap(path)(ts))(path, ts.astype(np.float32))
    got = jax.tree.map(np.asarray, got)
    got = np.stack([flat(trees.index(got, i)) for i in range(23)])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    # A step of t is as long everywhere.
    np.testing.assert_allclose(arc_length(path, at[1:4].astype(np.float32)), steps[1:3].sum(), rtol=1e-5)


def test_the_ends_are_exact():
    knots = jax.tree.map(np.float32, drawn(4))
    path = Polyline(knots).path
    for t, i in ((0.0, 0), (1.0, 3)):
        chex.assert_trees_all_equal(path(t), trees.index(knots, i))


def test_two_knots_are_a_straight_line():
    assert float(normalized_length(Polyline(drawn(2)).path, np.array([0.0, 1.0]))) == 1.0


def test_knots_that_coincide():
    one = trees.index(jax.tree.map(np.float32, drawn(2)), 0)
    same = Polyline(jax.tree.map(lambda leaf: np.stack([leaf] * 3), one)).path
    assert np.isfinite(flat(same(0.3))).all()
    twice = jax.tree.map(lambda leaf: leaf[np.array([0, 1, 1, 2])], drawn(3))
    for t in np.linspace(0, 1, 7, dtype=np.float32):
        expected, got = Polyline(drawn(3)).path(t), Polyline(twice).path(t)
        np.testing.assert_allclose(flat(got), flat(expected), atol=1e-5)


def test_bad_knots_are_refused():
    listed = [trees.index(drawn(2), i)["params"] for i in range(2)]
    for wrong, named in (
        (trees.index(drawn(1), slice(0, 1)), "two knots"),
        (trees.index(drawn(2), 0), "leading axis"),
        (listed, "leading axis"),
    ):
        with says(InputError, named):
            _ = Polyline(wrong).path
    with says(InputError, "t=1.5", "[0, 1]"):
        Polyline(drawn(2)).path(1.5)


def squares(theta):
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(theta))


@pytest.mark.parametrize("chunk", [1, 7, None])
def test_heights_are_the_values_at_points_of_every_segment(chunk):
    knots = jax.tree.map(np.float32, drawn(4))
    points = np.stack([flat(trees.index(knots, i)) for i in range(4)])
    t = np.linspace(0, 1, 5)[None, :, None]
    expected = np.square((1 - t) * points[:-1, None] + t * points[1:, None]).sum(-1)
    for heights in (Polyline(knots).heights, jax.jit(Polyline(knots).heights, static_argnums=(0, 1, 2))):
        np.testing.assert_allclose(heights(squares, 5, chunk), expected, rtol=1e-5)


def test_segments_of_any_ends_at_points_of_their_own():
    """Values that are arrays, on segments that do not follow one another."""
    starts, ends = (jax.random.normal(jax.random.key(seed), (3, 4)) for seed in range(2))
    ts = np.random.default_rng(2).random((3, 2), np.float32)
    got = values_on_segments(lambda x: x**3, lambda i: (starts[i], ends[i]), ts)
    t = ts[..., None]
    np.testing.assert_allclose(got, ((1 - t) * starts[:, None] + t * ends[:, None]) ** 3, rtol=1e-4, atol=1e-6)
