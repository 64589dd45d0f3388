"""Checkpoints of pytrees: Orbax folders with a checksum; those of others, .npz and Flax msgpack are read too."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from mcjax import trees
from mcjax.errors import InputError, InputWarning, RunError
from mcjax.runs.folder import check_utf8, remedy
from mcjax.runs.formats import as_array, damaged, read
from mcjax.runtime.processes import is_first_process, on_first_process

_AS_BYTES = ("uint2", "uint4", "float8_e4m3")
"""Dtypes that Orbax does not store."""
_CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "FrozenDict": FrozenDict}
_SHA256, _STRUCTURE = "mcjax.sha256", "mcjax.structure"


def _orbax() -> ModuleType:
    # Imported here, since it takes a second. Version 1 is still experimental in some releases.
    try:
        from orbax.checkpoint import v1
    except ImportError:
        from orbax.checkpoint.experimental import v1
    return v1


def save(path: str | Path, tree: trees.Tree, about: dict[str, Any] | None = None) -> None:
    """Write a pytree of arrays as one Orbax checkpoint, atomically; it replaces the previous one.

    Its metadata has a checksum and the containers, so that `load` returns the same tree: dicts, FrozenDicts, lists,
    tuples and None are kept, and other containers, such as named tuples, become dicts whose leaves have the same names.
    Arrays keep their dtypes, typed keys among them; numbers become arrays. Orbax itself reads nested dicts. Several
    processes must all call this, with the same path on a shared disk; the first writes.

    Args:
        path: The folder of the checkpoint.
        tree: Any pytree of arrays and numbers.
        about: JSON to save with them, for `describe`.

    Raises:
        InputError: If something else than a checkpoint is there, a leaf is not of numbers, or two leaves have one name.
        RunError: If writing fails.
    """
    path = Path(path).absolute()
    if path.is_symlink() or (
        path.exists() and not is_checkpoint_folder(path) and (path.is_file() or any(path.iterdir()))
    ):
        raise InputError(f"{path} is there, and no checkpoint: got a place of other files, expected a new one.")
    arrays = trees.map_with_name(partial(as_array, path), trees.without_keys(tree))
    keys = {name: str(jax.random.key_impl(leaf)) for name, leaf in trees.flatten(tree).items() if trees.is_key(leaf)}
    parts = {"about": about or {}, "keys": keys, _STRUCTURE: _structure(arrays)}
    record, nested = {name: json.dumps(part) for name, part in parts.items()}, _nested(path, arrays)
    record[_SHA256] = _checksum(record, nested)
    ahead, behind = (path.with_name(f".{path.name}.{which}") for which in ("new", "old"))
    try:
        _make_room(path, ahead, behind)
        # All processes call Orbax, which synchronises them, even though only one writes.
        _orbax().save(ahead, nested, custom_metadata=record)
        _move_in(path, ahead, behind)
    except (OSError, ValueError) as error:
        raise RunError(
            f"cannot write the checkpoint {path}: {error}. {remedy(error)}; the previous checkpoint is kept."
        ) from error


def _nested(path: Path, arrays: trees.Tree) -> dict[str, Any]:
    """The tree that Orbax stores: nested dicts of the arrays, without those of size zero, and never empty."""
    nested: dict[str, Any] = {}
    names: dict[str, str] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        name = trees.path_name(keys)
        # Orbax joins keys by dots.
        if names.setdefault(name.replace("/", "."), name) != name:
            other = names[name.replace("/", ".")]
            raise InputError(f"cannot save {path}: leaves {other!r} and {name!r} have one name. Rename one of them.")
        *parents, last = trees.path_keys(keys) or [""]
        if leaf.size:
            node = nested
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = leaf.view(np.uint8) if leaf.dtype.name in _AS_BYTES else leaf
    return nested or {"nothing": np.zeros(1, np.uint8)}


def _structure(tree: trees.Tree) -> Any:
    """The containers of a tree of arrays, as JSON: None, [dtype, shape] of an array, or {kind: [[key, tree], ...]}."""
    if tree is None:
        return None
    if isinstance(tree, np.ndarray):
        return [tree.dtype.name, tree.shape]
    children = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: node is not tree)
    if len(children) == 1 and trees.is_box(children[0][0]):
        return _structure(children[0][1])
    kind = next((name for name, container in _CONTAINERS.items() if type(tree) is container), "dict")
    parts = [(getattr(key, "key", trees.path_name((key,))), child) for (key,), child in children]
    named = [(key if isinstance(key, str | int | float) else str(key), _structure(child)) for key, child in parts]
    return {kind: named}


def _restored(structure: Any, leaves: Mapping[str, Any], *path: str) -> trees.Tree:
    """The inverse of `_structure`, with the leaves by name."""
    if structure is None:
        return None
    if isinstance(structure, list):
        dtype, shape = jnp.dtype(structure[0]), structure[1]
        return leaves["/".join(path)].view(dtype) if 0 not in shape else np.zeros(shape, dtype)
    ((kind, parts),) = structure.items()
    tree = {key: _restored(part, leaves, *path, str(key)) for key, part in parts}
    return _CONTAINERS.get(kind, dict)(tree.values() if kind in ("list", "tuple") else tree)


def _checksum(record: Mapping[str, str], nested: trees.Tree) -> str:
    """The sha256 of all that a checkpoint holds."""
    parts = [record.get(name) for name in ("about", "keys", _STRUCTURE)]
    return hashlib.sha256(json.dumps([*parts, trees.fingerprint(nested)]).encode()).hexdigest()


@on_first_process
def _make_room(path: Path, ahead: Path, behind: Path) -> None:
    recover(path)
    for leftover in (ahead, behind):
        if leftover.is_symlink():
            leftover.unlink()
        elif leftover.exists():
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


def load(path: str | Path) -> trees.Tree:
    """Read a checkpoint: an Orbax folder, an `.npz` of leaves by name, or a Flax msgpack file.

    What `save` wrote is compared with its checksum, and an `.npz` has checksums of its own. Arrays have the dtypes that
    they were saved in; jax has float64 and int64 only under `jax.enable_x64`.

    Raises:
        InputError: If there is no checkpoint, or it is damaged or of another format, or holds what is no array.

    Warns:
        InputWarning: If it has no checksum, so that damage to it is not noticed.
    """
    path = Path(path).absolute()
    if path.is_dir():
        check_utf8(path)
    if not path.exists():
        raise InputError(f"no checkpoint at {path}: nothing is there.")
    if (path / "config.json").exists():
        inside = sorted(p.name for p in (path / "checkpoints").glob("*"))
        raise InputError(
            f"{path} is the folder of a run: give one of its checkpoints, {path}/checkpoints/NAME, "
            f"where NAME is {', '.join(inside) or 'not there yet'}."
        )
    record, tree = _record(path), read(path)
    if _SHA256 in record:
        if record[_SHA256] != _checksum(record, tree):
            raise damaged(path, "its content is not that of its checksum")
        tree = _restored(json.loads(record[_STRUCTURE]), trees.flatten(tree))
    elif path.suffix != ".npz" and is_first_process():
        note = f"{path} has no checksum of mcjax: damage to it would not be noticed."
        warnings.warn(note, InputWarning, stacklevel=2)
    keys = json.loads(record.get("keys", "{}"))

    def on_device(name: str, leaf: Any) -> jax.Array:
        if trees.is_key(leaf):
            return leaf
        array = jnp.asarray(leaf)
        if leaf.dtype.kind in "iu" and array.dtype != leaf.dtype and (np.asarray(array) != leaf).any():
            raise InputError(f"leaf {name!r} of {path} has integers beyond {array.dtype}: read it in jax.enable_x64.")
        return jax.random.wrap_key_data(array, impl=keys[name]) if name in keys else array

    # Uncommitted arrays, like computed ones, so that compiled programs are reused.
    return trees.map_with_name(on_device, tree)


def _record(path: Path) -> dict[str, str]:
    """The metadata that `save` wrote with a checkpoint; an empty dict for other checkpoints."""
    metadata = path / "_CHECKPOINT_METADATA"
    if not metadata.exists():
        if (path / "orbax.checkpoint").exists():
            raise damaged(path, f"there is no {metadata.name} in it")
        return {}
    try:
        text = metadata.read_text()
        record = json.loads(text).get("custom_metadata") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise damaged(path, error) from error
    if "mcjax." in text and _SHA256 not in record:
        raise damaged(path, f"{metadata.name} is not whole")
    return record if _SHA256 in record or "keys" in record else {}


def describe(path: str | Path) -> dict[str, Any]:
    """The JSON that `save` wrote with a checkpoint; an empty dict for other checkpoints."""
    path = Path(path).absolute()
    try:
        return json.loads(_record(path).get("about", "{}"))
    except ValueError as error:
        raise error if isinstance(error, InputError) else damaged(path, error) from error


def is_checkpoint(path: str | Path) -> bool:
    """Whether an Orbax checkpoint, or a file, is at this path."""
    path = Path(path).absolute()
    return path.is_file() or is_checkpoint_folder(path)


def is_checkpoint_folder(path: Path) -> bool:
    """Whether a folder is an Orbax checkpoint."""
    return (path / "_CHECKPOINT_METADATA").exists()
