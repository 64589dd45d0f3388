"""Adam of the studies: the updates of optax, one object for equal settings, JSON by which a run is known."""

import json
from dataclasses import asdict

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.optimizers import Adam
from mcjax import TrainConfig
from mcjax.training import SGD

GRADIENTS = [jnp.array(each) for each in ([3.0, -4.0], [0.5, 0.1], [-2.0, 8.0], [1.0, 1.0])]


def updates(optimizer):
    state, found = optimizer.init(GRADIENTS[0]), []
    for gradient in GRADIENTS:
        update, state = optimizer.update(gradient, state)
        found.append(update)
    return np.array(found)


def by_hand(rates, clip):
    """Kingma and Ba, Algorithm 1, in float64."""
    m, v, found = np.zeros(2), np.zeros(2), []
    for t, (gradient, rate) in enumerate(zip(GRADIENTS, rates, strict=True), 1):
        g = np.asarray(gradient, np.float64)
        g = g * min(1, clip / np.linalg.norm(g))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        found.append(-rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
    return np.array(found)


@pytest.mark.parametrize("clip", [None, 2.0])
def test_updates_are_those_of_adam(clip):
    found = updates(Adam(1e-2, clip=clip)(4, 2))
    np.testing.assert_allclose(found, by_hand([1e-2] * 4, np.inf if clip is None else clip), rtol=1e-4)


def test_one_cycle_is_that_of_sgd():
    plain = SGD(1e-2, momentum=0.0, nesterov=False)(4, 2)
    state, rates = plain.init(jnp.ones(())), []
    for _ in GRADIENTS:
        update, state = plain.update(jnp.ones(()), state)
        rates.append(-float(update))
    assert len(set(rates)) == 4
    np.testing.assert_allclose(updates(Adam(1e-2, schedule="one_cycle")(4, 2)), by_hand(rates, np.inf), rtol=1e-4)


def test_equal_settings_are_one_object():
    assert Adam(1e-2)(4, 2) is Adam(1e-2)(100, 10)
    assert Adam(1e-2, schedule="one_cycle")(4, 2) is Adam(1e-2, schedule="one_cycle")(4, 1)
    different = [Adam(1e-2)(4, 2), Adam(1e-2, clip=1.0)(4, 2), *(Adam(1e-2, "one_cycle")(steps, 2) for steps in (4, 8))]
    assert len({id(each) for each in different}) == 4
    assert all(isinstance(each, optax.GradientTransformation) for each in different)


def test_a_config_with_adam_is_json():
    known = json.loads(json.dumps(asdict(TrainConfig(optimizer=Adam(1e-2, clip=5.0)))))
    assert known["optimizer"] == {"learning_rate": 1e-2, "schedule": "constant", "clip": 5.0}
