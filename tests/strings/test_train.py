"""Strings that are trained whole: into a ring, against a wall, from fresh networks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from landscapes import RING, WELLS, at, config, heights, ring
from refusals import says

from mcjax import InputError, Task, TrainConfig, evaluate_path, trees
from mcjax.runs.folder import RunFolder
from mcjax.runs.recorder import Recorder
from mcjax.strings import StringConfig, train, train_string

ENDS = (at(2, 0.5), at(-1.9, 0.2))


@pytest.mark.parametrize("changes", [{}, {"kappa": math.inf}, {"zeta": 0.01}], ids=["free", "in planes", "springs"])
def test_a_string_falls_into_a_ring(key, changes):
    trained = train_string(key, RING, 0.01, *ENDS, config=config(steps_per_epoch=2, **changes), level_factor=0.4)
    string = trained.string
    assert string.connected
    # From the height of the straight line, by the same factor, to the threshold.
    assert trained.levels[0] > 10
    np.testing.assert_allclose(trained.levels[1:-1] / trained.levels[:-2], 0.4, rtol=1e-5)
    np.testing.assert_allclose(trained.levels[-1], 0.01, rtol=1e-6)
    assert (np.diff(trained.beads) >= 0).all()
    assert trained.beads[-1] == string.beads > 5
    points = np.asarray(string.knots["point"])
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=0.06)
    angles = np.unwrap(np.arctan2(points[:, 1], points[:, 0]))
    np.testing.assert_allclose(string.length, abs(angles[-1] - angles[0]), rtol=0.06)
    highest = heights(ring, string)
    assert highest.max() <= 0.01 * 1.01
    # Heights are those of the segments as they are at the end.
    assert (string.heights <= highest * 1.001 + 1e-6).all()


def test_a_wall_shows_as_the_level_that_is_not_passed(key):
    settings = config(steps_per_epoch=2, depth=3, noise=0.02)
    trained = train_string(key, WELLS, 0.1, *ENDS, config=settings, level_factor=0.7)
    assert not trained.string.connected
    assert trained.string.reason in ("depth", "epochs")
    assert 0.5 / 1.01 <= trained.levels[-1] < 0.5 / 0.7
    assert trained.string.worst.height >= 0.49


# Trained for a few steps, it does better on pixels of higher contrast.
@pytest.mark.filterwarnings("ignore:got a training accuracy")
def test_from_fresh_networks(key, tiny_task, tiny_model):
    training = TrainConfig(epochs=40, batch_size=40, steps_per_epoch=3, optimizer=optax.adam(0.01), weight_decay=0.0)
    settings = StringConfig(training, chunk=4)
    trained = train_string(key, tiny_task, 0.7, config=settings, level_factor=0.6)
    assert trained.string.connected
    metrics = evaluate_path(tiny_task, trained.string.path, 61)
    assert metrics.train_loss.max() <= 0.7 * 1.01
    assert trained.levels[0] > 0.9
    # The ends are networks of this model.
    assert trees.shapes(trees.index(trained.string.knots, 0)) == trees.shapes(jax.eval_shape(tiny_model.init, key))


class Stop(BaseException):
    pass


def test_an_interrupted_training_goes_on_to_the_same_bits(key, tmp_path, monkeypatch):
    arguments = {"config": config(steps_per_epoch=2), "level_factor": 0.4}
    whole = train_string(key, RING, 0.05, *ENDS, **arguments)
    real, left = train._reach_level, [3]

    def stopping(*args):
        if not left[0]:
            raise Stop
        left[0] -= 1
        return real(*args)

    monkeypatch.setattr(train, "_reach_level", stopping)
    recorder = Recorder("ring", RunFolder(tmp_path, {}), "trained", progress=False)
    with pytest.raises(Stop):
        train_string(key, RING, 0.05, *ENDS, **arguments, recorder=recorder)
    left[0] = 100
    resumed = train_string(key, RING, 0.05, *ENDS, **arguments, recorder=recorder)
    assert left[0] == 100 - (len(whole.levels) - 1 - 3)
    np.testing.assert_array_equal(resumed.levels, whole.levels)
    np.testing.assert_array_equal(resumed.beads, whole.beads)
    np.testing.assert_array_equal(resumed.string.knots["point"], whole.string.knots["point"])


def test_a_string_that_is_low_from_the_start(key):
    trained = train_string(key, RING, 0.5, at(1, 0), at(0, 1), config=config())
    assert trained.string.connected
    assert trained.string.beads == 0
    np.testing.assert_allclose(trained.levels, [0.25], rtol=1e-5)


def test_bad_arguments_are_refused(key):
    pair = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), ENDS[0])
    for threshold, level_factor, ends, *named in (
        (0.1, 0.8, (ENDS[0], ENDS[0]), "the same network"),
        (0.1, 0.8, (pair, pair), "leading axis"),
        *((value, 0.8, ENDS, f"threshold={value!r}") for value in (0.0, math.nan, "0.1", True)),
        *((0.1, value, ENDS, f"level_factor={value}") for value in (1.0, 0.0)),
    ):
        with says(InputError, *named):
            train_string(key, RING, threshold, *ends, config=config(), level_factor=level_factor)
    with says(InputError, "TrainConfig", "StringConfig(training="):
        train_string(key, RING, 0.1, *ENDS, config=TrainConfig())
    with says(InputError, "(2,)", "one key"):
        train_string(jax.random.split(key), RING, 0.1, *ENDS, config=config())


def test_ends_of_a_task_without_init(key):
    def loss(theta, batch, key):
        return jnp.square(jnp.square(theta).sum() - 1) + 0 * batch.mean()

    task, ends = Task(loss, np.ones(1, np.float32)), [np.float32(end["point"]) for end in ENDS]
    settings = config(steps_per_epoch=2)
    own = train_string(key, task, 0.05, *ends, config=settings, level_factor=0.4).string
    whole = train_string(key, RING, 0.05, *ENDS, config=settings, level_factor=0.4).string
    assert own.connected
    np.testing.assert_allclose(own.knots, whole.knots["point"], atol=1e-4)
    with says(InputError, "the task", "no init"):
        train_string(key, task, 0.05, ends[0], config=settings)
