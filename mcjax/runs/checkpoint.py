"""Checkpoints of pytrees: Orbax folders, .npz and Flax msgpack files, all read without pickle."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import trees
from mcjax.errors import InputError, RunError
from mcjax.runtime.processes import many_processes, on_first_process


def _orbax() -> ModuleType:
    # Imported here, since it takes a second. Version 1 is still experimental in some releases.
    try:
        from orbax.checkpoint import v1
    except ImportError:
        from orbax.checkpoint.experimental import v1
    return v1


def save(path: str | Path, tree: trees.Tree, about: dict[str, Any] | None = None) -> None:
    """Write a pytree of arrays as one Orbax checkpoint, atomically; it replaces the previous one.

    Arrays keep their dtypes, typed keys among them. Several processes must all call this, with the same path on a
    shared disk; the first writes.

    Args:
        path: The folder of the checkpoint.
        tree: Arrays in nested dicts.
        about: JSON to save with them, for `describe`.

    Raises:
        RunError: If writing fails.
    """
    path = Path(path).absolute()
    leaves = {name: np.asarray(leaf) for name, leaf in trees.flatten(trees.without_keys(tree)).items()}
    keys = {name: str(jax.random.key_impl(leaf)) for name, leaf in trees.flatten(tree).items() if trees.is_key(leaf)}
    about = {"about": json.dumps(about or {}), "keys": json.dumps(keys)}
    ahead, behind = (path.with_name(f".{path.name}.{which}") for which in ("new", "old"))
    try:
        _make_room(path, ahead, behind)
        # All processes call Orbax, which synchronises them, even though only one writes.
        _orbax().save(ahead, trees.nest(leaves), custom_metadata=about)
        _move_in(path, ahead, behind)
    except (OSError, ValueError) as error:
        raise RunError(
            f"cannot write the checkpoint {path}: {error}. Free space there, or choose another folder; "
            "the previous checkpoint is kept."
        ) from error


@on_first_process
def _make_room(path: Path, ahead: Path, behind: Path) -> None:
    recover(path)
    for leftover in (ahead, behind):
        if leftover.exists():
            shutil.rmtree(leftover)
    path.parent.mkdir(parents=True, exist_ok=True)


@on_first_process
def _move_in(path: Path, ahead: Path, behind: Path) -> None:
    try:
        if path.exists():
            os.replace(path, behind)
        os.replace(ahead, path)
    except BaseException:
        recover(path)
        raise
    shutil.rmtree(behind, ignore_errors=True)


@on_first_process
def recover(path: Path) -> None:
    """Restore the previous checkpoint, if saving was interrupted while the new one replaced it."""
    behind = path.with_name(f".{path.name}.old")
    if behind.exists() and not path.exists():
        os.replace(behind, path)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no detail"]
    return f"{type(error).__name__}: {lines[0] if len(lines[0]) <= 200 else lines[0][:200] + '...'}"


def load(path: str | Path) -> trees.Tree:
    """Read a checkpoint: an Orbax folder, an `.npz` of leaves by name, or a Flax msgpack file.

    Arrays have the dtypes that they were saved in; jax has float64 only under `jax.enable_x64`.

    Raises:
        InputError: If there is no checkpoint, or it is truncated or of another format.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise InputError(f"no checkpoint at {path}: nothing is there.")
    if (path / "config.json").exists():
        inside = sorted(p.name for p in (path / "checkpoints").glob("*"))
        raise InputError(
            f"{path} is the folder of a run: give one of its checkpoints, {path}/checkpoints/NAME, "
            f"where NAME is {', '.join(inside) or 'not there yet'}."
        )
    try:
        if path.is_dir():
            return _load_orbax(path)
        if path.suffix == ".npz":
            # Opened here, since numpy does not close a file that is not a zip archive.
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                return trees.nest({name: jnp.asarray(file[name]) for name in file.files})
        from flax import serialization

        return jax.tree.map(jnp.asarray, serialization.msgpack_restore(path.read_bytes()))
    except Exception as error:  # broken files can raise any error
        raise InputError(
            f"the checkpoint {path} cannot be read: it is truncated or of another kind ({_reason(error)}). Expected "
            "an Orbax folder, an .npz of leaves by name, or Flax msgpack. Copy it again if it is damaged."
        ) from error


def _load_orbax(path: Path) -> trees.Tree:
    orbax = _orbax()
    with _alone():
        metadata = orbax.metadata(path)
        # As numpy, since Orbax reads in threads, which do not see the caller's `jax.enable_x64`.
        target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata.metadata)
        # Uncommitted arrays, like computed ones, so that compiled programs are reused.
        tree = jax.tree.map(jnp.asarray, orbax.load(path, target))
    keys = json.loads((metadata.custom_metadata or {}).get("keys", "{}"))

    def typed(name: str, leaf: jax.Array) -> jax.Array:
        return jax.random.wrap_key_data(leaf, impl=keys[name]) if name in keys else leaf

    return trees.map_with_name(typed, tree)


@contextmanager
def _alone() -> Iterator[None]:
    """A context in which each process reads for itself, without synchronisation by Orbax.

    All processes must read: Orbax counts its operations, and a process with another count would block the next one.
    """
    if not many_processes():
        yield
        return
    context = _orbax().Context()
    here = jax.process_index()
    context.multiprocessing.primary_host, context.multiprocessing.active_processes = here, {here}
    with context:
        yield


def describe(path: str | Path) -> dict[str, Any]:
    """The JSON that `save` wrote with a checkpoint; an empty dict for other checkpoints."""
    path = Path(path).absolute()
    if not path.is_dir():
        return {}
    try:
        with _alone():
            metadata = _orbax().metadata(path).custom_metadata or {}
        return json.loads(metadata.get("about", "{}"))
    except Exception as error:  # as in load
        raise InputError(
            f"the checkpoint {path} cannot be read: it is truncated or of another kind ({_reason(error)}). "
            "Copy it again if it is damaged."
        ) from error


def is_checkpoint(path: str | Path) -> bool:
    """Whether an Orbax checkpoint, or a file, is at this path."""
    path = Path(path).absolute()
    return path.is_file() or (path / "_CHECKPOINT_METADATA").exists()
