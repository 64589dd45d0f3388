"""Every moment of a run: what is on the disk before any line, and half-way through a file."""

import json
import sys

import numpy as np

from mcjax import trees
from mcjax.runs import checkpoint, formats


class Npz:
    """In place of Orbax, a hundredth of its time: a checkpoint is a folder with an .npz and the metadata."""

    @staticmethod
    def take_its_place(monkeypatch):
        monkeypatch.setattr(checkpoint, "_orbax", lambda: Npz)
        monkeypatch.setattr(checkpoint, "read", lambda path: formats.read(path / "leaves.npz"))

    @staticmethod
    def save(path, tree, custom_metadata):
        path.mkdir()
        np.savez(path / "leaves.npz", **trees.flatten(tree))
        (path / "_CHECKPOINT_METADATA").write_text(json.dumps({"custom_metadata": custom_metadata}))


def contents(folder, hidden=False):
    """Every file of a folder, by its path, as bytes; its folders are None."""
    paths = [path for path in sorted(folder.rglob("*")) if hidden or "/." not in str(path.relative_to(folder.parent))]
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in paths}


def put(folder, files):
    """A folder with such contents."""
    for name, content in {"": None, **files}.items():
        (folder / name).mkdir(parents=True) if content is None else (folder / name).write_bytes(content)


def at_every_line(call, moment, *modules):
    """Call `moment` before every line that `call` runs in these modules."""
    files = {module.__file__ for module in modules}

    def trace(frame, event, _):
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            moment()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return call()
    finally:
        sys.settrace(before)


def half_written(before, after):
    """Contents of a folder while a file is written in place: half of what is new in it."""
    for name, new in after.items():
        old = before.get(name) or b""
        if new and new != old and (name == "metrics.jsonl" or ".new" in name):
            grown = len(old) if new.startswith(old) else 0
            yield {**after, name: new[: grown + (len(new) - grown) // 2]}


def metrics_of(folder):
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
