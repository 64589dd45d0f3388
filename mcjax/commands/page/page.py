"""The page of a run as one HTML document: tables, figures, and the data of its interactive parts."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from mcjax.commands.page.payload import expect, list_of, payload
from mcjax.commands.page.tables import folded, is_number, short, shown, table, tables, words
from mcjax.errors import InputError
from mcjax.runs.progress import duration

TEMPLATE = Path(__file__).with_name("page.html")


class Figure(NamedTuple):
    """A figure of a run: its file name and its bytes."""

    name: str
    png: bytes


class Run(NamedTuple):
    """The parts of a run folder that the page shows.

    Attributes:
        name: The name of the folder.
        config: config.json.
        results: results.json; None before the run is finished.
        times: times.json; None if there is none.
        machines: The lines of machines.jsonl.
        last_epochs: The last line of metrics.jsonl of every stage.
        figures: The files of figures/.
    """

    name: str
    config: Mapping[str, Any]
    results: Mapping[str, Any] | None
    times: Mapping[str, Any] | None
    machines: Sequence[Mapping[str, Any]]
    last_epochs: Mapping[str, Mapping[str, Any]]
    figures: Sequence[Figure]


def document(run: Run) -> str:
    """The whole page, a pure function of the run, with all text escaped.

    Raises:
        InputError: The parts of "page" in results.json do not fit together.
    """
    results = dict(run.results or {})
    page = results.pop("page", {})
    expect(isinstance(page, dict), "page", page, "an object")
    command = str(run.config.get("command", "run"))
    # Results with a "page" belong to an experiment, whose command is not one of mcjax.
    command = command if page else f"mcjax {command}"
    title = str(page.get("title", f"{command}: {run.name}"))
    numbers = "".join(tables("", results))
    if page and numbers:
        numbers = folded("All numbers of this run", numbers)
    numbers = numbers and f"<section><h2>Results</h2>{numbers}</section>"
    parts = {
        "title": escape(title),
        "head": _head(run, command) + "".join(f"<p>{escape(str(text))}</p>" for text in list_of(page, "text")),
        "numbers": "".join(_page_table(f"page.tables[{i}]", part) for i, part in enumerate(list_of(page, "tables")))
        if page
        else numbers,
        "figures": _figures(run.figures, list_of(page, "figures")),
        "results": numbers if page else "",
        "run": _about(run),
        "data": payload(page, results),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))


def _head(run: Run, command: str) -> str:
    items = [f"<code>{escape(command)}</code>", f"run folder <code>{escape(run.name)}</code>"]
    if run.times is not None:
        items.append(f"took {duration(sum(seconds for _, seconds in _stages(run.times)))}")
    line = f'<p class="about">{" · ".join(items)}</p>'
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
        parts.append(folded("How long it took", table(["stage", "time"], rows)))
    parts.append(folded("What was run", _listed(run.config)))
    if run.machines:
        parts.append(folded("Where it was run", "".join(map(_listed, run.machines))))
    return f"<section><h2>The run</h2>{''.join(parts)}</section>"


def _stages(times: Mapping[str, Any]) -> list[tuple[str, float]]:
    stages = times.get("stages", [])
    valid = isinstance(stages, list) and all(isinstance(s, dict) and is_number(s.get("seconds")) for s in stages)
    if not valid:
        raise InputError(f'times.json: got {shown(stages)}, expected stages like {{"name": "fit", "seconds": 1.5}}.')
    return [(str(stage.get("name", "")), stage["seconds"]) for stage in stages]


def _listed(value: Any) -> str:
    """Nested JSON as nested HTML lists."""
    if not isinstance(value, dict):
        return f"<code>{escape(shown(value, 300))}</code>"
    items = (f"<li><b>{escape(words(key))}</b> {_listed(value[key])}</li>" for key in value)
    return f"<ul>{''.join(items)}</ul>" if value else "none"


def _page_table(where: str, part: Any) -> str:
    head, rows = list_of(part, "head", where), list_of(part, "rows", where)
    for row in rows:
        expect(isinstance(row, list) and len(row) == len(head), f"{where}.rows", row, f"{len(head)} cells")
    if not head:
        return ""
    columns = [_aligned(column) for column in zip(*rows, strict=True)]
    cells = [list(row) for row in zip(*columns, strict=True)]
    text = f"<p>{escape(str(part['text']))}</p>" if part.get("text") else ""
    title = f"<h2>{escape(str(part['title']))}</h2>" if part.get("title") else ""
    return f"<section>{title}{text}{table(list(map(str, head)), cells)}</section>"


def _aligned(column: Sequence[Any]) -> list[str]:
    """The numbers of a column, all with as many decimals as the longest one needs, at most four."""
    floats = [value for value in column if isinstance(value, float) and math.isfinite(value)]
    plain = all(value == 0 or 1e-3 <= abs(value) < 1e5 for value in floats)
    needed = [len(f"{value:.4f}".rstrip("0").partition(".")[2]) for value in floats]
    decimals = max(needed, default=0)
    return [f"{value:.{decimals}f}" if plain and is_number(value) and floats else short(value) for value in column]


def _figures(figures: Sequence[Figure], named: Sequence[Any]) -> str:
    available = {figure.name: figure for figure in figures}
    captions: dict[str, str | None] = {}
    for i, part in enumerate(named):
        valid = isinstance(part, dict) and isinstance(part.get("file"), str)
        expect(valid, f"page.figures[{i}]", part, 'an object with a "file" of figures/')
        captions[part["file"]] = part.get("caption")
    captions |= {name: None for name in available if name not in captions}
    shown = []
    for name, caption in captions.items():
        text = escape(str(caption or words(name.removesuffix(".png"))))
        if name not in available:
            shown.append(f'<p class="missing">figures/{escape(name)} is not in this run folder: {text}</p>')
            continue
        data = base64.b64encode(available[name].png).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{text}" loading="lazy">'
        shown.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>\n")
    return f"<section><h2>Figures</h2>{''.join(shown)}</section>" if shown else ""
