"""Merging many networks: planted permutations, brute force, the objective against numpy, wrong input."""

from itertools import permutations

import chex
import jax
import numpy as np
import pytest
from refusals import says
from variables import alive, inverse, order, permuted, stacked

from mcjax import InputError, PermutationSpec, SpecError, match_activations, models, trees
from mcjax.matching import merging
from mcjax.matching.merging import match_to_reference, merge
from mcjax.matching.weights import match_weights


@pytest.fixture(scope="module")
def networks(tiny_model):
    """Four networks that have nothing to do with each other."""
    return [alive(tiny_model, seed) for seed in range(4)]


def orders(spec, theta, n):
    """An order of units for each of n networks, with a leading axis."""
    return stacked([order(spec, theta, 10 + i) for i in range(n)])


def copies(spec, theta, n, noise=0.0):
    """theta, and n - 1 networks that are it but for the order of units and a little noise; and these orders."""
    rng = np.random.default_rng(0)
    planted = [order(spec, theta, 20 + i) for i in range(n - 1)]
    moved = [
        jax.tree.map(lambda leaf: np.float32(leaf + noise * rng.normal(size=leaf.shape)), permuted(spec, P, theta))
        for P in planted
    ]
    return stacked([theta, *moved]), planted


def objective(spec, P, thetas):
    """The sum over pairs of inner products of parameters, one pair after another."""
    n = len(jax.tree.leaves(thetas)[0])
    moved = [trees.flatten(permuted(spec, trees.index(P, i), trees.index(thetas, i))) for i in range(n)]
    names = [name for name in moved[0] if not name.startswith("batch_stats")]
    pairs = [(moved[i], moved[j]) for i in range(n) for j in range(i)]
    return sum(np.vdot(np.float64(a[name]), np.float64(b[name])) for a, b in pairs for name in names)


