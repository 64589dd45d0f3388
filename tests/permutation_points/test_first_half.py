"""The first half of a path: room for knots, early ends, finer walks, and batch norm in single precision."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from teachers import CONFIG, GROUP, Network, equal, fitted, knot, toy

import mcjax
from mcjax import InputError, RunError, models
from mcjax.permutation_points import mergers

SEED, UNITS = 4, (0, 2)


def test_more_knots_than_there_is_room_for(monkeypatch):
    """A path that fills its room may have lost knots, and is refused; here the count is set to that."""
    real = mergers.approach_pairs

    def full(layer, config, *given):
        found = real(layer, config, *given)
        return found._replace(knots=found.knots._replace(filled=np.array([config.knots])))

    monkeypatch.setattr(mergers, "approach_pairs", full)
    with says(InputError, "(0, 2)", GROUP, "300 knots", "knots=300"):
        mcjax.permutation_points.permutation_path(*toy(SEED), GROUP, UNITS, CONFIG)


@pytest.mark.slow
def test_there_is_no_room_for_a_path_in_three_knots():
    with says(InputError, "(0, 2)", "knots=3"):
        mcjax.permutation_points.permutation_path(*toy(SEED), GROUP, UNITS, replace(CONFIG, knots=3))


def test_a_minimisation_that_does_not_converge_ends_the_path():
    task, theta = toy(6)
    found = fitted(6, (0, 1))
    assert found.point is None
    assert found.converged.tolist() == [True, False]
    assert found.distances.shape == found.loss.shape == (2,)
    assert found.gradient_norm[-1] > CONFIG.tolerance
    assert equal(knot(found, 0), theta)
    networks = [Network(knot(found, i)) for i in range(found.heights.size + 1)]
    np.testing.assert_allclose([network.distance((0, 1)) for network in networks[1:]], found.distances[-1], rtol=1e-10)
    np.testing.assert_allclose(networks[-1].loss(task), found.loss[-1], rtol=1e-10)
    # Minimised so far: the loss falls from knot to knot of the distance.
    assert (np.diff([network.loss(task) for network in networks[1:]]) <= 0).all()
    with says(RunError, "units (0, 1)", GROUP, "step 1 of 13", "60 iterations", "1e-06"):
        _ = found.path
    assert "step 1 of 13" in repr(found)
    assert found.barrier == np.inf


@pytest.mark.slow
def test_going_on_from_where_it_stands_with_output_weights_that_are_free():
    task, theta = toy(SEED)
    config = replace(CONFIG, iterations=3, hold_output_norm=False, require_convergence=False)
    found = mcjax.permutation_points.permutation_path(task, theta, GROUP, UNITS, config)
    assert found.stopped is None
    assert not found.converged.all()
    assert found.distances[-1] == 0
    assert equal(knot(found, -1), mcjax.permute(task.spec, found.P, theta))
    count = len(found.knots["params"]["Dense_0"]["bias"]) // 2
    networks = [Network(knot(found, i)) for i in range(count + 1)]
    distances = np.array([network.distance(UNITS) for network in networks])
    norms = np.array([network.output_norm(UNITS) for network in networks])
    assert np.ptp(norms[distances > 0]) > 1e-3 * norms[0]
    np.testing.assert_array_equal(networks[-1].read[0], networks[-1].read[2])


class BatchNormed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="norm", epsilon=1e-5)(nn.Dense(3, name="first")(x))
        return nn.Dense(1, name="last")(nn.tanh(x))


def batch_normed_loss(theta, task, weight_decay):
    """The loss in float64, by the statistics that theta holds."""
    theta = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), theta)
    params, statistics = theta["params"], theta["batch_stats"]["norm"]
    x, y = (np.asarray(each, np.float64) for each in task.train)
    x = x @ params["first"]["kernel"] + params["first"]["bias"]
    x = (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    outputs = np.tanh(x) @ params["last"]["kernel"] + params["last"]["bias"]
    squares = sum(np.square(leaf).sum() for leaf in jax.tree.leaves(params))
    return np.square(outputs - y).mean() + weight_decay / 2 * squares


@pytest.mark.slow
def test_batch_norm_weight_decay_and_single_precision():
    x, y = toy(SEED)[0].train
    model = models.from_flax(BatchNormed(), jax.ShapeDtypeStruct((2, 2), jnp.float32), name="normed")
    rng = np.random.default_rng(0)
    theta = jax.tree.map(lambda leaf: np.float32(0.5 + rng.random(leaf.shape)), model.init(jax.random.key(0)))
    task, group = mcjax.supervised(model, mcjax.data.regression(x, y, x, y)), model.spec.groups[0]
    config = replace(
        CONFIG,
        precision="float32",
        weight_decay=0.01,
        tolerance=1e-2,
        point_tolerance=1e-3,
        smallest=1e-2,
        require_convergence=False,
    )
    found = mcjax.permutation_points.permutation_path(task, theta, group, (1, 2), config)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.knots)} == {np.dtype(np.float32)}
    assert found.gradient_norm[-1] <= 1e-3
    middle = found.heights.size
    for i, loss in ((0, found.loss[0]), (middle, found.loss[-1])):
        np.testing.assert_allclose(batch_normed_loss(knot(found, i), task, 0.01), loss, rtol=1e-5)
    for name, leaf in found.knots["batch_stats"]["norm"].items():
        before = theta["batch_stats"]["norm"][name]
        np.testing.assert_array_equal(leaf[0], before)
        np.testing.assert_allclose(leaf[middle], [before[0], *2 * [before[1:].mean()]], rtol=1e-6)
        assert leaf[middle, 1] == leaf[middle, 2]
        np.testing.assert_array_equal(leaf[::-1], leaf[:, [0, 2, 1]])
    kernel = found.point["params"]["first"]["kernel"]
    np.testing.assert_array_equal(kernel[:, 1], kernel[:, 2])


@pytest.mark.slow
def test_smaller_steps_where_the_loss_would_rise():
    """The path is walked again, and between its knots it is hardly above the highest of them."""
    config = replace(CONFIG, rise_tolerance=0.1, knots=5000, iterations=1000)
    found = mcjax.permutation_points.permutation_path(*toy(SEED), GROUP, UNITS, config)
    highest = np.nanmax(found.loss)
    assert found.converged.all()
    assert fitted(SEED, UNITS).barrier > 10 * highest
    assert fitted(SEED, UNITS).warning is None  # what its config allows
    assert found.barrier <= 2 * highest
    rise = found.heights.max() - highest
    assert rise > config.rise_tolerance * highest
    assert f"({rise:.2g} of it between minima: more steps lower it, or a smaller rise_tolerance" in repr(found)


@pytest.mark.slow
def test_fewer_steps_where_there_is_no_room_for_small_ones():
    config = replace(CONFIG, rise_tolerance=1e-3, knots=900, iterations=1000)
    with pytest.MonkeyPatch.context() as patch:
        walks = []
        real = mergers.approach_pairs
        patch.setattr(mergers, "approach_pairs", lambda *args: walks.append(float(args[7])) or real(*args))
        found = mcjax.permutation_points.permutation_path(*toy(SEED), GROUP, UNITS, config)
    # As they come, in steps too small for the room, and in larger ones.
    assert len(walks) > 2
    np.testing.assert_allclose(walks[2:], 10 * np.array(walks[1:-1]))
    assert found.barrier < fitted(SEED, UNITS).barrier
    assert found.heights.size < config.knots
    assert "of it between minima" in found.warning
