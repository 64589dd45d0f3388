"""The tables, the paper's numbers beside ours."""

from collections.abc import Mapping
from typing import Any

from experiments.neuron_alignment import paper
from experiments.study import Column, tabulate
from mcjax.runs.tables import plus_minus

Results = Mapping[str, Any]
"""The findings of one cell, as results.json holds them."""
CELL: tuple[Column, ...] = (("data", lambda row: row[0]["data"]), ("model", lambda row: row[0]["model"]))
"""The first columns of every table: a row is a cell, a name and the values of that name."""
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


def _paper(numbers: Mapping[str, Any] | None, cell: Results, digits: int) -> str:
    """The paper's number for the data set of a cell, if it has one."""
    number = (numbers or {}).get(cell["data"])
    return "" if number is None else plus_minus(number, digits)


def _networks(cells: Mapping[str, Results]) -> dict[str, Any]:
    rows = [(cell, *paper.NETWORKS.get(cell["model"], (None, None, None))) for cell in cells.values()]
    return tabulate(
        "Table 1: the networks",
        "",
        rows,
        *CELL,
        ("parameters", lambda row: f"{row[0]['parameters']:,}"),
        ("the paper's", lambda row: "" if row[1] is None else f"{row[1]:,}"),
        ("depth", lambda row: "" if row[2] is None else str(row[2])),
        ("test accuracy (%)", lambda row: plus_minus(row[0]["networks"]["test_accuracy"], 1, 100)),
        ("the paper's", lambda row: _paper(row[3], row[0], 1)),
    )


def _classes(cells: Mapping[str, Results], title: str, of: str, numbers: Mapping[Any, Any]) -> dict[str, Any]:
    digits, factor, published = (4, 1.0, 3) if of == "last_train_loss" else (2, 100.0, 1)
    return tabulate(
        title,
        "",
        [(cell, *each) for cell in cells.values() for each in cell["classes"].items()],
        *CELL,
        ("curve class", lambda row: row[1]),
        ("ours", lambda row: plus_minus(row[2][of], digits, factor)),
        ("the paper's", lambda row: _paper(numbers.get((row[0]["model"], row[1])), row[0], published)),
    )


def _ensembles(cells: Mapping[str, Results]) -> dict[str, Any]:
    published = paper.ENSEMBLE_ACCURACY
    return tabulate(
        "Table 3: ensembles",
        "The mean of the networks' softmax outputs, on the test images.",
        [(cell, *each) for cell in cells.values() for each in cell["ensembles"].items()],
        *CELL,
        ("ensemble", lambda row: ENSEMBLES[row[1]]),
        ("accuracy (%)", lambda row: plus_minus(row[2]["accuracy"], 2, 100)),
        ("the paper's", lambda row: _paper(published.get((row[0]["model"], row[1])), row[0], 2)),
        ("NLL (nats)", lambda row: plus_minus(row[2]["loss"])),
        ("calibration error (%)", lambda row: plus_minus(row[2]["calibration_error"], 2, 100)),
    )


def _along(cells: Mapping[str, Results]) -> dict[str, Any]:
    return tabulate(
        "All paths",
        "Losses by batch statistics re-estimated at every point, on images that are not augmented.",
        [(cell, *each) for cell in cells.values() for each in {**cell["lines"], **cell["classes"]}.items()],
        *CELL,
        ("path", lambda row: row[1]),
        ("mean train loss", lambda row: plus_minus(row[2]["train_loss_mean"])),
        ("mean test acc. (%)", lambda row: plus_minus(row[2]["test_accuracy_mean"], 2, 100)),
        ("min test acc. (%)", lambda row: plus_minus(row[2]["test_accuracy_min"], 2, 100)),
        ("barrier (nats)", lambda row: plus_minus(row[2]["barrier"])),
    )
