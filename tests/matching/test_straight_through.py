"""Straight-through matching: the gradient against finite differences in numpy, what it finds, pairs, bad input."""

from dataclasses import replace
from itertools import pairwise

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from refusals import says
from streams import Epochs
from variables import alive, cross_entropy, inverse, mlp, normalized, order, permuted, spaced, stacked

from mcjax import InputError, SpecError, Task, TrainConfig, models, nearest_permutation, supervised, trees
from mcjax.matching.straight_through import (
    StraightThroughConfig,
    _adam,
    match_straight_through,
    straight_through_fit,
)
from mcjax.training.loop import EpochPlan, initial_states, run_epochs

# From the identity it has far to go. Epochs of two steps, so that permutations move from one to the next.
CONFIG = StraightThroughConfig(epochs=12, steps_per_epoch=2, batch_size=20, travel=6.0, examples=100)
SIZES = {"dense_0": 6, "dense_1": 5}
P = {group: np.arange(n, dtype=np.int32) for group, n in SIZES.items()}


@pytest.fixture(scope="module")
def ends(tiny_networks):
    return tuple(trees.index(jax.tree.map(np.asarray, tiny_networks), slice(i, i + 2)) for i in (0, 2))


@pytest.fixture(scope="module")
def matched(ends, tiny_task):
    """Both pairs, from the identity."""
    return match_straight_through(jax.random.key(0), tiny_task, *ends, identity(2), CONFIG)


def identity(pairs):
    return {group: np.tile(p, (pairs, 1)) for group, p in P.items()}


def midpoint_loss(theta_1, theta_2, matrices, x, labels, t=0.5):
    """The cross entropy of an MLP at t, every matrix multiplied by hand."""
    A, B = matrices["dense_0"], matrices["dense_1"]
    params = {}
    for layer, (into, out) in enumerate(((None, A), (A, B), (B, None))):
        one, other = (
            {leaf: np.asarray(value, np.float64) for leaf, value in theta["params"][f"Dense_{layer}"].items()}
            for theta in (theta_1, theta_2)
        )
        kernel = other["kernel"] if into is None else into @ other["kernel"]
        moved = {"kernel": kernel, "bias": other["bias"]}
        moved = moved if out is None else {"kernel": kernel @ out.T, "bias": out @ other["bias"]}
        params[f"Dense_{layer}"] = {leaf: (1 - t) * one[leaf] + t * moved[leaf] for leaf in one}
    return cross_entropy(mlp({"params": params}, x)[-1], labels).mean()


def on_some_images(ends, P, data, images=100):
    """The value of `match.info["objectives"]` for P: the batches are equal, so one over all images."""
    matrices = {group: np.eye(len(p))[np.asarray(p)] for group, p in P.items()}
    x, labels = (spaced(each, images) for each in (data.train_images, data.train_labels))
    return midpoint_loss(*ends, matrices, normalized(x, data), labels)


@pytest.mark.parametrize("random_t", [False, True])
def test_the_gradient_is_that_of_a_matrix_at_the_permutation(key, tiny_data, tiny_model, tiny_task, random_t):
    rng = np.random.default_rng(0)
    fit = straight_through_fit(tiny_task, tiny_model.spec, 1, 6, random_t=random_t)
    behind = {group: rng.normal(size=(n, n)).astype(np.float32) for group, n in SIZES.items()}
    theta_1, theta_2 = (
        jax.tree.map(lambda leaf: np.float32(0.4 * rng.normal(size=leaf.shape)), alive(tiny_model)) for _ in range(2)
    )
    x, labels = normalized(tiny_data.train_images[:30], tiny_data), tiny_data.train_labels[:30]

    @jax.jit
    def once(P, matrices, key):
        batch = jax.tree.map(lambda leaf: leaf[:30], tiny_task.train)
        return fit.step(fit.init(theta_1, theta_2, P)._replace(variables=matrices), batch, key)

    state, measured = once(P, behind, key)
    # Adam's first moment is a tenth of the first gradient.
    gradient = jax.tree.map(lambda mu: np.asarray(mu) / 0.1, state.optimizer[0].mu)

    hard = {group: np.eye(len(M))[nearest_permutation(M)] for group, M in behind.items()}
    ts = np.array([0.5])
    if random_t:  # it is one of those with the loss that was measured
        ts = np.linspace(0, 1, 1001)
        ts = crossings(ts, [midpoint_loss(theta_1, theta_2, hard, x, labels, t) for t in ts], measured["loss"])
        assert np.abs(ts - 0.5).min() > 0.01
        assert np.abs(ts - float(measured["t"])).min() < 1e-3
    else:
        np.testing.assert_allclose(measured["loss"], midpoint_loss(theta_1, theta_2, hard, x, labels), rtol=1e-5)
    apart = []
    for t in ts:
        expected = loss_slopes(theta_1, theta_2, hard, x, labels, t)
        assert all(np.abs(each).max() > 1e-2 for each in expected.values())
        apart.append(max(np.abs(gradient[g] - each).max() / np.abs(each).max() for g, each in expected.items()))
    assert min(apart) < (1e-2 if random_t else 1e-4)


