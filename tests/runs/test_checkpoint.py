"""Variables on disk: whole or not at all, round trips, and files from elsewhere."""

import errno
import os
import pickle
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from mcjax import trees
from mcjax.errors import InputError, RunError
from mcjax.runs import checkpoint

# Orbax leaves threads and coroutines behind where reading or writing fails; what counts is the error it raises.
broken = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited:RuntimeWarning"
)


def tree_of(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "params": {
            "Conv_0": {
                "kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32),
                "bias": np.float32([1, -0.0, np.pi]),
            },
            "Dense_0": {"kernel": rng.normal(size=(5, 3)).astype(np.float32)},
        },
        "batch_stats": {"norm": {"mean": np.float32([1e-38, 3e38])}},
        "P": {"conv_0": np.int32([2, 0, 1])},
        "count": np.int32(7),
    }


def same(a, b):
    a, b = trees.flatten(a), trees.flatten(b)
    assert sorted(a) == sorted(b)
    for name in a:
        first, second = np.asarray(a[name]), np.asarray(b[name])
        assert (first.dtype, first.shape) == (second.dtype, second.shape), name
        assert first.tobytes() == second.tobytes(), name


def test_round_trip_of_nested_dicts(tmp_path):
    checkpoint.save(tmp_path / "deep" / "one", tree_of(), {"model": {"widths": [6, 5]}, "epoch": 3})
    loaded = checkpoint.load(str(tmp_path / "deep" / "one"))
    same(loaded, tree_of())
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    assert checkpoint.describe(tmp_path / "deep" / "one") == {"model": {"widths": [6, 5]}, "epoch": 3}
    assert checkpoint.is_checkpoint(tmp_path / "deep" / "one")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["one"]


def test_round_trip_of_dtypes(tmp_path):
    rng = np.random.default_rng(0)
    leaves = {
        f"{jnp.dtype(dtype)}{shape}": np.asarray(rng.uniform(0, 200, shape)).astype(dtype)
        for dtype in (jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint8, jnp.bool_)
        for shape in ((), (1,), (3, 4))
    }
    checkpoint.save(tmp_path / "one", leaves)
    same(checkpoint.load(tmp_path / "one"), leaves)


def test_round_trip_of_keys_and_of_float64(tmp_path):
    """float64 is there under x64 alone; otherwise it is rounded when it is read."""
    keys = {"one": jax.random.key(3), "many": jax.random.split(jax.random.key(4, impl="rbg"), 2)}
    with jax.enable_x64(True):
        checkpoint.save(tmp_path / "one", {**keys, "pi": jnp.asarray(np.pi), "raw": jax.random.PRNGKey(5)})
        found = checkpoint.load(tmp_path / "one")
        assert found["pi"].dtype == np.float64
        assert float(found["pi"]) == np.pi
    np.testing.assert_array_equal(found["raw"], jax.random.PRNGKey(5))
    for name, key in keys.items():
        assert jax.random.key_impl(found[name]) == jax.random.key_impl(key)
        np.testing.assert_array_equal(jax.random.key_data(found[name]), jax.random.key_data(key))
        np.testing.assert_array_equal(jax.random.normal(found["one"], 3), jax.random.normal(keys["one"], 3))
    rounded = checkpoint.load(tmp_path / "one")["pi"]
    assert rounded.dtype == np.float32
    assert float(rounded) == np.float32(np.pi)


def test_a_relative_path_is_read_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("one", tree_of())
    same(checkpoint.load("one"), tree_of())
    assert checkpoint.is_checkpoint("one")


