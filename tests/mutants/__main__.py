"""Mutation testing: every fault of `tests/mutants/table.py` is put into a copy, and its tests are run there.

From the root of a checkout:

    python -m tests.mutants --only mcjax/symmetry --jobs 2

The suite is taken to be green; `--clean` runs the same tests without a fault, to see that it is. A mutant is killed if
a test fails or the time is over, and survives if all pass; any other exit of pytest is broken, to be examined.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from queue import SimpleQueue
from typing import NamedTuple

from tests.mutants.table import MUTANTS, Mutant

COPIED = ("mcjax", "experiments", "tests", "pyproject.toml", "README.md")
OUTCOMES = {0: "survived", 1: "killed"}
"""By pytest's exit code; any other is broken."""


class Found(NamedTuple):
    """Outcome of a mutant: killed, survived or broken, the seconds it took, and the end of pytest's output."""

    outcome: str
    seconds: float
    said: str = ""


def mirror(file: str) -> str:
    """The tests of a file, below tests/."""
    *folders, name = PurePosixPath(file).parts
    return "/".join([*(folders[1:] if folders[0] == "mcjax" else folders), f"test_{name}"])


def tests_of(mutant: Mutant, root: Path) -> list[str]:
    """The test files that are there; another checkout may have others."""
    names = [f"tests/{name}" for name in mutant.tests or (mirror(mutant.file),)]
    return [name for name in names if (root / name).is_file()]


def mutated(mutant: Mutant, root: Path) -> str:
    """The file with the fault in it. Raises ValueError or SyntaxError if the row does not apply to it."""
    path = root / mutant.file
    if not path.is_file():
        raise ValueError("there is no such file")
    source = path.read_text()
    if (count := source.count(mutant.text)) != 1:
        raise ValueError(f"its text is there {count} times, expected once")
    if not tests_of(mutant, root):
        raise ValueError(f"none of its tests is there: {', '.join(mutant.tests) or mirror(mutant.file)}")
    new = source.replace(mutant.text, mutant.replacement)
    compile(new, mutant.file, "exec")
    return new


