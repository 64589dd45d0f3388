"""Schedules and optimisers against their written-out recursions; presets; values that are refused."""

from dataclasses import fields, is_dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import says

from mcjax import SGD, FitConfig, InputError, PamConfig, TrainConfig
from mcjax.training.config import check_config, check_optimizer, make_optimizer


def updates(optimizer, gradients, epochs, steps_per_epoch):
    transformation = make_optimizer(optimizer, epochs, steps_per_epoch)

    @jax.jit
    def run(gradients):
        def step(state, gradient):
            update, state = transformation.update(gradient, state)
            return state, update

        return jax.lax.scan(step, transformation.init(jnp.zeros(())), gradients)[1]

    return np.asarray(run(np.float32(gradients)))


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_the_heavy_ball_of_the_papers_codes(nesterov):
    optimizer = SGD(0.1, "constant", momentum=0.9, nesterov=nesterov)
    gradients, velocity, expected = [1.0, -2.0, 0.5, 3.0], 0.0, []
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient
        expected.append(-0.1 * (gradient + 0.9 * velocity if nesterov else velocity))
    np.testing.assert_allclose(updates(optimizer, gradients, 2, 2), expected, rtol=1e-6)


def test_halving_halves_every_twenty_epochs():
    paper = TrainConfig.preset("paper")
    rates = -updates(replace(paper.optimizer, momentum=0.0), np.ones(3 * 62), paper.epochs, 3)
    expected = [0.1 * 0.5 ** (epoch // 20) for epoch in range(62) for _ in range(3)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_one_cycle_rises_to_the_peak_and_ends_near_zero():
    rates = -updates(SGD(0.3, "one_cycle", momentum=0.0), np.ones(100), 10, 10)
    assert rates.argmax() == 20
    np.testing.assert_allclose(rates.max(), 0.3, rtol=1e-6)
    np.testing.assert_allclose(rates[0], 0.3 / 20, rtol=1e-5)
    assert (np.diff(rates[:20]) > 0).all()
    assert (np.diff(rates[21:]) < 0).all()
    assert rates[-1] < 0.001


def test_gradients_are_clipped_by_their_norm():
    # Before the learning rate is applied.
    optimizer = SGD(0.5, "constant", momentum=0.0, clip=1.5)
    np.testing.assert_allclose(updates(optimizer, [1.0, -3.0, 0.2], 1, 2), [-0.5, 0.75, -0.1], rtol=1e-6)


def test_any_optimiser_of_optax_is_taken_as_it_is():
    """Adam's own recursion, which no setting of the config changes."""
    adam = optax.adam(0.01)
    assert make_optimizer(adam, 3, 7) is adam
    gradients, m, v, expected = [1.0, -2.0, 0.5, 3.0], 0.0, 0.0, []
    for step, gradient in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        expected.append(-0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8))
    np.testing.assert_allclose(updates(adam, gradients, 2, 2), expected, rtol=1e-4)
    chained = optax.chain(optax.clip(0.5), optax.add_decayed_weights(0.1), optax.lion(1e-3))
    for optimizer in (chained, optax.adamw(1e-3), optax.rmsprop(1e-3), optax.inject_hyperparams(optax.sgd)(0.1)):
        assert TrainConfig(optimizer=optimizer).optimizer is optimizer
        assert FitConfig(optimizer=optimizer).optimizer is optimizer


def test_a_function_makes_the_optimiser_for_the_numbers_of_steps():
    calls = []

    def decaying(steps, steps_per_epoch):
        calls.append((steps, steps_per_epoch))
        return optax.sgd(optax.linear_schedule(1.0, 0.0, steps))

    np.testing.assert_allclose(updates(decaying, np.ones(6), 2, 3), -(1 - np.arange(6) / 6), rtol=1e-5)
    assert calls == [(6, 3)]
    # The same object for the same numbers, so that fits share their programs.
    assert make_optimizer(decaying, 2, 3) is make_optimizer(decaying, 2, 3)
    assert make_optimizer(SGD(), 2, 3) is make_optimizer(SGD(), 2, 3)
    assert make_optimizer(SGD(), 2, 3) is not make_optimizer(SGD(), 3, 3)
    for wrong in (lambda *_: None, lambda *_: SGD()):
        with says(InputError, "an optimiser of optax", "optax.adam(1e-3)"):
            make_optimizer(wrong, 2, 3)


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        ("adam", ("optimizer='adam'", "optax.adam(1e-3)")),
        ("lion", ("optimizer='lion'", "optax.lion(1e-3)")),
        ("adma", ("optimizer='adma'", "optax.adam(1e-3)")),
        (0.1, ("optimizer=0.1", "optax.adam(1e-3)")),
        (None, ("optimizer=None", "optax.adam(1e-3)")),
        (SGD, ("SGD", "optax.adam(1e-3)")),
        (optax.adamw, ("function adamw", "optax.adamw(1e-3)")),
        (lambda steps: optax.sgd(0.1), ("(steps, steps_per_epoch)",)),
        (optax.MultiSteps(optax.sgd(0.1), 2), ("MultiSteps", ".gradient_transformation()")),
    ],
)
def test_what_is_no_optimiser_is_refused_with_the_call_that_makes_one(optimizer, words):
    for config in (TrainConfig, FitConfig):
        with says(InputError, *words):
            config(optimizer=optimizer)
    with says(InputError, *words):
        check_optimizer(optimizer)


