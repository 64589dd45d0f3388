"""The path through knots against numpy's interpolation."""

import chex
import jax
import numpy as np
from refusals import says

from mcjax import InputError, trees
from mcjax.curves import through
from mcjax.curves.polyline import distances
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
    np.testing.assert_allclose(distances(knots), np.linalg.norm(np.diff(points, axis=0), axis=1), rtol=1e-12)


def test_the_path_passes_the_knots_in_proportion_to_its_length():
    knots = drawn(6)
    path, steps = through(knots), distances(knots)
    at = np.concatenate([[0], np.cumsum(steps) / steps.sum()])
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
    path = through(knots)
    for t, i in ((0.0, 0), (1.0, 3)):
        chex.assert_trees_all_equal(path(t), trees.index(knots, i))


def test_two_knots_are_a_straight_line():
    assert float(normalized_length(through(drawn(2)), np.array([0.0, 1.0]))) == 1.0


def test_knots_that_coincide():
    one = trees.index(jax.tree.map(np.float32, drawn(2)), 0)
    same = through(jax.tree.map(lambda leaf: np.stack([leaf] * 3), one))
    assert np.isfinite(flat(same(0.3))).all()
    twice = jax.tree.map(lambda leaf: leaf[np.array([0, 1, 1, 2])], drawn(3))
    for t in np.linspace(0, 1, 7, dtype=np.float32):
        expected, got = through(drawn(3))(t), through(twice)(t)
        np.testing.assert_allclose(flat(got), flat(expected), atol=1e-5)


def test_what_is_no_path():
    listed = [trees.index(drawn(2), i)["params"] for i in range(2)]
    for wrong, named in (
        (trees.index(drawn(1), slice(0, 1)), "two knots"),
        (trees.index(drawn(2), 0), "leading axis"),
        (listed, "leading axis"),
    ):
        with says(InputError, named):
            through(wrong)
    with says(InputError, "t=1.5", "[0, 1]"):
        through(drawn(2))(1.5)
