"""What tests of paths share: a network with batch statistics that is quickly compiled."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from mcjax import models


class Normed(nn.Module):
    """Batch norm without convolutions."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x.reshape(len(x), -1)))
        return nn.Dense(3)(nn.relu(x))


@pytest.fixture(scope="session")
def normed():
    """A model of `tiny_data` with batch statistics."""
    return models.from_flax(Normed(), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32), name="normed")
