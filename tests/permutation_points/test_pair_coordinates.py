"""Coordinates of two units: round trips, what is held, removed units, and batch statistics, all by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from teachers import GROUP, Network, model_of, toy

from mcjax import trees
from mcjax.constructions.unit_layers import unit_layer
from mcjax.permutation_points.pair_coordinates import unit_pair

UNITS, REMOVED = (0, 2), 3


@pytest.fixture(scope="module")
def network():
    return Network(toy(0, 2)[1])


@pytest.fixture(scope="module")
def pair():
    with jax.enable_x64(True):
        start = {name: jnp.asarray(leaf, "float64") for name, leaf in trees.flatten(toy(0, 2)[1]).items()}
        return unit_pair(unit_layer(model_of(2), GROUP), UNITS, start, jnp.arange(4) == REMOVED, True)


def test_coordinates_by_hand(pair, network):
    with jax.enable_x64(True):
        found = pair.coordinates(pair.start)
    made, read = network.made[list(UNITS)], network.read[list(UNITS)]
    np.testing.assert_allclose(found.mean, made.mean(0), rtol=1e-15)
    np.testing.assert_allclose(found.offset, made[1] - made[0], rtol=1e-15)
    np.testing.assert_allclose(found.output_mean, read.mean(0), rtol=1e-15)
    np.testing.assert_allclose(found.output_difference, (read[1] - read[0]) / 2, rtol=1e-15)
    np.testing.assert_allclose(pair.start_distance, network.distance(UNITS), rtol=1e-15)
    np.testing.assert_allclose(pair.output_norm, network.output_norm(UNITS) / np.sqrt(2), rtol=1e-15)


def test_at_the_start_distance_the_network_is_itself_without_removed_units(pair, network):
    with jax.enable_x64(True):
        found = Network(trees.nest(pair.params_at(pair.coordinates(pair.start), pair.start_distance)))
    np.testing.assert_allclose(found.made, network.made, rtol=1e-14)
    np.testing.assert_array_equal(found.read[REMOVED], 0)
    kept = np.arange(4) != REMOVED
    np.testing.assert_allclose(found.read[kept], network.read[kept], rtol=1e-14)


@pytest.mark.parametrize("held", [True, False])
def test_the_distance_is_as_given_and_the_output_norm_is_held(pair, held, network):
    pair = pair if held else replace(pair, output_norm=None)
    with jax.enable_x64(True):
        coordinates = pair.coordinates(pair.start)
        coordinates = coordinates._replace(offset=3 * coordinates.offset, output_mean=2 * coordinates.output_mean)
        found = Network(trees.nest(pair.params_at(coordinates, 0.25)))
    np.testing.assert_allclose(found.distance(UNITS), 0.25, rtol=1e-14)
    np.testing.assert_allclose(found.made[list(UNITS)].mean(0), network.made[list(UNITS)].mean(0), rtol=1e-14)
    assert (abs(found.output_norm(UNITS) / network.output_norm(UNITS) - 1) < 1e-14) == held


def test_equal_units_that_nothing_reads_stay_finite(pair):
    with jax.enable_x64(True):
        coordinates = jax.tree.map(jnp.zeros_like, pair.coordinates(pair.start))
        gradient = jax.grad(lambda x: sum(leaf.sum() for leaf in pair.params_at(x, 0.0).values()))(coordinates)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
