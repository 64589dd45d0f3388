"""Moves at a permutation point: one function everywhere along them, any order at the end, and bad input."""

import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from segments import check_moves, outputs_along
from variables import drawn

import mcjax
from mcjax import InputError, models, trees
from mcjax.permutation_points.equal_loss import exchange_units, permute_units
from mcjax.symmetry import SpecError

PAIR = (1, 3)


def merged(model, leaves, pair, dtype):
    """A network in which two units have equal parameters and output weights; leaves: by name, the axis of the units."""
    theta = jax.tree.map(lambda leaf: np.array(leaf, dtype), drawn(model))
    values = trees.flatten(theta)
    for name, axis in leaves.items():
        moved = np.moveaxis(values[name], axis, 0)
        moved[pair[1]] = moved[pair[0]]
    return theta


DENSE = {"params/Dense_0/kernel": 1, "params/Dense_0/bias": 0, "params/Dense_1/kernel": 0}


@pytest.fixture(scope="module")
def model():
    return models.create("mlp", 2, (2,), widths=(4, 3), activation="tanh")


@pytest.fixture(scope="module")
def point(model):
    return merged(model, DENSE, PAIR, np.float64)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(10, 2))


def permuted(point, P):
    """By hand: the units of the first layer in another order."""
    new = jax.tree.map(np.array, point)
    first, second = new["params"]["Dense_0"], new["params"]["Dense_1"]
    first["kernel"], first["bias"] = first["kernel"][:, P], first["bias"][P]
    second["kernel"] = second["kernel"][P]
    return new


def check_ends(construction, start, end):
    for i, network in ((0, start), (-1, end)):
        knot = trees.index(construction.knots, i)
        chex.assert_trees_all_equal(knot, network)
        chex.assert_trees_all_equal_dtypes(knot, network)


@pytest.mark.parametrize("free", [None, 1, 3])
def test_six_moves_exchange_two_units(model, point, free):
    construction = exchange_units(model, point, "dense_0", PAIR, 0, free)
    assert [move.kind for move in construction.moves] == list("cbcbbc")
    assert [move.layers for move in construction.moves] == [(2,), (1,), (2,), (1,), (1,), (2,)]
    P = np.arange(4)
    P[[0, free or 3]] = P[[free or 3, 0]]
    check_ends(construction, point, permuted(point, P))


def test_the_function_is_the_same_everywhere_along_the_moves(model, point, x):
    construction = permute_units(model, point, "dense_0", PAIR, np.array([3, 1, 0, 2]))
    check_moves(model, construction, x, tolerance=1e-12)
    before = numpy_outputs(point, x)
    for outputs in outputs_along(model, construction, x, 33):
        np.testing.assert_allclose(outputs, np.broadcast_to(before, outputs.shape), atol=1e-10)


def numpy_outputs(theta, x):
    for i in range(3):
        layer = theta["params"][f"Dense_{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = np.tanh(x) if i < 2 else x
    return x


def test_every_order_of_the_units(model, point, x):
    """All 24, of which two leave everything as it is, and some do not touch the pair."""
    before = numpy_outputs(point, x)
    for P in map(np.array, itertools.permutations(range(4))):
        if still(P):
            continue
        construction = permute_units(model, point, "dense_0", PAIR, P)
        end = permuted(point, P)
        check_ends(construction, point, end)
        whole = {"dense_0": P.astype(np.int32), "dense_1": np.arange(3, dtype=np.int32)}
        with jax.enable_x64(True):
            check_ends(construction, point, mcjax.permute(model.spec, whole, point))
        assert len(construction.moves) % 6 == 0
        assert 0 < len(construction.moves) <= 6 * 6
        for i in range(len(construction.moves) + 1):
            np.testing.assert_allclose(numpy_outputs(trees.index(construction.knots, i), x), before, atol=1e-12)


def still(P):
    """Whether an order of the units leaves the point as it is; the two units of the pair are one."""
    names = np.array([0, 1, 2, 1])
    return (names[P] == names).all()


@pytest.mark.parametrize("P", [[0, 1, 2, 3], [0, 3, 2, 1]])
def test_no_move_where_nothing_changes(model, point, P):
    construction = permute_units(model, point, "dense_0", PAIR, np.array(P))
    assert construction.moves == ()
    chex.assert_trees_all_close(construction.path(0.5), point, rtol=1e-7)
    check_ends(construction, point, point)
    whole = {"dense_0": np.array(P), "dense_1": np.arange(3)}
    assert permute_units(model, point, "dense_0", PAIR, whole).moves == ()


class Flattened(nn.Module):
    """Feature maps of 2 x 2 pixels and 3 channels with batch norm, read pixel by pixel."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Conv(3, (2, 2), name="maps")(x))
        return nn.Dense(2, name="top")(nn.tanh(x).reshape(len(x), -1))


def test_single_precision_and_flattened_feature_maps_with_batch_statistics():
    model = models.from_flax(Flattened(), jax.ShapeDtypeStruct((2, 2, 2, 1), jnp.float32), name="flattened")
    theta = jax.tree.map(np.float32, drawn(model))
    made = [theta["params"]["maps"], theta["params"]["norm"], theta["batch_stats"]["norm"]]
    top = theta["params"]["top"]["kernel"].reshape(4, 3, 2)
    for leaf in (*jax.tree.leaves(made), top.swapaxes(1, 2)):
        leaf[..., 2] = leaf[..., 0]
    construction = exchange_units(model, theta, model.spec.groups[0], (0, 2), 1)
    order = [0, 2, 1]
    maps, norm, statistics = jax.tree.map(lambda leaf: leaf[..., order], made)
    read = {"kernel": top[:, order].reshape(12, 2), "bias": theta["params"]["top"]["bias"]}
    end = {"params": {"maps": maps, "norm": norm, "top": read}, "batch_stats": {"norm": statistics}}
    check_ends(construction, theta, end)
    check_moves(model, construction, np.random.default_rng(0).normal(size=(3, 2, 2, 1)), tolerance=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(construction.knots)} == {np.dtype(np.float32)}


def changed(point, layer, leaf, value):
    new = jax.tree.map(np.array, point)
    new["params"][layer][leaf][..., 3] += value
    return new


def test_bad_arguments_are_refused(model, point):
    new = jax.tree.map(np.array, point)
    new["params"]["Dense_1"]["kernel"][3] *= 2
    for arguments, *named in (
        ((changed(point, "Dense_0", "bias", 0.5), "dense_0", PAIR, 0), "1 and 3", "dense_0", "parameters", "0.5"),
        ((point, "dense_0", PAIR, 1, None), "free"),
        ((point, "dense_0", PAIR, 0, 2), "free=2"),
        ((point, "dense_0", PAIR, 0, 0), "twice"),
        ((point, "dense_0", PAIR, 4, 1), "4"),
    ):
        with says(InputError, *named):
            exchange_units(model, *arguments)
    moving = {"dense_0": np.arange(4), "dense_1": np.array([1, 0, 2])}
    for network, P, error, *named in (
        (new, np.arange(4), InputError, "output weights"),
        (point, moving, InputError, "dense_0"),
        *((point, P, InputError, "whole numbers") for P in (np.eye(4), None, "reverse")),
        (None, np.arange(4), InputError, "None", "a network"),
        *((point, P, SpecError) for P in (np.arange(3), np.array([0, 0, 1, 2]), {"dense_0": np.arange(4)})),
    ):
        with says(error, *named):
            permute_units(model, network, "dense_0", PAIR, P)
