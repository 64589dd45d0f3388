"""What string sampling found: means over pairs, power laws, the tables and the page of the study."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.string_sampling.tasks import Task
from mcjax.runs.tables import mean_and_std, plus_minus
from mcjax.strings import String


def gather(task: Task, strings: Mapping[str, Sequence[String]], reached: Sequence[bool]) -> dict[str, Any]:
    """Of one task, what results.json holds: for every threshold and variant all pairs, and fitted power laws."""
    levels = []
    for number, threshold in enumerate(task.thresholds):
        pairs = reached[number * task.pairs : (number + 1) * task.pairs]
        before = sum(reached[: number * task.pairs])
        level: dict[str, Any] = {"threshold": threshold, "pairs": task.pairs, "reached": sum(pairs)}
        for name, found in strings.items():
            level[name] = _of(found[before : before + sum(pairs)])
        levels.append(level)
    laws = {name: {what: law(levels, name, what) for what in ("length", "beads")} for name in strings}
    return {
        "title": task.title,
        "of": task.of,
        "paper": task.paper,
        "model": task.model.name,
        "levels": levels,
        "laws": laws,
    }


def _of(strings: Sequence[String]) -> dict[str, Any]:
    """Length and beads of those that are connected; what the others stopped for, and how high they stand."""
    connected = [string for string in strings if string.connected]
    failed = [string for string in strings if not string.connected]
    beads = sum(string.beads for string in strings)
    steps = sum(string.steps for string in strings)
    return {
        "connected": len(connected),
        "length": mean_and_std([string.normalized_length for string in connected]) if connected else None,
        "beads": mean_and_std([string.beads for string in connected]) if connected else None,
        "depth": max((string.depth for string in strings), default=0),
        "failed": [{"reason": string.reason, "beads": string.beads, **string.worst._asdict()} for string in failed],
        "steps": steps,
        "measured": sum(string.evaluations for string in strings),
        "steps_per_bead": steps / beads if beads else None,
    }


def law(levels: Sequence[Mapping[str, Any]], variant: str, what: str) -> dict[str, float] | None:
    """The power law of length, or of segments (beads + 1), below the onset of non-convexity.

    Below the onset every mean of beads is at least one; a threshold without a connected string is left out. By
    least squares on logarithms; None with fewer than three thresholds.
    """
    at, values = [], []
    for level in levels:  # from low to high
        found = level[variant]
        if found["beads"] is None:
            continue
        if found["beads"]["mean"] < 1:
            break
        at.append(level["threshold"])
        values.append(found["length"]["mean"] if what == "length" else found["beads"]["mean"] + 1)
    if len(at) < 3:
        return None
    exponent, offset = np.polyfit(np.log(at), np.log(values), 1)
    return {"exponent": float(exponent), "factor": float(np.exp(offset)), "low": at[0], "high": at[-1]}


def tables(tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table of every task, and one of the exponents: title, text, head and rows of text."""
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


def page(tasks: Mapping[str, Mapping[str, Any]], figures: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The study as `mcjax report` takes it."""
    return {
        "title": "Dynamic string sampling: are level sets connected, and how curved are they?",
        "text": [
            "Lengths and beads are means and standard deviations over those pairs whose string is connected. A string "
            "that is not connected within its budget proves nothing. Matched strings join the first network to the "
            "second one with its units permuted; the paper names connectedness up to symmetry as open."
        ],
        "tables": tables(tasks),
        "figures": list(figures),
        "paths": [],
        "planes": [],
    }
