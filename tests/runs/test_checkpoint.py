"""Variables on disk: whole or not at all, round trips, and files from elsewhere."""

import errno
import os
import pickle
import re
import shutil
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as orbax
import pytest
from flax import nnx, serialization
from flax.core import freeze
from flax.training.train_state import TrainState
from refusals import says

from mcjax import trees
from mcjax.errors import InputError, InputWarning, RunError
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
    dtypes = "float32 bfloat16 float16 int32 uint8 bool complex64 int4 uint4 float8_e4m3fn float8_e4m3 float8_e5m2"
    leaves = {
        f"{dtype}{shape}": np.asarray(rng.uniform(0, 2, shape)).astype(jnp.dtype(dtype))
        for dtype in dtypes.split()
        for shape in ((), (1,), (3, 4), (2, 0))
    }
    checkpoint.save(tmp_path / "one", leaves)
    same(checkpoint.load(tmp_path / "one"), leaves)


Pair = namedtuple("Pair", "first second")
A = np.float32([1, 2])
TREES = {
    "keys with slashes": {"Dense_0": {"Dense_0/kernel/u": A, "kernel": A + 1}},
    "empty key": {"": A, "a": {"": A + 1}},
    "whole numbers as keys": {0: A, 10: {2: A + 1, 1: A + 2}},
    "list of eleven": [A + i for i in range(11)],
    "tuples": ((), (A, [A + 1]), {}, None),
    "nothing": {"a": {}, "b": [], "c": None},
    "FrozenDict": freeze({"params": {"a": A}}),
    "one array": A,
    "no arrays": {},
}


@pytest.mark.parametrize("name", TREES)
def test_round_trip_of_containers(tmp_path, name):
    checkpoint.save(tmp_path / "one", TREES[name])
    loaded = checkpoint.load(tmp_path / "one")
    assert jax.tree.structure(loaded) == jax.tree.structure(TREES[name])
    same(loaded, TREES[name])


def test_other_containers_are_dicts_of_the_same_names(tmp_path):
    linear = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    tree = {"pair": Pair(A, 3), "state": nnx.state(linear)}
    checkpoint.save(tmp_path / "one", tree)
    loaded = checkpoint.load(tmp_path / "one")
    assert trees.flatten(loaded).keys() == {"pair/first", "pair/second", "state/bias", "state/kernel"}
    assert (loaded["pair"]["second"].dtype, int(loaded["pair"]["second"])) == (np.int32, 3)
    same(trees.like(tree["state"], loaded["state"]), tree["state"])


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"a/b": A, "a": {"b": A}}, ["a/b"]),
        ({"a.b": A, "a": {"b": A}}, ["a.b", "a/b"]),
        ({"a": {"word": "text"}}, ["a/word", "str"]),
        ({"a": np.array([{}], object)}, ["'a'"]),
    ],
)
def test_what_would_not_come_back_is_refused(tmp_path, tree, names):
    with says(InputError, *names):
        checkpoint.save(tmp_path / "one", tree)
    assert not list(tmp_path.iterdir())


def test_whole_numbers_that_jax_would_wrap_are_refused(tmp_path):
    checkpoint.save(tmp_path / "one", {"step": np.int64(2**40), "small": np.int64(7)})
    with says(InputError, "step", "int32", "enable_x64"):
        checkpoint.load(tmp_path / "one")
    with jax.enable_x64(True):
        assert int(checkpoint.load(tmp_path / "one")["step"]) == 2**40


@broken
def test_no_flipped_bit_loads_as_other_numbers(collected, tmp_path, capsys):
    """Every bit of the checkpoint may flip: it is refused, or the bit was not of its content."""
    checkpoint.save(tmp_path / "one", tree_of(), {"epoch": 3})
    whole = checkpoint.load(tmp_path / "one")
    rng, refused = np.random.default_rng(0), 0
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file() and path.stat().st_size]
    for path in files * 8:
        bits = np.frombuffer(path.read_bytes(), np.uint8)
        at = rng.integers(len(bits))
        path.write_bytes(np.where(np.arange(len(bits)) == at, bits ^ (1 << rng.integers(8)), bits).astype(np.uint8))
        try:
            found, about = checkpoint.load(tmp_path / "one"), checkpoint.describe(tmp_path / "one")
            assert (about, trees.fingerprint(found)) == ({"epoch": 3}, trees.fingerprint(whole)), (path, at)
            assert jax.tree.structure(found) == jax.tree.structure(whole)
        except InputError as error:
            refused += str(tmp_path / "one") in str(error)
        path.write_bytes(bits)
    assert refused > len(files)
    assert not capsys.readouterr().err


def test_other_files_are_never_replaced(tmp_path):
    (tmp_path / "results" / "figures").mkdir(parents=True)
    (tmp_path / "thesis.tex").write_text("text")
    checkpoint.save(tmp_path / "all" / "one", {"a": A})
    (tmp_path / "link").symlink_to(tmp_path / "all" / "one")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in ("results", "thesis.tex", "all", "link", "."):
        with says(InputError, str(tmp_path / name), "no checkpoint"):
            checkpoint.save(tmp_path / name, {"a": A + 1})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "empty").mkdir()
    for path in ("empty", "all/one"):
        checkpoint.save(tmp_path / path, {"a": A + 1})
        np.testing.assert_array_equal(checkpoint.load(tmp_path / path)["a"], A + 1)


def test_a_changed_description_is_refused(tmp_path):
    checkpoint.save(tmp_path / "one", tree_of(), {"epoch": 3})
    metadata = tmp_path / "one" / "_CHECKPOINT_METADATA"
    metadata.write_text(metadata.read_text().replace(r"\"epoch\": 3", r"\"epoch\": 7"))
    assert checkpoint.describe(tmp_path / "one") == {"epoch": 7}
    with says(InputError, str(tmp_path / "one"), "damaged"):
        checkpoint.load(tmp_path / "one")


