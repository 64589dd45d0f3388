"""Records of strings in progress: summaries, states on disk, and states that are refused."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from landscapes import RING, at, config, landscape
from refusals import says

from mcjax import InputError, TrainConfig
from mcjax.runs import checkpoint
from mcjax.runs.folder import RunFolder
from mcjax.runs.recorder import Recorder
from mcjax.strings import StringConfig
from mcjax.strings.record import (
    StringRecording,
    fingerprint,
    summary,
)
from mcjax.strings.string import GrowingString
from mcjax.training import Criterion


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
    def made(kind="strings", valley=RING, settings=None, key=key, end=(1, 0), threshold=0.5, values=(0.1, 0.2)):
        string = GrowingString(key, at(0, 0), at(*end), values, threshold)
        return fingerprint(kind, valley, settings or config(), [string])

    others = [
        made(kind="family"),
        made(valley=landscape(lambda point: point[:1], 2).replace(name="other")),
        made(settings=config(depth=3)),
        made(settings=config(metric="error")),
        made(settings=config(metric=farthest)),
        made(settings=config(epochs=201)),
        made(settings=config(tolerance=0.02)),
        made(key=jax.random.key(1)),
        made(end=(1, 1e-7)),
        made(threshold=0.6),
        made(values=(0.1, 0.21)),
    ]
    assert made() == made()
    assert made() == made(settings=config(optimizer=optax.adam(0.01)))
    assert len({made(), *others}) == 1 + len(others)


def farthest(theta, batch):
    """A metric."""
    return jnp.abs(theta["point"]).max()


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