def crossings(ts, values, level):
    """The t at which the values along ts pass the level, by linear interpolation."""
    above = np.asarray(values) - float(level)
    at = np.flatnonzero(np.diff(np.sign(above)))
    return ts[at] - above[at] * (ts[at + 1] - ts[at]) / (above[at + 1] - above[at])


def loss_slopes(theta_1, theta_2, hard, x, labels, t, epsilon=1e-6):
    found = {group: np.zeros_like(M) for group, M in hard.items()}
    for group, M in hard.items():
        for at in np.ndindex(M.shape):
            moved = np.zeros_like(M)
            moved[at] = epsilon
            losses = [
                midpoint_loss(theta_1, theta_2, {**hard, group: M + sign * moved}, x, labels, t) for sign in (1, -1)
            ]
            found[group][at] = (losses[0] - losses[1]) / (2 * epsilon)
    return found


def test_a_constant_gradient_moves_an_entry_by_the_configured_distance():
    optimizer = _adam(CONFIG.travel, 24)

    @jax.jit
    def travelled():
        def pushed(state, _):
            update, state = optimizer.update(np.float32(1), state)
            return state, update

        return jax.lax.scan(pushed, optimizer.init(np.float32(0)), length=24)[1]

    np.testing.assert_allclose(travelled().sum(), -CONFIG.travel, rtol=0.05)


def test_the_objective_is_the_loss_at_midpoints_of_start_and_result(matched, ends, tiny_data):
    assert matched.info["objectives"].shape == (2, 13)
    assert matched.info["objectives"].dtype == np.float64
    assert matched.info["history"]["loss"].shape == (2, 12)
    for i in range(2):
        pair, found = trees.index(ends, i), trees.index(matched.P, i)
        start = on_some_images(pair, P, tiny_data)
        np.testing.assert_allclose(matched.info["objectives"][i, 0], start, rtol=1e-4)
        # What is returned is the best of all, so never worse than the start.
        np.testing.assert_allclose(matched.objective[i], on_some_images(pair, found, tiny_data), rtol=1e-4)
        assert all(p.dtype == np.int32 for p in found.values())
        assert all((np.sort(p) == np.arange(len(p))).all() for p in found.values())
    np.testing.assert_array_equal(matched.objective, matched.info["objectives"].min(1))
    # Trained networks come closer.
    assert (matched.info["objectives"].min(1) < 0.7 * matched.info["objectives"][:, 0]).all()


def test_the_permutations_at_the_end_of_every_epoch_are_compared(key, tiny_data, tiny_model, tiny_task):
    """Trained anew for one epoch, for two, ...: the matrices then, rounded by scipy, and their loss in numpy."""
    each = [jax.tree.map(lambda leaf: 2 * leaf, alive(tiny_model, seed)) for seed in range(4)]
    ends = stacked(each[:2]), stacked(each[2:])
    match = match_straight_through(key, tiny_task, *ends, identity(2), CONFIG)
    fit = straight_through_fit(tiny_task, tiny_task.spec, CONFIG.epochs, 2, travel=CONFIG.travel)
    keys = jax.random.split(key, 2)
    seen = []
    for epochs in range(1, CONFIG.epochs + 1):
        begun = initial_states(fit, *ends, identity(2))
        states, _ = run_epochs(fit, tiny_task, EpochPlan(20, 2), begun, keys, epochs)
        P = {group: nearest_permutation(M) for group, M in states.variables.items()}
        expected = [on_some_images(trees.index(ends, i), trees.index(P, i), tiny_data) for i in range(2)]
        np.testing.assert_allclose(match.info["objectives"][:, epochs], expected, rtol=1e-4)
        seen.append(np.array(expected))
    # They move from epoch to epoch, so that what another epoch or another step leaves would not do.
    assert sum((a != b).any() for a, b in pairwise(seen)) >= 4