def close(a, b, atol=1e-6):
    chex.assert_trees_all_close(a, b, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("n", [2, 4])
def test_planted_permutations_of_many_copies_are_undone(key, tiny_model, networks, n):
    spec, theta = tiny_model.spec, networks[0]
    for noise in (0.0, 0.02):
        thetas, planted = copies(spec, theta, n, noise)
        merged = merge(key, spec, thetas)
        undone = [{group: np.arange(len(p)) for group, p in planted[0].items()}, *map(inverse, planted)]
        chex.assert_trees_all_equal(merged.P, stacked(undone))
        close(merged.theta, theta, 1e-6 + 4 * noise)


def test_batch_statistics_are_moved_and_averaged_and_do_not_count(key):
    spec = PermutationSpec(
        {"params/in": (None, "h"), "params/out": ("h", None), "batch_stats/mean": ("h",), "batch_stats/other": (None,)}
    )
    shapes = {"params/in": (4, 6), "params/out": (6, 3), "batch_stats/mean": (6,), "batch_stats/other": (2,)}
    rng = np.random.default_rng(0)
    theta = trees.nest({name: np.float32(rng.normal(size=shape)) for name, shape in shapes.items()})
    thetas, _ = copies(spec, theta, 3)
    merged = merge(key, spec, thetas)
    close(merged.theta, theta, 1e-5)
    # As large as they are here, they would decide if they counted.
    far = {name: 1e6 * np.float32(rng.normal(size=leaf.shape)) for name, leaf in thetas["batch_stats"].items()}
    other = merge(key, spec, {**thetas, "batch_stats": far})
    chex.assert_trees_all_equal(other[1:], merged[1:])


@pytest.mark.parametrize("start", [False, True])
def test_the_objective_is_that_of_P_and_never_decreases(key, tiny_model, networks, start):
    spec, thetas = tiny_model.spec, stacked(networks)
    P = orders(spec, networks[0], 4)
    identity = jax.tree.map(lambda p: np.broadcast_to(np.arange(p.shape[1]), p.shape), P)
    merged = merge(key, spec, thetas, P if start else None, restarts=1)
    np.testing.assert_allclose(merged.objective[0], objective(spec, P if start else identity, thetas), rtol=1e-5)
    np.testing.assert_allclose(merged.objective[-1], objective(spec, merged.P, thetas), rtol=1e-5)
    assert (np.diff(merged.objective) >= 0).all()
    assert len(merged.objective) > 2
    assert merged.objective[-1] > merged.objective[0] + 1
    moved = stacked([permuted(spec, trees.index(merged.P, i), theta) for i, theta in enumerate(networks)])
    close(merged.theta, jax.tree.map(lambda leaf: leaf.mean(0), moved))
    chex.assert_trees_all_equal(merge(key, spec, thetas, P if start else None, restarts=1).P, merged.P)


def test_no_other_order_of_one_group_of_one_network_is_better(key, tiny_model, networks):
    """All orders of five units of each of three networks, tried one by one."""
    spec, thetas = tiny_model.spec, stacked(networks[:3])
    P = {group: np.asarray(p) for group, p in merge(key, spec, thetas).P.items()}
    reached = objective(spec, P, thetas)
    for i in range(3):
        for each in permutations(range(5)):
            other = P["dense_1"].copy()
            other[i] = each
            assert objective(spec, {**P, "dense_1": other}, thetas) <= reached + 1e-4


@pytest.mark.parametrize("start", [False, True])
def test_of_two_networks_it_is_the_match(key, tiny_model, networks, start):
    spec, (theta_1, theta_2) = tiny_model.spec, networks[:2]
    given = order(spec, theta_2) if start else None
    plain = match_weights(key, spec, theta_1, theta_2, 2, P=given)
    pair = None if given is None else {group: np.stack([np.arange(len(p)), p]) for group, p in given.items()}
    merged = merge(key, spec, stacked([theta_1, theta_2]), pair, restarts=2)
    chex.assert_trees_all_equal(trees.index(merged.P, 1), plain.P)
    np.testing.assert_allclose(merged.objective[-1], plain.objective, rtol=1e-4)
    close(merged.theta, jax.tree.map(lambda a, b: (a + b) / 2, theta_1, permuted(spec, plain.P, theta_2)))


def test_a_start_in_another_order_ends_in_that_of_the_first(key, tiny_model, networks):
    """Networks already matched, all in one random order: nothing is gained, and the order is undone."""
    spec, theta = tiny_model.spec, networks[0]
    thetas, planted = copies(spec, theta, 3)
    common = order(spec, theta)
    P = stacked([common, *({group: p[common[group]] for group, p in inverse(each).items()} for each in planted)])
    merged = merge(key, spec, thetas, P)
    np.testing.assert_allclose(merged.objective, merged.objective[0], rtol=1e-6)
    assert len(merged.objective) == 2
    close(merged.theta, theta)


def test_every_network_onto_one_reference(key, tiny_task, networks):
    spec, theta = tiny_task.spec, networks[0]
    thetas, planted = copies(spec, theta, 3)
    expected = stacked([{group: np.arange(len(p)) for group, p in planted[0].items()}, *map(inverse, planted)])
    for match in (
        lambda a, b: match_weights(key, spec, a, b),
        lambda a, b: match_activations(tiny_task, a, b),
    ):
        chex.assert_trees_all_equal(match_to_reference(match, theta, thetas), expected)


def test_a_network_without_groups_is_averaged(key):
    thetas = {"w": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
    merged = merge(key, PermutationSpec({"w": (None,)}), thetas)
    np.testing.assert_allclose(merged.theta["w"], thetas["w"].mean(0), rtol=1e-6)
    assert merged.P == {}


def test_from_a_given_start_there_is_one_restart_and_else_three(key, tiny_model, networks, monkeypatch):
    asked = []

    def noted(key, spec, theta_1, theta_2, restarts, **options):
        asked.append(restarts)
        return match_weights(key, spec, theta_1, theta_2, restarts, **options)

    monkeypatch.setattr(merging, "match_weights", noted)
    for n in (2, 3):
        thetas = stacked(networks[:n])
        for P, restarts in ((None, 3), (orders(tiny_model.spec, networks[0], n), 1)):
            asked.clear()
            merge(key, tiny_model.spec, thetas, P, max_rounds=1)
            assert set(asked) == {restarts}
    asked.clear()
    merge(key, tiny_model.spec, thetas, restarts=2, max_rounds=1)
    assert asked == [2, 2, 2]


def test_wrong_input_is_named(key, tiny_model, networks):
    thetas, spec = stacked(networks[:3]), tiny_model.spec
    P = orders(spec, networks[0], 3)
    for changes, error, words in (
        ({"thetas": stacked(networks[:1])}, InputError, ("networks=1", "at least 2")),
        ({"thetas": networks[0]}, InputError, ("leading lengths", "trees.stack(")),
        ({"max_rounds": 0}, InputError, ("max_rounds=0",)),
        ({"restarts": 0}, InputError, ("restarts=0",)),
        ({"P": trees.index(P, slice(0, 2))}, InputError, ("(2, 6)", "(3, n)")),
        ({"P": trees.index(P, 0)}, InputError, ("(6,)", "(3, n)")),
        ({"P": {"dense_0": P["dense_0"]}}, SpecError, ("another spec", "dense_1")),
        ({"spec": models.create("tinysix", 3, (8, 8, 3)).spec}, SpecError, ("Conv_0",)),
        ({"spec": tiny_model}, InputError, ("Model", "PermutationSpec")),
    ):
        with says(error, *words):
            merge(key, **{"spec": spec, "thetas": thetas, **changes})
