"""Tasks: arrays are traced and functions static, what is measured, and every input that is refused."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import says
from variables import alive

from mcjax import InputError, PermutationSpec, SpecError, models, trees
from mcjax.data import Stream
from mcjax.runtime.target import compiling_for
from mcjax.training.loss import outcome
from mcjax.training.task import Task, check_task, examples, metric_name, networks_at_once

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)).astype(np.float32), RNG.normal(size=(12, 2)).astype(np.float32)
W = {"w": RNG.normal(size=(3, 2)).astype(np.float32)}
KEY = jax.random.key(0)


def squares(theta, batch, key):
    x, y = batch
    return jnp.square(x @ theta["w"] - y).mean()


def scaled(scale, theta, batch, key):
    return scale * squares(theta, batch, key)


def init(key):
    return {"w": jax.random.normal(key, (3, 2))}


def in_numpy(theta=W, x=X, y=Y):
    return np.square(np.float64(x) @ theta["w"] - y).mean()


def task_of(loss=squares, **changes):
    return Task(loss, **{"train": (X, Y), "test": (X[:4], Y[:4]), "init": init, **changes})


@jax.jit
def loss_of(task, theta):
    return outcome(task.loss, theta, task.train, KEY).value


def test_a_task_is_a_pytree_of_its_arrays():
    loss, metrics = jax.tree_util.Partial(scaled, jnp.float32(2)), lambda theta, batch: {"loss": jnp.float32(1)}
    task = task_of(loss, metrics=metrics, validation=(X[:3], Y[:3]), name="squares")
    leaves, structure = jax.tree.flatten(task)
    assert [np.shape(leaf) for leaf in leaves] == [(), (12, 3), (12, 2), (4, 3), (4, 2), (3, 3), (3, 2)]
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, Task)
    for name in ("init", "model", "spec", "name"):
        assert getattr(again, name) is getattr(task, name)
    for one, other in zip(leaves, jax.tree.leaves(again), strict=True):
        assert one is other
    np.testing.assert_allclose(loss_of(again, W), 2 * in_numpy(), rtol=1e-6)
    assert "squares" in repr(task)
    assert "12 train, 3 validation, 4 test" in repr(task).replace("4 test, 3 validation", "3 validation, 4 test")
    # On the device it is a task still.
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(jax.device_put(task)))
    assert jax.tree.leaves(task.functions()) == [leaves[0]]


def test_tasks_with_the_same_functions_share_a_program_whatever_their_arrays():
    traces = []

    @jax.jit
    def value(task, theta):
        traces.append(1)
        return outcome(task.loss, theta, task.train, KEY).value

    one, other = task_of(), task_of(train=(2 * X, Y))
    np.testing.assert_allclose([value(one, W), value(other, W)], [in_numpy(), in_numpy(x=2 * X)], rtol=1e-6)
    assert len(traces) == 1
    value(task_of(partial(scaled, 2.0)), W)
    assert len(traces) == 2


def test_arrays_of_a_partial_loss_are_traced_and_differentiated():
    traces = []

    @jax.jit
    def value(task, theta):
        traces.append(1)
        return outcome(task.loss, theta, task.train, KEY).value

    tasks = [task_of(jax.tree_util.Partial(scaled, jnp.float32(scale))) for scale in (1, 3)]
    np.testing.assert_allclose([value(task, W) for task in tasks], [in_numpy(), 3 * in_numpy()], rtol=1e-6)
    assert len(traces) == 1

    def of_scale(scale):
        return loss_of(task_of(jax.tree_util.Partial(scaled, scale)), W)

    np.testing.assert_allclose(jax.grad(of_scale)(jnp.float32(2)), in_numpy(), rtol=1e-6)


def test_tasks_side_by_side_under_vmap():
    scales = jnp.float32([1, 2, 4])
    tasks = trees.stack([task_of(jax.tree_util.Partial(scaled, scale), train=(scale * X, Y)) for scale in scales])
    assert isinstance(tasks, Task)
    got = jax.jit(jax.vmap(loss_of, (0, None)))(tasks, W)
    np.testing.assert_allclose(got, [s * in_numpy(x=s * X) for s in (1, 2, 4)], rtol=1e-5)


def test_examples_are_any_pytree_of_arrays_with_a_common_leading_axis():
    def loss(theta, batch, key):
        return squares(theta, (batch["x"], batch["more"][0]), key)

    task = Task(loss, train={"x": X, "more": [Y, np.arange(12)]}, init=init)
    assert examples(task.train) == 12
    np.testing.assert_allclose(loss_of(task, W), in_numpy(), rtol=1e-6)


def test_measures_are_the_metrics_and_the_loss_where_they_do_not_give_one():
    def noisy(theta, batch, key):
        value = squares(theta, batch, key)
        return value + jax.random.uniform(key), {"plain": value}

    drawn = float(jax.random.uniform(jax.random.key(0)))
    for metrics, expected in (
        (None, {"loss": in_numpy() + drawn, "plain": in_numpy()}),
        (lambda *_: {"seven": jnp.float32(7)}, {"loss": in_numpy() + drawn, "plain": in_numpy(), "seven": 7}),
        (lambda *_: {"loss": jnp.float32(7)}, {"loss": 7}),
    ):
        got = jax.jit(Task.measure)(task_of(noisy, metrics=metrics), W, (X, Y))
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-6)


def twice(theta, batch):
    return 2 * batch[0].mean()


def test_a_further_metric_is_measured_on_the_same_batch_under_its_name():
    mean = 2 * np.float64(X).mean()
    for task, names in (
        (task_of(), {"loss", "twice"}),
        (task_of(metrics=lambda *_: {"seven": jnp.float32(7)}), {"loss", "seven", "twice"}),
        (task_of(metrics=lambda *_: {"loss": jnp.float32(7)}), {"loss", "twice"}),
    ):
        more = task.with_metric(twice, W)
        assert task.metrics is not more.metrics
        found = jax.jit(Task.measure)(more, W, (X, Y))
        assert found.keys() == names
        np.testing.assert_allclose(found["twice"], mean, rtol=1e-5)
        assert found["loss"] == jax.jit(Task.measure)(task, W, (X, Y))["loss"]
    assert task.with_metric(None, W) is task
    for metric, words in (
        (lambda theta, batch: batch[0], ("(12, 3)", "scalars")),
        ("accuracy", ("'accuracy' for metric", "metric(theta, batch)")),
    ):
        with says(InputError, *words):
            task_of().with_metric(metric, W)
    with says(InputError, "'twice'", "another name"):
        task_of().with_metric(twice, W).with_metric(twice, W)


def test_the_name_of_a_metric_is_that_of_its_function():
    class Called:
        def __call__(self, theta, batch):
            return twice(theta, batch)

    for metric in ("twice", twice, partial(twice), jax.tree_util.Partial(twice)):
        assert metric_name(metric) == "twice"
    assert metric_name(Called()) == "Called"


def test_a_task_with_other_attributes_is_another_task():
    task = task_of(name="mine")
    other = task.replace(train=(X[:2], Y[:2]), name="yours")
    assert (other.name, task.name) == ("yours", "mine")
    assert (len(other.train[0]), len(task.train[0])) == (2, 12)
    assert other.test is task.test
    # Of what is compiled without examples, neither they nor the name are a part.
    assert jax.tree.structure(other.functions()) == jax.tree.structure(task.functions())


def test_model_inputs_are_the_first_of_a_tuple_or_what_the_task_says():
    assert task_of().model_inputs((X, Y)) is X
    assert task_of().model_inputs(X) is X
    assert task_of(inputs=lambda batch: batch[1]).model_inputs((X, Y)) is Y


def test_the_model_gives_what_is_not_given(tiny_model, tiny_data):
    task = Task(labels, train=(tiny_data.train_images, tiny_data.train_labels), model=tiny_model)
    assert (task.init, task.spec) == (tiny_model.init, tiny_model.spec)
    other = tiny_model.spec.without("dense_0")
    again = Task(labels, train=task.train, model=tiny_model, spec=other, init=zeros)
    assert (again.init, again.spec) == (zeros, other)


def labels(theta, batch, key):
    x = jnp.reshape(batch[0], (len(batch[0]), -1)) / 255.0
    for i in range(3):
        layer = theta["params"][f"Dense_{i}"]
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"][None])
    return jnp.square(x - jax.nn.one_hot(batch[1], 3)).mean()


def zeros(key):
    shapes = {"Dense_0": (64, 6), "Dense_1": (6, 5), "Dense_2": (5, 3)}
    return {"params": {name: {"kernel": jnp.zeros(s), "bias": jnp.zeros(s[1])} for name, s in shapes.items()}}


def test_a_split_that_is_not_there_is_named():
    bare = task_of(test=None, name="mine")
    for name, words in (
        ("test", ("mine", "no test split", "Task(..., test=)")),
        ("validation", ("mine", "no validation split", "hold_out")),
        ("tset", ("'tset'", "Did you mean 'test'")),
        (3, ("'3'",)),
    ):
        with says(InputError, *words):
            bare.split(name)
    held = bare.replace(validation=(X[:2], Y[:2]))
    assert held.split("validation")[0].shape == (2, 3)
    assert held.split("train") is bare.split("train")
    assert bare.validation is None


LONG, SHORT = (X, Y), (X, Y[:5])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": None}, ("no training examples", "leading axis")),
        ({"train": SHORT}, ("train examples", "(12, 3)", "(5, 2)")),
        ({"test": SHORT}, ("test examples", "(12, 3)", "(5, 2)")),
        ({"validation": SHORT}, ("validation examples", "(12, 3)", "(5, 2)")),
        ({"train": (X, 3.0)}, ("train examples", "no arrays", "float")),
        ({"train": (X[:0], Y[:0])}, ("train examples", "(0, 3)")),
        ({"train": {}}, ("train examples", "no array")),
        ({"loss": 3}, ("got 3 for loss", "loss(theta, batch, key)")),
        ({"loss": None}, ("got None for loss",)),
        ({"metrics": "accuracy"}, ("'accuracy' for metrics", "metrics(theta, batch)")),
        ({"augment": 1}, ("got 1 for augment",)),
        ({"inputs": "x"}, ("'x' for inputs",)),
        ({"model": squares}, ("function for model", "models.from_flax")),
    ],
)
def test_parts_of_the_wrong_kind_are_named(changes, words):
    with says(InputError, *words):
        task_of(**changes)


def predicted(theta, batch):
    return batch[0] @ theta["w"]


WRONG_METRICS = {
    "vectors": (lambda t, b: {"each": predicted(t, b)}, ("metrics on train examples", "each", "(12, 2)")),
    "a number": (lambda t, b: predicted(t, b).mean(), ("for the metrics", "dict")),
    "others on test": (lambda t, b: {name: b[0].mean() for name in b[2]}, ("['loss', 'more']", "['less', 'loss']")),
}


@pytest.mark.parametrize("name", WRONG_METRICS)
def test_metrics_that_are_no_numbers_or_not_the_same_are_named(name):
    metrics, words = WRONG_METRICS[name]
    train, test = ((X, Y, {word: X}) for word in ("more", "less"))

    def loss(theta, batch, key):
        return squares(theta, batch[:2], key)

    with says(InputError, *words):
        Task(loss, train, test, init=init, metrics=metrics)


def test_a_theta_without_floats_is_refused_and_others_may_hold_state():
    task_of(init=lambda key: {**init(key), "step": jnp.int32(3), "key": key})
    check_task(task_of(init=None), {**W, "step": np.int32(3)})
    with says(InputError, "floating-point"):
        task_of(init=lambda key: {"w": jnp.zeros((3, 2), jnp.int32)})


def test_a_spec_that_does_not_fit_the_networks_is_refused():
    task_of(spec=PermutationSpec({"w": ("inputs", None)}))
    for axes, word in (({"w": ("inputs",)}, "w"), ({"v": ("inputs", None)}, "v")):
        with says(SpecError, word):
            task_of(spec=PermutationSpec(axes))


def test_functions_take_tasks_alone():
    for wrong, kind in ((3, "int"), (None, "NoneType"), (Task, "the class Task"), ((X, Y), "tuple")):
        with says(InputError, kind, "mcjax.supervised(model, data)"):
            check_task(wrong)
    with says(InputError, "mine", "no model"):
        check_task(task_of(name="mine"), model=True)


def test_networks_of_a_task_without_init_are_checked_when_they_come():
    task = task_of(init=None)
    assert check_task(task) is task
    checked = check_task(task, W, W)
    assert checked.train is task.train
    known = task_of()
    assert check_task(known, {"anything": X}) is known


def test_a_loss_is_checked_once_for_arrays_of_the_same_shapes():
    """When its task is made, or when a network comes for the first time."""
    calls = []

    def counted(theta, batch, key):
        calls.append(1)
        return squares(theta, batch, key)

    known, bare = (task_of(counted, init=each) for each in (init, None))
    check_task(bare, W)
    first = len(calls)
    for scale in (2, 3):
        check_task(bare.replace(train=(scale * X, Y)), W)
        check_task(known, W)
    assert len(calls) == first
    check_task(bare.replace(train=(X.astype(np.float16), Y)), W)
    assert len(calls) > first


def test_a_task_of_a_model_measures_with_its_networks(tiny_model, tiny_data):
    images = (tiny_data.train_images, tiny_data.train_labels)
    task, theta = Task(labels, train=images, model=tiny_model), alive(tiny_model)
    x = images[0].reshape(120, -1) / 255.0
    for i in range(3):
        layer = jax.tree.map(np.float64, theta["params"][f"Dense_{i}"])
        x = np.tanh(x @ layer["kernel"] + layer["bias"])
    got = jax.jit(Task.measure)(task, theta, images)
    np.testing.assert_allclose(got["loss"], np.square(x - np.eye(3)[images[1]]).mean(), rtol=1e-5)
    chex.assert_trees_all_equal_structs(theta, jax.eval_shape(task.init, KEY))
    assert check_task(task, model=True) is task
    assert models.create("mlp", 3, (8, 8, 1), widths=(6, 5)).spec == task.spec


def sums_of_maps(theta, x):
    return jax.lax.conv(x, theta["kernel"], (1, 1), "SAME").sum((1, 2, 3))


def test_networks_at_once_are_fewer_where_convolutions_run_one_after_another():
    """Read off the loss and the metrics, wherever the convolutions are."""
    theta, images = {"kernel": np.ones((2, 1, 3, 3), np.float32)}, np.ones((5, 1, 4, 4), np.float32)

    def of_maps(theta, batch, key=None):
        return jnp.square(sums_of_maps(theta, batch)).mean()

    def of_kernel(theta, batch, key=None):
        return jnp.square(theta["kernel"]).sum() * batch.mean()

    def measured(theta, batch):
        return {"loss": jnp.float32(0), "size": jax.jit(of_maps)(theta, batch)}

    for loss, metrics, few in ((of_maps, None, True), (of_kernel, measured, True), (of_kernel, None, False)):
        task = Task(loss, images, metrics=metrics)
        for platform in ("cpu", "tpu", "cuda"):
            with compiling_for(platform):
                assert networks_at_once(task, theta) == (1 if few and platform == "cpu" else 16)


def test_a_task_with_other_examples_is_checked_and_keeps_the_rest():
    task = task_of(validation=(X[:3], Y[:3]))
    batches = [(X[at : at + 5], Y[at : at + 5]) for at in (0, 5)]
    other = task.with_examples(train=lambda: iter(batches), test=None)
    assert isinstance(other.train, Stream)
    assert other.test is None
    assert (other.validation, other.loss, other.init) == (task.validation, task.loss, task.init)
    assert "streamed train, 3 validation" in repr(other)
    assert isinstance(task.train, tuple)
    for splits, words in (
        ({"trian": (X, Y)}, ("trian", "train")),
        ({"train": None}, ("no training examples",)),
        ({"test": (X, Y[:3])}, ("test examples", "common leading axis")),
        ({"test": (X, np.full(len(X), 2**40))}, ("test examples 1", f"{2**40}", "32 bits")),
        ({"train": lambda: iter([])}, ("train batches", "yield nothing")),
    ):
        with says(InputError, *words):
            task.with_examples(**splits)
    # The loss is checked on what batches are now.
    with pytest.raises((TypeError, ValueError, InputError)):
        task.with_examples(train=lambda: iter([(X[:, :2], Y)]))


def test_loaded_examples_are_the_first_of_each_stream():
    batches = [(X[at : at + 5], Y[at : at + 5]) for at in (0, 5, 10)]
    task = task_of(train=lambda: iter(batches), test=lambda: iter(batches))
    for n, of in ((7, 7), (12, 12), (100, 12), (None, 12)):
        loaded = task.load(train=n)
        np.testing.assert_array_equal(loaded.train[0], X[:of])
        np.testing.assert_array_equal(loaded.train[1], Y[:of])
        assert loaded.test is task.test
    assert [len(split[0]) for split in (task.load().train, task.load().test)] == [12, 12]
    assert task.load(train=1, test=3).load(train=5).train[0].shape == (1, 3)
    for splits, words in (
        ({"train": 0}, ("train=0",)),
        ({"train": 2.5}, ("train=2.5",)),
        ({"validation": 3}, ("no validation split",)),
        ({"trian": 3}, ("trian",)),
    ):
        with says(InputError, *words):
            task.load(**splits)
