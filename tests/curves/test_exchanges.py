"""Exchanges of two units: every one of them by the objective itself, one after another."""

from itertools import combinations

import chex
import jax
import numpy as np
import pytest
from refusals import says

from mcjax import InputError, PermutationSpec, SpecError, bezier, random_permutation, trees
from mcjax.curves import exchanges
from mcjax.curves.objective import Objective, midpoint_grid
from mcjax.training.batches import fixed_examples

SETTINGS = {"examples": 40, "points": 3, "batch_size": 20, "weight_decay": 0.02}


@pytest.fixture(scope="module")
def given(ends, tiny_task):
    """A curve and permutations of two pairs."""
    spec = tiny_task.spec
    P = trees.stack([random_permutation(jax.random.key(i), spec, trees.index(ends[1], i)) for i in range(2)])
    theta_c = trees.scale(0.1, ends[0])
    return bezier(spec), *ends, theta_c, P


def test_every_exchange_is_a_candidate(given, tiny_task):
    curve, theta_1, theta_2, theta_c, P = given
    found = exchanges(tiny_task, *given, **SETTINGS)
    fixed, size = fixed_examples(tiny_task, 40, 20)
    objective = Objective(tiny_task, curve, 0.02, midpoint_grid(3), fixed, size)

    def values(candidate):
        single = {group: p[:, None] for group, p in candidate.items()}
        return objective.values(theta_1, theta_2, trees.params(theta_c), single)[:, 0]

    np.testing.assert_allclose(found.objective, values(P), rtol=1e-6)
    better, number = np.zeros(2, int), 0
    for group, p in P.items():
        for i, j in combinations(range(p.shape[1]), 2):
            order = np.arange(p.shape[1])
            order[[i, j]] = j, i
            expected = values({**P, group: p[:, order]})
            for at in ((i, j), (j, i)):
                np.testing.assert_allclose(found.exchanged[group][:, *at], expected, rtol=1e-6)
            better, number = better + (expected < values(P)), number + 1
        diagonal = found.exchanged[group].diagonal(0, 1, 2)
        np.testing.assert_array_equal(diagonal, np.tile(found.objective[:, None], diagonal.shape[1]))
    np.testing.assert_array_equal(found.better, better)
    assert found.number == number == 15 + 10
    assert 0 < better.sum() < 2 * number


def test_one_pair_and_the_straight_line_from_the_identity(given, tiny_task):
    curve, theta_1, theta_2, *_ = given
    many = exchanges(tiny_task, curve, theta_1, theta_2, **SETTINGS)
    one = exchanges(tiny_task, curve, trees.index(theta_1, 1), trees.index(theta_2, 1), **SETTINGS)
    chex.assert_trees_all_close(one, trees.index(many, 1), rtol=1e-6)
    assert one.better.shape == ()


def test_bad_input_is_named(given, tiny_task):
    curve, theta_1, theta_2, theta_c, P = given
    with says(InputError, "points=0"):
        exchanges(tiny_task, curve, theta_1, theta_2, points=0)
    with says(InputError, "weight_decay=-1"):
        exchanges(tiny_task, curve, theta_1, theta_2, weight_decay=-1)
    soft = {group: np.eye(p.shape[1], dtype=np.float32)[p] for group, p in P.items()}
    with says(SpecError, "hard"):
        exchanges(tiny_task, curve, theta_1, theta_2, theta_c, soft)
    bare = PermutationSpec({name: (None,) * (leaf.ndim - 1) for name, leaf in trees.flatten(theta_1).items()})
    with says(InputError, "no units"):
        exchanges(tiny_task, bezier(bare), theta_1, theta_2)
