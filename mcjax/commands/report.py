"""`mcjax report`: write a run as one HTML page that needs no internet connection."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from mcjax.commands.page.page import Figure, Run, document
from mcjax.errors import InputError
from mcjax.runs.folder import read_json, write_atomically


@dataclass(frozen=True)
class Report:
    """Write the configuration and results of a run as one HTML page, which needs no internet connection."""

    target: tyro.conf.Positional[str]
    """Run folder of any command, finished or not."""
    out: str | None = None
    """File to write (None: report.html in the run folder)."""

    def run(self) -> None:
        """Write the page, or overwrite it; the same run gives the same bytes."""
        folder = Path(self.target)
        # A link that is given as --out is followed, one in the run folder is replaced.
        out = Path(self.out).resolve() if self.out is not None else folder / "report.html"
        run = read_run(folder)
        if (out.exists() and not out.is_file()) or not out.parent.is_dir():
            what = "no file" if out.exists() else f"in {out.parent}, which is not a folder"
            raise InputError(f"got --out {out}, {what}: expected a file to write, in a folder that exists.")
        write_atomically(out, document(run).encode(errors="replace"))
        print(f"Written to {out}, a page to open in any browser.")


def read_run(folder: Path) -> Run:
    """Read the parts of a run folder that the page shows. Raises InputError if it is not one, or damaged."""
    if not folder.is_dir():
        raise InputError(f"no run at {folder}: expected a run folder, such as `mcjax quickstart` writes.")
    config = _read(folder, "config.json")
    if config is None:
        raise InputError(f"{folder} is not a run of mcjax: it has no config.json. Give the folder of a run.")
    results = _read(folder, "results.json")
    figures = []
    for path in sorted((folder / "figures").glob("*.png")):
        if not path.name.startswith("."):  # left by a run that was killed while writing
            figures.append(Figure(path.name, _bytes(folder, path)))
    times, machines = _read(folder, "times.json"), _lines(folder, "machines.jsonl")
    return Run(folder.resolve().name, config, results, times, machines, _last_epochs(folder), figures)


def _read(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / name
    if not path.exists():
        return None
    _check_inside(folder, path)
    return read_json(path, "Delete it, and run the command that wrote it again.")


def _check_inside(folder: Path, path: Path) -> None:
    # A page that is passed on must not hold other files of this machine.
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} is a link to {path.resolve()}, outside of the run: put the file itself there.")


def _bytes(folder: Path, path: Path) -> bytes:
    _check_inside(folder, path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}. Make it readable, or delete it."
        ) from error


def _lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """The JSON objects in the lines of a file, without partial lines, of a run that was killed while writing."""
    path, found = folder / name, []
    for line in _bytes(folder, path).splitlines() if path.exists() else []:
        with suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [each for each in found if isinstance(each, dict)]


def _last_epochs(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The last line of metrics.jsonl of every stage, in the order of the stages."""
    lines = _lines(folder, "metrics.jsonl")
    return {str(line.get("stage")): {key: value for key, value in line.items() if key != "stage"} for line in lines}
