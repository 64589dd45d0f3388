"""What a long study has done so far, kept in its run folder, so that nothing is done twice.

Numbers are kept as JSON under parts/ and arrays as checkpoints with their fingerprints under parts/: a
study that goes on works from what is on disk, and so does one that never stopped. Seconds go to
times.json, beside the results and not into them: the results of two runs are equal, bit for bit.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.display import Display
from experiments.times import timed
from mcjax import trees
from mcjax.errors import InputError
from mcjax.runs import checkpoint
from mcjax.runs.folder import RunFolder, read_json, write_atomically, writing
from mcjax.runtime.processes import on_first_process


class Kept:
    """Parts of a study, each made once."""

    def __init__(self, run: RunFolder, display: Display) -> None:
        self.run, self.display = run, display
        self.known: dict[str, Any] = {}
        on_first_process(self._make_room)()

    def _make_room(self) -> None:
        with writing(self.run.path / "parts"):
            (self.run.path / "parts").mkdir(exist_ok=True)

    def numbers(self, name: str, make: Callable[[], Any]) -> Any:
        """What JSON holds of `make()`: made now, or read if it was made before."""
        if name not in self.known:
            path = self._part(name)
            if _there(path):
                self.display.skip(name)
            else:
                with self.timed(name):
                    _write(path, {"value": make()})
            self.known[name] = _read(path)["value"]
        return self.known[name]

    def arrays(self, name: str, make: Callable[[], trees.Tree]) -> trees.Tree:
        """The arrays of `make()`: made now, or read if they were made before.

        Raises InputError if they are gone, or are not what they were when other parts were made from them.
        """
        if name not in self.known:
            self.known[name] = self._arrays(name, make)
        return self.known[name]

    def _arrays(self, name: str, make: Callable[[], trees.Tree]) -> trees.Tree:
        path, where = self._part(name), self.run.checkpoints(name) / "result"
        if _there(path) and not _there(where):
            raise InputError(
                f"the checkpoint {where} is missing, and other parts of this study were made from it: "
                f"put it back, or delete {self.run.path} to begin anew."
            )
        if _there(where):
            self.display.skip(name)
        else:
            with self.timed(name):
                checkpoint.save(where, make())
        tree = checkpoint.load(where)
        mark = {"sha256": trees.fingerprint(tree)}
        if not _there(path):
            _write(path, mark)
        elif _read(path) != mark:
            raise InputError(
                f"the checkpoint {where} has changed since other parts of this study were made from it: "
                f"put back what it was, or delete {self.run.path} to begin anew."
            )
        return tree

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Show something as a stage, and add the seconds that it takes to times.json."""
        with timed(self.run, name), self.display.stage(name):
            yield

    def _part(self, name: str) -> Path:
        return self.run.path / "parts" / f"{name}.json"


@on_first_process
def _there(path: Path) -> bool:
    return path.exists()


@on_first_process
def _read(path: Path) -> Any:
    return read_json(path)


@on_first_process
def _write(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value).encode())
