"""The tables, the paper's words above our numbers."""

from collections.abc import Mapping
from typing import Any

from experiments.study import Column, tabulate
from mcjax.runs.tables import plus_minus


def tables(tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table of every task, and one of the exponents: title, text, head and rows of text of each."""
    found = [_task(name, task) for name, task in tasks.items()]
    laws = [
        (name, variant, laws)
        for name, task in tasks.items()
        for variant, laws in task["laws"].items()
        if any(laws.values())
    ]
    if laws:
        columns: list[Column] = [
            ("task", lambda row: row[0]),
            ("strings", lambda row: row[1]),
            ("normalised length", lambda row: _exponent(row[2]["length"])),
            ("segments", lambda row: _exponent(row[2]["beads"])),
        ]
        text = "Exponents of the threshold, below the onset of non-convexity, and between which thresholds."
        found.append(
            tabulate(
                "Power laws",
                text,
                laws,
                *columns,
            )
        )
    return found


def _task(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    def columns(variant: str) -> list[Column]:
        return [
            (f"{variant}: connected", lambda level: f"{level[variant]['connected']} of {level['reached']}"),
            ("length", lambda level: _number(level[variant]["length"], 3)),
            ("beads", lambda level: _number(level[variant]["beads"], 1)),
            ("steps a bead", lambda level: _steps(level[variant]["steps_per_bead"])),
        ]

    return tabulate(
        f"{name}: {task['title']}",
        f"The paper: {task['paper']}." if task["paper"] else "",
        task["levels"],
        (f"threshold ({task['of']})", lambda level: f"{level['threshold']:g}"),
        ("pairs", lambda level: f"{level['reached']} of {level['pairs']}"),
        *columns("unmatched"),
        *columns("matched"),
    )


def _number(summary: Mapping[str, float] | None, digits: int) -> str:
    return "-" if summary is None else plus_minus(summary, digits)


def _steps(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _exponent(fitted: Mapping[str, float] | None) -> str:
    return "-" if fitted is None else f"{fitted['exponent']:+.3f} ({fitted['low']:g} to {fitted['high']:g})"
