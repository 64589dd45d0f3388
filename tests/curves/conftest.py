"""Endpoints that fits of curves share, so that they share programs."""

import pytest

from mcjax import trees


@pytest.fixture(scope="session")
def ends(tiny_networks):
    """Two pairs: theta_1 and theta_2 with a leading axis."""
    return trees.index(tiny_networks, slice(0, 2)), trees.index(tiny_networks, slice(2, 4))
