"""Appendix D: matrices that are the network, bounds that hold, and iterates that are the first ones of more."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from variables import alive, mlp

from experiments import convergence
from experiments.convergence import Convergence, bounds, homogeneous_matrices, iterates, main
from mcjax import Task, linear, models
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
    *hidden, last = homogeneous_matrices(theta)
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


@pytest.mark.parametrize("which", [0, 1])
def test_the_objective_is_that_of_the_activations_that_are_given(networks, which):
    """The mean over the middles of as many parts of [0, 1], of the loss and of the L2 term."""
    tasks, theta, x = networks
    model = tasks[which].model
    task = Task(lambda theta, batch, key: (model.apply(theta, batch) ** 2).sum(-1).mean(), x, model=model)
    fit = SimpleNamespace(path=linear(model.spec).bind(theta, scale(-0.5, theta)))
    total = 0.0
    for t in (0.125, 0.375, 0.625, 0.875):
        at = scale(1 - 1.5 * t, theta)
        outputs = model.apply(at, x)
        squares = sum(np.square(np.float64(leaf)).sum() for leaf in jax.tree.leaves(at["params"]))
        total += (np.square(np.float64(outputs)).sum(-1).mean() + 0.05 * squares) / 4
    np.testing.assert_allclose(convergence.objective(task, fit, 4, 0.1), total, rtol=1e-5)


def test_proximal_terms_are_those_of_accepted_half_steps():
    accepted, distance = np.array([True, False, False, True]), np.array([1.0, 2.0, 3.0, 4.0])
    fit = SimpleNamespace(distance=distance, accepted=accepted)
    np.testing.assert_allclose(convergence.proximal_terms(fit, 10.0), [0.05, 0.8])


@pytest.mark.slow
def test_fewer_iterations_are_the_first_of_more(capsys, monkeypatch):
    _, _, (first, both) = found = iterates(SMALL, 0.5)
    np.testing.assert_allclose(first.objective, both.objective[:3], rtol=1e-6)
    monkeypatch.setattr(convergence, "iterates", lambda config, delta: found)
    # One iteration alone pays twice the right side of eq. 19.
    terms = convergence.proximal_terms(both, SMALL.nu)
    right = bounds(*found[:2], [both.path(0.5)], 0.5)._replace(criterion=max(terms) / 2)
    monkeypatch.setattr(convergence, "bounds", lambda *_: right)
    main(SMALL)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows[2:5]] == ["0", "1", "2"]
    assert "0.25" in rows[-1]
    assert rows[-1][-3:] == ["1", "of", "2"]
