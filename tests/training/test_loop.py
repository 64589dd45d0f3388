"""Epochs: every image at most once a pass, one trace, the same numbers compiled, vmapped and stepped from the host."""

from dataclasses import dataclass, replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says

from mcjax import Augmentation, InputError, RunError, TrainConfig, trees
from mcjax.data import regression
from mcjax.training import Criterion
from mcjax.training.early_stopping import EarlyStopping
from mcjax.training.endpoints import EndpointStep
from mcjax.training.loop import epoch, initial_states, run_epochs, steps_per_epoch
from mcjax.training.objective import Metrics

CONFIG = TrainConfig(epochs=3, batch_size=25, augmentation=Augmentation.none())


@dataclass(frozen=True)
class NoteImages:
    """A step that notes which images it sees, by their mean pixel, and reports the label sum as loss."""

    config: TrainConfig
    convolutions: str = "none"

    def __call__(self, context, state, x, labels, key, /):
        step, seen = state
        marks = jnp.round(x[:, 0, 0, 0] + context["shift"]).astype(jnp.int32)
        return (step + 1, seen.at[step].set(marks)), Metrics(labels.sum().astype(jnp.float32), jnp.float32(0))


@pytest.fixture(scope="module")
def numbered_data(tiny_data):
    """Images whose first pixel, normalised, is their number."""
    images = np.zeros((103, 1, 1, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(103)
    return replace(
        tiny_data, train_images=images, train_labels=np.arange(103, dtype=np.int32),
        mean=np.zeros(1, np.float32), std=np.full(1, 1 / 255, np.float32),
    )  # fmt: skip


def noting(data, batch_size=25, steps_per_epoch=None):
    """key -> (the numbers of the images in the order in which an epoch sees them, its mean loss)."""
    config = replace(CONFIG, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    state = (0, jnp.full((steps_per_epoch or 4, batch_size), -1))

    def run(key):
        (_, seen), measured = epoch(NoteImages(config), data, {"shift": 0.0}, state, key)
        return seen.ravel(), measured.loss

    return run


def test_an_epoch_sees_every_image_at_most_once_and_other_ones_each_time(numbered_data, key):
    """Also under vmap, whose epochs are those one by one."""
    run, keys = noting(numbered_data), jax.random.split(key, 3)
    assert steps_per_epoch(CONFIG, numbered_data) == 4
    once, (seen, losses) = jax.jit(run), jax.jit(jax.vmap(run))(keys)
    for i in range(3):
        alone, loss = once(keys[i])
        np.testing.assert_array_equal(seen[i], alone)
        np.testing.assert_allclose([loss, losses[i]], alone.sum() / 4, rtol=1e-6)
        assert len(set(alone.tolist())) == 100
        assert 0 <= alone.min() < alone.max() <= 102
    left_out = {frozenset(range(103)) - set(each.tolist()) for each in np.asarray(seen)}
    assert len(left_out) == 3
    assert (np.asarray(seen[0]) != np.asarray(seen[1])).any()


@pytest.mark.parametrize("steps", [1, 6, 9])
def test_an_epoch_may_be_shorter_or_longer_than_a_pass(numbered_data, key, steps):
    """Passes of four whole batches, each with every image once, in an order of its own, without the three left."""
    config = replace(CONFIG, steps_per_epoch=steps)
    assert steps_per_epoch(config, numbered_data) == steps
    once = jax.jit(noting(numbered_data, steps_per_epoch=steps))
    epochs = [np.asarray(once(k)[0]) for k in jax.random.split(key, 3)]
    for seen in epochs:
        assert len(seen) == 25 * steps
        passes = [seen[at : at + 100] for at in range(0, len(seen), 100)]
        assert all(len(set(each.tolist())) == len(each) for each in passes)
        for i, one in enumerate(passes):
            for other in passes[:i]:
                # Two orders at random agree in one place, on average.
                assert (one == other[: len(one)]).mean() < 0.2
                assert set(one[:25].tolist()) != set(other[:25].tolist())
    if steps > 4:  # others are left every time
        assert len(set(np.concatenate(epochs).tolist())) == 103


def test_a_batch_of_all_images_has_all_of_them(numbered_data, key):
    seen = np.asarray(jax.jit(noting(numbered_data, 103, 4))(key)[0]).reshape(4, 103)
    np.testing.assert_array_equal(np.sort(seen), np.tile(np.arange(103), (4, 1)))


@pytest.fixture(scope="module")
def fits(tiny_data, tiny_model):
    """By what a model convolves with: its step, keys, first states, and three epochs of three fits."""
    keys, found, calls = jax.random.split(jax.random.key(0), 3), {}, []

    def apply_train(*args):
        calls.append(1)
        return tiny_model.apply_train(*args)

    for convolutions in ("none", "plain", "canonical"):
        calls.clear()
        step = EndpointStep(tiny_model._replace(convolutions=convolutions, apply_train=apply_train), CONFIG, 4)
        start = initial_states(step, keys)
        found[convolutions] = step, keys, start, *run_epochs(step, tiny_data, {}, start, keys)
        assert len(calls) == 1, "all epochs of all networks are one trace"
    return found


def near(a, b):
    chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("convolutions", ["none", "plain"])
def test_fits_stay_where_they_are_once_they_are_at_their_target(tiny_data, fits, convolutions):
    step, keys, start, whole, _ = fits[convolutions]
    # The second never starts, the first is done after one epoch, the third not at all.
    stopping = EarlyStopping(step.model, Criterion(), tiny_data, np.array([100.0, np.inf, 1e-9]))
    states, history = run_epochs(step, tiny_data, {}, start, keys, stopping=stopping)
    once, _ = run_epochs(step, tiny_data, {}, start, keys, epochs=1)
    first, second, third = (trees.index(states.theta, i) for i in range(3))
    near(first, trees.index(once.theta, 0))
    chex.assert_trees_all_equal(second, trees.index(start.theta, 1))
    near(third, trees.index(whole.theta, 2))
    assert stopping.epochs.tolist() == [1, 0, 3]
    assert history["loss"].shape == (3, 3)
    assert len(set(history["loss"][0].tolist())) == 1


@pytest.mark.parametrize("convolutions", ["plain", "canonical"])
def test_stepping_from_the_host_gives_the_numbers_of_the_compiled_epoch(fits, convolutions):
    *_, states, history = fits[convolutions]
    *_, expected, losses = fits["none"]
    np.testing.assert_allclose(history["loss"], losses["loss"], rtol=1e-5)
    near(states.theta, expected.theta)


def test_history_has_a_row_a_fit_and_a_column_an_epoch(fits):
    *_, history = fits["none"]
    assert history["loss"].shape == history["accuracy"].shape == (3, 3)
    assert (history["loss"][:, -1] < history["loss"][:, 0]).all()


def test_bad_arguments_are_refused(tiny_data, fits, key):
    with says(InputError, "batch_size=121", "120"):
        steps_per_epoch(TrainConfig(batch_size=121), tiny_data)
    # Images alone are augmented.
    line = regression(np.ones((4, 2)), np.ones((4, 1)), np.ones((1, 2)), np.ones((1, 1)))
    step = NoteImages(TrainConfig(batch_size=2, augmentation=Augmentation()))
    with says(InputError, "(2,)", "Augmentation.none()"):
        jax.eval_shape(partial(epoch, step, line, {}, (0, jnp.zeros((2, 2)))), key)
    # A loss that is not finite stops at its epoch and names the network.
    step, keys, start, *_ = fits["none"]
    broken = jax.tree.map(np.array, start.theta)
    for leaf in jax.tree.leaves(broken):
        leaf[1] = np.nan
    with says(RunError, "number 1 of 3", "epoch 1"):
        run_epochs(step, tiny_data, {}, start._replace(theta=broken), keys)
