"""What `mcjax report` shows of the neuron-alignment study: its tables, curves, planes and figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.neuron_alignment import measures
from experiments.neuron_alignment.cell import LINES, Cell
from mcjax.landscape.along import METRICS
from mcjax.plotting.style import deviation


def page(
    cells: Mapping[str, Cell], tables: Sequence[Mapping[str, Any]], figures: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """The study as the page takes it: lines over t of all classes, and of the first pair of every cell its planes."""
    text = [_said(cell) for cell in cells.values()]
    return {
        "title": "Neuron alignment: curves between networks, with and without the permutation symmetry",
        "text": [
            *text,
            "Numbers are means and standard deviations over pairs. Planes are those of the first pair, in the units of "
            "the weights, measured on test images.",
        ],
        "tables": list(tables),
        "figures": list(figures),
        "paths": [_paths(cell) for cell in cells.values()],
        "planes": [_plane(cell, name) for cell in cells.values() for name in measures.PLANES],
    }


def _said(cell: Cell) -> str:
    settings = cell.settings
    iterations = settings.pam
    learned = (
        f"; PAM {iterations.iterations} times {iterations.permutation_epochs} epochs for the permutation and "
        f"{iterations.epochs} for the curve"
        if iterations
        else ""
    )
    return (
        f"{cell.name}: {settings.pairs} pairs, {len(cell.data.train_labels):,} training images, "
        f"{settings.networks.epochs} epochs a network, {settings.curve.epochs} a curve{learned}; "
        f"{settings.points} values of t; forward and backward in {settings.networks.compute_dtype}."
    )


def _paths(cell: Cell) -> dict[str, Any]:
    lines = []
    for name in (*LINES, *cell.settings.classes):
        metrics = cell.along(name)
        values = {of: getattr(metrics, of) for of in METRICS}
        line: dict[str, Any] = {of: value.mean(0).tolist() for of, value in values.items()}
        line["deviation"] = {of: deviation(value).tolist() for of, value in values.items()}
        lines.append({"name": name, **line})
    return {"title": cell.name, "t": np.asarray(metrics.ts).tolist(), "lines": lines}


def _plane(cell: Cell, name: str) -> dict[str, Any]:
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
