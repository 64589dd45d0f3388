"""The state of a stage: it comes back as it was, or is refused, and a broken one is never passed over."""

import os
import shutil

import jax
import numpy as np
import optax
import pytest

from mcjax.errors import InputError
from mcjax.runs import checkpoint
from mcjax.runs.folder import RunFolder
from mcjax.runs.recorder import Recorder, Recording
from mcjax.runs.stage import Stage
from mcjax.runtime.mesh import Placement

# Orbax leaves threads and coroutines behind where reading or writing fails; what counts is the error it raises.
broken = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited:RuntimeWarning"
)
STATE = {"a": np.arange(6, dtype="f").reshape(2, 3), "b": {"c": np.int32(7)}}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for first, second in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        first, second = np.asarray(first), np.asarray(second)
        assert (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())


def stage(folder, fingerprint=None):
    return Stage(RunFolder(folder, {}), "fit", fingerprint and {"data": fingerprint})


def record(folder, states, add=()):
    """A recording that starts from these states, after these epochs have been added."""
    recording = Recording(Recorder("fit", RunFolder(folder, {}), progress=False), states, Placement(None, 1), 9, 1)
    for more in add:
        number = np.float32([recording.done + 1])
        recording.add(more, {"loss": 1 / number, "accuracy": number})
    recording.close()
    return recording


def optimizers():
    schedule = optax.warmup_cosine_decay_schedule(0.01, 0.1, 3, 10)
    return {
        "sgd": optax.sgd(0.1),
        "momentum": optax.sgd(schedule, momentum=0.9, nesterov=True),
        "adam": optax.adam(1e-3),
        "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale(-0.1)),
    }


@pytest.mark.parametrize("name", optimizers())
def test_optimiser_states_come_back(tmp_path, name):
    params = {"kernel": np.ones((5, 3), "f"), "bias": np.float32([1, -0.0, np.pi])}
    fresh = jax.tree.map(np.asarray, (params, jax.jit(optimizers()[name].init)(params)))
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda leaf: np.asarray(leaf + 10 * rng.uniform(0.1, 1, leaf.shape), leaf.dtype), fresh)
    assert record(tmp_path, fresh, [fresh, moved]).done == 2
    again = record(tmp_path, fresh)
    assert again.done == 2
    same(again.states, moved)
    np.testing.assert_array_equal(again.history["loss"], np.float32([[1, 0.5]]))
    assert again.history["accuracy"].dtype == np.float32
    record(tmp_path, fresh, [fresh])
    same(record(tmp_path, fresh).states, fresh)


def test_many_leaves_keep_their_order(tmp_path):
    state = [np.int32(i) for i in range(120)]
    record(tmp_path, state, [state])
    assert [int(leaf) for leaf in record(tmp_path, state).states] == list(range(120))


def test_another_structure_is_refused(tmp_path):
    state = {"a": np.ones((2, 3), "f"), "b": np.ones(4, "f")}
    record(tmp_path, state, [state])
    for other in (
        {"a": np.zeros(3)},
        {"a": np.zeros((2, 3)), "b": np.zeros(())},
        {"a": np.zeros((3, 2)), "b": np.zeros(4)},
        {"a": np.zeros((2, 3)), "b": np.zeros(4), "c": np.zeros(())},
    ):
        with pytest.raises(InputError, match="latest was saved by another iteration"):
            record(tmp_path, other)
    same(record(tmp_path, state).states, state)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    checkpoint.save(stage(tmp_path).path, STATE)
    with pytest.raises(InputError, match="saved by another iteration"):
        stage(tmp_path).restore()
    stage(tmp_path).save(1, STATE)
    with pytest.raises(InputError, match="saved by another iteration"):
        record(tmp_path, STATE)


def test_a_state_made_from_other_inputs_is_refused(tmp_path):
    stage(tmp_path, "this").save(1, STATE, {"levels": [3.0]})
    saved = stage(tmp_path, "this").restore()
    assert (saved.step, saved.about["levels"]) == (1, [3.0])
    same(saved.state, STATE)
    for other, named in (("that", '"that"'), (None, "null")):
        with pytest.raises(InputError, match=rf'another iteration .data: "this" there, {named} now.*Delete it'):
            stage(tmp_path, other).restore()


def test_metrics_after_the_state_are_dropped(tmp_path):
    for step in range(3):
        stage(tmp_path).log(step, {"loss": 1.0})
    stage(tmp_path).save(1, STATE)
    lines = tmp_path / "metrics.jsonl"
    assert stage(tmp_path).restore().step == 1
    assert len(lines.read_text().splitlines()) == 2
    shutil.rmtree(stage(tmp_path).path)
    assert stage(tmp_path).restore(first=-1) is None
    assert lines.read_text() == ""


def test_without_a_run_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    none = Stage(None, "fit")
    assert none.restore() is None
    none.log(1, {"loss": 1.0})
    none.save(1, STATE)
    assert list(tmp_path.iterdir()) == []


@broken
def test_it_never_starts_over_in_silence(collected, tmp_path):
    stage(tmp_path).save(5, STATE)
    path = stage(tmp_path).path
    shutil.copytree(path, tmp_path / "copy")
    (path / "_CHECKPOINT_METADATA").write_bytes(b"")
    with pytest.raises(InputError, match=r"latest cannot be read.* delete .*latest"):
        stage(tmp_path).restore()
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "copy", path)
    manifest = path / "state" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])
    with pytest.raises(InputError, match="truncated"):
        stage(tmp_path).restore()


def test_a_state_left_by_a_kill_between_two_moves_is_found(tmp_path):
    stage(tmp_path).save(5, STATE)
    path = stage(tmp_path).path
    aside = path.with_name(".latest.old")
    os.replace(path, aside)
    assert stage(tmp_path).restore().step == 5
    os.replace(path, aside)
    stage(tmp_path).save(6, STATE)
    assert stage(tmp_path).restore().step == 6
    assert [each.name for each in path.parent.iterdir()] == ["latest"]
