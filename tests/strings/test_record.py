"""Records of strings in progress: summaries, states on disk, and states that are refused."""

import json
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from landscapes import RING, at, config, landscape
from refusals import says

from mcjax import SGD, InputError, TrainConfig
from mcjax.runs import checkpoint
from mcjax.runs.folder import RunFolder
from mcjax.runs.recorder import Recorder
from mcjax.strings import StringConfig
from mcjax.strings.record import (
    StringRecording,
    describe_config,
    describe_metric,
    describe_optimizer,
    describe_task,
    fingerprint,
    summary,
)
from mcjax.strings.string import GrowingString
from mcjax.training import Criterion, Task


@pytest.fixture
def strings(key):
    one, two = (GrowingString(key, at(0, 0), at(1, y), (0.1, 0.2), 0.5) for y in (0, 1))
    one.heights, two.heights = [0.9], [0.4]
    one.insert([0], [at(0.5, 1)], [0.3])
    one.heights, one.peaks = [0.6, 0.45], [0.25, 0.5]
    two.reason = "connected"
    return [one, two]


def test_a_summary_counts_open_strings_only(strings):
    assert summary(strings, 0.1) == {"beads": 1, "open": 1, "segments": 1, "worst": pytest.approx(1.2)}
    assert summary(strings, 0.3)["segments"] == 0
    strings[0].reason = "depth"
    strings[1].heights = [0.7]
    assert summary(strings, 0.1) == {"beads": 1, "open": 0, "segments": 0, "worst": pytest.approx(1.4)}


def test_a_line_a_depth_without_a_terminal(strings, capsys):
    recording = StringRecording(Recorder("ring"), strings, "this", config(tolerance=0.01))
    recording.add()
    strings[0].reason = "epochs"
    recording.add()
    recording.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ring: depth 0, 1 beads, 1 segments open, worst train loss 1.2 thresholds"
    assert lines[1] == "ring: depth 1, 1 beads, 1 of 2 connected"


def test_silence(strings, capsys):
    quiet = StringRecording(Recorder("ring", progress=False), strings, "this", config())
    quiet.add()
    quiet.close()
    assert quiet.progress is None
    assert capsys.readouterr().err == ""


def test_a_recorded_state_is_restored(strings, key, tmp_path):
    recorder = Recorder("ring", RunFolder(tmp_path, {}), "string", progress=False)
    recording = StringRecording(recorder, strings, "this", config(tolerance=0.01))
    assert recording.step == -1
    recording.add()
    recording.add(levels=[3.0])
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert entries[1] == {"stage": "string", "epoch": 1, "beads": 1, "open": 1, "segments": 1, "worst": 1.2}
    fresh = [GrowingString(key, at(0, 0), at(1, y), (0.1, 0.2), 0.5) for y in (0, 1)]
    again = StringRecording(recorder, fresh, "this", config(tolerance=0.01))
    assert again.step == 1
    assert again.about["levels"] == [3.0]
    assert [string.reason for string in fresh] == [None, "connected"]
    np.testing.assert_array_equal(np.float32(fresh[0].heights), np.float32([0.6, 0.45]))
    assert fresh[0].depths == [0, 1, 0]


def test_states_of_another_iteration_and_broken_ones_are_refused(strings, tmp_path):
    recorder = Recorder("ring", RunFolder(tmp_path, {}), "string", progress=False)
    StringRecording(recorder, strings, "this", config()).add()
    with says(InputError, "another iteration", "Delete it"):
        StringRecording(recorder, strings, "that", config())
    checkpoint.save(recorder.run.checkpoints("string") / "latest", {"a": np.zeros(2)})
    with says(InputError, "another iteration"):
        StringRecording(recorder, strings, "this", config())


def test_a_fingerprint_is_of_all_that_a_string_is_made_from(key):
    def made(kind="strings", valley=RING, settings=None, key=key, end=(1, 0), threshold=0.5):
        string = GrowingString(key, at(0, 0), at(*end), (0.1, 0.2), threshold)
        return fingerprint(kind, valley, settings or config(), [string])

    others = [
        made(kind="family"),
        made(valley=landscape(lambda point: point[:1], 2)),
        made(settings=config(depth=3)),
        made(settings=config(metric="error")),
        made(settings=config(metric=farthest)),
        made(settings=config(epochs=201)),
        made(settings=config(0.02)),
        made(settings=config(optimizer=optax.sgd(0.01))),
        made(key=jax.random.key(1)),
        made(end=(1, 1e-7)),
        made(threshold=0.6),
    ]
    assert made() == made()
    assert made() == made(settings=config(optimizer=optax.adam(0.01)))
    assert len({made(), *others}) == 1 + len(others)


