"""Straight-through matching: the gradient against finite differences in numpy, what it finds, pairs, bad input."""

from itertools import permutations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import (
    InputError,
    RunError,
    SpecError,
    TrainConfig,
    data,
    invert,
    models,
    nearest_permutation,
    permute,
    random_permutation,
    train_endpoints,
    trees,
)
from mcjax.matching.straight_through import (
    BothEnds,
    StraightThroughConfig,
    StraightThroughStep,
    match_straight_through,
)

CONFIG = StraightThroughConfig(epochs=10, batch_size=20, travel=3.0, images=100)


@pytest.fixture(scope="module")
def ends(tiny_data, tiny_model):
    keys = jax.random.split(jax.random.key(1), 4)
    theta = train_endpoints(keys, tiny_model, tiny_data, TrainConfig(epochs=15, batch_size=20)).theta
    return trees.index(theta, slice(0, 2)), trees.index(theta, slice(2, 4))


@pytest.fixture(scope="module")
def matched(ends, tiny_data, tiny_model):
    """Both pairs, from the identity."""
    return match_straight_through(jax.random.key(0), tiny_model, *ends, tiny_data, identity(2), CONFIG)


def identity(pairs):
    return {"dense_0": np.tile(np.arange(6), (pairs, 1)), "dense_1": np.tile(np.arange(5), (pairs, 1))}


def one(tree):
    return trees.index(tree, 0)


def midpoint_loss(theta_1, theta_2, matrices, x, labels, t=0.5):
    """The cross entropy of an MLP at t, every matrix multiplied by hand."""
    A, B = matrices["dense_0"], matrices["dense_1"]
    h = np.asarray(x, np.float64).reshape(len(x), -1)
    for layer, (into, out) in enumerate(((None, A), (A, B), (B, None))):
        (kernel_1, bias_1), (kernel, bias) = (
            [np.asarray(theta["params"][f"Dense_{layer}"][leaf], np.float64) for leaf in ("kernel", "bias")]
            for theta in (theta_1, theta_2)
        )
        kernel = kernel if into is None else into @ kernel
        kernel, bias = (kernel, bias) if out is None else (kernel @ out.T, out @ bias)
        h = h @ ((1 - t) * kernel_1 + t * kernel) + (1 - t) * bias_1 + t * bias
        h = np.maximum(h, 0) if out is not None else h
    return (np.log(np.exp(h).sum(1)) - h[np.arange(len(labels)), labels]).mean()


def on_first_images(ends, P, tiny_data, images=100):
    """What `match.objective` says of P: the batches are equal, so one over all images."""
    x = data.normalize(tiny_data.train_images[:images], tiny_data.mean, tiny_data.std)
    matrices = {group: np.eye(len(p))[np.asarray(p)] for group, p in P.items()}
    return midpoint_loss(*ends, matrices, x, tiny_data.train_labels[:images])


