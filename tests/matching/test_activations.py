"""Neuron alignment: planted permutations, correlations against numpy, dead units, trunks, pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import InputError, SpecError, data, invert, match_activations, models, permute, random_permutation, trees
from mcjax.matching.activations import Moments, _merge, _moments_of

SMALL = {
    "mlp": {"input_shape": (6, 6, 1), "widths": (24, 17)},
    "tinysix": {"input_shape": (12, 12, 3)},
    "tinyten": {"input_shape": (16, 16, 3), "width": 0.5},
    "resnet20": {"input_shape": (8, 8, 3), "width": 0.5},
}
LARGE = {
    "resnet32": {"input_shape": (8, 8, 3)},
    "vgg11": {"input_shape": (32, 32, 3), "width": 0.25},
    "vgg16": {"input_shape": (32, 32, 3), "width": 0.25},
}


def network(name, options, key):
    options = dict(options)
    model = models.create(name, 5, options.pop("input_shape"), **options)
    theta = jax.jit(model.init)(key)
    x = jax.random.normal(jax.random.fold_in(key, 1), (64, *model.input_shape))
    # Statistics of its own, so that deep units stay alive; a spread of biases, so that they differ.
    noise = trees.map_with_name(lambda name, leaf: jax.random.normal(key, leaf.shape) * 0.1, theta["params"])
    theta = {**theta, "params": trees.add(theta["params"], noise)}
    return model, trees.with_batch_stats(theta, model.apply_train(theta, x, key)[1]), x


@pytest.mark.parametrize(
    ("name", "options"),
    [*SMALL.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in LARGE.items())],
)
def test_a_planted_permutation_is_recovered(name, options, key):
    model, theta, x = network(name, options, key)
    planted = random_permutation(jax.random.fold_in(key, 2), model.spec, theta)
    match = match_activations(model, theta, permute(model.spec, planted, theta), x, batch_size=32)
    for group, p in invert(planted).items():
        alive = np.diagonal(match.correlation[group][:, match.P[group]]) > 0.5
        assert alive.mean() > 0.8, f"{group}: too many dead units to tell"
        np.testing.assert_array_equal(match.P[group][alive], np.asarray(p)[alive])
        np.testing.assert_allclose(match.after[group], alive.mean(), atol=1e-3)
    again = match_activations(model, theta, theta, x, batch_size=32)
    assert all((p == np.arange(len(p))).all() for p in again.P.values())


@pytest.fixture
def pair(key):
    model = models.create("mlp", 5, (6, 6, 1), widths=(9, 7))
    theta_1, theta_2 = (model.init(k) for k in jax.random.split(key))
    return model, theta_1, theta_2, 3 + 2 * jax.random.normal(key, (50, 6, 6, 1))


@pytest.mark.parametrize("batch_size", [1, 16, 50, 400])
def test_correlation_is_pearsons_whatever_the_batches(pair, batch_size):
    model, theta_1, theta_2, x = pair
    match = match_activations(model, theta_1, theta_2, x, batch_size)
    for group, n in (("dense_0", 9), ("dense_1", 7)):
        a, b = (np.asarray(model.activations(theta, x)[group][0], np.float64) for theta in (theta_1, theta_2))
        alive = np.outer(a.std(0) > 0, b.std(0) > 0)
        with np.errstate(invalid="ignore"):
            expected = np.where(alive, np.corrcoef(a.T, b.T)[:n, n:], 0)
        np.testing.assert_allclose(match.correlation[group], expected, atol=2e-5)
        np.testing.assert_allclose(match.before[group], np.diagonal(expected).mean(), atol=2e-5)


@pytest.mark.parametrize("cost", ["correlation", "covariance", "inner_product"])
def test_the_match_maximises_its_cost(pair, cost):
    from itertools import permutations

    model, theta_1, theta_2, x = pair
    match = match_activations(model, theta_1, theta_2, x, cost=cost)
    a, b = (np.asarray(model.activations(theta, x)["dense_1"][0], np.float64) for theta in (theta_1, theta_2))
    gain = {
        "correlation": np.nan_to_num(match.correlation["dense_1"].astype(np.float64)),
        "covariance": (a - a.mean(0)).T @ (b - b.mean(0)) / len(a),
        "inner_product": a.T @ b / len(a),
    }[cost]
    best = max(sum(gain[i, p[i]] for i in range(7)) for p in permutations(range(7)))
    found = sum(gain[i, match.P["dense_1"][i]] for i in range(7))
    np.testing.assert_allclose(found, best, rtol=1e-4)


def test_moments_merge_without_loss_far_from_zero():
    rng = np.random.default_rng(0)
    a, b = 1000 + rng.normal(size=(2, 400, 3))
    total = _moments_of(jnp.asarray(a[:1], jnp.float32), jnp.asarray(b[:1], jnp.float32))
    for start in range(1, 400, 21):
        part = (jnp.asarray(m[start : start + 21], jnp.float32) for m in (a, b))
        total = _merge(total, _moments_of(*part))
    np.testing.assert_allclose(total.product / total.samples, np.cov(a.T, b.T, bias=True)[:3, 3:], atol=1e-3)
    assert isinstance(total, Moments)


def test_correlation_ignores_the_scale_of_units(pair):
    model, theta_1, theta_2, x = pair
    scales = jnp.array([0.1, 1.0, 5.0, 20.0, 0.5, 2.0, 3.0, 0.01, 7.0])
    params = {**theta_2["params"]}
    params["Dense_0"] = {
        "kernel": params["Dense_0"]["kernel"] * scales[None],
        "bias": params["Dense_0"]["bias"] * scales,
    }
    params["Dense_1"] = {**params["Dense_1"], "kernel": params["Dense_1"]["kernel"] / scales[:, None]}
    one = match_activations(model, theta_1, theta_2, x)
    other = match_activations(model, theta_1, {"params": params}, x)
    np.testing.assert_allclose(one.correlation["dense_0"], other.correlation["dense_0"], atol=1e-5)


def test_dead_units_neither_crash_nor_make_nan(pair):
    model, theta_1, theta_2, x = pair
    dead = jax.tree.map(lambda leaf: leaf, theta_2)
    dead["params"]["Dense_0"]["kernel"] = dead["params"]["Dense_0"]["kernel"].at[:, jnp.array([0, 4])].set(0.0)
    match = match_activations(model, theta_1, dead, x)
    assert np.isfinite(match.correlation["dense_0"]).all()
    assert (match.correlation["dense_0"][:, [0, 4]] == 0).all()
    assert sorted(match.P["dense_0"]) == list(range(9))
    all_dead = jax.tree.map(jnp.zeros_like, theta_2)
    nothing = match_activations(model, theta_1, all_dead, x)
    assert (nothing.P["dense_1"] == np.arange(7)).all()


def test_a_trunk_is_matched_by_the_mean_over_stem_and_blocks(key):
    model, theta_1, x = network("resnet20", SMALL["resnet20"], key)
    _, theta_2, _ = network("resnet20", SMALL["resnet20"], jax.random.fold_in(key, 7))
    match = match_activations(model, theta_1, theta_2, x)
    for group, blocks in (("trunk_0", 4), ("trunk_1", 3), ("block_1", 1)):
        first, second = (model.activations(theta, x)[group] for theta in (theta_1, theta_2))
        assert len(first) == blocks
        n, total = first[0].shape[-1], 0
        for a, b in zip(first, second, strict=True):
            a, b = (np.asarray(m, np.float64).reshape(-1, n) for m in (a, b))
            with np.errstate(invalid="ignore", divide="ignore"):
                total = total + np.nan_to_num(np.corrcoef(a.T, b.T)[:n, n:])
        np.testing.assert_allclose(match.correlation[group], total / blocks, atol=1e-4)


def test_many_pairs_at_once_are_each_pair_alone(key, tiny_data, tiny_model):
    theta_1, theta_2 = (jax.vmap(tiny_model.init)(jax.random.split(k, 3)) for k in jax.random.split(key))
    together = match_activations(tiny_model, theta_1, theta_2, tiny_data)
    assert together.P["dense_0"].shape == (3, 6)
    for i in range(3):
        alone = match_activations(tiny_model, trees.index(theta_1, i), trees.index(theta_2, i), tiny_data)
        for group in ("dense_0", "dense_1"):
            np.testing.assert_array_equal(together.P[group][i], alone.P[group])
            np.testing.assert_allclose(together.correlation[group][i], alone.correlation[group], atol=1e-6)
            np.testing.assert_allclose(together.after[group][i], alone.after[group], atol=1e-6)


def test_a_dataset_stands_for_its_first_fifth(pair, key, tiny_data, tiny_model):
    theta_1, theta_2 = (tiny_model.init(k) for k in jax.random.split(key))
    x = data.normalize(tiny_data.train_images[:24], tiny_data.mean, tiny_data.std)
    one, other = (match_activations(tiny_model, theta_1, theta_2, images) for images in (tiny_data, x))
    np.testing.assert_allclose(one.correlation["dense_1"], other.correlation["dense_1"], atol=1e-6)


def test_bad_input_is_named(pair, tiny_data):
    model, theta_1, theta_2, x = pair
    with pytest.raises(InputError, match="uint8, expected float32"):
        match_activations(model, theta_1, theta_2, np.zeros((4, 6, 6, 1), np.uint8))
    with pytest.raises(InputError, match=r"got images \(24, 8, 8, 1\)"):
        match_activations(model, theta_1, theta_2, tiny_data)
    with pytest.raises(SpecError, match=r"Dense_0/kernel: got \(36, 4\), expected \(36, 9\)"):
        match_activations(model, theta_1, models.create("mlp", 5, (6, 6, 1), widths=(4, 7)).init(jax.random.key(0)), x)
    with pytest.raises(InputError, match="cost='euclid'"):
        match_activations(model, theta_1, theta_2, x, cost="euclid")
    with pytest.raises(InputError, match="'dense_0' are not finite"):
        match_activations(model, theta_1, jax.tree.map(lambda leaf: leaf * jnp.nan, theta_2), x)