def farthest(theta, batch):
    """A metric."""
    return jnp.abs(theta["point"]).max()


class Largest:
    """A metric that is an object."""

    def __call__(self, theta, batch):
        return farthest(theta, batch)


def test_metrics_are_told_apart_by_their_names():
    assert describe_metric("loss") == "loss"
    assert describe_metric(farthest) == f"{__name__}.farthest"
    assert describe_metric(partial(farthest)) == describe_metric(jax.tree_util.Partial(farthest))
    assert describe_metric(partial(farthest)) == describe_metric(farthest)
    assert describe_metric(Largest()) == describe_metric(Largest()) == f"{__name__}.Largest"


OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-3),
    "a rate a little larger": lambda: optax.adam(1.0001e-3),
    "sgd": lambda: optax.sgd(1e-3),
    "with momentum": lambda: optax.sgd(1e-3, momentum=0.5),
    "a schedule": lambda: optax.sgd(optax.cosine_decay_schedule(0.1, 100)),
    "a longer schedule": lambda: optax.sgd(optax.cosine_decay_schedule(0.1, 101)),
    "in its state": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
    "another in its state": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=2e-3),
    "noise": lambda: optax.chain(optax.add_noise(0.1, 0.5, 3), optax.sgd(1e-3)),
    "other noise": lambda: optax.chain(optax.add_noise(0.1, 0.5, 4), optax.sgd(1e-3)),
    "by leaf": lambda: optax.multi_transform({"a": optax.adam(1e-3), "b": optax.set_to_zero()}, {"a": "a", "b": "b"}),
}
PARAMS = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}


def test_optimisers_are_told_apart_by_what_they_compute():
    # Two objects, with functions at other addresses.
    once, again = ({name: describe_optimizer(made(), PARAMS) for name, made in OPTIMIZERS.items()} for _ in range(2))
    assert once == again
    assert len(set(once.values())) == len(OPTIMIZERS)


def test_a_schedule_is_that_of_the_whole_fit():
    def described(epochs, optimizer):
        training = TrainConfig(epochs=epochs, batch_size=1, optimizer=optimizer)
        return describe_config(StringConfig(training), RING, at(0, 0))

    def halved(steps, steps_per_epoch):
        return optax.sgd(optax.linear_schedule(0.1, 0.05, steps))

    assert described(5, SGD(0.1)) == described(5, SGD(0.1))
    assert described(5, SGD(0.1)) != described(5, SGD(0.2))
    assert described(5, halved) == described(5, lambda *steps: halved(*steps))
    assert described(5, halved).replace("'epochs': 5", "'epochs': 6") != described(6, halved)


def test_tasks_are_told_apart_by_their_names_examples_and_symmetry(tiny_task):
    x = np.zeros((4, 2), np.float32)

    def task(train=x, **given):
        return Task(lambda theta, x, key: (theta @ theta * x).mean(), train, **given)

    others = [task(x[:3]), task(np.float16(x)), task((x,)), task(test=x), task(name="another")]
    described = {describe_task(each) for each in (task(), *others, tiny_task)}
    assert describe_task(task()) == describe_task(task(x + 1))
    assert len(described) == 2 + len(others)


IN_ANOTHER_PROCESS = """
import sys
import jax
import test_record
from landscapes import RING, at
from mcjax.strings.string import GrowingString

string = GrowingString(jax.random.key(0), at(0, 0), at(1, 0), (0.1, 0.2), 0.5)
sys.stdout.write(test_record.fingerprint("strings", RING, test_record.SETTINGS(), [string]))
"""


def SETTINGS():
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 100)))
    return StringConfig(TrainConfig(batch_size=1, optimizer=optimizer), Criterion(farthest))


def test_a_fingerprint_is_the_same_in_another_process(key):
    string = GrowingString(key, at(0, 0), at(1, 0), (0.1, 0.2), 0.5)
    code = IN_ANOTHER_PROCESS.replace("test_record", __name__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == fingerprint("strings", RING, SETTINGS(), [string])
