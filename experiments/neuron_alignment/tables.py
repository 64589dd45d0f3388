"""The tables, the paper's numbers beside ours."""

from collections.abc import Callable, Mapping
from statistics import fmean
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
        _classes(cells, "Table 2: mean test accuracy along the curve (%)", "test_accuracy_mean"),
        _ensembles(cells),
        _classes(cells, "Table 4: lowest test accuracy along the curve (%)", "test_accuracy_min"),
        _classes(cells, "Table 5: train loss in the last epoch (nats)", "last_train_loss"),
        _along(cells),
        _robust(cells),
        _shapes(cells),
        _pam(cells),
        _exchanges(cells),
        _seeds(cells),
    ]
    return [table for table in found if table["rows"]]


def _paper(numbers: Mapping[str, Any] | None, cell: Results, digits: int) -> str:
    """The paper's number for the data set of a cell, if it has one."""
    number = (numbers or {}).get(cell["known_as"])
    return "" if number is None else plus_minus(number, digits)


def _networks(cells: Mapping[str, Results]) -> dict[str, Any]:
    rows = [(cell, *paper.NETWORKS.get(cell["model"], (None, None, None))) for cell in cells.values()]
    return tabulate(
        "Table 1: the networks",
        "",
        rows,
        *CELL,
        ("parameters", lambda row: f"{row[0]['parameters']:,}"),
        ("the paper's", lambda row: "" if row[1] is None else f"{row[1]:,}{_CLASSES.get(row[0]['model'], '')}"),
        ("depth", lambda row: "" if row[2] is None else str(row[2])),
        ("test accuracy (%)", lambda row: plus_minus(row[0]["networks"]["test_accuracy"], 1, 100)),
        ("the paper's", lambda row: _paper(row[3], row[0], 1)),
    )


def _classes(cells: Mapping[str, Results], title: str, of: str) -> dict[str, Any]:
    digits, factor, published = (4, 1.0, 3) if of == "last_train_loss" else (2, 100.0, 1)
    rows = [(cell, *each) for cell in cells.values() for each in cell["classes"].items()]

    def of_paper(numbers: Mapping[Any, Any]) -> Callable[[Any], str]:
        return lambda row: _paper(numbers.get((row[0]["model"], _published(row[1]))), row[0], published)

    later: Column = ("the later paper's", of_paper(paper.LATER.get(of, {})))
    return tabulate(
        title,
        "",
        rows,
        *CELL,
        ("curve class", lambda row: row[1]),
        ("epochs of the curve", lambda row: row[2]["epochs"]),
        ("ours", lambda row: plus_minus(row[2][of], digits, factor) if row[2][of] else "no curve was accepted"),
        ("the paper's", of_paper(paper.CURVES[of])),
        *([later] if any(map(later[1], rows)) else []),
    )


_CLASSES = {"tinysix": " (100 classes)"}
"""The number of classes of a parameter count of the paper, where it is not 10."""


def _published(name: str) -> str:
    """The name that the paper has for a class of curves, by whichever scheme of PAM."""
    return name.removeprefix("published ")


