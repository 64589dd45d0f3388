"""Epochs: every image at most once, one trace, the same numbers compiled, vmapped and stepped from the host."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcjax import Augmentation, Criterion, InputError, RunError, TrainConfig, trees
from mcjax.data import regression
from mcjax.models.base import Model
from mcjax.training.endpoints import EndpointStep
from mcjax.training.loop import epoch, run_epochs, steps_per_epoch
from mcjax.training.objective import Measured
from mcjax.training.target import Watch

CONFIG = TrainConfig(epochs=3, batch_size=25, augmentation=Augmentation.none())


@dataclass(frozen=True)
class CountLabels:
    """A step that tallies the images it sees by their mean pixel, and reports the label sum as loss."""

    config: TrainConfig
    convolutions: str = "none"

    def __call__(self, context, state, x, labels, key, /):
        marks = jnp.round(x[:, 0, 0, 0] + context["shift"]).astype(jnp.int32)
        return state.at[marks].add(1), Measured(labels.sum().astype(jnp.float32), jnp.float32(len(labels)))


@pytest.fixture
def numbered_data(tiny_data):
    """Images whose first pixel, normalised, is their number."""
    from dataclasses import replace

    images = np.zeros((103, 1, 1, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(103)
    return replace(
        tiny_data, train_images=images, train_labels=np.arange(103, dtype=np.int32),
        mean=np.zeros(1, np.float32), std=np.full(1, 1 / 255, np.float32),
    )  # fmt: skip


def test_an_epoch_sees_every_image_at_most_once_and_other_ones_each_time(numbered_data, key):
    step = CountLabels(CONFIG)
    seen, orders = [], []
    for k in jax.random.split(key, 3):
        counts, measured = epoch(step, numbered_data, {"shift": 0.0}, jnp.zeros(103, jnp.int32), k)
        assert counts.sum() == 100
        assert counts.max() == 1
        np.testing.assert_allclose(float(measured.loss) * 4, np.flatnonzero(counts).sum(), rtol=1e-6)
        seen.append(np.asarray(counts))
        orders.append(float(measured.loss))
    assert not np.array_equal(seen[0], seen[1])


@pytest.mark.parametrize(("steps", "least", "most"), [(1, 0, 1), (6, 1, 2), (9, 2, 3)])
def test_an_epoch_may_be_shorter_or_longer_than_a_pass(numbered_data, key, steps, least, most):
    config = TrainConfig(batch_size=25, augmentation=Augmentation.none(), steps_per_epoch=steps)
    assert steps_per_epoch(config, numbered_data) == steps
    counts, _ = epoch(CountLabels(config), numbered_data, {"shift": 0.0}, jnp.zeros(103, jnp.int32), key)
    assert counts.sum() == 25 * steps
    # Whole passes, each without the three that are beyond the last batch.
    assert counts.max() <= most
    assert (counts < least).sum() <= 3 * most


def test_a_batch_of_all_images_has_all_of_them(numbered_data, key):
    config = TrainConfig(batch_size=103, augmentation=Augmentation.none(), steps_per_epoch=4)
    counts, _ = epoch(CountLabels(config), numbered_data, {"shift": 0.0}, jnp.zeros(103, jnp.int32), key)
    assert (counts == 4).all()


def test_images_alone_are_augmented(key):
    data = regression(np.ones((4, 2)), np.ones((4, 1)), np.ones((1, 2)), np.ones((1, 1)))
    step = CountLabels(TrainConfig(batch_size=2, augmentation=Augmentation()))
    with pytest.raises(InputError, match=r"has inputs of shape \(2,\), which are no images: expected Augm"):
        epoch(step, data, {}, jnp.zeros(1), key)


@pytest.mark.parametrize("convolutions", ["none", "plain", "canonical"])
def test_fits_that_are_watched_stay_where_they_are_once_they_are_there(tiny_data, tiny_model, key, convolutions):
    step = EndpointStep(tiny_model._replace(convolutions=convolutions), CONFIG, 4)
    keys = jax.random.split(key, 3)
    # The second never starts, the first is done after one epoch, the third not at all.
    watch = Watch(step.model, Criterion(), tiny_data, np.array([100.0, np.inf, 1e-9]))
    states, history = run_epochs(step, tiny_data, {}, start(step, keys), keys, watch=watch)
    once, _ = run_epochs(step, tiny_data, {}, start(step, keys), keys, epochs=1)
    whole, _ = run_epochs(step, tiny_data, {}, start(step, keys), keys)
    for name, leaf in trees.flatten(states.theta).items():
        first, second, third = (
            trees.flatten(each)[name] for each in (once.theta, start(step, keys).theta, whole.theta)
        )
        np.testing.assert_allclose(leaf[0], first[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(leaf[1], second[1])
        np.testing.assert_allclose(leaf[2], third[2], rtol=1e-4, atol=1e-6)
    assert watch.epochs.tolist() == [1, 0, 3]
    assert history["loss"].shape == (3, 3)
    assert len(set(history["loss"][0].tolist())) == 1


def test_epoch_works_under_jit_and_vmap(numbered_data, key):
    run = partial(epoch, CountLabels(CONFIG), numbered_data, {"shift": 0.0}, jnp.zeros(103, jnp.int32))
    keys = jax.random.split(key, 3)
    one_by_one = [run(k) for k in keys]
    for together in (jax.vmap(run)(keys), jax.jit(jax.vmap(run))(keys)):
        for i, (counts, measured) in enumerate(one_by_one):
            np.testing.assert_array_equal(together[0][i], counts)
            np.testing.assert_allclose(together[1].loss[i], measured.loss, rtol=1e-6)


def counting(model: Model, calls: list) -> Model:
    def apply_train(*args):
        calls.append(1)
        return model.apply_train(*args)

    return model._replace(apply_train=apply_train)


def start(step, keys):
    return jax.vmap(step.init)(keys)


def test_all_epochs_of_all_networks_are_one_trace(tiny_data, tiny_model, key):
    calls = []
    step = EndpointStep(counting(tiny_model, calls), CONFIG, 4)
    keys = jax.random.split(key, 5)
    run_epochs(step, tiny_data, {}, start(step, keys), keys)
    assert len(calls) == 1


def test_stepping_from_the_host_gives_the_numbers_of_the_compiled_epoch(tiny_data, tiny_model, key):
    keys = jax.random.split(key, 2)
    results = []
    for convolutions in ("none", "plain", "canonical"):
        step = EndpointStep(tiny_model._replace(convolutions=convolutions), CONFIG, 4)
        results.append(run_epochs(step, tiny_data, {}, start(step, keys), keys))
    for states, history in results[1:]:
        np.testing.assert_allclose(history["loss"], results[0][1]["loss"], rtol=1e-5)
        for name, leaf in trees.flatten(states.theta).items():
            np.testing.assert_allclose(leaf, trees.flatten(results[0][0].theta)[name], rtol=1e-4, atol=1e-6)


def test_history_has_a_row_a_fit_and_a_column_an_epoch(tiny_data, tiny_model, key):
    step = EndpointStep(tiny_model, CONFIG, 4)
    keys = jax.random.split(key, 2)
    _, history = run_epochs(step, tiny_data, {}, start(step, keys), keys)
    assert history["loss"].shape == history["accuracy"].shape == (2, 3)
    assert (history["loss"][:, -1] < history["loss"][:, 0]).all()


def test_a_batch_larger_than_the_set_is_refused(tiny_data):
    with pytest.raises(InputError, match="batch_size=121, expected at most the 120"):
        steps_per_epoch(TrainConfig(batch_size=121), tiny_data)


def test_a_loss_that_is_not_finite_stops_at_its_epoch_and_names_the_network(tiny_data, tiny_model, key):
    step = EndpointStep(tiny_model, CONFIG, 4)
    states = start(step, jax.random.split(key, 3))
    broken = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), states.theta)
    with pytest.raises(RunError, match=r"number 1 of 3 is not finite in epoch 1\."):
        run_epochs(step, tiny_data, {}, states._replace(theta=broken), jax.random.split(key, 3))
