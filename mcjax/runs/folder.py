"""The folder of a run: config, metrics, results, figures and checkpoints, written atomically."""

import errno
import fcntl
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary, finalize

from mcjax.errors import InputError, RunError
from mcjax.runtime.machine import describe_machine
from mcjax.runtime.processes import on_first_process

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space there"),
    errno.ENOENT: "Put its folder back, which was moved or removed",
    errno.ELOOP: "Remove the link in its place, which leads elsewhere",
}


def remedy(error: Exception) -> str:
    """The remedy for a file that cannot be written."""
    number = getattr(error, "errno", None) or 0
    return f"{REMEDIES.get(number, 'Make it writable')}, or choose another folder with --out"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError into a RunError with the path and a remedy."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}. {remedy(error)}; "
            "all complete epochs are kept, and the same command resumes from them."
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, completely or not at all, and through no link. Raises RunError if writing fails."""
    with writing(path):
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)  # left by a run that was killed while writing
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)


def _through_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


class _Lock:
    """The lock of a run folder, which other processes see until it is let go of, or this process ends."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        finalize(self, os.close, descriptor)


_locks: WeakValueDictionary[tuple[int, int], _Lock] = WeakValueDictionary()
"""The locks of this process, which it shares with itself, by device and inode."""


def _lock(folder: Path) -> _Lock:
    path = folder / ".lock"
    with writing(path):
        lock = _Lock(_through_no_link(str(path), os.O_RDWR | os.O_CREAT))
    about = os.fstat(lock.descriptor)
    if (held := _locks.get((about.st_dev, about.st_ino))) is not None:
        return held
    try:
        fcntl.flock(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"{folder} is in use by another process: wait until it ends, or choose another folder with --out."
        ) from error
    except OSError:
        pass  # a file system without locks
    _locks[about.st_dev, about.st_ino] = lock
    return lock


