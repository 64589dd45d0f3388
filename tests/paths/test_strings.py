"""Strings in valleys of known shape: straight, round, and parted by a wall; budgets, resuming, bad input."""

import math

import jax
import numpy as np
import pytest
from valleys import BOWL, RING, WELLS, at, config, landscape

from mcjax import (
    InputError,
    RunError,
    SpecError,
    StringConfig,
    TrainConfig,
    barrier,
    evaluate_path,
    models,
    permute,
    sample_string,
    sample_strings,
    train_endpoints,
    trees,
)
from mcjax.paths import sampling
from mcjax.paths.scan import Scan, values_at
from mcjax.report import RunFolder
from mcjax.training.loop import steps_per_epoch
from mcjax.training.recorder import Recorder


def certified(model, data, string, settings, points=2001):
    """The highest value on a grid of its own over every segment, beside what the string says."""
    knots = [trees.index(string.knots, i) for i in range(string.beads + 2)]
    scan = Scan(model, settings.criterion, jax.device_put(data), 3, 0.01, 0.0, None)
    ts = np.tile(np.linspace(0, 1, points), (len(knots) - 1, 1))
    return values_at(scan, knots[:-1], knots[1:], ts).max(1)


@pytest.mark.parametrize(("start", "end"), [((1, 0), (0, 1)), ((1, 0), (-1, 0.1)), ((0.3, 0.2), (-0.1, 0.9))])
def test_in_a_bowl_a_string_is_straight(key, start, end):
    string = sample_string(key, *BOWL_ENDS(start, end), 0.6, config=config())
    assert string.connected
    assert string.beads == 0
    assert string.normalized_length == 1.0
    assert string.steps == 0


def BOWL_ENDS(start, end):
    model, data = BOWL
    return model, at(*start), at(*end), data


RING_WAYS = {
    "maximum": {},
    "middle": {"insert": "middle"},
    "in planes": {"kappa": math.inf},
    "with springs": {"zeta": 0.01, "kappa": 1.0},
}


@pytest.mark.parametrize("way", RING_WAYS)
def test_around_a_ring_the_length_is_that_of_the_geodesic(key, way):
    model, data = RING
    settings = config(**RING_WAYS[way])
    string = sample_string(key, model, at(1, 0), at(-1, 0), data, 0.001, config=settings)
    assert string.connected
    assert string.reason == "connected"
    np.testing.assert_allclose(string.normalized_length, math.pi / 2, rtol=0.05)
    np.testing.assert_allclose(string.length, 2 * string.normalized_length, rtol=1e-6)
    # No point of it is off the ring, on a grid of our own; the ends never moved.
    heights = certified(model, data, string, settings)
    assert heights.max() <= 0.001 * 1.01
    assert (heights <= np.maximum(string.heights, 0.001) * (1 + 1e-3)).all()
    points = np.asarray(string.knots["point"])
    np.testing.assert_array_equal(points[[0, -1]], [[1, 0], [-1, 0]])
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=0.02)
    # What it says of itself is so.
    np.testing.assert_allclose(string.values, (np.square(points).sum(1) - 1) ** 2, atol=1e-6)
    np.testing.assert_allclose(string.length, np.linalg.norm(np.diff(points, axis=0), axis=1).sum(), rtol=1e-6)
    assert string.born[[0, -1]].tolist() == [0, 0]
    assert sorted(set(string.born.tolist())) == list(range(string.depth + 1))
    metrics = evaluate_path(model, string.path, data, 301)
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
        # The segment that crosses, and it is as high as the pass at least.
        x = np.asarray(string.knots["point"])[:, 0]
        assert x[string.worst.number] * x[string.worst.number + 1] < 0
        assert string.worst.height >= 0.499
        assert 0 < string.worst.t < 1


def test_the_cost_grows_as_the_beads_and_not_as_two_to_the_depth(key):
    # Between the wells every depth inserts one bead, where the wall is: no other segment is parted.
    model, data = WELLS
    settings = config(depth=8, noise=0.02)
    string = sample_string(key, model, at(1, 0), at(-1, 0), data, 0.2, config=settings)
    assert string.depth == 8
    assert string.beads == 8
    assert string.steps <= string.beads * 50 * steps_per_epoch(settings, data)
    assert string.measured <= (2 * string.beads + 1) * (4 + 1) * 21 + 10 * 21 * string.beads


