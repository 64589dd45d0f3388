"""Edits of units: what they change and nothing else, a narrow network in a wide one, and room that is missing."""

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from variables import drawn

from mcjax import InputError, models, trees
from mcjax.constructions.chain import chain_of, on_host
from mcjax.constructions.unit_edits import check_free, clear_units, switch_top, write_units

CONV = models.create("mnist_convnet", 3, (8, 8, 1), width=0.2)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.relu(nn.Dense(3)(x))
        return nn.Dense(2)(x)


def test_all_that_makes_a_unit_is_cleared_and_nothing_else():
    """Kernels, biases, norms and batch statistics of these units, and of no others; what reads them stays."""
    normed = models.from_flax(Normed(), jax.ShapeDtypeStruct((2, 3), np.float32), name="normed")
    chain, theta = chain_of(normed), on_host(drawn(normed))
    first, second = chain.groups
    found = clear_units(chain, theta, {first: np.array([1, 3]), second: np.array([0])})
    expected = {name: leaf.copy() for name, leaf in theta.items()}
    for name in ("params/Dense_0/kernel", *(f"params/BatchNorm_0/{part}" for part in ("scale", "bias"))):
        expected[name][..., [1, 3]] = 0
    for name in ("batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var"):
        expected[name][[1, 3]] = 0
    for name in ("params/Dense_1/kernel", "params/Dense_1/bias"):
        expected[name][..., 0] = 0
    chex.assert_trees_all_equal(found, expected)


def test_a_narrow_network_is_written_into_a_wide_one():
    narrow_model = models.create("mnist_convnet", 3, (8, 8, 1), width=0.1)
    chain = chain_of(CONV)
    theta, narrow = on_host(drawn(CONV)), on_host(drawn(narrow_model, 1))
    widths = narrow_model.spec.group_sizes(drawn(narrow_model))
    units = {g: np.arange(n) for g, n in widths.items()}
    rng = np.random.default_rng(0)
    places = {g: rng.permutation(size)[: widths[g]] for g, size in zip(chain.groups, chain.sizes, strict=True)}
    wide = switch_top(chain, write_units(chain, theta, narrow, units, places), narrow, units, places)
    x = rng.normal(size=(5, 8, 8, 1)).astype(np.float32)
    got, want = (
        jax.jit(model.apply)(trees.nest(leaves), x) for model, leaves in ((CONV, wide), (narrow_model, narrow))
    )
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-4)


def test_room_that_is_missing_is_named():
    with pytest.raises(InputError, match=r"room:\n  dense_1: 1 free, 2 needed"):
        check_free(
            {"dense_0": np.arange(2), "dense_1": np.arange(1)},
            {"dense_0": 2, "dense_1": 2},
            "expected room",
        )