@pytest.mark.parametrize("random_t", [False, True])
def test_the_gradient_is_that_of_a_matrix_at_the_permutation(key, tiny_data, tiny_model, random_t):
    rng = np.random.default_rng(0)
    config = StraightThroughConfig(epochs=1, batch_size=20, random_t=random_t)
    step = StraightThroughStep(tiny_model, config, 6)
    behind = {group: rng.normal(size=(n, n)).astype(np.float32) for group, n in (("dense_0", 6), ("dense_1", 5))}
    begun = step.init({group: jnp.arange(len(M)) for group, M in behind.items()})._replace(matrices=behind)
    theta_1, theta_2 = (
        jax.tree.map(lambda leaf: 0.4 * rng.normal(size=leaf.shape).astype(np.float32), tiny_model.init(key))
        for _ in range(2)
    )
    x = data.normalize(tiny_data.train_images[:30], tiny_data.mean, tiny_data.std)
    labels = tiny_data.train_labels[:30]
    state, measured = jax.jit(step)(BothEnds(theta_1, theta_2), begun, x, labels, key)
    # Adam's first moment is a tenth of the first gradient.
    gradient = jax.tree.map(lambda mu: np.asarray(mu) / 0.1, state.optimizer[0].mu)

    hard = {group: np.eye(len(M))[nearest_permutation(M)] for group, M in behind.items()}
    ts = np.array([0.5])
    if random_t:  # it is not told, but it is one of those with the loss that was measured
        ts = np.linspace(0, 1, 1001)
        ts = crossings(ts, [midpoint_loss(theta_1, theta_2, hard, x, labels, t) for t in ts], measured.loss)
        assert np.abs(ts - 0.5).min() > 0.01
    else:
        np.testing.assert_allclose(measured.loss, midpoint_loss(theta_1, theta_2, hard, x, labels), rtol=1e-5)
    apart = []
    for t in ts:
        expected = loss_slopes(theta_1, theta_2, hard, x, labels, t)
        assert all(np.abs(each).max() > 1e-2 for each in expected.values())
        apart.append(max(np.abs(gradient[g] - each).max() / np.abs(each).max() for g, each in expected.items()))
    assert min(apart) < (1e-2 if random_t else 1e-4)


def crossings(ts, values, level):
    """Where the values along ts pass the level, by linear interpolation."""
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


def test_the_objective_is_the_loss_at_midpoints_of_start_and_result(matched, ends, tiny_data):
    assert matched.objective.shape == (2, 11)
    assert matched.objective.dtype == np.float64
    assert matched.history["loss"].shape == (2, 10)
    for i in range(2):
        pair, P = trees.index(ends, i), trees.index(matched.P, i)
        start = on_first_images(pair, {group: np.arange(len(p)) for group, p in P.items()}, tiny_data)
        np.testing.assert_allclose(matched.objective[i, 0], start, rtol=1e-4)
        # What is returned is the best of all, so never worse than the start.
        np.testing.assert_allclose(matched.objective[i].min(), on_first_images(pair, P, tiny_data), rtol=1e-4)
        for p in P.values():
            assert p.dtype == np.int32
            np.testing.assert_array_equal(np.sort(p), np.arange(len(p)))


def test_trained_networks_come_closer(matched):
    assert (matched.objective.min(1) < 0.7 * matched.objective[:, 0]).all()


def taught(widths):
    """A network whose units all matter, images labelled by it, and a function of networks: their loss there."""
    rng = np.random.default_rng(0)
    model = models.create("mlp", 3, (4, 4, 1), widths=widths)
    theta = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), model.init(jax.random.key(0)))
    images = rng.integers(0, 256, (240, 4, 4, 1)).astype(np.uint8)
    x = data.normalize(images, [images.mean() / 255], [images.std() / 255])
    labels = np.asarray(model.apply(theta, x).argmax(1))
    assert len(set(labels)) > 1

    def loss(theta):
        logits = np.asarray(model.apply(theta, x), np.float64)
        return (np.log(np.exp(logits).sum(1)) - logits[np.arange(240), labels]).mean()

    return model, theta, data.from_arrays(images, labels, images, labels, 3), loss


def test_a_planted_permutation_is_kept(key):
    model, theta, images, loss = taught((6, 5))
    planted = random_permutation(key, model.spec, theta)
    other = permute(model.spec, invert(planted), theta)
    config = StraightThroughConfig(epochs=4, batch_size=40, travel=6.0, images=240)
    match = match_straight_through(key, model, theta, other, images, planted, config)
    # Wherever the matrices go, nothing is as good as the network itself.
    np.testing.assert_allclose(match.objective[0], loss(theta), rtol=1e-4)
    assert match.objective[1:].min() > 1.1 * match.objective[0]
    jax.tree.map(np.testing.assert_array_equal, match.P, planted)


