"""Golden results as files: one a case, compared to the last bit where they were made and to 1e-5 elsewhere."""

import json
import math
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from machine import processor

from mcjax.runtime.target import target

FOLDER = Path(__file__).parent / "results"
LONGEST = {"f": 12, "i": 60, "u": 60, "b": 60}
"""Longer arrays, by the kind of their numbers, are kept as a digest."""
FIRST = 3
"""Number of leading entries in a digest."""
TOLERANCE = 1e-5
"""Relative tolerance, of a number and of the largest number in its array."""
FLOOR = {"float32": 1e-6}
"""Absolute tolerance by dtype: a few last bits of numbers of order one, as in the difference of two losses."""
HERE = "here/"
"""Prefix of results that are compared only on the machine that made them: iterations, residuals, rounding."""


class Entry(NamedTuple):
    """One array: all of its numbers in order, or their digest. dtype: of numpy; text is `str`."""

    dtype: str
    shape: tuple[int, ...]
    values: list[Any]
    digest: bool = False


Entries = dict[str, Entry]


def machine() -> dict[str, str]:
    """Everything that decides the last bits of a number."""
    packages = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy", "scipy")}
    model, instructions = processor()
    return {
        "processor": model,
        "instructions": instructions,
        "devices": f"{jax.device_count()} {target()}",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        **packages,
    }


def entries(results: Any) -> Entries:
    """The results of a case, arrays and numbers in any pytree, by name."""
    found = jax.tree_util.tree_leaves_with_path(results)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): entry(leaf) for path, leaf in found}


def entry(leaf: Any) -> Entry:
    """One array."""
    array = np.asarray(leaf)
    if array.dtype.kind == "U":
        return Entry("str", array.shape, array.ravel().tolist())
    if array.size <= LONGEST[array.dtype.kind]:
        return Entry(array.dtype.name, array.shape, [_number(value) for value in array.ravel()])
    return Entry(array.dtype.name, array.shape, digest(array), True)


def _number(value: np.generic) -> Any:
    """A Python number that is written with as few digits as tell it from others of its dtype."""
    if not isinstance(value, np.floating):
        return value.item()
    number = float(str(value))
    assert np.isnan(value) or value.dtype.type(number) == value
    return number


def digest(array: np.ndarray) -> list[float]:
    """The norm, the sum, the product with fixed numbers in [-1, 1), and the first entries. Sums are exact."""
    numbers = array.ravel().astype(np.float64)
    assert np.isfinite(numbers).all(), "a digest is of finite numbers"
    fixed = np.arange(1, numbers.size + 1, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**32) / 2**31 - 1
    norm = math.sqrt(math.fsum(numbers * numbers))
    return [norm, math.fsum(numbers), math.fsum(numbers * fixed), *numbers[:FIRST].tolist()]


def write(name: str, found: Entries) -> None:
    """Keep the results of a case, and where they were made; a line for each array."""
    lines = [f"{json.dumps(key)}: {json.dumps(_as_json(each))}" for key, each in found.items()]
    body = ",\n  ".join(lines)
    text = f'{{\n"machine": {json.dumps(machine())},\n"results": {{\n  {body}\n}}\n}}\n'
    path(name).write_text(text)


def _as_json(each: Entry) -> dict[str, Any]:
    return {"dtype": each.dtype, "shape": each.shape, "digest" if each.digest else "values": each.values}


def read(name: str) -> tuple[dict[str, str], Entries]:
    """The machine that made the results of a case, and the results."""
    kept = json.loads(path(name).read_text())
    found = {}
    for key, each in kept["results"].items():
        of = "digest" if "digest" in each else "values"
        found[key] = Entry(each["dtype"], tuple(each["shape"]), each[of], of == "digest")
    return kept["machine"], found


def path(name: str) -> Path:
    """The file of a case."""
    return FOLDER / f"{name}.json"


def compare(found: Entries, kept: Entries, exact: bool) -> list[str]:
    """A line for everything that is another: to the last bit, or beyond TOLERANCE."""
    lines = []
    for name in [*kept, *(name for name in found if name not in kept)]:
        if not exact and name.startswith(HERE):
            continue
        if name not in found or name not in kept:
            lines.append(f"{name}: {'gone' if name in kept else 'new'}")
        elif said := _difference(found[name], kept[name], exact):
            lines.append(f"{name}: {said}")
    return lines


def _difference(found: Entry, kept: Entry, exact: bool) -> str:
    """How two arrays differ; nothing if they do not."""
    if (found.dtype, found.shape) != (kept.dtype, kept.shape):
        return f"{found.dtype} {found.shape} instead of {kept.dtype} {kept.shape}"
    if not kept.dtype.startswith("float"):
        return "" if found.values == kept.values else f"{_shown(found)} instead of {_shown(kept)}"
    new, old = np.array(found.values, np.float64), np.array(kept.values, np.float64)
    differs = ~((new == old) | (np.isnan(new) & np.isnan(old)))
    if not differs.any():
        return ""
    with np.errstate(invalid="ignore"):
        apart = np.abs(new - old)
        scale = np.abs(old)[np.isfinite(old)].max(initial=0.0)
        beyond = differs & ~(apart <= TOLERANCE * (np.abs(old) + scale) + FLOOR.get(kept.dtype, 0.0))
    if not exact and not beyond.any():
        return ""
    i = int(np.argmax(np.where(differs, np.nan_to_num(apart, nan=np.inf), -1)))
    of = "a digest's number" if kept.digest else "number"
    share = apart[i] / scale if scale else math.inf
    return (
        f"{differs.sum()} of {len(old)} differ, most {of} {i}: {float(new[i])!r} instead of {float(old[i])!r}, "
        f"{share:.2g} of the largest"
    )


def _shown(each: Entry) -> str:
    text = str(each.values)
    return text if len(text) < 200 else f"{text[:200]}..."
