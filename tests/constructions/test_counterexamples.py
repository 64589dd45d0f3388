"""Minima that are not connected: zero loss at both, the barrier's proof by search, and strings that fail below it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from mcjax import InputError, evaluate_path
from mcjax.constructions.counterexamples import disconnected_minima, mixture_minima, two_neuron_mixture
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


def soft_labels(outputs, labels):
    """Cross entropy of probabilities with those of the teacher."""
    return optax.sigmoid_binary_cross_entropy(outputs, jax.nn.sigmoid(labels))


def steep_below(outputs, labels):
    """Absolute errors, those below the label three times."""
    return jnp.maximum(outputs - labels, 3 * (labels - outputs))


EXAMPLES = {
    "two": disconnected_minima(2),
    "five": disconnected_minima(5),
    "mixture": two_neuron_mixture(40),
    "soft": disconnected_minima(2, soft_labels),
    "steep": disconnected_minima(3, steep_below),
    "poor": mixture_minima(3, 1),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_both_are_minima_and_the_line_between_is_not_low(name):
    example = EXAMPLES[name]
    measure = jax.jit(jax.vmap(lambda theta: Criterion()(example.task, theta)))
    rng = np.random.default_rng(0)
    for theta, loss in zip((example.theta_1, example.theta_2), example.losses, strict=True):
        near = jax.tree.map(lambda leaf: leaf + np.float32(0.01 * rng.normal(size=(30, *leaf.shape))), theta)
        found = np.asarray(measure(jax.tree.map(lambda one, many: np.concatenate([one[None], many]), theta, near)))
        np.testing.assert_allclose(found[0], loss, rtol=1e-6, atol=1e-12)
        assert (found[1:] >= loss * (1 - 1e-6)).all()
        assert loss < example.barrier
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


@pytest.mark.parametrize(
    ("name", "share"), [("two", 0.5), ("two", 0.95), ("mixture", 0.5), ("mixture", 0.95), ("poor", 0.5)]
)
def test_strings_fail_below_the_barrier(name, share, key):
    example = EXAMPLES[name]
    highest = max(example.losses)
    threshold = highest + share * (example.barrier - highest)
    string = sampled(key, example, threshold, depth=3)
    assert not string.connected
    assert string.heights.max() > threshold


@pytest.mark.parametrize(("name", "threshold"), [("two", 1.0), ("mixture", 0.75), ("poor", 0.55)])
def test_strings_succeed_well_above_it(name, threshold, key):
    example = EXAMPLES[name]
    string = sampled(key, example, threshold, depth=6)
    assert string.connected


def test_barriers_of_theorem_4_by_the_loss():
    """What an error of 1/6 costs least, in closed form."""
    np.testing.assert_allclose([disconnected_minima(h).barrier for h in (2, 7)], [1 / 216, 1 / 756], rtol=1e-12)
    np.testing.assert_allclose(EXAMPLES["steep"].barrier, 1 / 6 / 9, rtol=1e-12)
    y, errors = np.array([1.0, 2, 3]), np.array([-1 / 6, 0, 1 / 6])[:, None]
    p, z = 1 / (1 + np.exp(-y)), y + errors
    entropy = np.log1p(np.exp(z)) - p * z
    added = (entropy[[0, 2]] - entropy[1]).min() / 6
    np.testing.assert_allclose(EXAMPLES["soft"].losses, entropy[1].mean(), rtol=1e-12)
    np.testing.assert_allclose(EXAMPLES["soft"].barrier, entropy[1].mean() + added, rtol=1e-12)


@pytest.mark.parametrize(("first", "second"), [(3, 1), (2, 1), (11, 9)])
def test_the_poor_local_minimum_by_brute_force(first, second):
    example = mixture_minima(first, second)
    x, y = (np.asarray(each, np.float64) for each in example.task.train)
    shares = [np.mean(y[x == 1]), np.mean(y[x == -1])]
    np.testing.assert_allclose(shares, [first / (first + second), second / (first + second)])
    w, b = np.meshgrid(np.linspace(-2, 2, 81), np.linspace(-2, 2, 161), indexing="ij")
    outputs = b[..., None] * np.maximum(w[..., None] * x[:, 0], 0)
    losses = np.square(outputs - y[:, 0]).mean(-1)
    # The least on either side, and what parts them: every b at w = 0.
    np.testing.assert_allclose([losses[w > 0].min(), losses[w < 0].min()], example.losses, rtol=2e-3)
    np.testing.assert_allclose(losses[w == 0], example.barrier)
    assert example.losses[0] < example.losses[1] < example.barrier


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
        (lambda: disconnected_minima(2, lambda outputs, labels: (outputs - labels - 1) ** 2), "least at the labels"),
        (lambda: mixture_minima(2, 2), "second=2"),
        (lambda: mixture_minima(2, 0), "second=0"),
    ):
        with pytest.raises(InputError, match=named):
            make()


def test_no_theorem_claims_to_join_them():
    example = EXAMPLES["mixture"]
    with pytest.raises(InputError, match="not linear"):
        linear_network_path(example.model, example.theta_1, example.theta_2)
    with pytest.raises(InputError, match="one output"):
        sparse_problem(example.task, 0.1)
