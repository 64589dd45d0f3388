"""Schedules and the optimiser against their written-out recursions; values that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says

from mcjax import Augmentation, InputError, TrainConfig
from mcjax.training.config import optimizer


def updates(config, gradients, steps_per_epoch):
    transformation = optimizer(config, steps_per_epoch)

    @jax.jit
    def run(gradients):
        def step(state, gradient):
            update, state = transformation.update(gradient, state)
            return state, update

        return jax.lax.scan(step, transformation.init(jnp.zeros(())), gradients)[1]

    return np.asarray(run(np.float32(gradients)))


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_the_heavy_ball_of_the_papers_codes(nesterov):
    config = TrainConfig(learning_rate=0.1, schedule="constant", momentum=0.9, nesterov=nesterov)
    gradients, velocity, expected = [1.0, -2.0, 0.5, 3.0], 0.0, []
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient
        expected.append(-0.1 * (gradient + 0.9 * velocity if nesterov else velocity))
    np.testing.assert_allclose(updates(config, gradients, 2), expected, rtol=1e-6)


def test_halving_halves_every_twenty_epochs():
    config = TrainConfig.preset("paper", momentum=0.0)
    rates = -updates(config, np.ones(3 * 62), 3)
    expected = [0.1 * 0.5 ** (epoch // 20) for epoch in range(62) for _ in range(3)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_one_cycle_rises_to_the_peak_and_ends_near_zero():
    config = TrainConfig(epochs=10, learning_rate=0.3, schedule="one_cycle", momentum=0.0)
    rates = -updates(config, np.ones(100), 10)
    assert rates.argmax() == 20
    np.testing.assert_allclose(rates.max(), 0.3, rtol=1e-6)
    assert (np.diff(rates[:20]) > 0).all()
    assert (np.diff(rates[21:]) < 0).all()
    assert rates[-1] < 0.001


def test_adam_is_that_of_its_paper():
    config = TrainConfig(optimizer="adam", learning_rate=0.01, schedule="constant")
    gradients, m, v, expected = [1.0, -2.0, 0.5, 3.0], 0.0, 0.0, []
    for step, gradient in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        expected.append(-0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8))
    np.testing.assert_allclose(updates(config, gradients, 2), expected, rtol=1e-4)


def test_gradients_are_clipped_by_their_norm():
    # Before the learning rate is applied.
    config = TrainConfig(learning_rate=0.5, schedule="constant", momentum=0.0, clip=1.5)
    np.testing.assert_allclose(updates(config, [1.0, -3.0, 0.2], 2), [-0.5, 0.75, -0.1], rtol=1e-6)


def test_presets_are_the_papers_and_take_changes():
    paper = TrainConfig.preset("paper")
    assert (paper.epochs, paper.batch_size, paper.learning_rate, paper.weight_decay) == (250, 128, 0.1, 5e-4)
    assert (paper.momentum, paper.nesterov, paper.schedule) == (0.9, True, "halving")
    assert TrainConfig.preset("fast", epochs=7, augmentation=Augmentation.none()).epochs == 7


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"schedule": "halfing"}, "Did you mean 'halving'"),
        ({"optimizer": "adma"}, "Did you mean 'adam'"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0"),
        ({"clip": 0.0}, "clip=0.0"),
    ],
)
def test_bad_values_are_refused(changes, said):
    with says(InputError, said):
        TrainConfig(**changes)


def test_unknown_preset_names_the_nearest():
    with says(InputError, "'papr'", "Did you mean 'paper'"):
        TrainConfig.preset("papr")
