"""Low-rank matrices: Lemma 12 in closed form and on a fine grid."""

import jax
import numpy as np

from experiments.linear_connectivity.low_rank import directions
from experiments.linear_connectivity.tractable import Fineness


def test_the_largest_constant_of_lemma_12():
    found = directions(jax.random.key(0), Fineness(grid=20))
    # At <x, z> = 1 / (2 sqrt 2), ||x||^2 = 1/2: f = 1/4, both slopes 1 / (4 sqrt 2), the curvature along z -1/4.
    np.testing.assert_allclose(found["constant"], 1 / np.sqrt(2), rtol=1e-8)
    np.testing.assert_allclose([found["along"], found["square"]], [1 / np.sqrt(8), 1 / 2], rtol=1e-8)
    assert (found["points"], found["lemma_13_violations"]) == (61 * 31 + 1, 0)
    assert (found["below"], found["above"]) == (0, 1)
    # No point of a grid of 0.001 allows less, and the best of them little more.
    a, b = np.meshgrid(np.arange(1, 1501) / 1000, np.arange(1501) / 1000)
    square = a**2 + b**2
    loss = (1 - 2 * a**2 + square**2) / 4
    slopes = np.maximum(np.abs(square**2 - a**2) / np.sqrt(square), a * np.abs(square - 1))
    straight = (square + 2 * a**2 - 1 >= -0.25) & (3 * square**2 - a**2 >= -square / 4) & (loss > 1e-12)
    least = (slopes / np.minimum(loss, 1))[straight].min()
    assert 1 / np.sqrt(2) <= least < 1 / np.sqrt(2) + 0.003
