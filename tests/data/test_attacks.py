"""PGD: linear losses, whose worst images are known, steps by hand, and the ball."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says

from mcjax import InputError
from mcjax.data import PgdAttack, normalize

MEAN, STD = np.array([0.4, 0.5]), np.array([0.2, 0.3])


@pytest.fixture
def images():
    """Pixels of every value, as normalised."""
    return normalize(np.arange(2 * 8 * 8 * 2).reshape(2, 8, 8, 2).astype(np.uint8), MEAN, STD)


def pixels(x):
    return np.asarray(x, np.float64) * STD + MEAN


@pytest.mark.parametrize("random_start", [False, True])
def test_a_linear_loss_is_highest_at_a_corner_of_the_ball_and_of_the_pixels(images, random_start):
    weights = np.random.default_rng(0).normal(size=images.shape)
    attack = PgdAttack(epsilon=0.1, step_size=0.05, steps=5, random_start=random_start)
    loss = jax.jit(lambda x: attack(jax.random.key(0), x, lambda x: jnp.vdot(weights, x), MEAN, STD))
    worst = np.clip(pixels(images) + 0.1 * np.sign(weights), 0, 1)
    np.testing.assert_allclose(pixels(loss(images)), worst, atol=1e-6)


def test_steps_are_signs_of_gradients_and_stay_in_the_ball(images):
    """A loss whose gradient changes its sign within the ball."""
    goal = pixels(images) + 0.03
    attack = PgdAttack(epsilon=0.06, step_size=0.02, steps=4, random_start=False)
    std, mean = (np.broadcast_to(each, images.shape) for each in (STD, MEAN))
    found = attack(jax.random.key(0), images, lambda x: -jnp.square(x * std + mean - goal).sum(), MEAN, STD)
    at = pixels(images)
    for _ in range(4):
        at = np.clip(at + 0.02 * np.sign(goal - at), 0, 1)
    np.testing.assert_allclose(pixels(found), at, atol=1e-5)
    assert np.abs(pixels(found) - pixels(images)).max() <= 0.06 + 1e-6


def test_random_starts_fill_the_ball_and_are_those_of_the_key(images):
    """With no gradient the start stays."""
    attack = PgdAttack(epsilon=0.1)
    one, again, other = (attack(jax.random.key(k), images, lambda x: 0 * x.sum(), MEAN, STD) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.9
    moved = pixels(one) - pixels(images)
    inside = (pixels(images) > 0.1) & (pixels(images) < 0.9)
    assert np.abs(moved).max() <= 0.1 + 1e-6
    assert moved[inside].std() == pytest.approx(0.1 / np.sqrt(3), rel=0.15)


def test_attacked_images_are_constants(images):
    def attacked(scale):
        return PgdAttack(random_start=False)(
            jax.random.key(0), images, lambda x: jnp.square(scale * x).sum(), MEAN, STD
        ).sum()

    assert jax.grad(attacked)(2.0) == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 0}, "steps=0"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"epsilon": 8}, "pixels are in"),
        ({"step_size": -1}, "step_size"),
    ],
)
def test_a_bad_attack_is_named(changes, named):
    with says(InputError, named):
        PgdAttack(**changes)
