"""Nested results of any shape as HTML tables, with all text escaped."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

NUMERIC = re.compile(r"[-+−±]?\.?\d|(–|NaN|-?Infinity|)$")
"""Pattern of text that counts as a number: columns of numbers are aligned right."""


def tables(title: str, results: Mapping[str, Any]) -> Iterator[str]:
    """Tables of all numbers in nested results: objects of plain values as rows, lists of one length as columns."""
    cells = {key: value for key, value in results.items() if is_cell(value)}
    lists = {key: value for key, value in results.items() if isinstance(value, list) and not is_cell(value)}
    children = {key: value for key, value in results.items() if isinstance(value, dict) and not is_cell(value)}
    for key, value in list(lists.items()):
        if all(isinstance(part, dict) for part in value):
            children[key] = {str(i): part for i, part in enumerate(lists.pop(key))}
    if cells:
        values = [cell.get("values", "") if isinstance(cell, dict) else "" for cell in cells.values()]
        rows = [[words(key), short(cell)] for key, cell in cells.items()]
        if any(values):
            rows = [[*row, shown(value, 200)] for row, value in zip(rows, values, strict=True)]
        yield table(["", "value", *(["values"] if any(values) else [])], rows, title)
    flat = {key: value for key, value in children.items() if value and all(map(is_cell, value.values()))}
    if flat:
        columns = list(dict.fromkeys(key for child in flat.values() for key in child))
        rows = [[words(key), *(short(child.get(column)) for column in columns)] for key, child in flat.items()]
        yield table(["", *map(words, columns)], rows, title)
    for _, group in groupby(sorted(lists.items(), key=lambda item: len(item[1])), lambda item: len(item[1])):
        names, series = zip(*group, strict=True)
        rows = [[str(i), *map(short, row)] for i, row in enumerate(zip(*series, strict=True))]
        yield folded(f"{title}: {len(rows)} values each".lstrip(": "), table(["", *map(words, names)], rows))
    for key, child in children.items():
        if key not in flat:
            yield from tables(f"{title}, {words(key)}".lstrip(", "), child)


def is_cell(value: Any) -> bool:
    """Whether a value fits in one cell: a plain value, a mean ± std, or a list of at most six plain values."""
    if isinstance(value, dict):
        return "mean" in value and "std" in value and set(value) <= {"mean", "std", "values"}
    if isinstance(value, list):
        return len(value) <= 6 and not any(isinstance(part, (list, dict)) for part in value)
    return True


def short(value: Any) -> str:
    """The text of a value in one cell of a table."""
    if isinstance(value, dict) and is_cell(value):
        mean, std = value["mean"], value["std"]
        both = is_number(std) and "e" not in short(mean) and std < 1e5
        return f"{short(mean)} ± {f'{std:.4f}' if both else short(std)}"
    if value is None:
        return "–"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return f"{len(value)} × {len(value[0])} values"
    if isinstance(value, list) and value and all(map(is_number, value)) and not is_cell(value):
        return f"{short(min(value))} to {short(max(value))}"
    return shown(value, 120)


def shown(value: Any, limit: int = 60) -> str:
    """Any value as text of at most `limit` characters."""
    if isinstance(value, list) and value and not any(isinstance(part, (list, dict)) for part in value):
        text = ", ".join(map(short, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def words(name: Any) -> str:
    """A name from JSON with spaces for underscores."""
    return str(name).replace("_", " ")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and not a bool."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return is_int or (isinstance(value, float) and math.isfinite(value))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """A table of text. The first column holds row headers; columns of numbers are aligned right."""
    classes = [
        ' class="number"' if i > 0 and all(NUMERIC.match(row[i]) for row in rows) else "" for i in range(len(head))
    ]
    lines = "".join(
        f'<th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row[1:], classes[1:], strict=True))
        + "</tr>\n<tr>"
        for row in rows
    ).removesuffix("<tr>")
    heads = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(head, classes, strict=True))
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    body = f"<tbody>\n<tr>{lines}</tbody>" if rows else ""
    return f'<div class="wide"><table>{caption}<thead><tr>{heads}</tr></thead>{body}</table></div>\n'


def folded(title: str, content: str, *, is_open: bool = False) -> str:
    """Content that is hidden until its title is clicked, unless `is_open`."""
    return f"<details{' open' * is_open}><summary>{escape(title)}</summary>{content}</details>\n"
