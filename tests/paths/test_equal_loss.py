"""Moves at a permutation point: the same function everywhere along them, any order at the end, and what is refused."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from segments import check_moves, outputs_along
from variables import drawn

import mcjax
from mcjax import InputError, models, trees
from mcjax.paths.equal_loss import exchange_units, permute_units_at
from mcjax.symmetry import SpecError

PAIR = (1, 3)


def merged(model, leaves, pair, dtype):
    """A network in which two units are made and read alike; leaves: by name, the axis of the units."""
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
        for knots, leaf in zip(jax.tree.leaves(construction.knots), jax.tree.leaves(network), strict=True):
            np.testing.assert_array_equal(knots[i], leaf)
            assert knots.dtype == leaf.dtype


@pytest.mark.parametrize("free", [None, 1, 3])
def test_six_moves_exchange_two_units(model, point, free):
    construction = exchange_units(model, point, "dense_0", PAIR, 0, free)
    assert [move.kind for move in construction.moves] == list("cbcbbc")
    assert [move.layers for move in construction.moves] == [(2,), (1,), (2,), (1,), (1,), (2,)]
    P = np.arange(4)
    P[[0, free or 3]] = P[[free or 3, 0]]
    check_ends(construction, point, permuted(point, P))


def test_the_function_is_the_same_everywhere_along_the_moves(model, point, x):
    construction = permute_units_at(model, point, "dense_0", PAIR, np.array([3, 1, 0, 2]))
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
        construction = permute_units_at(model, point, "dense_0", PAIR, P)
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
    """Whether an order of the units is that of the point, the two of the pair being one."""
    names = np.array([0, 1, 2, 1])
    return (names[P] == names).all()


@pytest.mark.parametrize("P", [[0, 1, 2, 3], [0, 3, 2, 1]])
def test_no_move_where_nothing_changes(model, point, P):
    construction = permute_units_at(model, point, "dense_0", PAIR, np.array(P))
    assert construction.moves == ()
    jax.tree.map(np.testing.assert_allclose, construction.path(0.5), point)
    check_ends(construction, point, point)
    whole = {"dense_0": np.array(P), "dense_1": np.arange(3)}
    assert permute_units_at(model, point, "dense_0", PAIR, whole).moves == ()


class Flattened(nn.Module):
    """Feature maps of 2 x 2 pixels and 3 channels, read pixel by pixel."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.tanh(nn.Conv(3, (2, 2), name="maps")(x))
        return nn.Dense(2, name="top")(x.reshape(len(x), -1))


def test_single_precision_and_flattened_feature_maps():
    model = models.from_flax(Flattened(), jax.ShapeDtypeStruct((2, 2, 2, 1), jnp.float32), name="flattened")
    theta = jax.tree.map(np.float32, drawn(model))
    maps, top = theta["params"]["maps"], theta["params"]["top"]["kernel"].reshape(4, 3, 2)
    maps["kernel"][..., 2], maps["bias"][2], top[:, 2] = maps["kernel"][..., 0], maps["bias"][0], top[:, 0]
    construction = exchange_units(model, theta, model.spec.groups[0], (0, 2), 1)
    order = [0, 2, 1]
    end = {
        "maps": {"kernel": maps["kernel"][..., order], "bias": maps["bias"][order]},
        "top": {"kernel": top[:, order].reshape(12, 2), "bias": theta["params"]["top"]["bias"]},
    }
    check_ends(construction, theta, {"params": end})
    check_moves(model, construction, np.random.default_rng(0).normal(size=(3, 2, 2, 1)), tolerance=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(construction.knots)} == {np.dtype(np.float32)}


def changed(point, layer, leaf, value):
    new = jax.tree.map(np.array, point)
    new["params"][layer][leaf][..., 3] += value
    return new


def test_units_that_are_not_alike(model, point):
    with pytest.raises(InputError, match=r"units 1 and 3 of 'dense_0' are not made alike \(they differ by 0.5\)"):
        exchange_units(model, changed(point, "Dense_0", "bias", 0.5), "dense_0", PAIR, 0)
    new = jax.tree.map(np.array, point)
    new["params"]["Dense_1"]["kernel"][3] *= 2
    with pytest.raises(InputError, match=r"not read alike.*expected a permutation point"):
        permute_units_at(model, new, "dense_0", PAIR, np.arange(4))


@pytest.mark.parametrize(
    ("unit", "free", "said"),
    [
        (1, None, "expected one of the pair for free and any other unit"),
        (0, 2, "free=2"),
        (0, 0, "one unit twice"),
        (4, 1, "4"),
    ],
)
def test_units_that_cannot_be_exchanged(model, point, unit, free, said):
    with pytest.raises(InputError, match=said):
        exchange_units(model, point, "dense_0", PAIR, unit, free)


def test_permutations_that_do_not_fit(model, point):
    moving = {"dense_0": np.arange(4), "dense_1": np.array([1, 0, 2])}
    with pytest.raises(InputError, match="P moves units of other groups than 'dense_0'"):
        permute_units_at(model, point, "dense_0", PAIR, moving)
    for P in (np.eye(4), None, "reverse"):
        with pytest.raises(InputError, match="expected whole numbers"):
            permute_units_at(model, point, "dense_0", PAIR, P)
    with pytest.raises(InputError, match="point: got None, expected a network"):
        permute_units_at(model, None, "dense_0", PAIR, np.arange(4))
    for P in (np.arange(3), np.array([0, 0, 1, 2]), {"dense_0": np.arange(4)}):
        with pytest.raises(SpecError):
            permute_units_at(model, point, "dense_0", PAIR, P)