@pytest.mark.filterwarnings("error::mcjax.errors.InputWarning")
def test_a_checkpoint_without_a_checksum_is_said_to_be_unchecked(tmp_path):
    np.savez(tmp_path / "leaves.npz", a=A)
    (tmp_path / "flax.msgpack").write_bytes(serialization.to_bytes({"a": A}))
    checkpoint.load(tmp_path / "leaves.npz")  # numpy compares the sums of the archive
    with pytest.warns(InputWarning, match=re.escape(str(tmp_path / "flax.msgpack"))):
        checkpoint.load(tmp_path / "flax.msgpack")


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
        for words in (f"{tmp_path / what}", "cannot be read", "truncated"):
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
    with pytest.raises(InputError, match="truncated"):
        checkpoint.load(path)


def test_npz_tells_the_dtypes_that_numpy_lacks_apart_or_says_so(tmp_path):
    half = np.arange(6).reshape(2, 3).astype(jnp.bfloat16)
    np.savez(tmp_path / "half.npz", **{"params/a": half})
    same(checkpoint.load(tmp_path / "half.npz"), {"params": {"a": half}})
    for dtype in ("float8_e4m3fn", "float8_e5m2", "int4"):
        np.savez(tmp_path / "small.npz", **{"params/a": np.zeros(3, jnp.dtype(dtype))})
        with says(InputError, "params/a", "small.npz", "float8"):
            checkpoint.load(tmp_path / "small.npz")


@pytest.mark.parametrize("ending", ["pt", "pkl", "safetensors"])
def test_files_of_other_programs_are_told_from_damaged_ones(tmp_path, ending):
    (tmp_path / f"a.{ending}").write_bytes(b"any")
    with says(InputError, f"a.{ending}", "savez") as caught:
        checkpoint.load(tmp_path / f"a.{ending}")
    assert "damaged" not in str(caught.value)


STATE = TrainState.create(apply_fn=None, params={"w": jnp.asarray(A)}, tx=optax.sgd(0.1, momentum=0.9))


def orbax_save(path, tree, handler=orbax.StandardCheckpointHandler):
    with orbax.Checkpointer(handler()) as saver:
        saver.save(path, tree)


def orbax_manager(path, items, **options):
    with orbax.CheckpointManager(path, options=orbax.CheckpointManagerOptions(**options)) as manager:
        for step in (3, 20):
            manager.save(step, args=items)


STANDARD = orbax.args.StandardSave({"params": {"w": A}})
SEVERAL = orbax.args.Composite(params=STANDARD, more=orbax.args.PyTreeSave({"a": 1}), words=orbax.args.JsonSave({}))
ELSEWHERE = {
    "state": lambda path: orbax_save(path, STATE),
    "tree": lambda path: orbax_save(path, STATE, orbax.PyTreeCheckpointHandler),
    "v1": lambda path: checkpoint._orbax().save(path, {"params": {"w": A}, "step": 3, "lr": 0.5, "on": True}),
    "manager/20": lambda path: orbax_manager(path.parent, STANDARD),
    "manager/20/default": lambda path: orbax_manager(path.parents[1], STANDARD),
    "several/3/params": lambda path: orbax_manager(path.parents[1], SEVERAL),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_orbax_checkpoints_from_elsewhere(tmp_path, name):
    ELSEWHERE[name](tmp_path / name)
    loaded = checkpoint.load(tmp_path / name)
    np.testing.assert_array_equal(loaded["params"]["w"], A)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))


def test_orbax_keys_and_states_from_elsewhere(tmp_path):
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    orbax_save(tmp_path / "nnx", state)
    same(checkpoint.load(tmp_path / "nnx"), state)
    orbax_save(tmp_path / "key", {"rng": jax.random.key(5), "n": np.uint32([7])})
    loaded = checkpoint.load(tmp_path / "key")
    assert loaded["rng"] == jax.random.key(5)
    assert loaded["n"].dtype == np.uint32


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("steps", lambda path: orbax_manager(path, STANDARD), ["3, 20", "steps/20"]),
        ("prefix", lambda path: orbax_manager(path, STANDARD, step_prefix="net"), ["net_3, net_20"]),
        ("several/3", lambda path: orbax_manager(path.parent, SEVERAL), ["more", "3/params"]),
        ("words", lambda path: orbax_save(path, {"a": "b"}, orbax.PyTreeCheckpointHandler), ["'a'", "str"]),
        ("json", lambda path: orbax_save(path, {"a": 1}, orbax.JsonCheckpointHandler), ["holds", "metadata"]),
        ("folder", lambda path: path.mkdir(), ["holds nothing"]),
    ],
)
def test_what_holds_no_one_tree_is_told_from_damage(tmp_path, name, make, words):
    make(tmp_path / name)
    with says(InputError, name, *words) as caught:
        checkpoint.load(tmp_path / name)
    assert "damaged" not in str(caught.value)


def test_orbax_and_flax_read_what_is_saved(tmp_path):
    checkpoint.save(tmp_path / "one", tree_of())
    same(checkpoint._orbax().load(tmp_path / "one"), tree_of())


def test_a_run_folder_is_no_checkpoint_and_its_checkpoints_are_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    checkpoint.save(tmp_path / "checkpoints" / "network_0", {"params": {"a": np.zeros(2)}})
    with pytest.raises(InputError, match=r"folder of a run: give one of its checkpoints, .*where NAME is network_0"):
        checkpoint.load(tmp_path)