def test_a_planted_permutation_is_kept_and_found_from_the_weights(key, tiny_data, tiny_model):
    """A network whose units all matter, on images labelled by it, and two copies of it in other orders."""
    theta, spec = jax.tree.map(lambda leaf: 3 * leaf, alive(tiny_model, 5)), tiny_model.spec
    x = normalized(tiny_data.train_images, tiny_data)
    labels = mlp(theta, x)[-1].argmax(1).astype(np.int32)
    assert len(set(labels)) > 1
    task = supervised(tiny_model, replace(tiny_data, train_labels=labels))
    planted = stacked([order(spec, theta, seed) for seed in range(2)])
    others = stacked([permuted(spec, inverse(trees.index(planted, i)), theta) for i in range(2)])
    best = cross_entropy(mlp(theta, spaced(x, 100))[-1], spaced(labels, 100)).mean()
    for P in (planted, None):
        match = match_straight_through(key, task, stacked([theta] * 2), others, P, CONFIG)
        np.testing.assert_allclose(match.info["objectives"][:, 0], best, rtol=1e-4)
        # Wherever the matrices go, nothing is as good as the network itself.
        assert (match.info["objectives"] >= match.info["objectives"][:, :1]).all()
        assert (match.info["objectives"].max(1) > 1.1 * best).all()
        chex.assert_trees_all_equal(match.P, planted)


def test_the_same_key_gives_the_same_bits(matched, ends, tiny_task):
    again, other = (
        match_straight_through(jax.random.key(seed), tiny_task, *ends, identity(2), CONFIG) for seed in (0, 1)
    )
    chex.assert_trees_all_equal(again, matched)
    assert (other.info["history"]["loss"] != matched.info["history"]["loss"]).any()