def _ensembles(cells: Mapping[str, Results]) -> dict[str, Any]:
    published = paper.ENSEMBLE_ACCURACY
    lone = [cell["data"] for cell in cells.values() if "independent" not in cell["ensembles"]]
    return tabulate(
        "Table 3: ensembles",
        "The mean of the networks' softmax outputs, on the test images."
        + (f" Three independent networks need two pairs: there is one of {', '.join(lone)}." if lone else ""),
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


def _robust(cells: Mapping[str, Results]) -> dict[str, Any]:
    """Robust accuracy of attacked networks and curves, as in the paper's later version."""
    return tabulate(
        "Robust accuracy along the curve",
        "On test images attacked against the network at every t; the curves are fitted on attacked images.",
        [(cell, *each) for cell in cells.values() for each in cell["classes"].items() if "robust_mean" in each[1]],
        *CELL,
        ("curve class", lambda row: row[1]),
        ("mean (%)", lambda row: plus_minus(row[2]["robust_mean"], 2, 100)),
        ("lowest (%)", lambda row: plus_minus(row[2]["robust_min"], 2, 100)),
        ("mean of unattacked images (%)", lambda row: plus_minus(row[2]["test_accuracy_mean"], 2, 100)),
    )


def _shapes(cells: Mapping[str, Results]) -> dict[str, Any]:
    """Section 4.1.1 and Figures 2, 5 and 11, as numbers."""
    return tabulate(
        "Shapes of the curves, and how fast they are found",
        "Energy of the test loss in modes of wavenumber 3 and above (Figure 11); t of the lowest test accuracy (Figure "
        "2: near 0.8 on unaligned curves); the first epoch in which the train loss is that of the unaligned curve over "
        "the last tenth of its epochs (Figure 5: 100 epochs less).",
        [(cell, *each) for cell in cells.values() for each in cell["classes"].items()],
        *CELL,
        ("curve class", lambda row: row[1]),
        ("high modes (nats^2)", lambda row: plus_minus(row[2]["high_modes"], 6)),
        ("t of the lowest accuracy", lambda row: plus_minus(row[2]["lowest_at"], 2)),
        ("epoch at the unaligned plateau", lambda row: _epoch(row[2])),
    )


def _epoch(values: Mapping[str, Any]) -> str:
    reached = values.get("epochs_to_plateau")
    return "" if reached is None else f"{plus_minus(reached, 1)} of {values['epochs']}"


def _pam(cells: Mapping[str, Results]) -> dict[str, Any]:
    """The first permutation half-step of PAM's curves, and where they end."""

    def mean(title: str, name: str, at: int = 0) -> Column:
        return title, lambda row: f"{fmean(pair[at] for pair in row[2][name]):.4f}"

    return tabulate(
        "PAM from either start",
        "Q + R, mean over pairs: at the start; in the first permutation half-step at the doubly stochastic matrices, "
        "at the permutations nearest to them and at the proposed ones; after it, and at the end. The units that it "
        "would move, mean over pairs, and the number of pairs for which they were moved.",
        [(cell, *each) for cell in cells.values() for each in cell["pam"].items()],
        *CELL,
        ("curve class", lambda row: row[1]),
        mean("Q + R at the start", "objective"),
        *(mean(name, name) for name in ("relaxed", "rounded", "proposed")),
        ("units", lambda row: f"{fmean(pair[0] for pair in row[2]['moved']):.1f}"),
        ("taken", lambda row: f"{sum(pair[0] for pair in row[2]['accepted'])} of {len(row[2]['accepted'])}"),
        mean("after P 1", "objective", 1),
        mean("at the end", "objective", -1),
    )


def _exchanges(cells: Mapping[str, Results]) -> dict[str, Any]:
    return tabulate(
        "Exchanges of two units",
        "How many of them lower Q + R, pair by pair: none if the permutation is locally optimal (section 4.1.2).",
        [(cell, *each) for cell in cells.values() for each in cell["exchanges"].items()],
        *CELL,
        ("permutation", lambda row: "matched" if row[1] == "aligned" else "identity"),
        ("exchanges", lambda row: f"{row[2]['number']:,}"),
        *(column for of in ("line", "curve") for column in _tried(of)),
    )


def _tried(of: str) -> tuple[Column, ...]:
    """The columns of exchanges on the lines or the curves."""

    def mean(row: Any, name: str) -> str:
        return f"{fmean(row[2][of][name]):.4f}"

    return (
        (f"better, {of}", lambda row: " ".join(map(str, row[2][of]["better"]))),
        (f"Q + R, {of}", lambda row: mean(row, "objective")),
        (f"the least, {of}", lambda row: mean(row, "least")),
    )


def _seeds(cells: Mapping[str, Results]) -> dict[str, Any]:
    return tabulate(
        "Two seeds of curve finding",
        "Midpoints of two curves between the same networks: mean correlation of units by index and matched; train loss "
        "of the midpoints, and halfway between them by index and matched.",
        [(cell, *each) for cell in cells.values() for each in cell["seeds"].items()],
        *CELL,
        ("curve class", lambda row: row[1]),
        ("correlation by index", lambda row: plus_minus(row[2]["by_index"], 3)),
        ("matched", lambda row: plus_minus(row[2]["matched"], 3)),
        ("midpoints (nats)", lambda row: plus_minus(row[2]["midpoints"])),
        ("between, by index", lambda row: plus_minus(row[2]["between"])),
        ("between, matched", lambda row: plus_minus(row[2]["between_matched"])),
    )
