"""Paths of moves: functions along them, moves in reverse, and paths that are shortened."""

import chex
import numpy as np
import pytest
from segments import check_moves
from variables import drawn

from mcjax import models, trees
from mcjax.constructions.chain import chain_of, on_host
from mcjax.constructions.moves import ChainPathBuilder
from mcjax.constructions.unit_edits import clear_units, copy_units, move_outgoing, unread_units

MODEL = models.create("mlp", 3, (6,), widths=(6, 5))
CONV = models.create("mnist_convnet", 3, (8, 8, 1), width=0.2)


def half(model, units):
    """A network that reads only these units of every layer."""
    chain, theta = chain_of(model), on_host(drawn(model))
    for group, size in zip(chain.groups, chain.sizes, strict=True):
        unit_axis = chain.outgoing(group)
        theta[unit_axis.name] = unit_axis.put(theta[unit_axis.name], np.setdiff1d(np.arange(size), units[group]), 0)
    return theta


@pytest.mark.parametrize("model", [MODEL, CONV], ids=lambda model: model.name)
def test_units_change_places(model):
    chain = chain_of(model)
    units = {g: np.arange(0, n // 2) for g, n in zip(chain.groups, chain.sizes, strict=True)}
    places = {g: np.arange(n - n // 2, n)[::-1] for g, n in zip(chain.groups, chain.sizes, strict=True)}
    theta = half(model, units)
    assert all(set(unread_units(chain, theta)[g]).isdisjoint(units[g]) for g in units)
    builder = ChainPathBuilder(chain, theta)
    builder.move("b", "copy", copy_units(chain, builder.last, units, places))
    builder.move("c", "hand over", move_outgoing(chain, builder.last, units, places))
    np.testing.assert_array_equal(
        unread_units(chain, builder.last)[chain.groups[0]][: len(units)], units[chain.groups[0]][: len(units)]
    )
    builder.move("b", "clear", clear_units(chain, builder.last, units))
    construction = builder.build(drawn(model))
    x = np.random.default_rng(1).normal(size=(5, *model.input_shape))
    check_moves(model, construction, x, tolerance=1e-12)
    assert [move.layers for move in construction.moves] == [
        tuple(range(1, len(units) + 1)),
        tuple(range(2, len(units) + 2)),
        tuple(range(1, len(units) + 1)),
    ]
    # Far from where it began, all the same.
    first, last = (trees.flatten(trees.index(construction.knots, i))[chain.layers[0].kernel] for i in (0, -1))
    assert np.abs(first - last).max() > 0.1


def test_shortening_drops_moves_that_change_nothing():
    chain = chain_of(MODEL)
    theta = half(MODEL, {g: np.arange(2) for g in chain.groups})
    dead = unread_units(chain, theta)
    assert {g: list(units) for g, units in dead.items()} == {"dense_0": [2, 3, 4, 5], "dense_1": [2, 3, 4]}
    builder = ChainPathBuilder(chain, theta)
    builder.move("b", "clear some", clear_units(chain, theta, {g: units[:1] for g, units in dead.items()}))
    builder.move("b", "nothing", builder.last)
    builder.move("b", "clear more", clear_units(chain, builder.last, dead))
    builder.move("a", "nothing either", builder.last)
    long = builder.build(drawn(MODEL))
    short = long.shortened()
    assert [move.layers for move in short.moves] == [(1, 2)]
    assert str(short.moves[0]) == "(b) A_1, A_2: clear some; clear more"
    assert "2. (b) no length: nothing" in str(long)
    assert repr(long) == "Construction of 4 segments"
    for i in (0, -1):
        chex.assert_trees_all_equal(trees.index(long.knots, i), trees.index(short.knots, i))
    check_moves(MODEL, short, np.random.default_rng(0).normal(size=(4, 6)), tolerance=1e-12)