def test_a_pair_is_itself_among_others(matched, ends, tiny_data, tiny_task):
    # It starts where the first of both ended; on the same images it is compared there.
    P, pair = trees.index(matched.P, 0), trees.index(ends, 0)
    alone = match_straight_through(jax.random.key(2), tiny_task, *pair, P, CONFIG)
    assert (alone.info["objectives"].shape, alone.info["history"]["loss"].shape) == ((13,), (12,))
    assert (alone.objective.shape, alone.P["dense_0"].shape) == ((), (6,))
    np.testing.assert_allclose(alone.info["objectives"][0], matched.info["objectives"][0].min(), rtol=1e-5)
    np.testing.assert_allclose(alone.objective, on_some_images(pair, alone.P, tiny_data), rtol=1e-4)


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(6)(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dense(3)(nn.relu(x))


def test_a_network_with_batch_statistics(key, tiny_data):
    model = models.from_flax(Normalised(), np.zeros((1, 8, 8, 1), np.float32))
    (group,) = model.spec.groups
    ends = [alive(model, seed) for seed in range(2)]
    for theta in ends:
        theta["params"]["BatchNorm_0"] = {"scale": np.ones(6, np.float32), "bias": np.zeros(6, np.float32)}
    config = StraightThroughConfig(epochs=2, batch_size=60, examples=60)
    match = match_straight_through(key, supervised(model, tiny_data), *ends, {group: np.arange(6)}, config)
    x = np.float64(normalized(spaced(tiny_data.train_images, 60), tiny_data)).reshape(60, -1)
    first, second = (jax.tree.map(np.float64, theta["params"]) for theta in ends)
    for P, value in ((np.arange(6), match.info["objectives"][0]), (match.P[group], match.objective)):
        # The bias of the first layer makes no difference to what is normalised.
        h = x @ (first["Dense_0"]["kernel"] + second["Dense_0"]["kernel"][:, P]) / 2
        h = np.maximum((h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5), 0)
        logits = h @ (first["Dense_1"]["kernel"] + second["Dense_1"]["kernel"][P]) / 2
        logits += (first["Dense_1"]["bias"] + second["Dense_1"]["bias"]) / 2
        np.testing.assert_allclose(value, cross_entropy(logits, spaced(tiny_data.train_labels, 60)).mean(), rtol=1e-4)


def test_bad_input_is_named(ends, key, tiny_model, tiny_task):
    one, nan = trees.index(ends, 0), jax.tree.map(lambda leaf: leaf * np.float32(np.nan), ends[1])
    narrow = alive(models.create("mlp", 3, (8, 8, 1), widths=(6, 4)))
    fixed = tiny_task.replace(spec=tiny_model.spec.without(*SIZES))
    for ends_, changes, error, words in (
        (one, {"P": {"dense_0": P["dense_0"]}}, SpecError, ("another spec", "['dense_0']")),
        (one, {"P": {**P, "dense_1": np.array([0, 1, 1, 3, 4])}}, SpecError, ("dense_1", "repeated [1]")),
        (one, {"P": {**P, "dense_0": np.arange(5)}}, SpecError, ("dense_0", "(5,)", "(6,)")),
        (one, {"P": {**P, "dense_0": np.eye(6, dtype=np.float32)}}, SpecError, ("matrices for dense_0",)),
        (one, {"P": tuple(P.values())}, SpecError, ("tuple",)),
        (ends, {"P": P}, SpecError, ("2 pairs", "dense_0, dense_1")),
        (ends, {"P": identity(3)}, SpecError, ("2 pairs",)),
        ((ends[0], nan), {"P": identity(2)}, InputError, ("Dense_0", "infinity or NaN")),
        ((ends[0], nan), {}, InputError, ("Dense_0", "infinity or NaN")),
        ((one[0], ends[1]), {}, InputError, ("theta_1", "theta_2")),
        ((one[0], narrow), {}, SpecError, ("Dense_1/kernel", "(6, 4)", "(6, 5)")),
        (one, {"config": TrainConfig()}, InputError, ("TrainConfig", "StraightThroughConfig")),
        (one, {"config": replace(CONFIG, batch_size=500)}, InputError, ("batch_size=500", "120")),
        (one, {"key": 0}, InputError, ("int",)),
        (one, {"task": fixed}, InputError, ("no units", "spec")),
        (one, {"task": Task(tiny_task.loss, tiny_task.train)}, InputError, ("no units", "spec")),
    ):
        given = {"key": key, "task": tiny_task, "config": CONFIG, **changes}
        with says(error, *words):
            match_straight_through(theta_1=ends_[0], theta_2=ends_[1], **given)


@pytest.mark.parametrize(("name", "value"), [("examples", 0), ("examples", 1.5), ("travel", 0.0), ("epochs", 0)])
def test_settings_that_cannot_be_are_named(name, value):
    with says(InputError, f"{name}={value}"):
        StraightThroughConfig(**{name: value})


def test_the_same_batches_from_the_host_give_the_same_bits(tiny_ends, tiny_data, tiny_task, key):
    """The permutations are compared on the first examples of the stream."""
    config = replace(CONFIG, epochs=3)
    source = Epochs(tiny_task.train, 17, EpochPlan(20, 2), jax.random.split(key, 1)[0])
    streamed = tiny_task.with_examples(train=source.stream(1, 20))
    found, arrays = (match_straight_through(key, task, *tiny_ends, P, config) for task in (streamed, tiny_task))
    np.testing.assert_array_equal(found.info["history"]["loss"], arrays.info["history"]["loss"])
    first = source.order(0)
    x, labels = normalized(tiny_data.train_images[first], tiny_data), tiny_data.train_labels[first]
    expected = midpoint_loss(*tiny_ends, {group: np.eye(n) for group, n in SIZES.items()}, x, labels)
    np.testing.assert_allclose(found.info["objectives"][0], expected, rtol=1e-4)
