"""Epochs: every example at most once a pass, one trace, the same numbers mapped, in sequence and from streams."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import says
from streams import Epochs, Source, Watched, rows_of

from mcjax import Augmentation, InputError, Recorder, RunError, Task, supervised, trees
from mcjax.data import Stream, blocks
from mcjax.runs import checkpoint
from mcjax.runs.folder import RunFolder
from mcjax.runs.recorder import Recording
from mcjax.runtime.target import compiling_for
from mcjax.training import Criterion
from mcjax.training.criterion import EarlyStopping
from mcjax.training.endpoints import endpoint_fit, fresh_states
from mcjax.training.fit import Fit, FitState
from mcjax.training.loop import (
    EpochPlan,
    Feed,
    _compiled_epoch,
    epoch,
    epoch_plan,
    join_histories,
    run_epochs,
)

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
    assert epoch_plan(numbered, 25, steps) == EpochPlan(25, steps, passes=False)
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


def test_an_interrupted_fit_says_what_is_complete_and_goes_on_from_a_run_folder(numbered, tmp_path, monkeypatch):
    states = FitState((jnp.zeros(2, int), jnp.full((2, 4, 25), -1)), (), {"shift": np.zeros(2, int)})
    given = (NOTING, numbered, PLAN, states, jax.random.split(jax.random.key(0)), 3)
    kept = Recorder("numbers", RunFolder(tmp_path, {}), progress=False)
    add = Recording.add

    def interrupted(recording, *what):
        if recording.done == 1:
            raise KeyboardInterrupt
        add(recording, *what)

    notes = (None, ("the fit: 1 of 3 epochs", "RunFolder(path, config)")), (kept, ("numbers: 1 of 3", str(tmp_path)))
    for recorder, words in notes:
        with monkeypatch.context() as patch:
            patch.setattr(Recording, "add", interrupted)
            with pytest.raises(KeyboardInterrupt) as caught:
                run_epochs(*given, recorder)
        assert all(word in caught.value.__notes__[0] for word in words)
    latest = tmp_path / "checkpoints" / "fit" / "latest"
    assert checkpoint.load(latest)["history"]["loss"].shape == (2, 1)
    chex.assert_trees_all_equal(run_epochs(*given, kept), run_epochs(*given))


@pytest.fixture(scope="module")
def fits(tiny_data, tiny_model):
    """Of dense and of convolutional networks: task and fit, keys, first states, and three epochs of three fits."""
    keys, found, calls = jax.random.split(jax.random.key(0), 3), {}, []
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)

    def convolving(theta, x, key):
        """The network as it is, through a convolution that changes nothing, by which networks run in sequence."""
        one = jnp.ones((1, 1, 1, 1), x.dtype)
        same = jax.lax.conv_general_dilated(x, one, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return tiny_model.apply_train(theta, same, key)

    for kind, applied in (("dense", tiny_model.apply_train), ("convolutional", convolving)):
        calls.clear()

        def apply_train(*args, applied=applied):
            calls.append(1)
            return applied(*args)

        model = tiny_model._replace(apply_train=apply_train)
        task = supervised(model, tiny_data, augmentation=Augmentation.none())
        fit = endpoint_fit(task, optimizer, weight_decay=5e-4)
        start = fresh_states(fit, tiny_model.init, keys)
        found[kind] = task, fit, keys, start, *run_epochs(fit, task, PLAN, start, keys, 3)
        assert len(calls) == 1, "all epochs of all networks are one trace"
    return found


def near(a, b):
    chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_fits_stay_where_they_are_once_they_are_at_their_target(fits, kind):
    task, fit, keys, start, whole, _ = fits[kind]
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


def test_networks_in_sequence_are_as_networks_at_once(fits):
    (*_, states, history), (*_, expected, losses) = fits["convolutional"], fits["dense"]
    np.testing.assert_allclose(history["loss"], losses["loss"], rtol=1e-5)
    near(states.variables, expected.variables)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_an_epoch_for_an_accelerator_runs_all_networks_at_once(fits, platform):
    """Whatever this machine is: one loop, over the steps. On the CPU there is another one, over the networks."""
    task, fit, keys, start, *_ = fits["convolutional"]
    texts = {}
    for name in (platform, "cpu"):
        with compiling_for(name):
            texts[name] = _compiled_epoch.lower(fit, task, PLAN, start, keys, 0, None, None).as_text()
    text = texts[platform]
    assert text.count("stablehlo.while") == 1 < texts["cpu"].count("stablehlo.while")
    # The images of all three networks.
    assert "tensor<75x8x8x1xf32>" in text
    assert "tensor<75x8x8x1xf32>" not in texts["cpu"]
    assert "optimization_barrier" not in text


def test_history_has_a_row_a_fit_and_a_column_an_epoch(fits):
    *_, history = fits["dense"]
    assert history.keys() == {"loss", "accuracy"}
    assert history["loss"].shape == history["accuracy"].shape == (3, 3)
    assert (history["loss"][:, -1] < history["loss"][:, 0]).all()


def test_epochs_go_on_where_others_ended(fits):
    """Their keys are counted from the start of the call, so that stretches have keys of their own."""
    task, fit, keys, start, _, history = fits["dense"]
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
    # A loss that is not finite stops at its epoch and names the network.
    task, fit, keys, start, *_ = fits["dense"]
    broken = jax.tree.map(np.array, start.variables)
    for leaf in jax.tree.leaves(broken):
        leaf[1] = np.nan
    with says(RunError, "number 1 of 3", "epoch 1", "batch 1"):
        run_epochs(fit, task, PLAN, start._replace(variables=broken), keys, 3)


# Batches from the host.


def from_host(task, source, batches_per_block, batch_size=25):
    return task.with_examples(train=source.stream(batches_per_block, batch_size))


def seen_by(task, plan, epochs, fits=1, **options):
    """The numbers of the examples that every fit sees, (fits, epochs * steps, batch_size), and the losses."""
    shape = (fits, epochs * plan.steps, plan.batch_size)
    states = FitState((jnp.zeros(fits, int), jnp.full(shape, -1)), (), {"shift": np.zeros(fits, int)})
    keys = jax.random.split(jax.random.key(0), fits)
    after, history = run_epochs(NOTING, task, plan, states, keys, epochs, **options)
    return np.asarray(after.variables[1]), history["loss"]


@pytest.mark.parametrize("in_a_block", [1, 3, 100])
def test_steps_take_the_batches_of_a_stream_in_order(numbered, in_a_block):
    """An epoch is a pass, or so many steps that go on from pass to pass and from call to call."""
    source = Source(numbered.train, 10)
    task = from_host(numbered, source, in_a_block)
    whole = np.arange(100).reshape(4, 25)
    for plan, before, expected in (
        (EpochPlan(25, 4), 0, np.tile(whole, (2, 1))),
        (EpochPlan(25, 3), 0, np.tile(whole[:3], (2, 1))),
        (EpochPlan(25, 3, False), 0, np.tile(whole, (2, 1))[:6]),
        (EpochPlan(25, 6, False), 0, np.tile(whole, (3, 1))),
        (EpochPlan(25, 3, False), 2, np.tile(whole, (3, 1))[6:]),
    ):
        seen, losses = seen_by(task, plan, 2, fits=2, before=before)
        for each in seen:
            np.testing.assert_array_equal(each, expected)
        sums = expected.sum(1).reshape(2, plan.steps).mean(1)
        np.testing.assert_allclose(losses, [sums, sums], rtol=1e-6)
    source.begun.clear()
    seen_by(task, EpochPlan(25, 4), 2, before=3)
    assert source.begun == [3, 4]


def drawing(state, batch, key):
    """A loss that is drawn with the key of the step."""
    return state, {"loss": jax.random.uniform(key)}


def test_steps_on_a_stream_have_the_keys_of_those_on_arrays(numbered, key):
    fit, keys = Fit(None, jax.tree_util.Partial(drawing)), jax.random.split(key, 3)
    states = FitState(jnp.zeros(3), ())
    for plan in (PLAN, EpochPlan(25, 6, False)):
        _, expected = run_epochs(fit, numbered, plan, states, keys, 3)
        _, history = run_epochs(fit, from_host(numbered, Source(numbered.train, 10), 3), plan, states, keys, 3)
        np.testing.assert_array_equal(history["loss"], expected["loss"])
        assert len(set(history["loss"].ravel().tolist())) == 9


def same_order(fits, kind):
    """A task, and the same from the host; fit, first states, and keys of which all are the first."""
    task, fit, keys, start, *_ = fits[kind]
    keys = jnp.stack([keys[0]] * 3)
    return task, from_host(task, Epochs(task.train, 17, PLAN, keys[0]), 3), fit, start, keys


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_the_same_batches_give_the_same_bits(fits, kind):
    task, streamed, fit, start, keys = same_order(fits, kind)
    expected, losses = run_epochs(fit, task, PLAN, start, keys, 3)
    got, history = run_epochs(fit, streamed, PLAN, start, keys, 3)
    chex.assert_trees_all_equal(got, expected)
    for name, values in losses.items():
        np.testing.assert_array_equal(history[name], values)


def test_the_products_of_a_step_on_a_stream_are_those_on_arrays(fits):
    """Compilers may round products of other shapes otherwise: batches have an axis of fits, also if they are shared."""
    task, _, fit, start, keys = same_order(fits, "dense")
    batches = jax.tree.map(lambda leaf: jnp.asarray(leaf[:50]).reshape(2, 25, *leaf.shape[1:]), task.train)
    feed = Feed(batches, *map(jnp.int32, (0, 2, 0)))
    products = []
    for examples_, given in ((task.train, None), (None, feed)):
        text = _compiled_epoch.lower(
            fit, task.replace(train=examples_), PLAN, start, keys, 0, None, None, given
        ).as_text()
        products.append(set(re.findall(r"dot_general .*(batching_dims.*\[DEFAULT, DEFAULT\].*)", text)))
    assert len(products[0]) > 5
    assert products[0] == products[1]


def test_one_trace_and_one_program_serve_all_feeds_epochs_and_streams(numbered, key, compiled):
    calls = []

    def counted(state, batch, key):
        calls.append(batch[0].shape)
        return drawing(state, batch, key)

    fit, states = Fit(None, jax.tree_util.Partial(counted)), FitState(jnp.zeros(2), ())
    for size in (10, 103):
        # Three batches a block, of four a pass: the second block is not full.
        task = from_host(numbered, Source(numbered.train, size), 3)
        run_epochs(fit, task, PLAN, states, jax.random.split(key), 2)
    assert calls == [(25,)]
    assert sum("_compiled_epoch" in name for name in compiled) == 1


class Breaking(Source):
    """A source that fails in the middle of a pass."""

    def __call__(self, number):
        for at, batch in enumerate(super().__call__(number)):
            if (number, at) == (2, 5):
                raise OSError("the disk is gone")
            yield batch


@pytest.mark.parametrize("plan", [PLAN, EpochPlan(25, 3, False)], ids=["passes", "steps"])
def test_complete_epochs_are_kept_and_gone_on_from_when_a_source_fails(fits, plan, tmp_path):
    task, _, fit, start, keys = same_order(fits, "dense")
    expected, losses = run_epochs(fit, from_host(task, Source(task.train, 10), 2), plan, start, keys, 4)
    recorder = Recorder("broken", RunFolder(tmp_path, {}), "broken", progress=False)
    with pytest.raises(OSError, match="the disk is gone"):
        run_epochs(fit, from_host(task, Breaking(task.train, 10), 2), plan, start, keys, 4, recorder)
    kept = checkpoint.load(tmp_path / "checkpoints" / "broken" / "latest")["history"]
    done = kept["loss"].shape[1]
    # Four batches of 25 a pass: two passes, or two epochs of three, and a whole one on the last batches of the second.
    assert done == (2 if plan.passes else 3)
    np.testing.assert_array_equal(kept["loss"], losses["loss"][:, :done])
    source = Source(task.train, 10)
    recorder = Recorder("broken", RunFolder(tmp_path, {}), "broken", progress=False)
    again, history = run_epochs(fit, from_host(task, source, 3), plan, start, keys, 4, recorder)
    chex.assert_trees_all_equal(again, expected)
    np.testing.assert_array_equal(history["loss"], losses["loss"])
    assert source.begun[0] == (2 if plan.passes else 0)
    # A finished run reads nothing.
    source.begun.clear()
    recorder = Recorder("broken", RunFolder(tmp_path, {}), "broken", progress=False)
    run_epochs(fit, from_host(task, source, 3), plan, start, keys, 4, recorder)
    assert source.begun == []


def test_a_generator_is_one_epoch(numbered, tmp_path):
    def once():
        return (rows_of(numbered.train, slice(at, at + 10)) for at in range(0, 103, 10))

    task = numbered.with_examples(train=once())
    np.testing.assert_array_equal(seen_by(task, PLAN, 1)[0][0], np.arange(100).reshape(4, 25))
    recorder = Recorder("once", RunFolder(tmp_path, {}), "once", progress=False)
    with says(InputError, "the train batches", "pass 2", "a generator is read once"):
        seen_by(numbered.with_examples(train=once()), PLAN, 3, recorder=recorder)
    assert checkpoint.load(tmp_path / "checkpoints" / "once" / "latest")["history"]["loss"].shape == (1, 1)


def test_a_loss_that_is_not_finite_is_found_in_any_feed(numbered, key):
    """The second batch of the second block of the second epoch."""
    fit = Fit(None, jax.tree_util.Partial(partial(breaking, jnp.nan)))
    states, keys = FitState(jnp.zeros(3, int), (), np.array([99, 11, 6])), jax.random.split(key, 3)
    task = from_host(numbered, Source(numbered.train, 10), 2)
    with says(RunError, "number 2 of 3", "epoch 2", "batch 3 at t = 0.06", "Epoch 1 is kept"):
        run_epochs(fit, task, PLAN, states, keys, 3)


def test_fits_on_a_stream_stop_at_their_targets(fits):
    """Measured on the stream that they are trained on, whose passes are read in between."""
    task, streamed, fit, start, keys = same_order(fits, "dense")
    targets = np.array([100.0, np.inf, 1e-9])
    found = []
    for each in (task, streamed):
        stopping = EarlyStopping(Criterion(batch_size=60), each, targets)
        found.append((*run_epochs(fit, each, PLAN, start, keys, 3, stopping=stopping), stopping.epochs.tolist()))
    (expected, losses, epochs), (got, history, on_stream) = found
    assert epochs == on_stream == [1, 0, 3]
    chex.assert_trees_all_equal(got, expected)
    np.testing.assert_array_equal(history["loss"], losses["loss"])


def test_no_more_than_two_feeds_are_on_the_device(monkeypatch):
    """And four blocks at all: one computed on, one on its way, one ready on the host and one read."""

    def slow(state, batch, key):
        # Slower than the source, which would run ahead otherwise.
        x = jax.lax.fori_loop(0, 300, lambda i, x: jnp.tanh(x @ x.T @ x), batch)
        return state, {"loss": x.mean()}

    task = Task(lambda theta, batch, key: 0.0, np.zeros((80, 64), np.float32))
    source = Watched(task.train, 5, (2, 5, 64))
    task = from_host(task, source, 2, 5)
    monkeypatch.setattr(blocks, "np", source.held)
    fit, states = Fit(None, jax.tree_util.Partial(slow)), FitState(jnp.zeros(1), ())
    run_epochs(fit, task, EpochPlan(5, 16), states, jax.random.split(jax.random.key(0), 1), 2)
    assert len(source.held.made) == 16
    # The runtime may let go of a block a moment late.
    assert np.percentile(source.most, 90) <= 4
    assert max(source.on_device) <= 2


def test_the_plan_of_a_stream_is_by_its_length(numbered):
    endless = numbered.with_examples(train=Source(numbered.train, 10).stream())
    sized = numbered.with_examples(train=Stream([rows_of(numbered.train, slice(i, i + 10)) for i in range(0, 103, 10)]))
    assert epoch_plan(sized, 25, None) == EpochPlan(25, 4)
    assert epoch_plan(sized, 25, 7) == EpochPlan(25, 7, False)
    assert epoch_plan(endless, 25, 7) == EpochPlan(25, 7, False)
    with says(InputError, "without a length", "steps_per_epoch"):
        epoch_plan(endless, 25, None)
    with says(InputError, "batch_size=104", "103"):
        epoch_plan(sized, 104, None)
