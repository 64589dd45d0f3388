"""The tables, the paper's words above our numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.study import Column, tabulate
from mcjax.runs.tables import plus_minus


def tables(tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table of every task, and one of the exponents: title, text, head and rows of text of each."""
    found = [_task(name, task) for name, task in tasks.items()]
    laws = [
        (f"{name}, {variant}", what, law)
        for name, task in tasks.items()
        for variant, of_variant in task["laws"].items()
        for what, law in of_variant.items()
        if law["connected"] is not None
    ]
    if laws:
        columns: list[Column] = [
            ("task", lambda row: row[0]),
            ("of", lambda row: {"length": "normalised length", "beads": "segments"}[row[1]]),
            ("thresholds", lambda row: f"{row[2]['censored']['low']:g} to {row[2]['censored']['high']:g}"),
            ("exponent, connected strings", lambda row: _exponent(row[2]["connected"])),
            ("strings", lambda row: str(row[2]["connected"]["strings"])),
            ("exponent, all strings", lambda row: _exponent(row[2]["censored"])),
            ("strings, of which censored", lambda row: "{strings}, {censored}".format(**row[2]["censored"])),
        ]
        text = (
            "Exponents of the threshold, below the onset of non-convexity, with standard errors. Of the connected "
            "strings alone: least squares on logarithms. Of all: maximum likelihood with the strings that were given "
            "up as censored, at least as long and of as many segments as they were then (a Tobit model of the "
            "logarithm). Leaving them out makes the exponents smaller where they are many."
        )
        found.append(tabulate("Power laws", text, laws, *columns))
    return found


def _task(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    def columns(variant: str) -> list[Column]:
        return [
            (f"{variant}: connected", lambda level: f"{level[variant]['connected']} of {level['reached']}"),
            ("length", lambda level: _number(level[variant]["length"], 3)),
            ("relaxed", lambda level: _number(level[variant]["relaxed"], 3)),
            ("beads", lambda level: _number(level[variant]["beads"], 1)),
            ("others: at least", lambda level: _at_least(level[variant]["failed"])),
            ("steps a bead", lambda level: _steps(level[variant]["steps_per_bead"])),
        ]

    return tabulate(
        f"{name}: {task['title']}",
        " ".join([*([f"The paper: {task['paper']}."] if task["paper"] else []), about(task["tolerance"])]),
        task["levels"],
        (f"threshold ({task['of']})", lambda level: f"{level['threshold']:g}"),
        ("pairs", lambda level: f"{level['reached']} of {level['pairs']}"),
        *columns("unmatched"),
        *columns("matched"),
    )


def about(tolerance: float) -> str:
    """The condition of being below a threshold, in words."""
    return f"Segments may rise to {1 + tolerance:g} times the threshold (tolerance {tolerance:g})."


def _at_least(failed: Sequence[Mapping[str, Any]]) -> str:
    """The mean length and beads of strings when they were given up."""
    if not failed:
        return "-"
    length, beads = (sum(each[of] for each in failed) / len(failed) for of in ("length", "beads"))
    return f"{length:.2f}, {beads:.1f} beads"


def _number(summary: Mapping[str, float] | None, digits: int) -> str:
    return "-" if summary is None else plus_minus(summary, digits)


def _steps(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _exponent(law: Mapping[str, float]) -> str:
    return f"{law['exponent']:+.3f} ± {law['error']:.3f}"
