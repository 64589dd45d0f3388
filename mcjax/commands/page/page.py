"""The page of a run: its tables, figures and interactive parts as one HTML document."""

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mcjax.commands.page.tables import folded, is_number, short, shown, table, tables, words
from mcjax.errors import InputError
from mcjax.landscape.along import METRICS
from mcjax.runs.progress import duration

TEMPLATE = Path(__file__).with_name("page.html")


class Figure(NamedTuple):
    """A picture of a run: its file name and its bytes."""

    name: str
    png: bytes


class Run(NamedTuple):
    """A run folder as it was read. `results` is None before the run is finished, `times` if they were not taken."""

    name: str
    config: Mapping[str, Any]
    results: Mapping[str, Any] | None
    times: Mapping[str, Any] | None
    last_epochs: Mapping[str, Mapping[str, Any]]
    figures: Sequence[Figure]


def document(run: Run) -> str:
    """The whole page: a pure function of the run, all of whose text is escaped.

    Raises InputError if what results.json holds under "page" does not fit together.
    """
    results = dict(run.results or {})
    page = results.pop("page", {})
    _expect(isinstance(page, dict), "page", page, "an object")
    command = str(run.config.get("command", "run"))
    # What makes a page of its own is a study, which is no command of mcjax.
    command = command if page else f"mcjax {command}"
    title = str(page.get("title", f"{command}: {run.name}"))
    numbers = "".join(tables("", results))
    if page and numbers:
        numbers = folded("All numbers of this run", numbers)
    numbers = numbers and f"<section><h2>Results</h2>{numbers}</section>"
    parts = {
        "title": escape(title),
        "head": _head(run, command) + "".join(f"<p>{escape(str(text))}</p>" for text in _list(page, "text")),
        "numbers": "".join(_page_table(f"page.tables[{i}]", part) for i, part in enumerate(_list(page, "tables")))
        if page
        else numbers,
        "figures": _figures(run.figures, _list(page, "figures")),
        "results": numbers if page else "",
        "run": _about(run),
        "data": _payload(page, results),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))


def _head(run: Run, command: str) -> str:
    said = [f"<code>{escape(command)}</code>", f"run folder <code>{escape(run.name)}</code>"]
    if run.times is not None:
        said.append(f"took {duration(sum(seconds for _, seconds in _stages(run.times)))}")
    line = f'<p class="about">{" · ".join(said)}</p>'
    if run.results is None:
        line += (
            '<p class="unfinished" role="status"><strong>This run is not finished.</strong> The page shows what was '
            "there when it was written. The same command goes on with the run; write the page again after it.</p>"
        )
    return line


def _about(run: Run) -> str:
    parts = []
    if run.last_epochs:
        columns = list(dict.fromkeys(key for entry in run.last_epochs.values() for key in entry))
        rows = [[stage, *(short(entry.get(key)) for key in columns)] for stage, entry in run.last_epochs.items()]
        last = table(["stage", *map(words, columns)], rows)
        parts.append(folded("Last epoch of every stage", last, is_open=run.results is None))
    if run.times is not None:
        stages = _stages(run.times)
        rows = [[name, duration(seconds)] for name, seconds in stages]
        rows.append(["all", duration(sum(seconds for _, seconds in stages))])
        machine = run.times.get("machine")
        on = f"<p>On {escape(str(machine))}.</p>" if machine else ""
        parts.append(folded("How long it took", on + table(["stage", "time"], rows)))
    parts.append(folded("What was run", _listed(run.config)))
    return f"<section><h2>The run</h2>{''.join(parts)}</section>"


def _stages(times: Mapping[str, Any]) -> list[tuple[str, float]]:
    stages = times.get("stages", [])
    fine = isinstance(stages, list) and all(isinstance(s, dict) and is_number(s.get("seconds")) for s in stages)
    if not fine:
        raise InputError(f'times.json: got {shown(stages)}, expected stages like {{"name": "fit", "seconds": 1.5}}.')
    return [(str(stage.get("name", "")), stage["seconds"]) for stage in stages]


def _listed(value: Any) -> str:
    """Nested JSON as nested lists."""
    if not isinstance(value, dict):
        return f"<code>{escape(shown(value, 300))}</code>"
    items = (f"<li><b>{escape(words(key))}</b> {_listed(value[key])}</li>" for key in value)
    return f"<ul>{''.join(items)}</ul>" if value else "none"


def _page_table(where: str, part: Any) -> str:
    head, rows = _list(part, "head", where), _list(part, "rows", where)
    for row in rows:
        _expect(isinstance(row, list) and len(row) == len(head), f"{where}.rows", row, f"{len(head)} cells")
    if not head:
        return ""
    columns = [_aligned(column) for column in zip(*rows, strict=True)]
    cells = [list(row) for row in zip(*columns, strict=True)]
    text = f"<p>{escape(str(part['text']))}</p>" if part.get("text") else ""
    title = f"<h2>{escape(str(part['title']))}</h2>" if part.get("title") else ""
    return f"<section>{title}{text}{table(list(map(str, head)), cells)}</section>"


def _aligned(column: Sequence[Any]) -> list[str]:
    """The numbers of a column with as many decimals as the one that needs most of them, four at most."""
    floats = [value for value in column if isinstance(value, float) and math.isfinite(value)]
    plain = all(value == 0 or 1e-3 <= abs(value) < 1e5 for value in floats)
    needed = [len(f"{value:.4f}".rstrip("0").partition(".")[2]) for value in floats]
    decimals = max(needed, default=0)
    return [f"{value:.{decimals}f}" if plain and is_number(value) and floats else short(value) for value in column]


