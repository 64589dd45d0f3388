"""Tractable landscapes: critical points that are known, and a network whose units are exchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.linear_connectivity.tractable import Fineness, distinct, stationary, symmetric, top_eigenvector
from mcjax import InputError

FINENESS = Fineness(samples=300, starts=6, descent=300, eigenvalues=(3.0, 1.5, 0.5), searches=200, grid=20)


def test_all_critical_points_of_a_double_well_are_found():
    with jax.enable_x64(True):
        # Minima at (+-1, 0), a saddle at 0.
        def loss(x):
            return (x[0] ** 2 - 1) ** 2 / 4 + x[1] ** 2

        found = np.asarray(stationary(loss, jnp.asarray(np.random.default_rng(0).normal(size=(40, 2))), 60))
    points = distinct(found[np.argsort(found[:, 0])])
    np.testing.assert_allclose(points, [[-1, 0], [0, 0], [1, 0]], atol=1e-6)


def test_one_of_each_point_is_kept():
    points = np.array([[0.0, 1], [2, 2], [0, 1 + 1e-6], [2 - 1e-6, 2], [0, 1]])
    np.testing.assert_array_equal(distinct(points), points[:2])
    assert distinct(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.slow
def test_theorem_10():
    found = top_eigenvector(jax.random.key(0), FINENESS)
    kinds = [(point["eigenvector"], point["index"], point["kind"]) for point in found["points"]]
    assert kinds == [
        (1, 0, "minimum"), (1, 0, "minimum"), (2, 1, "saddle"), (2, 1, "saddle"), (3, 2, "saddle"), (3, 2, "saddle"),
        (0, 3, "maximum"),
    ]  # fmt: skip
    assert [point["improving"] for point in found["points"]] == [False] * 2 + [True] * 5
    assert max(point["distance"] for point in found["points"]) < 1e-8


def test_symmetry_makes_a_loss_nonconvex():
    found = symmetric(jax.random.key(0), FINENESS, units=4)
    assert (found["units"], found["orders"]) == (4, 24)
    assert found["of_orders"] < 1e-28
    assert found["apart"] < 1e-15
    # At the average all units are one, and a convex loss would be at most 0 there.
    np.testing.assert_allclose(found["of_average"], found["of_one_unit"], rtol=1e-12)
    assert found["of_average"] > found["of_equal"] > 0.01
    assert found["kind"] == "saddle"
    assert found["index"] >= 3
    # One unit is no average.
    assert symmetric(jax.random.key(0), FINENESS, units=1)["of_average"] < 1e-28


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"samples": 0}, "samples=0"),
        ({"sensed": 0}, "sensed=0"),
        ({"grid": 2.5}, r"grid=2\.5"),
        ({"eigenvalues": (1.0, 1.0)}, r"eigenvalues=\(1\.0, 1\.0\)"),
        ({"eigenvalues": (1.0, -1.0)}, r"eigenvalues=\(1\.0, -1\.0\)"),
        ({"eigenvalues": ()}, r"eigenvalues=\(\)"),
    ],
)
def test_bad_arguments_are_refused(change, named):
    with pytest.raises(InputError, match=named):
        Fineness(**change)
