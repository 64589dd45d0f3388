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


def h_2(theta, x):
    """How far the second hidden layers of a network with ReLUs and with huberized ones are apart, by hand."""
    both = np.float64(x), np.float64(x)
    for i in range(2):
        layer = jax.tree.map(np.float64, theta["params"][f"Dense_{i}"])
        z, y = (h @ layer["kernel"] + layer["bias"] for h in both)
        both = np.maximum(z, 0), np.where(y < 0.5, np.maximum(y, 0) ** 2, y - 0.25)  # delta = 0.5
    return np.linalg.norm(both[0] - both[1], axis=1).max()


@pytest.mark.parametrize("size", [0.5, 1.0, 3.0])
def test_bounds_hold_and_the_activations_are_half_of_delta_apart(networks, size):
    (huberized, rectified), theta, x = networks
    found = bounds(huberized, rectified, [theta, scale(size, theta)], 0.5)
    assert 0 < found.outputs <= found.outputs_bound
    assert 0 < found.output_gap <= found.output_gap_bound
    np.testing.assert_allclose(found.activation_gap, 0.25)
    np.testing.assert_allclose(found.criterion, np.sqrt(2) * found.output_gap_bound)
    # Width 6, three layers: the sum of the first two powers.
    expected = np.sqrt(6) * 0.25 * (found.spectral_norm + found.spectral_norm**2)
    np.testing.assert_allclose(found.output_gap_bound, expected)
    np.testing.assert_allclose(found.hidden_gap_bound, np.sqrt(6) * 0.25 * (1 + found.spectral_norm))
    h = [h_2(scale(each, theta), x) for each in (1, size)]
    np.testing.assert_allclose(found.hidden_gap, max(h), rtol=1e-5)
    assert found.hidden_gap <= found.hidden_gap_bound


@pytest.mark.slow
def test_fewer_iterations_are_the_first_of_more(capsys, monkeypatch):
    _, _, (first, both) = found = iterates(SMALL, 0.5)
    np.testing.assert_allclose(first.objective, both.objective[:3], rtol=1e-6)
    monkeypatch.setattr(convergence, "iterates", lambda config, delta: found)
    main(SMALL)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows[2:5]] == ["0", "1", "2"]
    assert "0.25" in rows[-1]
