"""Networks with batch statistics for the whole folder: a small dense one, and a convolutional one, which is slow."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from variables import alive

from mcjax import models, supervised


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(6, use_bias=False)(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(3)(nn.relu(nn.Dense(5)(x)))


@pytest.fixture(scope="session", params=["dense", pytest.param("convolutional", marks=pytest.mark.slow)])
def normed(request):
    """A model with batch norm for `tiny_colour_data`."""
    if request.param == "convolutional":
        return models.create("tinysix", 3, (8, 8, 3), width=0.25)
    return models.from_flax(Normed(), jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32), name="normed")


@pytest.fixture(scope="session")
def normed_task(normed, tiny_colour_data):
    """The classification of `tiny_colour_data` by `normed`, with the data's own augmentation."""
    return supervised(normed, tiny_colour_data)


@pytest.fixture(scope="session")
def ends(tiny_model):
    """theta_1 and theta_2 of `tiny_model`, drawn and not trained."""
    return alive(tiny_model, 0), alive(tiny_model, 1)