class RunFolder:
    """The folder of one run: config.json, metrics.jsonl, results.json, figures/ and checkpoints/.

    `machines.jsonl` has one line for each machine and set of versions that worked on the run. Until the run is
    finished, the folder is this process's alone; a file system without locks cannot tell that another one uses it too.
    With several processes of one run, the first reads and writes it.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]) -> None:
        """Open a new folder, or that of an interrupted or finished run of the same config.

        Args:
            path: The folder.
            config: The configuration of the run, as JSON.

        Raises:
            InputError: If the folder holds a run of another config, or other files, or is in use by another process.
            RunError: If writing fails.
        """
        self.path = Path(path)
        self._lock: _Lock | None = None
        self._noted = False  # whether the machine is
        self._open(config)

    @on_first_process
    def _open(self, config: Mapping[str, Any]) -> None:
        check_utf8(self.path)
        text = json.dumps(config, indent=1, sort_keys=True)
        config_file = self.path / "config.json"
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: expected a folder. Choose another with --out.")
        if not config_file.exists() and self.path.exists() and any(p.name[0] != "." for p in self.path.iterdir()):
            raise InputError(
                f"{self.path} holds files, and no config.json: they are not from a run of mcjax, or it was lost. "
                "Put it back, or choose another folder with --out."
            )
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "results.json").exists():
            self._lock = _lock(self.path)
        if not config_file.exists():
            write_atomically(config_file, text.encode())
            return
        saved = read_json(config_file, "Put back what it was, or choose another folder with --out.")
        if found := list(differences(saved, json.loads(text))):
            other = "command" in saved and saved["command"] != config.get("command")
            what = f"of `mcjax {saved['command']}`" if other else "; ".join(found)
            raise InputError(
                f"{self.path} holds a run of another config ({what}). "
                "Choose another folder with --out, or delete this one."
            )

    @on_first_process
    def hold(self) -> None:
        """Make sure that this folder can be written to: called before all that writes there.

        Raises:
            InputError: If another process uses the folder of a finished run that is continued.
            RunError: If the folder was moved or emptied.
        """
        if not (self.path / "config.json").exists():
            raise RunError(
                f"{self.path} was moved or emptied while the run wrote to it: put back what it held, "
                "and the same command resumes from that."
            )
        self._lock = self._lock or _lock(self.path)

    @property
    @on_first_process
    def results(self) -> dict[str, Any] | None:
        """The results of a finished run, or None."""
        path = self.path / "results.json"
        return read_json(path) if path.exists() else None

    def report(self, tell: Callable[[dict[str, Any]], None]) -> None:
        """Call `tell` with the results of a finished run. Raises InputError if they are not those that it tells."""
        path, results = self.path / "results.json", self.results or {}
        try:
            tell(results)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} does not hold results of this command: {error!r}. {AGAIN}") from error

    @on_first_process
    def finish(self, results: Mapping[str, Any]) -> None:
        """Write results.json, which marks the run as finished, and let other processes use the folder."""
        self._note_machine()
        data = json.dumps(results, indent=1).encode()
        self.write("results.json", lambda file: file.write(data))
        (self.path / ".lock").unlink(missing_ok=True)
        self._lock = None

    @on_first_process
    def write(self, name: str, save: Callable[[BinaryIO], Any]) -> Path:
        """Write a file of the run, by a function that saves it to an open file, and return its path.

        Args:
            name: Its path in the folder, such as "figures/loss.png".
            save: Called with the open file.

        Raises:
            RunError: If writing fails.
        """
        self.hold()
        path, file = self.path / name, io.BytesIO()
        with writing(path):
            save(file)
            if path.parent != self.path:
                path.parent.mkdir(exist_ok=True)
                if path.parent.is_symlink():
                    raise OSError(errno.ELOOP, f"{path.parent} is a link")
        write_atomically(path, file.getvalue())
        return path

    def figure(self, name: str, figure: Any) -> Path:
        """Write a matplotlib figure as figures/NAME.png and return its path."""
        return self.write(f"figures/{name}.png", lambda file: figure.savefig(file, format="png"))

    def checkpoints(self, name: str) -> Path:
        """The folder of the checkpoints of one stage."""
        return self.path / "checkpoints" / name

    @on_first_process
    def log(self, stage: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        self._note_machine()
        self._append("metrics.jsonl", json.dumps({"stage": stage, "epoch": epoch, **metrics}))

    def _append(self, name: str, line: str) -> None:
        self.hold()
        with writing(self.path / name), open(self.path / name, "a", opener=_through_no_link) as file:
            file.write(line + "\n")

    def _note_machine(self) -> None:
        """Note the machine, unless it is noted: at the first step, since this starts the devices."""
        if self._noted:
            return
        path, line = self.path / "machines.jsonl", json.dumps(describe_machine())
        if line.encode() not in (_bytes(path).splitlines() if path.exists() else ()):
            self._append(path.name, line)
        self._noted = True

    @on_first_process
    def rewind(self, stage: str, epoch: int) -> None:
        """Remove the metrics of a stage after `epoch`, which a resumed run writes again."""
        self.hold()
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return

        def kept(line: bytes) -> bool:
            try:
                entry = json.loads(line)
                return entry["stage"] != stage or entry["epoch"] <= epoch
            except (ValueError, TypeError, LookupError):
                # The last line of a run that was killed while writing ends early; others are not the run's to remove.
                return line.endswith(b"\n")

        lines = [line for line in _bytes(path).splitlines(keepends=True) if kept(line)]
        write_atomically(path, b"".join(line.removesuffix(b"\n") + b"\n" for line in lines))


def check_utf8(path: Path) -> None:
    """Raise InputError unless the name of a folder of checkpoints is UTF-8, which Orbax needs."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path.absolute()} is not UTF-8, which the names of checkpoints must be: expected another name of "
            f"{error.object[error.start : error.end]!r}. Choose another folder with --out, or rename this one."
        ) from error


def _bytes(path: Path) -> bytes:
    with writing(path), open(path, "rb", opener=_through_no_link) as file:
        return file.read()


def differences(there: Any, now: Any, name: str = "") -> Iterator[str]:
    """The names of all parts of two JSON values that differ, with both values."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted({*there, *now}):
            yield from differences(there.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(there, list) and isinstance(now, list) and len(there) == len(now) and there != now:
        for i, (old, new) in enumerate(zip(there, now, strict=True)):
            yield from differences(old, new, f"{name}[{i}]")
    elif there != now and (texts := (json.dumps(there), json.dumps(now)))[0] != texts[1]:  # as NaN differs from itself
        # Where they differ must not be what is cut off.
        same = next((i for i, pair in enumerate(zip(*texts, strict=False)) if len(set(pair)) > 1), 0)
        start = max(0, same - 20) if max(map(len, texts)) > 80 else 0
        old, new = (f"{'...' * (start > 0)}{text[start:]}" for text in texts)
        old, new = (text if len(text) <= 80 else f"{text[:77]}..." for text in (old, new))
        yield f"{name}: {old} there, {new} now"


AGAIN = "Delete it, and the same command writes it again from what is kept; or choose another folder with --out."


def read_json(path: Path, advice: str = AGAIN) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError, with the advice, if it cannot be read or holds none."""
    try:
        read = json.loads(path.read_bytes())
        if not isinstance(read, dict):
            raise ValueError(f"it holds a {type(read).__name__}, expected a JSON object")
        return read
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}. {advice}") from error
