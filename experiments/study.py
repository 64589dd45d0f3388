"""The machinery of the studies: parts that are made once, progress, tables, figures, and a page of it all.

A study of a paper is a `Study`: the names of its parts, a function that finds everything from them, and tables of what
was found. `run` does it in a run folder. Every part is kept there as soon as it is made, numbers as JSON under parts/
and arrays as checkpoints, so that the same command again resumes where it was stopped and ends with the same bits.
Seconds go to times.json, not into the results: the results of two runs on the same kind of device, with the same
versions and as many cores, are equal, bit for bit.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
import numpy as np
import tyro

from mcjax import Recorder, Task, TrainConfig, train_endpoints, trees
from mcjax.cli import guarded, leave
from mcjax.commands.options import open_run
from mcjax.errors import InputError
from mcjax.runs import checkpoint
from mcjax.runs.folder import AGAIN, RunFolder, read_json
from mcjax.runs.progress import Progress, duration
from mcjax.runs.tables import table
from mcjax.runtime.processes import is_first_process, on_first_process

Options = TypeVar("Options")

Column = tuple[str, Callable[[Any], str]]
"""The head of a column of a table, and the text of its cell as a function of the row."""


def tabulate(title: str, text: str, rows: Iterable[Any], *columns: Column) -> dict[str, Any]:
    """A table of a study, as `Study.tables` returns it.

    Args:
        title: the title.
        text: a paragraph below the title, or "".
        rows: one object a row.
        columns: the head of every column, and the text of its cell as a function of the row.
    """
    cells = [[cell(row) for _, cell in columns] for row in rows]
    return {"title": title, "text": text, "head": [head for head, _ in columns], "rows": cells}


class Drawing(NamedTuple):
    """A figure of a study: the name of its file, the matplotlib figure, and its caption."""

    name: str
    figure: Any
    caption: str


class Findings(NamedTuple):
    """Everything that a study finds.

    Attributes:
        results: the content of results.json, but for the page.
        figures: the figures, drawn one at a time as they are written.
        paths: metrics along paths, which the page draws itself.
        planes: metrics over planes, which the page draws itself.
    """

    results: dict[str, Any]
    figures: Iterable[Drawing]
    paths: Sequence[Mapping[str, Any]] = ()
    planes: Sequence[Mapping[str, Any]] = ()


class Study(NamedTuple):
    """The study of a paper.

    Attributes:
        name: the name of the package, and of the run folder.
        title: the title of the page.
        text: the paragraphs below it.
        parts: the names of all parts, as `Parts` keeps them.
        find: makes the parts, and finds everything from them.
        tables: the tables of the results: title, text, head and rows of text of each.
    """

    name: str
    title: str
    text: Sequence[str]
    parts: Sequence[str]
    find: Callable[["Parts"], Findings]
    tables: Callable[[Mapping[str, Any]], list[dict[str, Any]]]


def run(study: Study, config: Mapping[str, Any], out: str | None) -> None:
    """Run a study, resume it, or report what a finished run found.

    Args:
        study: the study.
        config: everything that the results depend on, as JSON; a folder of another config is refused.
        out: the run folder (None: runs/NAME-HASH, after the config).
    """
    folder = open_run(study.name, out, {**config, "out": None})
    if folder.results is None:
        parts = Parts(folder, [*study.parts, "figures"], study.name)
        try:
            found = study.find(parts)
            with parts.timed("figures"):
                figures = [
                    {"file": folder.figure(each.name, each.figure).name, "caption": each.caption}
                    for each in found.figures
                ]
        finally:
            parts.progress.close()
        page = {
            "title": study.title, "text": list(study.text), "tables": study.tables(found.results), "figures": figures,
            "paths": list(found.paths), "planes": list(found.planes),
        }  # fmt: skip
        folder.finish({**found.results, "page": page})
    folder.report(partial(_tell, study, folder.path))


def _tell(study: Study, path: Path, results: Mapping[str, Any]) -> None:
    if is_first_process():
        for each in study.tables(results):
            print(f"\n{each['title']}\n{table(each['head'], each['rows'])}")
        print(f"\nWritten to {path}; `mcjax report {path}` makes a page of it.")


def command(options: type[Options], main: Callable[[Options], None]) -> NoReturn:
    """Parse the command line of `python -m experiments.NAME`, run its `main`, and exit with its code."""
    module = sys.modules["__main__"]
    assert module.__spec__ is not None
    # That of a package is its __main__.py, which has no docstring.
    name, config = module.__spec__.name.removesuffix(".__main__"), (tyro.conf.OmitArgPrefixes,)
    text = sys.modules.get(name, module).__doc__
    leave(lambda: guarded(name.rpartition(".")[2], lambda: main(tyro.cli(options, description=text, config=config))))


class Parts:
    """The parts of a study in its run folder, each made once; `progress` counts them.

    A part that another one needs is made inside it, and its seconds are its own.
    """

    def __init__(self, folder: RunFolder, names: Sequence[str], title: str = "study") -> None:
        self.folder, self.prefix = folder, ""
        self.progress = Progress(title, len(names), unit="stage", warmup=False)
        self.known: dict[str, Any] = {}
        self.under_way: list[float] = []  # when each of the parts that are being made began
        self.began = time.monotonic()

    def under(self, prefix: str) -> "Parts":
        """The parts whose names begin with `prefix`, by the rest of their names."""
        inner = copy(self)
        inner.prefix = f"{self.prefix}{prefix}_"
        return inner

    def named(self, name: str) -> str:
        """The whole name of a part, which is that of its files."""
        return f"{self.prefix}{name}".replace(" ", "_")

    def numbers(self, name: str, make: Callable[[], Any]) -> Any:
        """The value of `make()` as JSON holds it, arrays as lists: made now, or read if it was made before."""
        name = self.named(name)
        if name not in self.known:
            path = self._file(name)
            if _exists(path):
                self.progress.skip()
            else:
                with self.timed(name):
                    self._write(name, {"value": make()})
            self.known[name] = _read(path, "value")
        return self.known[name]

    def arrays(self, name: str, make: Callable[[], trees.Tree]) -> trees.Tree:
        """The arrays of `make()`: made now, or read if they were made before.

        Raises:
            InputError: they are missing, or have changed since other parts were made from them.
        """
        name = self.named(name)
        if name not in self.known:
            self.known[name] = self._arrays(name, make)
        return self.known[name]

    def _arrays(self, name: str, make: Callable[[], trees.Tree]) -> trees.Tree:
        path, where = self._file(name), self.folder.checkpoints(name) / "result"
        if _exists(path) and not _exists(where):
            raise InputError(
                f"the checkpoint {where} is missing, and other parts of this study were made from it: "
                f"put it back, or delete {self.folder.path} to begin again."
            )
        if _exists(where):
            self.progress.skip()
        else:
            with self.timed(name):
                checkpoint.save(where, make())
        tree = checkpoint.load(where)
        mark = trees.fingerprint(tree)
        if not _exists(path):
            self._write(name, {"sha256": mark})
        elif _read(path, "sha256") != mark:
            raise InputError(
                f"the checkpoint {where} has changed since other parts of this study were made from it: "
                f"restore it, or delete {self.folder.path} to begin again."
            )
        return tree

    def trained(self, name: str, key: jax.Array, count: int, task: Task, config: TrainConfig) -> trees.Tree:
        """Networks of one task along a leading axis, trained side by side.

        Args:
            name: the name of the part.
            key: a typed key.
            count: the number of networks.
            task: what they are trained on.
            config: the settings of training.
        """

        def train() -> trees.Tree:
            keys = jax.random.split(key, count)
            return train_endpoints(keys, task, config, recorder=self.recorder(name)).theta

        return self.arrays(name, train)

    def recorder(self, name: str) -> Recorder:
        """The recorder of the fit that makes a part: it resumes, and shows its epochs in the study's line."""
        name = self.named(name)
        return Recorder(name, self.folder, name, self.progress)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Show a part as the stage under way, and add its seconds to times.json, also if it is interrupted."""
        stage = f"stage {self.progress.done + 1} of {self.progress.total}: {name}"
        times = [f"{duration(time.monotonic() - self.began)} so far", *self.progress.left()]
        self.progress.show(", ".join([stage, *times]), always=True)
        self.under_way.append(time.monotonic())
        try:
            yield
            self.progress.update(self.progress.done + 1, quiet=True)
        finally:
            seconds = time.monotonic() - self.under_way.pop()
            # Whatever contains this part begins so much later.
            self.under_way[:] = [began + seconds for began in self.under_way]
            _add_seconds(self.folder, name, seconds)

    def _file(self, name: str) -> Path:
        return self.folder.path / "parts" / f"{name}.json"

    def _write(self, name: str, value: Any) -> None:
        data = json.dumps(value, default=lambda array: np.asarray(array).tolist()).encode()
        self.folder.write(f"parts/{name}.json", lambda file: file.write(data))


_exists = on_first_process(Path.exists)


@on_first_process
def _read(path: Path, key: str) -> Any:
    read = read_json(path)
    if key not in read:
        raise InputError(f"{path} has no {key!r}. {AGAIN}")
    return read[key]


@on_first_process
def _add_seconds(folder: RunFolder, name: str, seconds: float) -> None:
    path = folder.path / "times.json"
    try:
        stages = {each["name"]: each["seconds"] for each in read_json(path)["stages"]} if path.exists() else {}
        stages[name] = round(stages.get(name, 0.0) + seconds, 1)
    except (LookupError, TypeError) as error:
        raise InputError(f"{path} does not hold the seconds of parts: {error!r}. {AGAIN}") from error
    listed = [{"name": stage, "seconds": taken} for stage, taken in stages.items()]
    data = json.dumps({"stages": listed}, indent=1).encode()
    folder.write("times.json", lambda file: file.write(data))
