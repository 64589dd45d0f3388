"""Epochs: every example at most once a pass, one trace, the same numbers for many fits and for one."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from convolutions import lowering_of_jax
from refusals import says

from mcjax import Augmentation, InputError, Recorder, RunError, Task, models, supervised, trees
from mcjax.runs import checkpoint
from mcjax.runs.folder import RunFolder
from mcjax.training import Criterion
from mcjax.training.early_stopping import EarlyStopping
from mcjax.training.endpoints import endpoint_fit, fresh_states
from mcjax.training.fit import Fit, FitState
from mcjax.training.loop import EpochPlan, check_typed_keys, epoch, epoch_plan, join_histories, run_epochs

PLAN = EpochPlan(25, 4)


def note(state, batch, key):
    """A step that notes which examples it sees, by their mark, and has the sum of their labels as its loss."""
    (at, seen), (marks, labels) = state.variables, batch
    seen = seen.at[at].set(marks + state.fixed["shift"])
    return state._replace(variables=(at + 1, seen)), {"loss": labels.sum().astype(jnp.float32)}


NOTING = Fit(None, jax.tree_util.Partial(note))


@pytest.fixture(scope="module")
def numbered():
    """103 examples that are numbers, labelled with themselves."""
    return Task(lambda theta, batch, key: 0.0, (np.arange(103), np.arange(103)), name="numbers")


def noting(task, batch_size=25, steps=4):
    """key -> (the numbers of the examples in the order in which an epoch sees them, its mean loss)."""
    state = FitState((0, jnp.full((steps, batch_size), -1)), (), {"shift": 0})

    def run(key):
        state_, metrics = epoch(NOTING, task, EpochPlan(batch_size, steps), state, key)
        return state_.variables[1].ravel(), metrics["loss"]

    return run


def test_an_epoch_sees_every_example_at_most_once_and_other_ones_each_time(numbered, key):
    """Also under vmap, whose epochs are those one by one."""
    run, keys = noting(numbered), jax.random.split(key, 3)
    assert epoch_plan(numbered, 25, None) == PLAN
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
def test_an_epoch_may_be_shorter_or_longer_than_a_pass(numbered, key, steps):
    """Passes of four whole batches, each with every example once, in an order of its own, without the three left."""
    assert epoch_plan(numbered, 25, steps) == EpochPlan(25, steps)
    once = jax.jit(noting(numbered, steps=steps))
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


def test_a_batch_of_all_examples_has_all_of_them(numbered, key):
    seen = np.asarray(jax.jit(noting(numbered, 103, 4))(key)[0]).reshape(4, 103)
    np.testing.assert_array_equal(np.sort(seen), np.tile(np.arange(103), (4, 1)))


def test_batches_are_augmented_with_a_key_of_their_own_before_the_step(numbered, key):
    """Marks are drawn anew at every step, and labels stay."""

    def drawn(key, batch):
        return jax.random.randint(key, batch[0].shape, 1000, 10**6), batch[1]

    task = Task(lambda theta, batch, key: 0.0, numbered.train, augment=drawn)
    seen, loss = jax.jit(noting(task))(key)
    assert len(set(np.asarray(seen).tolist())) > 95
    assert min(seen) >= 1000
    np.testing.assert_allclose(loss, jax.jit(noting(numbered))(key)[1])


def test_what_is_fixed_stays_and_is_no_part_of_what_is_trained(numbered, key, tmp_path):
    """Every fit has its own, which a run folder does not hold."""
    shifts = np.array([0, 1000])
    states = FitState((jnp.zeros(2, int), jnp.full((2, 4, 25), -1)), (), {"shift": shifts})
    recorder = Recorder("numbers", RunFolder(tmp_path, {}), "numbers", progress=False)
    after, history = run_epochs(NOTING, numbered, PLAN, states, jax.random.split(key), 1, recorder)
    np.testing.assert_array_equal(after.fixed["shift"], shifts)
    assert (np.asarray(after.variables[1]) // 1000 == np.array([0, 1])[:, None, None]).all()
    assert history.keys() == {"loss"}
    kept = checkpoint.load(tmp_path / "checkpoints" / "numbers" / "latest")["state"].values()
    assert sorted(np.shape(leaf) for leaf in kept) == [(2,), (2, 4, 25)]


@pytest.fixture(scope="module")
def fits(tiny_data, tiny_model):
    """A task and a fit, keys, first states, and three epochs of three fits."""
    keys, calls = jax.random.split(jax.random.key(0), 3), []

    def apply_train(*args):
        calls.append(1)
        return tiny_model.apply_train(*args)

    task = supervised(tiny_model._replace(apply_train=apply_train), tiny_data, augmentation=Augmentation.none())
    fit = endpoint_fit(task, optax.sgd(0.1, momentum=0.9, nesterov=True), weight_decay=5e-4)
    start = fresh_states(fit, tiny_model.init, keys)
    found = task, fit, keys, start, *run_epochs(fit, task, PLAN, start, keys, 3)
    assert len(calls) == 1, "all epochs of all networks are one trace"
    return found


def near(a, b):
    chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-6)


def test_fits_stay_where_they_are_once_they_are_at_their_target(fits):
    task, fit, keys, start, whole, _ = fits
    # The second never starts, the first is done after one epoch, the third not at all.
    stopping = EarlyStopping(Criterion(), task, np.array([100.0, np.inf, 1e-9]))
    states, history = run_epochs(fit, task, PLAN, start, keys, 3, stopping=stopping)
    once, _ = run_epochs(fit, task, PLAN, start, keys, 1)
    first, second, third = (trees.index(states.variables, i) for i in range(3))
    near(first, trees.index(once.variables, 0))
    chex.assert_trees_all_equal(second, trees.index(start.variables, 1))
    near(third, trees.index(whole.variables, 2))
    assert stopping.epochs.tolist() == [1, 0, 3]
    assert history["loss"].shape == (3, 3)
    assert len(set(history["loss"][0].tolist())) == 1


class Maps(nn.Module):
    """A convolution of any library, with strides."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(3, (3, 3), strides=2, dtype=x.dtype)(x))
        return nn.Dense(3)(x.mean((1, 2)))


