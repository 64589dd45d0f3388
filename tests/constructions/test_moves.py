"""Elementary moves: what they change, that they leave functions as they are, and shortening a path."""

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from segments import check_moves
from variables import drawn

from mcjax import InputError, models, trees
from mcjax.constructions.chain import chain, on_host
from mcjax.constructions.moves import (
    Walk,
    check_room,
    cleared,
    copied,
    dead_units,
    handed_over,
    switched,
    written,
)

MODEL = models.create("mlp", 3, (6,), widths=(6, 5))
CONV = models.create("mnist_convnet", 3, (8, 8, 1), width=0.2)


def half(chained, units):
    """A network that reads only these units of every layer."""
    leaves = on_host(drawn(MODEL if chained is chain(MODEL) else CONV))
    gone = {g: np.setdiff1d(np.arange(n), units[g]) for g, n in zip(chained.groups, chained.sizes, strict=True)}
    none = {g: np.array([], int) for g in gone}
    theta = leaves
    for group, dead in gone.items():
        theta = handed_over(chained, theta, {**none, group: dead}, {**none, group: dead})
        name, position, axis = chained.reader(group)
        shape = np.moveaxis(theta[name], position, 0)[axis.positions(theta[name].shape[position])[dead].ravel()].shape
        moved = np.moveaxis(theta[name].copy(), position, 0)
        moved[axis.positions(len(moved))[dead].ravel()] = np.zeros(shape)
        theta = {**theta, name: np.moveaxis(moved, 0, position)}
    return theta


@pytest.mark.parametrize("model", [MODEL, CONV], ids=lambda model: model.name)
def test_units_change_places(model):
    chained = chain(model)
    units = {g: np.arange(0, n // 2) for g, n in zip(chained.groups, chained.sizes, strict=True)}
    places = {g: np.arange(n - n // 2, n)[::-1] for g, n in zip(chained.groups, chained.sizes, strict=True)}
    theta = half(chained, units)
    assert all(set(dead_units(chained, theta)[g]).isdisjoint(units[g]) for g in units)
    walk = Walk(chained, theta)
    walk.to("b", "copy", copied(chained, walk.here, units, places))
    walk.to("c", "hand over", handed_over(chained, walk.here, units, places))
    np.testing.assert_array_equal(
        dead_units(chained, walk.here)[chained.groups[0]][: len(units)], units[chained.groups[0]][: len(units)]
    )
    walk.to("b", "clear", cleared(chained, walk.here, units))
    construction = walk.construction(drawn(model))
    x = np.random.default_rng(1).normal(size=(5, *model.input_shape))
    check_moves(model, construction, x, tolerance=1e-12)
    assert [move.layers for move in construction.moves] == [
        tuple(range(1, len(units) + 1)),
        tuple(range(2, len(units) + 2)),
        tuple(range(1, len(units) + 1)),
    ]
    # Far from where it began, all the same.
    first, last = (trees.flatten(trees.index(construction.knots, i))[chained.layers[0].kernel] for i in (0, -1))
    assert np.abs(first - last).max() > 0.1


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
    chained, theta = chain(normed), on_host(drawn(normed))
    first, second = chained.groups
    found = cleared(chained, theta, {first: np.array([1, 3]), second: np.array([0])})
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
    chained = chain(CONV)
    theta, narrow = on_host(drawn(CONV)), on_host(drawn(narrow_model, 1))
    widths = narrow_model.spec.group_sizes(drawn(narrow_model))
    units = {g: np.arange(n) for g, n in widths.items()}
    rng = np.random.default_rng(0)
    places = {g: rng.permutation(size)[: widths[g]] for g, size in zip(chained.groups, chained.sizes, strict=True)}
    wide = switched(chained, written(chained, theta, narrow, units, places), narrow, units, places)
    x = rng.normal(size=(5, 8, 8, 1)).astype(np.float32)
    got, want = (
        jax.jit(model.apply)(trees.nest(leaves), x) for model, leaves in ((CONV, wide), (narrow_model, narrow))
    )
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-4)


def test_shortening_leaves_out_what_does_not_move():
    chained = chain(MODEL)
    theta = half(chained, {g: np.arange(2) for g in chained.groups})
    dead = dead_units(chained, theta)
    assert {g: list(units) for g, units in dead.items()} == {"dense_0": [2, 3, 4, 5], "dense_1": [2, 3, 4]}
    walk = Walk(chained, theta)
    walk.to("b", "clear some", cleared(chained, theta, {g: units[:1] for g, units in dead.items()}))
    walk.to("b", "nothing", walk.here)
    walk.to("b", "clear more", cleared(chained, walk.here, dead))
    walk.to("a", "nothing either", walk.here)
    long = walk.construction(drawn(MODEL))
    short = long.shortened()
    assert [move.layers for move in short.moves] == [(1, 2)]
    assert str(short.moves[0]) == "(b) A_1, A_2: clear some; clear more"
    assert "2. (b) no length: nothing" in str(long)
    assert repr(long) == "Construction of 4 segments"
    for i in (0, -1):
        chex.assert_trees_all_equal(trees.index(long.knots, i), trees.index(short.knots, i))
    check_moves(MODEL, short, np.random.default_rng(0).normal(size=(4, 6)), tolerance=1e-12)


def test_room_that_is_missing_is_named():
    with pytest.raises(InputError, match=r"room:\n  dense_1: 1 free, 2 needed"):
        check_room(
            chain(MODEL),
            {"dense_0": np.arange(2), "dense_1": np.arange(1)},
            {"dense_0": 2, "dense_1": 2},
            "expected room",
        )
