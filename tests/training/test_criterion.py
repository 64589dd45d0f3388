"""Fits that stop where they are good enough: which go on, and what is counted."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
from landscapes import BOWL, at
from refusals import says
from variables import mlp, normalized, stacked

from mcjax import SGD, InputError, Recorder, RunError, TrainConfig, evaluate, make_mesh, train_endpoints, trees
from mcjax.runs.folder import RunFolder
from mcjax.training import Criterion
from mcjax.training.criterion import EarlyStopping
from mcjax.training.fit import FitState

# The loss in the bowl is half of the squared distance from zero.
POINTS = [(1.0, 1.0), (0.2, 0.0), (3.0, 0.0), (0.0, 0.0)]


def stopping(targets):
    return EarlyStopping(Criterion(), BOWL, np.array(targets))


def states(points):
    return FitState(stacked([at(*point) for point in points]), ())


def test_only_those_above_their_target_go_on():
    one = stopping([0.5, 0.5, 5.0, np.inf])
    assert one.running.tolist() == [0, 1, 2]
    one.update(states(POINTS))
    assert one.running.tolist() == [0]
    np.testing.assert_allclose(one.values, [1.0, 0.02, 4.5, np.inf])
    # Those that are done are not measured again, and stay done.
    one.update(states([(0.1, 0.0), (9.0, 0.0), (9.0, 0.0), (9.0, 0.0)]))
    assert one.running.tolist() == []
    np.testing.assert_allclose(one.values, [0.005, 0.02, 4.5, np.inf])


def test_a_fit_whose_loss_is_nan_continues():
    one = stopping([0.5, 0.5])
    one.update(states([(np.nan, 0.0), (0.0, 0.0)]))
    assert one.running.tolist() == [0]


def test_the_numbers_are_filled_up_to_a_power_of_two_or_all():
    for running, size in ((1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 9)):
        one = stopping([1.0] * running + [np.inf] * (9 - running))
        assert one.selection().tolist() == [*range(running), *[9] * (size - running)]


def test_a_stopped_fit_keeps_its_last_metrics():
    one = stopping([1.0, 1.0, 1.0])
    one.running = np.array([0, 2])
    values = one.record({"loss": np.array([5.0, 6.0, 0.0])}, {"loss": np.array([[1.0, 2], [3, 4], [7, 8]])})
    assert values["loss"].tolist() == [5.0, 4.0, 6.0]
    assert one.epochs.tolist() == [1, 0, 1]


CONFIG = TrainConfig(epochs=60, batch_size=20, optimizer=SGD(0.02, "constant"), steps_per_epoch=2)


def close(a, b):
    chex.assert_trees_all_close(a, b, rtol=1e-3, atol=1e-5)


def test_endpoints_are_trained_to_a_target_each(tiny_task, key):
    keys, targets = jax.random.split(key, 3), np.array([0.9, 0.3, 0.6])
    found = train_endpoints(keys, tiny_task, CONFIG, target=targets)
    losses = np.asarray(evaluate(tiny_task, found.theta)[0]["loss"])
    np.testing.assert_allclose(found.criterion, losses, rtol=1e-5)
    assert (losses <= targets).all()
    # Not much further than that: they stopped after the first epoch of two steps that got there.
    assert (losses > 0.6 * targets).all()
    alone = train_endpoints(keys[:1], tiny_task, CONFIG, target=0.9)
    close(trees.index(alone.theta, 0), trees.index(found.theta, 0))
    # The history of one that stays repeats its last epoch.
    epochs = alone.history["loss"].shape[1]
    assert epochs < found.history["loss"].shape[1]
    np.testing.assert_array_equal(found.history["loss"][0, epochs:], found.history["loss"][0, epochs - 1])


def test_a_resumed_fit_that_is_at_its_target_stays_there(tiny_task, key, tmp_path):
    recorder = Recorder("endpoints", RunFolder(tmp_path, {}), progress=False)
    first, again = (train_endpoints(key[None], tiny_task, CONFIG, target=0.9, recorder=recorder) for _ in range(2))
    assert first.history["loss"].shape[1] < 60
    chex.assert_trees_all_equal(again.history, first.history)
    chex.assert_trees_all_equal(again.theta, first.theta)


def test_a_target_that_is_not_reached(tiny_task, key):
    keys = jax.random.split(key, 3)
    found, plain = (train_endpoints(keys, tiny_task, CONFIG, target=target) for target in (1e-6, None))
    assert (found.criterion > 1e-6).all()
    assert found.history["loss"].shape == (3, 60)
    assert plain.criterion is None
    close(found.theta, plain.theta)


def test_other_criteria(tiny_data, tiny_task, key):
    criterion = Criterion("error", "test", 30)
    found = train_endpoints(key[None], tiny_task, CONFIG, target=0.1, criterion=criterion)
    assert found.criterion[0] <= 0.1
    logits = mlp(trees.index(found.theta, 0), normalized(tiny_data.test_images[:30], tiny_data))[-1]
    error = (logits.argmax(1) != tiny_data.test_labels[:30]).mean()
    np.testing.assert_allclose(found.criterion[0], error, atol=1e-6)


def norm(theta, batch):
    """A metric that training alone does not lower."""
    return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(theta))


def test_a_criterion_of_ones_own(tiny_task, key):
    """Parameters shrink by weight decay alone, once they are large: networks stop as they get small."""
    config = replace(CONFIG, weight_decay=1.0, optimizer=SGD(0.05, "constant", momentum=0.0))
    found = train_endpoints(key[None], tiny_task, config, target=2.0, criterion=Criterion(norm))
    theta = trees.index(found.theta, 0)
    squares = sum(np.square(np.float64(leaf)).sum() for leaf in jax.tree.leaves(theta))
    np.testing.assert_allclose(found.criterion[0], squares, rtol=1e-5)
    assert 1.0 < squares <= 2.0


def test_bad_targets_are_refused(tiny_task, key):
    for options, words in (
        *(({"target": target}, (f"target={target:.0f}", "2 keys")) for target in (0.0, -1.0, np.nan)),
        ({"target": [0.1, 0.2, 0.3]}, ("[0.1 0.2 0.3]", "2 keys")),
        ({"criterion": "error"}, ("'error'", "Criterion")),
        ({"criterion": Criterion("acuracy")}, ("'acuracy'", "error")),
        ({"criterion": Criterion("loss", "validation")}, ("validation", "hold_out")),
        ({"mesh": make_mesh(1)}, ("mesh", "target")),
    ):
        with says(InputError, *words):
            train_endpoints(jax.random.split(key), tiny_task, CONFIG, **{"target": 0.1, **options})
    high = replace(CONFIG, optimizer=SGD(1e30, "constant"))
    with says(RunError, "not finite", "epoch"):
        train_endpoints(key[None], tiny_task, high, target=0.1)
