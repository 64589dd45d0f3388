"""`mcjax report`: one page of a run, that opens without a network."""

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
    """Write what a run did and found as one HTML page, which opens in any browser without a network."""

    target: tyro.conf.Positional[str]
    """Run folder of any command, finished or not."""
    out: str | None = None
    """File to write (None: report.html in the run folder)."""

    def run(self) -> None:
        """Do it, again if it was done before: the same run gives the same bytes."""
        folder = Path(self.target)
        out = Path(self.out) if self.out is not None else folder / "report.html"
        run = read_run(folder)
        if out.is_dir() or not out.parent.is_dir():
            what = "a folder" if out.is_dir() else f"in {out.parent}, which is no folder"
            raise InputError(f"got --out {out}, {what}: expected a file to write, in a folder that exists.")
        write_atomically(out, document(run).encode(errors="replace"))
        print(f"Written to {out}, a page to open in any browser.")


def read_run(folder: Path) -> Run:
    """What the page shows of a run folder, which is only read. Raises InputError if it is none, or damaged."""
    if not folder.is_dir():
        raise InputError(f"no run at {folder}: expected a run folder, such as `mcjax quickstart` writes.")
    config = _read(folder / "config.json")
    if config is None:
        raise InputError(f"{folder} is no run of mcjax: it holds no config.json. Give the folder of a run.")
    results = _read(folder / "results.json")
    figures = []
    for path in sorted((folder / "figures").glob("*.png")):
        if not path.name.startswith("."):  # what was being written when a run was killed
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
            continue  # the last line of a run that was killed while it wrote
        if isinstance(entry, dict):
            last[str(entry.get("stage"))] = {key: value for key, value in entry.items() if key != "stage"}
    return last
