"""Strings on landscapes of known shape: straight, round, and divided by a wall; budgets, resuming, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from landscapes import BOWL, RING, WELLS, at, config, heights, landscape, ring
from refusals import says
from variables import spaced

from mcjax import (
    InputError,
    PermutationSpec,
    RunError,
    SpecError,
    Task,
    TrainConfig,
    barrier,
    evaluate_path,
    models,
    permute,
    supervised,
    trees,
)
from mcjax.runs.folder import RunFolder
from mcjax.runs.recorder import Recorder
from mcjax.strings import StringConfig, growth, sample_string, sample_strings
from mcjax.training import Criterion

OVER = (RING, at(1, 0), at(-1, 0), 0.001)
"""From one side of the ring to the other."""


def test_in_a_bowl_a_string_is_straight(key):
    for start, end in (((1, 0), (0, 1)), ((1, 0), (-1, 0.1)), ((0.3, 0.2), (-0.1, 0.9))):
        string = sample_string(key, BOWL, at(*start), at(*end), 0.6, config=config())
        assert string.connected
        assert (string.beads, string.normalized_length, string.steps) == (0, 1.0, 0)


RING_WAYS = {
    "maximum": {},
    "middle": {"insert": "middle"},
    "in planes": {"kappa": math.inf},
    "with springs": {"zeta": 0.01, "kappa": 1.0},
}


@pytest.mark.parametrize("way", RING_WAYS)
def test_around_a_ring_the_length_is_that_of_the_geodesic(key, way):
    string = sample_string(key, *OVER, config=config(**RING_WAYS[way]))
    assert string.connected
    assert string.reason == "connected"
    np.testing.assert_allclose(string.normalized_length, math.pi / 2, rtol=0.05)
    np.testing.assert_allclose(string.length, 2 * string.normalized_length, rtol=1e-6)
    # No point of it is off the ring, on an independent grid; the ends never moved.
    highest = heights(ring, string)
    assert highest.max() <= 0.001 * 1.01
    assert (highest <= np.maximum(string.heights, 0.001) * (1 + 1e-3)).all()
    points = np.asarray(string.knots["point"])
    np.testing.assert_array_equal(points[[0, -1]], [[1, 0], [-1, 0]])
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=0.02)
    # Its own numbers are right.
    np.testing.assert_allclose(string.values, ring(points), atol=1e-6)
    np.testing.assert_allclose(string.length, np.linalg.norm(np.diff(points, axis=0), axis=1).sum(), rtol=1e-6)
    assert string.depths[[0, -1]].tolist() == [0, 0]
    assert sorted(set(string.depths.tolist())) == list(range(string.depth + 1))
    if way == "maximum":
        metrics = evaluate_path(RING, string.path, 301)
        assert barrier(metrics, baseline="ends") <= 0.001 * 1.01
        np.testing.assert_allclose(metrics.distance[-1], string.length, rtol=0.005)


@pytest.mark.parametrize(("threshold", "connected"), [(0.1, False), (0.45, False), (0.51, True), (0.6, True)])
def test_two_wells_are_connected_above_the_pass_between_them_and_not_below(key, threshold, connected):
    string = sample_string(key, WELLS, at(1, 0), at(-1, 0), threshold, config=config(depth=6))
    assert string.connected is connected
    if not connected:
        assert string.reason == "depth"
        assert string.depth == 6
        # The worst segment crosses the wall, and is at least as high as the pass.
        x = np.asarray(string.knots["point"])[:, 0]
        assert x[string.worst.number] * x[string.worst.number + 1] < 0
        assert string.worst.height >= 0.499
        assert 0 < string.worst.t < 1


def test_the_cost_grows_as_the_beads_and_not_as_two_to_the_depth(key):
    # Between the wells every depth inserts one bead, where the wall is: no other segment is split.
    settings = config(depth=8, noise=0.02)
    string = sample_string(key, WELLS, at(1, 0), at(-1, 0), 0.2, config=settings)
    assert string.depth == 8
    assert string.beads == 8
    assert string.steps <= string.beads * 50 * settings.training.steps_per_epoch
    assert string.evaluations <= (2 * string.beads + 1) * (4 + 1) * 21 + 10 * 21 * string.beads


def test_every_bead_costs_training_and_two_scans(key, monkeypatch):
    trained, calls = [], []

    def counted(task, settings, beads, *args, **more):
        calls.append(len(beads))
        found = real_train(task, settings, beads, *args, **more)
        trained.extend(bead.epochs for bead in found)
        return found

    real_train = growth.train_beads
    monkeypatch.setattr(growth, "train_beads", counted)
    settings = config()
    string = sample_string(key, *OVER, config=settings)
    assert string.steps == sum(trained) * settings.training.steps_per_epoch
    # All beads of a depth at once: as many calls as depths, though there are more beads.
    assert len(calls) == string.depth < string.beads
    assert sum(calls) <= string.beads


def test_one_program_serves_every_depth(key, compiled):
    # A rate of its own, so that no other test has compiled these programs.
    string = sample_string(key, *OVER, config=config(0.0101, chunk=4))
    assert string.depth >= 3
    # Programs for 1, 2 and 4 beads.
    assert 1 <= len([name for name in compiled if "_compiled_epoch" in name]) <= 3
    # Another config with the same optimiser and penalties needs no others.
    compiled.clear()
    assert sample_string(key, *OVER, config=config(0.0101, chunk=4, noise=0.02, alpha=0.9)).connected
    assert not [name for name in compiled if "_compiled_epoch" in name]


def test_many_strings_at_once_are_those_of_each_pair(key):
    firsts, seconds = [at(1, 0), at(0, 1), at(0.6, 0.8)], [at(-1, 0), at(1, 0), at(0.8, 0.6)]
    thresholds = [0.001, 0.01, 0.05]
    together = sample_strings(key, RING, trees.stack(firsts), trees.stack(seconds), thresholds, config=config())
    assert [string.connected for string in together] == [True] * 3
    assert together[2].beads == 0
    for string, threshold in zip(together, thresholds, strict=True):
        assert string.threshold == threshold
        assert heights(ring, string).max() <= threshold * 1.01
    np.testing.assert_allclose(together[0].normalized_length, math.pi / 2, rtol=0.05)
    np.testing.assert_allclose(together[1].normalized_length, math.pi / 2 / math.sqrt(2), rtol=0.05)
    again = sample_strings(key, RING, trees.stack(firsts), trees.stack(seconds), thresholds, config=config())
    for a, b in zip(together, again, strict=True):
        np.testing.assert_array_equal(a.knots["point"], b.knots["point"])
    only = sample_string(key, RING, firsts[0], seconds[0], 0.001, config=config())
    assert only.connected


def test_a_denser_grid_reopens_a_string(key):
    # A wall that is narrower than the first grid sees, and a gap beside it.
    def wall(points, exp=np.exp):
        return exp(-(((points[..., 0] - 0.5125) / 0.002) ** 2) - (points[..., 1] / 0.3) ** 2)

    task = landscape(lambda point: wall(point, jnp.exp)[None], 2)
    ends = (at(0, 0), at(1, 0))
    blind = sample_string(key, task, *ends, 0.01, config=config(verification_density=1))
    assert blind.connected
    assert blind.beads == 0
    assert heights(lambda points: np.square(wall(points)), blind).max() > 0.5
    seeing = sample_string(key, task, *ends, 0.01, config=config(0.05, verification_density=20))
    assert seeing.beads > 0


BUDGETS = {"depth": ({"depth": 1}, 1), "beads": ({"beads": 2}, 1), "epochs": ({"epochs": 1}, 1)}


@pytest.mark.parametrize("reason", BUDGETS)
def test_running_out_is_a_result(key, reason):
    changes, beads = BUDGETS[reason]
    string = sample_string(key, *OVER, config=config(**changes))
    assert not string.connected
    assert string.reason == reason
    assert string.beads == beads
    highest = heights(ring, string, points=21)
    np.testing.assert_allclose(string.worst.height, highest.max(), rtol=0.02)
    assert string.worst.number == highest.argmax()
    assert float(string.path(0.0)["point"][0]) == 1


def test_no_budget_at_all(key):
    string = sample_string(key, *OVER, config=config(depth=0))
    assert (string.connected, string.reason, string.beads) == (False, "depth", 0)
    assert string.normalized_length == 1.0


class Stop(BaseException):
    pass


def test_an_interrupted_run_goes_on_to_the_same_bits(key, tmp_path, monkeypatch):
    arguments = (key, *OVER)
    whole = sample_string(*arguments, config=config())
    real, left = growth.train_beads, [2]

    def stopping(*args, **more):
        if not left[0]:
            raise Stop
        left[0] -= 1
        return real(*args, **more)

    monkeypatch.setattr(growth, "train_beads", stopping)
    recorder = Recorder("ring", RunFolder(tmp_path, {}), "string", progress=False)
    with pytest.raises(Stop):
        sample_string(*arguments, config=config(), recorder=recorder)
    left[0] = 100
    resumed = sample_string(*arguments, config=config(), recorder=recorder)
    assert left[0] == 100 - (whole.depth - 2)
    for name in ("values", "depths", "heights", "peaks", "resolution", "bounds"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    np.testing.assert_array_equal(resumed.knots["point"], whole.knots["point"])
    assert resumed[7:] == whole[7:]
    # A finished one is not sampled again.
    left[0] = 0
    again = sample_string(*arguments, config=config(), recorder=recorder)
    np.testing.assert_array_equal(again.knots["point"], whole.knots["point"])
    for other in ((key, OVER[0], at(0, 1), *OVER[2:]), (*arguments[:-1], 0.0009)):
        with says(InputError, "another iteration"):
            sample_string(*other, config=config(), recorder=recorder)


TRAINING = TrainConfig(epochs=60, batch_size=40, steps_per_epoch=3, optimizer=optax.adam(0.01), weight_decay=0.0)
NETWORKS = StringConfig(TRAINING, chunk=4)


def test_networks_and_a_permuted_copy(key, tiny_task, tiny_ends):
    string = sample_string(key, tiny_task, *tiny_ends, 0.2, config=NETWORKS)
    assert string.connected
    assert string.beads > 0
    metrics = evaluate_path(tiny_task, string.path, 101)
    assert metrics.train_loss.max() <= 0.2 * 1.01
    # A copy with its units in another order, and the permutation that puts them back.
    P = {"dense_0": np.array([3, 1, 2, 0, 5, 4]), "dense_1": np.array([1, 0, 2, 3, 4])}
    copy = permute(tiny_task.spec, P, tiny_ends[0])
    apart = sample_string(key, tiny_task, tiny_ends[0], copy, 0.2, config=NETWORKS)
    assert apart.evaluations > 21
    P = {group: np.argsort(p) for group, p in P.items()}
    same = sample_string(key, tiny_task, tiny_ends[0], copy, 0.2, P=P, config=NETWORKS)
    assert (same.connected, same.beads, same.length, same.normalized_length) == (True, 0, 0.0, 1.0)


def test_thresholds_of_an_error_on_the_test_split(key, tiny_data, tiny_model, tiny_task, tiny_ends):
    settings = StringConfig(TRAINING, Criterion("error", "test", examples=40), chunk=4)
    string = sample_string(key, tiny_task, *tiny_ends, 0.06, config=settings)
    assert string.connected
    assert string.beads > 0
    test = tuple(spaced(each, 40) for each in (tiny_data.test_images, tiny_data.test_labels))
    metrics = evaluate_path(tiny_task.with_examples(test=test), string.path, 101)
    assert 1 - metrics.test_accuracy.min() <= 0.06 * 1.01


def own_ring(**given):
    """A task of a loss alone, whose networks are known by no model; a bare array is a network."""

    def loss(theta, batch, key):
        return jnp.square(jnp.square(theta).sum() - 1) * batch["weight"].mean()

    return Task(loss, {"weight": np.ones(3, np.float32)}, **given)


def test_a_loss_of_ones_own_needs_no_model(key):
    ends, settings = (np.float32([1, 0]), np.float32([-1, 0])), config(batch_size=3)
    string = sample_string(key, own_ring(), *ends, 0.001, config=settings)
    assert string.connected
    np.testing.assert_allclose(string.normalized_length, math.pi / 2, rtol=0.05)
    points = np.asarray(string.knots)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=0.02)
    # With a spec the ends are permuted: here the second one onto the first.
    spec, swap = PermutationSpec({"": ("xy",)}), {"xy": np.array([1, 0])}
    same = sample_string(key, own_ring(spec=spec), ends[0], ends[0][::-1], 0.001, P=swap, config=settings)
    assert (same.beads, same.length) == (0, 0.0)
    for task, given, *named in ((own_ring(), {"P": swap}, "a P", "spec=spec"), (own_ring(), {"threshold": 0.0}, "0.0")):
        with says(InputError, *named):
            sample_string(key, task, *ends, **{"threshold": 0.001, "config": settings, **given})
    # The axis of pairs is known by the shapes of networks only.
    with says(InputError, "the task", "init=init"):
        sample_strings(key, own_ring(), *(end[None] for end in ends), 0.001, config=settings)
    known = own_ring(init=lambda key: jax.random.normal(key, (2,)))
    (only,) = sample_strings(key, known, *(end[None] for end in ends), 0.001, config=settings)
    np.testing.assert_allclose(only.length, string.length, rtol=0.05)


def off_the_circle(theta, batch):
    """A criterion that is no loss: how far a point is from the unit circle."""
    return jnp.abs(jnp.sqrt(jnp.square(theta["point"]).sum()) - 1)


def test_a_criterion_of_ones_own(key):
    string = sample_string(key, RING, at(1, 0), at(0, 1), 0.02, config=config(metric=off_the_circle))
    assert string.connected
    highest = heights(lambda points: np.abs(np.linalg.norm(points, axis=-1) - 1), string)
    assert highest.max() <= 0.02 * 1.01
    np.testing.assert_allclose(string.heights, highest, rtol=0.02)
    # A chord of angle a is at most 1 - cos(a / 2) inside: three beads at least.
    assert string.beads >= 3
    with says(InputError, "theta_1 has train off_the_circle 1", "0.02"):
        sample_string(key, RING, at(2, 0), at(0, 1), 0.02, config=config(metric=off_the_circle))


def test_bad_arguments_are_refused(key, tiny_data, tiny_task, tiny_ends):
    pair = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), at(1, 0))
    given = {"key": key, "task": RING, "theta_1": at(1, 0), "theta_2": at(-1, 0), "threshold": 0.01}
    networks = {"task": tiny_task, "config": NETWORKS, **dict(zip(("theta_1", "theta_2"), tiny_ends, strict=True))}
    soft = {"dense_0": np.full((6, 6), 1 / 6), "dense_1": np.eye(5)}
    wide = supervised(models.create("mlp", 3, (8, 8, 1), widths=(7, 5)), tiny_data)
    settings = {"config": config()}
    for arguments, error, *named in (
        (given | settings | {"theta_2": at(2, 0)}, InputError, "theta_1 has train loss 0", "theta_2 9", "0.01"),
        *(
            (given | settings | {"threshold": value}, InputError, f"threshold={value:g}")
            for value in (0.0, -1.0, np.nan, np.inf)
        ),
        *((given | settings | {"threshold": value}, InputError, "threshold=") for value in ("low", "0.1", True, None)),
        (given | settings | {"theta_2": at(1, 0)}, InputError, "the same network"),
        *((given | {"config": wrong}, InputError, "StringConfig") for wrong in ({"depth": 3}, "fast")),
        (given | {"config": TRAINING}, InputError, "got TrainConfig", "StringConfig(training="),
        (given | {"key": jax.random.split(key)}, InputError, "(2,)", "one key"),
        (given | settings | {"theta_1": pair, "theta_2": pair}, InputError, "sample_strings"),
        (given | {"key": 0}, InputError, "int for a key"),
        (given | {"config": config(split="validation")}, InputError, "landscape", "validation", "hold_out"),
        (given | {"config": config(examples=7)}, InputError, "examples=7", "the 1"),
        (given | {"config": config(metric="accurcy")}, InputError, "'accurcy'", "loss"),
        (given | {"config": config(metric=lambda theta, batch: theta["point"])}, InputError, "(2,)", "scalar"),
        (given, InputError, "batch_size=128", "the 1"),
        (given | {"task": tiny_task.model}, InputError, "Model", "Task"),
        (given | {"task": tiny_task, "config": NETWORKS}, SpecError, "mlp"),
        (given | networks | {"P": soft}, SpecError, "hard P"),
        (given | networks | {"task": wide}, SpecError, "mlp"),
    ):
        with says(error, *named):
            sample_string(**arguments)
    pairs = (trees.stack([at(1, 0), at(1, 0)]), trees.stack([at(-1, 0), at(3, 0)]))
    for threshold, named in ((0.01, "of pair 1"), ([0.1, 0.1, 0.1], "each of 2 pairs")):
        with says(InputError, named):
            sample_strings(key, RING, *pairs, threshold, config=config())


def test_an_end_at_the_threshold_is_not_above_it(key):
    loss = float(np.float32(0.18))  # half of 0.36, a little more than the number 0.18 itself
    assert loss > 0.18
    string = sample_string(key, BOWL, at(0.6, 0.0), at(-0.6, 0.0), 0.18, config=config(tolerance=0.0))
    assert string.connected


def test_a_bead_whose_loss_is_not_finite_ends_the_run(key):
    with says(RunError, "a bead", "number 0 of 1", "not finite"):
        sample_string(key, *OVER, config=config(optimizer=optax.sgd(1e6), chunk=1))
