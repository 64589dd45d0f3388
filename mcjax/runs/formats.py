"""Files of checkpoints, read as they are: Orbax folders of every kind, .npz and Flax msgpack, all without pickle."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError

OTHER_PROGRAMS = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".safetensors", ".h5", ".keras")
"""Endings of files that are read by other programs only."""


def read(path: Path) -> trees.Tree:
    """The tree at a path: numpy arrays and typed keys in nested dicts, and in lists where an Orbax checkpoint has them.

    Raises:
        InputError: If it is damaged, or is of another kind, or holds something else than one tree of arrays. The
            message says what it is.
    """
    if path.is_dir():
        tree = _orbax(path)
    elif path.suffix in OTHER_PROGRAMS:
        raise InputError(
            f"{path} cannot be read: mcjax reads no {path.suffix} files. In a program that reads it, write its arrays "
            "with numpy.savez(FILE.npz, **{name: array}), by names such as params/Dense_0/kernel."
        )
    else:
        tree = _read_npz(path) if path.suffix == ".npz" else _msgpack(path)
    return trees.map_with_name(lambda name, leaf: leaf if trees.is_key(leaf) else as_array(path, name, leaf), tree)


def as_array(path: Path, name: str, leaf: Any) -> np.ndarray:
    """A leaf as a numpy array. Raises InputError if it is not of numbers: the leaf `name` of the checkpoint `path`."""
    array = np.asarray(leaf)
    # bfloat16 and its like are of kind V, with a name of their own.
    if array.dtype.kind in "biufc" or (array.dtype.kind == "V" and array.dtype.isbuiltin == 2):
        return array
    got = type(leaf).__name__ if array.dtype.kind in "OUS" else str(array.dtype)
    raise InputError(f"leaf {name!r} of the checkpoint {path} is {got}, expected an array of numbers: leave it out.")


def damaged(path: Path, reason: Exception | str) -> InputError:
    """The error for a checkpoint that is damaged."""
    if isinstance(reason, Exception):
        line = (str(reason).strip().splitlines() or ["no detail"])[0]
        reason = f"{type(reason).__name__}: {line if len(line) <= 200 else line[:200] + '...'}"
    return InputError(f"the checkpoint {path} cannot be read: it is damaged or truncated ({reason}). Copy it again.")


def _npz(path: Path) -> trees.Tree:
    # Opened here, since numpy does not close a file that is not a zip archive.
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise InputError(f"{path} holds one array without a name: expected an .npz, which numpy.savez writes.")
        return trees.nest({name: _npy(path, name, file) for name in file.files})


def _read_npz(path: Path) -> trees.Tree:
    try:
        return _npz(path)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, BadZipFile, zlib.error) as error:
        raise damaged(path, error) from error


def _npy(path: Path, name: str, file: Any) -> np.ndarray:
    try:
        array = file[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise InputError(
                f"leaf {name!r} of {path} cannot be read: it holds Python objects, which only pickle reads. Write an "
                "array of numbers in its place."
            ) from error
        if "descr" not in str(error):
            raise
        raise _unnamed(path, name, "a dtype that numpy does not know") from error
    if array.dtype == "V2":  # what numpy makes of bfloat16
        return array.view(jnp.bfloat16)
    if array.dtype.kind == "V":
        raise _unnamed(path, name, f"dtype {array.dtype}")
    return array


def _unnamed(path: Path, name: str, what: str) -> InputError:
    return InputError(
        f"leaf {name!r} of {path} has {what}: .npz does not tell float8 and int4 apart. Save it with "
        "mcjax.checkpoint.save or Orbax, or in a dtype of numpy."
    )


def _msgpack(path: Path) -> trees.Tree:
    from flax import serialization

    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # broken files can raise any error
        raise InputError(
            f"{path} cannot be read: it is damaged, truncated or of another kind ({type(error).__name__}). Expected "
            "Flax msgpack, an .npz of leaves by name, or the folder of an Orbax checkpoint."
        ) from error
    if not isinstance(tree, dict):
        raise InputError(f"{path} is not of Flax msgpack: got {type(tree).__name__}, expected a dict of arrays.")
    return tree


def _orbax(path: Path) -> trees.Tree:
    import orbax.checkpoint as orbax

    where = _tree_in(path)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def target(leaf: Any) -> Any:
        # As numpy, since Orbax reads in threads, which do not see the caller's `jax.enable_x64`, and since the devices
        # that it was saved on need not be here. Typed keys are stored as uint32, and are keys as arrays of jax only.
        if isinstance(leaf, orbax.metadata.StringMetadata):
            return orbax.RestoreArgs()
        if leaf.dtype == np.uint32:
            return orbax.ArrayRestoreArgs(sharding=device)
        return orbax.RestoreArgs(restore_type=np.ndarray)

    try:
        handler = orbax.PyTreeCheckpointHandler()
        targets = jax.tree.map(target, handler.metadata(where).tree)
        tree = handler.restore(where, args=orbax.args.PyTreeRestore(restore_args=targets))
        return _unboxed(tree) if all(name.endswith("/value") for name in trees.flatten(tree)) else tree
    except Exception as error:  # broken files can raise any error
        raise damaged(path, error) from error


def _unboxed(tree: trees.Tree) -> trees.Tree:
    """The tree of an `nnx.State`, whose arrays lie in dicts {"value": array}."""
    if not isinstance(tree, dict):
        return tree
    return tree["value"] if tree.keys() == {"value"} else {key: _unboxed(part) for key, part in tree.items()}


def _tree_in(path: Path) -> Path:
    """The folder of the one tree in an Orbax checkpoint: itself, or its only item that is a tree."""

    def holds(test: Callable[[Path], bool]) -> list[Path]:
        return sorted((p for p in path.iterdir() if p.is_dir() and test(p)), key=lambda p: (len(p.name), p.name))

    def is_tree(folder: Path) -> bool:
        return (folder / "_METADATA").exists()

    if ".orbax-checkpoint-tmp" in path.name:
        raise damaged(path, "Orbax has not finished writing it")
    if is_tree(path) and (path / "checkpoint").is_dir():
        raise InputError(f"{path} holds one array without a name, expected networks: save them as {{'params': ...}}.")
    items = [path] if is_tree(path) else holds(is_tree)
    if len(items) == 1:
        return items[0]
    several = items or holds(lambda p: (p / "_CHECKPOINT_METADATA").exists() or any(map(is_tree, p.glob("*/"))))
    if several:
        kind = "trees" if items else "checkpoints"
        names = ", ".join(p.name for p in several)
        raise InputError(f"{path} holds the {kind} {names}: give one of them, such as {several[-1]}.")
    if any((path / part).exists() for part in ("manifest.ocdbt", "orbax.checkpoint", "state")):
        raise damaged(path, "there is no _METADATA of a tree in it")
    there = ", ".join(sorted(p.name for p in path.iterdir())) or "nothing"
    raise InputError(
        f"{path} cannot be read: it holds {there}, expected the Orbax checkpoint of a tree of arrays. It is "
        "truncated or of another kind."
    )
