"""Correlation signatures: Pearson correlations by numpy, planted permutations, bounds, pairs, batch statistics."""

import jax
import numpy as np
import pytest
from variables import alive, mixed, mlp, networks, normalized, permuted, spaced, stacked

from mcjax import (
    Augmentation,
    InputError,
    PermutationSpec,
    SpecError,
    bezier,
    linear,
    models,
    reestimate,
    supervised,
    trees,
)
from mcjax.landscape import correlation_signature
from mcjax.training import estimate_statistics

SETTINGS = {"match_examples": 50, "batch_size": 16}


def bent(model, theta_1, theta_2, size=0.3):
    """A Bezier curve with a control point off the line, and its networks by numpy: t -> theta."""
    theta_c = {**jax.tree.map(np.zeros_like, theta_1), **{"params": alive(model, 7)["params"]}}
    theta_c = jax.tree.map(lambda leaf: np.float32(size) * leaf, theta_c)

    def at(t):
        return jax.tree.map(lambda a, c: a + np.float32(2 * t * (1 - t)) * c, mixed(theta_1, theta_2, t), theta_c)

    return bezier(model.spec).bind(theta_1, theta_2, theta_c), at


def correlated(one, two):
    """The correlation of all units of two networks, units (n, units) a group, by numpy.corrcoef; 0 for a dead unit."""
    found = []
    for a, b in zip(one, two, strict=True):
        a, b = (np.asarray(units, np.float64).reshape(-1, units.shape[-1]) for units in (a, b))
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.nan_to_num(np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]))
    return found


def paired(one, two):
    return [np.diagonal(each).mean() for each in correlated(one, two)]


def units_of(theta, data, count):
    """The hidden layers of an MLP on some training images."""
    return mlp(theta, normalized(spaced(data.train_images, count), data))[:-1]


def varying(theta, data, count):
    return [(units.std(0) > 0).mean() for units in units_of(theta, data, count)]


def test_values_are_pearson_correlations_of_paired_units(ends, tiny_data, tiny_model, tiny_task):
    path, at = bent(tiny_model, *ends)
    found, default = (
        correlation_signature(tiny_task, path, **SETTINGS),
        correlation_signature(tiny_task, path),
    )
    assert found.groups == tuple(tiny_model.spec.groups)
    # By default a fifth of the images.
    for signature, count in ((found, 50), (default, 24)):
        for i, end in enumerate(ends):
            for got, middle in ((signature.curve, at(0.5)), (signature.linear, mixed(*ends, 0.5))):
                expected = paired(units_of(end, tiny_data, count), units_of(middle, tiny_data, count))
                np.testing.assert_allclose(got[i], expected, atol=1e-4)
        for values in signature[1:]:
            assert values.shape == (2, 2)
            assert values.dtype == np.float32


def test_matching_never_lowers_the_correlation(ends, tiny_model, tiny_task):
    for t in (0.2, 0.5, 0.9):
        found = correlation_signature(tiny_task, bent(tiny_model, *ends, size=1.0)[0], t, **SETTINGS)
        assert (found.matched >= found.curve - 1e-6).all()
        assert (found.matched > found.curve + 0.005).any()
        assert (np.abs(np.stack(found[1:])) <= 1 + 1e-6).all()


def test_the_curve_at_its_ends_is_the_endpoints(ends, tiny_data, tiny_model, tiny_task):
    path, _ = bent(tiny_model, *ends)
    for i, t in enumerate((0.0, 1.0)):
        found = correlation_signature(tiny_task, path, t, **SETTINGS)
        np.testing.assert_allclose(found.curve[i], varying(ends[i], tiny_data, 50), atol=1e-5)
        np.testing.assert_allclose(found.linear[i], found.curve[i], atol=1e-6)
        np.testing.assert_allclose(found.matched[i], found.curve[i], atol=1e-5)


def test_a_planted_permutation_is_seen_by_matching_alone(tiny_data, tiny_model, tiny_task):
    # Biases of one sign keep units alive.
    theta = trees.map_with_name(lambda name, leaf: leaf + name.endswith("bias"), alive(tiny_model))
    theta = jax.tree.map(np.float32, theta)
    planted = {"dense_0": np.array([3, 5, 0, 1, 2, 4]), "dense_1": np.array([1, 2, 4, 0, 3])}
    away = permuted(tiny_model.spec, planted, theta)
    # A path whose midpoint is its ends' function in another order of units, with the two ends alike.
    found = correlation_signature(
        tiny_task,
        lambda t: jax.tree.map(lambda a, b: a + 4 * t * (1 - t) * (b - a), theta, away),
        **SETTINGS,
    )
    alive_units = [varying(theta, tiny_data, 50)] * 2
    np.testing.assert_allclose(found.matched, alive_units, atol=1e-4)
    np.testing.assert_allclose(found.linear, alive_units, atol=1e-4)
    expected = paired(units_of(theta, tiny_data, 50), units_of(away, tiny_data, 50))
    np.testing.assert_allclose(found.curve, [expected] * 2, atol=1e-4)
    assert (found.curve < found.matched - 0.1).any()


