"""The tables, the paper's numbers beside ours."""

from collections.abc import Mapping
from typing import Any

from experiments.neuron_alignment import paper
from mcjax.runs.folder import plus_minus

Results = Mapping[str, Any]
"""The findings of one cell, as results.json holds them."""

ENSEMBLES = {
    "ends": "ends, t = 0, 1",
    "unaligned": "unaligned, t = 0, 0.5, 1",
    "aligned": "aligned, t = 0, 0.5, 1",
    "independent": "three independent",
}


def tables(cells: Mapping[str, Results]) -> list[dict[str, Any]]:
    """Tables 1 to 5 of all cells, and one of all paths: title, text, head and rows of text of each."""
    found = [
        _networks(cells),
        _classes(cells, "Table 2: mean test accuracy along the curve (%)", "test_accuracy_mean", paper.MEAN_ACCURACY),
        _ensembles(cells),
        _classes(cells, "Table 4: lowest test accuracy along the curve (%)", "test_accuracy_min", paper.MIN_ACCURACY),
        _classes(cells, "Table 5: train loss in the last epoch (nats)", "last_train_loss", paper.TRAIN_LOSS),
        _along(cells),
    ]
    return [table for table in found if table["rows"]]


def _table(title: str, head: list[str], rows: list[list[str]], text: str = "") -> dict[str, Any]:
    return {"title": title, "text": text, "head": head, "rows": rows}


def _paper(numbers: Mapping[str, Any] | None, cell: Results, digits: int) -> str:
    """The paper's number for the data set of a cell, if it has one."""
    number = (numbers or {}).get(cell["data"])
    return "" if number is None else f"{number.mean:.{digits}f} ± {number.std:.{digits}f}"


def _networks(cells: Mapping[str, Results]) -> dict[str, Any]:
    rows = []
    for cell in cells.values():
        parameters, depth, accuracy = paper.NETWORKS.get(cell["model"], (None, None, None))
        rows.append(
            [
                cell["data"],
                cell["model"],
                f"{cell['parameters']:,}",
                "" if parameters is None else f"{parameters:,}",
                "" if depth is None else str(depth),
                plus_minus(cell["networks"]["test_accuracy"], 1, 100),
                _paper(accuracy, cell, 1),
            ]
        )
    head = ["data", "model", "parameters", "the paper's", "depth", "test accuracy (%)", "the paper's"]
    return _table("Table 1: the networks", head, rows)


def _classes(cells: Mapping[str, Results], title: str, of: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    digits, factor = (4, 1.0) if of == "last_train_loss" else (2, 100.0)
    rows = [
        [
            cell["data"],
            cell["model"],
            name,
            plus_minus(values[of], digits, factor),
            _paper(numbers.get(cell["model"], {}).get(name), cell, 3 if factor == 1 else 1),
        ]
        for cell in cells.values()
        for name, values in cell["classes"].items()
    ]
    return _table(title, ["data", "model", "curve class", "ours", "the paper's"], rows)


def _ensembles(cells: Mapping[str, Results]) -> dict[str, Any]:
    rows = [
        [
            cell["data"],
            cell["model"],
            ENSEMBLES[name],
            plus_minus(values["accuracy"], 2, 100),
            _paper(paper.ENSEMBLE_ACCURACY.get(cell["model"], {}).get(name), cell, 2),
            plus_minus(values["loss"]),
            plus_minus(values["calibration_error"], 2, 100),
        ]
        for cell in cells.values()
        for name, values in cell["ensembles"].items()
    ]
    head = ["data", "model", "ensemble", "accuracy (%)", "the paper's", "NLL (nats)", "calibration error (%)"]
    return _table("Table 3: ensembles", head, rows, "The mean of the networks' softmax outputs, on the test images.")


def _along(cells: Mapping[str, Results]) -> dict[str, Any]:
    rows = [
        [
            cell["data"],
            cell["model"],
            name,
            plus_minus(values["train_loss_mean"]),
            plus_minus(values["test_accuracy_mean"], 2, 100),
            plus_minus(values["test_accuracy_min"], 2, 100),
            plus_minus(values["barrier"]),
        ]
        for cell in cells.values()
        for name, values in {**cell["lines"], **cell["classes"]}.items()
    ]
    head = ["data", "model", "path", "mean train loss", "mean test acc. (%)", "min test acc. (%)", "barrier (nats)"]
    text = "Losses by batch statistics re-estimated at every point, on images that are not augmented."
    return _table("All paths", head, rows, text)