def _figures(figures: Sequence[Figure], named: Sequence[Any]) -> str:
    there = {figure.name: figure for figure in figures}
    captions: dict[str, str | None] = {}
    for i, part in enumerate(named):
        fine = isinstance(part, dict) and isinstance(part.get("file"), str)
        _expect(fine, f"page.figures[{i}]", part, 'an object with a "file" of figures/')
        captions[part["file"]] = part.get("caption")
    captions |= {name: None for name in there if name not in captions}
    shown = []
    for name, caption in captions.items():
        text = escape(str(caption or words(name.removesuffix(".png"))))
        if name not in there:
            shown.append(f'<p class="missing">figures/{escape(name)} is not in this run folder: {text}</p>')
            continue
        data = base64.b64encode(there[name].png).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{text}" loading="lazy">'
        shown.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>\n")
    return f"<section><h2>Figures</h2>{''.join(shown)}</section>" if shown else ""


def _payload(page: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """What the script of the page draws, as JSON that can stand inside a script element."""
    paths, planes = _list(page, "paths"), _list(page, "planes")
    for i, path in enumerate(paths):
        _check_t(path, f"page.paths[{i}]")
        for j, line in enumerate(_list(path, "lines", f"page.paths[{i}]")):
            where = f"page.paths[{i}].lines[{j}]"
            _expect(isinstance(line, dict), where, line, "an object")
            deviation = line.get("deviation") or {}
            _expect(isinstance(deviation, dict), f"{where}.deviation", deviation, "an object")
            values = {name: line[name] for name in METRICS if line.get(name) is not None}
            _expect(bool(values), where, line, f"one of {', '.join(METRICS)}")
            for name, value in [*values.items(), *((f"deviation.{key}", value) for key, value in deviation.items())]:
                _check_numbers(value, len(path["t"]), f"{where}.{name}")
    for i, plane in enumerate(planes):
        _check_plane(plane, f"page.planes[{i}]")
    if not paths and not planes:
        paths = _measured_path(results.get("along"))
    text = json.dumps(_without_gaps({"paths": paths, "planes": planes}), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _measured_path(along: Any) -> list[dict[str, Any]]:
    """What `mcjax connect` and `mcjax evaluate` measured along one path, as a study would give it."""
    try:
        _check_increasing(along["ts"], "along.ts")
        line = {name: along[name] for name in METRICS if name in along}
        for name, values in line.items():
            _check_numbers(values, len(along["ts"]), f"along.{name}")
    except (InputError, TypeError, KeyError):
        return []  # not one path: the tables show what it is
    return [{"title": "Along the path", "t": along["ts"], "lines": [{"name": "path", **line}]}] if line else []


def _check_plane(plane: Any, where: str) -> None:
    _expect(isinstance(plane, dict), where, plane, "an object")
    for axis in ("x", "y"):
        _check_increasing(plane.get(axis), f"{where}.{axis}")
    values = plane.get("values")
    _expect(isinstance(values, dict) and bool(values), f"{where}.values", values, "an object of grids")
    for name, grid in values.items():
        here = f"{where}.values.{name}"
        fine = isinstance(grid, list) and len(grid) == len(plane["y"])
        _expect(fine, here, grid, f"{len(plane['y'])} rows, one a y")
        for row in grid:
            _check_numbers(row, len(plane["x"]), here)
    for point in _list(plane, "points", where):
        fine = isinstance(point, dict) and is_number(point.get("x")) and is_number(point.get("y"))
        _expect(fine, f"{where}.points", point, "numbers x and y")
    curve = plane.get("curve")
    if curve is not None:
        _check_t(curve, f"{where}.curve")
        measured = curve.get("values") or {}
        _expect(isinstance(measured, dict), f"{where}.curve.values", measured, "an object")
        for name, value in [("x", curve.get("x")), ("y", curve.get("y")), *measured.items()]:
            _check_numbers(value, len(curve["t"]), f"{where}.curve.{name}")


def _check_t(part: Any, where: str) -> None:
    _expect(isinstance(part, dict), where, part, "an object")
    _check_increasing(part.get("t"), f"{where}.t")


def _check_increasing(values: Any, where: str) -> None:
    fine = isinstance(values, list) and len(values) > 1 and all(map(is_number, values))
    fine = fine and all(a < b for a, b in pairwise(values))
    _expect(fine, where, values, "two or more increasing numbers")


def _check_numbers(values: Any, count: int, where: str) -> None:
    fine = isinstance(values, list) and len(values) == count
    fine = fine and all(value is None or isinstance(value, (int, float)) for value in values)
    _expect(fine, where, values, f"{count} numbers")


def _list(part: Any, key: str, where: str = "page") -> list[Any]:
    _expect(isinstance(part, dict), where, part, "an object")
    value = part.get(key) or []
    _expect(isinstance(value, list), f"{where}.{key}", value, "a list")
    return value


def _expect(fine: bool, where: str, got: Any, expected: str) -> None:
    if not fine:
        said = f"{len(got)} values" if isinstance(got, list) and len(got) > 5 else shown(got)
        raise InputError(f"results.json, {where}: got {said}, expected {expected}. Write the results again.")


def _without_gaps(value: Any) -> Any:
    """JSON has no NaN and no infinity: what is not finite is null."""
    if isinstance(value, dict):
        return {key: _without_gaps(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_gaps(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