def test_pairs_have_the_results_of_each_alone(tiny_model, tiny_task):
    first, second, offset = (networks(tiny_model, 3, seed) for seed in (1, 2, 3))
    curve = bezier(tiny_model.spec)
    together = correlation_signature(tiny_task, curve.bind_pairs(first, second, offset), 0.3, **SETTINGS)
    assert together.curve.shape == together.linear.shape == together.matched.shape == (3, 2, 2)
    for i in range(3):
        path = curve.bind(*(trees.index(part, i) for part in (first, second, offset)))
        alone = correlation_signature(tiny_task, path, 0.3, **SETTINGS)
        assert together.groups == alone.groups
        for values, expected in zip(together[1:], alone[1:], strict=True):
            np.testing.assert_allclose(values[i], expected, atol=1e-5)


def test_batch_statistics_are_those_of_the_networks_at_t(normed, tiny_colour_data):
    colour, model = tiny_colour_data, normed
    task = supervised(model, colour, augmentation=Augmentation(crop=1))
    settings = {"batch_size": 30, "calibration_examples": 90}
    raw = stacked([alive(model, seed) for seed in range(2)])
    ends = [jax.tree.map(np.asarray, trees.index(reestimate(task, raw, **settings), i)) for i in (0, 1)]
    path, at = bent(model, *ends, size=0.2)
    found = correlation_signature(task, path, match_examples=40, **settings)
    x = normalized(spaced(colour.train_images, 40), colour)
    again, activations = jax.jit(lambda theta: estimate_statistics(task, theta, 90, 30)), jax.jit(model.activations)

    def units(theta):
        return [activations(theta, x)[group][0] for group in model.spec.groups]

    for got, theta in ((found.curve, at(0.5)), (found.linear, mixed(*ends, 0.5))):
        for i, end in enumerate(ends):
            np.testing.assert_allclose(got[i], paired(units(end), units(again(theta))), atol=1e-3)
            assert np.abs(np.subtract(got[i], paired(units(end), units(theta)))).max() > 5e-3
    assert (found.matched >= found.curve - 1e-6).all()
    # The ends' statistics are these images' own, so that the curve's ends are they.
    at_start = correlation_signature(task, path, 0.0, match_examples=40, **settings)
    np.testing.assert_allclose(at_start.curve[0], at_start.matched[0], atol=1e-4)
    assert (at_start.curve[0] > at_start.curve[1]).all()


@pytest.mark.slow
def test_a_trunk_counts_by_the_mean_over_its_blocks(tiny_colour_data):
    model = models.create("resnet20", 3, (8, 8, 3), width=0.25)
    path = linear(model.spec).bind(alive(model, 0), alive(model, 1))
    found = correlation_signature(supervised(model, tiny_colour_data), path, 0.4, batch_size=24)
    assert found.groups == tuple(model.spec.groups)
    np.testing.assert_allclose(found.curve, found.linear, atol=1e-5)
    assert (found.matched >= found.curve - 1e-6).all()


def test_bad_arguments_are_refused(ends, tiny_data, tiny_model, tiny_task):
    path = linear(tiny_model.spec).bind(*ends)
    for name, value in (
        ("t", 2),
        ("match_examples", 1),
        ("match_examples", 121),
        ("calibration_examples", 0),
        ("batch_size", 0),
    ):
        with pytest.raises(InputError, match=f"got {name}={value}"):
            correlation_signature(tiny_task, path, **{name: value})
    with pytest.raises(SpecError, match="mlp"):
        correlation_signature(tiny_task, lambda t: {"params": {}})
    nothing = PermutationSpec({name: tuple(None for _ in shape) for name, shape in trees.shapes(ends[0]).items()})
    with pytest.raises(InputError, match="no units of mlp"):
        correlation_signature(supervised(tiny_model._replace(spec=nothing), tiny_data), path)
