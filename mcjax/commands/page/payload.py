"""The data of a page's interactive parts: paths and planes, checked, as JSON."""

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from mcjax.commands.page.tables import is_number, shown
from mcjax.errors import InputError


def payload(page: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The paths and planes that the script draws, as JSON that is safe inside a script element.

    Raises:
        InputError: They do not fit together.
    """
    paths, planes = list_of(page, "paths"), list_of(page, "planes")
    for i, path in enumerate(paths):
        _check_t(path, f"page.paths[{i}]")
        for j, line in enumerate(list_of(path, "lines", f"page.paths[{i}]")):
            where = f"page.paths[{i}].lines[{j}]"
            expect(isinstance(line, dict), where, line, "an object")
            deviation = line.get("deviation") or {}
            expect(isinstance(deviation, dict), f"{where}.deviation", deviation, "an object")
            values = _metrics(line)
            expect(bool(values), where, line, "a metric such as train_loss or test_accuracy")
            for name, value in [*values.items(), *((f"deviation.{key}", value) for key, value in deviation.items())]:
                _check_numbers(value, len(path["t"]), f"{where}.{name}")
    for i, plane in enumerate(planes):
        _check_plane(plane, f"page.planes[{i}]")
    if not paths and not planes:
        paths = _measured_path(results.get("along"))
    text = json.dumps(_finite_or_null({"paths": paths, "planes": planes}), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _measured_path(along: Any) -> list[dict[str, Any]]:
    """The one path that `mcjax connect` or `mcjax evaluate` measured, in the form of "page.paths"; none otherwise."""
    try:
        _check_increasing(along["ts"], "along.ts")
        line = _metrics(along)
        for name, values in line.items():
            _check_numbers(values, len(along["ts"]), f"along.{name}")
    except (InputError, TypeError, KeyError):
        return []
    return [{"title": "Along the path", "t": along["ts"], "lines": [{"name": "path", **line}]}] if line else []


def _metrics(values: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics among the values of a path, of whatever task: those on the training and the test examples."""
    return {name: value for name, value in values.items() if name.startswith(("train_", "test_")) and value is not None}


def _check_plane(plane: Any, where: str) -> None:
    expect(isinstance(plane, dict), where, plane, "an object")
    for axis in ("x", "y"):
        _check_increasing(plane.get(axis), f"{where}.{axis}")
    values = plane.get("values")
    expect(isinstance(values, dict) and bool(values), f"{where}.values", values, "an object of grids")
    for name, grid in values.items():
        here = f"{where}.values.{name}"
        valid = isinstance(grid, list) and len(grid) == len(plane["y"])
        expect(valid, here, grid, f"{len(plane['y'])} rows, one for each y")
        for row in grid:
            _check_numbers(row, len(plane["x"]), here)
    for point in list_of(plane, "points", where):
        valid = isinstance(point, dict) and is_number(point.get("x")) and is_number(point.get("y"))
        expect(valid, f"{where}.points", point, "numbers x and y")
    curve = plane.get("curve")
    if curve is not None:
        _check_t(curve, f"{where}.curve")
        measured = curve.get("values") or {}
        expect(isinstance(measured, dict), f"{where}.curve.values", measured, "an object")
        for name, value in [("x", curve.get("x")), ("y", curve.get("y")), *measured.items()]:
            _check_numbers(value, len(curve["t"]), f"{where}.curve.{name}")


def _check_t(part: Any, where: str) -> None:
    expect(isinstance(part, dict), where, part, "an object")
    _check_increasing(part.get("t"), f"{where}.t")


def _check_increasing(values: Any, where: str) -> None:
    valid = isinstance(values, list) and len(values) > 1 and all(map(is_number, values))
    valid = valid and all(a < b for a, b in pairwise(values))
    expect(valid, where, values, "two or more increasing numbers")


def _check_numbers(values: Any, count: int, where: str) -> None:
    valid = isinstance(values, list) and len(values) == count
    valid = valid and all(value is None or isinstance(value, (int, float)) for value in values)
    expect(valid, where, values, f"{count} numbers")


def list_of(part: Any, key: str, where: str = "page") -> list[Any]:
    """The list `part[key]`, empty if absent. Raises InputError, naming `where`, if it is something else."""
    expect(isinstance(part, dict), where, part, "an object")
    value = part.get(key) or []
    expect(isinstance(value, list), f"{where}.{key}", value, "a list")
    return value


def expect(valid: bool, where: str, got: Any, expected: str) -> None:
    """Raise InputError unless a part of results.json is valid.

    Args:
        valid: Whether it is.
        where: The place of the part, for the message.
        got: The part.
        expected: A description of valid parts.
    """
    if not valid:
        text = f"{len(got)} values" if isinstance(got, list) and len(got) > 5 else shown(got)
        raise InputError(f"results.json, {where}: got {text}, expected {expected}. Write the results again.")


def _finite_or_null(value: Any) -> Any:
    """JSON with null in place of NaN and infinity, which it does not have."""
    if isinstance(value, dict):
        return {key: _finite_or_null(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite_or_null(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