def test_every_bead_costs_training_and_two_scans(key, monkeypatch):
    model, data = RING
    trained, calls = [], []

    def counted(model, data, settings, beads, *args, **more):
        calls.append(len(beads))
        found = sampling_train(model, data, settings, beads, *args, **more)
        trained.extend(bead.epochs for bead in found)
        return found

    sampling_train = sampling.train_beads
    monkeypatch.setattr(sampling, "train_beads", counted)
    settings = config()
    string = sample_string(key, model, at(1, 0), at(-1, 0), data, 0.001, config=settings)
    assert string.steps == sum(trained) * settings.steps_per_epoch
    # All beads of a depth at once: as many calls as depths, though there are more beads.
    assert len(calls) == string.depth < string.beads
    assert sum(calls) <= string.beads


def test_one_program_serves_every_depth(key):
    # As in other tests of traces: a function that is traced only when something is compiled.
    traced = []
    model, data = RING

    def apply_train(theta, x, key):
        traced.append(len(x))
        return model.apply_train(theta, x, key)

    counted = model._replace(apply_train=apply_train)
    string = sample_string(key, counted, at(1, 0), at(-1, 0), data, 0.001, config=config(chunk=4))
    assert string.depth >= 3
    # Programs for 1, 2 and 4 beads; each traces the step twice (the loop and its gradient).
    assert len(traced) <= 3 * 2


def test_many_strings_at_once_are_those_of_each_pair(key):
    model, data = RING
    firsts, seconds = [at(1, 0), at(0, 1), at(0.6, 0.8)], [at(-1, 0), at(1, 0), at(0.8, 0.6)]
    thresholds = [0.001, 0.01, 0.05]
    together = sample_strings(key, model, trees.stack(firsts), trees.stack(seconds), data, thresholds, config=config())
    assert [string.connected for string in together] == [True] * 3
    assert together[2].beads == 0
    for string, threshold in zip(together, thresholds, strict=True):
        assert string.threshold == threshold
        assert certified(model, data, string, config()).max() <= threshold * 1.01
    np.testing.assert_allclose(together[0].normalized_length, math.pi / 2, rtol=0.05)
    np.testing.assert_allclose(together[1].normalized_length, math.pi / 2 / math.sqrt(2), rtol=0.05)
    again = sample_strings(key, model, trees.stack(firsts), trees.stack(seconds), data, thresholds, config=config())
    for a, b in zip(together, again, strict=True):
        np.testing.assert_array_equal(a.knots["point"], b.knots["point"])
    only = sample_string(key, model, firsts[0], seconds[0], data, 0.001, config=config())
    assert only.connected


def test_a_denser_grid_reopens_a_string(key):
    # A wall that is narrower than the first grid sees, and a gap beside it.
    def wall(point):
        return jax.numpy.exp(-(((point[0] - 0.5125) / 0.002) ** 2) - (point[1] / 0.3) ** 2)[None]

    model, data = landscape(wall, 2)
    ends = (at(0, 0), at(1, 0))
    blind = sample_string(key, model, *ends, data, 0.01, config=config(certify=1))
    assert blind.connected
    assert blind.beads == 0
    assert certified(model, data, blind, config()).max() > 0.5
    seeing = sample_string(key, model, *ends, data, 0.01, config=config(certify=20, learning_rate=0.05))
    assert seeing.beads > 0


BUDGETS = {"depth": ({"depth": 1}, 1), "beads": ({"beads": 2}, 1), "epochs": ({"epochs": 1}, 1)}


@pytest.mark.parametrize("reason", BUDGETS)
def test_running_out_is_a_result(key, reason):
    model, data = RING
    changes, beads = BUDGETS[reason]
    string = sample_string(key, model, at(1, 0), at(-1, 0), data, 0.001, config=config(**changes))
    assert not string.connected
    assert string.reason == reason
    assert string.beads == beads
    heights = certified(model, data, string, config(), points=21)
    np.testing.assert_allclose(string.worst.height, heights.max(), rtol=0.02)
    assert string.worst.number == heights.argmax()
    assert float(string.path(0.0)["point"][0]) == 1


