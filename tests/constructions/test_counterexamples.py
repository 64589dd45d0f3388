"""Minima that are not connected: zero loss at both, the barrier's proof by search, and strings that fail below it."""

import jax
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from mcjax import InputError, evaluate_path
from mcjax.constructions.counterexamples import disconnected_minima, two_neuron_mixture
from mcjax.constructions.linear import linear_network_path
from mcjax.constructions.wide import sparse_problem
from mcjax.strings import StringConfig, sample_string
from mcjax.training import Criterion, TrainConfig


def sampled(key, example, threshold, depth):
    """A string whose beads descend the loss of all examples."""
    size = len(example.task.train[1])
    training = TrainConfig(epochs=40, batch_size=size, optimizer=ADAM, weight_decay=0.0, steps_per_epoch=20)
    config = StringConfig(training=training, depth=depth)
    return sample_string(key, example.task, example.theta_1, example.theta_2, threshold, config=config)


ADAM = optax.adam(0.02)
EXAMPLES = {"two": disconnected_minima(2), "five": disconnected_minima(5), "mixture": two_neuron_mixture(40)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_both_are_global_minima_and_the_line_between_is_not_low(name):
    example = EXAMPLES[name]
    for theta in (example.theta_1, example.theta_2):
        assert float(Criterion()(example.task, theta)) < 1e-12
    path = jax.tree_util.Partial(
        lambda t: jax.tree.map(lambda a, b: (1 - t) * a + t * b, example.theta_1, example.theta_2)
    )
    assert evaluate_path(example.task, path, ts=101).train_loss.max() >= (1 - 1e-6) * example.barrier


def test_a_teacher_of_two_units_made_the_labels():
    example = disconnected_minima(4)
    inputs, labels = example.task.train
    np.testing.assert_array_equal(labels[:, 0], np.maximum(inputs[:, 0], 0) - np.maximum(-inputs[:, 0], 0))
    assert inputs.shape == (12, 5)
    assert example.task.model == example.model


@pytest.mark.parametrize("name", ["two", "mixture"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_strings_fail_below_the_barrier(name, share, key):
    example = EXAMPLES[name]
    threshold = share * example.barrier
    string = sampled(key, example, threshold, depth=3)
    assert not string.connected
    assert string.heights.max() > threshold


@pytest.mark.parametrize(("name", "threshold"), [("two", 1.0), ("mixture", 0.75)])
def test_strings_succeed_well_above_it(name, threshold, key):
    example = EXAMPLES[name]
    string = sampled(key, example, threshold, depth=6)
    assert string.connected


def test_half_is_the_best_of_all_networks_of_rank_one():
    x, y = (np.asarray(each, np.float64) for each in EXAMPLES["mixture"].task.train)
    np.testing.assert_allclose(np.square(y).mean(), 1, rtol=1e-6)
    for angle in np.linspace(0, np.pi, 50):
        seen = x @ [np.cos(angle), np.sin(angle)]
        features = np.maximum(np.stack([seen, -seen], 1), 0)
        rest = y - features @ np.linalg.lstsq(features, y, rcond=None)[0]
        np.testing.assert_allclose(np.square(rest).mean(), 0.5, rtol=1e-6)


def test_the_proof_of_theorem_4_at_the_wall():
    """With another unit just active at x = 2 of a group, no network misses every label by less than 1/6."""
    x, group = np.asarray(disconnected_minima(2).task.train[0], np.float64), np.repeat([0, 1], 3)
    y = x[:, 0]

    def worst(parameters):
        # Unit 1's value at 2 of group 0 is zero: its first weight and that of its group are free.
        a, slope, own, unit = parameters[0], parameters[1], parameters[2], parameters[3:7]
        other = np.where(group == 0, slope * (y - 2), slope * y + own)
        mine = x[:, :2] @ unit[:2] + unit[2] * x[:, 2]
        return np.abs(a * np.maximum(other, 0) + unit[3] * np.maximum(mine, 0) - y).max()

    rng = np.random.default_rng(0)
    starts = [np.concatenate([[1, 1, 0], [1, 0, -4, 1]]) + 0.3 * rng.normal(size=7) for _ in range(20)]
    found = [minimize(worst, start, method="Nelder-Mead", options={"maxiter": 4000}).fun for start in starts]
    assert 1 / 6 <= min(found) < 0.5


def test_numbers_that_make_no_example():
    for make, named in (
        (lambda: disconnected_minima(1), "units=1"),
        (lambda: two_neuron_mixture(3), "samples=3"),
        (lambda: disconnected_minima(2.5), "units=2.5"),
    ):
        with pytest.raises(InputError, match=named):
            make()


def test_no_theorem_claims_to_join_them():
    example = EXAMPLES["mixture"]
    with pytest.raises(InputError, match="not linear"):
        linear_network_path(example.model, example.theta_1, example.theta_2)
    with pytest.raises(InputError, match="one output"):
        sparse_problem(example.task, 0.1)
