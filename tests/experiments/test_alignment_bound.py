"""The bound of the loss between two networks: it holds image by image, and is reached where norms lose nothing."""

from itertools import pairwise

import jax
import numpy as np
import pytest
from variables import mlp

from experiments.alignment_bound import AlignmentBound, excess, grown, layers, main
from mcjax import TrainConfig, match_activations, models, permute, supervised, train_endpoints, trees


def drawn(rng, *widths):
    """A random MLP of these widths."""
    layers = [{"kernel": rng.normal(size=(n, m)), "bias": rng.normal(size=m)} for n, m in pairwise(widths)]
    return {"params": {f"Dense_{i}": layer for i, layer in enumerate(layers)}}


def bounded(theta_1, theta_2, x, t):
    return grown(layers(theta_1, x), layers(theta_2, x), t)


@pytest.mark.parametrize("widths", [(4, 5, 3), (3, 6, 6, 2), (2, 2, 2, 2, 2)])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_outputs_between_two_networks_are_as_far_from_the_mixture_as_bounded(widths, t):
    rng = np.random.default_rng(sum(widths))
    theta_1, theta_2 = drawn(rng, *widths), drawn(rng, *widths)
    x = rng.normal(size=(50, widths[0]))
    between = jax.tree.map(lambda a, b: (1 - t) * a + t * b, theta_1, theta_2)
    mixed = (1 - t) * mlp(theta_1, x)[-1] + t * mlp(theta_2, x)[-1]
    distance = np.linalg.norm(mlp(between, x)[-1] - mixed, axis=1)
    signs, distances = bounded(theta_1, theta_2, x, t)
    assert (distance <= (1 + 1e-12) * signs).all()
    assert (signs <= (1 + 1e-12) * distances).all()


def test_the_bound_is_reached_by_one_unit_that_both_networks_use_alike():
    def network(a, c):
        layers = [{"kernel": np.full((1, 1), k), "bias": np.zeros(1)} for k in (a, c)]
        return {"params": {f"Dense_{i}": layer for i, layer in enumerate(layers)}}

    x, t = np.array([[1.0], [2.0]]), 0.25
    # (1 - t) a c + t a' c' - ((1 - t) a + t a') ((1 - t) c + t c') = t (1 - t) (a - a') (c - c').
    signs, distances = bounded(network(3.0, 5.0), network(1.0, 2.0), x, t)
    np.testing.assert_allclose(signs, t * (1 - t) * 2 * 3 * x[:, 0])
    # The other bound does not know that both units are on: it adds t (1 - t) |z_1 - z_2| times the next weight.
    np.testing.assert_allclose(distances, signs + t * (1 - t) * 2 * x[:, 0] * (5 * (1 - t) + 2 * t))


def test_networks_that_are_one_have_no_excess(tiny_task, tiny_ends):
    found = excess(tiny_task, tiny_ends[0], tiny_ends[0], 3)
    np.testing.assert_allclose(found[:3], 0, atol=1e-6)
    assert found.apart == (0, 0)


def test_alignment_lowers_the_bound_and_the_loss(tiny_data):
    model = models.create("mlp", 3, (8, 8, 1), widths=[12])
    task = supervised(model, tiny_data)
    keys = jax.random.split(jax.random.key(0))
    theta_1, theta_2 = trees.unstack(train_endpoints(keys, task, TrainConfig(epochs=15, batch_size=20)).theta)
    P = match_activations(task, theta_1, theta_2).P
    before, after = (excess(task, theta_1, theta, 5) for theta in (theta_2, permute(task.spec, P, theta_2)))
    assert before.measured <= before.signs <= before.distances
    assert after.measured <= after.signs < before.signs
    assert after.apart[0] < before.apart[0]


@pytest.mark.slow
def test_the_table_has_a_row_for_each_order(capsys):
    main(AlignmentBound(widths=(4,), pairs=1, epochs=1, points=3))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["random", "as trained", "aligned"]
