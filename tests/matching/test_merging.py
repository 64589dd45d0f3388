"""Merging many networks: planted permutations, brute force, the objective against numpy, wrong input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import (
    InputError,
    PermutationSpec,
    SpecError,
    invert,
    match_activations,
    models,
    permute,
    random_permutation,
    trees,
)
from mcjax.matching.merging import match_to_reference, merge
from mcjax.matching.weights import match_weights


def permuted(spec, P, thetas):
    return jax.vmap(lambda p, theta: permute(spec, p, theta))(P, thetas)


def copies(key, model, theta, n, noise=0.0):
    """theta, and n - 1 networks that are it but for the order of units and a little noise; and these orders."""
    keys = jax.random.split(key, n - 1)
    orders = [random_permutation(k, model.spec, theta) for k in keys]
    moved = [
        jax.tree.map(lambda leaf, k=k: leaf + noise * jax.random.normal(k, leaf.shape), permute(model.spec, P, theta))
        for k, P in zip(keys, orders, strict=True)
    ]
    return trees.stack([theta, *moved]), orders


def objective(spec, P, thetas):
    """The sum over pairs of inner products of parameters, one pair after another."""
    moved = permuted(spec, P, thetas)
    flat = [np.float64(leaf) for name, leaf in trees.flatten(moved).items() if not name.startswith("batch_stats")]
    n = len(flat[0])
    return sum(np.vdot(leaf[i], leaf[j]) for leaf in flat for i in range(n) for j in range(i))


@pytest.fixture
def model():
    return models.create("mlp", 4, (6, 6, 1), widths=(12, 9))


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_planted_permutations_of_many_copies_are_undone(model, key, n, noise):
    theta = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), model.init(key))
    thetas, orders = copies(jax.random.fold_in(key, 1), model, theta, n, noise)
    merged = merge(key, model.spec, thetas)
    for group in model.spec.groups:
        assert merged.P[group].shape == (n, len(orders[0][group]))
        np.testing.assert_array_equal(merged.P[group][0], np.arange(len(orders[0][group])))
        for i, planted in enumerate(orders):
            np.testing.assert_array_equal(merged.P[group][i + 1], invert(planted)[group])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 + 4 * noise), merged.theta, theta)


def test_batch_statistics_are_moved_and_averaged_too(key):
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    shapes = jax.eval_shape(model.init, key)
    theta = jax.tree.map(lambda leaf: jax.random.normal(jax.random.fold_in(key, leaf.size), leaf.shape), shapes)
    thetas, _ = copies(key, model, theta, 3)
    merged = merge(key, model.spec, thetas)
    assert merged.theta["batch_stats"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), merged.theta, theta)


@pytest.mark.parametrize("start", [False, True])
def test_the_objective_is_that_of_P_and_never_decreases(model, key, start):
    thetas = jax.vmap(model.init)(jax.random.split(key, 4))
    P = jax.vmap(lambda k: random_permutation(k, model.spec, trees.index(thetas, 0)))(jax.random.split(key, 4))
    identity = jax.tree.map(lambda p: jnp.broadcast_to(jnp.arange(p.shape[1]), p.shape), P)
    merged = merge(key, model.spec, thetas, P if start else None, restarts=1)
    np.testing.assert_allclose(merged.objective[0], objective(model.spec, P if start else identity, thetas), rtol=1e-5)
    np.testing.assert_allclose(merged.objective[-1], objective(model.spec, merged.P, thetas), rtol=1e-5)
    assert (np.diff(merged.objective) >= 0).all()
    assert len(merged.objective) > 2
    assert merged.objective[-1] > merged.objective[0] + 1
    mean = jax.tree.map(lambda leaf: leaf.mean(0), permuted(model.spec, merged.P, thetas))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), merged.theta, mean)
    again = merge(key, model.spec, thetas, P if start else None, restarts=1)
    jax.tree.map(np.testing.assert_array_equal, again.P, merged.P)


def test_no_other_order_of_one_network_is_better(key):
    """One hidden layer of four units: all orders of each of three networks, tried one by one."""
    model = models.create("mlp", 2, (2, 2, 1), widths=(4,))
    thetas = jax.vmap(model.init)(jax.random.split(key, 3))
    P = merge(key, model.spec, thetas).P["dense_0"]
    reached = objective(model.spec, {"dense_0": P}, thetas)
    for i in range(3):
        for order in itertools.permutations(range(4)):
            other = {"dense_0": P.at[i].set(jnp.array(order))}
            assert objective(model.spec, other, thetas) <= reached + 1e-5


@pytest.mark.parametrize("start", [False, True])
def test_of_two_networks_it_is_the_match(model, key, start):
    theta_1, theta_2 = (model.init(k) for k in jax.random.split(key))
    given = random_permutation(key, model.spec, theta_2) if start else None
    plain = match_weights(key, model.spec, theta_1, theta_2, 2, P=given)
    stacked = None if given is None else {g: jnp.stack([jnp.arange(len(p)), p]) for g, p in given.items()}
    merged = merge(key, model.spec, trees.stack([theta_1, theta_2]), stacked, restarts=2)
    for group, p in plain.P.items():
        np.testing.assert_array_equal(merged.P[group][1], p)
    np.testing.assert_allclose(merged.objective[-1], plain.objective, rtol=1e-4)
    middle = jax.tree.map(lambda a, b: (a + b) / 2, theta_1, permute(model.spec, plain.P, theta_2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), merged.theta, middle)


def test_a_start_in_another_order_ends_in_that_of_the_first(model, key):
    """What is already matched, all of it in one random order: nothing is gained, and the order is undone."""
    theta = model.init(key)
    thetas, orders = copies(jax.random.fold_in(key, 1), model, theta, 3)
    common = random_permutation(jax.random.fold_in(key, 2), model.spec, theta)
    P = {
        group: jnp.stack([common[group], *(invert(planted)[group][common[group]] for planted in orders)])
        for group in model.spec.groups
    }
    merged = merge(key, model.spec, thetas, P)
    np.testing.assert_allclose(merged.objective, merged.objective[0], rtol=1e-6)
    assert len(merged.objective) == 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged.theta, theta)


def test_every_network_onto_one_reference(model, key):
    theta = model.init(key)
    thetas, orders = copies(jax.random.fold_in(key, 1), model, theta, 3)
    images = jax.random.normal(key, (50, 6, 6, 1))
    by_weights = match_to_reference(lambda a, b: match_weights(key, model.spec, a, b), theta, thetas)
    by_activations = match_to_reference(lambda a, b: match_activations(model, a, b, images), theta, thetas)
    for group in model.spec.groups:
        expected = np.stack([np.arange(len(orders[0][group])), *(invert(planted)[group] for planted in orders)])
        np.testing.assert_array_equal(by_weights[group], expected)
        np.testing.assert_array_equal(by_activations[group], expected)


def test_a_network_without_groups_is_averaged(key):
    thetas = {"w": jax.random.normal(key, (3, 4))}
    merged = merge(key, PermutationSpec({"w": (None,)}), thetas)
    np.testing.assert_allclose(merged.theta["w"], thetas["w"].mean(0), rtol=1e-6)
    assert merged.P == {}


def test_from_a_given_start_there_is_one_restart_and_else_three(model, key):
    thetas = jax.vmap(model.init)(jax.random.split(key, 2))
    P = jax.vmap(lambda k: random_permutation(k, model.spec, trees.index(thetas, 0)))(jax.random.split(key, 2))
    for start, restarts in ((None, 3), (P, 1)):
        default, given = (merge(key, model.spec, thetas, start, restarts=r) for r in (None, restarts))
        jax.tree.map(np.testing.assert_array_equal, default.P, given.P)


def test_wrong_input_is_named(model, key):
    thetas = jax.vmap(model.init)(jax.random.split(key, 3))
    P = jax.vmap(lambda k: random_permutation(k, model.spec, trees.index(thetas, 0)))(jax.random.split(key, 3))
    with pytest.raises(InputError, match="at least two networks"):
        merge(key, model.spec, trees.index(thetas, slice(0, 1)))
    with pytest.raises(InputError, match="at least two networks"):
        merge(key, model.spec, trees.index(thetas, 0))
    with pytest.raises(InputError, match="max_rounds=0"):
        merge(key, model.spec, thetas, max_rounds=0)
    with pytest.raises(InputError, match=r"expected \(3, n\) for every group"):
        merge(key, model.spec, thetas, trees.index(P, slice(0, 2)))
    with pytest.raises(InputError, match=r"expected \(3, n\) for every group"):
        merge(key, model.spec, thetas, trees.index(P, 0))
    with pytest.raises(SpecError, match="P is for another spec"):
        merge(key, model.spec, thetas, {"dense_0": P["dense_0"]})
    with pytest.raises(SpecError, match="do not fit"):
        merge(key, models.create("tinysix", 3, (8, 8, 3)).spec, thetas)
    with pytest.raises(InputError, match="restarts=0"):
        merge(key, model.spec, thetas, restarts=0)