@pytest.mark.parametrize("schedule", ["halving", "constant", "linear"])
def test_a_rate_decays_from_epoch_to_epoch_beside_its_schedule(schedule):
    """Of 25 epochs of two steps, with a gradient of 1."""
    rates = {"halving": lambda step: 0.5 ** (step // 40), "constant": lambda _: 1.0, "linear": lambda s: 1 - s / 50}
    optimizer = SGD(0.3, schedule, momentum=0.0, decay=0.9)(50, 2)
    state = optimizer.init(np.float32(0))
    update = jax.jit(optimizer.update)
    for step in range(50):
        change, state = update(np.float32(1), state)
        np.testing.assert_allclose(change, -0.3 * rates[schedule](step) * 0.9 ** (step // 2), rtol=1e-5)


def test_presets_are_the_papers_and_take_changes():
    paper = TrainConfig.preset("paper")
    assert (paper.epochs, paper.batch_size, paper.weight_decay) == (250, 128, 5e-4)
    assert paper.optimizer == SGD(0.1, "halving", 0.9, nesterov=True, clip=None)
    assert TrainConfig.preset("fast") == TrainConfig()
    adam = optax.adam(1e-3)
    changed = TrainConfig.preset("paper", epochs=7, optimizer=adam)
    assert (changed.epochs, changed.optimizer, changed.weight_decay) == (7, adam, 5e-4)
    with says(InputError, "'papr'", "Did you mean 'paper'"):
        TrainConfig.preset("papr")


def test_configs_are_frozen_hashable_and_equal_by_value():
    for config in (TrainConfig(), FitConfig(), PamConfig(), SGD()):
        assert hash(config) == hash(type(config)())
        assert config == type(config)()
        assert is_dataclass(config)
        with pytest.raises(AttributeError):
            setattr(config, fields(config)[0].name, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"weight_decay": float("nan")}, "weight_decay=nan"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0"),
        ({"compute_dtype": "bfloat"}, "Did you mean 'bfloat16'"),
        ({"statistics_momentum": 1.0}, "statistics_momentum=1.0"),
        ({"statistics_momentum": -0.1}, "statistics_momentum=-0.1"),
    ],
)
def test_bad_values_are_refused(changes, said):
    with says(InputError, said):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": -0.1}, "learning_rate=-0.1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"schedule": "halfing"}, "Did you mean 'halving'"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"decay": 0.0}, "decay=0.0"),
        ({"decay": 1.1}, "decay=1.1"),
    ],
)
def test_bad_values_of_sgd_are_refused(changes, said):
    with says(InputError, said):
        SGD(**changes)


def test_a_config_of_another_fit_is_refused():
    assert check_config(TrainConfig(), TrainConfig) == check_config(None, TrainConfig) == TrainConfig()
    for wrong, name in ((FitConfig(), "FitConfig"), (3, "int"), (TrainConfig, "the class"), ({"epochs": 3}, "dict")):
        with says(InputError, name, "TrainConfig"):
            check_config(wrong, TrainConfig)