def test_it_starts_from_the_weights_and_so_finds_what_was_planted(key):
    model, theta, images, loss = taught((6, 5))
    planted = random_permutation(key, model.spec, theta)
    other = permute(model.spec, invert(planted), theta)
    config = StraightThroughConfig(epochs=2, batch_size=40, images=240)
    match = match_straight_through(key, model, theta, other, images, config=config)
    jax.tree.map(np.testing.assert_array_equal, match.P, planted)
    np.testing.assert_allclose(match.objective[0], loss(theta), rtol=1e-4)


def test_the_objective_is_that_of_permutations_and_the_least_is_returned(key):
    model, theta, images, loss = taught((3,))
    rng, pairs = np.random.default_rng(1), 5
    others = jax.tree.map(lambda leaf: rng.normal(size=(pairs, *leaf.shape)).astype(np.float32), theta)
    first = jax.tree.map(lambda leaf: np.stack([leaf] * pairs), theta)
    start = np.stack([rng.permutation(3) for _ in range(pairs)])
    config = StraightThroughConfig(epochs=20, batch_size=40, travel=12.0, images=240)
    match = match_straight_through(key, model, first, others, images, {"dense_0": start}, config)
    for i in range(pairs):
        values = {}
        for p in permutations(range(3)):
            end = permute(model.spec, {"dense_0": np.array(p)}, trees.index(others, i))
            values[p] = loss(jax.tree.map(lambda a, b: (a + b) / 2, theta, end))
        np.testing.assert_allclose(match.objective[i, 0], values[tuple(start[i])], rtol=1e-4)
        np.testing.assert_allclose(match.objective[i].min(), values[tuple(match.P["dense_0"][i])], rtol=1e-4)
        # One of the six after every epoch.
        apart = np.abs(match.objective[i][:, None] / np.array(list(values.values()))[None] - 1)
        assert apart.min(1).max() < 1e-4
    assert (match.P["dense_0"] != start).any(1).sum() >= 2