def test_no_budget_at_all(key):
    model, data = RING
    string = sample_string(key, model, at(1, 0), at(-1, 0), data, 0.001, config=config(depth=0))
    assert (string.connected, string.reason, string.beads) == (False, "depth", 0)
    assert string.normalized_length == 1.0


class Stop(BaseException):
    pass


def test_an_interrupted_run_goes_on_to_the_same_bits(key, tmp_path, monkeypatch):
    model, data = RING
    arguments = (key, model, at(1, 0), at(-1, 0), data, 0.001)
    whole = sample_string(*arguments, config=config())
    real, left = sampling.train_beads, [2]

    def stopping(*args, **more):
        if not left[0]:
            raise Stop
        left[0] -= 1
        return real(*args, **more)

    monkeypatch.setattr(sampling, "train_beads", stopping)
    recorder = Recorder("ring", RunFolder(tmp_path, {}), "string", progress=False)
    with pytest.raises(Stop):
        sample_string(*arguments, config=config(), recorder=recorder)
    left[0] = 100
    resumed = sample_string(*arguments, config=config(), recorder=recorder)
    assert left[0] == 100 - (whole.depth - 2)
    for name in ("values", "born", "heights", "where"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    np.testing.assert_array_equal(resumed.knots["point"], whole.knots["point"])
    assert resumed[5:-1] == whole[5:-1]
    # A finished one is not sampled again.
    left[0] = 0
    again = sample_string(*arguments, config=config(), recorder=recorder)
    np.testing.assert_array_equal(again.knots["point"], whole.knots["point"])
    with pytest.raises(InputError, match="was saved by another string"):
        sample_string(key, model, at(0, 1), at(-1, 0), data, 0.001, config=config(), recorder=recorder)
    with pytest.raises(InputError, match="was saved by another string"):
        sample_string(*arguments[:-1], 0.0009, config=config(), recorder=recorder)


@pytest.fixture(scope="module")
def ends(tiny_data, tiny_model):
    keys = jax.random.split(jax.random.key(3), 2)
    training = TrainConfig(epochs=40, batch_size=40, steps_per_epoch=3, learning_rate=0.05)
    found = train_endpoints(keys, tiny_model, tiny_data, training, target=0.2)
    assert (found.criterion <= 0.2).all()
    return trees.index(found.theta, 0), trees.index(found.theta, 1)


NETWORKS = StringConfig(epochs=60, batch_size=40, steps_per_epoch=3, learning_rate=0.01, chunk=4)


def test_networks_and_a_permuted_copy(key, tiny_data, tiny_model, ends):
    string = sample_string(key, tiny_model, *ends, tiny_data, 0.2, config=NETWORKS)
    assert string.connected
    metrics = evaluate_path(tiny_model, string.path, tiny_data, 101)
    assert metrics.train_loss.max() <= 0.2 * 1.01
    # A copy with its units in another order, and the permutation that puts them back.
    P = {"dense_0": np.array([3, 1, 2, 0, 5, 4]), "dense_1": np.array([1, 0, 2, 3, 4])}
    copy = permute(tiny_model.spec, P, ends[0])
    apart = sample_string(key, tiny_model, ends[0], copy, tiny_data, 0.2, config=NETWORKS)
    assert apart.measured > 21
    P = {group: np.argsort(p) for group, p in P.items()}
    same = sample_string(key, tiny_model, ends[0], copy, tiny_data, 0.2, P=P, config=NETWORKS)
    assert (same.connected, same.beads, same.length, same.normalized_length) == (True, 0, 0.0, 1.0)


def test_thresholds_of_an_error_on_the_test_split(key, tiny_data, tiny_model, ends):
    settings = StringConfig(**{**vars(NETWORKS), "of": "error", "on": "test", "images": 40})
    string = sample_string(key, tiny_model, *ends, tiny_data, 0.06, config=settings)
    assert string.connected
    metrics = evaluate_path(tiny_model, string.path, tiny_data.take(test=40), 101)
    assert 1 - metrics.test_accuracy.min() <= 0.06 * 1.01


def test_what_cannot_be_sampled(key, tiny_data, tiny_model, ends):
    model, data = RING
    one, two = at(1, 0), at(-1, 0)

    def refused(message, *args, error=InputError, **more):
        with pytest.raises(error, match=message):
            sample_string(*args, **more)

    refused(
        r"the ends are above the threshold: theta_1 has train loss 0, theta_2 9, expected at most 0.01. Train them",
        key, model, one, at(2, 0), data, 0.01, config=config(),
    )  # fmt: skip
    for threshold in (0.0, -1.0, math.nan, math.inf):
        refused(f"got threshold={threshold:g}.*expected a positive number", key, model, one, two, data, threshold)
    refused("theta_1 and theta_2 are the same network", key, model, one, at(1, 0), data, 0.01, config=config())
    for threshold in ("low", "0.1", True, None):
        refused("got threshold=.*, expected a positive number", key, model, one, two, data, threshold)
    for wrong in ({"depth": 3}, "fast"):
        refused("for config, expected a StringConfig, or a TrainConfig", key, model, one, two, data, 0.1, config=wrong)
    refused(r"got keys of shape \(2,\), expected one key", jax.random.split(key), model, one, two, data, 0.1)
    pair = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), one)
    refused("sample_strings takes pairs", key, model, pair, pair, data, 0.1, config=config())
    refused("got int for a key", 0, model, one, two, data, 0.01)
    validation = config(on="validation")
    refused("landscape has no validation split: data.hold_out", key, model, one, two, data, 0.01, config=validation)
    refused("got images=7, expected at most the 1", key, model, one, two, data, 0.01, config=config(images=7))
    refused("got batch_size=128, expected at most the 1", key, model, one, two, data, 0.01)
    refused("takes images of shape", key, tiny_model, *ends, data, 0.1)
    refused("not those of mlp", key, tiny_model, one, two, tiny_data, 0.1, error=SpecError)
    soft = {"dense_0": np.full((6, 6), 1 / 6), "dense_1": np.eye(5)}
    refused("expected a hard P", key, tiny_model, *ends, tiny_data, 0.2, P=soft, config=NETWORKS, error=SpecError)
    wide = models.create("mlp", 3, (8, 8, 1), widths=(7, 5))
    refused("not those of mlp", key, wide, *ends, tiny_data, 0.2, config=NETWORKS, error=SpecError)
    pairs = (trees.stack([one, one]), trees.stack([two, at(3, 0)]))
    with pytest.raises(InputError, match="of pair 1 are above the threshold"):
        sample_strings(key, model, *pairs, data, 0.01, config=config())
    with pytest.raises(InputError, match="or one for each of 2 pairs"):
        sample_strings(key, model, *pairs, data, [0.1, 0.1, 0.1], config=config())


def test_an_end_at_the_threshold_is_not_above_it(key):
    model, data = BOWL
    end = at(0.6, 0.0)
    loss = float(np.float32(0.18))  # half of 0.36, a little more than the number 0.18 itself
    assert loss > 0.18
    string = sample_string(key, model, end, at(-0.6, 0.0), data, 0.18, config=config(tolerance=0.0))
    assert string.connected


def test_the_training_of_another_config_will_do(key):
    model, data = RING
    training = TrainConfig(**{name: value for name, value in vars(config()).items() if hasattr(TrainConfig(), name)})
    string = sample_string(key, model, at(1, 0), at(-1, 0), data, 0.001, config=training)
    assert string.connected


def test_a_bead_whose_loss_is_not_finite_ends_the_run(key):
    model, data = RING
    with pytest.raises(RunError, match="a bead: the loss of number 0 of 1 is not finite in epoch"):
        sample_string(
            key, model, at(1, 0), at(-1, 0), data, 0.001, config=config(optimizer="sgd", learning_rate=1e6, chunk=1)
        )
