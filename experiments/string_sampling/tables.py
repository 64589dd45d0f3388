"""The tables, the paper's words above our numbers."""

from collections.abc import Mapping
from typing import Any

from mcjax.runs.folder import plus_minus


def tables(tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table of every task, and one of the exponents: title, text, head and rows of text of each."""
    found = []
    for name, task in tasks.items():
        rows = [_row(level) for level in task["levels"]]
        head = [f"threshold ({task['of']})", "pairs"]
        for variant in ("unmatched", "matched"):
            head += [f"{variant}: connected", "length", "beads", "steps a bead"]
        said = f"The paper: {task['paper']}." if task["paper"] else ""
        found.append({"title": f"{name}: {task['title']}", "text": said, "head": head, "rows": rows})
    laws = [
        [name, variant, *(_exponent(task["laws"][variant][what]) for what in ("length", "beads"))]
        for name, task in tasks.items()
        for variant in task["laws"]
        if any(task["laws"][variant].values())
    ]
    if laws:
        text = "Exponents of the threshold, below the onset of non-convexity, and between which thresholds."
        head = ["task", "strings", "normalised length", "segments"]
        found.append({"title": "Power laws", "text": text, "head": head, "rows": laws})
    return found


def _row(level: Mapping[str, Any]) -> list[str]:
    row = [f"{level['threshold']:g}", f"{level['reached']} of {level['pairs']}"]
    for variant in ("unmatched", "matched"):
        found = level[variant]
        row.append(f"{found['connected']} of {level['reached']}")
        row.append(plus_minus(found["length"], 3) if found["length"] else "-")
        row.append(plus_minus(found["beads"], 1) if found["beads"] else "-")
        row.append("-" if found["steps_per_bead"] is None else f"{found['steps_per_bead']:.0f}")
    return row


def _exponent(fitted: Mapping[str, float] | None) -> str:
    return "-" if fitted is None else f"{fitted['exponent']:+.3f} ({fitted['low']:g} to {fitted['high']:g})"