def test_saving_replaces_an_older_checkpoint(tmp_path):
    for seed in (0, 1):
        checkpoint.save(tmp_path / "one", tree_of(seed), {"seed": seed})
    same(checkpoint.load(tmp_path / "one"), tree_of(1))
    assert checkpoint.describe(tmp_path / "one") == {"seed": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def fail_at(number, error):
    """An os.replace that raises at its call `number`, and works before and after."""
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == number:
            raise error
        real(source, target)

    return replace


ENOSPC = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [ENOSPC, KeyboardInterrupt()], ids=["disk full", "interrupted"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_failure_while_replacing_keeps_the_previous_one(tmp_path, monkeypatch, number, error):
    checkpoint.save(tmp_path / "one", tree_of(0), {"seed": 0})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", fail_at(number, error))
        expected = RunError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected, match="No space left on device.*kept" if expected is RunError else None):
            checkpoint.save(tmp_path / "one", tree_of(1), {"seed": 1})
    same(checkpoint.load(tmp_path / "one"), tree_of(0))
    assert checkpoint.describe(tmp_path / "one") == {"seed": 0}
    checkpoint.save(tmp_path / "one", tree_of(1), {"seed": 1})
    same(checkpoint.load(tmp_path / "one"), tree_of(1))
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("error", [ENOSPC, ValueError("RESOURCE_EXHAUSTED: writing"), KeyboardInterrupt()])
def test_a_failure_while_writing_keeps_the_previous_one(tmp_path, monkeypatch, error):
    class Failing:
        @staticmethod
        def save(path, *_, **__):
            (path / "state").mkdir(parents=True)
            (path / "state" / "half").write_bytes(b"half")
            raise error

    checkpoint.save(tmp_path / "one", tree_of(0), {"seed": 0})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_orbax", lambda: Failing)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else RunError):
            checkpoint.save(tmp_path / "one", tree_of(1), {"seed": 1})
    same(checkpoint.load(tmp_path / "one"), tree_of(0))
    checkpoint.save(tmp_path / "one", tree_of(1), {"seed": 1})
    same(checkpoint.load(tmp_path / "one"), tree_of(1))
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_place_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"cannot write the checkpoint .*file/one"):
        checkpoint.save(tmp_path / "file" / "one", tree_of())
    assert (tmp_path / "file").read_text() == "mine"


def drop(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


HARM = {
    "no metadata": lambda folder: drop(folder / "_CHECKPOINT_METADATA"),
    "no state": lambda folder: drop(folder / "state"),
    "no metadata of the state": lambda folder: drop(folder / "state" / "_METADATA"),
    "half the metadata of the state": lambda folder: cut(folder / "state" / "_METADATA"),
    "no manifest": lambda folder: drop(folder / "state" / "manifest.ocdbt"),
    "half the manifest": lambda folder: cut(folder / "state" / "manifest.ocdbt"),
    "no data": lambda folder: drop(folder / "state" / "d"),
    "half the data": lambda folder: [cut(path) for path in (folder / "state" / "d").iterdir()],
    "no process": lambda folder: drop(folder / "state" / "ocdbt.process_0"),
    "no largest file": lambda folder: drop(largest(folder)),
    "half the largest file": lambda folder: cut(largest(folder)),
    "nothing": lambda folder: [drop(path) for path in folder.iterdir()],
}


@broken
def test_a_truncated_checkpoint_is_refused(collected, tmp_path):
    checkpoint.save(tmp_path / "one", {"a": np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)})
    for what, harm in HARM.items():
        shutil.copytree(tmp_path / "one", tmp_path / what)
        harm(tmp_path / what)
        with pytest.raises(InputError) as caught:
            checkpoint.load(tmp_path / what)
        for words in (f"{tmp_path / what} cannot be read", "truncated"):
            assert words in str(caught.value), what
        assert len(str(caught.value)) < 1000
        assert (tmp_path / what).exists()


def test_a_missing_checkpoint_is_reported(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint at .*none: nothing is there"):
        checkpoint.load(tmp_path / "none")
    assert not checkpoint.is_checkpoint(tmp_path / "none")
    assert checkpoint.describe(tmp_path / "none") == {}


def test_npz_and_msgpack_from_elsewhere(tmp_path):
    tree = tree_of()
    np.savez(tmp_path / "leaves.npz", **trees.flatten(tree))
    (tmp_path / "flax.msgpack").write_bytes(serialization.to_bytes(tree))
    for name in ("leaves.npz", "flax.msgpack"):
        same(checkpoint.load(tmp_path / name), tree)
        assert checkpoint.describe(tmp_path / name) == {}
        assert checkpoint.is_checkpoint(tmp_path / name)


class Payload:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "ran"))


@pytest.mark.parametrize("name", ["leaves.npz", "leaves.pkl"])
def test_pickle_is_refused_and_never_run(tmp_path, name):
    trap = tmp_path / "trap"
    if name.endswith("npz"):
        array = np.empty(1, object)
        array[0] = Payload(trap)
        np.savez(tmp_path / name, **{"params/Dense_0/kernel": array})
    else:
        (tmp_path / name).write_bytes(pickle.dumps({"params": Payload(trap)}))
    with pytest.raises(InputError, match="cannot be read"):
        checkpoint.load(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["leaves.npz", "flax.msgpack"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez(path, **trees.flatten(tree_of()))
    else:
        path.write_bytes(serialization.to_bytes(tree_of()))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="truncated or of another kind"):
        checkpoint.load(path)


def test_a_run_folder_is_no_checkpoint_and_its_checkpoints_are_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    checkpoint.save(tmp_path / "checkpoints" / "network_0", {"params": {"a": np.zeros(2)}})
    with pytest.raises(InputError, match=r"folder of a run: give one of its checkpoints, .*where NAME is network_0"):
        checkpoint.load(tmp_path)