def test_epochs_of_a_users_convolutions_are_steps_one_by_one(tiny_data):
    """Each fit by itself, one batch at a time, with the gradients of JAX's own lowering."""
    x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    task = supervised(models.from_flax(Maps(), x), tiny_data, augmentation=Augmentation.none())
    keys, fit = jax.random.split(jax.random.key(0), 2), endpoint_fit(task, optax.sgd(0.1))
    start = fresh_states(fit, task.init, keys)
    states, history = run_epochs(fit, task, PLAN, start, keys, 1)

    def step(state, batch, key):
        return fit.step(state, batch, key)

    with lowering_of_jax():
        step = jax.jit(step)
        for i in range(2):
            # The order of an epoch, from one that only notes it.
            marks = Task(lambda theta, batch, key: 0.0, (np.arange(120), np.arange(120)))
            state, losses = trees.index(start, i), []
            order = np.asarray(jax.jit(noting(marks))(jax.random.fold_in(keys[i], 0))[0]).reshape(4, 25)
            for rows in order:
                batch = jax.tree.map(lambda leaf, rows=rows: jnp.asarray(leaf[rows]), task.train)
                state, metrics = step(state, batch, keys[i])
                losses.append(metrics["loss"])
            near(trees.index(states.variables, i), state.variables)
            np.testing.assert_allclose(history["loss"][i, 0], np.mean(losses), rtol=1e-5)


def test_history_has_a_row_a_fit_and_a_column_an_epoch(fits):
    *_, history = fits
    assert history.keys() == {"loss", "accuracy"}
    assert history["loss"].shape == history["accuracy"].shape == (3, 3)
    assert (history["loss"][:, -1] < history["loss"][:, 0]).all()


def test_epochs_go_on_where_others_ended(fits):
    """Their keys are counted from the start of the call, so that stretches have keys of their own."""
    task, fit, keys, start, _, history = fits
    first, one = run_epochs(fit, task, PLAN, start, keys, 1)
    _, again = run_epochs(fit, task, PLAN, start, keys, 1)
    np.testing.assert_array_equal(one["loss"], again["loss"])
    np.testing.assert_allclose(one["loss"], history["loss"][:, :1], rtol=1e-5)
    _, two = run_epochs(fit, task, PLAN, first, jax.random.split(jax.random.key(9), 3), 2)
    joined = join_histories([one, two])
    assert joined["loss"].shape == joined["accuracy"].shape == (3, 3)
    np.testing.assert_array_equal(joined["loss"][:, 1:], two["loss"])


def breaking(at, state, batch, key):
    """A loss that is not finite at the fit's own step, and a t that tells the step."""
    step = state.variables
    wrong = jnp.where(step == state.fixed, at, 1.0)
    return state._replace(variables=step + 1), {"loss": wrong, "t": step / 100}


def without_t(state, batch, key):
    state, metrics = breaking(jnp.inf, state, batch, key)
    return state, {"loss": metrics["loss"]}


def test_a_loss_that_is_not_finite_names_the_fit_the_epoch_the_batch_and_t(numbered, key):
    states, keys = FitState(jnp.zeros(3, int), (), np.array([99, 6, 5])), jax.random.split(key, 3)
    for fit, words in (
        (partial(breaking, jnp.nan), ("number 1, 2 of 3", "epoch 2", "batch 3 at t = 0.06", "Epoch 1 is kept")),
        (without_t, ("number 1, 2 of 3", "epoch 2", "batch 3. Epoch 1 is kept")),
    ):
        with says(RunError, *words):
            run_epochs(Fit(None, jax.tree_util.Partial(fit)), numbered, PLAN, states, keys, 3)
    first = FitState(jnp.zeros(3, int), (), np.array([99, 99, 0]))
    with says(RunError, "number 2 of 3", "epoch 1", "batch 1 at t = 0"):
        run_epochs(Fit(None, jax.tree_util.Partial(partial(breaking, jnp.nan))), numbered, PLAN, first, keys, 3)


def test_bad_arguments_are_refused(numbered, fits):
    with says(InputError, "batch_size=104", "103", "numbers"):
        epoch_plan(numbered, 104, None)
    for wrong, word in ((0, "int"), (jax.random.PRNGKey(0), "jax.random.key(seed)")):
        with says(InputError, word):
            check_typed_keys(wrong)
    # A loss that is not finite stops at its epoch and names the network.
    task, fit, keys, start, *_ = fits
    broken = jax.tree.map(np.array, start.variables)
    for leaf in jax.tree.leaves(broken):
        leaf[1] = np.nan
    with says(RunError, "number 1 of 3", "epoch 1", "batch 1"):
        run_epochs(fit, task, PLAN, start._replace(variables=broken), keys, 3)
