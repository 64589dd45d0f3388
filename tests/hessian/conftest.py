"""A small regression for Hessians."""

import numpy as np
import pytest

from mcjax import data, models, supervised


@pytest.fixture(scope="session")
def line():
    """23 points of two numbers each way, and a smooth model of them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 2)), rng.normal(size=(23, 2))
    return data.regression(x, y, x, y), models.create("mlp", 2, (2,), widths=(3, 2), activation="tanh")


@pytest.fixture(scope="session")
def line_task(line):
    """The regression of these points by this model."""
    points, model = line
    return supervised(model, points)
