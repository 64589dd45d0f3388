"""The folder of a run: config, metrics, results, figures and checkpoints, written atomically."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcjax.errors import InputError, RunError
from mcjax.runtime.processes import on_first_process


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError into a RunError with the path and a remedy."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}. Free space there, or choose another folder with --out; "
            "all complete epochs are kept, and the same command resumes from them."
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, completely or not at all. Raises RunError if writing fails."""
    with writing(path):
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_bytes(data)
        os.replace(temporary, path)


class RunFolder:
    """The folder of one run: config.json, metrics.jsonl, results.json, figures/ and checkpoints/.

    With several processes, the first reads and writes it.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]) -> None:
        """Open a new folder, or that of an interrupted or finished run of the same config.

        Args:
            path: The folder.
            config: The configuration of the run, as JSON.

        Raises:
            InputError: If the folder holds a run of another config, or other files.
            RunError: If writing fails.
        """
        self.path = Path(path)
        self._open(config)

    @on_first_process
    def _open(self, config: Mapping[str, Any]) -> None:
        text = json.dumps(config, indent=1, sort_keys=True)
        given = json.loads(text)
        config_file = self.path / "config.json"
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: expected a folder. Choose another with --out.")
        if not config_file.exists() and self.path.exists() and any(p.name[0] != "." for p in self.path.iterdir()):
            raise InputError(
                f"{self.path} holds files that are not from a run of mcjax. Choose another folder with --out."
            )
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if config_file.exists():
            saved = read_json(config_file)
            if saved != given:
                keys = sorted(k for k in {*saved, *config} if saved.get(k) != given.get(k))
                both = ((k, _short(saved.get(k)), _short(given.get(k))) for k in keys)
                differences = "; ".join(f"{k}: {old} there, {new} now" for k, old, new in both)
                if "command" in keys:
                    differences = f"of `mcjax {saved.get('command')}`"
                raise InputError(
                    f"{self.path} holds a run of another config ({differences}). "
                    "Choose another folder with --out, or delete this one."
                )
        else:
            write_atomically(config_file, text.encode())

    @property
    @on_first_process
    def results(self) -> dict[str, Any] | None:
        """The results of a finished run, or None."""
        path = self.path / "results.json"
        return read_json(path) if path.exists() else None

    @on_first_process
    def finish(self, results: Mapping[str, Any]) -> None:
        """Write results.json, which marks the run as finished."""
        write_atomically(self.path / "results.json", json.dumps(results, indent=1).encode())

    @on_first_process
    def figure(self, name: str, figure: Any) -> Path:
        """Write a matplotlib figure as figures/NAME.png and return its path."""
        path = self.path / "figures" / f"{name}.png"
        temporary = path.with_name(f".{name}.new.png")
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            figure.savefig(temporary)
            os.replace(temporary, path)
        return path

    def checkpoints(self, name: str) -> Path:
        """The folder of the checkpoints of one stage."""
        return self.path / "checkpoints" / name

    @on_first_process
    def log(self, stage: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        line = json.dumps({"stage": stage, "epoch": epoch, **metrics})
        with writing(self.path / "metrics.jsonl"), open(self.path / "metrics.jsonl", "a") as file:
            file.write(line + "\n")

    @on_first_process
    def rewind(self, stage: str, epoch: int) -> None:
        """Remove the metrics of a stage after `epoch`, which a resumed run writes again."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed while writing
            if entry["stage"] != stage or entry["epoch"] <= epoch:
                kept.append(line + "\n")
        write_atomically(path, "".join(kept).encode())


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_json(path: Path, advice: str = "Delete it, or choose another folder with --out.") -> dict[str, Any]:
    """The JSON object in a file. Raises InputError, with the advice, if it cannot be read or holds none."""
    try:
        read = json.loads(path.read_bytes())
        if not isinstance(read, dict):
            raise ValueError(f"it holds a {type(read).__name__}, expected a JSON object")
        return read
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}. {advice}") from error
