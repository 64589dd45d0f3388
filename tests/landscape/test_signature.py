"""Correlation signatures: Pearson correlations by numpy, planted permutations, bounds, pairs, batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import (
    Augmentation,
    InputError,
    PermutationSpec,
    SpecError,
    bezier,
    curve_signature,
    data,
    linear,
    models,
    permute,
    random_permutation,
    recalibrate,
    reestimate,
    trees,
)


def bent(key, model, theta_1, theta_2, size=0.3):
    """A Bezier curve with a control point off the line."""
    leaves, tree = jax.tree.flatten(theta_1["params"])
    noise = [
        size * jax.random.normal(k, x.shape) for k, x in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    theta_c = {**jax.tree.map(jnp.zeros_like, theta_1), "params": jax.tree.unflatten(tree, noise)}
    return bezier(model.spec).bind(theta_1, theta_2, theta_c)


@pytest.fixture
def ends(key, tiny_model):
    return tuple(tiny_model.init(k) for k in jax.random.split(key))


def pearson(model, theta_1, theta_2, x):
    """The correlation of all units of two networks, (n, n) a group, by numpy.corrcoef; 0 for a dead unit."""
    found = {}
    for group in model.spec.groups:
        (a,), (b,) = (
            [np.asarray(part, np.float64).reshape(-1, part.shape[-1]) for part in model.activations(theta, x)[group]]
            for theta in (theta_1, theta_2)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            found[group] = np.nan_to_num(np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :])
    return found


def test_values_are_pearson_correlations_of_paired_units(key, ends, tiny_data, tiny_model):
    path = bent(key, tiny_model, *ends)
    found = curve_signature(tiny_model, path, tiny_data, match_images=50, batch_size=16)
    assert found.groups == tuple(tiny_model.spec.groups)
    x = data.normalize(tiny_data.train_images[:50], tiny_data.mean, tiny_data.std)
    line = jax.tree.map(lambda a, b: (a + b) / 2, *ends)
    for i, end in enumerate(ends):
        by_curve, by_line = pearson(tiny_model, end, path(0.5), x), pearson(tiny_model, end, line, x)
        for g, group in enumerate(found.groups):
            np.testing.assert_allclose(found.curve[i, g], np.diagonal(by_curve[group]).mean(), atol=1e-4)
            np.testing.assert_allclose(found.linear[i, g], np.diagonal(by_line[group]).mean(), atol=1e-4)
    for values in found[1:]:
        assert values.shape == (2, 2)
        assert values.dtype == np.float32
    default = curve_signature(tiny_model, path, tiny_data)
    first_fifth = curve_signature(tiny_model, path, tiny_data, match_images=24)
    np.testing.assert_allclose(default.curve, first_fifth.curve, atol=1e-6)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_matching_never_lowers_the_correlation(key, ends, tiny_data, tiny_model, t):
    found = curve_signature(tiny_model, bent(key, tiny_model, *ends), tiny_data, t)
    assert (found.matched >= found.curve - 1e-6).all()
    assert (found.matched > found.curve + 0.01).any()
    assert (np.abs(np.stack(found[1:])) <= 1 + 1e-6).all()


def test_the_curve_at_its_ends_is_the_endpoints(key, ends, tiny_data, tiny_model):
    x = data.normalize(tiny_data.train_images, tiny_data.mean, tiny_data.std)
    path = bent(key, tiny_model, *ends)
    for i, t in enumerate((0.0, 1.0)):
        found = curve_signature(tiny_model, path, tiny_data, t, match_images=120)
        for g, group in enumerate(found.groups):
            varies = np.asarray(tiny_model.activations(ends[i], x)[group][0]).std(0) > 0
            np.testing.assert_allclose(found.curve[i, g], varies.mean(), atol=1e-5)
        np.testing.assert_allclose(found.linear[i], found.curve[i], atol=1e-6)
        np.testing.assert_allclose(found.matched[i], found.curve[i], atol=1e-5)


def test_a_planted_permutation_is_seen_by_matching_alone(key, tiny_data, tiny_model):
    model = tiny_model
    theta = model.init(key)
    # Biases of one sign keep all units alive.
    theta = trees.map_with_name(lambda name, leaf: leaf + 1.0 if name.endswith("bias") else leaf, theta)
    theta = jax.tree.map(jnp.asarray, theta)
    planted = random_permutation(jax.random.fold_in(key, 1), model.spec, theta)
    away = permute(model.spec, planted, theta)
    # A path whose midpoint is its ends' function in another order of units, with the two ends alike.
    found = curve_signature(
        model, lambda t: jax.tree.map(lambda a, b: a + 4 * t * (1 - t) * (b - a), theta, away), tiny_data
    )
    x = data.normalize(tiny_data.train_images[:24], tiny_data.mean, tiny_data.std)
    by_hand = pearson(model, theta, away, x)
    for g, group in enumerate(found.groups):
        alive = np.asarray(model.activations(theta, x)[group][0]).std(0) > 0
        np.testing.assert_allclose(found.matched[:, g], alive.mean(), atol=1e-4)
        np.testing.assert_allclose(found.linear[:, g], alive.mean(), atol=1e-4)
        np.testing.assert_allclose(found.curve[:, g], np.diagonal(by_hand[group]).mean(), atol=1e-4)
    assert (found.curve < found.matched - 0.1).any()


def test_pairs_are_each_what_they_are_alone(key, tiny_data, tiny_model):
    thetas = jax.vmap(tiny_model.init)(jax.random.split(key, 6))
    first, second = (jax.tree.map(lambda leaf, s=s: leaf[s], thetas) for s in (slice(0, 3), slice(3, 6)))
    noise = jax.tree.map(lambda leaf: 0.5 * jnp.roll(leaf, 1, 0), first)
    curve = bezier(tiny_model.spec)
    together = curve_signature(tiny_model, curve.bind_pairs(first, second, noise), tiny_data, 0.3)
    assert together.curve.shape == together.linear.shape == together.matched.shape == (3, 2, 2)
    for i in range(3):
        path = curve.bind(*(trees.index(part, i) for part in (first, second, noise)))
        alone = curve_signature(tiny_model, path, tiny_data, 0.3)
        assert together.groups == alone.groups
        for values, expected in zip(together[1:], alone[1:], strict=True):
            np.testing.assert_allclose(values[i], expected, atol=1e-5)


def test_batch_statistics_are_those_of_the_networks_at_t(key, tiny_colour_data):
    colour = tiny_colour_data
    model = models.create("tinysix", 3, (8, 8, 3), width=0.25)
    settings = {"batch_size": 30, "calibration_images": 90, "augmentation": Augmentation(crop=1)}
    raw = jax.vmap(model.init)(jax.random.split(key))
    ends = [trees.index(recalibrate(model, raw, colour, **settings), i) for i in (0, 1)]
    path = bent(jax.random.fold_in(key, 1), model, *ends, size=0.2)
    found = curve_signature(model, path, colour, match_images=40, **settings)
    x = data.normalize(colour.train_images[:40], colour.mean, colour.std)
    images = (colour.train_images[:90], colour.mean, colour.std, 30, Augmentation(crop=1))
    line = jax.tree.map(lambda a, b: (a + b) / 2, *ends)
    for got, theta in ((found.curve, path(0.5)), (found.linear, line)):
        fresh = reestimate(model, theta, *images)
        for i, end in enumerate(ends):
            expected = [np.diagonal(c).mean() for c in pearson(model, end, fresh, x).values()]
            np.testing.assert_allclose(got[i], expected, atol=1e-3)
            stale = [np.diagonal(c).mean() for c in pearson(model, end, theta, x).values()]
            assert np.abs(np.subtract(got[i], stale)).max() > 5e-3
    assert (found.matched >= found.curve - 1e-6).all()
    # The ends' statistics are these images' own, so that the curve's ends are they.
    at_start = curve_signature(model, path, colour, 0.0, match_images=40, **settings)
    np.testing.assert_allclose(at_start.curve[0], at_start.matched[0], atol=1e-4)
    assert (at_start.curve[0] > at_start.curve[1]).all()


def test_a_trunk_counts_by_the_mean_over_its_blocks(key, tiny_colour_data):
    model = models.create("resnet20", 3, (8, 8, 3), width=0.25)
    ends = [model.init(k) for k in jax.random.split(key)]
    path = linear(model.spec).bind(*ends)
    found = curve_signature(model, path, tiny_colour_data, 0.4, batch_size=24)
    assert found.groups == tuple(model.spec.groups)
    np.testing.assert_allclose(found.curve, found.linear, atol=1e-5)
    assert (found.matched >= found.curve - 1e-6).all()


def test_what_is_wrong_is_said(ends, tiny_data, tiny_model):
    path = linear(tiny_model.spec).bind(*ends)
    with pytest.raises(InputError, match="got t=2"):
        curve_signature(tiny_model, path, tiny_data, 2)
    for wrong in ({"match_images": 1}, {"match_images": 121}, {"calibration_images": 0}, {"batch_size": 0}):
        with pytest.raises(InputError, match=f"got {next(iter(wrong))}="):
            curve_signature(tiny_model, path, tiny_data, **wrong)
    with pytest.raises(SpecError):
        curve_signature(tiny_model, lambda t: {"params": {}}, tiny_data)
    nothing = PermutationSpec({name: tuple(None for _ in shape) for name, shape in trees.shapes(ends[0]).items()})
    with pytest.raises(InputError, match="no units"):
        curve_signature(tiny_model._replace(spec=nothing), path, tiny_data)
