"""Appendix D: matrices that are the network, bounds that hold, and iterates that are the first ones of more."""

import jax
import numpy as np
import pytest
from variables import alive, mlp

from experiments import convergence
from experiments.convergence import Convergence, bounds, iterates, layers, main
from mcjax import Task, models
from mcjax.trees import scale

SMALL = Convergence((0.5,), widths=(6, 5), iterations=2, epochs=2, curve_epochs=1, permutation_epochs=1, points=3)


@pytest.fixture(scope="module")
def networks():
    """A network with huberized ReLUs and with ReLUs, on inputs, as tasks."""
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    made = [models.create("mlp", 4, (3,), widths=(6, 5), activation=name) for name in ("huberized_relu(0.5)", "relu")]

    def loss(theta, batch, key):
        return (made[0].apply(theta, batch) ** 2).mean()

    return [Task(loss, x, model=model) for model in made], jax.tree.map(np.float32, alive(made[1])), x


def test_homogeneous_matrices_are_the_network(networks):
    _, theta, x = networks
    h = np.concatenate([x, np.ones((len(x), 1))], 1)
    *hidden, last = layers(theta)
    for matrix in hidden:
        h = np.maximum(h @ matrix.T, 0)
    np.testing.assert_allclose(h @ last.T, mlp(theta, x)[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [0.5, 1.0, 3.0])
def test_bounds_hold_and_the_activations_are_half_of_delta_apart(networks, size):
    (huberized, rectified), theta, _ = networks
    found = bounds(huberized, rectified, [theta, scale(size, theta)], 0.5)
    assert 0 < found.outputs <= found.outputs_bound
    assert 0 < found.output_gap <= found.output_gap_bound
    np.testing.assert_allclose(found.activation_gap, 0.25)
    np.testing.assert_allclose(found.criterion, np.sqrt(2) * found.output_gap_bound)
    # Width 6, three layers: the sum of the first two powers.
    expected = np.sqrt(6) * 0.25 * (found.spectral_norm + found.spectral_norm**2)
    np.testing.assert_allclose(found.output_gap_bound, expected)


@pytest.mark.slow
def test_fewer_iterations_are_the_first_of_more(capsys, monkeypatch):
    _, _, (first, both) = found = iterates(SMALL, 0.5)
    np.testing.assert_allclose(first.objective, both.objective[:3], rtol=1e-6)
    monkeypatch.setattr(convergence, "iterates", lambda config, delta: found)
    main(SMALL)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows[2:5]] == ["0", "1", "2"]
    assert "0.25" in rows[-1]
