"""`python -m tests.golden [NAMES]`: make golden results again, write them, and say what changed (git has what was)."""

import argparse
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import conftest  # noqa: F401  (what pytest sets, before jax starts)

from golden.cases import CASES
from golden.store import FOLDER, compare, entries, machine, path, read, write


def main(patterns: list[str]) -> None:
    """Make the cases that fit one of the patterns, or all."""
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in CASES):
            parser.error(f"no case fits {pattern!r}, expected some of {', '.join(CASES)}.")
    chosen = [name for name in CASES if not patterns or any(fnmatch(name, pattern) for pattern in patterns)]
    for name in chosen:
        start = time.process_time()
        found = entries(CASES[name]())
        spent = time.process_time() - start
        made_on, kept = read(name) if path(name).exists() else ({}, {})
        lines = compare(found, kept, exact=True)
        if lines or made_on != machine():
            write(name, found)
        said = f"{len(lines)} of {len(found)} changed, written" if kept else "new"
        if lines and kept and made_on != machine():
            said += "; what was there is of another machine, whose last digits differ"
        if not lines:
            said = "the same" if made_on == machine() else "the same, made by another machine"
        print(f"{name}: {said} ({spent:.1f} s, {path(name).stat().st_size} bytes)", flush=True)
        if kept:
            print("".join(f"    {line}\n" for line in lines), end="", flush=True)
    for file in [] if patterns else FOLDER.glob("*.json"):
        if file.stem not in CASES:
            file.unlink()
            print(f"{file.stem}: no such case, removed")


parser = argparse.ArgumentParser("python -m tests.golden", description=__doc__)
parser.add_argument("names", nargs="*", help="cases, or patterns as of files: 'study_*' (default: all)")
main(parser.parse_args().names)