def copy(root: Path, target: Path) -> None:
    """Copy the files that the tests need, without those that git ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *COPIED]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


class Bench:
    """A copy of the checkout, in which one mutant after another is tried."""

    def __init__(self, root: Path, folder: Path, cache: Path, timeout: float, slow: bool) -> None:
        self.folder, self.timeout, self.slow = folder, timeout, slow
        self.process: subprocess.Popen[str] | None = None
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            # A file that is changed twice within a second, at one length, would be taken for what was compiled of it.
            "PYTHONDONTWRITEBYTECODE": "1",
            # Most programs are the same from mutant to mutant.
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        copy(root, folder)
        self._check()

    def _check(self) -> None:
        """Check that tests import the copy, not what is installed."""
        code = "import experiments.study, mcjax; print(mcjax.__file__, experiments.study.__file__, sep='\\n')"
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, check=True, capture_output=True, text=True
        )
        for line in done.stdout.splitlines():
            if self.folder.resolve() not in Path(line).resolve().parents:
                raise SystemExit(f"tests in {self.folder} would import {line}, expected what lies there.")

    def tried(self, mutant: Mutant) -> Found:
        """One mutant, put in and taken out again."""
        path, began = self.folder / mutant.file, time.monotonic()
        before = path.read_text()
        path.write_text(mutated(mutant, self.folder))
        try:
            code, said = self._pytest(tests_of(mutant, self.folder))
        finally:
            path.write_text(before)
        seconds = time.monotonic() - began
        if code is None:
            return Found("killed", seconds, f"no end after {self.timeout:g} s")
        if code == 1:
            return Found("killed", seconds, ", ".join(re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)))
        return Found(OUTCOMES.get(code, "broken"), seconds, "" if code == 0 else f"pytest ended with {code}:\n{said}")

    def _pytest(self, files: list[str]) -> tuple[int | None, str]:
        """The exit code, None if the time is over, and what was written."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *files]
        command += ["-m", "slow or not slow"] if self.slow else []
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            said, _ = self.process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            return None, self.process.communicate()[0]
        return self.process.returncode, said

    def stop(self) -> None:
        """End the tests that are under way, and what they started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


@contextmanager
def benches(root: Path, count: int, timeout: float, slow: bool) -> Iterator[list[Bench]]:
    """As many copies, for as long as they are needed."""
    with tempfile.TemporaryDirectory(prefix="mutants_", ignore_cleanup_errors=True) as folder:
        cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path(folder, "cache"))
        made: list[Bench] = []
        try:
            for i in range(count):
                made.append(Bench(root, Path(folder, f"copy_{i}"), cache, timeout, slow))
            yield made
        finally:
            for bench in made:
                bench.stop()


def run(mutants: list[Mutant], root: Path, jobs: int, timeout: float, slow: bool) -> list[tuple[Mutant, Found]]:
    """All of them, `jobs` at a time, each said as it ends."""
    results = []
    with benches(root, min(jobs, len(mutants)), timeout, slow) as made:
        idle: SimpleQueue[Bench] = SimpleQueue()
        for bench in made:
            idle.put(bench)

        def one(mutant: Mutant) -> Found:
            bench = idle.get()
            try:
                return bench.tried(mutant)
            finally:
                idle.put(bench)

        pool = ThreadPoolExecutor(len(made))
        futures = {pool.submit(one, mutant): mutant for mutant in mutants}
        try:
            for future in as_completed(futures):
                results.append((futures[future], future.result()))
                say(*results[-1])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
    return results


def row(mutant: Mutant) -> str:
    """A mutant in one line."""
    text, new = (" ".join(part.split()) for part in (mutant.text, mutant.replacement))
    return f"{mutant.file}: {text} -> {new}" if new != text else f"{mutant.file}, as it is"


def say(mutant: Mutant, found: Found) -> None:
    """Print the outcome of a mutant."""
    by = f" [{found.said}]" if found.outcome == "killed" else ""
    print(f"{found.outcome:<8} {found.seconds:6.1f} s  {row(mutant)}{by}", flush=True)
    if found.outcome == "broken":
        print("\n".join(f"    {line}" for line in found.said.splitlines()[-20:]), flush=True)


def main() -> int:
    """Exit code 0 unless a row is broken or does not apply; with --clean, unless a test fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose file contains it")
    parser.add_argument("--slow", action="store_true", help="run slow tests as well, as `-m 'slow or not slow'` does")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--clean", action="store_true", help="run the same tests, once each, without any fault")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time (1)")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds that a mutant may take (600)")
    options = parser.parse_args()
    root = Path.cwd()
    if not (root / "mcjax" / "__init__.py").is_file():
        parser.error(f"there is no mcjax in {root}: run it from the root of a checkout.")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who reads may have seen enough
    # However this ends, so do the tests that are under way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.file]
    if options.jobs < 1 or not options.timeout > 0:
        parser.error(f"got --jobs {options.jobs}, --timeout {options.timeout:g}, expected positive ones.")
    if not chosen:
        parser.error(f"no row has a file with {options.only!r} in its name.")
    good, wrong = [], 0
    for mutant in chosen:
        try:
            mutated(mutant, root)
            good.append(mutant)
        except (ValueError, SyntaxError) as error:
            wrong += 1
            print(f"does not apply: {row(mutant)}: {error}", flush=True)
    if options.list:
        for mutant in good:
            print(f"{row(mutant)} [{' '.join(tests_of(mutant, root))}]")
    if options.list or not good:
        return 1 if wrong else 0
    if options.clean:
        once = {tuple(tests_of(mutant, root)): mutant for mutant in good}
        good = [mutant._replace(replacement=mutant.text) for mutant in once.values()]
    results = run(good, root, options.jobs, options.timeout, options.slow)
    counts = Counter(found.outcome for _, found in results)
    said = [f"{counts[outcome]} {outcome}" for outcome in ("killed", "survived", "broken")]
    print(", ".join([f"{len(results)} mutants", *said, f"{wrong} that do not apply"]))
    survivors = [mutant for mutant, found in results if found.outcome == "survived"]
    if survivors and not options.clean:
        print("Survivors:", *(f"  {row(mutant)}" for mutant in survivors), sep="\n")
    return 1 if wrong or counts["broken"] or (options.clean and counts["killed"]) else 0


if __name__ == "__main__":
    sys.exit(main())