def test_the_same_key_gives_the_same_bits(matched, ends, tiny_data, tiny_model):
    again, other = (
        match_straight_through(jax.random.key(seed), tiny_model, *ends, tiny_data, identity(2), CONFIG)
        for seed in (0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, again, matched)
    assert (other.history["loss"] != matched.history["loss"]).any()


def test_a_pair_is_itself_among_others(matched, ends, tiny_data, tiny_model):
    # Both pairs start where the first ended; the first alone is compared on the same images.
    P = jax.tree.map(lambda p: np.stack([p[0], p[0]]), matched.P)
    together = match_straight_through(jax.random.key(2), tiny_model, *ends, tiny_data, P, CONFIG)
    np.testing.assert_allclose(together.objective[0, 0], matched.objective[0].min(), rtol=1e-6)
    alone = match_straight_through(jax.random.key(2), tiny_model, *map(one, ends), tiny_data, one(P), CONFIG)
    assert alone.objective.shape == (11,)
    assert alone.history["loss"].shape == (10,)
    assert alone.P["dense_0"].shape == (6,)
    np.testing.assert_allclose(alone.objective[0], together.objective[0, 0], rtol=1e-5)
    np.testing.assert_allclose(alone.objective.min(), on_first_images(map(one, ends), alone.P, tiny_data), rtol=1e-4)


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(6)(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dense(3)(nn.relu(x))


def test_a_network_with_batch_statistics(key, tiny_data):
    model = models.from_flax(Normalised(), jnp.zeros((1, 8, 8, 1)))
    (group,) = model.spec.groups
    theta_1, theta_2 = (model.init(k) for k in jax.random.split(key))
    config = StraightThroughConfig(epochs=2, batch_size=60, images=60)
    start = {group: np.arange(6)}
    match = match_straight_through(key, model, theta_1, theta_2, tiny_data, start, config)
    x = np.asarray(data.normalize(tiny_data.train_images[:60], tiny_data.mean, tiny_data.std), np.float64)
    for P, value in ((np.arange(6), match.objective[0]), (match.P[group], match.objective.min())):
        first, second = (jax.tree.map(np.float64, theta["params"]) for theta in (theta_1, theta_2))
        # The bias of the first layer makes no difference to what is normalised.
        h = x.reshape(60, -1) @ (first["Dense_0"]["kernel"] + second["Dense_0"]["kernel"][:, P]) / 2
        h = np.maximum((h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5), 0)
        logits = h @ (first["Dense_1"]["kernel"] + second["Dense_1"]["kernel"][P]) / 2
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(60), tiny_data.train_labels[:60]]
        np.testing.assert_allclose(value, losses.mean(), rtol=1e-4)


def test_bad_input_is_named(ends, key, tiny_data, tiny_model):
    theta_1, theta_2 = map(one, ends)

    def match(a=theta_1, b=theta_2, P=None, key=key, images=tiny_data, config=CONFIG):
        return match_straight_through(key, tiny_model, a, b, images, P, config)

    with pytest.raises(SpecError, match=r"P is for another spec: got groups \['dense_0'\]"):
        match(P={"dense_0": np.arange(6)})
    with pytest.raises(SpecError, match=r"dense_1: not a permutation of 0\.\.4; repeated \[1\]"):
        match(P={"dense_0": np.arange(6), "dense_1": np.array([0, 1, 1, 3, 4])})
    with pytest.raises(SpecError, match=r"dense_0: got shape \(5,\), expected \(6,\)"):
        match(P={"dense_0": np.arange(5), "dense_1": np.arange(5)})
    with pytest.raises(SpecError, match="no leading axis of 2 pairs in dense_0, dense_1"):
        match(*ends, P={"dense_0": np.arange(6), "dense_1": np.arange(5)})
    with pytest.raises(SpecError, match="no leading axis of 2 pairs"):
        match(*ends, P=identity(3))
    with pytest.raises(SpecError, match="matrices for dense_0, expected a hard P"):
        match(P={"dense_0": np.eye(6, dtype=np.float32), "dense_1": np.arange(5)})
    with pytest.raises(SpecError, match="got tuple for P"):
        match(P=(np.arange(6), np.arange(5)))
    with pytest.raises(InputError, match="got a TrainConfig for config"):
        match(config=TrainConfig())
    nothing = tiny_model._replace(spec=tiny_model.spec.without("dense_0", "dense_1"))
    with pytest.raises(InputError, match="there is nothing to match"):
        match_straight_through(key, nothing, theta_1, theta_2, tiny_data)
    with pytest.raises(InputError, match=r"got images=1\.5, expected a whole number"):
        StraightThroughConfig(images=1.5)
    with pytest.raises(SpecError, match=r"Dense_1/kernel: got \(6, 4\), expected \(6, 5\)"):
        match(b=models.create("mlp", 3, (8, 8, 1), widths=(6, 4)).init(key))
    with pytest.raises(InputError, match="different numbers of networks"):
        match(b=ends[1])
    with pytest.raises(InputError, match="got int for a key"):
        match(key=0)
    with pytest.raises(InputError, match="got batch_size=500, expected at most the 120 training images"):
        match(config=StraightThroughConfig(batch_size=500))
    with pytest.raises(RunError, match="not finite in epoch 1"):
        match(ends[0], jax.tree.map(lambda leaf: leaf * jnp.nan, ends[1]), P=identity(2))
    with pytest.raises(InputError, match=r"weights .* are not finite"):
        match(ends[0], jax.tree.map(lambda leaf: leaf * jnp.nan, ends[1]))
    with pytest.raises(InputError, match="images=0"):
        StraightThroughConfig(images=0)
    with pytest.raises(InputError, match=r"got travel=0\.0, expected it to be positive"):
        StraightThroughConfig(travel=0.0)
    with pytest.raises(InputError, match="got epochs=0"):
        StraightThroughConfig(epochs=0)
