"""Fixtures of the inference tests."""

import jax
import pytest


@pytest.fixture
def loose_ranks():
    """Rank promotion as jax has it by default, which random networks use."""
    with jax.numpy_rank_promotion("allow"):
        yield
