"""Permutation paths: exact ends and halves, minima and heights against numpy by hand, and the Hessian at the point."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from scipy.optimize import least_squares
from teachers import CONFIG, GROUP, Network, equal, fitted, knot, model_of, toy, with_ones

import mcjax
from mcjax import InputError, trees
from mcjax.symmetry import SpecError

SEED, UNITS = 4, (0, 2)


@pytest.fixture(scope="module")
def path():
    return fitted(SEED, UNITS)


@pytest.fixture(scope="module")
def half(path):
    """The networks up to the permutation point."""
    count = len(path.knots["params"]["Dense_0"]["bias"])
    assert count % 2 == 1
    return [Network(knot(path, i)) for i in range(count // 2 + 1)]


def test_the_gradient_by_hand():
    _, theta = toy(0)
    other, _ = toy(1)
    rng, h = np.random.default_rng(0), 1e-6
    network, moved = Network(theta), Network(theta)
    for leaf, gradient in zip(("made", "read", "bias"), network.gradient(other), strict=True):
        direction = rng.normal(size=gradient.shape)
        values = []
        for sign in (1, -1):
            setattr(moved, leaf, getattr(network, leaf) + sign * h * direction)
            values.append(moved.loss(other))
        setattr(moved, leaf, getattr(network, leaf))
        np.testing.assert_allclose((values[0] - values[1]) / (2 * h), (gradient * direction).sum(), rtol=1e-6)


def test_ends_and_halves_are_equal_to_the_last_bit(path):
    task, theta = toy(SEED)
    count = len(path.knots["params"]["Dense_0"]["bias"])
    np.testing.assert_array_equal(path.P[GROUP], [2, 1, 0, 3])
    assert equal(knot(path, 0), theta)
    assert equal(knot(path, count - 1), mcjax.permute(task.spec, path.P, theta))
    first, last = (path.knots["params"][f"Dense_{i}"] for i in (0, 1))
    order = [2, 1, 0, 3]
    for leaf, exchanged in (
        (first["kernel"], first["kernel"][:, :, order]),
        (first["bias"], first["bias"][:, order]),
        (last["kernel"], last["kernel"][:, order]),
        (last["bias"], last["bias"]),
    ):
        assert leaf.dtype == np.float64
        np.testing.assert_array_equal(leaf[::-1], exchanged)
    with jax.enable_x64(True):
        assert equal(path.path(0.0), theta)
        assert equal(path.path(1.0), mcjax.permute(task.spec, path.P, theta))


def test_at_the_point_two_units_are_one(path, half):
    point = Network(path.point)
    np.testing.assert_array_equal(point.made[0], point.made[2])
    np.testing.assert_array_equal(point.read[0], point.read[2])
    assert equal(path.point, knot(path, len(half) - 1))


def test_distances_fall_in_equal_factors(path, half):
    assert path.distances.shape == path.loss.shape == (CONFIG.steps + 2,)
    np.testing.assert_allclose(path.distances[0], half[0].distance(UNITS), rtol=1e-12)
    factors = path.distances[1:-1] / path.distances[:-2]
    np.testing.assert_allclose(factors, factors[0], rtol=1e-6)
    np.testing.assert_allclose(path.distances[-2], CONFIG.smallest * path.distances[0], rtol=1e-9)
    assert path.distances[-1] == 0


def test_minima_are_knots_of_their_distance_and_loss(path, half):
    task, _ = toy(SEED)
    distances = np.array([network.distance(UNITS) for network in half])
    losses = np.array([network.loss(task) for network in half])
    assert (np.diff(distances) <= 1e-12).all()
    for distance, loss in zip(path.distances, path.loss, strict=True):
        there = np.abs(distances - distance) <= 1e-10 * path.distances[0]
        assert there.any()
        # The lowest knot of the distance: from there on the loss only falls.
        np.testing.assert_allclose(losses[there].min(), loss, rtol=1e-8, atol=1e-16)
    assert path.converged.all()
    assert (path.gradient_norm[1:-1] <= CONFIG.tolerance).all()
    assert path.gradient_norm[-1] <= CONFIG.point_tolerance


def test_the_point_is_critical(path, half):
    task, _ = toy(SEED)
    made, _, _ = half[-1].gradient(task)
    assert half[-1].gradient_norm(task) <= CONFIG.point_tolerance
    np.testing.assert_allclose(made[0], made[2], atol=1e-18)


def test_heights_are_those_of_the_segments(path, half):
    task, _ = toy(SEED)
    highest, dense = [], []
    for a, b in pairwise(half):
        losses = [between(a, b, t).loss(task) for t in np.linspace(0, 1, 17)]
        highest.append(max(losses[::4]))
        dense.append(max(losses))
    np.testing.assert_allclose(path.heights, highest, rtol=1e-8, atol=1e-16)
    np.testing.assert_allclose(path.barrier, max(dense) - half[0].loss(task), rtol=0.05)
    assert f"barrier {path.barrier:.4g}" in repr(path)


def between(a, b, t):
    network = object.__new__(Network)
    for leaf in ("made", "read", "bias"):
        setattr(network, leaf, (1 - t) * getattr(a, leaf) + t * getattr(b, leaf))
    return network


def test_the_output_norm_is_held_while_the_units_are_apart(path, half):
    distances = np.array([network.distance(UNITS) for network in half])
    norms = np.array([network.output_norm(UNITS) for network in half])
    np.testing.assert_allclose(norms[distances > 0], norms[0], rtol=1e-10)
    assert (distances > 0).sum() > CONFIG.steps
    assert abs(norms[-1] / norms[0] - 1) > 1e-3


def inertia(matrix, tolerance):
    values = np.linalg.eigvalsh(matrix)
    return tuple(int(n.sum()) for n in (values < -tolerance, np.abs(values) <= tolerance, values > tolerance))


def predicted(point, units, task):
    """By hand, from S and G: negative and zero eigenvalues that the exchanged coordinates have, and the rank of G.

    In the mean and the difference of what makes and of what reads the two units, an exchange changes the sign of the
    differences (D, a), so that the Hessian at D = a = 0 is block diagonal; of D and a it is [[S, G^T], [G, 0]], as
    the outputs do not depend on a at D = 0.
    """
    network, (inputs, labels) = Network(point), task.train
    x, hidden = with_ones(inputs), network.hidden(inputs)[:, units[0]]
    back = 2 * network.residuals(task) / np.size(labels)
    slope, curvature = 1 - hidden**2, -2 * hidden * (1 - hidden**2)
    s = (x * (back @ network.read[units[0]] * curvature / 2)[:, None]).T @ x
    g = (back * slope[:, None]).T @ x
    _, sizes, v = np.linalg.svd(g)
    rank = int((sizes > 1e-7).sum())
    kernel = v[rank:]
    negative, zero, _ = inertia(kernel @ s @ kernel.T, 1e-9 * np.abs(s).max())
    return rank + negative, len(g) - rank + zero, rank


def check_inertia(point, units, outputs, task):
    with jax.enable_x64(True):
        loss = mcjax.full_batch_loss(task)
        hessian = np.asarray(mcjax.hessian.dense_hessian(loss, point))
        found = mcjax.hessian.classify_point(loss, point, zero_tolerance=1e-10)
    assert found.gradient_norm <= CONFIG.point_tolerance
    negative, zero, rank = predicted(point, units, task)
    assert found.index == negative
    assert found.zeros == zero
    assert found.zeros >= outputs - rank
    # The part of the smaller network: what does not change when the units are exchanged.
    swap = exchange_matrix(point, units)
    np.testing.assert_allclose(swap @ hessian @ swap, hessian, atol=1e-12 * np.abs(hessian).max())
    symmetric = np.linalg.qr((np.eye(len(swap)) + swap)[:, kept(swap)])[0]
    assert inertia(symmetric.T @ hessian @ symmetric, 1e-10)[0] == 0
    return found, rank


def exchange_matrix(point, units):
    """The matrix that exchanges the units, in the order of the Hessian."""
    numbers = np.arange(trees.parameter_count(point))
    _, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(np.float32, point))
    tree = jax.tree.map(np.array, unravel(np.float32(numbers)))
    first, last = (tree["params"][f"Dense_{i}"] for i in (0, 1))
    pair, back = list(units), list(units)[::-1]
    first["kernel"][:, pair], first["bias"][pair] = first["kernel"][:, back], first["bias"][back]
    last["kernel"][pair] = last["kernel"][back]
    order = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(int)
    return np.eye(len(numbers))[order]


def kept(swap):
    """One of every two coordinates that are exchanged, and all others."""
    return np.flatnonzero(swap.argmax(1) >= np.arange(len(swap)))


def planted(negative):
    """A permutation point and a task of it: S has so many negative eigenvalues, and all else is at a minimum.

    Where three units are at a minimum, one of them twice is such a point. Residuals that no parameter can lower are
    left there, and among these are some that give S any value; small ones leave the Hessian of the three positive.
    """
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(60, 2)))
    ones, start = with_ones(x), np.append(rng.normal(size=12), 0.0)

    def outputs(flat):
        return np.tanh(ones @ flat[:9].reshape(3, 3).T) @ flat[9:12] + flat[12]

    def jacobian(flat):
        hidden = np.tanh(ones @ flat[:9].reshape(3, 3).T)
        made = [flat[9 + unit] * (1 - hidden[:, [unit]] ** 2) * ones for unit in range(3)]
        return np.concatenate([*made, hidden, np.ones((60, 1))], 1)

    hidden, upper = np.tanh(ones @ start[:3]), np.triu_indices(3)
    curvature = -hidden * (1 - hidden**2) * start[9]
    s = np.einsum("n,ni,nj->nij", curvature, ones, ones)[:, *upper]
    turned = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    wanted = turned * np.where(np.arange(3) < negative, -1.0, 1.0) * [3, 2, 1] @ turned.T
    conditions = np.concatenate([jacobian(start), s], 1).T
    residuals = np.linalg.lstsq(conditions, np.append(np.zeros(13), wanted[upper]), rcond=None)[0]
    labels = np.float32(outputs(start) - 1e-3 * residuals / np.abs(residuals).max())
    # To the minimum for labels that are rounded.
    exact = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    flat = least_squares(lambda flat: outputs(flat) - labels, start, jacobian, **exact).x
    made, read = flat[:9].reshape(3, 3)[[0, 1, 0, 2]], (flat[9:12] / [2, 1, 1])[[0, 1, 0, 2]]
    params = {
        "Dense_0": {"kernel": made[:, :2].T, "bias": made[:, 2]},
        "Dense_1": {"kernel": read[:, None], "bias": flat[12:]},
    }
    data = mcjax.data.regression(x, labels[:, None], x, labels[:, None], "planted")
    return {"params": params}, mcjax.supervised(model_of(), data)


@pytest.mark.parametrize("negative", range(4))
def test_one_output_one_zero_and_up_to_as_many_negative_eigenvalues_as_parameters_of_a_unit(negative):
    """The paper says one negative at most; there may be as many as the matrix S has."""
    point, task = planted(negative)
    found, rank = check_inertia(point, UNITS, 1, task)
    assert (found.index, rank) == (negative, 0)
    assert found.zeros >= 1
    assert found.kind == ("saddle" if negative else "degenerate")


def test_the_point_of_a_path_has_this_inertia(path):
    found, rank = check_inertia(path.point, UNITS, 1, toy(SEED)[0])
    assert rank == 0
    assert 1 <= found.index <= 3


@pytest.mark.slow
@pytest.mark.parametrize("units", [(0, 1), (0, 2)])
def test_two_outputs_take_one_direction_of_the_plane_of_zeros(units):
    point = fitted(0, units, 2).point
    found, rank = check_inertia(point, units, 2, toy(0, 2)[0])
    # Centre and outputs are at a minimum, so that G has the output weights in its kernel.
    assert rank == 1
    assert found.zeros == 1
    assert 1 <= found.index <= 3


def test_a_loss_of_ones_own_has_the_path_of_the_same_loss(path):
    task, theta = toy(SEED)

    def loss(theta, batch, key):
        return jnp.square(task.model.apply(theta, batch[0]) - batch[1]).mean()

    own = mcjax.Task(loss, task.train, model=task.model)
    found = mcjax.permutation_points.permutation_path(own, theta, GROUP, UNITS, CONFIG)
    np.testing.assert_allclose(found.loss, path.loss, rtol=1e-6, atol=1e-14)
    assert found.gradient_norm[-1] <= CONFIG.point_tolerance


def test_bad_arguments_are_refused():
    task, theta = toy(SEED)
    given = {"task": task, "theta": theta, "group": GROUP, "units": (0, 1), "config": CONFIG}
    for changes, error, named in (
        ({"units": (1, 1)}, InputError, "twice"),
        ({"units": (0, 4)}, InputError, "unit=4"),
        ({"group": "dense_5"}, SpecError, "dense_5"),
        ({"config": {"steps": 3}}, InputError, "PermutationConfig"),
        ({"task": toy(SEED, 2)[0]}, SpecError, "Dense_1/bias"),
        ({"task": task.model}, InputError, "Model"),
        ({"task": mcjax.Task(task.loss, task.train, name="bare")}, InputError, "bare has no model"),
        ({"theta": jax.tree.map(lambda leaf: leaf[None], theta)}, InputError, "several networks"),
        ({"theta": jax.tree.map(lambda leaf: leaf * np.float32(np.nan), theta)}, InputError, "not finite"),
    ):
        with says(error, named):
            mcjax.permutation_points.permutation_path(**(given | changes))
