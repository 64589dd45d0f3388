"""Strings on landscapes of known shape: straight, round, and divided by a wall; budgets, resuming, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscapes import BOWL, RING, WELLS, at, config, heights, landscape, ring
from refusals import says

from mcjax import InputError, RunError, SpecError, TrainConfig, barrier, evaluate_path, models, permute, trees
from mcjax.runs.folder import RunFolder
from mcjax.runs.recorder import Recorder
from mcjax.strings import StringConfig, growth, sample_string, sample_strings
from mcjax.training.loop import steps_per_epoch

OVER = (RING[0], at(1, 0), at(-1, 0), RING[1], 0.001)
"""From one side of the ring to the other."""


def test_in_a_bowl_a_string_is_straight(key):
    model, data = BOWL
    for start, end in (((1, 0), (0, 1)), ((1, 0), (-1, 0.1)), ((0.3, 0.2), (-0.1, 0.9))):
        string = sample_string(key, model, at(*start), at(*end), data, 0.6, config=config())
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
        metrics = evaluate_path(RING[0], string.path, RING[1], 301)
        assert barrier(metrics, baseline="ends") <= 0.001 * 1.01
        np.testing.assert_allclose(metrics.distance[-1], string.length, rtol=0.005)


@pytest.mark.parametrize(("threshold", "connected"), [(0.1, False), (0.45, False), (0.51, True), (0.6, True)])
def test_two_wells_are_connected_above_the_pass_between_them_and_not_below(key, threshold, connected):
    model, data = WELLS
    string = sample_string(key, model, at(1, 0), at(-1, 0), data, threshold, config=config(depth=6))
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
    model, data = WELLS
    settings = config(depth=8, noise=0.02)
    string = sample_string(key, model, at(1, 0), at(-1, 0), data, 0.2, config=settings)
    assert string.depth == 8
    assert string.beads == 8
    assert string.steps <= string.beads * 50 * steps_per_epoch(settings, data)
    assert string.evaluations <= (2 * string.beads + 1) * (4 + 1) * 21 + 10 * 21 * string.beads


def test_every_bead_costs_training_and_two_scans(key, monkeypatch):
    trained, calls = [], []

    def counted(model, data, settings, beads, *args, **more):
        calls.append(len(beads))
        found = real_train(model, data, settings, beads, *args, **more)
        trained.extend(bead.epochs for bead in found)
        return found

    real_train = growth.train_beads
    monkeypatch.setattr(growth, "train_beads", counted)
    settings = config()
    string = sample_string(key, *OVER, config=settings)
    assert string.steps == sum(trained) * settings.steps_per_epoch
    # All beads of a depth at once: as many calls as depths, though there are more beads.
    assert len(calls) == string.depth < string.beads
    assert sum(calls) <= string.beads


def test_one_program_serves_every_depth(key, compiled):
    # Noise of its own, so that no other test has compiled these programs.
    string = sample_string(key, *OVER, config=config(chunk=4, noise=0.012))
    assert string.depth >= 3
    # Programs for 1, 2 and 4 beads.
    assert 1 <= len([name for name in compiled if "_compiled_epoch" in name]) <= 3


def test_many_strings_at_once_are_those_of_each_pair(key):
    model, data = RING
    firsts, seconds = [at(1, 0), at(0, 1), at(0.6, 0.8)], [at(-1, 0), at(1, 0), at(0.8, 0.6)]
    thresholds = [0.001, 0.01, 0.05]
    together = sample_strings(key, model, trees.stack(firsts), trees.stack(seconds), data, thresholds, config=config())
    assert [string.connected for string in together] == [True] * 3
    assert together[2].beads == 0
    for string, threshold in zip(together, thresholds, strict=True):
        assert string.threshold == threshold
        assert heights(ring, string).max() <= threshold * 1.01
    np.testing.assert_allclose(together[0].normalized_length, math.pi / 2, rtol=0.05)
    np.testing.assert_allclose(together[1].normalized_length, math.pi / 2 / math.sqrt(2), rtol=0.05)
    again = sample_strings(key, model, trees.stack(firsts), trees.stack(seconds), data, thresholds, config=config())
    for a, b in zip(together, again, strict=True):
        np.testing.assert_array_equal(a.knots["point"], b.knots["point"])
    only = sample_string(key, model, firsts[0], seconds[0], data, 0.001, config=config())
    assert only.connected


def test_a_denser_grid_reopens_a_string(key):
    # A wall that is narrower than the first grid sees, and a gap beside it.
    def wall(points, exp=np.exp):
        return exp(-(((points[..., 0] - 0.5125) / 0.002) ** 2) - (points[..., 1] / 0.3) ** 2)

    model, data = landscape(lambda point: wall(point, jnp.exp)[None], 2)
    ends = (at(0, 0), at(1, 0))
    blind = sample_string(key, model, *ends, data, 0.01, config=config(verification_density=1))
    assert blind.connected
    assert blind.beads == 0
    assert heights(lambda points: np.square(wall(points)), blind).max() > 0.5
    seeing = sample_string(key, model, *ends, data, 0.01, config=config(verification_density=20, learning_rate=0.05))
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
    for name in ("values", "depths", "heights", "peaks"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    np.testing.assert_array_equal(resumed.knots["point"], whole.knots["point"])
    assert resumed[5:-1] == whole[5:-1]
    # A finished one is not sampled again.
    left[0] = 0
    again = sample_string(*arguments, config=config(), recorder=recorder)
    np.testing.assert_array_equal(again.knots["point"], whole.knots["point"])
    for other in ((key, OVER[0], at(0, 1), *OVER[2:]), (*arguments[:-1], 0.0009)):
        with says(InputError, "another iteration"):
            sample_string(*other, config=config(), recorder=recorder)


NETWORKS = StringConfig(epochs=60, batch_size=40, steps_per_epoch=3, learning_rate=0.01, chunk=4)


def test_networks_and_a_permuted_copy(key, tiny_data, tiny_model, tiny_ends):
    string = sample_string(key, tiny_model, *tiny_ends, tiny_data, 0.2, config=NETWORKS)
    assert string.connected
    assert string.beads > 0
    metrics = evaluate_path(tiny_model, string.path, tiny_data, 101)
    assert metrics.train_loss.max() <= 0.2 * 1.01
    # A copy with its units in another order, and the permutation that puts them back.
    P = {"dense_0": np.array([3, 1, 2, 0, 5, 4]), "dense_1": np.array([1, 0, 2, 3, 4])}
    copy = permute(tiny_model.spec, P, tiny_ends[0])
    apart = sample_string(key, tiny_model, tiny_ends[0], copy, tiny_data, 0.2, config=NETWORKS)
    assert apart.evaluations > 21
    P = {group: np.argsort(p) for group, p in P.items()}
    same = sample_string(key, tiny_model, tiny_ends[0], copy, tiny_data, 0.2, P=P, config=NETWORKS)
    assert (same.connected, same.beads, same.length, same.normalized_length) == (True, 0, 0.0, 1.0)


def test_thresholds_of_an_error_on_the_test_split(key, tiny_data, tiny_model, tiny_ends):
    settings = StringConfig(**{**vars(NETWORKS), "metric": "error", "split": "test", "images": 40})
    string = sample_string(key, tiny_model, *tiny_ends, tiny_data, 0.06, config=settings)
    assert string.connected
    assert string.beads > 0
    metrics = evaluate_path(tiny_model, string.path, tiny_data.take(test=40), 101)
    assert 1 - metrics.test_accuracy.min() <= 0.06 * 1.01


def test_bad_arguments_are_refused(key, tiny_data, tiny_model, tiny_ends):
    model, data = RING
    pair = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), at(1, 0))
    given = {"key": key, "model": model, "theta_1": at(1, 0), "theta_2": at(-1, 0), "data": data, "threshold": 0.01}
    networks = given | dict(zip(("theta_1", "theta_2"), tiny_ends, strict=True)) | {"model": tiny_model}
    soft = {"dense_0": np.full((6, 6), 1 / 6), "dense_1": np.eye(5)}
    wide = models.create("mlp", 3, (8, 8, 1), widths=(7, 5))
    settings = {"config": config()}
    for arguments, error, *named in (
        (given | settings | {"theta_2": at(2, 0)}, InputError, "theta_1 has train loss 0", "theta_2 9", "0.01"),
        *(
            (given | settings | {"threshold": value}, InputError, f"threshold={value:g}")
            for value in (0.0, -1.0, np.nan, np.inf)
        ),
        *((given | settings | {"threshold": value}, InputError, "threshold=") for value in ("low", "0.1", True, None)),
        (given | settings | {"theta_2": at(1, 0)}, InputError, "the same network"),
        *((given | {"config": wrong}, InputError, "StringConfig", "TrainConfig") for wrong in ({"depth": 3}, "fast")),
        (given | {"key": jax.random.split(key)}, InputError, "(2,)", "one key"),
        (given | settings | {"theta_1": pair, "theta_2": pair}, InputError, "sample_strings"),
        (given | {"key": 0}, InputError, "int for a key"),
        (given | {"config": config(split="validation")}, InputError, "landscape", "validation", "hold_out"),
        (given | {"config": config(images=7)}, InputError, "images=7", "the 1"),
        (given, InputError, "batch_size=128", "the 1"),
        (networks, InputError, "images of shape"),
        (given | {"model": tiny_model, "data": tiny_data, "config": NETWORKS}, SpecError, "mlp"),
        (networks | {"data": tiny_data, "P": soft, "config": NETWORKS}, SpecError, "hard P"),
        (networks | {"data": tiny_data, "model": wide, "config": NETWORKS}, SpecError, "mlp"),
    ):
        with says(error, *named):
            sample_string(**arguments)
    pairs = (trees.stack([at(1, 0), at(1, 0)]), trees.stack([at(-1, 0), at(3, 0)]))
    for threshold, named in ((0.01, "of pair 1"), ([0.1, 0.1, 0.1], "each of 2 pairs")):
        with says(InputError, named):
            sample_strings(key, model, *pairs, data, threshold, config=config())


def test_an_end_at_the_threshold_is_not_above_it(key):
    model, data = BOWL
    loss = float(np.float32(0.18))  # half of 0.36, a little more than the number 0.18 itself
    assert loss > 0.18
    string = sample_string(key, model, at(0.6, 0.0), at(-0.6, 0.0), data, 0.18, config=config(tolerance=0.0))
    assert string.connected


def test_the_training_of_another_config_will_do(key):
    training = TrainConfig(**{name: value for name, value in vars(config()).items() if hasattr(TrainConfig(), name)})
    assert sample_string(key, *OVER, config=training).connected


def test_a_bead_whose_loss_is_not_finite_ends_the_run(key):
    with says(RunError, "a bead", "number 0 of 1", "not finite"):
        sample_string(key, *OVER, config=config(optimizer="sgd", learning_rate=1e6, chunk=1))
