"""Several runs of `mcjax connect` or `mcjax evaluate` side by side: one table, one figure.

    python -m experiments.compare runs/a runs/b --labels "line, unaligned" "line, aligned" --out runs/both

Writes `paths.png` (train loss and test accuracy along every path) and `results.json` (the summary and
barriers of each run) into the folder `--out`. Takes seconds.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.study import command
from mcjax import plotting
from mcjax.errors import InputError
from mcjax.runs.tables import table

STYLES = ("--", "-", ":", "-.")
COLORS = (plotting.UNALIGNED, plotting.ALIGNED, "#5a9e3f", "#8e5ea2")


@dataclass(frozen=True)
class Compare:
    """The runs to compare."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of measured paths, all over the same values of t."""
    out: Path
    """Folder to write into."""
    labels: tuple[str, ...] = ()
    """A name for each run (none: the folders' names). Names with the same text before a comma share a line style."""
    title: str = ""
    """Title of the figure."""


def main(config: Compare) -> None:
    """Print the table; write the figure and the numbers."""
    labels = config.labels or tuple(run.name for run in config.runs)
    if len(labels) != len(config.runs):
        raise InputError(f"got {len(labels)} labels for {len(config.runs)} runs, expected as many.")
    results = [_read(run) for run in config.runs]
    if any(result["along"]["ts"] != results[0]["along"]["ts"] for result in results):
        raise InputError("the runs were measured at different t: evaluate them with the same --points.")
    config.out.mkdir(parents=True, exist_ok=True)
    lines = [
        plotting.Line(label, np.asarray(along["train_loss"]), np.asarray(along["test_accuracy"]), color, style)
        for label, along, (color, style) in zip(labels, (r["along"] for r in results), looks(labels), strict=True)
    ]
    plotting.along_paths(np.asarray(results[0]["along"]["ts"]), lines, config.title).savefig(config.out / "paths.png")
    kept = {label: {k: v for k, v in r.items() if k != "along"} for label, r in zip(labels, results, strict=True)}
    (config.out / "results.json").write_text(json.dumps(kept, indent=1))
    print(table(("path", "mean train loss", "mean test acc. (%)", "min test acc. (%)", "barrier (nats)"), rows(kept)))


def looks(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and style of each line: a style for the text before the comma, a colour for each label with that text."""
    families: dict[str, int] = {}
    found = []
    for label in labels:
        family = label.split(",")[0]
        style = STYLES[list(families | {family: 0}).index(family) % len(STYLES)]
        found.append((COLORS[families.setdefault(family, 0) % len(COLORS)], style))
        families[family] += 1
    return found


def rows(results: dict[str, Any]) -> list[list[str]]:
    """The rows of the table, a run each."""
    found = []
    for label, result in results.items():
        loss, accuracy = (result["summary"][of] for of in ("train_loss", "test_accuracy"))
        shares = [f"{100 * accuracy[of]:.2f}" for of in ("mean", "min")]
        found.append([label, f"{loss['mean']:.4f}", *shares, f"{result['barrier_train_loss']:.4f}"])
    return found


def _read(run: Path) -> dict[str, Any]:
    try:
        result = json.loads((run / "results.json").read_text())
        return {**result, "along": {name: result["along"][name] for name in ("ts", "train_loss", "test_accuracy")}}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{run} holds no loss and accuracy along a path ({error}): expected a run of `mcjax connect` on classes."
        ) from error


if __name__ == "__main__":
    command(Compare, main)
