"""Several mergers: clusters of equal units, critical points of smaller networks, and planes of equal loss."""

import jax
import numpy as np
import pytest
from refusals import says
from teachers import CONFIG, GROUP, Network, fitted, knot, toy

import mcjax
from mcjax import InputError, RunError, trees

SEED = 6
PAIRS = [(0, 2), (1, 3)]
CHAIN = [(0, 2), (2, 1)]


@pytest.fixture(scope="module")
def merged():
    return mcjax.permutation_points.merge_units(*toy(SEED), GROUP, PAIRS, CONFIG)


@pytest.fixture(scope="module")
def chained():
    return mcjax.permutation_points.merge_units(*toy(SEED), GROUP, CHAIN, CONFIG)


def without_copies(network, clusters):
    """The network with one unit for each cluster, which is read by what reads all of them."""
    small = object.__new__(Network)
    gone = [unit for cluster in clusters for unit in cluster[1:]]
    read = network.read.copy()
    for cluster in clusters:
        read[cluster[0]] = network.read[list(cluster)].sum(0)
    small.made, small.read = np.delete(network.made, gone, 0), np.delete(read, gone, 0)
    small.bias = network.bias
    return small


@pytest.mark.parametrize(("which", "clusters"), [("merged", ((0, 2), (1, 3))), ("chained", ((0, 1, 2),))])
def test_the_point_is_the_smaller_network(which, clusters, request):
    found = request.getfixturevalue(which)
    task, theta = toy(SEED)
    assert found.clusters == clusters
    assert found.order == 2
    assert f"order 2, loss {found.loss[-1]:.4g}" in repr(found)
    point = Network(found.point)
    for first, *rest in clusters:
        for unit in rest:
            np.testing.assert_array_equal(point.made[unit], point.made[first])
            np.testing.assert_array_equal(point.read[unit], point.read[first])
    small = without_copies(point, clusters)
    assert len(small.made) == 2
    np.testing.assert_allclose(point.outputs(task.train[0]), small.outputs(task.train[0]), atol=1e-12)
    np.testing.assert_allclose(found.loss[-1], small.loss(task), rtol=1e-10)
    # The smaller network is at a critical point, and so is the point.
    assert small.gradient_norm(task) <= CONFIG.point_tolerance
    assert point.gradient_norm(task) <= CONFIG.point_tolerance
    assert (found.gradient_norm <= CONFIG.point_tolerance).all()
    for leaf, start in zip(jax.tree.leaves(found.knots), jax.tree.leaves(theta), strict=True):
        np.testing.assert_array_equal(leaf[0], start)
    count = len(found.knots["params"]["Dense_0"]["bias"])
    losses = [Network(knot(found, i)).loss(task) for i in range(count)]
    assert max(losses) <= found.height * (1 + 1e-9)
    np.testing.assert_allclose(losses[-1], found.loss[-1], rtol=1e-10)
    np.testing.assert_array_equal(found.path(1.0)["params"]["Dense_0"]["bias"], np.float32(point.made[:, -1]))


def test_one_pair_is_the_permutation_point():
    found, path = mcjax.permutation_points.merge_units(*toy(SEED), GROUP, [(0, 2)], CONFIG), fitted(SEED, (0, 2))
    assert found.order == 1
    np.testing.assert_allclose(found.loss, path.loss[-1:], rtol=1e-12)
    for one, other in zip(jax.tree.leaves(found.point), jax.tree.leaves(path.point), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_mergers_that_end_early():
    found = mcjax.permutation_points.merge_units(*toy(SEED), GROUP, [(0, 1), (0, 2)], CONFIG)
    assert found.point is None
    assert len(found.loss) == 1
    assert "merging 0 and 1: step 1 of 13" in repr(found)
    with says(RunError, "merging 0 and 1", "step 1 of 13"):
        _ = found.path


@pytest.mark.parametrize(("which", "outputs"), [("merged", 1), ("chained", 1), ("chained", 2)])
def test_the_plane_of_equal_loss(which, outputs, request):
    found = request.getfixturevalue(which)
    task, theta = toy(SEED, outputs)
    point = found.point
    if outputs == 2:
        # With two outputs: only the parameters of the units have to be equal.
        point = {"params": {"Dense_0": point["params"]["Dense_0"], "Dense_1": theta["params"]["Dense_1"]}}
    basis = mcjax.permutation_points.equal_loss_plane(task.model, point, GROUP, found.clusters)
    dimension = found.order * outputs
    flat = np.concatenate([np.reshape(leaf, (dimension, -1)) for leaf in jax.tree.leaves(basis)], 1)
    assert flat.shape == (dimension, trees.parameter_count(theta))
    np.testing.assert_allclose(flat @ flat.T, np.eye(dimension), atol=1e-6 if outputs == 2 else 1e-14)
    before = Network(point).outputs(task.train[0])
    rng = np.random.default_rng(0)
    for _ in range(5):
        shares = 10 * rng.normal(size=dimension)
        moved = jax.tree.map(lambda leaf, d, c=shares: leaf + np.tensordot(c, d, 1), point, basis)
        after = Network(moved).outputs(task.train[0])
        np.testing.assert_allclose(after, before, atol=1e-5 if outputs == 2 else 1e-10)


def test_bad_arguments_are_refused(merged):
    for pairs, named in (
        ([], GROUP),
        ("01", GROUP),
        ([(0, 0)], "twice"),
        ([(0, 2), (1, 9)], "unit=9"),
        ([(0, 2), (2, 0)], "merged already"),
    ):
        with says(InputError, named):
            mcjax.permutation_points.merge_units(*toy(SEED), GROUP, pairs, CONFIG)
    for clusters, *named in (
        *((wrong, "disjoint", "4 units") for wrong in ([], [(0,)], [(0, 2), (2, 3)], [(0, 2), (1, 4)], (0, 2), 3)),
        ([(0, 1)], "[0, 1]", GROUP, "differ"),
    ):
        with says(InputError, *named):
            mcjax.permutation_points.equal_loss_plane(toy(SEED)[0].model, merged.point, GROUP, clusters)
