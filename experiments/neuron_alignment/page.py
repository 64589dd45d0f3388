"""The page of `mcjax report`: metrics along all paths, and the planes, in the form that it draws."""

from typing import Any

import numpy as np

from experiments.neuron_alignment import measures
from experiments.neuron_alignment.cell import LINES, Cell, Settings
from experiments.neuron_alignment.paper import SCHEMES
from mcjax import Task
from mcjax.plotting.style import deviation
from mcjax.training.task import examples


def described(name: str, task: Task, settings: Settings) -> str:
    """One architecture on one data set, and its settings, in a sentence."""
    learned = "".join(
        f"; {SCHEMES[scheme]} {pam.iterations} times {pam.permutation.epochs} epochs for the permutation and "
        f"{pam.curve.epochs} for the curve"
        for scheme, pam in settings.pams.items()
    )
    networks = settings.networks
    return (
        f"{name}: {settings.pairs} pairs, {examples(task.train):,} training images, {networks.epochs} epochs a "
        f"network, {settings.curve.epochs} a curve{learned}; batches of {networks.batch_size}; {settings.points} "
        f"values of t; forward and backward in {networks.compute_dtype}."
    )


def paths(cell: Cell) -> dict[str, Any]:
    """Loss and accuracy along all paths of a cell: means over pairs, and deviations."""
    lines = []
    for name in (*LINES, *cell.settings.classes):
        metrics = cell.along(name)
        line: dict[str, Any] = {of: value.mean(0).tolist() for of, value in metrics.values.items()}
        line["deviation"] = {of: deviation(value).tolist() for of, value in metrics.values.items()}
        lines.append({"name": name, **line})
    return {"title": cell.name, "t": np.asarray(metrics.ts).tolist(), "lines": lines}


def plane(cell: Cell, name: str) -> dict[str, Any]:
    """A plane of the first pair of a cell, with the curve that lies in it."""
    found = measures.planes(cell)[name]
    result = {
        "title": f"{cell.name}: {measures.PLANES[name]}",
        "x": found["x"],
        "y": found["y"],
        "values": {of: found[of] for of in ("test_loss", "test_accuracy")},
        "points": found["points"],
    }
    if name in cell.settings.classes:
        metrics = cell.along(name)
        values = {of: getattr(metrics, of)[0].tolist() for of in ("test_loss", "test_accuracy")}
        result["curve"] = {"name": name, "t": np.asarray(metrics.ts).tolist(), **found["curve"], "values": values}
    return result
