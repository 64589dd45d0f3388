"""Products of units: against the inner product of whole networks, and the programs that they share."""

import numpy as np
import pytest
from leaves import SPECS, drawn, inner_product
from variables import order, stacked

from mcjax.matching.products import weight_products
from mcjax.matching.weights import match_weights


@pytest.mark.parametrize("name", SPECS)
def test_an_assignment_gains_as_much_as_the_objective(name):
    """Whatever the place: the products along two permutations differ by what the objective does."""
    (spec, theta_1), (_, theta_2) = (drawn(name, seed) for seed in range(2))
    sizes = spec.group_sizes(theta_1)
    products = weight_products(spec, sizes, theta_1, theta_2)
    P, Q = (order(spec, theta_1, seed) for seed in range(2))
    for group, n in sizes.items():
        if any(group in place.partners for place in products.places[group]):
            continue
        matrices = [np.asarray(products.products(place, P), np.float64) for place in products.places[group]]
        gain = sum((m[np.arange(n), Q[group]] - m[np.arange(n), P[group]]).sum() for m in matrices)
        moved = {**P, group: Q[group]}
        expected = inner_product(spec, moved, theta_1, theta_2) - inner_product(spec, P, theta_1, theta_2)
        np.testing.assert_allclose(gain, expected, atol=1e-3)


def test_places_of_one_shape_share_a_program(key, compiled):
    """At a width that no other test has, so that nothing is compiled yet."""
    (spec, theta_1), (_, theta_2) = (drawn("blocks", seed, width=15) for seed in range(2))
    compiled.clear()
    first = match_weights(key, spec, theta_1, theta_2, 1)
    places = sum(len(spec.places(group)) for group in spec.groups)
    assert 0 < sum("unit_products" in name for name in compiled) < places / 2
    compiled.clear()
    match_weights(key, spec, theta_2, theta_1, 2, P=first.P)
    pair = stacked([theta_1, theta_2])
    match_weights(key, spec, pair, pair, 1)
    assert not [name for name in compiled if "unit_products" in name]
