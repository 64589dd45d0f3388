"""`mcjax report`: write a run as one HTML page that needs no internet connection."""

import json
from collections.abc import Mapping
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
        out = Path(self.out) if self.out is not None else folder / "report.html"
        run = read_run(folder)
        if out.is_dir() or not out.parent.is_dir():
            what = "a folder" if out.is_dir() else f"in {out.parent}, which is not a folder"
            raise InputError(f"got --out {out}, {what}: expected a file to write, in a folder that exists.")
        write_atomically(out, document(run).encode(errors="replace"))
        print(f"Written to {out}, a page to open in any browser.")


def read_run(folder: Path) -> Run:
    """Read the parts of a run folder that the page shows. Raises InputError if it is not one, or damaged."""
    if not folder.is_dir():
        raise InputError(f"no run at {folder}: expected a run folder, such as `mcjax quickstart` writes.")
    config = _read(folder / "config.json")
    if config is None:
        raise InputError(f"{folder} is not a run of mcjax: it has no config.json. Give the folder of a run.")
    results = _read(folder / "results.json")
    figures = []
    for path in sorted((folder / "figures").glob("*.png")):
        if not path.name.startswith("."):  # left by a run that was killed while writing
            figures.append(Figure(path.name, _bytes(path)))
    return Run(folder.resolve().name, config, results, _read(folder / "times.json"), _last_epochs(folder), figures)


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path, "Delete it, and run the command that wrote it again.") if path.exists() else None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}. Make it readable, or delete it."
        ) from error


def _last_epochs(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The last line of metrics.jsonl of every stage, in the order of the stages."""
    path = folder / "metrics.jsonl"
    last: dict[str, Mapping[str, Any]] = {}
    for line in _bytes(path).splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a partial line, of a run that was killed while writing
        if isinstance(entry, dict):
            last[str(entry.get("stage"))] = {key: value for key, value in entry.items() if key != "stage"}
    return last
